package main

// What is done after a start with memos that do not agree, because the process before died between two orders, or with those
// of gateways that stay away. One case for each row of the table in registry_restore.go.

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"coordinator/internal/memo"
	"coordinator/internal/outbox"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// The cluster of all rows: server 1 at gateway s, encoder 2 at gateway e and encoder 3 at gateway f, each with two slots.
const (
	rowServer, rowEncoder, otherEncoder = 1, 2, 3
)

// rowPublication is publication 10 of channel c, whose publisher's ID is p1, as its memo would be while it is live at
// encoder 2 and nothing has been announced.
func rowPublication(change func(*memo.Publication)) memo.Publication {
	p := memo.Publication{
		Number: 10, Channel: "c", Key: "k", PublisherID: "p1", Resolutions: "ORIGINAL", Since: 1, ID: "p1", Last: 1,
		Current: &memo.Place{Ordinal: 1, Encoder: rowEncoder, Gateway: "e"},
	}
	if change != nil {
		change(&p)
	}
	return p
}

// rowStream is the n-th stream of publication 10.
func rowStream(n uint32, change func(*keptStream)) keptStream {
	st := keptStream{Stream: memo.Stream{ID: fmt.Sprint("p", n), Channel: "c", Ordinal: n, Publication: 10, Server: rowServer, ServerGateway: "s", Since: 1}}
	if change != nil {
		change(&st)
	}
	return st
}

