package main

// How a publication goes from one encoder to another: failover, when it has lost its encoder, and moves, when an
// encoder is drained for maintenance. The work gets a new stream ID each time, since two encoders must never write
// the same path. Only RTMP sources can be moved: a WebSocket source loses the container's header at the first pull,
// so that a second encoder can't decode it. Part of the registry, under its rules.

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// A publication that loses maxLosses encoders within lossWindow is the likely cause and is killed.
	maxLosses  = 3
	lossWindow = time.Minute

	movesAtOnce    = 4           // of one encoder
	movePatience   = time.Minute // for the HLS-LIVE of a successor
	maxFailedMoves = 3           // of one publication; then it stays where it is
)

func (p *publication) movable() bool { return p.server.serverType == "RTMP" && !p.killed }

// lostLocked is called when a live stream was closed under its publication. mayMove tells whether another encoder may
// fare better; if not, or if there can be no other, the publication is killed.
func (r *registry) lostLocked(st *stream, mayMove bool, reason error, now time.Time) {
	p := st.pub
	switch {
	case p.successor == st: // the current one goes on
		p.successor = nil
		p.failedMoves++
		return
	case p.successor != nil: // it takes over before its time
		r.takeOverLocked(p)
		return
	}
	p.current = nil
	if st.lastSeq == 0 && st.previous != "" {
		p.id = st.previous // the application has not heard of a later one
	}
	if r.stopping || !mayMove || !r.limits.failover || !p.movable() {
		r.giveUpLocked(p, reason, now)
		return
	}
	if r.countLossLocked(p, now) >= maxLosses {
		r.giveUpLocked(p, errEncodersLost, now)
		return
	}
	w := &waiter{pub: p, avoid: st.encoder}
	if st.encoder.gone {
		w.avoid = nil
	}
	if r.grantLocked(w, now) == nil {
		return
	}
	if err := r.waitLocked(w, now); err != nil {
		r.giveUpLocked(p, err, now)
	}
}

func (r *registry) countLossLocked(p *publication, now time.Time) int {
	recent := slices.DeleteFunc(r.losses[p], func(at time.Time) bool { return now.Sub(at) > lossWindow })
	r.losses[p] = append(recent, now)
	return len(recent) + 1
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
func (r *registry) resumeLocked(p *publication, e *encoder, now time.Time) {
	p.current = r.startLocked(p, e, r.newStreamID(), now)
	r.noteLocked(notice{kind: noteMoved, channel: p.channel, stream: p.current.id, previous: p.id, server: p.server.id, encoder: e.id})
	p.id = p.current.id
}

// moveOnLocked starts as many moves as may be under way for each encoder that is drained with moving.
func (r *registry) moveOnLocked(now time.Time) {
	for e := range r.moving {
		r.moveSomeLocked(e, now)
	}
}

func (r *registry) moveSomeLocked(e *encoder, now time.Time) {
	underWay, arriving := 0, false
	for _, st := range e.streams {
		p := st.pub
		arriving = arriving || p.successor == st // it is to be moved on once it has taken over
		if p.current != st || p.successor == nil {
			continue
		}
		if r.age(p.successor, now) >= movePatience {
			r.giveUpMoveLocked(p)
		} else {
			underWay++
		}
	}
	start := rand.IntN(max(len(e.streams), 1)) // so that streams that can't be moved do not hold up those behind them
	for i := range e.streams {
		st := e.streams[(start+i)%len(e.streams)]
		p := st.pub
		if underWay >= movesAtOnce {
			return
		}
		if st.closing || p.current != st || p.successor != nil || !p.movable() || p.failedMoves >= maxFailedMoves {
			continue
		}
		other := r.chooseLocked(&waiter{pub: p}, now)
		if other == nil {
			return
		}
		p.successor = r.startLocked(p, other, r.newStreamID(), now)
		underWay++
	}
	if underWay == 0 && !arriving {
		delete(r.moving, e) // what is left stays to its end
	}
}

// handOverLocked ends a move: the successor has announced its HLS-LIVE, the encoding before it is told to stop. It may
// go on for as long as the publisher does (a real encoder leaves the end to the source), holds its slot until then, and
// is of no use to anybody.
func (r *registry) handOverLocked(p *publication) {
	old := p.current
	r.takeOverLocked(p)
	r.supersedeLocked(old)
}

// supersedeLocked stops an encoding of a publication that goes on at another encoder.
func (r *registry) supersedeLocked(st *stream) {
	st.superseded = true
	st.encoder.superseded++
	r.stopLocked(st)
}

// takeOverLocked makes the successor the current encoding.
func (r *registry) takeOverLocked(p *publication) {
	r.noteLocked(notice{kind: noteMoved, channel: p.channel, stream: p.successor.id, previous: p.id, server: p.server.id, encoder: p.successor.encoder.id})
	p.current, p.id, p.successor, p.failedMoves = p.successor, p.successor.id, nil, 0
}

// neverStartedLocked ends a stream that has announced nothing in time, and with it its publication, unless that is
// still served by another encoder.
func (r *registry) neverStartedLocked(st *stream, now time.Time) {
	p := st.pub
	if p.successor == st {
		r.giveUpMoveLocked(p)
		return
	}
	r.giveUpLocked(p, errNeverStarted, now)
}

// giveUpMoveLocked stops a successor that does not get going.
func (r *registry) giveUpMoveLocked(p *publication) {
	st := p.successor
	p.successor = nil
	p.failedMoves++
	r.supersedeLocked(st)
}
