package appclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/secret"

	"github.com/google/go-cmp/cmp"
)

// newTestClient returns a client that leaves nothing open at the end of the test.
func newTestClient(t *testing.T, url, authorization string, maxConns int) *Client {
	client := New(secret.Secret(url), secret.Secret(authorization), maxConns, "test/1")
	t.Cleanup(client.Close)
	return client
}

func TestPostSendsAnEmptyBodyAndItsHeaders(t *testing.T) {
	t.Parallel()
	for name, authorization := range map[string]string{
		"authorized":   "Custom a b c",
		"unauthorized": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := clustertest.StartHTTPApp(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || len(body) > 0 || r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
					t.Errorf("body %q, length %d, encoding %q, %v", body, r.ContentLength, r.TransferEncoding, err)
				}
				want := http.Header{"Content-Length": {"0"}, "X-Streaming-Channel": {"c"}, "User-Agent": {"test/1"}}
				if authorization != "" {
					want["Authorization"] = []string{authorization}
				}
				if diff := cmp.Diff(want, r.Header); diff != "" {
					t.Error(diff)
				}
				if r.Method != http.MethodPost || r.RequestURI != "/a/b?c=d" || r.Proto != "HTTP/1.1" {
					t.Errorf("got %s %s %s", r.Method, r.RequestURI, r.Proto)
				}
				w.Header().Set("x-record", "true")
				w.WriteHeader(http.StatusAccepted)
			})
			client := newTestClient(t, target+"/a/b?c=d", authorization, 1)
			status, reply, err := client.Post(t.Context(), http.Header{"X-Streaming-Channel": {"c"}})
			if status != http.StatusAccepted || reply.Get("x-record") != "true" || err != nil {
				t.Errorf("got %d, %v, %v", status, reply, err)
			}
		})
	}
}

func TestPostSpeaksHTTP1OverTLSToTrustedServersOnly(t *testing.T) {
	t.Parallel()
	var proto atomic.Value
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { proto.Store(r.Proto) }))
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)

	if status, _, err := newTestClient(t, server.URL, "", 1).Post(t.Context(), nil); err == nil {
		t.Errorf("unknown certificate: got %d", status)
	}
	trusting := newTestClient(t, server.URL, "", 1)
	trusting.Transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
	trusting.Transport.TLSClientConfig.RootCAs.AddCert(server.Certificate())
	if _, _, err := trusting.Post(t.Context(), nil); err != nil || proto.Load() != "HTTP/1.1" {
		t.Errorf("got %v over %v", err, proto.Load())
	}
}

func TestPostUsesTheCredentialsOfTheURLUnlessAuthorizationIsSet(t *testing.T) {
	t.Parallel()
	fromURL := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:pass"))
	for authorization, want := range map[string]string{"": fromURL, "Bearer token": "Bearer token"} {
		var got atomic.Value
		target := clustertest.StartHTTPApp(t, func(_ http.ResponseWriter, r *http.Request) { got.Store(r.Header.Get("Authorization")) })
		client := newTestClient(t, strings.Replace(target, "//", "//user:pass@", 1), authorization, 1)
		if _, _, err := client.Post(t.Context(), nil); err != nil || got.Load() != want {
			t.Errorf("authorization %q: sent %q, %v", authorization, got.Load(), err)
		}
	}
}

