package main

// Streaming servers that are registered under the address of a proxy or a gateway, because they gave none and the
// connection came from there. Encoders would pull from it and find nothing, so the log says what to set. Some checks need
// only the handshake; those against the other peers run 10 s later.

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// peersSettle is how long after its handshake a server is compared with the others: one that reconnects before its old
// connection is found dead has itself as a neighbour for some seconds.
const peersSettle = 10 * time.Second

// serverAddress is where encoders would reach a streaming server.
type serverAddress struct {
	kind serverKind
	ip   string
	port int
}

// peerOrigin is what a handshake tells of where a peer is. It is not changed after originOf.
type peerOrigin struct {
	remote    string        // address and port that the connection came from
	server    serverAddress // zero: an encoder
	named     bool          // the server gave its address itself
	forwarded bool          // the request passed a proxy that says so
}

// originOf takes a zero serverInfo for an encoder.
func originOf(r *http.Request, info serverInfo) peerOrigin {
	o := peerOrigin{remote: r.RemoteAddr, forwarded: r.Header.Get("X-Forwarded-For") != ""}
	if info != (serverInfo{}) {
		o.server = serverAddress{info.kind, info.ip, info.port}
		o.named = r.Header.Get("x-external-ip") != ""
	}
	return o
}

// distant tells whether the peer connected from another machine.
func (o peerOrigin) distant() bool {
	host, _, _ := net.SplitHostPort(o.remote)
	addr, err := netip.ParseAddr(host)
	return err == nil && !addr.IsLoopback()
}

func (a serverAddress) isLoopback() bool {
	addr, err := netip.ParseAddr(a.ip)
	return err == nil && addr.IsLoopback()
}

// neighbours counts the connected peers by what tells whether an address can be right.
type neighbours struct {
	servers map[serverAddress]int
	distant int
}

func (n *neighbours) count(o peerOrigin, change int) {
	if o.distant() {
		n.distant += change
	}
	if o.server == (serverAddress{}) {
		return
	}
	n.servers[o.server] += change
	if n.servers[o.server] == 0 {
		delete(n.servers, o.server)
	}
}

// checkAddress warns if a peer is a streaming server under an address that can't be its own, now or a little later,
// unless stopped by then.
func (cs *controlSockets) checkAddress(o peerOrigin) (stop func()) {
	switch {
	case o.server == (serverAddress{}) || o.named:
		return func() {}
	case o.forwarded:
		cs.warnAddress(o, "the connection came through a proxy (X-Forwarded-For), and this is the proxy's address")
		return func() {}
	}
	later := time.AfterFunc(peersSettle, func() {
		if reason := cs.wrongAddress(o.server); reason != "" {
			cs.warnAddress(o, reason)
		}
	})
	return func() { later.Stop() }
}

func (cs *controlSockets) wrongAddress(a serverAddress) string {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case cs.neighbours.servers[a] > 1:
		return "another streaming server is connected under the same address and port"
	case a.isLoopback() && cs.neighbours.distant > 0:
		return "a loopback address, and other peers are on other machines"
	}
	return ""
}

func (cs *controlSockets) warnAddress(o peerOrigin, reason string) {
	cs.refusals.Say(slog.LevelWarn, o.remote,
		"streaming server sent no x-external-ip; encoders will use its connection's source address: set EXTERNAL_IP on the server",
		reason, slog.String("type", string(o.server.kind)), slog.String("ip", o.server.ip), slog.Int("port", o.server.port))
}
