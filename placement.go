package main

// Which encoder gets a stream, and who waits for one: the choice, the queue of those who wait, maintenance (drain),
// and the guard against encoders that fail what they are given. Part of the registry, under its rules.

import (
	"container/list"
	"errors"
	"slices"
	"time"
)

const (
	maxWaitingRequests = 1000

	// The flap guard: an encoder that failed so many streams in a row, each within earlyFailure of its start and
	// with nothing announced, is set aside for a time that doubles with each further failure.
	failuresInARow = 3
	earlyFailure   = 10 * time.Second
	firstAside     = 10 * time.Second
	longestAside   = 5 * time.Minute

	// provenAfter is how long an encoder has to be connected to be preferred for a publication that lost another,
	// so that one that comes and goes in a loop does not take it down with it.
	provenAfter = 10 * time.Second
)

var (
	errWaitedInVain  = errors.New("no encoder had a free slot in time")
	errNeverStarted  = errors.New("encoder announced nothing in time")
	errEncodersLost  = errors.New("three encoders lost within a minute: the stream itself is the likely cause")
	errEncoderFailed = errors.New("encoder ended the stream")
	errEncoderGone   = errors.New("encoder is gone")
)

// slotCount is kept up with every transition, so that asking for it costs the same with any number of streams.
type slotCount struct {
	used      int
	capacity  int // of the encoders with a limit
	unlimited int // encoders without one
}

func (c *slotCount) add(capacity int) {
	if capacity < 0 {
		c.unlimited++
	} else {
		c.capacity += capacity
	}
}

func (c *slotCount) remove(capacity int) {
	if capacity < 0 {
		c.unlimited--
	} else {
		c.capacity -= capacity
	}
}

func (e *encoder) load() int { return len(e.streams) }

func (e *encoder) hasFreeSlot() bool { return e.capacity < 0 || e.load() < e.capacity }

// chooseLocked returns the encoder with a free slot and the least load, nil if there is none; one that may be dead or is
// set aside only if there is no other. A publication that has lost an encoder gets a proven one if there is one.
func (r *registry) chooseLocked(w *waiter, now time.Time) *encoder {
	var best *encoder
	for _, e := range r.encoders {
		if e.draining || !e.hasFreeSlot() || e == w.avoid {
			continue
		}
		if best == nil || w.preferred(e, best, now) {
			best = e
		}
	}
	return best
}

func (w *waiter) preferred(a, b *encoder, now time.Time) bool {
	if x, y := a.slowToAnswer(now), b.slowToAnswer(now); x != y {
		return y
	}
	if x, y := now.Before(a.asideTil), now.Before(b.asideTil); x != y {
		return y
	}
	if w.pub != nil {
		if x, y := now.Sub(a.since) >= provenAfter, now.Sub(b.since) >= provenAfter; x != y {
			return x
		}
	}
	return lessLoaded(a, b)
}

// lessLoaded orders encoders by load. Of equal loads the larger free share wins, which is the larger capacity; then
// the one that came first.
func lessLoaded(a, b *encoder) bool {
	if a.load() != b.load() {
		return a.load() < b.load()
	}
	if a.load() > 0 && a.capacity != b.capacity { // an idle encoder is all free, whatever its size
		return a.capacity < 0 || (b.capacity >= 0 && a.capacity > b.capacity)
	}
	return a.id < b.id
}

// waiter is who asks for a slot: a publish request, or a publication that has lost its encoder.
type waiter struct {
	// a publish request
	server  *server
	request claimRequest

	// a publication
	pub   *publication
	avoid *encoder // the one that failed it

	due time.Time
}

// placeLocked grants a publish request, or has it wait. Errors: those of grantLocked but errMayBeFree, if there is no
// waiting.
func (r *registry) placeLocked(w *waiter, now time.Time) error {
	err := errStopping
	switch {
	case r.stopping:
	case w.server.gone:
		err = errPeerGone
	default:
		err = r.grantLocked(w, now)
	}
	switch err {
	case errNoEncoder:
		return r.waitLocked(w, now)
	case errMayBeFree:
		return r.holdLocked(w)
	}
	return err
}

// grantLocked gives w a slot. Errors: errDraining, errChannelBusy, errMayBeFree, errNoEncoder.
func (r *registry) grantLocked(w *waiter, now time.Time) error {
	if w.pub == nil {
		if w.server.draining {
			return errDraining
		}
		if p := r.channels.get(w.request.channel); p != nil {
			if p.server.suspect() {
				return errMayBeFree
			}
			return errChannelBusy
		}
	}
	e := r.chooseLocked(w, now)
	if e == nil {
		return errNoEncoder
	}
	if w.pub == nil {
		r.publishLocked(w, e, now)
	} else {
		r.resumeLocked(w.pub, e, now)
	}
	return nil
}

// waitLocked puts who found no slot behind the others who wait. errNoEncoder if there is no waiting.
func (r *registry) waitLocked(w *waiter, now time.Time) error {
	if r.limits.encoderWait == 0 || r.stopping {
		return errNoEncoder
	}
	w.due = now.Add(r.limits.encoderWait)
	if w.pub != nil {
		w.pub.waiting = r.waiting.PushBack(w)
		return nil
	}
	if r.waitingCount == maxWaitingRequests {
		return errNoEncoder
	}
	if w.request.answerBy.Before(w.due) {
		w.due = w.request.answerBy
	}
	r.waitingCount++
	r.waiting.PushBack(w)
	return nil
}

func (r *registry) removeWaiterLocked(el *list.Element) *waiter {
	w := r.waiting.Remove(el).(*waiter)
	if w.pub != nil {
		w.pub.waiting = nil
	} else {
		r.waitingCount--
	}
	return w
}

