package control

// Probes a session that may be dead: a WebSocket ping (RFC 6455, 5.5.2), and another one halfway to the limit. Any byte from
// the peer is a sign of life.

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// ProbeLimit is how long a peer has for a sign of life.
const ProbeLimit = 5 * time.Second

// heardConn is a connection that remembers whether something was read since heard was last cleared.
type heardConn struct {
	net.Conn
	heard atomic.Bool
}

func (c *heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
	}
	return n, err
}

// hijackRecorder wraps the hijacked connection of a WebSocket upgrade in a heardConn.
type hijackRecorder struct {
	http.ResponseWriter
	conn *heardConn
}

func (w hijackRecorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.conn.Conn = conn
	return w.conn, buffered, err
}

// pendingProbe is a probe that has not ended. Session.mu guards it.
type pendingProbe struct {
	answered func()
	timer    *time.Timer
}

// Probe asks the peer for a sign of life. answered is called once, at the first one, by a goroutine that holds no lock;
// without one within ProbeLimit the session ends. A probe that is under way gives way to the next one, and its answered is not
// called. It never waits and may be called under the registry's lock.
func (s *Session) Probe(answered func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endProbeLocked()
	s.heard.heard.Store(false)
	s.queueLocked(outgoing{kind: websocket.PingMessage})
	if s.ended != nil {
		return
	}
	p := &pendingProbe{answered: answered}
	p.timer = time.AfterFunc(ProbeLimit/2, func() { s.lookAt(p, s.probeAgainLocked) })
	s.probed = p
	s.probing.Store(true)
}

// lookAt ends a probe if something was heard since it began, else it does what is due. A probe that is over is left alone:
// its timer may have been late.
func (s *Session) lookAt(p *pendingProbe, due func(*pendingProbe)) {
	if s.isHeard(p, due) {
		s.noteLife()
	}
}

func (s *Session) isHeard(p *pendingProbe, due func(*pendingProbe)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.probed != p {
		return false
	}
	heard := s.heard.heard.Load()
	if !heard {
		due(p)
	}
	return heard
}

// probeAgainLocked is due halfway through a probe, probeOverLocked at its end.

func (s *Session) probeAgainLocked(p *pendingProbe) {
	s.queueLocked(outgoing{kind: websocket.PingMessage})
	p.timer = time.AfterFunc(ProbeLimit/2, func() { s.lookAt(p, s.probeOverLocked) })
}

func (s *Session) probeOverLocked(*pendingProbe) { s.endLocked(errPeerDead, time.Now()) }

// noteLife ends a pending probe, if there is one: the peer is alive.
func (s *Session) noteLife() {
	if !s.probing.Load() {
		return
	}
	if p := s.endProbe(); p != nil {
		p.answered()
	}
}

func (s *Session) endProbe() *pendingProbe {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endProbeLocked()
}

func (s *Session) endProbeLocked() *pendingProbe {
	p := s.probed
	if p != nil {
		p.timer.Stop()
		s.probed = nil
		s.probing.Store(false)
	}
	return p
}
