package main

// The application at its worst, for one channel while it serves the others, in fake time: what is slow shows exactly,
// however fast the machine is. Whatever it does, other channels notice nothing, memory stays flat, the log tells each
// change once, and everything arrives in the end.

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/appclient"
	"coordinator/internal/clustertest"
	"coordinator/internal/control"
)

// misbehaviour is how an application answers. takes says that its answer counts as one with status 200.
type misbehaviour struct {
	name   string
	takes  bool
	answer http.HandlerFunc
}

func misbehaviours() []misbehaviour {
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
		}
	}
	return []misbehaviour{
		{"hangs", false, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"200 after the timeout", false, func(w http.ResponseWriter, _ *http.Request) {
			<-time.After(appclient.AnswerTimeout + time.Second)
			w.WriteHeader(200)
		}},
		{"one byte of the head a second", false, onWire(func(conn net.Conn) { drip(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") })},
		{"one byte of the body a second", true, onWire(func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
			drip(conn, strings.Repeat("b", 1000))
		})},
		{"endless body", true, onWire(func(conn net.Conn) {
			clustertest.WriteEndlessly(conn, "HTTP/1.1 200 OK\r\n\r\n"+strings.Repeat("b", 1000))
		})},
		{"endless body of an error", false, onWire(func(conn net.Conn) {
			clustertest.WriteEndlessly(conn, "HTTP/1.1 503 Service Unavailable\r\n\r\n"+strings.Repeat("b", 1000))
		})},
		{"endless headers", false, onWire(func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			clustertest.WriteEndlessly(conn, "x-a: "+strings.Repeat("b", 1000)+"\r\n")
		})},
		{"endless interim answers", false, onWire(func(conn net.Conn) { clustertest.WriteEndlessly(conn, "HTTP/1.1 103 Early Hints\r\n\r\n") })},
		{"closes without a word", false, onWire(func(net.Conn) {})},
		{"closes in its first line", false, onWire(func(conn net.Conn) { io.WriteString(conn, "HTTP/1.1 20") })},
		{"no HTTP", false, onWire(func(conn net.Conn) { io.WriteString(conn, "220 mail.example.org ESMTP\r\n") })},
		{"redirects", false, status(302, "Location", "/elsewhere")},
		{"redirects for ever", false, status(308, "Location", "/event")},
		{"201", false, status(201)},
		{"401", false, status(401, "WWW-Authenticate", "Basic")},
		{"404", false, status(404)},
		{"429 with seconds", false, status(429, "Retry-After", "90")},
		{"429 with a date", false, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", time.Now().Add(90*time.Second).UTC().Format(http.TimeFormat))
			w.WriteHeader(429)
		}},
		{"429 for years", false, status(429, "Retry-After", "99999999999999999999")},
		{"500", false, status(500)},
	}
}

// onWire answers with bytes instead of HTTP.
func onWire(answer func(net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		answer(conn)
	}
}

// drip writes one byte a second.
func drip(conn net.Conn, text string) {
	for i := range len(text) {
		if _, err := io.WriteString(conn, text[i:i+1]); err != nil {
			return
		}
		<-time.After(time.Second)
	}
}

// witness sees every try of an event, and checks order and repeats.
type witness struct {
	mu     sync.Mutex
	first  map[string]http.Header // by event ID
	told   map[string]int         // events that have come, by stream
	tries  int
	faults []string
}

func newWitness() *witness { return &witness{first: map[string]http.Header{}, told: map[string]int{}} }

func (w *witness) sees(h http.Header) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tries++
	id, stream := h.Get("x-event-id"), h.Get("x-streaming-id")
	if first, known := w.first[id]; known {
		if fmt.Sprint(first) != fmt.Sprint(h) {
			w.faults = append(w.faults, fmt.Sprintf("%s was first %v, then %v", id, first, h))
		}
		return
	}
	w.first[id] = h
	w.told[stream]++
	want := stream + "-" + strconv.Itoa(w.told[stream])
	if h.Get("x-event-type") == "stream-closed" {
		want = stream + "-closed"
	}
	if id != want {
		w.faults = append(w.faults, fmt.Sprintf("%s came when it was the turn of %s", id, want))
	}
}

