package clustertest

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
)

// Peer is a streaming server or an encoder of a test: a connection, and what is awaited on it.
type Peer struct {
	*Connection
	t    testing.TB
	In   chan wire.Message // all but heartbeats; closed when the connection is gone
	Gone error             // why; readable once In is closed

	Heartbeats atomic.Int64
}

func Dial(t testing.TB, url string, dialer *websocket.Dialer, header ...string) (*Peer, *http.Response, error) {
	if dialer == nil {
		dialer = &websocket.Dialer{HandshakeTimeout: Patience}
	}
	c, res, err := Connect(context.Background(), url, dialer, header...)
	if err != nil {
		return nil, res, err
	}
	p := newPeer(t, c)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Read()
	}()
	t.Cleanup(func() {
		c.Conn.Close()
		for range p.In { // a reader that waits for room
		}
		<-ended
	})
	return p, res, nil
}

// NewPeer is a peer on a connection. Its owner calls Read.
func NewPeer(t testing.TB, conn *websocket.Conn) *Peer {
	return newPeer(t, &Connection{Conn: conn})
}

func newPeer(t testing.TB, c *Connection) *Peer {
	return &Peer{Connection: c, t: t, In: make(chan wire.Message, 1024)}
}

// For makes t the test that ends when the peer fails.
func (p *Peer) For(t testing.TB) { p.t = t }

// Read takes what comes until the connection ends.
func (p *Peer) Read() {
	defer close(p.In)
	p.Gone = p.Each(func(message []byte) {
		m := wire.ParseStrict(message)
		if m.Method == "HEARTBEAT" {
			p.Heartbeats.Add(1)
		} else {
			p.In <- m
		}
	})
}

// Send writes a message as today's peers do. args is name, value, name, value ...
func (p *Peer) Send(method string, args ...string) {
	p.t.Helper()
	if err := p.Say(method, args...); err != nil {
		p.t.Fatalf("send %s: %v", method, err)
	}
}

// Expect takes the next message, which must have the method and the arguments (name, value ...).
func (p *Peer) Expect(method string, args ...string) wire.Message {
	p.t.Helper()
	select {
	case m, open := <-p.In:
		if !open {
			p.t.Fatalf("connection gone while waiting for %s: %v", method, p.Gone)
		}
		if m.Method != method {
			p.t.Fatalf("got %s %v, want %s", m.Method, m.Args, method)
		}
		for i := 0; i < len(args); i += 2 {
			if got := m.Get(args[i]); got != args[i+1] {
				p.t.Fatalf("%s: %s is %q, want %q", method, args[i], got, args[i+1])
			}
		}
		return m
	case <-time.After(Patience):
		p.t.Fatalf("no %s", method)
	}
	panic("not reached")
}

// AwaitGone waits for the end of the connection and returns why it ended.
func (p *Peer) AwaitGone() error {
	p.t.Helper()
	timeout := time.After(Patience)
	for {
		select {
		case _, open := <-p.In:
			if !open {
				return p.Gone
			}
		case <-timeout:
			p.t.Fatal("connection is not closed")
		}
	}
}

// Quiet proves that nothing was said to a streaming server up to now: its own denial is the next it hears.
func (p *Peer) Quiet() {
	p.t.Helper()
	p.Request("quiet?", "!")
	p.ExpectDenied("quiet?")
}

// Request asks to publish; the request's ID is "r-" and the channel.
func (p *Peer) Request(channel, key string) {
	p.t.Helper()
	p.Send("PUBLISH-REQUEST", "Request-ID", "r-"+channel, "Stream-Channel", channel, "Stream-Key", key, "User-IP", "10.0.0.1")
}

// ExpectDenied takes the denial of what request asked.
func (p *Peer) ExpectDenied(channel string) {
	p.t.Helper()
	p.Expect("PUBLISH-DENY", "Request-ID", "r-"+channel, "Stream-Channel", channel)
}

// End is the publisher's end of a stream.
func (p *Peer) End(channel, id string) {
	p.t.Helper()
	p.Send("PUBLISH-END", "Stream-Channel", channel, "Stream-ID", id)
}

// Publish makes a channel live and returns its stream ID; the encoder has taken its ENCODE-START.
func Publish(server, encoder *Peer, channel string) string {
	server.t.Helper()
	server.Request(channel, "key")
	id := server.Expect("PUBLISH-ACCEPT", "Request-ID", "r-"+channel, "Stream-Channel", channel).Get("Stream-ID")
	encoder.Expect("ENCODE-START", "Stream-Channel", channel, "Stream-ID", id)
	return id
}

func (p *Peer) Available(channel, id, kind, resolution, index string) {
	p.t.Helper()
	p.Send("STREAM-AVAILABLE", "Stream-Channel", channel, "Stream-ID", id, "Stream-Type", kind, "Resolution", resolution, "Index-file", index)
}

func (p *Peer) Closed(channel, id string) {
	p.t.Helper()
	p.Send("STREAM-CLOSED", "Stream-Channel", channel, "Stream-ID", id)
}

// ExpectEventually skips what comes before a message.
func (p *Peer) ExpectEventually(method string) wire.Message {
	p.t.Helper()
	timeout := time.After(Patience)
	for {
		select {
		case m, open := <-p.In:
			if !open {
				p.t.Fatalf("connection gone while waiting for %s: %v", method, p.Gone)
			}
			if m.Method == method {
				return m
			}
		case <-timeout:
			p.t.Fatalf("no %s", method)
		}
	}
}

// Attend is an encoder that does as it is told: it announces what it is given and closes what it is to stop.
func (p *Peer) Attend() {
	for m := range p.In {
		channel, id := m.Get("Stream-Channel"), m.Get("Stream-ID")
		switch m.Method {
		case "ENCODE-START":
			p.Tell("STREAM-AVAILABLE", "Stream-Channel", channel, "Stream-ID", id, "Stream-Type", "HLS-LIVE", "Resolution", "1x1", "Index-file", "live.m3u8")
		case "ENCODE-STOP":
			p.Tell("STREAM-CLOSED", "Stream-Channel", channel, "Stream-ID", id)
		}
	}
}

// Tell is Send for a peer that may be gone by then, and that writes a blank after the colon, as some do.
func (p *Peer) Tell(method string, args ...string) { _ = p.say(": ", method, args) }

// Handshake is what an upgrade to a WebSocket of a version says (RFC 6455, 4.1).
func Handshake(version string) []string {
	return []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", version, "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}
}
