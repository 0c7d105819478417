package main

// Control connections in time. The HTTP server and its peers are real, the network is a pipe and the clock is fake:
// a minute of silence takes no time, and what must happen within 10 s is measured exactly. A pipe has no buffer, so
// a peer that does not read holds up the very next write.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/control"
	"coordinator/internal/logs"

	"github.com/gorilla/websocket"
)

// fakeNet is the daemon inside a synctest bubble, all but its listeners.
type fakeNet struct {
	clustertest.Pipes
	t    *testing.T
	logs *clustertest.Log
	*daemon
	start    time.Time
	lastPort int
}

func newFakeNet(t *testing.T, variables ...string) *fakeNet {
	t.Helper()
	env := map[string]string{"DATA_DIR": t.TempDir()}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	cfg, err := loadConfig(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	n := &fakeNet{Pipes: clustertest.NewPipes(), t: t, logs: clustertest.NewLog(), start: time.Now()}
	log := logs.New(n.logs, cfg.LogJSON, cfg.LogDebug)
	if n.daemon, err = newDaemon(cfg, log); err != nil {
		t.Fatal(err)
	}
	n.serve(n, nil)
	t.Cleanup(func() {
		if err := n.stop(0); err != nil {
			t.Error(err)
		}
	})
	return n
}

// dial connects a peer that reads nothing by itself, a streaming server at a port of its own.
func (n *fakeNet) dial(endpoint string) *websocket.Conn {
	n.t.Helper()
	return n.dialThrough(n.Connect, endpoint)
}

// dialThrough is dial over a connection that the caller makes.
func (n *fakeNet) dialThrough(connect func() (net.Conn, error), endpoint string) *websocket.Conn {
	n.t.Helper()
	n.lastPort++
	conn, err := openControl(connect, endpoint, 1000+n.lastPort)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// openControl connects as a peer that streams at a port of 10.0.0.1.
func openControl(connect func() (net.Conn, error), endpoint string, port int) (*websocket.Conn, error) {
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return connect() }}
	conn, _, err := dialer.Dial("ws://coordinator/ws/control/"+endpoint, http.Header{"x-external-ip": {"10.0.0.1"}, "x-custom-port": {fmt.Sprint(port)}})
	return conn, err
}

// dialPeer connects a peer that reads everything.
func (n *fakeNet) dialPeer(endpoint string) *clustertest.Peer {
	n.t.Helper()
	return n.reading(n.dial(endpoint))
}

func (n *fakeNet) reading(conn *websocket.Conn) *clustertest.Peer {
	p := clustertest.NewPeer(n.t, conn)
	go p.Read()
	return p
}

// register connects an encoder without a limit, which the registry knows when it returns.
func (n *fakeNet) register() *clustertest.Peer {
	p := n.dialPeer("hls")
	p.Send("REGISTER", "Capacity", "-1")
	synctest.Wait()
	return p
}

func (n *fakeNet) wantNow(what string, want time.Duration) {
	n.t.Helper()
	if got := time.Since(n.start); got != want {
		n.t.Errorf("%s after %v, want %v", what, got, want)
	}
}

// wait lets time pass, and all that it sets in motion come to rest.
func (n *fakeNet) wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (n *fakeNet) wantConnected(servers, encoders, streams int) {
	n.t.Helper()
	synctest.Wait()
	r := wholeReport(n.coordinator.registry, time.Now())
	if len(r.StreamingServers) != servers || len(r.Encoders) != encoders || len(r.ActiveStreams) != streams {
		n.t.Errorf("after %v: %d servers, %d encoders and %d streams, want %d, %d and %d", time.Since(n.start),
			len(r.StreamingServers), len(r.Encoders), len(r.ActiveStreams), servers, encoders, streams)
	}
}

