package main

// The load tool against this module's daemon, and against a coordinator that does wrong: a checker that can't fail
// would show nothing.

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"coordinator/internal/pgtest"
	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main{M: m}) }

// play runs a profile against the daemon of this module; the test fails on anything lost or out of order.
func play(t *testing.T, args ...string) *result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	o, err := parseOptions(args, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	o.dir = t.TempDir()
	quiet, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	o.progress = newProgress(quiet)
	report, err := profileOf(o.profile)(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	if err := report.writeTable(&table); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + table.String())
	if len(report.Faults) > 0 {
		t.Fatal(report.Faults)
	}
	return &report.Results[0]
}

// measuresOthers: what another process uses is read from /proc, and is 0 where there is none.
const measuresOthers = runtime.GOOS == "linux"

func TestStreamLivesLoseNothing(t *testing.T) {
	t.Parallel()
	r := play(t, "-profile=life", "-count=300")
	if r.Lives != 300 || r.EventsTold != 600 || r.EventsArrived != 600 {
		t.Errorf("%d lives, %d events told, %d arrived; want 300, 600, 600", r.Lives, r.EventsTold, r.EventsArrived)
	}
	if measuresOthers && (r.CPUPerLife <= 0 || r.MemoryKiB <= 0) || r.Connections <= 0 || r.Accept.P50 <= 0 || r.Event.P50 <= 0 {
		t.Errorf("something was not measured: %+v", r)
	}
}

func TestAnOutageOfTheApplicationLosesNothing(t *testing.T) {
	t.Parallel()
	r := play(t, "-profile=outage", "-duration=1500ms", "-outage=700ms", "-rate=100")
	if r.Lives != 150 || r.EventsArrived != 600 {
		t.Errorf("%d lives, %d events arrived; want 150, 600", r.Lives, r.EventsArrived)
	}
	for _, f := range r.Figures {
		if strings.HasPrefix(f.Name, "events waiting") && f.Value == 0 {
			t.Error("no event waited: there was no outage")
		}
	}
}

func TestStreamLivesBehindGatewaysLoseNothing(t *testing.T) {
	t.Parallel()
	r := play(t, "-profile=life", "-count=300", "-gateways=2")
	if r.Lives != 300 || r.EventsArrived != 600 || r.Gateways != 2 {
		t.Errorf("%d lives, %d events arrived, %d gateways; want 300, 600, 2", r.Lives, r.EventsArrived, r.Gateways)
	}
	if measuresOthers && (r.CPUPerLife <= 0 || r.FrontCPUPerLife <= 0 || r.MemoryKiB <= 0 || r.FrontMemoryKiB <= 0) {
		t.Errorf("something was not measured: %+v", r)
	}
}

func TestStreamsAtGatewaysOutliveTheCoordinator(t *testing.T) {
	t.Parallel()
	r := play(t, "-profile=resume", "-connections=20", "-streams=100", "-count=100")
	if r.Gateways != 2 || r.Lives != 100 {
		t.Errorf("%d gateways, %d lives after the start; want 2, 100", r.Gateways, r.Lives)
	}
	if len(r.Figures) == 0 || r.Figures[0].Name != "all is restored after" || r.Figures[0].Value <= 0 {
		t.Errorf("figures: %+v", r.Figures)
	}
	for _, f := range r.Figures {
		if strings.Contains(f.Name, "over the links") && f.Value <= 0 {
			t.Errorf("%s: %v", f.Name, f.Value)
		}
	}
}

func TestGatewaysAreForProgramsThatTheToolStarts(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-gateways=1", "-addr=127.0.0.1:80"}, {"-gateways=1", "-profile=demo"}, {"-gateways=-1"}, {"-profile=resume", "-addr=127.0.0.1:80"}} {
		if _, err := parseOptions(args, io.Discard); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}

// wrongCoordinator answers publish requests and passes on events, with one fault in the events of every stream.
type wrongCoordinator struct {
	// set once
	app     *application
	fault   func(events []http.Header) []http.Header
	first   func(c *wrongCoordinator, conn *websocket.Conn, method, channel, id string) (goOn bool) // nil: nothing comes before
	encoder chan *websocket.Conn                                                                    // holds the one encoder, once it has registered

	writing sync.Mutex
	mu      sync.Mutex
	events  map[string][]http.Header // of each stream so far, guarded by mu
}

func (c *wrongCoordinator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var upgrader websocket.Upgrader
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		_, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		c.handle(conn, message)
	}
}

