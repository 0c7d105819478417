package main

// Publish requests and publications that wait for a slot, and what their time limits end. Part of the registry, under its
// rules.

import (
	"container/list"
	"errors"
	"slices"
	"time"
)

const maxWaitingRequests = 1000

var errWaitedInVain = errors.New("no encoder had a free slot in time")

// waiter asks for a slot: it is a publish request, or a publication that has lost its encoder.
type waiter struct {
	// a publish request
	server   *server
	request  claimRequest
	tookOver bool // a channel was taken over for it

	// a publication
	pub   *publication
	avoid *encoder // the one that failed it

	due time.Time
}

// admitLocked grants a publish request a slot, lets it wait for one or for the end of the live publisher on its channel, or holds it.
// Errors: errStopping, errPeerGone, errDraining, errChannelBusy, errJustTakenOver; errNoEncoder if there is nothing to wait for or the queue is full.
func (r *registry) admitLocked(w *waiter, now time.Time) error {
	err := errStopping
	switch {
	case r.stopping:
	case w.server.gone:
		err = errPeerGone
	default:
		err = r.grantLocked(w, now)
	}
	switch err {
	case errNoEncoder, errServerAway:
		return r.waitLocked(w, now)
	case errMayBeFree:
		return r.holdLocked(w)
	}
	return err
}

// grantLocked grants w a slot, or begins the takeover of its channel. A request whose streaming server can't be told has to wait: its
// encoder would find no stream there. Errors: errDraining, errChannelBusy, errJustTakenOver, errMayBeFree, errServerAway, errNoEncoder.
func (r *registry) grantLocked(w *waiter, now time.Time) error {
	var live *publication // on the channel of a request
	if w.pub == nil {
		if w.server.draining {
			return errDraining
		}
		if live = r.channels.Get(w.request.channel); live != nil {
			if err := r.checkTakeoverLocked(w, live, now); err != nil {
				return err
			}
		}
		if w.server.away {
			return errServerAway
		}
	}
	chosen := r.chooseLocked(w, now)
	if chosen.encoder == nil {
		return errNoEncoder
	}
	switch {
	case w.pub != nil:
		r.resumeLocked(w.pub, chosen, now)
	case live != nil:
		r.takeOverFromLocked(live, w, chosen.encoder, now)
	default:
		r.publishLocked(w, chosen, now)
	}
	return nil
}