func TestHeartbeatIsSentEvery20Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		conn := n.dial("rtmp")
		for i := range 30 { // ten minutes
			_, data, err := conn.ReadMessage()
			if err != nil || string(data) != "HEARTBEAT\n" {
				t.Fatalf("got %q %v", data, err)
			}
			n.wantNow("heartbeat", time.Duration(i+1)*20*time.Second)
			if err := conn.WriteMessage(websocket.TextMessage, []byte("HEARTBEAT")); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestPeerIsDroppedAfter60SecondsOfSilenceAndItsStreamsEnd(t *testing.T) {
	t.Parallel()
	for name, lastWords := range map[string]func(*clustertest.Peer) error{
		"nothing at all": func(*clustertest.Peer) error { return nil },
		"half a message": func(p *clustertest.Peer) error {
			_, err := p.Conn.NetConn().Write([]byte{0x81, 0xfe, 0x01, 0x00, 0, 0, 0, 0, 'P', 'U'})
			return err
		},
		"pings, which are no messages": func(p *clustertest.Peer) error {
			for range 2 {
				if err := p.Conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second)); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newFakeNet(t)
				server, encoder := n.dialPeer("rtmp"), n.register()
				id := clustertest.Publish(server, encoder, "show")
				for range 5 {
					n.wait(50 * time.Second)
					encoder.Send("HEARTBEAT")
					server.Send("HEARTBEAT")
				}
				n.wait(10 * time.Second)
				if err := lastWords(server); err != nil {
					t.Fatal(err)
				}
				n.wait(40 * time.Second)
				encoder.Send("HEARTBEAT")
				n.wait(10*time.Second - 1)
				n.wantConnected(1, 1, 1)
				n.wait(1)
				n.wantConnected(0, 1, 0)
				n.logs.Await(t, "streaming server disconnected", "silent for 60 s")
				encoder.Expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", id)
				n.wantNow("ENCODE-STOP", 310*time.Second)
				server.AwaitGone()
			})
		})
	}
}

func TestSilentEncoderIsDroppedAndItsPublishersKilled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		server, encoder := n.dialPeer("wss"), n.register()
		id := clustertest.Publish(server, encoder, "show")
		n.wait(30 * time.Second)
		server.Send("HEARTBEAT")
		n.wait(30 * time.Second)
		n.wantConnected(1, 0, 0)
		server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", id)
		encoder.AwaitGone()
	})
}

func TestPeerThatDoesNotReadIsCutWithin10Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		deaf, server, encoder := n.dial("rtmp"), n.dialPeer("rtmp"), n.register()
		n.wait(5 * time.Second)
		deny := []byte("PUBLISH-REQUEST\nRequest-ID:1\n")
		if err := deaf.WriteMessage(websocket.TextMessage, deny); err != nil {
			t.Fatal(err)
		}
		n.wait(8 * time.Second)
		if err := deaf.WriteMessage(websocket.TextMessage, deny); err != nil { // that it speaks is no excuse
			t.Fatal(err)
		}
		clustertest.Publish(server, encoder, "meanwhile")
		n.wantConnected(2, 1, 1)
		n.wait(2 * time.Second)
		n.wantConnected(1, 1, 1)
		n.logs.Await(t, "streaming server disconnected", "the peer does not read")
		clustertest.Publish(server, encoder, "afterwards")
	})
}

func TestHeartbeatThatIsNotReadCutsAPeer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.dial("rtmp")
		n.wait(20 * time.Second)
		n.wantConnected(1, 0, 0)
		n.wait(10 * time.Second)
		n.wantConnected(0, 0, 0)
	})
}

func TestPeerWithAFullQueueIsCutAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		deaf := n.dial("rtmp")
		request := []byte("PUBLISH-REQUEST\nRequest-ID:" + strings.Repeat("x", 60000))
		var err error
		sent := 0
		for ; err == nil && sent <= 2*control.MaxQueuedBytes/60000+3; sent++ { // a full queue behind what the writer has taken
			err = deaf.WriteMessage(websocket.TextMessage, request)
		}
		if err == nil || sent < control.MaxQueuedBytes/(60000+100) {
			t.Errorf("after %d messages: %v", sent, err)
		}
		n.wantConnected(0, 0, 0)
		n.wantNow("the cut", 0)
		n.logs.Await(t, "streaming server disconnected", "the peer reads too slowly")
	})
}