func (w *witness) count() (tries, different int, faults []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tries, len(w.first), w.faults
}

func isSick(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("x-streaming-channel"), "sick")
}

// hospital is a daemon with an application that misbehaves for channels whose names begin with "sick".
type hospital struct {
	*fakeNet
	app             *clustertest.Application
	listener        clustertest.Pipes
	witness         *witness
	server, encoder *clustertest.Peer
	rounds          int
}

func newHospital(t *testing.T) *hospital {
	h := &hospital{listener: clustertest.NewPipes(), witness: newWitness()}
	h.app = clustertest.NewApplicationOn(t, h.listener)
	h.fakeNet = newFakeNet(t, fakeApplication()...)
	h.reaches(h.listener.Connect)
	h.server, h.encoder = h.dialPeer("rtmp"), h.register()
	h.healed()
	return h
}

func (h *hospital) healed() {
	h.app.AnswerEvents(func(_ http.ResponseWriter, r *http.Request) { h.witness.sees(r.Header.Clone()) })
	h.app.AnswerKeys(nil)
}

func (h *hospital) ill(m misbehaviour) {
	h.app.AnswerEvents(func(w http.ResponseWriter, r *http.Request) {
		h.witness.sees(r.Header.Clone())
		if isSick(r) {
			m.answer(w, r)
		}
	})
}

// round is 15 s in which a healthy channel lives its life and waits for nothing: its key, its events, its slot.
func (h *hospital) round() {
	h.t.Helper()
	h.rounds++
	channel := fmt.Sprint("well-", h.rounds)
	began := time.Now()
	id := clustertest.Publish(h.server, h.encoder, channel)
	h.encoder.Available(channel, id, "HLS-LIVE", "640x360", "live")
	h.encoder.Closed(channel, id)
	h.server.Expect("STREAM-KILL", "Stream-ID", id)
	h.app.AwaitStream(id, "stream-available "+channel+" "+id+" HLS-LIVE 640x360 live", "stream-closed "+channel+" "+id)
	if took := time.Since(began); took > 100*time.Millisecond {
		h.t.Errorf("after %v: the life of a healthy channel took %v", time.Since(h.start), took)
	}
	h.beat()
	h.wait(15*time.Second - time.Since(began))
}

func (h *hospital) beat() {
	h.server.Send("HEARTBEAT")
	h.encoder.Send("HEARTBEAT")
}

// wantHeartbeats holds the beats that the peers got against the time that has passed.
func (h *hospital) wantHeartbeats() {
	h.t.Helper()
	synctest.Wait()
	want := int64(time.Since(h.start) / control.HeartbeatEvery)
	if s, e := h.server.Heartbeats.Load(), h.encoder.Heartbeats.Load(); s != want || e != want {
		h.t.Errorf("%d and %d heartbeats, want %d", s, e, want)
	}
}

// usage is what the process holds.
type usage struct {
	goroutines int
	heap       int64
}

// measured must not run beside other tests.
func measured() usage {
	runtime.GC()
	runtime.GC() // what finalizers and pools let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{runtime.NumGoroutine(), int64(m.HeapAlloc)}
}

func wantNoGrowth(t *testing.T, before usage, goroutines int, heap int64) {
	t.Helper()
	after := measured()
	if after.goroutines > before.goroutines+goroutines || after.heap > before.heap+heap {
		t.Errorf("from %d goroutines and %d KiB to %d and %d KiB", before.goroutines, before.heap>>10, after.goroutines, after.heap>>10)
	}
}