func (c *wrongCoordinator) handle(conn *websocket.Conn, message []byte) {
	channel := wire.Value(message, "Stream-Channel")
	id := "id-" + channel
	if c.first != nil && !c.first(c, conn, wire.Method(message), channel, id) {
		return
	}
	switch wire.Method(message) {
	case "REGISTER":
		c.encoder <- conn
	case "PUBLISH-REQUEST":
		c.say(conn, "PUBLISH-ACCEPT", channel, id)
		c.say(c.theEncoder(), "ENCODE-START", channel, id)
	case "PUBLISH-END":
		c.say(c.theEncoder(), "ENCODE-STOP", channel, id)
	case "STREAM-AVAILABLE":
		c.note(channel, http.Header{"X-Event-Type": {"stream-available"}, "X-Index-File": {wire.Value(message, "Index-file")}})
	case "STREAM-CLOSED":
		for _, header := range c.fault(c.note(channel, http.Header{"X-Event-Type": {"stream-closed"}})) {
			request, err := http.NewRequest(http.MethodPost, c.app.events.URL, nil)
			if err != nil {
				return
			}
			request.Header, request.Close = header, true
			if reply, err := http.DefaultClient.Do(request); err == nil {
				reply.Body.Close()
			}
		}
	}
}

func (c *wrongCoordinator) say(conn *websocket.Conn, method, channel, id string) {
	c.writing.Lock()
	defer c.writing.Unlock()
	conn.WriteMessage(websocket.TextMessage, wire.Append(nil, method, "Request-ID", channel, "Stream-Channel", channel, "Stream-ID", id))
}

func (c *wrongCoordinator) theEncoder() *websocket.Conn {
	conn := <-c.encoder
	c.encoder <- conn
	return conn
}

func (c *wrongCoordinator) note(channel string, event http.Header) []http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	event.Set("x-streaming-channel", channel)
	event.Set("x-streaming-id", "id-"+channel)
	event.Set("x-event-id", channel+event.Get("x-event-type")+event.Get("x-index-file"))
	c.events[channel] = append(c.events[channel], event)
	return c.events[channel]
}

// playAgainst plays lives against a coordinator that does wrong.
func playAgainst(t *testing.T, c *wrongCoordinator, announcements, lives int, quiet time.Duration) (*rig, result) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	f := newFleet(announcements, time.Millisecond, lives)
	f.contents = newContents()
	app, err := newApplication("127.0.0.1:0", "127.0.0.1:0", f.take)
	if err != nil {
		t.Fatal(err)
	}
	c.app, c.encoder, c.events = app, make(chan *websocket.Conn, 1), map[string][]http.Header{}
	wrong := httptest.NewServer(c)
	defer wrong.Close()
	addr := wrong.Listener.Addr().String()
	f.dial = []dialler{{addr: addr}}
	r := &rig{fleet: f, app: app, under: &daemon{addr: addr}, name: "wrong", stopBeat: func() {}}
	defer r.close()
	if err := r.connect(ctx, 1, 1); err != nil {
		t.Fatal(err)
	}
	return r, r.result(r.measure(func() { r.openLoop(ctx, r.lives, 1000, quiet) }))
}

func TestWhatACoordinatorDoesWrongIsCounted(t *testing.T) {
	t.Parallel()
	const lives, announcements = 5, 3
	for _, c := range []struct {
		story                                   string
		fault                                   func([]http.Header) []http.Header
		completed, lost, repeated, swapped, odd int64
	}{ // each in the events of every stream
		{"nothing", func(e []http.Header) []http.Header { return e }, lives, 0, 0, 0, 0},
		{"loses an event", func(e []http.Header) []http.Header { return []http.Header{e[0], e[2], e[3]} }, 0, lives, 0, 0, 0},
		{"loses the end", func(e []http.Header) []http.Header { return e[:3] }, 0, lives, 0, 0, 0},
		{"repeats an event", func(e []http.Header) []http.Header { return []http.Header{e[0], e[1], e[1], e[2], e[3]} }, lives, 0, lives, 0, 0},
		{"swaps two events", func(e []http.Header) []http.Header { return []http.Header{e[0], e[2], e[1], e[3]} }, lives, 0, 0, lives, 0},
		{"sends the end too early", func(e []http.Header) []http.Header { return []http.Header{e[0], e[1], e[3], e[2]} }, lives, 0, 0, lives, 0},
		{"gives a repeated event another ID", func(e []http.Header) []http.Header {
			again := e[1].Clone()
			again.Set("x-event-id", "another")
			return []http.Header{e[0], e[1], again, e[2], e[3]}
		}, lives, 0, 0, 0, lives},
	} {
		t.Run(c.story, func(t *testing.T) {
			t.Parallel()
			quiet := 20 * time.Second
			if c.lost > 0 {
				quiet = 2 * time.Second
			}
			_, got := playAgainst(t, &wrongCoordinator{fault: c.fault}, announcements, lives, quiet)

			if got.Lives != c.completed || got.Lost != c.lost || got.Repeated != c.repeated || got.OutOfOrder != c.swapped || got.Unexpected != c.odd {
				t.Errorf("completed %d lost %d repeated %d out of order %d unexpected %d, want %d %d %d %d %d", got.Lives, got.Lost, got.Repeated,
					got.OutOfOrder, got.Unexpected, c.completed, c.lost, c.repeated, c.swapped, c.odd)
			}
			if clean := len(got.faults()) == 0; clean != (c.lost+c.swapped+c.odd == 0) {
				t.Errorf("faults: %q", got.faults())
			}
		})
	}
}
