package link

// What proves to each side who the other one is.

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"coordinator/internal/secret"
	"coordinator/internal/token"
)

const (
	// Path is where a coordinator takes links.
	Path = "/ws/gateway"

	// TokenHeader has the gateway's token in the request for a link.
	TokenHeader = "X-Gateway-Auth-Token"

	// A gateway that asks who leads shows a nonce, in base64url without padding; a coordinator that leads answers with its proof.
	LeaderPath        = "/leader"
	LeaderNonceHeader = "X-Leader-Nonce"
	LeaderProofHeader = "X-Leader-Proof"

	subject   = "gateway"
	tokenGood = time.Minute
)

// Token is what a gateway shows.
func Token(key secret.Secret, now time.Time) (string, error) {
	return token.Sign(key, subject, now, tokenGood)
}

// TokenFault says what is wrong with what a gateway has shown, "" for nothing.
func TokenFault(shown string, key secret.Secret) string {
	return token.Fault(shown, key, "GATEWAY_SECRET", subject)
}

// MAC proves that its maker has the key: HMAC-SHA256 (RFC 2104) of the nonce of HELLO. A side without a key has none: nil.
func MAC(key secret.Secret, nonce []byte) []byte {
	if key == "" {
		return nil
	}
	h := hmac.New(sha256.New, []byte(key.Reveal()))
	h.Write(nonce)
	return h.Sum(nil)
}

// Proves tells whether mac is that of the key, in constant time.
func Proves(mac []byte, key secret.Secret, nonce []byte) bool {
	return hmac.Equal(mac, MAC(key, nonce))
}

// leads is in front of what LeaderProof signs. It is longer than any nonce of HELLO, so that neither proof is good for the other.
const leads = "This coordinator leads, in the epoch and with the store that follow: "

// LeaderProof proves to a gateway that has chosen the nonce what a coordinator says of itself: HMAC-SHA256 in base64url. "" if there
// is no key or the nonce is none.
func LeaderProof(key secret.Secret, nonce string, said Leader) string {
	raw, err := base64.RawURLEncoding.DecodeString(nonce)
	if err != nil || len(raw) < 8 || len(raw) > 32 || key == "" {
		return ""
	}
	h := hmac.New(sha256.New, []byte(key.Reveal()))
	h.Write([]byte(leads))
	h.Write(binary.BigEndian.AppendUint64(nil, said.Epoch))
	h.Write([]byte{byte(len(raw))})
	h.Write(raw)
	h.Write([]byte(said.Store))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// ProvesLead tells whether a proof is that of the key, in constant time.
func ProvesLead(proof string, key secret.Secret, nonce string, said Leader) bool {
	wanted := LeaderProof(key, nonce, said)
	return wanted != "" && hmac.Equal([]byte(proof), []byte(wanted))
}

// Leader is the answer to who asks LeaderPath, in JSON. Epochs of different stores have nothing to do with each other.
type Leader struct {
	Leader bool   `json:"leader"`
	Epoch  uint64 `json:"epoch"`
	Store  string `json:"store"` // as in WELCOME; "": no gateway may link
}
