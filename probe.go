package main

// The probe of a session that may be dead: a WebSocket ping (RFC 6455, 5.5.2), another one after half of the time, and any
// byte that comes from the peer is a sign of life.

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// probeLimit is how long a peer has for a sign of life.
const probeLimit = 5 * time.Second

// heardConn is a connection that remembers whether something was read from it since it was last asked.
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

// listeningWriter gives the WebSocket upgrade a connection that remembers.
type listeningWriter struct {
	http.ResponseWriter
	conn *heardConn
}

func (w listeningWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.conn.Conn = conn
	return w.conn, buffered, err
}

// probe is one that has not been answered. session.mu guards it.
type probe struct {
	answered func()
	timer    *time.Timer
}

// probe asks the peer for a sign of life. answered is called once, at the first one, by a goroutine that holds no lock;
// without one within probeLimit the session ends. It must not be called again before either. It never waits and may be
// called under the registry's lock.
func (s *session) probe(answered func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard.heard.Store(false)
	s.queueLocked(outgoing{kind: websocket.PingMessage})
	if s.ended != nil {
		return
	}
	s.probed = &probe{answered: answered, timer: time.AfterFunc(probeLimit/2, s.probeAgain)}
	s.probing.Store(true)
}

// probeAgain is called halfway through a probe, probeOver at its end.

func (s *session) probeAgain() {
	if s.heard.heard.Load() {
		s.noteLife()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.probed != nil {
		s.queueLocked(outgoing{kind: websocket.PingMessage})
		s.probed.timer = time.AfterFunc(probeLimit/2, s.probeOver)
	}
}

func (s *session) probeOver() {
	if s.heard.heard.Load() {
		s.noteLife()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.probed != nil {
		s.endLocked(errPeerDead, time.Now())
	}
}

// noteLife ends a probe, if there is one: the peer has shown a sign of life.
func (s *session) noteLife() {
	if !s.probing.Load() {
		return
	}
	if p := s.endProbe(); p != nil {
		p.answered()
	}
}

func (s *session) endProbe() *probe {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endProbeLocked()
}

func (s *session) endProbeLocked() *probe {
	p := s.probed
	if p != nil {
		p.timer.Stop()
		s.probed = nil
		s.probing.Store(false)
	}
	return p
}
