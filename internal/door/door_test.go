package door

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/logs"
)

// guardedServer is an HTTP server behind a door for max visitors; the handler of /slow waits for release.
func guardedServer(t *testing.T, max int) (addr string, slow, release chan struct{}) {
	t.Helper()
	slow, release = make(chan struct{}), make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/", welcome)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		slow <- struct{}{}
		<-release
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := newTestServer(mux, max, io.Discard)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l, nil) })
	t.Cleanup(func() {
		close(release)
		server.Close()
		serving.Wait()
		server.Wait()
	})
	return l.Addr().String(), slow, release
}

func welcome(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "welcome\n") }

// newTestServer is a server behind a door for max visitors, with a log of its own.
func newTestServer(handler http.Handler, max int, stderr io.Writer) *Server {
	log := logs.New(stderr, false, false)
	return NewServer(handler, func() int { return max }, logs.NewRefusals(log), log)
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

func TestDoorDismissesWhoHasWaitedLongest(t *testing.T) {
	t.Parallel()
	addr, slow, release := guardedServer(t, 3)
	served := clustertest.Knock(t, addr, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-slow
	first := clustertest.Knock(t, addr, clustertest.PlainRequest)
	awaitStatus(t, first, 200)
	second := clustertest.Knock(t, addr, clustertest.PlainRequest)
	awaitStatus(t, second, 200)
	if _, err := io.WriteString(first, clustertest.PlainRequest); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, first, 200)
	third := clustertest.Knock(t, addr, clustertest.PlainRequest) // one too many
	awaitStatus(t, third, 200)
	second.AwaitClosed()
	release <- struct{}{}
	awaitStatus(t, served, 200)
}

// One visitor in the middle of its headers has to go, too: it may be there to stay.
func TestDoorDismissesSlowLoris(t *testing.T) {
	t.Parallel()
	addr, _, _ := guardedServer(t, 1)
	loris := clustertest.Knock(t, addr, "GET / HTTP/1.1\r\nHost:")
	awaitStatus(t, clustertest.Knock(t, addr, clustertest.PlainRequest), 200)
	loris.AwaitClosed()
}

// askOnly sends a request and reads no answer.
func askOnly(t *testing.T, f *fakeDoor, path string) net.Conn {
	t.Helper()
	conn := f.open()
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return conn
}

// Who does not read an answer is not served for ever, and nobody is turned away for it.
func TestDoorDismissesWhoDoesNotReadTheAnswer(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]time.Duration{"at once": 0, "later": promptAnswer + 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeDoorFor(t, nil, 3, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) })
				var deaf []net.Conn
				for range 3 {
					deaf = append(deaf, askOnly(t, f, "/"))
					time.Sleep(time.Millisecond)
				}
				time.Sleep(after)
				for range 3 {
					v := &clustertest.Visit{Conn: f.open(), T: t}
					v.Ask()
				}
				for i, conn := range deaf {
					conn.SetReadDeadline(time.Now().Add(time.Hour))
					if n, err := io.Copy(io.Discard, conn); after > 0 && n > 10<<10 {
						t.Errorf("connection %d got %d bytes, %v", i, n, err)
					}
				}
			})
		})
	}
}

// Work that takes long is not given up for a newcomer while others have waited longer for nothing.
func TestDoorDismissesIdleOnesBeforeSlowWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeDoorFor(t, nil, 3, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				time.Sleep(10 * time.Second)
			}
		})
		var idle []*clustertest.Visit
		for range 2 {
			v := &clustertest.Visit{Conn: f.open(), T: t}
			v.Ask()
			idle = append(idle, v)
		}
		time.Sleep(time.Second)
		slow := askOnly(t, f, "/slow")
		time.Sleep(5 * time.Second)
		for range 2 {
			v := &clustertest.Visit{Conn: f.open(), T: t}
			v.Ask()
		}
		for _, v := range idle {
			wantGoneAfter(t, v, 0)
		}
		awaitStatus(t, slow, 200)
	})
}