// waitLocked appends w to the wait queue. It fails with errNoEncoder if waiting is off, unless an absent gateway has a slot or
// the request's server, or if the queue is full.
func (r *registry) waitLocked(w *waiter, now time.Time) error {
	if r.stopping || r.limits.encoderWait == 0 && !r.mayComeBackLocked(w) || w.pub == nil && !now.Before(w.request.answerBy) {
		return errNoEncoder
	}
	w.due = now.Add(r.limits.encoderWait)
	if w.pub != nil {
		w.pub.waiting = r.waiting.PushBack(w)
		r.publicationChangedLocked(w.pub) // its memo names the encoder to avoid
		r.noteLocked(notice{kind: noteWaiting, channel: w.pub.channel, stream: w.pub.id, server: w.pub.server.id, taken: r.slotsTakenLocked(), reason: r.waitsForLocked(w)})
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
	r.noteLocked(notice{kind: noteWaiting, channel: w.request.channel, server: w.server.id, taken: r.slotsTakenLocked(), reason: r.waitsForLocked(w)})
	return nil
}

// waitsForLocked is what a waiter lacks.
func (r *registry) waitsForLocked(w *waiter) error {
	if r.mayComeBackLocked(w) {
		return errServerAway
	}
	return errNoEncoder
}

// mayComeBackLocked tells whether an absent gateway has the server of a request, or an encoder that would take w. That is known
// when the gateway is back or gone, in seconds: until then w waits, so that a link that breaks for a moment turns nobody away.
func (r *registry) mayComeBackLocked(w *waiter) bool {
	if w.pub == nil && w.server.away {
		return true
	}
	for _, e := range r.encoders {
		if e.away && !e.draining && e.hasFreeSlot() && e != w.avoid {
			return true
		}
	}
	return false
}

func (r *registry) removeWaiterLocked(el *list.Element) *waiter {
	w := r.waiting.Remove(el).(*waiter)
	if w.pub != nil {
		w.pub.waiting = nil
		r.publicationChangedLocked(w.pub)
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
	dropped = append(dropped, r.dropTakeoversLocked(func(w *waiter) bool { return w.server == s })...)
	for _, w := range dropped {
		r.noteLocked(notice{kind: noteDenied, channel: w.request.channel, server: s.id, reason: errPeerGone})
	}
}

// denyRequestsLocked denies all requests that have no answer yet, but for those that a gateway asks the next coordinator.
func (r *registry) denyRequestsLocked(reason error) {
	var dropped []*waiter
	r.eachWaiterLocked(func(el *list.Element, w *waiter) {
		if w.pub == nil {
			dropped = append(dropped, r.removeWaiterLocked(el))
		}
	})
	dropped = append(dropped, r.filterHeldLocked(func(*waiter) bool { return false })...)
	dropped = append(dropped, r.dropTakeoversLocked(func(*waiter) bool { return true })...)
	for _, w := range dropped {
		if w.server.gateway == "" {
			r.denyLocked(w, reason, time.Time{})
		}
	}
}

// deny answers a publish request of a streaming server that was not claimed. The log is given the channel under another name if
// it can't be one.
func (r *registry) deny(s *server, request requestRef, channel, logged string, reason error) []notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping && s.gateway != "" {
		return nil // its gateway asks the next coordinator
	}
	s.peer.deny(request, channel)
	r.noteDeniedLocked(logged, s, reason)
	return r.endTransitionLocked(time.Time{})
}

// denyLocked denies a request whose key was verified. now may be zero unless the reason is a lack of encoders.
func (r *registry) denyLocked(w *waiter, reason error, now time.Time) {
	w.server.peer.deny(w.request.requestRef, w.request.channel)
	r.noteDeniedLocked(w.request.channel, w.server, reason)
	if isForWantOfEncoder(reason) {
		r.tellRefusedLocked(&w.request, now)
	}
}

// noteDeniedLocked notes a denial with what it was decided by: who has the channel, or how many slots are taken.
func (r *registry) noteDeniedLocked(channel string, s *server, reason error) {
	n := notice{kind: noteDenied, channel: channel, server: s.id, reason: reason}
	switch {
	case errors.Is(reason, errChannelBusy):
		if p := r.channels.Get(channel); p != nil {
			n.address, n.since = p.server.address(), p.since
		}
	case isForWantOfEncoder(reason):
		n.taken = r.slotsTakenLocked()
	}
	r.noteLocked(n)
}

// slotsTakenLocked counts the slots of all encoders in service; if one of them is free by now, the count says nothing and is unknown.
func (r *registry) slotsTakenLocked() (taken slotsTaken) {
	for _, e := range r.encoders {
		if e.draining || e.away {
			continue
		}
		if e.hasFreeSlot() {
			return slotsTaken{encoders: -1}
		}
		taken.used += e.load()
		taken.capacity += e.capacity
		taken.encoders++
	}
	return taken
}

// eachWaiterLocked calls f for each waiter in the order of arrival; f may remove it.
func (r *registry) eachWaiterLocked(f func(*list.Element, *waiter)) {
	for el := r.waiting.Front(); el != nil; {
		next := el.Next()
		f(el, el.Value.(*waiter))
		el = next
	}
}

// reconcileLocked is called when slots or channels may have become free: it goes on with takeovers, serves the wait queue,
// then goes on with moves.
func (r *registry) reconcileLocked(now time.Time) {
	if r.stopping || r.postponed != nil {
		return
	}
	r.reconcileTakeoversLocked(now)
	r.serveHeldLocked(now)
	var refused []*encoder // to be avoided, and a waiter has found no slot at any other
served:
	for el := r.waiting.Front(); el != nil; {
		w := el.Value.(*waiter)
		if slices.Contains(refused, w.avoid) {
			el = el.Next()
			continue
		}
		err := r.grantLocked(w, now)
		next := el.Next() // only now: a takeover ends the wait of the publication before it
		switch {
		case err == errServerAway:
			el = next
			continue
		case err == errNoEncoder:
			if w.avoid == nil {
				break served // nor is there a slot for those behind
			}
			refused = append(refused, w.avoid)
		default:
			r.removeWaiterLocked(el)
			if err == errMayBeFree {
				err = r.holdLocked(w)
			}
			if err != nil {
				r.denyLocked(w, err, now)
			}
		}
		el = next
	}
	r.moveOnLocked(now)
}

// expire applies the time limits: it ends waiting, starting and killing that took too long. The coordinator calls it a few
// times a second.
func (r *registry) expire(now time.Time) []notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.replay != nil {
		return nil
	}
	r.eachWaiterLocked(func(el *list.Element, w *waiter) {
		if now.Before(w.due) {
			return
		}
		switch {
		case w.pub == nil && !now.Before(w.request.answerBy) && w.server.away:
			r.denyLocked(r.removeWaiterLocked(el), errServerAway, now)
		case w.pub == nil && !now.Before(w.request.answerBy):
			r.denyLocked(r.removeWaiterLocked(el), errWaitedInVain, now)
		case r.mayComeBackLocked(w):
		case w.pub == nil:
			r.denyLocked(r.removeWaiterLocked(el), errWaitedInVain, now)
		case !w.pub.server.away:
			r.giveUpLocked(w.pub, errWaitedInVain, now)
		}
	})
	if r.heldCount > 0 {
		for _, w := range r.filterHeldLocked(func(w *waiter) bool { return now.Before(w.due) }) {
			r.denyLocked(w, errChannelBusy, now)
		}
	}
	r.probeDueLocked(now)
	r.repeatKillsLocked(now)
	r.forgetTakeoversLocked(now)
	for len(r.started) > 0 && r.age(r.started[0], now) >= r.limits.startTimeout {
		st := r.started[0]
		r.started[0] = nil
		r.started = r.started[1:]
		if st.isLiveLocked() && st.lastSeq == 0 && !st.pub.isAwayLocked() {
			r.neverStartedLocked(st, now)
		}
	}
	r.reconcileLocked(now)
	return r.endTransitionLocked(now)
}
