package main

// Which encoder gets a stream. Part of the registry, under its rules.

import (
	"time"
)

// settledAfter is how long an encoder has to be connected to count as settled. A publication that has lost an encoder prefers
// settled ones: one that crashes in a loop would end it (maxLosses).
const settledAfter = 10 * time.Second

// slotCount is updated with every transition, so that reading it costs the same with any number of streams.
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
// set aside only if there is no other. A publication that has lost an encoder gets a settled one if there is one.
func (r *registry) chooseLocked(w *waiter, now time.Time) *encoder {
	var best *encoder
	for _, e := range r.encoders {
		if e.draining || e.away || !e.hasFreeSlot() || e == w.avoid {
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
	if x, y := now.Before(a.setAsideUntil), now.Before(b.setAsideUntil); x != y {
		return y
	}
	if w.pub != nil {
		if x, y := now.Sub(a.since) >= settledAfter, now.Sub(b.since) >= settledAfter; x != y {
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
