package link

import (
	"encoding/base64"
	"strings"
	"testing"

	"coordinator/internal/secret"
)

func TestProofOfALead(t *testing.T) {
	t.Parallel()
	const key = secret.Secret("a key of gateways, as long as needed")
	nonce := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("n", 32)))
	other := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("o", 32)))
	said := Leader{Leader: true, Epoch: 7, Store: "store"}
	proof := LeaderProof(key, nonce, said)
	if !ProvesLead(proof, key, nonce, said) {
		t.Fatal("the right proof is refused")
	}
	for what, proves := range map[string]bool{
		"another key":   ProvesLead(proof, "another key", nonce, said),
		"another nonce": ProvesLead(proof, key, other, said),
		"another epoch": ProvesLead(proof, key, nonce, Leader{Leader: true, Epoch: 8, Store: "store"}),
		"another store": ProvesLead(proof, key, nonce, Leader{Leader: true, Epoch: 7, Store: "stores"}),
		"no proof":      ProvesLead("", key, nonce, said),
		"no key":        ProvesLead("", "", nonce, said),
	} {
		if proves {
			t.Errorf("%s: it proves", what)
		}
	}
	// What moves from one field to the next is another proof.
	long := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("n", 31)))
	if LeaderProof(key, long, Leader{Epoch: 7, Store: "nstore"}) == proof {
		t.Error("nonce and store run into each other")
	}
	for n := range 40 {
		of := base64.RawURLEncoding.EncodeToString(make([]byte, n))
		if got := LeaderProof(key, of, said) != ""; got != (n >= 8 && n <= 32) {
			t.Errorf("a nonce of %d bytes: proof %v", n, got)
		}
	}
	for _, nonce := range []string{"", "no base64!", nonce + "="} {
		if LeaderProof(key, nonce, said) != "" {
			t.Errorf("a proof for %q", nonce)
		}
	}
}

// Both proofs have the same key: none of what one is asked to sign may be what the other one signs.
func TestProofsOfHelloAndLeadAreNotGoodForEachOther(t *testing.T) {
	t.Parallel()
	if shortest := len(leads) + 8; shortest <= 32 {
		t.Errorf("what proves a lead may be a nonce of HELLO: %d bytes", shortest)
	}
	const key = secret.Secret("a key of gateways, as long as needed")
	raw := []byte("nonce of HELLO")
	nonce := base64.RawURLEncoding.EncodeToString(raw)
	if ProvesLead(base64.RawURLEncoding.EncodeToString(MAC(key, raw)), key, nonce, Leader{Leader: true}) {
		t.Error("a proof of HELLO proves a lead")
	}
	proof, _ := base64.RawURLEncoding.DecodeString(LeaderProof(key, nonce, Leader{Leader: true}))
	if Proves(proof, key, raw) {
		t.Error("a proof of a lead proves WELCOME")
	}
}
