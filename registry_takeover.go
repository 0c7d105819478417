package main

// Takeover: a publisher whose key is valid gets a channel that is live on another streaming server. (It can't be the same one: a
// server refuses a second publisher of a channel that is live on it before it asks.) A slot is reserved for the newcomer
// first; without one nothing happens to the live publisher. Then the live publisher is killed. The newcomer gets the channel when that one
// has ended, or takeoverPatience later: then the old publication is ousted, which means that it is off the channel, and its kills go on
// like any others. Part of the registry, under its rules.

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	// takeoverPatience is how long a newcomer waits for the PUBLISH-END of the publisher before it.
	takeoverPatience = 5 * time.Second

	// takeoversApart is the least time between two takeovers of a channel, so that two publishers with one key do not take it from each
	// other all the time.
	takeoversApart = 10 * time.Second
)

var (
	errJustTakenOver  = fmt.Errorf("%w, and was taken over less than 10 s ago", errChannelBusy)
	errTakenOver      = errors.New("another publisher with a valid key takes over the channel")
	errClosedUnderWay = errors.New("close command for the channel while it was being taken over")
)

// takeover is one that is under way.
type takeover struct {
	request *waiter
	from    *publication // killed
	encoder *encoder     // with a slot reserved for the newcomer; nil: that was lost, and no other encoder has one
	due     time.Time
}

// checkTakeoverLocked tells whether w may take the channel over from p, which holds it. Errors: errChannelBusy, errJustTakenOver, errMayBeFree.
func (r *registry) checkTakeoverLocked(w *waiter, p *publication, now time.Time) error {
	last, found := r.takenOver[p.channel]
	switch {
	case r.takeovers[p.channel] != nil:
		return errChannelBusy
	case p.server.suspect():
		return errMayBeFree
	case !r.limits.takeover || w.server == p.server:
		return errChannelBusy
	case found && now.Sub(last) < takeoversApart:
		return errJustTakenOver
	}
	return nil
}

// takeOverFromLocked begins a takeover, with a slot of the encoder.
func (r *registry) takeOverFromLocked(p *publication, w *waiter, e *encoder, now time.Time) {
	t := &takeover{request: w, from: p, due: now.Add(takeoverPatience)}
	if w.request.answerBy.Before(t.due) {
		t.due = w.request.answerBy
	}
	r.takeovers[p.channel], r.takenOver[p.channel] = t, now
	r.reserveSlotLocked(t, e)
	if !p.killed {
		r.killLocked(p, errTakenOver, now)
		r.noteLocked(notice{kind: noteKilled, channel: p.channel, stream: p.id, server: p.server.id, reason: errTakenOver})
	}
}

func (r *registry) reserveSlotLocked(t *takeover, e *encoder) {
	t.encoder = e
	e.reserved++
	r.slots.used++
}

func (r *registry) releaseSlotLocked(t *takeover) {
	if t.encoder != nil {
		t.encoder.reserved--
		r.slots.used--
		t.encoder = nil
	}
}

// releaseSlotsLocked is for an encoder that is gone or draining. The next reconcileLocked reserves others.
func (r *registry) releaseSlotsLocked(e *encoder) {
	for _, t := range r.takeovers {
		if t.encoder == e {
			r.releaseSlotLocked(t)
		}
	}
}

// reconcileTakeoversLocked goes on with takeovers, when slots or channels may have become free or time has passed.
func (r *registry) reconcileTakeoversLocked(now time.Time) {
	if len(r.takeovers) == 0 {
		return
	}
	for _, channel := range slices.Sorted(maps.Keys(r.takeovers)) {
		r.reconcileTakeoverLocked(r.takeovers[channel], now)
	}
	for _, channel := range slices.Sorted(maps.Keys(r.takeovers)) {
		r.ensureSlotLocked(r.takeovers[channel], now) // the end of another one may have freed a slot
	}
}

// reconcileTakeoverLocked ends a takeover once its channel is free, its time is over, or its newcomer can't have the channel.
func (r *registry) reconcileTakeoverLocked(t *takeover, now time.Time) {
	w := t.request
	isLate := !now.Before(w.request.answerBy)
	switch {
	case w.server.away: // it can't be told: its encoder would find no stream there
		if isLate {
			r.refuseTakeoverLocked(t, errServerAway, now)
		}
	case r.channels.Get(w.request.channel) != t.from:
		r.dropTakeoverLocked(t)
		w.tookOver = true
		if err := r.admitLocked(w, now); err != nil {
			r.denyLocked(w, err, now)
		}
	case w.server.draining:
		r.refuseTakeoverLocked(t, errDraining, now)
	case !r.ensureSlotLocked(t, now):
		if mayWait := r.limits.encoderWait > 0 || r.mayComeBackLocked(w); isLate || !now.Before(t.due) && !mayWait {
			r.refuseTakeoverLocked(t, errNoEncoder, now)
		}
	case !now.Before(t.due):
		r.dropTakeoverLocked(t)
		r.oustLocked(t.from)
		w.tookOver = true
		r.publishLocked(w, r.chooseLocked(w, now), now)
	}
}

// ensureSlotLocked tells whether a slot is reserved for the newcomer. If its slot was lost, because the encoder is gone, draining, away or
// smaller than it was, it reserves another one if there is one.
func (r *registry) ensureSlotLocked(t *takeover, now time.Time) bool {
	if e := t.encoder; e != nil && !e.away && (e.capacity < 0 || e.load() <= e.capacity) {
		return true
	}
	r.releaseSlotLocked(t)
	if chosen := r.chooseLocked(t.request, now); chosen.encoder != nil {
		r.reserveSlotLocked(t, chosen.encoder)
	}
	return t.encoder != nil
}

// refuseTakeoverLocked ends a takeover without its newcomer. Its publication stays on the channel, and its kill holds like any other.
func (r *registry) refuseTakeoverLocked(t *takeover, reason error, now time.Time) {
	r.dropTakeoverLocked(t)
	r.denyLocked(t.request, reason, now)
}

func (r *registry) dropTakeoverLocked(t *takeover) {
	delete(r.takeovers, t.from.channel)
	r.releaseSlotLocked(t)
}

// dropTakeoversLocked drops and returns the requests of takeovers under way for which drop is true.
func (r *registry) dropTakeoversLocked(drop func(*waiter) bool) (dropped []*waiter) {
	for _, t := range r.takeovers {
		if drop(t.request) {
			r.dropTakeoverLocked(t)
			dropped = append(dropped, t.request)
		}
	}
	return dropped
}

// oustLocked takes a killed publication off its channel.
func (r *registry) oustLocked(p *publication) {
	r.channels.Remove(p)
	p.ousted = true
	r.ousted[p.publisherID] = p
	r.letGoLocked(p)
}

// forgetTakeoversLocked forgets when channels were taken over last, once they may be taken over again.
func (r *registry) forgetTakeoversLocked(now time.Time) {
	for channel, at := range r.takenOver {
		if now.Sub(at) >= takeoversApart {
			delete(r.takenOver, channel)
		}
	}
}
