package main

// Dead sessions. A peer that loses its network is back with a new connection long before its old one counts as silent:
// until then its channels would be busy, and an encoder would be there twice. So when a session joins that has a twin (a
// streaming server of the same type, address and port, an encoder on the same machine), the older one is probed: it
// shows a sign of life, or is cut off. Publish requests for its channels are held meanwhile instead of being denied.
// If both answer, both stay: two encoders may well run on one machine.
//
// What the newer session says of the end of the older one's publishers and streams is believed, if the ID is right: IDs
// can't be guessed. Part of the registry, under its rules.

import (
	"slices"
	"time"

	"coordinator/internal/members"
)

const (
	// probesApart is the least time between two rounds of probes in one group, so that many sessions that join from
	// one address at once, as from behind a proxy, cost a few rounds and not one each.
	probesApart = time.Second

	answersSoon = time.Second // a live peer answers a ping within this

	maxHeldRequests = 16_384
)

// prober asks the peer of a session for a sign of life, under the rules of serverPeer. At the first one it has
// registry.probeAnswered called; without one it ends the session. It is not called again until one of these has happened.
type prober interface {
	probe(session uint64)
}

// twinKey is what twins have in common.
type twinKey struct {
	kind    string // the type of a streaming server, or HLS
	address string
	port    int // 0 for encoders
}

// twinGroup is the sessions of one key. Most groups have one.
type twinGroup struct {
	key       twinKey
	sessions  members.Set[*twin]
	newest    uint64 // session
	lastProbe time.Time
	due       bool // to be probed again: see registry.unprobed
}

// twin is a session as one of its group.
type twin struct {
	session  uint64 // identity
	prober   prober
	group    *twinGroup
	inGroup  uint32 // index in the group
	probing  bool   // and it has not answered yet
	probedAt time.Time
}

func (t *twin) Index() *uint32 { return &t.inGroup }

// suspect tells whether the session may be dead, which will be known within seconds.
func (t *twin) suspect() bool { return t.probing || t.group.due && t.session != t.group.newest }

// slowToAnswer tells whether a session is more likely dead than not: one that lives answers in milliseconds.
func (t *twin) slowToAnswer(now time.Time) bool {
	return t.probing && now.Sub(t.probedAt) >= answersSoon
}

// isNewerTwinOf tells whether the session may have taken the place of the other one.
func (t *twin) isNewerTwinOf(older *twin) bool {
	return t.group == older.group && t.session > older.session
}

// joinTwinsLocked enters a session into its group, and has the older ones probed.
func (r *registry) joinTwinsLocked(t *twin, key twinKey, now time.Time) {
	if g := r.enterTwinsLocked(t, key); g.due && now.Sub(g.lastProbe) >= probesApart {
		r.probeGroupLocked(g, now)
	}
}

// enterTwinsLocked enters a session into its group, which is due to be probed if there are older ones.
func (r *registry) enterTwinsLocked(t *twin, key twinKey) *twinGroup {
	g := r.twins[key]
	if g == nil {
		g = &twinGroup{key: key}
		r.twins[key] = g
	}
	t.group = g
	g.sessions.Add(t)
	g.newest = max(g.newest, t.session) // an encoder at a gateway may have its identity long before it registers
	if len(g.sessions) > 1 {
		g.due = true
		r.unprobed[g] = struct{}{}
	}
	return g
}

func (r *registry) leaveTwinsLocked(t *twin) {
	g := t.group
	g.sessions.Remove(t)
	if len(g.sessions) == 0 {
		delete(r.twins, g.key)
		delete(r.unprobed, g)
	}
}

// probeDueLocked probes groups whose round had to wait.
func (r *registry) probeDueLocked(now time.Time) {
	for g := range r.unprobed {
		if now.Sub(g.lastProbe) >= probesApart {
			r.probeGroupLocked(g, now)
		}
	}
}

func (r *registry) probeGroupLocked(g *twinGroup, now time.Time) {
	g.due, g.lastProbe = false, now
	delete(r.unprobed, g)
	for _, t := range g.sessions {
		if t.session != g.newest && !t.probing {
			t.probing, t.probedAt = true, now
			t.prober.probe(t.session)
		}
	}
}

// probeAnswered ends the probe of a session: it lives, and its channels are busy, unless they may be taken over.
func (r *registry) probeAnswered(session uint64, now time.Time) []notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.encoders[session]; e != nil {
		e.probing = false
		return nil
	}
	s := r.servers[session]
	if s == nil {
		return nil
	}
	s.probing = false
	if r.heldCount == 0 {
		return nil
	}
	for _, p := range s.publications {
		if p.ousted {
			continue
		}
		for _, w := range r.takeHeldLocked(p.channel) {
			err := errChannelBusy
			if r.limits.takeover {
				err = r.admitLocked(w, now)
			}
			if err != nil {
				r.denyLocked(w, err, now)
			}
		}
	}
	return r.endTransitionLocked(time.Time{})
}

// holdLocked keeps a publish request until it is known whether its channel is free. errChannelBusy if there are too many.
func (r *registry) holdLocked(w *waiter) error {
	if r.heldCount == maxHeldRequests {
		return errChannelBusy
	}
	w.due = w.request.answerBy
	r.held[w.request.channel] = append(r.held[w.request.channel], w)
	r.heldCount++
	w.server.held++
	return nil
}

// takeHeldLocked takes the requests for a channel, in the order in which they came.
func (r *registry) takeHeldLocked(channel string) []*waiter {
	held := r.held[channel]
	delete(r.held, channel)
	r.heldCount -= len(held)
	for _, w := range held {
		w.server.held--
	}
	return held
}

// filterHeldLocked removes and returns the requests for which keep is false.
func (r *registry) filterHeldLocked(keep func(*waiter) bool) (taken []*waiter) {
	for channel, held := range r.held {
		r.held[channel] = slices.DeleteFunc(held, func(w *waiter) bool {
			if keep(w) {
				return false
			}
			taken = append(taken, w)
			r.heldCount--
			w.server.held--
			return true
		})
		if len(r.held[channel]) == 0 {
			delete(r.held, channel)
		}
	}
	return taken
}

// serveHeldLocked serves held requests whose channel is now free.
func (r *registry) serveHeldLocked(now time.Time) {
	for len(r.freed) > 0 {
		channel := r.freed[0]
		r.freed = r.freed[1:]
		held := r.takeHeldLocked(channel)
		// Healthy sessions first: a suspect session's own publisher may be dead, too.
		slices.SortStableFunc(held, func(a, b *waiter) int { return compareBools(a.server.suspect(), b.server.suspect()) })
		for _, w := range held {
			if err := r.admitLocked(w, now); err != nil {
				r.denyLocked(w, err, now)
			}
		}
	}
	r.freed = nil
}

// compareBools sorts false before true.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