func TestGoodbyeReachesAPeerBehindWhatIsQueuedForIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		conn := n.dial("rtmp")
		for range 3 {
			if err := conn.WriteMessage(websocket.TextMessage, []byte("PUBLISH-REQUEST\nRequest-ID:1\n")); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		stopped := n.stopControl()
		for range 3 {
			if _, data, err := conn.ReadMessage(); err != nil || !strings.HasPrefix(string(data), "PUBLISH-DENY\n") {
				t.Fatalf("got %q %v", data, err)
			}
		}
		if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Errorf("closed with %v, want status 1001", err)
		}
		<-stopped
		n.wantNow("the end", 0)
	})
}

func TestGoodbyeToADeafPeerTakes2Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.dial("rtmp")
		busy := n.dial("wss")
		if err := busy.WriteMessage(websocket.TextMessage, []byte("PUBLISH-REQUEST\n")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		<-n.stopControl()
		n.wantNow("the end", 2*time.Second)
		n.wantConnected(0, 0, 0)
	})
}

func TestPeerThatTalksOnIsGoneWithin2SecondsOfTheGoodbye(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		conn := n.dial("rtmp")
		var peer sync.WaitGroup
		peer.Go(func() {
			for conn.WriteMessage(websocket.TextMessage, []byte("HEARTBEAT")) == nil {
				<-time.After(100 * time.Millisecond)
			}
		})
		peer.Go(func() { io.Copy(io.Discard, conn.NetConn()) }) // takes the close frame and does not answer it
		synctest.Wait()
		<-n.stopControl()
		n.wantNow("the end", 2*time.Second)
		peer.Wait()
	})
}

func TestConnectionThatComesDuringTheGoodbyeIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.control.Close()
		if _, err := openControl(n.Connect, "rtmp", 1935); !errors.Is(err, websocket.ErrBadHandshake) {
			t.Errorf("dial: %v", err)
		}
		n.logs.Await(t, "control connection refused", "this coordinator or gateway is stopping")
		n.wantConnected(0, 0, 0)
	})
}

func TestConnectionThatIsUpgradedDuringTheGoodbyeIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		conn, err := n.Connect()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, upgradeRequest) // and the answer is not read
		synctest.Wait()
		stopped := n.stopControl()
		synctest.Wait()
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 101") {
			t.Errorf("%q %v", answer, err)
		}
		<-stopped
		n.wantNow("the end", 0)
		n.wantConnected(0, 0, 0)
	})
}

const upgradeRequest = "GET /ws/control/hls HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

func (n *fakeNet) stopControl() (stopped chan struct{}) {
	stopped = make(chan struct{})
	go func() {
		defer close(stopped)
		n.control.Close()
	}()
	return stopped
}

func TestPublishRequestWithoutAnAnswerIsDeniedWithin16Seconds(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"connection refused": func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") },
		"no answer": func(ctx context.Context, _, _ string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			context.AfterFunc(ctx, func() { theirs.Close() })
			return ours, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newFakeNet(t, "KEY_VERIFICATION_URL=http://application/verify")
				n.verifier.client.Transport.DialContext = dial
				server := n.dialPeer("rtmp")
				n.register()
				server.Request("show", "key")
				server.ExpectDenied("show")
				if took := time.Since(n.start); took < 10*time.Second || took > 16*time.Second {
					t.Errorf("denied after %v", took)
				}
				n.wantConnected(1, 1, 0)
			})
		})
	}
}

// A half-open connection: the peer goes on, as it believes, but nothing of it arrives any more, not even its end.
func TestHalfOpenPeerIsDroppedAfter60SecondsAndItsStreamsEnd(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"rtmp", "hls"} {
		t.Run(lost, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n, proxy := newFakeNet(t), clustertest.NewFaultProxy(t)
				proxied := n.reading(n.dialThrough(proxy.Wrap(n.Connect), lost))
				server, encoder := proxied, proxied
				if lost == "rtmp" {
					encoder = n.register()
				} else {
					server = n.dialPeer("wss")
					proxied.Send("REGISTER", "Capacity", "-1")
					synctest.Wait()
				}
				id := clustertest.Publish(server, encoder, "show")
				n.wait(15 * time.Second)
				server.Send("HEARTBEAT")
				encoder.Send("HEARTBEAT")
				synctest.Wait()

				proxy.Set(clustertest.Flow{Blackhole: true}, clustertest.Flow{Blackhole: true})
				for range 5 {
					n.wait(10 * time.Second)
					server.Send("HEARTBEAT")
					encoder.Send("HEARTBEAT")
				}
				proxied.Conn.Close()
				n.wait(10*time.Second - 1)
				n.wantConnected(1, 1, 1)
				n.wait(1)
				if lost == "rtmp" {
					n.wantConnected(0, 1, 0)
					n.logs.Await(t, "streaming server disconnected", "silent for 60 s")
					encoder.Expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", id)
				} else {
					n.logs.Await(t, "encoder disconnected", "silent for 60 s")
					n.wantConnected(1, 0, 0)
					server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", id)
				}
			})
		})
	}
}

