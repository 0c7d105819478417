package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
)

// guardedServer is an HTTP server behind a door for max visitors; the handler of /slow waits for release.
func guardedServer(t *testing.T, max int) (addr string, slow, release chan struct{}) {
	d := newDoor(func() int { return max }, newRefusals(slog.New(slog.DiscardHandler)))
	slow, release = make(chan struct{}), make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		slow <- struct{}{}
		<-release
	})
	server := httptest.NewUnstartedServer(d.serving(mux))
	server.Listener = d.listen(server.Listener, nil)
	d.guard(server.Config)
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	return server.Listener.Addr().String(), slow, release
}

// newTestServer is a server behind a door for max visitors.
func newTestServer(handler http.Handler, max int, stderr io.Writer) *httpServer {
	log := newLogger(&Config{}, stderr)
	return newHTTPServer(handler, newDoor(func() int { return max }, newRefusals(log)), log)
}

// knock opens a connection and sends something.
func knock(t *testing.T, addr, sent string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte(sent)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// awaitStatus reads the answer to a request.
func awaitStatus(t *testing.T, conn net.Conn, want int) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(clustertest.Patience))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != want {
		t.Fatalf("answer %v, %v; want %d", res, err, want)
	}
}

func awaitClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(clustertest.Patience))
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("connection is open: %d bytes, %v", n, err)
	}
}

const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func TestDoorDismissesWhoHasWaitedLongest(t *testing.T) {
	t.Parallel()
	addr, slow, release := guardedServer(t, 3)
	served := knock(t, addr, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-slow
	first := knock(t, addr, request)
	awaitStatus(t, first, 200)
	second := knock(t, addr, request)
	awaitStatus(t, second, 200)
	if _, err := io.WriteString(first, request); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, first, 200)
	third := knock(t, addr, request) // one too many
	awaitStatus(t, third, 200)
	awaitClosed(t, second)
	release <- struct{}{}
	awaitStatus(t, served, 200)
}

// One visitor in the middle of its headers has to go, too: it may be there to stay.
func TestDoorDismissesSlowLoris(t *testing.T) {
	t.Parallel()
	addr, _, _ := guardedServer(t, 1)
	loris := knock(t, addr, "GET / HTTP/1.1\r\nHost:")
	awaitStatus(t, knock(t, addr, request), 200)
	awaitClosed(t, loris)
}

// As many strangers as the door lets in, each idle after a request: little memory, a quick answer for whoever comes, and
// none of them forgotten. One more, and the first has to go.
func TestCrowdAtTheDoorLeavesTheCommandsAPIQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 16,384 connections")
	}
	const (
		crowd = 16_384
		first = 10 // of them may have to go
	)
	if maxSockets() < crowd+100 {
		t.Skipf("needs a limit of %d open files (ulimit -n)", crowd+100+otherFiles)
	}
	p := clustertest.Serve(t, buildCoordinator(t), "LOG_REQUESTS=NO")
	before := p.PeakMemory()
	conns := make([]*visit, crowd)
	for i := range first {
		conns[i] = openVisit(t, p.Addr)
		conns[i].ask()
	}
	var opening sync.WaitGroup
	const parts = 16
	for part := range parts {
		opening.Go(func() {
			for i := first + part; i < len(conns) && !t.Failed(); i += parts {
				conns[i] = openVisit(t, p.Addr)
				conns[i].ask()
			}
		})
	}
	opening.Wait()
	if t.Failed() {
		return
	}
	grown := p.PeakMemory() - before
	if t.Logf("%d idle connections cost %d MiB at most", len(conns), grown>>20); grown > 300<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	best := time.Hour
	for range 5 { // the machine may be slow at times, the daemon not
		start := time.Now()
		if status, _ := p.Call("GET", "/commands/capacity"); status != 200 {
			t.Fatal("status", status)
		}
		best = min(best, time.Since(start))
	}
	if best > 100*time.Millisecond {
		t.Errorf("the quickest of five answers took %v", best)
	}
	awaitClosed(t, conns[0].Conn)
	for _, c := range conns[first:] {
		c.ask()
	}
}

// visit is a client's connection.
type visit struct {
	net.Conn
	t testing.TB
}

// openVisit connects. Its connection is reset at the end, which leaves nothing behind in the system.
func openVisit(t testing.TB, addr string) *visit {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return &visit{t: t}
	}
	conn.(*net.TCPConn).SetLinger(0)
	t.Cleanup(func() { conn.Close() })
	return &visit{conn, t}
}

// ask makes a request, which must be answered.
func (v *visit) ask() {
	if v.Conn == nil {
		return
	}
	v.SetDeadline(time.Now().Add(clustertest.Patience))
	if _, err := io.WriteString(v, request); err != nil {
		v.t.Error(err)
		return
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(v, 512), nil)
	if err != nil {
		v.t.Error(err)
		return
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
		v.t.Errorf("status %d, %v", res.StatusCode, err)
	}
}

// fakeDoor is a server behind a door in a bubble: the network is a pipe.
type fakeDoor struct {
	pipeListener
	t    *testing.T
	logs *clustertest.Log
}

// newFakeDoor serves with a handler that answers every request; secure is nil for plain HTTP.
func newFakeDoor(t *testing.T, secure *tls.Config) *fakeDoor {
	f := &fakeDoor{newPipeListener(), t, clustertest.NewLog()}
	server := newTestServer(http.HandlerFunc(welcome), 10, f.logs)
	var serving sync.WaitGroup
	serving.Go(func() { server.serve(f, secure) })
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
		server.door.running.Wait()
	})
	return f
}

func (f *fakeDoor) open() net.Conn {
	f.t.Helper()
	conn, err := f.connect()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	return conn
}

