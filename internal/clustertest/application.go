package clustertest

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Application is the application's two endpoints. It accepts everything unless told otherwise.
type Application struct {
	t      testing.TB
	Server *HTTPServer

	mu sync.Mutex
	// guarded by mu
	onKey   http.HandlerFunc
	onEvent http.HandlerFunc
	keys    []http.Header
	events  []http.Header // those answered with 200, in the order of their arrival
	changed chan struct{}
}

func NewApplication(t testing.TB) *Application {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return NewApplicationOn(t, l)
}

func NewApplicationOn(t testing.TB, l net.Listener) *Application {
	a := &Application{t: t, changed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /verify", a.serveKey)
	mux.HandleFunc("POST /event", a.serveEvent)
	a.Server = &HTTPServer{Handler: mux}
	a.Server.Serve(l)
	t.Cleanup(a.Server.Close)
	return a
}

// Variables are the environment variables that point a daemon to the application.
func (a *Application) Variables(more ...string) []string {
	return append([]string{"KEY_VERIFICATION_URL=" + a.Server.URL + "/verify", "EVENT_CALLBACK_URL=" + a.Server.URL + "/event"}, more...)
}

func (a *Application) AnswerKeys(h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onKey = h
}

// HoldKeysOf makes the answer about a channel wait for release. Other channels are answered at once.
func (a *Application) HoldKeysOf(channel string) (release func()) {
	released := make(chan struct{})
	a.AnswerKeys(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-streaming-channel") != channel {
			return
		}
		select {
		case <-released:
		case <-r.Context().Done():
		}
	})
	return sync.OnceFunc(func() { close(released) })
}

func (a *Application) AnswerEvents(h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onEvent = h
}

func (a *Application) keyHandler() http.HandlerFunc {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.onKey
}

func (a *Application) eventHandler() http.HandlerFunc {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.onEvent
}

func (a *Application) serveKey(w http.ResponseWriter, r *http.Request) {
	a.record(func() { a.keys = append(a.keys, r.Header.Clone()) })
	if h := a.keyHandler(); h != nil {
		h(w, r)
	}
}

func (a *Application) serveEvent(w http.ResponseWriter, r *http.Request) {
	if h := a.eventHandler(); h != nil {
		rec := &statusRecorder{w, http.StatusOK}
		if h(rec, r); rec.status != http.StatusOK {
			return
		}
	}
	a.record(func() { a.events = append(a.events, r.Header.Clone()) })
}

func (a *Application) record(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *Application) Snapshot() (keys, events []http.Header, changed chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.keys, a.events, a.changed
}

// AwaitEvents waits until at least n events have arrived and returns them.
func (a *Application) AwaitEvents(n int) []http.Header {
	a.t.Helper()
	timeout := time.After(Patience)
	for {
		_, events, changed := a.Snapshot()
		if len(events) >= n {
			return events
		}
		select {
		case <-changed:
		case <-timeout:
			a.t.Fatalf("%d events, want %d: %v", len(events), n, events)
		}
	}
}

// AwaitKeys waits until at least n key verifications have arrived.
func (a *Application) AwaitKeys(n int) []http.Header {
	a.t.Helper()
	timeout := time.After(Patience)
	for {
		keys, _, changed := a.Snapshot()
		if len(keys) >= n {
			return keys
		}
		select {
		case <-changed:
		case <-timeout:
			a.t.Fatalf("%d key verifications, want %d", len(keys), n)
		}
	}
}

// Describe is an event in short.
func Describe(h http.Header) string { return EventOf(h).String() }

func DescribeAll(events []http.Header) (list []string) {
	for _, h := range events {
		list = append(list, Describe(h))
	}
	return list
}

// AwaitStream waits for the events of one stream, which are exactly the wanted ones, repeats apart.
func (a *Application) AwaitStream(id string, want ...string) {
	a.t.Helper()
	timeout := time.After(Patience)
	for {
		_, events, changed := a.Snapshot()
		var got []string
		seen := map[string]bool{}
		for _, h := range events {
			if e := EventOf(h); e.StreamID == id && !seen[e.ID] {
				seen[e.ID] = true
				got = append(got, e.String())
			}
		}
		if len(got) > len(want) || strings.Join(got, "\n") != strings.Join(want[:len(got)], "\n") {
			a.t.Fatalf("events of the stream:\n%q, want\n%q", got, want)
		}
		if len(got) == len(want) {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			a.t.Fatalf("events of the stream:\n%q, want\n%q", got, want)
		}
	}
}

// Has tells whether so many events of a stream were taken.
func (a *Application) Has(id string, n int) bool {
	_, events, _ := a.Snapshot()
	for _, h := range events {
		if h.Get("x-streaming-id") == id {
			n--
		}
	}
	return n <= 0
}

// statusRecorder remembers the status of an answer.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController hijack the connection.
func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
