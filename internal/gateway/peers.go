package gateway

// One peer's session: it stands between the control socket and the keeper.

import (
	"time"

	"coordinator/internal/control"
	"coordinator/internal/link"
	"coordinator/internal/wire"
)

// peer is the connection of a peer.
type peer struct {
	g *Gateway
	control.Handshake

	// set once by Join
	session *control.Session
	id      *identity // that it belongs to
	number  uint64
}

// NewPeer is what a peer that has connected becomes.
func (g *Gateway) NewPeer(h control.Handshake) control.Peer { return &peer{g: g, Handshake: h} }

// Join takes the session in.
func (p *peer) Join(s *control.Session) {
	p.g.Log.Info("peer connected", "type", p.Kind, "remote", p.Remote)
	attach := link.Attach{Kind: string(p.Kind), Remote: p.Remote, IP: p.IP, Port: uint32(p.Port), SSL: p.SSL, Since: time.Now().UnixNano()}
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	p.session, p.id = s, p.g.id
	var frames []link.Frame
	p.number, frames = p.id.keeper.open(attach)
	p.id.peers[p.number] = p
	p.id.open.Add(1)
	p.g.doLocked(frames, nil)
}

// Handle is never called: HandleText is.
func (p *peer) Handle(wire.Message) {}

// HandleText passes a message on. Heartbeats are between the peer and this gateway.
func (p *peer) HandleText(method string, text []byte) {
	if method == "HEARTBEAT" {
		return
	}
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	if p.id == p.g.id {
		p.g.doLocked(p.id.said(p.number, method, text, time.Now()))
	}
}

// alive is told by the session that was probed.
func (p *peer) alive() {
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	if p.id == p.g.id {
		p.g.doLocked(p.id.alive(p.number), nil)
	}
}

// Leave takes in the end of the socket.
func (p *peer) Leave(reason error) {
	p.g.Log.Info("peer disconnected", "type", p.Kind, "remote", p.Remote, "reason", reason.Error())
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	delete(p.id.peers, p.number)
	p.id.open.Done()
	if p.id == p.g.id {
		p.g.doLocked(p.id.closed(p.number, reason.Error(), time.Now()), nil)
	}
}
