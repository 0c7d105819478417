package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/profile"

	"github.com/google/go-cmp/cmp"
)

// newTestVerifier returns a verifier for the URL and what it logs. The log may be read when nothing is verified any more.
func newTestVerifier(t *testing.T, target string) (*keyVerifier, *bytes.Buffer) {
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	v := newKeyVerifier(&Config{KeyVerificationURL: Secret(target), KeyVerificationAuth: "Bearer t0ken"}, func(verification) {}, log)
	t.Cleanup(v.close)
	return v, &logged
}

// bareReply is the wire form of a reply without a body.
func bareReply(status int) string {
	return fmt.Sprintf("HTTP/1.1 %d Status\r\nContent-Length: 0\r\n\r\n", status)
}

func TestEveryKeyIsValidWithoutAURL(t *testing.T) {
	t.Parallel()
	v := newKeyVerifier(&Config{}, func(verification) {}, slog.New(slog.DiscardHandler))
	defer v.close()
	got, err := v.verify(t.Context(), "channel", "key", "192.0.2.1")
	if diff := cmp.Diff(profile.Profile{}, got); diff != "" || err != nil {
		t.Errorf("%s, %v", diff, err)
	}
}

func TestApplicationIsToldChannelKeyAndAddress(t *testing.T) {
	t.Parallel()
	for userIP, want := range map[string]string{
		"192.0.2.1":                           "192.0.2.1",
		"2001:db8::1":                         "2001:db8::1",
		"":                                    "",
		"1\r\nx-streaming-key: other":         "1%0D%0Ax-streaming-key: other",
		"é":                                   "%C3%A9",
		strings.Repeat("1", maxUserIPBytes*2): strings.Repeat("1", maxUserIPBytes),
	} {
		var got atomic.Pointer[http.Request]
		v, _ := newTestVerifier(t, clustertest.StartHTTPApp(t, func(_ http.ResponseWriter, r *http.Request) { got.Store(r) }))
		if _, err := v.verify(t.Context(), "channel", "key", userIP); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"x-streaming-channel": "channel",
			"x-streaming-key":     "key",
			"x-user-ip":           want,
			"authorization":       "Bearer t0ken",
		} {
			if got := got.Load().Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("user IP %.40q: %s is %.40q", userIP, name, got)
			}
		}
	}
}

func TestApplicationSaysWhatTheStreamMayHave(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header http.Header
		want   profile.Profile
		warned []string
	}{
		"nothing": {},
		"everything": {
			header: http.Header{"X-Record": {"TRUE"}, "X-Previews": {"256x144, 3"}, "X-Resolutions": {"1280x720-30~2500, ORIGINAL"}},
			want: profile.Profile{
				Resolutions: []profile.Resolution{{Width: 1280, Height: 720, FPS: 30, Kbps: 2500}, {}},
				Record:      true,
				Previews:    profile.Previews{Width: 256, Height: 144, Seconds: 3},
			},
		},
		"refusals": {
			header: http.Header{"X-Record": {"False"}, "X-Previews": {"FALSE"}, "X-Resolutions": {"original"}},
			want:   profile.Profile{Resolutions: []profile.Resolution{{}}},
		},
		"two lines": {
			header: http.Header{"X-Resolutions": {"640x360", "320x180"}},
			want:   profile.Profile{Resolutions: []profile.Resolution{{Width: 640, Height: 360}, {Width: 320, Height: 180}}},
		},
		"some of it unreadable": {
			header: http.Header{"X-Resolutions": {"640x360, 720p, 0x0"}},
			want:   profile.Profile{Resolutions: []profile.Resolution{{Width: 640, Height: 360}}},
			warned: []string{"720p", "0x0"},
		},
		"nothing readable": {
			header: http.Header{"X-Record": {"yes please"}, "X-Previews": {"often"}, "X-Resolutions": {"720p"}},
			warned: []string{"yes please", "often", "720p"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, logged := newTestVerifier(t, clustertest.StartHTTPApp(t, func(w http.ResponseWriter, _ *http.Request) {
				for name, values := range test.header {
					w.Header()[name] = values
				}
			}))
			got, err := v.verify(t.Context(), "channel", "s3cret", "")
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("%s, %v", diff, err)
			}
			for _, value := range test.warned {
				if !strings.Contains(logged.String(), value) {
					t.Errorf("no warning names %q: %s", value, logged)
				}
			}
			if len(test.warned) == 0 && logged.Len() > 0 || strings.Contains(logged.String(), "s3cret") {
				t.Errorf("logged %s", logged)
			}
		})
	}
}

func TestWarningsStaySmallAndOnTheirLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("level=ERROR msg=forged,", 2000)
	v, logged := newTestVerifier(t, clustertest.StartHTTPApp(t, func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"x-record", "x-previews", "x-resolutions"} {
			w.Header().Set(name, long[:15_000])
		}
	}))
	if _, err := v.verify(t.Context(), "channel", "key", ""); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(logged.String(), "\n"); lines != 3 || logged.Len() > 2000 {
		t.Errorf("logged %d lines, %d bytes: %s", lines, logged.Len(), logged)
	}
	if strings.Contains(logged.String(), " level=ERROR") && !strings.Contains(logged.String(), `"level=ERROR`) {
		t.Errorf("not quoted: %s", logged)
	}
}

func TestAnAnswerIsFinal(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]error{
		200: nil,
		101: errKeyDenied, 201: errKeyDenied, 202: errKeyDenied, 204: errKeyDenied, 206: errKeyDenied, 299: errKeyDenied,
		301: errKeyDenied, 302: errKeyDenied, 304: errKeyDenied, 307: errKeyDenied, 308: errKeyDenied,
		400: errKeyDenied, 401: errKeyDenied, 403: errKeyDenied, 404: errKeyDenied, 408: errKeyDenied, 428: errKeyDenied, 430: errKeyDenied,
		431: errKeyDenied, 499: errKeyDenied, 600: errKeyDenied, 999: errKeyDenied,
		429: errApplicationError, 500: errApplicationError, 502: errApplicationError, 503: errApplicationError, 504: errApplicationError,
		599: errApplicationError,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			v, logged := newTestVerifier(t, clustertest.StartRawApp(t, func(conn *net.TCPConn) {
				asked.Add(1)
				_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d Status\r\nLocation: /\r\nRetry-After: 0\r\nConnection: close\r\n\r\n", status)
			}))
			if _, err := v.verify(t.Context(), "channel", "key", ""); !errors.Is(err, want) {
				t.Errorf("got %v", err)
			}
			told := strings.Contains(logged.String(), fmt.Sprintf("errors; denying publishers\" status=%d\n", status))
			if asked.Load() != 1 || told != (want == errApplicationError) || !told && logged.Len() > 0 {
				t.Errorf("asked %d times, logged %q", asked.Load(), logged)
			}
		})
	}
}

// What is no answer in HTTP would not be one the next time.
func TestAnAnswerThatCannotBeReadIsFinal(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"no HTTP":             "220 mail.example.org ESMTP\r\n",
		"no status":           "HTTP/1.1 OK\r\n\r\n",
		"no name in a header": "HTTP/1.1 200 OK\r\nx-record\r\n\r\n",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nb",
		"64 KiB of headers":   "HTTP/1.1 200 OK\r\nx-a: " + strings.Repeat("b", 70<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			v, logged := newTestVerifier(t, clustertest.StartRawApp(t, func(conn *net.TCPConn) {
				asked.Add(1)
				_, _ = io.WriteString(conn, answer)
				clustertest.AwaitGone(conn)
			}))
			if _, err := v.verify(t.Context(), "channel", "key", ""); !errors.Is(err, errApplicationError) {
				t.Errorf("got %v", err)
			}
			if asked.Load() != 1 || strings.Count(logged.String(), "cannot be read; denying publishers") != 1 {
				t.Errorf("asked %d times, logged %q", asked.Load(), logged)
			}
		})
	}
}

