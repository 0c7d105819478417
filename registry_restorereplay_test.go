package main

// Memos that do not agree, together with messages that nobody was done with: the process before died between any two of its
// orders, commits and acknowledgements.

import (
	"fmt"
	"testing"
	"time"

	"coordinator/internal/memo"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// replayCase is a cluster like that of the rows, with messages that are replayed between restore and restored.
type replayCase struct {
	rules          limits
	publications   []memo.Publication
	second         []memo.Publication // at server 4, gateway t, another machine
	at2, at3       []keptStream
	cap2, cap3     int
	drained2       bool
	away           string
	announced      []announcedStream
	replay         func(r *registry, now time.Time)
	orders, events []string
	previous       []string
	state          string
	slots          int
}

func (test *replayCase) run(t *testing.T) *restoredCluster {
	t.Helper()
	c := &restoredCluster{}
	now := time.Unix(1_700_000_000, 0)
	c.r = newRegistry(100, now, c.streamID, c, test.rules)
	in := restoration{gateways: map[string]bool{}, tails: map[uint64]uint32{10: 7, 11: 3}, announced: test.announced}
	for _, g := range []string{"s", "t", "e", "f"} {
		in.gateways[g] = g != test.away
	}
	if in.gateways["s"] {
		in.servers = append(in.servers, keptServer{id: rowServer, gateway: "s", info: serverInfo{kind: kindRTMP, ip: "10.0.0.1", port: 1935}, since: now, peer: &orderedServer{c, rowServer}, publications: test.publications})
	}
	if test.second != nil {
		in.servers = append(in.servers, keptServer{id: 4, gateway: "t", info: serverInfo{kind: kindRTMP, ip: "10.0.0.4", port: 1935}, since: now, peer: &orderedServer{c, 4}, publications: test.second})
	}
	add := func(id uint64, gateway string, capacity int, drained bool, streams []keptStream) {
		if !in.gateways[gateway] {
			return
		}
		if capacity == 0 {
			capacity = 2
		}
		in.encoders = append(in.encoders, keptEncoder{id: id, gateway: gateway, address: fmt.Sprint("10.0.1.", id), since: now, peer: &orderedEncoder{c, id}, memo: memo.Session{Capacity: capacity, Draining: drained}, streams: streams})
	}
	add(rowEncoder, "e", test.cap2, test.drained2, test.at2)
	add(otherEncoder, "f", test.cap3, false, test.at3)
	rs := c.r.restore(in, now)
	if test.replay != nil {
		test.replay(c.r, now)
	}
	rs.restored(now)
	checkInvariants(t, c.r)
	if diff := cmp.Diff(test.orders, c.shortOrders(), cmpopts.EquateEmpty(), cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(test.events, c.shortEvents(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	var previous []string
	for _, ev := range c.told {
		previous = append(previous, ev.StreamID+" after "+ev.Previous)
	}
	if test.previous != nil {
		if diff := cmp.Diff(test.previous, previous); diff != "" {
			t.Errorf("previous (-want +got):\n%s", diff)
		}
	}
	if got := c.summary(); got != test.state {
		t.Errorf("state: %s, want %s", got, test.state)
	}
	if test.slots >= 0 && c.r.slots.used != test.slots {
		t.Errorf("slots used: %d, want %d", c.r.slots.used, test.slots)
	}
	return c
}

func seen(seq uint32, types ...string) func(*keptStream) {
	return func(st *keptStream) {
		st.told.LastSeq = seq
		for _, kind := range types {
			st.told.Outputs = append(st.told.Outputs, memo.Output{StreamType: kind, Resolution: "640x360"})
		}
	}
}

func isProven(p *memo.Publication) { p.Proven = true }

func newcomer(p *memo.Publication) { p.Number, p.PublisherID, p.ID = 11, "p9", "p9" }

func newcomersStream(st *keptStream) { st.Publication, st.ID = 11, "p9" }

// PUBLISH-END of p1 handled, its DONE lost; the publisher is back at once, accepted and started as p9.
func TestRestoreReconnectAfterPublishEndWhoseDoneWasLost(t *testing.T) {
	t.Parallel()
	(&replayCase{
		publications: []memo.Publication{rowPublication(nil), rowPublication(newcomer)},
		at2:          []keptStream{rowStream(1, func(st *keptStream) { st.Closing = true }), rowStream(1, newcomersStream)},
		replay:       func(r *registry, now time.Time) { r.end(r.servers[rowServer], "c", "p1", now) },
		state:        "c live p9 at 2, closing p1", slots: 2,
	}).run(t)
}

// The same with the server's GONE; the publisher is back through another server.
func TestRestoreReconnectAfterGoneWhoseDoneWasLost(t *testing.T) {
	t.Parallel()
	(&replayCase{
		publications: []memo.Publication{rowPublication(nil)},
		second:       []memo.Publication{rowPublication(newcomer)},
		at2:          []keptStream{rowStream(1, func(st *keptStream) { st.Closing = true }), rowStream(1, func(st *keptStream) { newcomersStream(st); st.Server, st.ServerGateway = 4, "t" })},
		replay:       func(r *registry, now time.Time) { r.leaveServer(r.servers[rowServer], now) },
		state:        "c live p9 at 2, closing p1", slots: 2,
	}).run(t)
}

// The same as 01; the newcomer's STREAM-AVAILABLE is among the kept messages, not applied.
func TestRestoreEventOfTheNewcomer(t *testing.T) {
	t.Parallel()
	(&replayCase{
		publications: []memo.Publication{rowPublication(nil), rowPublication(newcomer)},
		at2:          []keptStream{rowStream(1, func(st *keptStream) { st.Closing = true })},
		at3:          []keptStream{rowStream(1, newcomersStream)},
		replay: func(r *registry, now time.Time) {
			r.end(r.servers[rowServer], "c", "p1", now)
			_, own := r.announce(r.encoders[otherEncoder], "c", "p9", announcement{streamType: "HLS-LIVE", resolution: "640x360"}, now)
			if !own {
				t.Error("STREAM-AVAILABLE of p9 is taken for somebody else's")
			}
		},
		events: []string{"p9 1 HLS-LIVE"},
		state:  "c live p9 at 3, closing p1", slots: 2,
	}).run(t)
}

// Takeover or a kill that was ignored: p1 killed, p9 has the channel; the stop of p1's stream was not passed on.
// STREAM-CLOSED of p1 is kept.
func TestRestoreStreamClosedOfAnOustedPublication(t *testing.T) {
	t.Parallel()
	(&replayCase{
		publications: []memo.Publication{rowPublication(func(p *memo.Publication) { p.Killed, p.Proven = true, true }), rowPublication(newcomer)},
		at2:          []keptStream{rowStream(1, seen(3, "HLS-LIVE"))},
		at3:          []keptStream{rowStream(1, newcomersStream)},
		announced:    []announcedStream{{queue: 10, channel: "c", id: "p1", lastSeq: 3}},
		replay: func(r *registry, now time.Time) {
			if _, own := r.streamClosed(r.encoders[rowEncoder], "c", "p1", now, now); !own {
				t.Error("STREAM-CLOSED of p1 is taken for somebody else's")
			}
		},
		orders: []string{"1 kill c p1"},
		events: []string{"p1 4 closed"},
		state:  "c live p9 at 3, ousted p1", slots: 1,
	}).run(t)
}

func TestRestoreStreamAvailableOfAnOustedPublication(t *testing.T) {
	t.Parallel()
	(&replayCase{
		publications: []memo.Publication{rowPublication(func(p *memo.Publication) { p.Killed, p.Proven = true, true }), rowPublication(newcomer)},
		at2:          []keptStream{rowStream(1, seen(3, "HLS-LIVE"))},
		at3:          []keptStream{rowStream(1, newcomersStream)},
		announced:    []announcedStream{{queue: 10, channel: "c", id: "p1", lastSeq: 3}},
		replay: func(r *registry, now time.Time) {
			r.announce(r.encoders[rowEncoder], "c", "p1", announcement{streamType: "HLS-VOD", resolution: "640x360"}, now)
		},
		orders: []string{"1 kill c p1", "2 stop p1"},
		events: []string{"p1 4 HLS-VOD"},
		state:  "c live p9 at 3, ousted p1, closing p1", slots: 2,
	}).run(t)
}

// STREAM-CLOSED of p1 handled: p2 was started at encoder 3, which was passed on; the publication's memo and the DONE were not.
func TestRestoreFailoverWithoutThePublicationsMemo(t *testing.T) {
	t.Parallel()
	(&replayCase{
		rules:        limits{failover: true},
		publications: []memo.Publication{rowPublication(isProven)},
		at2:          []keptStream{rowStream(1, seen(3, "HLS-LIVE"))},
		at3:          []keptStream{rowStream(2, func(st *keptStream) { st.Previous = "p1" })},
		announced:    []announcedStream{{queue: 10, channel: "c", id: "p1", lastSeq: 3}},
		replay:       func(r *registry, now time.Time) { r.streamClosed(r.encoders[rowEncoder], "c", "p1", now, now) },
		events:       []string{"p1 4 closed"},
		state:        "c live p2 at 3", slots: 1,
	}).run(t)
}

// The same with the encoder's GONE, and one slot at encoder 3.
func TestRestoreFailoverAfterGoneWithoutThePublicationsMemo(t *testing.T) {
	t.Parallel()
	(&replayCase{
		rules: limits{failover: true}, cap3: 1,
		publications: []memo.Publication{rowPublication(isProven)},
		at2:          []keptStream{rowStream(1, seen(3, "HLS-LIVE"))},
		at3:          []keptStream{rowStream(2, func(st *keptStream) { st.Previous = "p1"; seen(1, "HLS-LIVE")(st) })},
		announced:    []announcedStream{{queue: 10, channel: "c", id: "p1", lastSeq: 3}, {queue: 10, channel: "c", id: "p2", previous: "p1", lastSeq: 1}},
		replay:       func(r *registry, now time.Time) { r.leaveEncoder(r.encoders[rowEncoder], now) },
		events:       []string{"p1 4 closed"},
		state:        "c live p2 at 3", slots: 1,
	}).run(t)
}

// The other way round: the publication's memo names p2 at encoder 3, its start was not passed on. GONE of encoder 2 is kept.
func TestRestoreFailoverWithoutTheStart(t *testing.T) {
	t.Parallel()
	(&replayCase{
		rules: limits{failover: true},
		publications: []memo.Publication{rowPublication(func(p *memo.Publication) {
			p.Proven, p.Last, p.ID, p.Previous, p.Current = true, 2, "p2", "p1", &memo.Place{Ordinal: 2, Encoder: otherEncoder, Gateway: "f"}
		})},
		at2:       []keptStream{rowStream(1, seen(3, "HLS-LIVE"))},
		announced: []announcedStream{{queue: 10, channel: "c", id: "p1", lastSeq: 3}},
		replay:    func(r *registry, now time.Time) { r.leaveEncoder(r.encoders[rowEncoder], now) },
		orders:    []string{"3 start new1"},
		events:    []string{"p1 4 closed"},
		state:     "c live new1 at 3", slots: 1,
	}).run(t)
}

// HLS-LIVE of the successor handled: the stop of p1 was passed on, the publication's memo not, and the successor's gateway is
// gone. Had its members left, the publication would have gone on at another encoder.
func TestRestoreHandOverWithoutThePublicationsMemoAndItsGatewayIsGone(t *testing.T) {
	t.Parallel()
	(&replayCase{
		rules: limits{failover: true}, away: "f", drained2: false,
		publications: []memo.Publication{rowPublication(func(p *memo.Publication) {
			p.Proven, p.Last, p.Successor = true, 2, &memo.Place{Ordinal: 2, Encoder: otherEncoder, Gateway: "f"}
		})},
		at2:       []keptStream{rowStream(1, func(st *keptStream) { seen(3, "HLS-LIVE")(st); st.Closing, st.Role = true, memo.Retired })},
		announced: []announcedStream{{queue: 10, channel: "c", id: "p1", lastSeq: 3}},
		orders:    []string{"2 start new1"},
		state:     "c live new1 at 2, 1 failed, closing p1", slots: 2,
	}).run(t)
}

// p2 (after p1) was announced and closed, both durable, the DONE lost. What follows it is told to follow p2, not p1.
func TestRestorePreviousAfterASilentAnnouncementAndEnd(t *testing.T) {
	t.Parallel()
	c := (&replayCase{
		rules: limits{failover: true},
		publications: []memo.Publication{rowPublication(func(p *memo.Publication) {
			p.Proven, p.Last, p.ID, p.Previous, p.Current = true, 2, "p2", "p1", &memo.Place{Ordinal: 2, Encoder: rowEncoder, Gateway: "e"}
		})},
		at2: []keptStream{rowStream(2, func(st *keptStream) { st.Previous = "p1" })},
		replay: func(r *registry, now time.Time) {
			r.silent = true
			r.announce(r.encoders[rowEncoder], "c", "p2", announcement{streamType: "HLS-LIVE", resolution: "640x360"}, now)
			r.streamClosed(r.encoders[rowEncoder], "c", "p2", now, now)
			r.silent = false
		},
		orders: []string{"3 start new1"},
		state:  "c live new1 at 3", slots: 1,
	}).run(t)
	if got := c.r.channels.Get("c").current.previous; got != "p2" {
		t.Errorf("the new stream is told to follow %q, want p2", got)
	}
	if n := c.r.encoders[rowEncoder].failures; n != 0 {
		t.Errorf("%d early failures of an encoder that had announced", n)
	}
}

// A move began while p2 (after p1) was unknown to the application. p2 announced: durable, DONE lost, and the successor's memo with the
// new previous lost.
func TestRestorePreviousOfASuccessorAfterASilentAnnouncement(t *testing.T) {
	t.Parallel()
	c := (&replayCase{
		rules: limits{failover: true},
		publications: []memo.Publication{rowPublication(func(p *memo.Publication) {
			p.Proven, p.Last, p.ID, p.Previous = true, 3, "p2", "p1"
			p.Current, p.Successor = &memo.Place{Ordinal: 2, Encoder: rowEncoder, Gateway: "e"}, &memo.Place{Ordinal: 3, Encoder: otherEncoder, Gateway: "f"}
		})},
		at2:       []keptStream{rowStream(2, func(st *keptStream) { st.Previous = "p1" })},
		at3:       []keptStream{rowStream(3, func(st *keptStream) { st.Previous, st.Role = "p1", memo.Successor })},
		announced: []announcedStream{{queue: 10, channel: "c", id: "p2", previous: "p1", lastSeq: 1}},
		replay: func(r *registry, now time.Time) {
			r.silent = true
			r.announce(r.encoders[rowEncoder], "c", "p2", announcement{streamType: "IMG-PREVIEW", resolution: "640x360"}, now)
			r.silent = false
		},
		state: "c live p2 at 2 to p3 at 3", slots: 2,
	}).run(t)
	if got := c.r.channels.Get("c").successor.previous; got != "p2" {
		t.Errorf("the successor is told to follow %q, want p2", got)
	}
}

// The store knows what a stream's events say it follows; its memo is older.
func TestRestorePreviousInTheStoreIsFixed(t *testing.T) {
	t.Parallel()
	c := (&replayCase{
		publications: []memo.Publication{rowPublication(func(p *memo.Publication) {
			p.Proven, p.Last, p.ID, p.Previous = true, 3, "p3", "p2"
			p.Current = &memo.Place{Ordinal: 3, Encoder: otherEncoder, Gateway: "f"}
		})},
		at3:       []keptStream{rowStream(3, func(st *keptStream) { st.Previous = "p1" })},
		announced: []announcedStream{{queue: 10, channel: "c", id: "p3", previous: "p2", lastSeq: 1}},
		state:     "c live p3 at 3", slots: 1,
	}).run(t)
	if got := c.r.channels.Get("c").current.previous; got != "p2" {
		t.Errorf("the stream's next event says after %q, its first one said after p2", got)
	}
}

// The encoder of p1 was cut off. What it said of p1's end came over its next connection and is told; that its old session is gone
// was not. Whichever of the two is taken in first after a start, the application is told once.
func TestRestoreEndThatIsToldAlreadyIsNotToldAgain(t *testing.T) {
	t.Parallel()
	(&replayCase{
		at2:    []keptStream{rowStream(1, seen(2, "HLS-LIVE", "IMG-PREVIEW"))},
		replay: func(r *registry, now time.Time) { r.leaveEncoder(r.encoders[rowEncoder], now) },
		state:  "", slots: 0,
	}).run(t)
	(&replayCase{
		at2: []keptStream{rowStream(1, seen(2, "HLS-LIVE", "IMG-PREVIEW"))},
		replay: func(r *registry, now time.Time) {
			r.announce(r.encoders[rowEncoder], "c", "p1", announcement{streamType: "HLS-VOD", resolution: "640x360"}, now)
			r.streamClosed(r.encoders[rowEncoder], "c", "p1", now, now)
		},
		state: "", slots: 0,
	}).run(t)
	(&replayCase{ // the same, when it is not told
		at2:       []keptStream{rowStream(1, seen(2, "HLS-LIVE", "IMG-PREVIEW"))},
		announced: []announcedStream{{queue: 10, channel: "c", id: "p1", lastSeq: 2}},
		replay:    func(r *registry, now time.Time) { r.leaveEncoder(r.encoders[rowEncoder], now) },
		events:    []string{"p1 3 closed"},
		state:     "", slots: 0,
	}).run(t)
}
