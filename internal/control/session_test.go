package control

import (
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"

	"coordinator/internal/clustertest"
	"coordinator/internal/logs"
	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
)

// silentPeer takes part in nothing.
type silentPeer struct{}

func (silentPeer) Join(*Session)       {}
func (silentPeer) Handle(wire.Message) {}
func (silentPeer) Leave(error)         {}

func (silentPeer) MessageReceived(string)  {}
func (silentPeer) MessageSent(string)      {}
func (silentPeer) PeerDisconnected(string) {}

// connect returns the session of a streaming server that reads nothing by itself.
func connect(t *testing.T) *Session {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	sockets := NewSockets(Config{
		Max:      10,
		NewPeer:  func(Handshake) Peer { return silentPeer{} },
		Metrics:  silentPeer{},
		Log:      log,
		Refusals: logs.NewRefusals(log),
	})
	pipes := clustertest.NewPipes()
	server := &http.Server{Handler: http.HandlerFunc(sockets.ServeRTMP)}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(pipes) })
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return pipes.Connect() }}
	conn, _, err := dialer.Dial("ws://coordinator/ws/control/rtmp", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Close()
		serving.Wait()
		sockets.Close()
	})
	synctest.Wait()
	for s := range sockets.sessions {
		return s
	}
	t.Fatal("no session")
	return nil
}

// A byte more ends the session.
func TestQueueTakesExactly4MiB(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := connect(t)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.writing = true // as while the peer does not read
		s.queueLocked(outgoing{websocket.TextMessage, make([]byte, MaxQueuedBytes)})
		if s.ended != nil {
			t.Errorf("exactly the limit: %v", s.ended)
		}
		s.queueLocked(outgoing{websocket.TextMessage, make([]byte, 1)})
		if s.ended != errQueueFull {
			t.Errorf("a byte more: %v", s.ended)
		}
		s.writing = false
	})
}