func TestReaderThatStallsIsCutWithin10SecondsThoughItSpeaks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, proxy := newFakeNet(t), clustertest.NewFaultProxy(t)
		stalled := n.reading(n.dialThrough(proxy.Wrap(n.Connect), "rtmp"))
		server, encoder := n.dialPeer("rtmp"), n.register()
		proxy.Set(clustertest.Flow{}, clustertest.Flow{Stalled: true})
		asked := time.Now()
		for time.Since(asked) < 10*time.Second {
			if stalled.SendRaw(1, "PUBLISH-REQUEST\nRequest-ID:1\n") != nil {
				break
			}
			n.wait(100 * time.Millisecond)
		}
		if took := time.Since(asked); took < 8*time.Second || took >= 10*time.Second {
			t.Errorf("cut after %v", took)
		}
		n.wantConnected(1, 1, 0)
		n.logs.Await(t, "streaming server disconnected", "the peer does not read")
		clustertest.Publish(server, encoder, "show")
	})
}

// All of them are being upgraded at the same time: the answers are not read before each has asked.
func TestNoMoreControlSocketsThanThereAreFiles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.control.Max = 3
		var conns []net.Conn
		for range 5 {
			conn, err := n.Connect()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, upgradeRequest)
			conns = append(conns, conn)
		}
		synctest.Wait()
		answers := map[string]int{}
		for _, conn := range conns {
			var status [len("HTTP/1.1 101")]byte
			if _, err := io.ReadFull(conn, status[:]); err != nil {
				t.Fatal(err)
			}
			answers[string(status[len("HTTP/1.1 "):])]++
		}
		if answers["101"] != 3 || answers["503"] != 2 {
			t.Errorf("answers %v, want three of 101 and two of 503", answers)
		}
		n.logs.Await(t, "control connection refused", "too many connections")

		conns[0].Close()
		conns[1].Close()
		conns[2].Close()
		conns[3].Close()
		conns[4].Close()
		synctest.Wait()
		if open := n.control.Count(); open != 0 {
			t.Errorf("%d connections are counted though all are gone", open)
		}
		n.dial("rtmp")
	})
}

// Closing a TLS connection politely would wait 5 s more for a peer that takes nothing.
func TestTLSPeerThatDoesNotReadIsCutWithin10Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		authority := httptest.NewUnstartedServer(nil) // for its certificate
		authority.Listener.Close()
		authority.Listener = clustertest.NewPipes()
		authority.StartTLS()
		defer authority.Close()
		listener := clustertest.NewPipes()
		server := &http.Server{Handler: http.HandlerFunc(n.control.ServeRTMP)}
		served := make(chan error, 1)
		go func() {
			served <- server.Serve(tls.NewListener(listener, &tls.Config{Certificates: authority.TLS.Certificates}))
		}()
		defer func() { server.Close(); <-served }()

		socket, err := listener.Connect()
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		secure := tls.Client(socket, &tls.Config{InsecureSkipVerify: true})
		dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return secure, nil }}
		deaf, _, err := dialer.Dial("ws://x/", http.Header{"X-External-Ip": {"10.0.0.1"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := deaf.WriteMessage(websocket.TextMessage, []byte("PUBLISH-REQUEST\nRequest-ID:1\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		socket.SetWriteDeadline(time.Now().Add(time.Millisecond))
		if _, err := socket.Write([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the connection is not closed: %v", err)
		}
		n.logs.Await(t, "streaming server disconnected", "the peer does not read")
	})
}
