package main

// What transitions say to sessions at gateways, and what has to happen before a gateway may forget the message that one
// followed from.
//
// A transition's messages and memos for a session go down in one SAY. Its message is done with when
//
//  1. its events are in the store and can't be lost with a failover of the database any more, and other gateways have
//     acknowledged what it says to them (frames to the message's own gateway arrive before the DONE, since a link is in order);
//  2. memos that must not be ahead of the store have gone to other sessions, and their gateways have them.
//
// Then DONE goes down, in the order of the session's messages. A gateway that is lost counts as one that has acknowledged.

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"coordinator/internal/link"
	"coordinator/internal/outbox"
)

// doneEvery is how long a DONE is held back, so that one is enough for several messages of a session. Nobody waits for it.
const doneEvery = 50 * time.Millisecond

// mayBeLostFor is how long a commit to a database may still be lost: the database may go on at a standby that does not have it. If the
// leader lives through that, it commits again (pgstore). If not, gateways have to say again to the next one what was in the commit.
// Time in which the database does not answer does not count: it may be failing over.
const mayBeLostFor = 3 * time.Second

// passing implements passer. Its lock is taken under the registry's, and never the other way round.
type passing struct {
	// set once
	keepsEvents bool
	mandate     mandate       // if it is for good, a commit that was made stays
	wake        chan struct{} // has room for one

	// guarded by registry.mu, of the transition under way
	touched   []*gatewaySession // that something is said to, or kept for
	wanted    *transition       // not nil if the caller waits for its end, or if it ends the start
	comparing bool              // in compare

	// written under registry.mu and mu, read under either
	starting *transition // not nil until the state is restored: all that happens before is one transition

	mu sync.Mutex
	// guarded by mu
	dirty  []*gatewaySession // with messages that are done with
	unsure []unsureCommit    // by their time
}

// inTransition is what a transition says to a session.
type inTransition struct {
	items   []link.Item
	answers []answer    // among the items
	durable []link.Memo // once the transition's events are
	touched bool
}

type answer struct {
	item        int    // index
	publication uint64 // that it has made live; 0: none
}

// inPassing is what a session's gateway has still to be told.
type inPassing struct {
	following []following // in the order of messages
	dirty     bool
}

// following is a message of a session, and what follows from it.
type following struct {
	message uint64
	gone    bool
	done    bool
	memos   []link.Memo // with its DONE
}

// transition is one whose end something waits for.
type transition struct {
	cause *gatewaySession // nil: it follows from no message

	// guarded by passing.mu
	open   int // commits and acknowledgements that it waits for
	unsure int // commits among them that were made, and may be lost still
	memos  []sessionMemos
	ends   []ending
	passed chan struct{} // closed when commits were made and gateways have what was said; nil: nobody asks, or it is closed
}

// unsureCommit is a transition whose commit was made, and until when it may be lost.
type unsureCommit struct {
	transition *transition
	until      time.Time
}

type sessionMemos struct {
	session *gatewaySession
	memos   []link.Memo
}

// ending is a message that is done with when the transition is.
type ending struct {
	session *gatewaySession
	message uint64
}

func newPassing(keepsEvents bool, m mandate) *passing {
	return &passing{keepsEvents: keepsEvents, mandate: m, wake: make(chan struct{}, 1)}
}

// begin is called before anything happens: until compare has been called all is one transition.
func (x *passing) begin() { x.starting = &transition{} }

// The methods of passer, touch and ignoresMemos are called under the registry's lock.

func (x *passing) touch(s *gatewaySession) {
	if !s.touched {
		s.touched = true
		x.touched = append(x.touched, s)
	}
}

// ignoresMemos tells whether memos are of no interest yet, because they will be compared with those that gateways have shown.
func (x *passing) ignoresMemos() bool { return x.starting != nil && !x.comparing }

// passedOn implements passer.
func (x *passing) passedOn() <-chan struct{} {
	x.wanted = &transition{passed: make(chan struct{})}
	return x.wanted.passed
}