// wantGoneAfter reads until the connection is closed, which must be so long from now on.
func wantGoneAfter(t *testing.T, conn net.Conn, want time.Duration) {
	t.Helper()
	start := time.Now()
	conn.SetReadDeadline(start.Add(time.Hour))
	io.Copy(io.Discard, conn)
	if got := time.Since(start); got != want {
		t.Errorf("gone after %v, want %v", got, want)
	}
}

func TestIdleConnectionIsServedFor620Seconds(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string]*clustertest.Pair{"HTTP": nil, "HTTPS": clustertest.NewPair(t, 1)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeDoor(t, serverConfig(t, pair))
				conn := f.open()
				if pair != nil {
					conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				}
				v := &visit{conn, t}
				for _, pause := range []time.Duration{0, 0, 999 * time.Millisecond, time.Second, 1001 * time.Millisecond, time.Minute, 620*time.Second - 1} {
					time.Sleep(pause)
					v.ask()
				}
				io.WriteString(v, request+request) // at once
				reader := bufio.NewReader(v)
				for range 2 {
					res, err := http.ReadResponse(reader, nil)
					if err != nil || res.StatusCode != 200 {
						t.Fatal(res, err)
					}
					io.Copy(io.Discard, res.Body)
				}
				wantGoneAfter(t, v, 620*time.Second)
			})
		})
	}
}

// Whatever came before: from its first byte on a request has 10 s.
func TestLaterRequestHas10SecondsFromItsFirstByte(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		with   string // sent together with the request before
		pause  time.Duration
		begins string
	}{
		"at once":                    {"", 0, "G"},
		"while the server waits":     {"", 500 * time.Millisecond, "GET / HT"},
		"after a long time":          {"", 500 * time.Second, "G"},
		"with the one before":        {"GET / HTTP/1.1\r\nHost:", 0, ""},
		"partly with the one before": {"GE", 0, "T"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn := newFakeDoor(t, nil).open()
				io.WriteString(conn, request+test.with)
				if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
					t.Fatal(err)
				}
				time.Sleep(test.pause)
				var dripping sync.WaitGroup
				dripping.Go(func() {
					_, err := io.WriteString(conn, test.begins)
					for err == nil {
						time.Sleep(time.Second)
						_, err = io.WriteString(conn, "x")
					}
				})
				wantGoneAfter(t, conn, 10*time.Second)
				dripping.Wait()
			})
		})
	}
}

func TestClosedDoorKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*visit){
		"nothing was asked":    func(*visit) {},
		"answered just now":    func(v *visit) { v.ask() },
		"answered a while ago": func(v *visit) { v.ask(); <-time.After(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &fakeDoor{newPipeListener(), t, clustertest.NewLog()}
				server := newTestServer(http.HandlerFunc(welcome), 10, f.logs)
				served := make(chan error, 1)
				go func() { served <- server.Serve(f) }()
				v := &visit{f.open(), t}
				use(v)
				synctest.Wait()
				start := time.Now()
				if err := server.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				<-served
				server.door.running.Wait()
				wantGoneAfter(t, v, 0)
				if took := time.Since(start); took > time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// The limit is that of the request, not of the work on it.
func TestAnswerMayTakeLongerThanItsRequestMay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDoor{newPipeListener(), t, clustertest.NewLog()}
		server := newTestServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			time.Sleep(15 * time.Second)
			if err := r.Context().Err(); err != nil {
				t.Errorf("the request counts as given up: %v", err)
			}
		}), 10, f.logs)
		served := make(chan error, 1)
		go func() { served <- server.Serve(f) }()
		v := &visit{f.open(), t}
		v.ask()
		v.ask()
		server.Close()
		<-served
	})
}

// The TLS handshake and the request's headers have 10 s together.
func TestFirstRequestHas10SecondsWithItsHandshake(t *testing.T) {
	t.Parallel()
	pair := clustertest.NewPair(t, 1)
	synctest.Test(t, func(t *testing.T) {
		conn := newFakeDoor(t, serverConfig(t, pair)).open()
		time.Sleep(4 * time.Second)
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		if err := secure.Handshake(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second)
		io.WriteString(secure, "GET / HTTP/1.1\r\n")
		wantGoneAfter(t, secure, 2*time.Second)
	})
}

// serverConfig serves the pair; without one it is nil.
func serverConfig(t *testing.T, p *clustertest.Pair) *tls.Config {
	if p == nil {
		return nil
	}
	t.Helper()
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
}

func TestStrangersAreGoneAfter10SecondsWithoutAWholeRequest(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]func(net.Conn, time.Duration) error{
		"nothing": func(net.Conn, time.Duration) error { return nil },
		"a header byte a second": func(conn net.Conn, past time.Duration) error {
			text := "G"
			if past > 0 {
				text = "ET / HTTP/1.1\r\nX: "[int(past/time.Second)-1:][:1]
			}
			_, err := io.WriteString(conn, text)
			return err
		},
		"a header line a second": func(conn net.Conn, past time.Duration) error {
			text := "X-A: b\r\n"
			if past == 0 {
				text = "GET /ws/control/rtmp HTTP/1.1\r\nHost: x\r\n"
			}
			_, err := io.WriteString(conn, text)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newFakeNet(t)
				conn, err := n.connect()
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				gone := make(chan time.Time, 1)
				go func() {
					awaitGone(conn)
					gone <- time.Now()
				}()
				for range 30 {
					if say(conn, time.Since(n.start)) != nil {
						break
					}
					n.wait(time.Second)
				}
				if after := (<-gone).Sub(n.start); after != 10*time.Second {
					t.Errorf("gone after %v", after)
				}
			})
		})
	}
}
