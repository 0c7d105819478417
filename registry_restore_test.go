package main

// The central property of gateways: what they have kept makes the same state again, and for gateways that stay away the
// state that their members' leaving would have left. Random clusters, random sets of gateways that stay away.

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"coordinator/internal/outbox"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestWhatGatewaysKeptMakesTheSameStateAgain(t *testing.T) {
	t.Parallel()
	const clusters, looks, stepsApart = 20, 12, 60 // of each kind: 3,840 comparisons in all
	var seen restoreStories
	for kind := range 16 {
		rules := limits{failover: kind&1 != 0, takeover: kind&8 != 0}
		if kind&2 != 0 {
			rules.encoderWait = 6 * time.Second
		}
		if kind&4 != 0 {
			rules.startTimeout = 15 * time.Second
		}
		for range clusters {
			seed := rand.Uint64()
			m := newClusterModel(t, rules, rand.New(rand.NewPCG(seed, 0)))
			for range looks {
				m.run(stepsApart)
				m.compareRestored(seed, &seen)
			}
		}
	}
	t.Logf("%+v", seen)
	if seen.live == 0 || seen.waiting == 0 || seen.killed == 0 || seen.moving == 0 || seen.closing == 0 || seen.strangers == 0 || seen.resumed == 0 || seen.closedEvents == 0 || seen.ousted == 0 {
		t.Errorf("not all stories were told: %+v", seen)
	}
}

// restoreStories counts what was compared.
type restoreStories struct {
	live, waiting, killed, moving, closing, ousted int // before
	strangers, resumed, closedEvents               int // after
}

// run takes random steps, and puts each new session at one of three gateways, or at none.
func (m *clusterModel) run(steps int) {
	actions := m.actions()
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	for range steps {
		pick := m.rnd.IntN(total)
		for _, a := range actions {
			if pick -= a.weight; pick < 0 {
				a.do()
				break
			}
		}
		m.r.mu.Lock()
		for id, s := range m.r.servers {
			s.gateway = gatewayOf(id)
		}
		for id, e := range m.r.encoders {
			e.gateway = gatewayOf(id)
		}
		m.r.mu.Unlock()
		m.now = m.now.Add(time.Duration(m.rnd.IntN(300)) * time.Millisecond)
	}
}

// gatewayOf spreads sessions over three gateways; some are direct.
func gatewayOf(session uint64) string {
	return []string{"g1", "g2", "g3", "g1", "g2", "g3", ""}[session*5%7]
}