func TestRowsOfARestore(t *testing.T) {
	t.Parallel()
	told := func(seq uint32, types ...string) func(*keptStream) {
		return func(st *keptStream) {
			st.told.LastSeq = seq
			for _, kind := range types {
				st.told.Outputs = append(st.told.Outputs, memo.Output{StreamType: kind, Resolution: "640x360"})
			}
		}
	}
	closing := func(st *keptStream) { st.Closing = true }
	proven := func(p *memo.Publication) { p.Proven = true }
	killed := func(p *memo.Publication) { p.Killed = true }
	moving := func(p *memo.Publication) {
		p.Proven, p.Last = true, 2
		p.Successor = &memo.Place{Ordinal: 2, Encoder: otherEncoder, Gateway: "f"}
	}
	announced := announcedStream{queue: 10, channel: "c", id: "p1", lastSeq: 3}
	const start, stop, kill, closed = "2 start new1", "2 stop p1", "1 kill c p1", "p1 4 closed"
	for _, test := range []struct {
		name         string
		rules        limits
		kind         serverKind
		publications []memo.Publication
		at2, at3     []keptStream // streams at encoders 2 and 3
		away         string       // gateways that are not back
		announced    []announcedStream
		orders       []string
		events       []string
		state        string
	}{
		{name: "as it was", publications: []memo.Publication{rowPublication(nil)}, at2: []keptStream{rowStream(1, nil)}, state: "c live p1 at 2"},
		{name: "as it was, announced", publications: []memo.Publication{rowPublication(proven)}, at2: []keptStream{rowStream(1, told(3, "HLS-LIVE"))},
			announced: []announcedStream{announced}, state: "c live p1 at 2"},
		{name: "names no stream and there is a slot", publications: []memo.Publication{rowPublication(func(p *memo.Publication) { p.Current = nil })},
			rules: limits{encoderWait: time.Minute}, orders: []string{start}, state: "c live new1 at 2"},
		{name: "names no stream and there is no slot", publications: []memo.Publication{rowPublication(func(p *memo.Publication) { p.Current = nil })},
			rules: limits{encoderWait: time.Minute}, away: "ef", state: "c waiting"},
		{name: "start was not passed on", publications: []memo.Publication{rowPublication(nil)}, orders: []string{start}, state: "c live new1 at 2"},
		{name: "start was not passed on, WebSocket", publications: []memo.Publication{rowPublication(nil)}, kind: kindWS, orders: []string{start}, state: "c live new1 at 2"},
		{name: "proven and its stream is not there", publications: []memo.Publication{rowPublication(proven)}, rules: limits{failover: true},
			announced: []announcedStream{announced}, orders: []string{"3 start new1"}, events: []string{closed}, state: "c live new1 at 3"},
		{name: "proven and its stream is not there, no failover", publications: []memo.Publication{rowPublication(proven)},
			announced: []announcedStream{announced}, orders: []string{kill}, events: []string{closed}, state: "c killed"},
		{name: "proven and its stream is not there, WebSocket", publications: []memo.Publication{rowPublication(proven)}, rules: limits{failover: true}, kind: kindWS,
			announced: []announcedStream{announced}, orders: []string{kill}, events: []string{closed}, state: "c killed"},
		{name: "told in the store only, and its stream is not there", publications: []memo.Publication{rowPublication(nil)},
			announced: []announcedStream{announced}, orders: []string{kill}, events: []string{closed}, state: "c killed"},
		{name: "gateway of the encoder is gone", publications: []memo.Publication{rowPublication(nil)}, away: "e", rules: limits{failover: true},
			orders: []string{"3 start new1"}, state: "c live new1 at 3"},
		{name: "gateway of the encoder is gone, no failover", publications: []memo.Publication{rowPublication(nil)}, away: "e", orders: []string{kill}, state: "c killed"},
		{name: "encoder was direct", publications: []memo.Publication{rowPublication(func(p *memo.Publication) { p.Current.Gateway = "" })}, orders: []string{kill}, state: "c killed"},
		{name: "a later stream, the named one is missing", publications: []memo.Publication{rowPublication(proven)}, at3: []keptStream{rowStream(2, nil)},
			announced: []announcedStream{announced}, events: []string{closed}, state: "c live p2 at 3"},
		{name: "a later stream, the named one is closing", publications: []memo.Publication{rowPublication(proven)}, at2: []keptStream{rowStream(1, closing)},
			at3: []keptStream{rowStream(2, nil)}, state: "c live p2 at 3, closing p1"},
		{name: "a later stream, none was named", publications: []memo.Publication{rowPublication(func(p *memo.Publication) { p.Current = nil })},
			at3: []keptStream{rowStream(2, nil)}, state: "c live p2 at 3"},
		{name: "a later stream that is not named, beside the named one", publications: []memo.Publication{rowPublication(proven)},
			at2: []keptStream{rowStream(1, told(3, "HLS-LIVE"))}, at3: []keptStream{rowStream(2, nil)}, orders: []string{"3 stop p2"}, state: "c live p1 at 2, closing p2"},
		{name: "an earlier stream beside the named one", publications: []memo.Publication{rowPublication(func(p *memo.Publication) {
			p.Proven, p.Last, p.Current = true, 2, &memo.Place{Ordinal: 2, Encoder: otherEncoder, Gateway: "f"}
		})}, at2: []keptStream{rowStream(1, told(3, "HLS-LIVE"))}, at3: []keptStream{rowStream(2, nil)}, orders: []string{stop}, state: "c live p2 at 3, closing p1"},
		{name: "stream without a publication", at2: []keptStream{rowStream(1, nil)}, orders: []string{stop}, state: "closing p1"},
		{name: "stream without a publication, closing", at2: []keptStream{rowStream(1, closing)}, state: "closing p1"},
		{name: "gateway of the server is gone", publications: []memo.Publication{rowPublication(nil)}, away: "s", at2: []keptStream{rowStream(1, nil)},
			orders: []string{stop}, state: "closing p1"},
		{name: "a move goes on", publications: []memo.Publication{rowPublication(moving)}, at2: []keptStream{rowStream(1, told(3, "HLS-LIVE"))},
			at3: []keptStream{rowStream(2, told(1, "IMG-PREVIEW"))}, state: "c live p1 at 2 to p2 at 3"},
		{name: "successor has announced its HLS-LIVE", publications: []memo.Publication{rowPublication(moving)}, at2: []keptStream{rowStream(1, told(3, "HLS-LIVE"))},
			at3: []keptStream{rowStream(2, told(1, "HLS-LIVE"))}, orders: []string{stop}, state: "c live p2 at 3, closing p1"},
		{name: "successor takes over from one that is lost", publications: []memo.Publication{rowPublication(moving)},
			at3: []keptStream{rowStream(2, nil)}, state: "c live p2 at 3"},
		{name: "successor is lost", publications: []memo.Publication{rowPublication(moving)}, at2: []keptStream{rowStream(1, nil)}, state: "c live p1 at 2, 1 failed"},
		{name: "current one is closing", publications: []memo.Publication{rowPublication(proven)}, at2: []keptStream{rowStream(1, closing)}, rules: limits{failover: true},
			orders: []string{kill}, state: "c killed, closing p1"},
		{name: "killed", publications: []memo.Publication{rowPublication(killed)}, at2: []keptStream{rowStream(1, nil)}, orders: []string{kill}, state: "c killed, live p1 at 2"},
		{name: "killed, start was not passed on", publications: []memo.Publication{rowPublication(killed)}, orders: []string{kill}, state: "c killed"},
		{name: "killed and ousted", publications: []memo.Publication{
			rowPublication(func(p *memo.Publication) { p.Killed, p.Ousted, p.Current = true, true, nil }),
			rowPublication(func(p *memo.Publication) { p.Number, p.PublisherID, p.ID = 11, "p9", "p9" }),
		}, at2: []keptStream{rowStream(1, func(st *keptStream) { st.Publication, st.ID = 11, "p9" })}, orders: []string{kill}, state: "c live p9 at 2, ousted p1"},
		{name: "two of one channel, none killed", publications: []memo.Publication{
			rowPublication(nil),
			rowPublication(func(p *memo.Publication) { p.Number, p.PublisherID, p.ID = 11, "p9", "p9" }),
		}, at2: []keptStream{rowStream(1, nil), rowStream(1, func(st *keptStream) { st.Publication, st.ID = 11, "p9" })},
			orders: []string{"1 kill c p9", "2 stop p9"}, state: "c live p1 at 2, ousted p9, closing p9"},
		{name: "two of one channel, the first killed", publications: []memo.Publication{
			rowPublication(killed),
			rowPublication(func(p *memo.Publication) { p.Number, p.PublisherID, p.ID = 11, "p9", "p9" }),
		}, at2: []keptStream{rowStream(1, nil), rowStream(1, func(st *keptStream) { st.Publication, st.ID = 11, "p9" })},
			orders: []string{kill, stop}, state: "c live p9 at 2, ousted p1, closing p1"},
		{name: "two of one channel, the second took over", publications: []memo.Publication{
			rowPublication(nil),
			rowPublication(func(p *memo.Publication) { p.Number, p.PublisherID, p.ID, p.TookOver = 11, "p9", "p9", true }),
		}, at2: []keptStream{rowStream(1, nil), rowStream(1, func(st *keptStream) { st.Publication, st.ID = 11, "p9" })},
			orders: []string{kill, stop}, state: "c live p9 at 2, ousted p1, closing p1"},
		{name: "announced in the store, at no encoder", announced: []announcedStream{announced}, events: []string{closed}, state: ""},
		{name: "store knows less than the memo", publications: []memo.Publication{rowPublication(proven)}, at2: []keptStream{rowStream(1, told(5, "HLS-LIVE"))},
			announced: []announcedStream{announced}, state: "c live p1 at 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := &restoredCluster{}
			now := time.Unix(1_700_000_000, 0)
			c.r = newRegistry(100, now, c.streamID, c, test.rules)
			in := restoration{gateways: map[string]bool{}, tails: map[uint64]uint32{10: 7}, announced: test.announced}
			for _, gateway := range []string{"s", "e", "f"} {
				in.gateways[gateway] = !slices.Contains([]byte(test.away), gateway[0])
			}
			kind := test.kind
			if kind == "" {
				kind = kindRTMP
			}
			if in.gateways["s"] {
				in.servers = append(in.servers, keptServer{id: rowServer, gateway: "s", info: serverInfo{kind: kind, ip: "10.0.0.1", port: 1935}, since: now, peer: &orderedServer{c, rowServer}, publications: test.publications})
			}
			for id, gateway := range map[uint64]string{rowEncoder: "e", otherEncoder: "f"} {
				if in.gateways[gateway] {
					in.encoders = append(in.encoders, keptEncoder{id: id, gateway: gateway, address: fmt.Sprint("10.0.1.", id), since: now, peer: &orderedEncoder{c, id}, memo: memo.Session{Capacity: 2}, streams: map[uint64][]keptStream{rowEncoder: test.at2, otherEncoder: test.at3}[id]})
				}
			}
			c.r.restore(in, now).restored(now)
			checkInvariants(t, c.r)
			if diff := cmp.Diff(test.orders, c.shortOrders(), cmpopts.EquateEmpty(), cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" {
				t.Errorf("orders (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.events, c.shortEvents(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			c.checkPositions(t, in.tails)
			if got := c.summary(); got != test.state {
				t.Errorf("state: %s, want %s", got, test.state)
			}
		})
	}
}

// What peers have said while there was no coordinator is taken in before anything is ordered.
func TestMessagesKeptAreTakenInBeforeAnythingIsOrdered(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	available := func(r *registry, streamType string) {
		r.announce(r.encoders[rowEncoder], "c", "p1", announcement{streamType: streamType, resolution: "640x360"}, now)
	}
	for name, test := range map[string]struct {
		replay func(*registry)
		orders []string
		events []string
		state  string
	}{
		"nothing":          {func(*registry) {}, nil, nil, "c live p1 at 2"},
		"publisher ended":  {func(r *registry) { r.end(r.servers[rowServer], "c", "p1", now) }, []string{"2 stop p1"}, nil, "closing p1"},
		"stream available": {func(r *registry) { available(r, "HLS-VOD") }, nil, []string{"p1 2 HLS-VOD"}, "c live p1 at 2"},
		"stream closed": {func(r *registry) { r.streamClosed(r.encoders[rowEncoder], "c", "p1", now, now) },
			[]string{"3 start new1"}, []string{"p1 2 closed"}, "c live new1 at 3"},
		"stream closed, publisher ended": {func(r *registry) {
			r.end(r.servers[rowServer], "c", "p1", now)
			r.streamClosed(r.encoders[rowEncoder], "c", "p1", now, now)
		}, nil, []string{"p1 2 closed"}, ""},
		"encoder left": {func(r *registry) { r.leaveEncoder(r.encoders[rowEncoder], now) }, []string{"3 start new1"}, []string{"p1 2 closed"}, "c live new1 at 3"},
		"both encoders left": {func(r *registry) {
			r.leaveEncoder(r.encoders[rowEncoder], now)
			r.leaveEncoder(r.encoders[otherEncoder], now)
		}, []string{"1 kill c p1"}, []string{"p1 2 closed"}, "c killed"},
		"server left": {func(r *registry) { r.leaveServer(r.servers[rowServer], now) }, []string{"2 stop p1"}, nil, "closing p1"},
		"events are in the store": {func(r *registry) {
			r.silent = true
			available(r, "HLS-LIVE")
			available(r, "HLS-VOD")
			r.silent = false
			available(r, "IMG-PREVIEW")
		}, nil, []string{"p1 2 IMG-PREVIEW"}, "c live p1 at 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &restoredCluster{}
			c.r = newRegistry(100, now, c.streamID, c, limits{failover: true})
			in := restoration{
				gateways: map[string]bool{"s": true, "e": true, "f": true},
				servers: []keptServer{{id: rowServer, gateway: "s", info: serverInfo{kind: kindRTMP, ip: "10.0.0.1"}, peer: &orderedServer{c, rowServer},
					publications: []memo.Publication{rowPublication(func(p *memo.Publication) { p.Proven = true })}}},
				encoders: []keptEncoder{
					{id: rowEncoder, gateway: "e", address: "10.0.1.2", peer: &orderedEncoder{c, rowEncoder}, memo: memo.Session{Capacity: 2}, streams: []keptStream{rowStream(1, nil)}},
					{id: otherEncoder, gateway: "f", address: "10.0.1.3", peer: &orderedEncoder{c, otherEncoder}, memo: memo.Session{Capacity: 2}},
				},
				tails:     map[uint64]uint32{10: 1},
				announced: []announcedStream{{queue: 10, channel: "c", id: "p1", lastSeq: 1}},
			}
			rs := c.r.restore(in, now)
			test.replay(c.r)
			rs.restored(now)
			checkInvariants(t, c.r)
			if diff := cmp.Diff(test.orders, c.shortOrders(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("orders (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.events, c.shortEvents(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			c.checkPositions(t, in.tails)
			if got := c.summary(); got != test.state {
				t.Errorf("state: %s, want %s", got, test.state)
			}
		})
	}
}

// shortOrders are the orders without what a start says beside the stream's ID.
func (c *restoredCluster) shortOrders() (list []string) {
	for _, order := range c.orders {
		var session uint64
		var verb, channel, id string
		fmt.Sscan(order, &session, &verb, &channel, &id)
		if verb == "kill" {
			verb += " " + channel
		}
		list = append(list, fmt.Sprint(session, " ", verb, " ", id))
	}
	return list
}

func (c *restoredCluster) shortEvents() (list []string) {
	for _, ev := range c.told {
		what := ev.StreamType
		if ev.Type == outbox.StreamClosed {
			what = "closed"
		}
		list = append(list, fmt.Sprint(ev.StreamID, " ", ev.Seq, " ", what))
	}
	return list
}

func (c *restoredCluster) summary() (text string) {
	add := func(format string, args ...any) {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf(format, args...)
	}
	for p := range livePublications(c.r) {
		switch {
		case p.killed && p.current != nil:
			add("%s killed, live %s at %d", p.channel, p.current.id, p.current.encoder.id)
		case p.killed:
			add("%s killed", p.channel)
		case p.current == nil:
			add("%s waiting", p.channel)
		case p.successor != nil:
			add("%s live %s at %d to %s at %d", p.channel, p.current.id, p.current.encoder.id, p.successor.id, p.successor.encoder.id)
		default:
			add("%s live %s at %d", p.channel, p.current.id, p.current.encoder.id)
		}
		if p.failedMoves > 0 {
			add("%d failed", p.failedMoves)
		}
	}
	for id := range c.r.ousted {
		add("ousted %s", id)
	}
	for id := range c.r.closing {
		add("closing %s", id)
	}
	return text
}

// Until all is taken in nobody is let in and no time limit runs; then identities go on above those that were found.
func TestNobodyIsLetInBeforeARestoreIsOver(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	c := &restoredCluster{}
	c.r = newRegistry(1, now, c.streamID, c, limits{})
	rs := c.r.restore(restoration{
		gateways: map[string]bool{"s": true, "e": true},
		servers: []keptServer{{id: rowServer, gateway: "s", info: serverInfo{kind: kindRTMP, ip: "10.0.0.1"}, peer: &orderedServer{c, rowServer},
			publications: []memo.Publication{rowPublication(func(p *memo.Publication) { p.Killed = true })}}},
		encoders: []keptEncoder{{id: rowEncoder, gateway: "e", address: "10.0.1.2", peer: &orderedEncoder{c, rowEncoder}, memo: memo.Session{Capacity: 9},
			streams: []keptStream{rowStream(1, nil)}}},
		tails: map[uint64]uint32{},
	}, now)
	ask := claimRequest{requestRef: requestRef{id: "r"}, channel: "other", answerBy: now.Add(time.Minute)}
	if _, err := c.r.claim(c.r.servers[rowServer], ask, now); err != errRestoring {
		t.Errorf("claim: %v", err)
	}
	c.r.expire(now.Add(killPatience))
	if len(c.orders) > 0 {
		t.Errorf("orders before it is over: %q", c.orders)
	}
	rs.restored(now)
	if _, err := c.r.claim(c.r.servers[rowServer], ask, now); err != nil {
		t.Errorf("claim after it: %v", err)
	}
	if p := c.r.channels.Get("other"); p == nil || p.number <= 10 {
		t.Errorf("the next publication is %+v, want a number above 10", p)
	}
	if s := c.r.joinServer(attachment{}, &orderedServer{c, 0}, serverInfo{}, now); s.id <= rowEncoder {
		t.Errorf("the next session is %d", s.id)
	}
}

// A database that has lost its last commits does not know a stream that the application was told of, or not as far. What its memo says
// is written again, for as long as it is not closed, and its end is told.
func TestWhatADatabaseHasLostIsWrittenAgain(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	told := func(id string, ordinal uint32, lastSeq uint32) keptStream {
		return keptStream{Stream: memo.Stream{ID: id, Channel: "c", Ordinal: ordinal, Publication: 10, Server: rowServer, ServerGateway: "s"}, told: memo.Told{LastSeq: lastSeq}}
	}
	for _, lossy := range []bool{true, false} {
		c := &restoredCluster{}
		c.r = newRegistry(100, now, c.streamID, c, limits{})
		rs := c.r.restore(restoration{
			gateways: map[string]bool{"s": true, "e": true},
			encoders: []keptEncoder{{id: rowEncoder, gateway: "e", address: "10.0.1.2", peer: &orderedEncoder{c, rowEncoder}, memo: memo.Session{Capacity: 9},
				streams: []keptStream{told("unknown", 1, 3), told("behind", 2, 4), told("known", 3, 2), told("ends", 4, 5)}}},
			tails:     map[uint64]uint32{10: 3},
			announced: []announcedStream{{queue: 10, channel: "c", id: "behind", lastSeq: 1}, {queue: 10, channel: "c", id: "known", lastSeq: 2}},
			lossy:     lossy,
		}, now)
		c.r.streamClosed(c.r.encoders[rowEncoder], "c", "ends", now, now)
		rs.restored(now)
		var lost, events []string
		for _, a := range rs.lostByStore() {
			lost = append(lost, fmt.Sprint(a.queue, " ", a.channel, " ", a.id, " ", a.lastSeq))
		}
		c.r.streamClosed(c.r.encoders[rowEncoder], "c", "unknown", now, now)
		if lossy {
			events = []string{"ends 6 closed", "unknown 4 closed"}
			if diff := cmp.Diff([]string{"10 c unknown 3", "10 c behind 4"}, lost); diff != "" {
				t.Errorf("written again (-want +got):\n%s", diff)
			}
		} else if len(lost) > 0 {
			t.Errorf("a file has lost %q", lost)
		}
		if diff := cmp.Diff(events, c.shortEvents(), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("lossy %v: events (-want +got):\n%s", lossy, diff)
		}
	}
}
