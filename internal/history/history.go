// Package history keeps the last hour in memory, so that a dashboard opened now shows the past: a point each 10 s, and the Rates of the last
// 10 s, from a Reading each second. A restart begins anew.
package history

import (
	"context"
	"sync"
	"time"
)

const (
	Step       = 10 // seconds
	keptPoints = 3600 / Step
)

// Reading is the state of one moment. Publishes and what follows it are counts since the start.
type Reading struct {
	Load, Capacity, EventsPending             int
	Publishes, Denials, Verified, KeysRefused int64
}

// History is the last hour. Its methods may be called from any goroutine.
type History struct {
	read func() Reading // set once

	mu sync.Mutex
	// guarded by mu
	seconds  int           // that were recorded
	last     [Step]Reading // of the last seconds, a ring
	before   Reading       // the one Step seconds before the newest
	points   [keptPoints]point
	recorded int // points, of which the newest keptPoints are kept
}

// point is one step: gauges at its end, counts within it.
type point struct {
	load, capacity, eventsPending int
	publishes, denials            int64
}

// New keeps what read gives.
func New(read func() Reading) *History { return &History{read: read} }

// Run records until ctx ends.
func (h *History) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.Record(h.read())
		case <-ctx.Done():
			return
		}
	}
}

// Record takes in the reading of a second.
func (h *History) Record(now Reading) {
	h.mu.Lock()
	defer h.mu.Unlock()
	slot := &h.last[h.seconds%Step]
	h.before, *slot = *slot, now
	h.seconds++
	if h.seconds%Step > 0 {
		return
	}
	h.points[h.recorded%keptPoints] = point{
		load:          now.Load,
		capacity:      now.Capacity,
		eventsPending: now.EventsPending,
		publishes:     now.Publishes - h.before.Publishes,
		denials:       now.Denials - h.before.Denials,
	}
	h.recorded++
}

// Rates are means of the last 10 s.
type Rates struct {
	PerSecond        float64 `json:"perSecond"`
	RefusedPerSecond float64 `json:"refusedPerSecond"`
}

// KeyVerifications returns the rates of verifications and of keys that were refused.
func (h *History) KeyVerifications() Rates {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seconds == 0 {
		return Rates{}
	}
	newest := h.last[(h.seconds-1)%Step]
	return Rates{
		PerSecond:        float64(newest.Verified-h.before.Verified) / Step,
		RefusedPerSecond: float64(newest.KeysRefused-h.before.KeysRefused) / Step,
	}
}

// Report is the last hour, oldest first. Publishes are those that were accepted; they and denials are counts
// within a step. A capacity of -1 is no limit.
type Report struct {
	StepSeconds   int     `json:"stepSeconds"`
	Load          []int   `json:"load"`
	Capacity      []int   `json:"capacity"`
	Publishes     []int64 `json:"publishes"`
	Denials       []int64 `json:"denials"`
	EventsPending []int   `json:"eventsPending"`
}

// Report returns the last hour.
func (h *History) Report() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := min(h.recorded, keptPoints)
	r := Report{
		StepSeconds:   Step,
		Load:          make([]int, 0, kept),
		Capacity:      make([]int, 0, kept),
		Publishes:     make([]int64, 0, kept),
		Denials:       make([]int64, 0, kept),
		EventsPending: make([]int, 0, kept),
	}
	for i := h.recorded - kept; i < h.recorded; i++ {
		p := &h.points[i%keptPoints]
		r.Load = append(r.Load, p.load)
		r.Capacity = append(r.Capacity, p.capacity)
		r.Publishes = append(r.Publishes, p.publishes)
		r.Denials = append(r.Denials, p.denials)
		r.EventsPending = append(r.EventsPending, p.eventsPending)
	}
	return r
}