// The server reads on while a handler is at work, also for the next request.
func TestRequestsThatComeTogetherAreAnswered(t *testing.T) {
	t.Parallel()
	addr, _, _ := guardedServer(t, 100)
	const clients, rounds, together = 8, 200, 8
	var asking sync.WaitGroup
	for range clients {
		asking.Go(func() {
			v := clustertest.OpenVisit(t, addr)
			if v.Conn == nil {
				return
			}
			v.SetDeadline(time.Now().Add(clustertest.Patience))
			reader := bufio.NewReader(v)
			for range rounds {
				if _, err := io.WriteString(v, strings.Repeat(clustertest.PlainRequest, together)); err != nil {
					t.Error(err)
					return
				}
				for range together {
					res, err := http.ReadResponse(reader, nil)
					if err != nil || res.StatusCode != 200 {
						t.Errorf("answer %v, %v", res, err)
						return
					}
					io.Copy(io.Discard, res.Body)
				}
			}
		})
	}
	asking.Wait()
}

func TestKernelKeepsLittleOfWhatIsNotRead(t *testing.T) {
	t.Parallel()
	kept := make(chan int, 1)
	server := newTestServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		conn, err := r.Context().Value(visitorKey{}).(*visitor).NetConn().(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Error(err)
		}
		conn.Control(func(fd uintptr) {
			size, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
			if err != nil {
				t.Error(err)
			}
			kept <- size
		})
	}), 10, io.Discard)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l, nil) })
	defer serving.Wait()
	defer server.Close()
	clustertest.OpenVisit(t, l.Addr().String()).Ask()
	if size := <-kept; size > 2*unreadBytes { // Linux doubles it, for its bookkeeping
		t.Errorf("the kernel keeps %d bytes", size)
	}
}

// fakeDoor is a server behind a door in a bubble: the network is a pipe.
type fakeDoor struct {
	clustertest.Pipes
	t    *testing.T
	logs *clustertest.Log
}

// newFakeDoor serves with a handler that answers every request; secure is nil for plain HTTP.
func newFakeDoor(t *testing.T, secure *tls.Config) *fakeDoor {
	return newFakeDoorFor(t, secure, 10, welcome)
}

// newFakeDoorFor serves with any handler, for max visitors.
func newFakeDoorFor(t *testing.T, secure *tls.Config, max int, handler http.HandlerFunc) *fakeDoor {
	f := &fakeDoor{clustertest.NewPipes(), t, clustertest.NewLog()}
	server := newTestServer(handler, max, f.logs)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(f, secure) })
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
		server.Wait()
	})
	return f
}