// compareRestored makes the registry's state again from what gateways keep, and compares.
func (m *clusterModel) compareRestored(seed uint64, seen *restoreStories) {
	m.t.Helper()
	if len(m.r.takeovers) > 0 && m.r.waiting.Len() > 0 {
		return // a start knows nothing of the slots that are reserved, and who waits would get them
	}
	away := map[string]bool{"": true}
	back := map[string]bool{}
	for _, gateway := range []string{"g1", "g2", "g3"} {
		if m.rnd.IntN(3) == 0 {
			away[gateway] = true
		} else {
			back[gateway] = true
		}
	}

	original := cloneOf(m)
	in := restoration{gateways: back, tails: original.tails, announced: original.announcedStreams()}
	servers, encoders := original.r.export()
	in.servers = slices.DeleteFunc(servers, func(s keptServer) bool { return away[s.gateway] })
	in.encoders = slices.DeleteFunc(encoders, func(e keptEncoder) bool { return away[e.gateway] })

	again := &restoredCluster{}
	again.r = newRegistry(m.r.lastID+1, m.now, again.streamID, again, m.rules)
	again.r.lastID, again.r.lastNumber, again.r.random = m.r.lastID, m.r.lastNumber, first
	for i := range in.servers {
		in.servers[i].peer = &orderedServer{again, in.servers[i].id}
	}
	for i := range in.encoders {
		in.encoders[i].peer = &orderedEncoder{again, in.encoders[i].id}
	}
	seen.count(original.r)

	original.r.leaveGateways(func(gateway string) bool { return away[gateway] }, m.now)
	checkInvariants(m.t, original.r)
	again.r.restore(in, m.now).restored(m.now)
	checkInvariants(m.t, again.r)

	want, got := describe(original.r), describe(again.r)
	if diff := gocmp.Diff(want, got); diff != "" {
		m.t.Fatalf("seed %d, %+v, away %v: state (-as if they had left +restored):\n%s\nbefore:\n%s", seed, m.rules, away, diff, strings.Join(original.before, "\n"))
	}
	if diff := gocmp.Diff(original.events(), again.events(), cmpopts.EquateEmpty()); diff != "" {
		m.t.Fatalf("seed %d, away %v: events (-as if they had left +restored):\n%s", seed, away, diff)
	}
	again.checkPositions(m.t, in.tails)
	wanted := slices.DeleteFunc(slices.Clone(original.orders), func(order string) bool { return original.isAway(order, away) })
	if diff := gocmp.Diff(sorted(wanted), sorted(again.ordersBut(original.killsBefore)), cmpopts.EquateEmpty()); diff != "" {
		m.t.Fatalf("seed %d, away %v: orders (-as if they had left +restored):\n%s", seed, away, diff)
	}
	seen.resumed += again.lastID
	seen.closedEvents += len(again.told)
	for _, st := range again.r.closing {
		if st.pub.server.gone {
			seen.strangers++
		}
	}
}

func (seen *restoreStories) count(r *registry) {
	for p := range livePublications(r) {
		switch {
		case p.killed:
			seen.killed++
		case p.waiting != nil:
			seen.waiting++
		case p.successor != nil:
			seen.moving++
		default:
			seen.live++
		}
	}
	seen.closing += len(r.closing)
	seen.ousted += len(r.ousted)
}

func first(int) int { return 0 }

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// restoredCluster writes down what is ordered and told.
type restoredCluster struct {
	r      *registry
	lastID int
	orders []string // "session words"
	told   []outbox.Event

	// of a clone
	tails       map[uint64]uint32
	announced   map[string]announcedStream
	killsBefore map[string]bool
	gateways    map[string]string // by session
	before      []string
}

func (c *restoredCluster) streamID() string {
	c.lastID++
	return fmt.Sprint("new", c.lastID)
}

func (*restoredCluster) End(outbox.Mark) {}

func (c *restoredCluster) AppendPart(ev outbox.Event) { c.told = append(c.told, ev) }

// events are what was told, of each stream; in which order the ends of several streams of a publication are told is free.
func (c *restoredCluster) events() (list []string) {
	for _, ev := range c.told {
		list = append(list, fmt.Sprint(ev.Queue, " ", ev.Channel, " ", ev.StreamID, " ", ev.Seq, " closed ", ev.Type == outbox.StreamClosed, " after ", ev.Previous))
	}
	slices.Sort(list)
	return list
}

// checkPositions: the events of each queue go on where those in the store end.
func (c *restoredCluster) checkPositions(t *testing.T, tails map[uint64]uint32) {
	t.Helper()
	next := maps.Clone(tails)
	for _, ev := range c.told {
		if ev.Position != next[ev.Queue] {
			t.Fatalf("event %+v is at position %d, want %d", ev, ev.Position, next[ev.Queue])
		}
		next[ev.Queue]++
	}
}

func (c *restoredCluster) order(session uint64, words ...string) {
	c.orders = append(c.orders, fmt.Sprint(session, " ", strings.Join(words, " ")))
}

func (c *restoredCluster) isAway(order string, away map[string]bool) bool {
	session, _, _ := strings.Cut(order, " ")
	return away[c.gateways[session]]
}

// ordersBut leaves out the kills of those that were killed before: they are said again after a start.
func (c *restoredCluster) ordersBut(kills map[string]bool) []string {
	return slices.DeleteFunc(slices.Clone(c.orders), func(order string) bool { return kills[order] })
}

