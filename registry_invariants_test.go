package main

// What must hold in the registry between any two transitions, recounted from scratch.

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"testing"
)

// checkInvariants holds the whole state against the rules and ends the test at the first look that finds faults.
func checkInvariants(t testing.TB, r *registry) {
	t.Helper()
	for _, fault := range invariantFaults(r) {
		t.Error("invariant broken: ", fault)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// invariantFaults are the rules that the state breaks.
func invariantFaults(r *registry) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &invariantCheck{r: r}
	c.encoders()
	c.servers()
	c.streams()
	c.publications()
	c.waiting()
	c.startTimes()
	c.held()
	c.takeovers()
	c.twins()
	c.hold(!r.told, "a transition has told an event and not ended")
	return c.faults
}

// checkEmpty is checkInvariants once all peers are gone: nothing is left of them.
func checkEmpty(t testing.TB, r *registry) {
	t.Helper()
	checkInvariants(t, r)
	r.mu.Lock()
	defer r.mu.Unlock()
	left := fmt.Sprint("servers ", len(r.servers), " encoders ", len(r.encoders), " moving ", len(r.moving), " channels ", r.channels.Len(),
		" closing ", len(r.closing), " slots ", r.slots, " waiting ", r.waiting.Len(), " requests ", r.waitingCount, " killed ", len(r.killed), " ousted ", len(r.ousted), " held ", len(r.held), " ", r.heldCount, " takeovers ", len(r.takeovers), " twins ", len(r.twins), " ", len(r.unprobed), " losses ", len(r.losses), " interrupted ", len(r.interrupted), " notices ", len(r.notices))
	if want := "servers 0 encoders 0 moving 0 channels 0 closing 0 slots {0 0 0} waiting 0 requests 0 killed 0 ousted 0 held 0 0 takeovers 0 twins 0 0 losses 0 interrupted 0 notices 0"; left != want {
		t.Fatalf("left in the registry: %s", left)
	}
}

type invariantCheck struct {
	r      *registry
	faults []string
}

func (c *invariantCheck) hold(ok bool, format string, args ...any) {
	if !ok {
		c.faults = append(c.faults, fmt.Sprintf(format, args...))
	}
}

func (c *invariantCheck) encoders() {
	var slots slotCount
	for id, e := range c.r.encoders {
		c.hold(e.id == id && !e.gone, "encoder %d is in the map as %d, gone %v", e.id, id, e.gone)
		slots.used += len(e.streams) + e.reserved
		retired := 0
		for _, st := range e.streams {
			if st.retiredFor != notEnded {
				retired++
				c.hold(st.closing, "stream %s is retired and not closing", st.id)
			}
		}
		c.hold(e.retired == retired, "encoder %d counts %d retired streams, has %d", e.id, e.retired, retired)
		if e.capacity < 0 {
			slots.unlimited++
		} else {
			slots.capacity += e.capacity
		}
		for i, st := range e.streams {
			c.hold(st.encoder == e && int(*st.Index()) == i, "stream %s is at %d with encoder %d, thinks itself at %d with encoder %d", st.id, i, e.id, *st.Index(), st.encoder.id)
		}
		c.hold(e.id <= c.r.lastID, "encoder %d is above the last identity %d", e.id, c.r.lastID)
	}
	c.hold(c.r.slots == slots, "slots are counted as %+v, are %+v", c.r.slots, slots)
	for e := range c.r.moving {
		c.hold(c.r.encoders[e.id] == e && e.draining, "encoder %d is being emptied, connected %v, draining %v", e.id, c.r.encoders[e.id] == e, e.draining)
	}
}

func (c *invariantCheck) servers() {
	publications := 0
	for id, s := range c.r.servers {
		c.hold(s.id == id && !s.gone, "server %d is in the map as %d, gone %v", s.id, id, s.gone)
		publications += len(s.publications)
		for i, p := range s.publications {
			c.hold(p.server == s && (c.r.channels.Get(p.channel) == p) != p.ousted, "publication %s is in the set of server %d, but is not its live one", p.publisherID, s.id)
			c.hold(p.ousted == (c.r.ousted[p.publisherID] == p) && (p.killed || !p.ousted), "publication %s: ousted %v, killed %v", p.publisherID, p.ousted, p.killed)
			c.hold(int(*p.Index()) == i, "publication %s is at %d with its server, thinks itself at %d", p.publisherID, i, *p.Index())
		}
	}
	c.hold(publications == c.r.channels.Len()+len(c.r.ousted), "servers have %d publications, there are %d channels and %d that have lost theirs", publications, c.r.channels.Len(), len(c.r.ousted))
}

func (c *invariantCheck) streams() {
	closing, ids, atEncoders := 0, map[string]bool{}, map[*publication]uint32{}
	for st := range c.allStreams() {
		atEncoders[st.pub]++
		c.hold(!ids[st.id], "stream %s is there twice", st.id)
		ids[st.id] = true
		p := st.pub
		served := c.r.channels.Get(p.channel) == p && (p.current == st || p.successor == st)
		c.hold(served != st.closing, "stream %s: closing %v, serves a live publication %v", st.id, st.closing, served)
		c.hold(st.closing == (c.r.closing[st.id] == st), "stream %s: closing %v, in the map of those that are %v", st.id, st.closing, c.r.closing[st.id] == st)
		c.hold(c.r.ownStreamLocked(st.encoder, p.channel, st.id) == st, "stream %s is not found, closing %v", st.id, st.closing)
		if st.closing {
			closing++
		}
	}
	for p := range livePublications(c.r) {
		atEncoders[p] += 0
	}
	for p, n := range atEncoders {
		c.hold(p.atEncoders == n, "publication %s counts %d streams at encoders, has %d", p.publisherID, p.atEncoders, n)
		c.hold(!p.owesEnd || p.atEncoders > 0 || p.server.publications.Has(p), "publication %s is over, and still owes its end", p.publisherID)
	}
	c.hold(len(c.r.closing) == closing, "%d are found as closing, %d are", len(c.r.closing), closing)
}

func (c *invariantCheck) allStreams() iter.Seq[*stream] {
	return func(yield func(*stream) bool) {
		for _, e := range c.r.encoders {
			for _, st := range e.streams {
				if !yield(st) {
					return
				}
			}
		}
	}
}

func livePublications(r *registry) iter.Seq[*publication] {
	return func(yield func(*publication) bool) {
		cells, _ := r.channels.Part(0, math.MaxInt)
		for _, p := range cells {
			if p != nil && !yield(p) {
				return
			}
		}
	}
}

// isLive tells whether a stream holds a slot of an encoder that is connected.
func (c *invariantCheck) isLive(st *stream) bool {
	return c.r.encoders[st.encoder.id] == st.encoder && st.encoder.streams.Has(st)
}

func (c *invariantCheck) publications() {
	moves := map[*encoder]int{}
	for p := range livePublications(c.r) {
		channel := p.channel
		listed := p.server.publications.Has(p)
		c.hold(c.r.channels.Get(channel) == p && listed && c.r.servers[p.server.id] == p.server, "publication %s of channel %s: found there %v, in its server's set %v", p.publisherID, channel, c.r.channels.Get(channel) == p, listed)
		_, killed := c.r.killed[p]
		c.hold(killed == p.killed, "publication %s: killed %v, in the set %v", p.publisherID, p.killed, killed)
		c.hold(p.id != "" && p.publisherID != "", "publication of channel %s has no ID", channel)
		c.hold((p.current != nil) != (p.waiting != nil) || p.current == nil && killed, "publication %s: current %v, waiting %v", p.publisherID, p.current != nil, p.waiting != nil)
		c.hold(p.waiting == nil || !killed, "publication %s waits for an encoder though it was killed", p.publisherID)
		if p.current != nil {
			c.hold(c.isLive(p.current) && p.current.pub == p && p.id == p.current.id, "publication %s is known as %s, its current stream %s", p.publisherID, p.id, p.current.id)
		}
		if p.successor != nil {
			c.hold(p.current != nil && p.current.encoder != p.successor.encoder, "publication %s has a successor on the same encoder, or no current stream", p.publisherID)
			c.hold(c.isLive(p.successor) && p.successor.pub == p, "publication %s has a successor that is not live", p.publisherID)
			c.hold(p.server.kind == "RTMP", "publication %s is moved from a %s source", p.publisherID, p.server.kind)
			moves[p.current.encoder]++
		}
	}
	for e, n := range moves {
		c.hold(n <= movesAtOnce, "encoder %d has %d moves under way", e.id, n)
	}
	for p := range c.r.killed {
		c.hold(c.r.channels.Get(p.channel) == p || c.r.ousted[p.publisherID] == p, "killed publication %s is not live", p.publisherID)
	}
	for p := range c.r.interrupted {
		c.hold(c.r.channels.Get(p.channel) == p, "publication %s, which was interrupted, is not live", p.publisherID)
	}
	for p := range c.r.losses {
		c.hold(c.r.channels.Get(p.channel) == p, "publication %s, which lost an encoder, is not live", p.publisherID)
	}
}

func (c *invariantCheck) waiting() {
	requests := 0
	for el := c.r.waiting.Front(); el != nil; el = el.Next() {
		w := el.Value.(*waiter)
		if w.pub != nil {
			c.hold(w.pub.waiting == el && c.r.channels.Get(w.pub.channel) == w.pub, "publication %s waits, but is not live or does not know it", w.pub.publisherID)
		} else {
			requests++
			c.hold(c.r.servers[w.server.id] == w.server, "a request of server %d waits, which is gone", w.server.id)
		}
		e := c.wouldServe(w)
		c.hold(e == nil, "%+v waits, encoder has a free slot", w)
	}
	c.hold(requests == c.r.waitingCount && requests <= maxWaitingRequests, "waiting requests are counted as %d, are %d", c.r.waitingCount, requests)
	absent := slices.ContainsFunc(slices.Collect(maps.Values(c.r.encoders)), func(e *encoder) bool { return e.away }) ||
		slices.ContainsFunc(slices.Collect(maps.Values(c.r.servers)), func(s *server) bool { return s.away })
	c.hold(c.r.limits.encoderWait > 0 || absent || c.r.waiting.Len() == 0, "%d wait though there is no waiting", c.r.waiting.Len())
}

// wouldServe returns an encoder that could take on who waits now, nil if there is none.
func (c *invariantCheck) wouldServe(w *waiter) *encoder {
	if c.r.stopping || w.pub == nil && (w.server.draining || w.server.away || !c.r.limits.takeover && c.r.channels.Get(w.request.channel) != nil) {
		return nil
	}
	for _, e := range c.r.encoders {
		if e != w.avoid && !e.draining && !e.away && (e.capacity < 0 || len(e.streams)+e.reserved < e.capacity) {
			return e
		}
	}
	return nil
}

// held: each request waits for the end of a probe, and none for a channel that is free.
func (c *invariantCheck) held() {
	held, bySession := 0, map[*server]int{}
	for channel, list := range c.r.held {
		p := c.r.channels.Get(channel)
		c.hold(p != nil && p.server.suspect(), "requests are held for channel %s, live %v", channel, p != nil)
		for _, w := range list {
			held++
			bySession[w.server]++
			c.hold(w.request.channel == channel && c.r.servers[w.server.id] == w.server, "a request of server %d is held, which is gone, or for another channel", w.server.id)
		}
		c.hold(len(list) > 0, "an empty list is held for channel %s", channel)
	}
	c.hold(held == c.r.heldCount && len(c.r.freed) == 0, "held requests are counted as %d, are %d; %d channels are to be looked at", c.r.heldCount, held, len(c.r.freed))
	for _, s := range c.r.servers {
		c.hold(s.held == bySession[s], "server %d thinks that %d of its requests are held, %d are", s.id, s.held, bySession[s])
	}
}

// takeovers: the publisher before is killed and still on its channel, and each slot that is reserved has a newcomer.
func (c *invariantCheck) takeovers() {
	reserved := map[*encoder]int{}
	for channel, t := range c.r.takeovers {
		s := t.request.server
		c.hold(c.r.limits.takeover && t.request.request.channel == channel && t.from.channel == channel, "a takeover of channel %s is found as one of %s", t.request.request.channel, channel)
		c.hold(c.r.servers[s.id] == s && t.from.server != s, "a takeover of channel %s by server %d, which is gone or has it", channel, s.id)
		c.hold(t.from.killed && !t.from.ousted && (c.r.channels.Get(channel) == t.from || s.away), "channel %s is being taken over: killed %v, ousted %v", channel, t.from.killed, t.from.ousted)
		c.hold(len(c.r.held[channel]) == 0, "requests are held for channel %s, which is being taken over", channel)
		if t.encoder != nil {
			reserved[t.encoder]++
			c.hold(c.r.encoders[t.encoder.id] == t.encoder && !t.encoder.draining, "a slot is reserved at encoder %d, which is gone, or draining %v", t.encoder.id, t.encoder.draining)
		} else {
			c.hold(c.wouldServe(t.request) == nil, "no slot is reserved for channel %s, and there is one", channel)
		}
	}
	for _, e := range c.r.encoders {
		c.hold(e.reserved == reserved[e], "encoder %d counts %d reserved slots, has %d", e.id, e.reserved, reserved[e])
	}
}

// twins: each session is in the group of its key, and a group that is to be probed is looked after.
func (c *invariantCheck) twins() {
	sessions := 0
	for key, g := range c.r.twins {
		_, looked := c.r.unprobed[g]
		c.hold(g.key == key && len(g.sessions) > 0 && g.due == looked, "group %v is found as %v with %d sessions; due %v, in the set %v", g.key, key, len(g.sessions), g.due, looked)
		sessions += len(g.sessions)
		for i, t := range g.sessions {
			c.hold(t.group == g && int(*t.Index()) == i && t.session <= g.newest, "session %d is at %d of %v, thinks itself at %d", t.session, i, key, *t.Index())
		}
	}
	c.hold(sessions == len(c.r.servers)+len(c.r.encoders), "%d sessions are in groups, %d are connected", sessions, len(c.r.servers)+len(c.r.encoders))
}

// startTimes: every stream whose start can still time out is looked after.
func (c *invariantCheck) startTimes() {
	known := map[*stream]bool{}
	for _, st := range c.r.started {
		known[st] = true
	}
	for st := range c.allStreams() {
		c.hold(c.r.limits.startTimeout == 0 || known[st] || st.closing || st.lastSeq > 0, "the start of stream %s can't time out", st.id)
	}
}