func TestPostReusesConnections(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no body":         "",
		"small body":      strings.Repeat("b", 100),
		"body of 64 KiB":  strings.Repeat("b", MaxReplyBodyBytes),
		"chunked replies": strings.Repeat("b", MaxReplyBodyBytes-1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const calls, concurrency = 2000, 16
			var opened atomic.Int64
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, body)
			}))
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					opened.Add(1)
				}
			}
			server.Start()
			t.Cleanup(server.Close)
			client := newTestClient(t, server.URL, "", concurrency)
			var callers sync.WaitGroup
			for range concurrency {
				callers.Go(func() {
					for range calls / concurrency {
						if status, _, err := client.Post(t.Context(), nil); status != http.StatusOK || err != nil {
							t.Errorf("got %d, %v", status, err)
							return
						}
					}
				})
			}
			callers.Wait()
			// net/http gives up a connection whose writer did not get the processor for 50 ms (maxWriteWaitBeforeConnReuse):
			// rare, and only on a machine that is overloaded.
			if opened.Load() > concurrency+concurrency/4 {
				t.Errorf("%d connections for %d calls at a time", opened.Load(), concurrency)
			}
		})
	}
}

func TestPostTakesTheStatusWhateverTheBodyDoes(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(*net.TCPConn){
		"endless": func(conn *net.TCPConn) {
			clustertest.WriteEndlessly(conn, "HTTP/1.1 200 OK\r\n\r\n"+strings.Repeat("b", 1000))
		},
		"endless chunks": func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			clustertest.WriteEndlessly(conn, "1\r\nb\r\n")
		},
		"never coming": func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
			clustertest.AwaitGone(conn)
		},
		"broken off": func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nb")
		},
		"garbled": func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newTestClient(t, clustertest.StartRawApp(t, handle), "", 1)
			for range 2 { // the second call needs the connection slot of the first
				if status, _, err := client.Post(t.Context(), nil); status != http.StatusOK || err != nil {
					t.Errorf("got %d, %v", status, err)
				}
			}
		})
	}
}

func TestSlowBodyHoldsPostForOneSecond(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{
		"answer":           "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
		"switch protocols": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: what\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var app sync.WaitGroup
				defer app.Wait()
				client := New("http://app.example/", "", 1, "test/1")
				defer client.Close()
				client.Transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					app.Go(func() {
						defer far.Close()
						_, err := http.ReadRequest(bufio.NewReader(far))
						if err == nil {
							_, err = io.WriteString(far, head)
						}
						for err == nil {
							time.Sleep(300 * time.Millisecond)
							_, err = io.WriteString(far, "b")
						}
					})
					return near, nil
				}
				start := time.Now()
				status, _, err := client.Post(t.Context(), nil)
				if status == 0 || err != nil || time.Since(start) != DiscardTimeout {
					t.Errorf("got %d, %v after %s", status, err, time.Since(start))
				}
			})
		})
	}
}

func TestPostNeverFollowsARedirect(t *testing.T) {
	t.Parallel()
	elsewhere := clustertest.StartHTTPApp(t, func(http.ResponseWriter, *http.Request) { t.Error("followed") })
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, location := range []string{elsewhere, "/other", "", "http://%zz:no/"} {
			target := clustertest.StartHTTPApp(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/" {
					t.Errorf("followed to %s", r.URL)
				}
				w.Header().Set("Location", location)
				w.WriteHeader(status)
			})
			client := newTestClient(t, target, "", 1)
			if got, _, err := client.Post(t.Context(), nil); got != status || err != nil {
				t.Errorf("%d to %q: got %d, %v", status, location, got, err)
			}
		}
	}
}

func TestPostGoesThroughNoProxy(t *testing.T) {
	t.Parallel()
	if New("http://app.example/", "", 1, "test/1").Transport.Proxy != nil {
		t.Error("the environment decides where requests go")
	}
}