// Not parallel, because it measures the memory of the process.
func TestEventsOfOthersKeepTheirPaceWhateverTheApplicationDoes(t *testing.T) {
	for _, m := range misbehaviours() {
		t.Run(m.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHospital(t)
				h.ill(m)
				sick := map[string][]string{}
				const channels, each = 3, 4
				for i := range channels {
					channel := fmt.Sprint("sick-", i)
					id := clustertest.Publish(h.server, h.encoder, channel)
					for part := range each {
						h.encoder.Available(channel, id, "HLS-LIVE", "640x360", fmt.Sprint(part))
						sick[id] = append(sick[id], fmt.Sprintf("stream-available %s %s HLS-LIVE 640x360 %d", channel, id, part))
					}
					h.encoder.Closed(channel, id)
					h.server.Expect("STREAM-KILL", "Stream-ID", id)
					sick[id] = append(sick[id], "stream-closed "+channel+" "+id)
				}
				for range 4 {
					h.round()
				}
				before := measured()
				for range 20 {
					h.round()
				}
				// A request that hangs has five goroutines, and each sick channel has one or none at the moment of the look.
				// Some KiB a round are the records of this test.
				wantNoGrowth(t, before, 5*channels+2, 512<<10)
				h.wantHeartbeats()
				events := 2*h.rounds + channels*(each+1)
				streams, all := h.logs.Count("did not accept an event"), h.logs.Count("is not accepting events")
				tries, different, _ := h.witness.count()
				if m.takes && (streams+all != 0 || tries != events) {
					t.Errorf("%d tries for %d events, %d and %d lines in the log", tries, events, streams, all)
				}
				if !m.takes && (streams != channels || all > 1 || tries < different+channels || different != 2*h.rounds+channels) {
					t.Errorf("%d tries of %d events, %d and %d lines in the log", tries, different, streams, all)
				}

				h.healed()
				for range 12 { // the longest Retry-After that is heeded, and the backoff
					h.wait(30 * time.Second)
					h.beat()
				}
				h.round()
				for id, want := range sick {
					if !m.takes {
						h.app.AwaitStream(id, want...)
					}
				}
				if h.logs.Count("accepts the events of a stream again") != streams || h.logs.Count("is accepting events again") != all {
					t.Errorf("not each end of trouble has its line:\n%s", h.logs)
				}
				if got := h.logs.Count("level=WARN") + h.logs.Count("level=ERROR"); got != streams+all+channels+h.rounds {
					t.Errorf("%d warnings, want one for each change and each publisher killed:\n%s", got, h.logs)
				}
				if _, _, faults := h.witness.count(); len(faults) > 0 {
					t.Error(strings.Join(faults, "\n"))
				}
				if pending, _ := h.events.Pending(); pending != 0 {
					t.Errorf("%d events are left", pending)
				}
			})
		})
	}
}

func TestVerificationsOfOthersKeepTheirPaceWhateverTheApplicationDoes(t *testing.T) {
	for _, m := range misbehaviours() {
		t.Run(m.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHospital(t)
				h.app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
					if isSick(r) {
						m.answer(w, r)
					}
				})
				const requests = 16
				patients := h.dialPeer("rtmp") // their answers come when they come
				asked := map[string]time.Time{}
				answered := 0
				take := func() {
					for len(patients.In) > 0 {
						answer := <-patients.In
						answered++
						if accepted := answer.Method == "PUBLISH-ACCEPT"; accepted != m.takes {
							t.Fatalf("%s for %s", answer.Method, answer.Get("Stream-Channel"))
						}
						if took := time.Since(asked[answer.Get("Stream-Channel")]); took > verifyTimeout+15*time.Second {
							t.Errorf("answered after %v", took)
						}
						if m.takes {
							h.encoder.Expect("ENCODE-START", "Stream-ID", answer.Get("Stream-ID"))
						}
					}
				}
				var before usage
				for round := range requests {
					if round == 4 {
						before = measured()
					}
					channel := fmt.Sprint("sick-", round)
					asked[channel] = time.Now()
					patients.Request(channel, "key")
					if m.takes {
						h.wait(appclient.DiscardTimeout)
						take()
					}
					h.round()
					patients.Send("HEARTBEAT")
					take()
				}
				h.wait(verifyTimeout)
				take()
				if answered != requests {
					t.Errorf("%d of %d requests are answered", answered, requests)
				}
				wantNoGrowth(t, before, 8, 512<<10)
				h.wantHeartbeats()
				lines := h.logs.Count("key verification gets")
				if lines > 2*requests || m.takes && lines > 0 {
					t.Errorf("%d lines in the log", lines)
				}
			})
		})
	}
}

