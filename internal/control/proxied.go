package control

// Streaming servers that are registered under the address of a proxy or a gateway, because they gave none and the
// connection came from there. Encoders would pull from it and find nothing, so the log says what to set. Some checks need
// only the handshake; those against the other peers run 10 s later.

import (
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// peersSettle is how long after its handshake a server is compared with the others: one that reconnects before its old
// connection is found dead has itself as a neighbour for some seconds.
const peersSettle = 10 * time.Second

// serverAddress is where encoders would reach a streaming server.
type serverAddress struct {
	kind Kind
	ip   string
	port int
}

// server returns the address of a streaming server, the zero one for an encoder.
func (h Handshake) server() serverAddress {
	if h.Kind == HLS {
		return serverAddress{}
	}
	return serverAddress{h.Kind, h.IP, h.Port}
}

// distant tells whether the peer connected from another machine.
func (h Handshake) distant() bool {
	host, _, _ := net.SplitHostPort(h.Remote)
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

func (n *neighbours) count(h Handshake, change int) {
	if h.distant() {
		n.distant += change
	}
	if h.server() == (serverAddress{}) {
		return
	}
	n.servers[h.server()] += change
	if n.servers[h.server()] == 0 {
		delete(n.servers, h.server())
	}
}

// checkAddress warns if a peer is a streaming server under an address that can't be its own, now or a little later,
// unless stopped by then.
func (cs *Sockets) checkAddress(h Handshake) (stop func()) {
	switch {
	case h.server() == (serverAddress{}) || h.named:
		return func() {}
	case h.forwarded:
		cs.warnAddress(h, "the connection came through a proxy (X-Forwarded-For), and this is the proxy's address")
		return func() {}
	}
	later := time.AfterFunc(peersSettle, func() {
		if reason := cs.wrongAddress(h.server()); reason != "" {
			cs.warnAddress(h, reason)
		}
	})
	return func() { later.Stop() }
}

func (cs *Sockets) wrongAddress(a serverAddress) string {
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

func (cs *Sockets) warnAddress(h Handshake, reason string) {
	cs.Refusals.Say(slog.LevelWarn, h.Remote,
		"streaming server sent no x-external-ip; encoders will use its connection's source address: set EXTERNAL_IP on the server",
		reason, slog.String("type", string(h.Kind)), slog.String("ip", h.IP), slog.Int("port", h.Port))
}
