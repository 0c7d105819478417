package main

// Which encoder gets a stream. Part of the registry, under its rules.

import (
	"cmp"
	"math"
	"time"
)

// stableAfter is how long an encoder has to be connected to count as stable. A publication that has lost an encoder prefers
// stable ones: one that crashes in a loop would end it (maxLosses).
const stableAfter = 10 * time.Second

// placement tells which of the encoders with a free slot gets a stream, the value of PLACEMENT.
type placement string

const (
	leastLoad  placement = "least-load"  // the one with the fewest slots taken
	leastShare placement = "least-share" // the one with the smallest share of its slots taken, which is 0 without a limit
	pack       placement = "pack"        // the one with the most slots taken, so that others become idle
)

// prefers orders encoders that have a free slot. Between equals the one with less load wins; with pack, the one that came first.
func (p placement) prefers(a, b *encoder) bool {
	switch {
	case p == pack && a.load() != b.load():
		return a.load() > b.load()
	case p == pack:
		return a.id < b.id
	case p == leastShare:
		if order := compareShares(a, b); order != 0 {
			return order < 0
		}
	}
	return lessLoaded(a, b)
}

// compareShares is negative if a smaller share of a's slots is taken.
func compareShares(a, b *encoder) int {
	share := func(e, other *encoder) int64 { // times both capacities
		if e.capacity < 0 {
			return 0
		}
		return int64(e.load()) * int64(max(1, other.capacity))
	}
	return cmp.Compare(share(a, b), share(b, a))
}

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

// headroomLocked is how many slots would be free after the worst loss of one encoder, with its streams at the others; negative: so many
// streams would find none. +Inf: an encoder without a limit would be left, whichever is lost.
func (r *registry) headroomLocked() float64 {
	free, unlimited := 0, 0 // of encoders that take streams
	for _, e := range r.encoders {
		switch {
		case e.draining || e.away:
		case e.capacity < 0:
			unlimited++
		default:
			free += max(0, e.capacity-e.load())
		}
	}
	least := math.Inf(1)
	for _, e := range r.encoders {
		left, others := free-e.load(), unlimited
		switch {
		case e.draining || e.away:
		case e.capacity < 0:
			others--
		default:
			left -= max(0, e.capacity-e.load())
		}
		if others == 0 {
			least = min(least, float64(left))
		}
	}
	if len(r.encoders) == 0 {
		return 0
	}
	return least
}

func (e *encoder) load() int { return len(e.streams) + e.reserved }

func (e *encoder) hasFreeSlot() bool { return e.capacity < 0 || e.load() < e.capacity }

// choice is an encoder that was chosen, and of how many that could take the stream.
type choice struct {
	encoder    *encoder
	of         int
	passedOver *encoder // that the placement prefers; nil: there is none
	because    string   // of passedOver
}

// chooseLocked chooses an encoder with a free slot, as the placement has it, none if there is none; one that may be dead or is
// set aside only if there is no other. A publication that has lost an encoder gets a stable one if there is one.
func (r *registry) chooseLocked(w *waiter, now time.Time) (best choice) {
	for _, e := range r.encoders {
		if e.draining || e.away || !e.hasFreeSlot() || e == w.avoid {
			continue
		}
		best.of++
		if best.encoder == nil {
			best.encoder = e
			continue
		}
		preferred, because := r.preferredLocked(w, e, best.encoder, now)
		other := e
		if preferred {
			other, best.encoder = best.encoder, e
		}
		if because != "" && (best.passedOver == nil || r.limits.placement.prefers(other, best.passedOver)) {
			best.passedOver, best.because = other, because
		}
	}
	if best.passedOver != nil && !r.limits.placement.prefers(best.passedOver, best.encoder) {
		best.passedOver = nil
	}
	return best
}

// preferredLocked tells whether a is better than b, and what the other one lacks, if it is not the placement that decides.
func (r *registry) preferredLocked(w *waiter, a, b *encoder, now time.Time) (preferred bool, because string) {
	if x, y := a.slowToAnswer(now), b.slowToAnswer(now); x != y {
		return y, "does not answer at the moment"
	}
	if x, y := now.Before(a.setAsideUntil), now.Before(b.setAsideUntil); x != y {
		return y, "is set aside"
	}
	if w.pub != nil {
		if x, y := now.Sub(a.since) >= stableAfter, now.Sub(b.since) >= stableAfter; x != y {
			return x, "has only just connected"
		}
	}
	return r.limits.placement.prefers(a, b), ""
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
