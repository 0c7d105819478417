package main

// Guards: an encoder that fails all that it is given is set aside, a publication that takes one encoder after the other down
// is killed, and so is one whose encoder never announces anything. Part of the registry, under its rules.

import (
	"errors"
	"slices"
	"time"
)

const (
	// An encoder that failed so many streams in a row, each within earlyFailure of its start and with nothing announced, is
	// set aside for a time that doubles with each further failure.
	failuresInARow = 3
	earlyFailure   = 10 * time.Second
	firstAside     = 10 * time.Second
	longestAside   = 5 * time.Minute

	// A publication that loses maxLosses encoders within lossWindow is the likely cause and is killed.
	maxLosses  = 3
	lossWindow = time.Minute
)

var (
	errFailsInARow  = errors.New("it ended three streams or more in a row, each within 10 s of its start and with nothing announced")
	errNeverStarted = errors.New("encoder announced nothing in time")
	errEncodersLost = errors.New("three encoders lost within a minute: the stream itself is the likely cause")
)

// countFailureLocked counts a stream that its encoder ended by itself. One whose publisher was told to stop is no failure: its
// source may be gone before the streaming server says so.
func (r *registry) countFailureLocked(st *stream, now time.Time) {
	e := st.encoder
	if st.lastSeq > 0 || r.age(st, now) > earlyFailure || st.pub.killed || r.replay != nil {
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
	e.setAsideUntil = now.Add(aside)
	r.noteLocked(notice{kind: noteSetAside, encoder: e.id, reason: errFailsInARow, until: e.setAsideUntil})
}

func (r *registry) countLossLocked(p *publication, now time.Time) int {
	recent := slices.DeleteFunc(r.losses[p], func(at time.Time) bool { return now.Sub(at) > lossWindow })
	r.losses[p] = append(recent, now)
	return len(recent) + 1
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