func TestApplicationThatIsGoneForAnHourGetsEverythingWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHospital(t)
		var gone atomic.Bool
		dialled := atomic.Int64{}
		h.events.client.Transport.DialContext = dialUnless(&gone, &dialled, h.listener)
		h.events.client.Close()
		h.round()

		gone.Store(true)
		h.events.client.Close() // the connections die with it
		lives := map[string][]string{}
		var before usage
		for round := range 240 { // an hour
			channel := fmt.Sprint("show-", round)
			id := clustertest.Publish(h.server, h.encoder, channel)
			h.encoder.Available(channel, id, "HLS-LIVE", "640x360", "live")
			h.encoder.Closed(channel, id)
			h.server.Expect("STREAM-KILL", "Stream-ID", id)
			lives[id] = []string{"stream-available " + channel + " " + id + " HLS-LIVE 640x360 live", "stream-closed " + channel + " " + id}
			h.beat()
			h.wait(15 * time.Second)
			if round == 40 {
				before = measured()
			}
		}
		wantNoGrowth(t, before, 8, 2<<20)
		h.wantHeartbeats()
		if perSecond := dialled.Load() / 3600; perSecond > 100 {
			t.Errorf("%d tries a second at an application that is gone", perSecond)
		}
		if n := h.logs.Count("is not accepting events") + h.logs.Count("did not accept an event"); n == 0 || n > 1+10 {
			t.Errorf("%d lines tell that the application is gone", n)
		}

		gone.Store(false)
		back := time.Now()
		for id, want := range lives {
			for waited := 0; !h.app.Has(id, len(want)) && waited < 60; waited++ {
				h.wait(time.Second)
				if waited%20 == 0 {
					h.beat()
				}
			}
			h.app.AwaitStream(id, want...)
		}
		if took := time.Since(back); took > time.Minute {
			t.Errorf("everything was there %v after the application", took)
		}
		if n := h.logs.Count("is accepting events again"); n != 1 {
			t.Errorf("%d lines tell that the application is back", n)
		}
		if _, _, faults := h.witness.count(); len(faults) > 0 {
			t.Error(strings.Join(faults, "\n"))
		}
		h.round()
	})
}

func dialUnless(gone *atomic.Bool, dialled *atomic.Int64, l clustertest.Pipes) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		if gone.Load() {
			dialled.Add(1)
			return nil, syscall.ECONNREFUSED
		}
		return l.Connect()
	}
}

func TestRequestsThatWaitForTheApplicationHoldLittleMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHospital(t)
		h.app.AnswerKeys(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		before := measured()
		const requests = 400
		for i := range requests {
			h.server.Send("PUBLISH-REQUEST", "Request-ID", strings.Repeat("r", maxRequestIDBytes), "Stream-Channel", fmt.Sprint("show-", i),
				"Stream-Key", "key", "X-Padding", strings.Repeat("x", 60<<10))
		}
		synctest.Wait()
		wantNoGrowth(t, before, 8*requests, requests*32<<10) // goroutines and connections; the messages were 24 MB
		if waiting := h.coordinator.pending.Load(); waiting != requests {
			t.Errorf("%d requests wait", waiting)
		}
	})
}