func (c *restoredCluster) announcedStreams() []announcedStream {
	return slices.Collect(maps.Values(c.announced))
}

type orderedServer struct {
	c  *restoredCluster
	id uint64
}

func (s *orderedServer) accept(_ requestRef, channel, streamID string, _ uint64) {
	s.c.order(s.id, "accept", channel, streamID)
}
func (s *orderedServer) deny(_ requestRef, channel string) { s.c.order(s.id, "deny", channel) }
func (s *orderedServer) kill(channel, streamID string)     { s.c.order(s.id, "kill", channel, streamID) }
func (s *orderedServer) keepsUp() bool                     { return true }
func (s *orderedServer) probe(uint64)                      {}

type orderedEncoder struct {
	c  *restoredCluster
	id uint64
}

func (e *orderedEncoder) start(job encodeJob)           { e.c.order(e.id, "start", fmt.Sprint(job)) }
func (e *orderedEncoder) stop(channel, streamID string) { e.c.order(e.id, "stop", channel, streamID) }
func (e *orderedEncoder) probe(uint64)                  {}

// cloneOf copies the model's registry, without requests that wait and with time limits that have just begun: of both a
// start knows nothing. Only one encoder is being emptied, since which one goes first is free.
func cloneOf(m *clusterModel) *restoredCluster {
	c := &restoredCluster{tails: map[uint64]uint32{}, announced: map[string]announcedStream{}, killsBefore: map[string]bool{}, gateways: map[string]string{}}
	for _, p := range m.all {
		c.tails[p.queue] = p.events
	}
	delete(c.tails, 0)
	r := newRegistry(m.r.lastID+1, m.now, c.streamID, c, m.rules)
	r.lastID, r.lastNumber, r.random = m.r.lastID, m.r.lastNumber, first
	c.r = r
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	servers, publications := map[*server]*server{}, map[*publication]*publication{}
	serverOf := func(s *server) *server {
		if servers[s] == nil {
			copied := &server{serverInfo: s.serverInfo, attachment: attachment{id: s.id, gateway: s.gateway, since: s.since}, peer: &orderedServer{c, s.id}, gone: s.gone, draining: s.draining}
			servers[s] = copied
			c.gateways[fmt.Sprint(s.id)] = s.gateway
		}
		return servers[s]
	}
	publicationOf := func(p *publication) *publication {
		if publications[p] == nil {
			copied := *p
			copied.server, copied.current, copied.successor, copied.waiting, copied.inServer = serverOf(p.server), nil, nil, nil, 0
			publications[p] = &copied
		}
		return publications[p]
	}
	for _, id := range slices.Sorted(maps.Keys(m.r.servers)) {
		s := serverOf(m.r.servers[id])
		s.twin = twin{session: id, prober: s.peer}
		r.servers[id] = s
		r.enterTwinsLocked(&s.twin, twinKey{string(s.kind), s.ip, s.port})
		for _, p := range slices.SortedFunc(slices.Values(m.r.servers[id].publications), byNumber) {
			copied := publicationOf(p)
			s.publications.Add(copied)
			if p.ousted {
				r.ousted[p.publisherID] = copied
			} else {
				r.channels.Add(copied)
			}
			if p.killed {
				r.killed[copied] = &killing{since: m.now}
				c.killsBefore[fmt.Sprint(s.id, " kill ", p.channel, " ", p.publisherID)] = true
			}
		}
	}
	avoided := map[*publication]uint64{}
	for el := m.r.waiting.Front(); el != nil; el = el.Next() {
		if w := el.Value.(*waiter); w.pub != nil {
			copied := publicationOf(w.pub)
			copied.waiting = r.waiting.PushBack(&waiter{pub: copied})
			if w.avoid != nil {
				avoided[copied] = w.avoid.id
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.r.encoders)) {
		e := m.r.encoders[id]
		copied := &encoder{attachment: attachment{id: id, gateway: e.gateway, since: e.since}, address: e.address, peer: &orderedEncoder{c, id}, capacity: e.capacity, draining: e.draining}
		c.gateways[fmt.Sprint(id)] = e.gateway
		copied.twin = twin{session: id, prober: copied.peer}
		r.encoders[id] = copied
		r.slots.add(e.capacity)
		r.enterTwinsLocked(&copied.twin, twinKey{kind: "HLS", address: e.address})
		if _, moving := m.r.moving[e]; moving && len(r.moving) == 0 {
			r.moving[copied] = struct{}{}
		}
		inOrder := func(a, b *stream) int {
			return cmp.Or(cmp.Compare(a.pub.number, b.pub.number), cmp.Compare(a.ordinal, b.ordinal))
		}
		for _, st := range slices.SortedFunc(slices.Values(e.streams), inOrder) {
			p := publicationOf(st.pub)
			again := &stream{id: st.id, pub: p, encoder: copied, previous: st.previous, closing: st.closing, retiredFor: st.retiredFor, ordinal: st.ordinal, lastSeq: st.lastSeq, outputs: slices.Clone(st.outputs)}
			copied.streams.Add(again)
			r.slots.used++
			if st.retiredFor != notEnded {
				copied.retired++
			}
			switch st {
			case st.pub.current:
				p.current = again
			case st.pub.successor:
				p.successor = again
			}
			if st.closing {
				r.closing[st.id] = again
			} else if m.rules.startTimeout > 0 {
				r.started = append(r.started, again)
			}
			if st.lastSeq > 0 {
				c.announced[st.id] = announcedStream{queue: p.number, channel: p.channel, id: st.id, previous: st.previous, lastSeq: st.lastSeq}
			}
		}
	}
	for p, id := range avoided {
		p.waiting.Value.(*waiter).avoid = r.encoders[id]
	}
	checkInvariants(m.t, r)
	c.before = describe(r)
	return c
}

// describe is all that the property is about: not time limits, nor what is known of the health of encoders.
func describe(r *registry) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	id := func(st *stream) string {
		if st == nil {
			return "none"
		}
		return st.id
	}
	for _, key := range slices.Sorted(maps.Keys(r.servers)) {
		s := r.servers[key]
		say("server %d at %q %+v since %v draining %v", s.id, s.gateway, s.serverInfo, s.since.UnixNano(), s.draining)
		for _, p := range slices.SortedFunc(slices.Values(s.publications), byNumber) {
			avoid := uint64(0)
			if p.waiting != nil && p.waiting.Value.(*waiter).avoid != nil {
				avoid = p.waiting.Value.(*waiter).avoid.id
			}
			if avoid != 0 && r.encoders[avoid] == nil {
				avoid = 0
			}
			say("  publication %d %s %q %s %+v since %d, known as %s, current %s, successor %s, waiting %v avoiding %d, proven %v killed %v %v ousted %v took over %v, %d failed moves, %d events, %d streams",
				p.number, p.channel, p.key, p.publisherID, p.settings.Value(), p.since, p.id, id(p.current), id(p.successor), p.waiting != nil, avoid, p.proven, p.killed, r.killed[p] != nil, p.ousted, p.tookOver, p.failedMoves, p.events, p.lastOrdinal)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.encoders)) {
		e := r.encoders[key]
		_, moving := r.moving[e]
		say("encoder %d at %q %s of %d since %v draining %v moving %v, %d retired", e.id, e.gateway, e.address, e.capacity, e.since.UnixNano(), e.draining, moving, e.retired)
		for _, st := range e.streams {
			say("  stream %s ordinal %d of %d %s at server %d after %q closing %v retired %v, %d told %v", st.id, st.ordinal, st.pub.number, st.pub.channel, st.pub.server.id, st.previous, st.closing, st.retiredFor, st.lastSeq, st.outputs)
		}
	}
	say("slots %+v", r.slots)
	return lines
}