func (r *registry) stopWaitingLocked(p *publication) {
	if p.waiting != nil {
		r.removeWaiterLocked(p.waiting)
	}
}

// forgetRequestsLocked drops the requests of a streaming server that is gone.
func (r *registry) forgetRequestsLocked(s *server) {
	var dropped []*waiter
	r.eachWaiterLocked(func(el *list.Element, w *waiter) {
		if w.pub == nil && w.server == s {
			dropped = append(dropped, r.removeWaiterLocked(el))
		}
	})
	if s.held > 0 {
		dropped = append(dropped, r.filterHeldLocked(func(w *waiter) bool { return w.server != s })...)
	}
	for _, w := range dropped {
		r.noteLocked(notice{kind: noteDenied, channel: w.request.channel, server: s.id, reason: errPeerGone})
	}
}

// denyRequestsLocked denies all that wait or are held.
func (r *registry) denyRequestsLocked(reason error) {
	r.eachWaiterLocked(func(el *list.Element, w *waiter) {
		if w.pub == nil {
			r.denyLocked(r.removeWaiterLocked(el), reason)
		}
	})
	for _, w := range r.filterHeldLocked(func(*waiter) bool { return false }) {
		r.denyLocked(w, reason)
	}
}

func (r *registry) denyLocked(w *waiter, reason error) {
	w.server.peer.deny(w.request.id, w.request.channel)
	r.noteLocked(notice{kind: noteDenied, channel: w.request.channel, server: w.server.id, reason: reason})
}

// eachWaiterLocked calls f for each in the order of arrival; f may remove the one it is called for.
func (r *registry) eachWaiterLocked(f func(*list.Element, *waiter)) {
	for el := r.waiting.Front(); el != nil; {
		next := el.Next()
		f(el, el.Value.(*waiter))
		el = next
	}
}

// settleLocked is called when slots or channels may have become free: it serves those who wait, then goes on with moves.
func (r *registry) settleLocked(now time.Time) {
	if r.stopping {
		return
	}
	r.placeFreedLocked(now)
	var refused []*encoder // for those who avoid one of these there is no other
	for el := r.waiting.Front(); el != nil; {
		next, w := el.Next(), el.Value.(*waiter)
		if slices.Contains(refused, w.avoid) {
			el = next
			continue
		}
		err := r.grantLocked(w, now)
		if err == errNoEncoder {
			if w.avoid == nil {
				break // nor is there one for those behind
			}
			refused = append(refused, w.avoid)
		} else {
			r.removeWaiterLocked(el)
			if err == errMayBeFree {
				err = r.holdLocked(w)
			}
			if err != nil {
				r.denyLocked(w, err)
			}
		}
		el = next
	}
	r.moveOnLocked(now)
}

// countFailureLocked is the flap guard's part of a stream that its encoder ended by itself; one whose publisher was
// told to stop is no failure, for its source may be gone before the streaming server says so.
func (r *registry) countFailureLocked(st *stream, now time.Time) {
	e := st.encoder
	if st.lastSeq > 0 || r.age(st, now) > earlyFailure || st.pub.killed {
		return
	}
	e.failures++
	if e.failures < failuresInARow {
		return
	}
	aside := longestAside
	if doublings := e.failures - failuresInARow; doublings < 5 {
		aside = min(firstAside<<doublings, longestAside)
	}
	e.asideTil = now.Add(aside)
	r.noteLocked(notice{kind: noteSetAside, encoder: e.id, reason: errEncoderFailed})
}

// expire does what is due: it ends waiting, starting and killing that took too long. The coordinator calls it a few
// times a second.
func (r *registry) expire(now time.Time) []notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.eachWaiterLocked(func(el *list.Element, w *waiter) {
		if now.Before(w.due) {
			return
		}
		if w.pub != nil {
			r.giveUpLocked(w.pub, errWaitedInVain, now)
		} else {
			r.denyLocked(r.removeWaiterLocked(el), errWaitedInVain)
		}
	})
	if r.heldCount > 0 {
		for _, w := range r.filterHeldLocked(func(w *waiter) bool { return now.Before(w.due) }) {
			r.denyLocked(w, errChannelBusy)
		}
	}
	r.probeDueLocked(now)
	r.repeatKillsLocked(now)
	for len(r.started) > 0 && r.age(r.started[0], now) >= r.limits.startTimeout {
		st := r.started[0]
		r.started[0] = nil
		r.started = r.started[1:]
		if st.isLiveLocked() && st.lastSeq == 0 {
			r.neverStartedLocked(st, now)
		}
	}
	r.settleLocked(now)
	return r.takeNoticesLocked()
}

// drain takes a streaming server or an encoder out of service: it gets nothing new and keeps what it has. With move
// the live streams of an encoder go to others. Errors: errUnknownMember.
func (r *registry) drain(id uint64, move bool, now time.Time) ([]notice, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.servers[id]; s != nil {
		s.draining = true
		return nil, nil
	}
	e := r.encoders[id]
	if e == nil {
		return nil, errUnknownMember
	}
	e.draining = true
	if move {
		r.moving[e] = struct{}{}
		for _, st := range e.streams {
			st.pub.failedMoves = 0
		}
	}
	r.settleLocked(now)
	return r.takeNoticesLocked(), nil
}

// undrain puts it back into service; moves that are under way are finished. Errors: errUnknownMember.
func (r *registry) undrain(id uint64, now time.Time) ([]notice, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.servers[id]; s != nil {
		s.draining = false
		return nil, nil
	}
	e := r.encoders[id]
	if e == nil {
		return nil, errUnknownMember
	}
	e.draining = false
	delete(r.moving, e)
	r.settleLocked(now)
	return r.takeNoticesLocked(), nil
}
