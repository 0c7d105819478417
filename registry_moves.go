package main

// Maintenance: taking a server or an encoder out of service, and moving the streams of an encoder to others. A move starts a
// successor beside the current stream, which takes over once it has announced its HLS-LIVE. Part of the registry, under its
// rules.

import (
	"time"
)

const (
	movesAtOnce    = 4           // of one encoder
	movePatience   = time.Minute // for the HLS-LIVE of a successor
	maxFailedMoves = 3           // of one publication; then it stays where it is
)

// drain takes a streaming server or an encoder out of service: it gets nothing new and keeps what it has. With move
// the live streams of an encoder go to others. Errors: errUnknownSession.
func (r *registry) drain(id uint64, move bool, now time.Time) (_ []notice, passedOn <-chan struct{}, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.servers[id]; s != nil {
		s.draining = true
		r.serverChangedLocked(s)
		r.noteLocked(notice{kind: noteDraining, server: id})
		passedOn = r.passedOnLocked()
		return r.endTransitionLocked(now), passedOn, nil
	}
	e := r.encoders[id]
	if e == nil {
		return nil, nil, errUnknownSession
	}
	e.draining = true
	r.encoderChangedLocked(e)
	r.noteLocked(notice{kind: noteDraining, encoder: id})
	r.releaseSlotsLocked(e)
	if move {
		r.noteLocked(notice{kind: noteMoving, encoder: id})
		r.moving[e] = struct{}{}
		for _, st := range e.streams {
			st.pub.failedMoves = 0
			r.publicationChangedLocked(st.pub)
		}
	}
	r.reconcileLocked(now)
	passedOn = r.passedOnLocked()
	return r.endTransitionLocked(now), passedOn, nil
}

// undrain puts a streaming server or an encoder back into service; moves that are under way are finished. Errors:
// errUnknownSession.
func (r *registry) undrain(id uint64, now time.Time) (_ []notice, passedOn <-chan struct{}, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.servers[id]; s != nil {
		s.draining = false
		r.serverChangedLocked(s)
		r.noteLocked(notice{kind: noteInService, server: id})
		passedOn = r.passedOnLocked()
		return r.endTransitionLocked(now), passedOn, nil
	}
	e := r.encoders[id]
	if e == nil {
		return nil, nil, errUnknownSession
	}
	e.draining = false
	r.encoderChangedLocked(e)
	delete(r.moving, e)
	r.noteLocked(notice{kind: noteInService, encoder: id})
	r.reconcileLocked(now)
	passedOn = r.passedOnLocked()
	return r.endTransitionLocked(now), passedOn, nil
}

// moveOnLocked starts as many moves as may be under way for each encoder that is drained with moving.
func (r *registry) moveOnLocked(now time.Time) {
	for e := range r.moving {
		r.moveSomeLocked(e, now)
	}
}

// moveSomeLocked gives up moves from the encoder that have taken too long, and starts others.
func (r *registry) moveSomeLocked(e *encoder, now time.Time) {
	underWay, arriving, held := 0, false, false
	for _, st := range e.streams {
		p := st.pub
		arriving = arriving || p.successor == st // on a move to this encoder; to be moved on when that is done
		if p.current != st || p.successor == nil {
			continue
		}
		if r.age(p.successor, now) >= movePatience && !p.isAwayLocked() {
			r.giveUpMoveLocked(p)
		} else {
			underWay++
		}
	}
	start := r.random(max(len(e.streams), 1)) // so that streams that can't be moved do not hold up those behind them
	for i := range e.streams {
		st := e.streams[(start+i)%len(e.streams)]
		p := st.pub
		if underWay >= movesAtOnce {
			return
		}
		if st.closing || p.current != st || p.successor != nil || !p.movable() || p.failedMoves >= maxFailedMoves {
			continue
		}
		if p.isAwayLocked() {
			held = true
			continue
		}
		other := r.chooseLocked(&waiter{pub: p}, now)
		if other.encoder == nil {
			return
		}
		p.successor = r.startLocked(p, other, r.newStreamID(), now)
		underWay++
	}
	if underWay == 0 && !arriving && !held {
		delete(r.moving, e) // what is left stays to its end
		r.encoderChangedLocked(e)
	}
}

// handOverLocked ends a move: the successor has announced its HLS-LIVE, the encoding before it is told to stop. It may go on
// for as long as the publisher does (a real encoder leaves the end to the source), and holds its slot until then.
func (r *registry) handOverLocked(p *publication) {
	old := p.current
	r.takeOverLocked(p)
	why := moved
	if p.why != notEnded {
		why = p.why // it ends with its publication
	}
	r.retireLocked(old, why)
}

// retireLocked stops an encoding of a publication that goes on at another encoder.
func (r *registry) retireLocked(st *stream, why endReason) {
	st.retiredFor = why
	st.encoder.retired++
	r.stopLocked(st)
}

// takeOverLocked makes the successor the current encoding.
func (r *registry) takeOverLocked(p *publication) {
	if !p.killed && !r.stopping { // else nothing goes on
		r.noteLocked(notice{kind: noteMoved, channel: p.channel, stream: p.successor.id, previous: p.id, server: p.server.id, encoder: p.successor.encoder.id})
	}
	p.current, p.id, p.successor, p.failedMoves = p.successor, p.successor.id, nil, 0
	r.publicationChangedLocked(p)
	r.streamChangedLocked(p.current)
}

// giveUpMoveLocked stops a successor that does not start.
func (r *registry) giveUpMoveLocked(p *publication) {
	st := p.successor
	p.successor = nil
	p.failedMoves++
	r.publicationChangedLocked(p)
	r.retireLocked(st, neverStarted)
}