func (f *fakeDoor) open() net.Conn {
	f.t.Helper()
	conn, err := f.Connect()
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
				v := &clustertest.Visit{Conn: conn, T: t}
				for _, pause := range []time.Duration{0, 0, 999 * time.Millisecond, time.Second, 1001 * time.Millisecond, time.Minute, 620*time.Second - 1} {
					time.Sleep(pause)
					v.Ask()
				}
				io.WriteString(v, clustertest.PlainRequest+clustertest.PlainRequest) // at once
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
		"its first line before":      {"GET / HTTP/1.1\r\n", 0, ""},
		"two lines before":           {"GET / HTTP/1.1\r\nX: y\r\n", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn := newFakeDoor(t, nil).open()
				io.WriteString(conn, clustertest.PlainRequest+test.with)
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
	for name, use := range map[string]func(*clustertest.Visit){
		"nothing was asked":    func(*clustertest.Visit) {},
		"answered just now":    func(v *clustertest.Visit) { v.Ask() },
		"answered a while ago": func(v *clustertest.Visit) { v.Ask(); <-time.After(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &fakeDoor{clustertest.NewPipes(), t, clustertest.NewLog()}
				server := newTestServer(http.HandlerFunc(welcome), 10, f.logs)
				served := make(chan error, 1)
				go func() { served <- server.Serve(f, nil) }()
				v := &clustertest.Visit{Conn: f.open(), T: t}
				use(v)
				synctest.Wait()
				start := time.Now()
				if err := server.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				<-served
				server.Wait()
				wantGoneAfter(t, v, 0)
				if took := time.Since(start); took > time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// The limit is that of the clustertest.PlainRequest, not of the work on it.
func TestAnswerMayTakeLongerThanItsRequestMay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDoor{clustertest.NewPipes(), t, clustertest.NewLog()}
		server := newTestServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			time.Sleep(15 * time.Second)
			if err := r.Context().Err(); err != nil {
				t.Errorf("the request counts as given up: %v", err)
			}
		}), 10, f.logs)
		served := make(chan error, 1)
		go func() { served <- server.Serve(f, nil) }()
		v := &clustertest.Visit{Conn: f.open(), T: t}
		v.Ask()
		v.Ask()
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

func TestHandshakeThatNeverEndsIsCutAfter10Seconds(t *testing.T) {
	t.Parallel()
	pair := clustertest.NewPair(t, 1)
	synctest.Test(t, func(t *testing.T) {
		conn := newFakeDoor(t, serverConfig(t, pair)).open()
		io.WriteString(conn, "\x16\x03\x01") // the beginning of a ClientHello
		wantGoneAfter(t, conn, 10*time.Second)
	})
}

func TestServerHasATimeLimitForEverything(t *testing.T) {
	t.Parallel()
	server := newTestServer(http.NotFoundHandler(), 1, clustertest.NewLog()).http
	for name, limit := range map[string]time.Duration{
		"ReadHeaderTimeout": server.ReadHeaderTimeout, "ReadTimeout": server.ReadTimeout,
		"WriteTimeout": server.WriteTimeout, "IdleTimeout": server.IdleTimeout,
	} {
		if limit <= 0 || limit > time.Minute {
			t.Errorf("%s is %v", name, limit)
		}
	}
}

func TestStrangersAreGoneAfter10SecondsWithoutAWholeRequest(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]func(second int) string{
		"nothing":                func(int) string { return "" },
		"a header byte a second": func(second int) string { return "GET / HTTP/1.1\r\nX: "[second:][:1] },
		"a header line a second": func(second int) string {
			if second == 0 {
				return "GET /ws/control/rtmp HTTP/1.1\r\nHost: x\r\n"
			}
			return "X-A: b\r\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn := newFakeDoor(t, nil).open()
				var talking sync.WaitGroup
				talking.Go(func() {
					for second := range 15 {
						if _, err := io.WriteString(conn, say(second)); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				})
				wantGoneAfter(t, conn, 10*time.Second)
				talking.Wait()
			})
		})
	}
}

// Lines cost more than bytes: each is an entry of a map.
func TestRequestOfManyShortLinesIsRefused(t *testing.T) {
	t.Parallel()
	for lines, status := range map[int]int{MaxHeaderLines - 10: 200, MaxHeaderLines + 10: 400} {
		synctest.Test(t, func(t *testing.T) {
			conn := newFakeDoor(t, nil).open()
			var asking sync.WaitGroup
			asking.Go(func() {
				io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n"+strings.Repeat("a:\n", lines)+"\r\n")
			})
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || res.StatusCode != status {
				t.Errorf("%d lines: %v, %v", lines, res, err)
			}
			conn.Close()
			asking.Wait()
		})
	}
}

// The beginning of a request may be whole lines, which the server has read with the request before: it is not forgotten.
func TestHalfARequestOfWholeLinesIsNeverTakenForAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeDoorFor(t, nil, 10, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
		conn := f.open()
		io.WriteString(conn, clustertest.PlainRequest+"GET /first HTTP/1.1\r\n")
		reader := bufio.NewReader(conn)
		res, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		time.Sleep(9 * time.Second)
		io.WriteString(conn, "Host: x\r\n\r\n")
		if res, err = http.ReadResponse(reader, nil); err != nil {
			t.Fatal(err)
		}
		if path, _ := io.ReadAll(res.Body); string(path) != "/first" {
			t.Errorf("answer to %s", path)
		}
	})
}

// TLS ends with an alert, which a client that reads nothing does not take.
func TestStopDoesNotWaitForClientsThatTakeNoAlert(t *testing.T) {
	t.Parallel()
	pair := clustertest.NewPair(t, 1)
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDoor{clustertest.NewPipes(), t, clustertest.NewLog()}
		server := newTestServer(http.HandlerFunc(welcome), 10, f.logs)
		served := make(chan error, 1)
		go func() { served <- server.Serve(f, serverConfig(t, pair)) }()
		for range 3 {
			secure := tls.Client(f.open(), &tls.Config{InsecureSkipVerify: true})
			if err := secure.Handshake(); err != nil {
				t.Fatal(err)
			}
			io.WriteString(secure, "GET / HTTP/1.1\r\n")
			synctest.Wait()
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
		<-served
		server.Wait()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