func TestNoAnswerIsAnErrorThatTellsNoSecret(t *testing.T) {
	t.Parallel()
	reset := func(conn *net.TCPConn) { _ = conn.SetLinger(0) }
	for name, handle := range map[string]func(*net.TCPConn){
		"reset":         reset,
		"closed":        func(*net.TCPConn) {},
		"half a status": func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "HTTP/1.1 2") },
		"echo as status": func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "POST /SECRET?SECRET HTTP/1.1\r\nAuthorization: SECRET\r\n\r\n")
		},
		"echo as header": func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nSECRET\r\n\r\n")
		},
		"bad length": func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: SECRET\r\n\r\n")
		},
		"bad encoding": func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: SECRET\r\n\r\n")
		},
		"endless header": func(conn *net.TCPConn) { clustertest.WriteEndlessly(conn, "HTTP/1.1 200 OK\r\nx-a: SECRET") },
		"endless headers": func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			clustertest.WriteEndlessly(conn, "x-a: SECRET\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := strings.Replace(clustertest.StartRawApp(t, handle), "//", "//SECRET:SECRET@", 1) + "/SECRET?SECRET#SECRET"
			client := newTestClient(t, target, "SECRET", 1)
			status, _, err := client.Post(t.Context(), http.Header{"X-Streaming-Key": {"SECRET"}})
			if err == nil || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("got %d, %v", status, err)
			}
		})
	}
	for name, target := range map[string]string{
		"refused":        "http://SECRET:SECRET@127.0.0.1:1/SECRET?SECRET",
		"unusable port":  "http://user:SECRET/SECRET@127.0.0.1/",
		"unusable bytes": "http://127.0.0.1/\x00SECRET",
		"no host":        "/SECRET",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newTestClient(t, target, "SECRET", 1)
			if _, _, err := client.Post(t.Context(), nil); err == nil || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("header that cannot be sent", func(t *testing.T) {
		t.Parallel()
		client := newTestClient(t, "http://127.0.0.1:1/", "SECRET\n", 1)
		if _, _, err := client.Post(t.Context(), nil); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("got %v", err)
		}
	})
}

func TestInformationalRepliesKeepPostNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	target := clustertest.StartRawApp(t, func(conn *net.TCPConn) {
		for range 10 {
			_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nx-a: b\r\n\r\n")
		}
		cancel()
		clustertest.AwaitGone(conn)
	})
	client := newTestClient(t, target, "", 1)
	if status, _, err := client.Post(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %d, %v", status, err)
	}
}

func TestEndlessInformationalRepliesAreNoAnswer(t *testing.T) {
	t.Parallel()
	target := clustertest.StartRawApp(t, func(conn *net.TCPConn) {
		clustertest.WriteEndlessly(conn, "HTTP/1.1 103 Early Hints\r\nx-a: b\r\n\r\n")
	})
	client := newTestClient(t, target, "", 1)
	if status, _, err := client.Post(t.Context(), nil); err == nil {
		t.Errorf("got %d", status)
	}
}

func TestPostWaitsTenSecondsForAnAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := New("http://app.example/", "", 1, "test/1")
		clustertest.PipeApp(t, client, client.Transport, func(*http.Request) string { return "" })
		start := time.Now()
		_, _, err := client.Post(t.Context(), nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
	})
}

func TestPostEndsAtOnceWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := New("http://app.example/", "", 1, "test/1")
		clustertest.PipeApp(t, client, client.Transport, func(*http.Request) string { return "" })
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		time.AfterFunc(3*time.Second, cancel)
		_, _, err := client.Post(ctx, nil)
		if !errors.Is(err, context.Canceled) || time.Since(start) != 3*time.Second {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
	})
}

func TestHeaderValueEncodesOnlyWhatCannotBeCarried(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"":                     "",
		"hls/a b/index.m3u8":   "hls/a b/index.m3u8",
		"a%0Ab":                "a%0Ab",
		"100%":                 "100%",
		`"quoted", and: more;`: `"quoted", and: more;`,
		"a\nb":                 "a%0Ab",
		"a\r\nx-b: c":          "a%0D%0Ax-b: c",
		"50%\x00":              "50%25%00",
		"a\tb\x7f":             "a%09b%7F",
		" a ":                  "%20a%20",
		"  a":                  "%20 a",
		" ":                    "%20",
		"é\xff":                "%C3%A9%FF",
	} {
		if got := HeaderValue(value); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

func FuzzHeaderValueCanBeCarriedAndReadBack(f *testing.F) {
	for _, value := range []string{"", "plain", "50% \n", " é\x7f", "%41"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := HeaderValue(value)
		if strings.TrimSpace(got) != got || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("%q cannot be carried", got)
		}
		if got == value {
			return
		}
		if decoded, err := url.PathUnescape(got); decoded != value || err != nil {
			t.Fatalf("%q is read back as %q, %v", got, decoded, err)
		}
	})
}

