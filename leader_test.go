package main

// Who leads, as a coordinator with DATA_DIR says it, and a gateway that has another URL beside that.

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"coordinator/internal/link"
)

// whoLeads asks with a nonce.
func whoLeads(t *testing.T, address, nonce string) (said link.Leader, proof string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+link.LeaderPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(link.LeaderNonceHeader, nonce)
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&said); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %v", answer.StatusCode, err)
	}
	return said, answer.Header.Get(link.LeaderProofHeader)
}

func TestCoordinatorProvesThatItLeads(t *testing.T) {
	t.Parallel()
	nonce := base64.RawURLEncoding.EncodeToString([]byte("a nonce of a gateway"))
	d := startDaemon(t, "GATEWAY_SECRET="+long)
	said, proof := whoLeads(t, d.Addr, nonce)
	if !said.Leader || said.Epoch != 0 || said.Store == "" || !link.ProvesLead(proof, long, nonce, said) {
		t.Errorf("%+v with proof %q", said, proof)
	}
	for _, bad := range []string{"", "c2hvcnQ", strings.Repeat("A", 44)} {
		if _, proof := whoLeads(t, d.Addr, bad); proof != "" {
			t.Errorf("nonce %q is signed", bad)
		}
	}
	without := startDaemon(t)
	if said, proof := whoLeads(t, without.Addr, nonce); !said.Leader || said.Store != "" || proof != "" {
		t.Errorf("without GATEWAY_SECRET: %+v with proof %q", said, proof)
	}
}

func TestGatewayFindsTheCoordinatorThatLeads(t *testing.T) {
	t.Parallel()
	standby := httptest.NewServer(http.HandlerFunc(standsBy))
	defer standby.Close()
	d := startDaemon(t, "GATEWAY_SECRET="+long)
	g := startDaemon(t, "COORDINATOR_URL="+standby.URL+",http://"+d.Addr, "GATEWAY_SECRET="+long)
	g.Logs.Await(t, "linked to the coordinator", d.Addr)
	if status, body := g.Call("GET", "/commands/gateways"); status != http.StatusOK {
		t.Errorf("commands are answered with %d %s", status, body)
	}
	if n := g.Logs.Count("no link to the coordinator"); n > 0 {
		t.Errorf("one that stands by is no trouble:\n%s", g.Logs)
	}
	d.Call("GET", "/leader")
	d.Logs.Await(t, "path=/leader")
	if n := d.Logs.Count("path=/leader"); n != 1 {
		t.Errorf("%d questions who leads are logged, and only one was not a gateway's", n)
	}
}

// Behind a balancer whoever was sent to a coordinator that stands by comes to another one with the next connection.
func TestCoordinatorThatStandsByKeepsNoConnection(t *testing.T) {
	t.Parallel()
	standby := httptest.NewServer(http.HandlerFunc(standsBy))
	defer standby.Close()
	reply, err := http.Get(standby.URL)
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if reply.StatusCode != http.StatusServiceUnavailable || !reply.Close {
		t.Errorf("status %d, closed: %v", reply.StatusCode, reply.Close)
	}
}
