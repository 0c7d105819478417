package main

// Failover: a publication that has lost its encoder goes on at another one. It gets a new stream ID, since two encoders must
// never write the same path. Only RTMP sources allow that: a WebSocket source loses the container's header at the first
// pull, so that a second encoder can't decode it. Part of the registry, under its rules.

import (
	"errors"
	"time"
)

var (
	errEncoderFailed = errors.New("encoder ended the stream")
	errEncoderGone   = errors.New("encoder is gone")
)

func (p *publication) movable() bool { return p.server.kind == kindRTMP && !p.killed }

// lostLocked is called when a live stream was closed under its publication. mayFailOver tells whether another encoder may
// fare better; if not, or if there can be no other, the publication is killed.
func (r *registry) lostLocked(st *stream, mayFailOver bool, reason error, now time.Time) {
	p := st.pub
	l := loss{from: st.encoder, reason: reason, mayFailOver: mayFailOver}
	if r.replay != nil {
		if p.atEncoders == 0 && r.mayGoOnLocked(p, l) && p.server.publications.Has(p) {
			r.interruptedLocked(st, reason, now) // no other stream of it is left, as one of a move would be
		}
		r.replay.lose(st, l)
		return
	}
	r.publicationChangedLocked(p)
	switch {
	case p.successor == st: // the current one goes on
		p.successor = nil
		p.failedMoves++
		return
	case p.successor != nil: // it takes over before its time
		r.interruptedLocked(st, reason, now)
		r.takeOverLocked(p)
		return
	}
	p.current = nil
	if st.lastSeq == 0 && st.previous != "" {
		p.id = st.previous // the application has not heard of a later one
	}
	l.untold = st
	if r.postponed != nil {
		r.postponed[p] = l
		return
	}
	r.goOnLocked(p, l, now)
}

// loss is why a publication has no encoder.
type loss struct {
	from        *encoder // nil: not its fault
	reason      error
	mayFailOver bool // another encoder may fare better

	untold *stream // it is still to be told as interrupted, if the publication goes on; else nil

	// of a loss that is postponed: the end of untold, which is told when it is known whether the publication goes on
	why endReason // notEnded: it is told already, or there is none to tell
	at  time.Time
}

// goOnLocked has another encoder take on a publication that has lost its own, or kills it.
func (r *registry) goOnLocked(p *publication, l loss, now time.Time) {
	switch {
	case !r.mayGoOnLocked(p, l):
		r.giveUpLocked(p, l.reason, now)
		return
	case r.countLossLocked(p, now) >= maxLosses:
		r.giveUpLocked(p, errEncodersLost, now)
		return
	}
	w := &waiter{pub: p}
	if l.from != nil && !l.from.gone {
		w.avoid = l.from
	}
	if r.placeLostLocked(w, now) && l.untold != nil {
		r.interruptedLocked(l.untold, l.reason, now)
	}
}

// mayGoOnLocked tells whether another encoder may take on a publication, as far as that does not depend on encoders.
func (r *registry) mayGoOnLocked(p *publication, l loss) bool {
	return !r.stopping && l.mayFailOver && r.limits.failover && p.movable()
}

// placeLostLocked grants a publication a slot, lets it wait for one, or kills it. It reports false if it is killed.
func (r *registry) placeLostLocked(w *waiter, now time.Time) bool {
	if r.grantLocked(w, now) == nil {
		return true
	}
	err := r.waitLocked(w, now)
	if err != nil {
		r.giveUpLocked(w.pub, err, now)
	}
	return err == nil
}

// lastToldLocked is the stream ID that a new encoding takes over from in the eyes of the application, which has not heard
// of an encoding that never announced anything.
func (p *publication) lastToldLocked() string {
	if p.current != nil && p.current.lastSeq == 0 && p.current.previous != "" {
		return p.current.previous
	}
	return p.id
}

// resumeLocked gives a publication that has lost its encoder to another one.
func (r *registry) resumeLocked(p *publication, c choice, now time.Time) {
	p.current = r.startLocked(p, c, r.newStreamID(), now)
	r.noteLocked(notice{kind: noteFailedOver, channel: p.channel, stream: p.current.id, previous: p.id, server: p.server.id, encoder: c.encoder.id})
	p.id = p.current.id
}