// An application that answers some requests with an error, or a proxy before it that does, gives two lines in 30 s at
// most, not two for each request.
func TestErrorsOfTheApplicationAreLoggedAsItsTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, logged := newTestVerifier(t, "http://app.example/")
		keysRefused := 0
		v.observe = func(done verification) {
			if errors.Is(done.err, errKeyDenied) {
				keysRefused++
			}
		}
		clustertest.PipeApp(t, v.client, v.client.Transport, func(r *http.Request) string {
			switch r.Header.Get("x-streaming-channel") {
			case "limited":
				return bareReply(429)
			case "down":
				return bareReply(503)
			case "denied":
				return bareReply(403)
			}
			return bareReply(200)
		})
		ask := func(channel string, want error) {
			t.Helper()
			time.Sleep(time.Second)
			if _, err := v.verify(t.Context(), channel, "key", ""); !errors.Is(err, want) {
				t.Errorf("%s: %v", channel, err)
			}
		}
		wantLines := func(lines int, last string) {
			t.Helper()
			if strings.Count(logged.String(), "\n") != lines || !strings.Contains(logged.String(), last) {
				t.Errorf("want %d lines, the last with %q: %s", lines, last, logged)
			}
		}
		ask("good", nil)
		ask("down", errApplicationError)
		wantLines(1, `level=WARN msg="application answers key verification with errors; denying publishers" status=503`)
		ask("limited", errApplicationError)
		wantLines(1, "")
		ask("denied", errKeyDenied) // an answer that the application means
		wantLines(2, `level=INFO msg="key verification gets answers from the application again"`)
		for range 90 {
			ask("limited", errApplicationError)
			ask("good", nil)
		}
		if lines := strings.Count(logged.String(), "\n"); lines < 2+2*5 || lines > 2+2*7 {
			t.Errorf("%d lines for three minutes of errors now and then: %s", lines, logged)
		}
		if keysRefused != 1 {
			t.Errorf("%d keys count as refused, want the one that was", keysRefused)
		}
	})
}

func TestNoAnswerIsRetried(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*net.TCPConn){
		"closed":        func(*net.TCPConn) {},
		"reset":         func(conn *net.TCPConn) { _ = conn.SetLinger(0) },
		"half a status": func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "HTTP/1.1 200") },
		"only hints":    func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			v, _ := newTestVerifier(t, clustertest.StartRawApp(t, func(conn *net.TCPConn) {
				if asked.Add(1) <= 2 {
					fail(conn)
				} else {
					_, _ = io.WriteString(conn, bareReply(200))
				}
			}))
			if _, err := v.verify(t.Context(), "channel", "key", ""); err != nil || asked.Load() != 3 {
				t.Errorf("asked %d times: %v", asked.Load(), err)
			}
		})
	}
}

func TestVerifyGivesUpAfterFifteenSeconds(t *testing.T) {
	t.Parallel()
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") }
	for name, test := range map[string]struct {
		dial              func(context.Context, string, string) (net.Conn, error)
		fewest, mostAsked int64
	}{
		"silent application":  {nil, 2, 2}, // 10 s, a delay, the rest
		"refused connections": {refuse, 8, 1000},
		"dialling hangs": {func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				v, logged := newTestVerifier(t, "http://user:s3cret@app.example/?s3cret")
				clustertest.PipeApp(t, v.client, v.client.Transport, func(*http.Request) string { return "" })
				dial := v.client.Transport.DialContext
				if test.dial != nil {
					dial = test.dial
				}
				var asked atomic.Int64
				v.client.Transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					asked.Add(1)
					return dial(ctx, network, address)
				}
				start := time.Now()
				_, err := v.verify(t.Context(), "channel", "s3cret", "")
				if !errors.Is(err, errNoAnswer) || errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 15*time.Second {
					t.Errorf("got %v after %s", err, time.Since(start))
				}
				if asked.Load() < test.fewest || asked.Load() > test.mostAsked {
					t.Errorf("asked %d times", asked.Load())
				}
				if strings.Count(logged.String(), "\n") != 1 || strings.Contains(logged.String()+err.Error(), "s3cret") {
					t.Errorf("logged %q, error %q", logged, err)
				}
			})
		})
	}
}

func TestLateAnswerOfARetryStillCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, _ := newTestVerifier(t, "http://app.example/")
		var asked atomic.Int64
		clustertest.PipeApp(t, v.client, v.client.Transport, func(*http.Request) string {
			if asked.Add(1) == 1 {
				return ""
			}
			time.Sleep(4 * time.Second)
			return bareReply(200)
		})
		start := time.Now()
		_, err := v.verify(t.Context(), "channel", "key", "")
		if took := time.Since(start); err != nil || took < 14*time.Second || took > 15*time.Second {
			t.Errorf("got %v after %s", err, took)
		}
	})
}

func TestVerifyEndsAtOnceWithItsContext(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T, *keyVerifier){
		"awaiting the answer": func(t *testing.T, v *keyVerifier) {
			clustertest.PipeApp(t, v.client, v.client.Transport, func(*http.Request) string { return "" })
		},
		"between attempts": func(_ *testing.T, v *keyVerifier) {
			v.client.Transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
		},
		"awaiting its turn": func(_ *testing.T, v *keyVerifier) {
			for range maxVerifyRequests {
				v.requestTurns <- struct{}{}
			}
		},
	} {
		for end, want := range map[string]error{"cancel": context.Canceled, "deadline": context.DeadlineExceeded} {
			t.Run(name+", "+end, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					v, _ := newTestVerifier(t, "http://app.example/")
					prepare(t, v)
					ctx, cancel := context.WithCancel(t.Context())
					if want == context.DeadlineExceeded {
						ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
					} else {
						time.AfterFunc(5*time.Second, cancel)
					}
					defer cancel()
					start := time.Now()
					_, err := v.verify(ctx, "channel", "key", "")
					if !errors.Is(err, want) || errors.Is(err, errNoAnswer) || time.Since(start) != 5*time.Second {
						t.Errorf("got %v after %s", err, time.Since(start))
					}
				})
			})
		}
	}
}

func TestRequestsAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, _ := newTestVerifier(t, "http://app.example/")
		var now, most atomic.Int64
		clustertest.PipeApp(t, v.client, v.client.Transport, func(*http.Request) string {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(4 * time.Second)
			now.Add(-1)
			return bareReply(200)
		})
		var callers sync.WaitGroup
		var accepted, unanswered atomic.Int64
		for range 4 * maxVerifyRequests {
			callers.Go(func() {
				switch _, err := v.verify(t.Context(), "channel", "key", ""); {
				case err == nil:
					accepted.Add(1)
				case errors.Is(err, errNoAnswer):
					unanswered.Add(1)
				}
			})
		}
		start := time.Now()
		callers.Wait()
		if most.Load() > maxVerifyRequests || time.Since(start) != 15*time.Second {
			t.Errorf("%d at once, over after %s", most.Load(), time.Since(start))
		}
		// Three rounds of 4 s end within 15 s, the fourth does not.
		if accepted.Load() != 3*maxVerifyRequests || unanswered.Load() != maxVerifyRequests {
			t.Errorf("%d accepted, %d without an answer", accepted.Load(), unanswered.Load())
		}
	})
}

func TestSlowAnswerDelaysNoOther(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	target := clustertest.StartHTTPApp(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-streaming-channel") == "slow" {
			close(asked)
			<-r.Context().Done()
		}
	})
	v, _ := newTestVerifier(t, target)
	ctx, cancel := context.WithCancel(t.Context())
	slow := make(chan error, 1)
	go func() {
		_, err := v.verify(ctx, "slow", "key", "")
		slow <- err
	}()
	<-asked
	if _, err := v.verify(t.Context(), "fast", "key", ""); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-slow; !errors.Is(err, context.Canceled) {
		t.Errorf("slow: %v", err)
	}
}

func TestOutageIsLoggedOncePerChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, logged := newTestVerifier(t, "http://app.example/")
		var broken atomic.Bool
		clustertest.PipeApp(t, v.client, v.client.Transport, func(*http.Request) string {
			if broken.Load() {
				return "HTTP/1.1 20"
			}
			return bareReply(200)
		})
		verifyMany := func(want error) {
			var callers sync.WaitGroup
			for range 20 {
				callers.Go(func() {
					if _, err := v.verify(t.Context(), "channel", "key", ""); !errors.Is(err, want) {
						t.Errorf("got %v", err)
					}
				})
			}
			callers.Wait()
			time.Sleep(time.Second)
		}
		for range 3 {
			verifyMany(nil)
			broken.Store(true)
			verifyMany(errNoAnswer)
			verifyMany(errNoAnswer)
			broken.Store(false)
			verifyMany(nil)
		}
		lost := strings.Count(logged.String(), "level=WARN")
		back := strings.Count(logged.String(), "level=INFO")
		if lost != 3 || back != 3 || strings.Count(logged.String(), "\n") != 6 {
			t.Errorf("three outages are logged as %s", logged)
		}
	})
}

func TestAnswerToAnOlderRequestEndsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, logged := newTestVerifier(t, "http://app.example/")
		clustertest.PipeApp(t, v.client, v.client.Transport, func(r *http.Request) string {
			if r.Header.Get("x-streaming-channel") != "slow" {
				return "HTTP/1.1 20"
			}
			time.Sleep(5 * time.Second)
			return bareReply(200)
		})
		var callers sync.WaitGroup
		for channel, want := range map[string]error{"slow": nil, "other": errNoAnswer} {
			callers.Go(func() {
				if _, err := v.verify(t.Context(), channel, "key", ""); !errors.Is(err, want) {
					t.Errorf("%s: %v", channel, err)
				}
			})
		}
		callers.Wait()
		if strings.Count(logged.String(), "\n") != 1 {
			t.Errorf("one outage is logged as %s", logged)
		}
	})
}

func TestOneFailedAttemptIsNoOutage(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	v, logged := newTestVerifier(t, clustertest.StartRawApp(t, func(conn *net.TCPConn) {
		if asked.Add(1)%2 == 0 {
			// It closes the connection and says so: a request on one that is just being closed would fail, too.
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}
	}))
	for range 5 {
		if _, err := v.verify(t.Context(), "channel", "key", ""); err != nil {
			t.Error(err)
		}
	}
	if logged.Len() > 0 {
		t.Errorf("logged %s", logged)
	}
}

func TestVerifyBackoffDoublesWithFullJitter(t *testing.T) {
	t.Parallel()
	for attempt, bound := range map[int]time.Duration{
		1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 3: 400 * time.Millisecond, 4: 800 * time.Millisecond,
		5: 1600 * time.Millisecond, 6: 2 * time.Second, 7: 2 * time.Second, 64: 2 * time.Second, 1 << 40: 2 * time.Second,
	} {
		for random, want := range map[float64]time.Duration{0: 0, 0.5: bound / 2, 0.75: bound / 4 * 3} {
			if got := verifyBackoff(attempt, random); got != want {
				t.Errorf("attempt %d, random %g: got %s, want %s", attempt, random, got, want)
			}
		}
	}
}

// TestRequestsThatAreAnsweredMakeRoomForOthers: were one of them still counted, every publisher would be denied in the end.
func TestRequestsThatAreAnsweredMakeRoomForOthers(t *testing.T) {
	t.Parallel()
	cfg, log := &Config{IDMaxLength: 128}, slog.New(slog.DiscardHandler)
	d, err := newDaemon(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	c := d.coordinator
	denied := &countingServer{}
	s := newServerSession()
	s.server = c.joinServer(attachment{}, denied, serverInfo{kind: kindRTMP})
	publish := func(channel string) {
		c.publish(&s, publishRequest{requestRef: requestRef{id: "1"}, channel: channel, key: "k"}, time.Now())
	}
	const requests = 100 // there is no encoder
	for i := range requests {
		publish(fmt.Sprint("c", i))
	}
	c.wait()
	if pending := c.pending.Load(); pending != 0 || denied.denials.Load() != requests {
		t.Errorf("%d requests are pending, %d denied", pending, denied.denials.Load())
	}
	c.pending.Store(maxPendingPublishes)
	publish("one-too-many")
	c.wait()
	if pending := c.pending.Load(); pending != maxPendingPublishes || denied.denials.Load() != requests+1 {
		t.Errorf("%d requests are pending, %d denied", pending, denied.denials.Load())
	}
}

// countingServer counts denials.
type countingServer struct {
	nowhere
	denials atomic.Int64
}

func (s *countingServer) deny(requestRef, string) { s.denials.Add(1) }
