package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/pgtest"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

func TestLeadersAreKilledUnderLoad(t *testing.T) {
	t.Parallel()
	pgtest.Needed(t)
	r := play(t, "-profile=failover", "-kills=2", "-kill-every=1s", "-rate=20", "-held=10")
	if got := valueOf(t, r, "leaders killed"); got != 2 {
		t.Errorf("%v leaders were killed, want 2", got)
	}
	if r.Gateways != 2 || r.EventsTold == 0 || r.EventsArrived != r.EventsTold {
		t.Errorf("%d gateways, %d of %d events", r.Gateways, r.EventsArrived, r.EventsTold)
	}
	// Nobody takes over from a leader that was seen within the last 6 s.
	if accepted, leads := valueOf(t, r, "accepted again after, median"), valueOf(t, r, "the next coordinator leads"); leads < 4 || accepted < leads {
		t.Errorf("the next coordinator leads after %v s, and publishers are accepted after %v s", leads, accepted)
	}
	if r.Accept.Max < 4000 {
		t.Errorf("no publisher has waited for longer than %v ms", r.Accept.Max)
	}
}

func TestLivesWithADatabaseSayWhatItCosts(t *testing.T) {
	t.Parallel()
	pgtest.Needed(t)
	r := play(t, "-profile=database", "-rate=100", "-duration=1s", "-snapshot")
	if r.Lives != 100 || r.EventsTold == 0 || r.EventsArrived != r.EventsTold {
		t.Errorf("%d lives, %d of %d events", r.Lives, r.EventsArrived, r.EventsTold)
	}
	for _, figure := range []string{"CPU time of the database per life", "commits within 50 ms", "lives for each commit", "event latency p99"} {
		if valueOf(t, r, figure) <= 0 {
			t.Errorf("%s is not measured", figure)
		}
	}
}

func TestLeadersAreStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	r := play(t, "-profile=failover", "-gentle", "-kills=2", "-kill-every=1s", "-rate=20", "-held=10", "-database="+url)
	if got := valueOf(t, r, "leaders stopped"); got != 2 {
		t.Errorf("%v leaders were stopped, want 2", got)
	}
	if valueOf(t, r, "accepted again after, median") <= 0 || valueOf(t, r, "  and restores all") <= 0 {
		t.Errorf("something was not measured: %+v", r.Figures)
	}
	if n := pgtest.Number(t, url, "SELECT (SELECT count(*) FROM pg_database WHERE datname LIKE 'coordinator_drill%') + (SELECT count(*) FROM pg_stat_user_tables)"); n != 0 {
		t.Errorf("%d databases or tables are left", n)
	}
}

func TestALeaderIsStoppedWhileEventsWait(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t).URL("postgres") // another test counts what is left at the common one
	r := play(t, "-profile=failover", "-gentle", "-kills=1", "-rate=1", "-held=10", "-pending=95", "-database="+url)
	if r.EventsTold < 100 || r.EventsArrived != r.EventsTold { // the same for each stream
		t.Errorf("%d events have arrived of %d that were told", r.EventsArrived, r.EventsTold)
	}
}

// valueOf is that of the figure whose name begins so.
func valueOf(t *testing.T, r *result, name string) float64 {
	t.Helper()
	for _, f := range r.Figures {
		if strings.HasPrefix(f.Name, name) {
			return f.Value
		}
	}
	t.Fatalf("there is no figure %q: %+v", name, r.Figures)
	return 0
}

func TestDrillFailsWhenAnybodyNotices(t *testing.T) {
	t.Parallel()
	const lives = 5
	asItIs := func(e []http.Header) []http.Header { return e }
	for _, c := range []struct {
		story string
		fault func([]http.Header) []http.Header
		first func(c *wrongCoordinator, conn *websocket.Conn, method, channel, id string) bool
		spoil func(*drill)
		want  string // "": it passes
	}{
		{story: "all is well"},
		{story: "an event is repeated", fault: func(e []http.Header) []http.Header { return append([]http.Header{e[0]}, e...) }},
		{story: "an event is lost", fault: func(e []http.Header) []http.Header { return e[1:] }, want: "events lost"},
		{story: "an event comes too late", fault: func(e []http.Header) []http.Header { return []http.Header{e[1], e[0], e[2]} }, want: "events out of order"},
		{story: "an event says something else when it is repeated", fault: func(e []http.Header) []http.Header {
			again := e[0].Clone()
			again.Set("x-event-time", "another")
			return append([]http.Header{again}, e...)
		}, want: "event IDs with two contents"},
		{story: "an event is repeated under another ID", fault: func(e []http.Header) []http.Header {
			again := e[0].Clone()
			again.Set("x-event-id", "another")
			return append([]http.Header{again}, e...)
		}, want: "unexpected messages or events"},
		{story: "a publisher is denied", first: func(c *wrongCoordinator, conn *websocket.Conn, method, channel, id string) bool {
			if method != "PUBLISH-REQUEST" {
				return true
			}
			c.say(conn, "PUBLISH-DENY", channel, id)
			return false
		}, want: "publishers denied"},
		{story: "a publisher is killed", first: func(c *wrongCoordinator, conn *websocket.Conn, method, channel, id string) bool {
			if method == "PUBLISH-END" {
				c.say(conn, "STREAM-KILL", channel, id)
			}
			return true
		}, want: "publishers killed"},
		{story: "a publisher's stream is started a second time", first: func(c *wrongCoordinator, _ *websocket.Conn, method, channel, id string) bool {
			if method == "PUBLISH-END" {
				c.say(c.theEncoder(), "ENCODE-START", channel, "another-"+id)
			}
			return true
		}, want: "unexpected messages or events"},
		{story: "a peer is cut off", first: func(_ *wrongCoordinator, conn *websocket.Conn, method, _, _ string) bool {
			if method == "PUBLISH-END" {
				conn.Close()
			}
			return true
		}, want: "peers disconnected"},
		{story: "a leader was not killed", spoil: func(d *drill) { d.ended-- }, want: "1 of 2 leaders have ended"},
		{story: "there was no load", spoil: func(d *drill) { d.completed.Store(0) }, want: "no stream was played"},
		{story: "a process has ended", spoil: func(d *drill) { close(d.standby.done) }, want: "has ended by itself"},
	} {
		t.Run(c.story, func(t *testing.T) {
			t.Parallel()
			if c.fault == nil {
				c.fault = asItIs
			}
			r, res := playAgainst(t, &wrongCoordinator{fault: c.fault, first: c.first}, 2, lives, 2*time.Second)
			r.under, r.standby = &daemon{done: make(chan struct{})}, &daemon{done: make(chan struct{})}
			d := &drill{rig: r, options: &options{profile: "failover", kills: 2}, ended: 2}
			if c.spoil != nil {
				c.spoil(d)
				res.Lives = d.completed.Load()
			}
			d.lookForTheDead()

			report := d.report(res)

			if passed := c.want == ""; passed != (len(report.Faults) == 0) || passed != strings.HasPrefix(report.Verdict, "passed") || !strings.Contains(strings.Join(report.Faults, "\n"), c.want) {
				t.Errorf("verdict %q, faults %q, want %q", report.Verdict, report.Faults, c.want)
			}
		})
	}
}