// livedConn tells how long the client had the connection.
type livedConn struct {
	net.Conn
	began time.Time
	ended func(lived time.Duration)
	once  sync.Once
}

func (c *livedConn) Close() error {
	c.once.Do(func() { c.ended(time.Since(c.began)) })
	return c.Conn.Close()
}

func TestConnectionsLiveFiveMinutesSoThatANameThatMovesIsFollowed(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]time.Duration{"steady traffic": 0, "now and then": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var asked [2]atomic.Int64 // at the old place and at the new one
				var moved atomic.Bool
				var places [2]clustertest.Pipes
				for i := range places {
					places[i] = clustertest.NewPipes()
					server := &httptest.Server{Listener: places[i], Config: &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						asked[i].Add(1)
						if n, _ := strconv.Atoi(r.Header.Get("x-number")); n%50 == 0 {
							time.Sleep(9 * time.Second)
						} else {
							time.Sleep(200 * time.Millisecond)
						}
					})}}
					server.Start()
					defer server.Close()
				}
				client := New("http://app.example/", "", 8, "test/1")
				defer client.Close()
				var dialled atomic.Int64
				var mu sync.Mutex
				var longest time.Duration
				client.Transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
					place := 0
					if moved.Load() {
						place = 1
					}
					conn, err := places[place].Connect()
					if err != nil {
						return nil, err
					}
					dialled.Add(1)
					return &livedConn{Conn: conn, began: time.Now(), ended: func(lived time.Duration) {
						mu.Lock()
						defer mu.Unlock()
						longest = max(longest, lived)
					}}, nil
				}
				var callers sync.WaitGroup
				began := time.Now()
				for caller := range 8 {
					callers.Go(func() {
						for n := caller; time.Since(began) < 20*time.Minute; n++ {
							if status, _, err := client.Post(t.Context(), http.Header{"X-Number": {strconv.Itoa(n)}}); status != 200 || err != nil {
								t.Errorf("got %d, %v after %v", status, err, time.Since(began))
							}
							time.Sleep(pause)
						}
					})
				}
				time.Sleep(7 * time.Minute)
				moved.Store(true)
				time.Sleep(5 * time.Minute)
				old := asked[0].Load()
				callers.Wait()
				if asked[0].Load() != old || asked[1].Load() == 0 {
					t.Errorf("%d requests went to the old place 5 minutes after the move and later, %d to the new one", asked[0].Load()-old, asked[1].Load())
				}
				client.Close()
				synctest.Wait()
				if longest > 5*time.Minute || pause == 0 && longest < 4*time.Minute {
					t.Errorf("a connection lived %v", longest)
				}
				if pools := int64(20*time.Minute/PoolLife) + 1; pause == 0 && dialled.Load() > 2*8*pools {
					t.Errorf("%d connections for 8 at a time in %d pools", dialled.Load(), pools)
				}
			})
		})
	}
}

// A reply may break off anywhere, also within a line: that is no answer.
func TestReplyThatBreaksOffAnywhereIsBroken(t *testing.T) {
	t.Parallel()
	const whole = "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nX-Record: true\r\nContent-Length: 0\r\n\r\n"
	for n := 1; n < len(whole); n++ {
		client := newTestClient(t, clustertest.StartRawApp(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, whole[:n]) }), "", 1)
		if _, _, err := client.Post(t.Context(), nil); !errors.Is(err, errBrokenReply) {
			t.Errorf("after %q: %v", whole[:n], err)
		}
	}
}