// endTransition implements passer.
func (x *passing) endTransition(cause memoKeeper, told bool) outbox.Mark {
	s, _ := cause.(*gatewaySession)
	if s != nil {
		s.followed = true
	}
	if x.starting != nil && x.wanted != x.starting {
		return x.endPart(s, told)
	}
	t := x.wanted
	x.wanted = nil
	if t == nil && (s != nil || x.keepsDurable()) {
		t = &transition{}
	}
	return x.pass(t, s, told)
}

func (x *passing) keepsDurable() bool {
	return slices.ContainsFunc(x.touched, func(s *gatewaySession) bool { return len(s.durable) > 0 })
}

// endPart ends a transition that is only a part of the start. Nothing goes down before the whole start is over.
func (x *passing) endPart(cause *gatewaySession, told bool) outbox.Mark {
	x.mu.Lock()
	defer x.mu.Unlock()
	if cause != nil {
		x.starting.ends = append(x.starting.ends, ending{cause, cause.message})
	}
	return x.markLocked(x.starting, cause, told)
}

// markLocked is what goes into the commit of a transition's events. The transition then waits for that commit.
func (x *passing) markLocked(t *transition, cause *gatewaySession, told bool) (m outbox.Mark) {
	if !told || !x.keepsEvents || t == nil {
		return m
	}
	if cause != nil && cause.isEncoder {
		m.Session, m.Message = cause.at.id, cause.message
	}
	t.open++
	m.Durable = x.committed(t)
	return m
}

// pass sends what a transition says. t is nil if nothing waits for its end.
func (x *passing) pass(t *transition, cause *gatewaySession, told bool) outbox.Mark {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t != nil {
		t.cause = cause
	}
	if x.starting != nil && !x.mandate.IsForGood() { // what was in the store at the start may be lost as well
		t.open++
		x.beUnsureLocked(t)
	}
	x.starting = nil
	var own []link.Memo
	for _, s := range x.touched {
		if len(s.items) > 0 {
			x.sendLocked(t, s, link.With(link.KindSay, s.number, &link.Say{Items: s.items}))
		}
		switch {
		case len(s.durable) == 0:
		case s == cause:
			own = s.durable
		default:
			t.memos = append(t.memos, sessionMemos{s, s.durable})
		}
		s.inTransition = inTransition{}
	}
	clear(x.touched)
	x.touched = x.touched[:0]
	mark := x.markLocked(t, cause, told)
	if cause != nil {
		cause.following = append(cause.following, following{message: cause.message, gone: cause.isGone, memos: own})
		t.ends = append(t.ends, ending{cause, cause.message})
	}
	if t != nil {
		x.goOnLocked(t)
	}
	return mark
}

// sendLocked sends a frame. The transition waits until the gateway has acknowledged it, unless its DONE goes to the same gateway:
// that arrives after the frame anyway.
func (x *passing) sendLocked(t *transition, s *gatewaySession, f link.Frame) {
	if t == nil || t.cause != nil && t.cause.gateway == s.gateway {
		s.gateway.Send(f, nil)
		return
	}
	t.open++
	s.gateway.Send(f, x.step(t))
}

// compare implements passer: what gateways are to keep is compared with what they have shown. That ends the start, which goes
// down with the transition under way.
func (x *passing) compare(servers []keptServer, encoders []keptEncoder) {
	x.comparing = true
	for i := range servers {
		servers[i].keeper.(*gatewaySession).showDifferences(servers[i].memos())
	}
	for i := range encoders {
		encoders[i].keeper.(*gatewaySession).showDifferences(encoders[i].memos())
	}
	x.comparing = false
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.starting
	last := map[*gatewaySession]uint64{}
	for _, e := range t.ends {
		last[e.session] = max(last[e.session], e.message)
	}
	t.ends = nil
	for s, message := range last {
		s.following = []following{{message: message, gone: s.isGone}}
		t.ends = append(t.ends, ending{s, message})
	}
	x.wanted = t // it ends with the restore
}

// step returns what is to be called, without a lock, when something is over that a transition waits for.
func (x *passing) step(t *transition) func() {
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.stepLocked(t)
	}
}

func (x *passing) stepLocked(t *transition) {
	if t.open--; t != x.starting {
		x.goOnLocked(t)
	}
}