// A leader that ends between two messages of a start leaves one of them unsaid. What the next one makes of it is no fault.
func TestStartsMadeAnewAreNoFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		story string
		steps string // accept, start and stop, with the stream's ID
		anew  bool   // leaders end
		taken bool
	}{
		{"a usual life", "start X, accept X, stop X", true, true},
		{"the start was not passed on", "accept X, start Y, stop Y", true, true},
		{"the accept was not passed on", "start X, stop X, start Y, accept Y, stop Y", true, true},
		{"the same, and the encoder hears of its end last", "start X, accept Y, start Y, stop X, stop Y", true, true},
		{"a stream is started again that is there", "start X, accept X, start Y", true, false},
		{"the same, before the accept", "start X, start Y, accept X", true, false},
		{"a start is said twice", "start X, start X", true, false},
		{"an accept is said twice", "start X, accept X, accept X", true, false},
		{"a stop is said twice", "start X, accept X, stop X, stop X", true, false},
		{"a stream is stopped that was not started", "start X, accept X, stop Y", true, false},
		{"the accept has another ID, and no leader has ended", "start X, accept Y", false, false},
		{"the start has another ID, and no leader has ended", "accept X, start Y", false, false},
	} {
		t.Run(c.story, func(t *testing.T) {
			t.Parallel()
			f := newFleet(2, 0, 1)
			f.startsAnew = c.anew
			l := &f.lives[0]
			f.prepare(l, &peer{}, time.Now(), false)
			taken := true
			for step := range strings.SplitSeq(c.steps, ", ") {
				what, id, _ := strings.Cut(step, " ")
				ok := false
				switch what {
				case "accept":
					ok, _ = f.acceptLife(l, 1, id)
				case "start":
					ok = f.startEncoding(l, 1, nil, id)
				case "stop":
					ok = l.finish(1, id)
				}
				taken = taken && ok
			}
			if taken != c.taken {
				t.Errorf("taken: %v, want %v", taken, c.taken)
			}
		})
	}
}

// The accept was not passed on, so the encoder's stream is given up and the request asked again.
func TestLifeIsOverOnlyWithItsLastStream(t *testing.T) {
	t.Parallel()
	f := newFleet(1, 0, 1)
	f.startsAnew = true
	l := &f.lives[0]
	f.prepare(l, &peer{}, time.Now(), false)
	played := func(id string) (steps []step) {
		t.Helper()
		if !f.startEncoding(l, 1, nil, id) || !l.finish(1, id) {
			t.Fatalf("stream %s is not taken", id)
		}
		for _, e := range []clustertest.Event{
			{ID: id + "-1", Type: "stream-available", StreamID: id, IndexFile: indexFile("c", 1)},
			{ID: id + "-closed", Type: "stream-closed", StreamID: id},
		} {
			next, _, publisher := f.arrive(l, 1, e)
			if next == endLife && publisher != "Y" {
				t.Errorf("publisher %q is to end", publisher)
			}
			steps = append(steps, next)
		}
		return steps
	}
	if diff := cmp.Diff([]step{noStep, noStep}, played("X")); diff != "" {
		t.Errorf("the stream that was given up (-want +got):\n%s", diff)
	}
	if known, _ := f.acceptLife(l, 1, "Y"); !known {
		t.Error("the accept is not taken")
	}
	steps := played("Y")
	if steps[len(steps)-1] != completeLife {
		t.Errorf("steps %v, want the last one to complete the life", steps)
	}
}

func TestDrillStartsItsOwnPrograms(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-profile=failover", "-addr=127.0.0.1:80"}, {"-kills=0"}, {"-pending=-1"}, {"-kill-every=-1s"}} {
		if _, err := parseOptions(args, io.Discard); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
	for _, url := range []string{"host=here password=hidden", "mysql://a:hidden@b/c", "postgres://a:hidden@b:c/d", "postgres:///?dbname=d"} {
		if _, err := newDatabase(t.Context(), url); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