// committed returns what is to be called, without a lock, when a commit was made that a transition waits for.
func (x *passing) committed(t *transition) func() {
	if x.mandate.IsForGood() {
		return x.step(t)
	}
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.beUnsureLocked(t)
		if t != x.starting {
			x.goOnLocked(t)
		}
	}
}

func (x *passing) beUnsureLocked(t *transition) {
	t.unsure++
	if x.unsure = append(x.unsure, unsureCommit{t, time.Now().Add(mayBeLostFor)}); len(x.unsure) == 1 {
		poke(x.wake)
	}
}

// goOnLocked is called when a transition waits for less. When nothing is left its memos for other sessions go out, and when their gateways
// have those, its messages are done with.
func (x *passing) goOnLocked(t *transition) {
	if t.passed != nil && t.open == t.unsure {
		close(t.passed)
		t.passed = nil
	}
	if t.open > 0 {
		return
	}
	memos := t.memos
	t.memos = nil
	for _, m := range memos {
		x.sendLocked(t, m.session, link.With(link.KindDone, m.session.number, &link.Done{Memos: m.memos}))
	}
	if t.open > 0 {
		return
	}
	for _, e := range t.ends {
		x.doneLocked(e)
	}
}

func (x *passing) doneLocked(e ending) {
	list := e.session.following // may be many while one of them waits for a gateway that is away, or for the disk
	i, _ := slices.BinarySearchFunc(list, e.message, func(f following, message uint64) int { return cmp.Compare(f.message, message) })
	for ; i < len(list) && list[i].message == e.message; i++ {
		list[i].done = true
	}
	if !e.session.dirty && len(list) > 0 && list[0].done {
		e.session.dirty = true
		x.dirty = append(x.dirty, e.session)
		poke(x.wake)
	}
}

// nothingFollows is called for a message that no transition has followed from.
func (x *passing) nothingFollows(s *gatewaySession) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := ending{s, s.message}
	if x.starting != nil {
		x.starting.ends = append(x.starting.ends, e)
		return
	}
	s.following = append(s.following, following{message: s.message, gone: s.isGone})
	x.doneLocked(e)
}

// run sends DONE for messages that are done with.
func (x *passing) run(closing <-chan struct{}) {
	pause, sure := time.NewTimer(0), time.NewTimer(0)
	defer pause.Stop()
	defer sure.Stop()
	for {
		select {
		case <-x.wake:
		case <-sure.C:
		case <-closing:
			return
		}
		pause.Reset(doneEvery)
		select {
		case <-pause.C:
		case <-closing:
			return
		}
		if next, more := x.makeSure(time.Now().Add(-x.mandate.Unconfirmed())); more {
			sure.Reset(max(time.Until(next), doneEvery))
		}
		x.sendDone()
	}
}

// makeSure has transitions go on whose commits can't be lost any more, and tells when the next one will at the earliest. confirmed is when
// the database last said that this process leads.
func (x *passing) makeSure(confirmed time.Time) (next time.Time, more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for ; n < len(x.unsure) && !confirmed.Before(x.unsure[n].until); n++ {
		t := x.unsure[n].transition
		t.unsure--
		x.stepLocked(t)
	}
	if x.unsure = slices.Delete(x.unsure, 0, n); len(x.unsure) == 0 {
		return time.Time{}, false
	}
	return x.unsure[0].until, true
}

func (x *passing) sendDone() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.dirty {
		s.dirty = false
		s.sendDoneLocked()
	}
	x.dirty = nil
}

// sendDoneLocked is one DONE for the first messages of a session, as many as are done with.
func (s *gatewaySession) sendDoneLocked() {
	var d link.Done
	var forgotten func()
	n := 0
	for ; n < len(s.following) && s.following[n].done; n++ {
		f := &s.following[n]
		d.Number, d.Memos = f.message, append(d.Memos, f.memos...)
		if f.gone {
			forgotten = func() { s.gateways.forget(s) }
		}
	}
	if s.following = s.following[n:]; len(s.following) == 0 {
		s.following = nil
	}
	s.gateway.Send(link.With(link.KindDone, s.number, &d), forgotten)
}

func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
