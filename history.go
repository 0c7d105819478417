package main

// The last hour in memory, so that a dashboard opened now shows the past: a point each 10 s, and the rates of the last
// 10 s, from a reading each second. A restart begins anew.

import (
	"context"
	"sync"
	"time"
)

const (
	historyStep   = 10 // seconds
	historyPoints = 3600 / historyStep
)

// reading is the state of one moment. publishes and what follows it are counts since the start.
type reading struct {
	load, capacity, eventsPending             int
	publishes, denials, verified, keysRefused int64
}

type history struct {
	read func() reading // set once

	mu sync.Mutex
	// guarded by mu
	seconds  int                  // that were recorded
	last     [historyStep]reading // of the last seconds, a ring
	before   reading              // the one historyStep seconds before the newest
	points   [historyPoints]historyPoint
	recorded int // points, of which the newest historyPoints are kept
}

// historyPoint is one step: gauges at its end, counts within it.
type historyPoint struct {
	load, capacity, eventsPending int
	publishes, denials            int64
}

func newHistory(read func() reading) *history { return &history{read: read} }

// run records until ctx ends.
func (h *history) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.record(h.read())
		case <-ctx.Done():
			return
		}
	}
}

func (h *history) record(now reading) {
	h.mu.Lock()
	defer h.mu.Unlock()
	slot := &h.last[h.seconds%historyStep]
	h.before, *slot = *slot, now
	h.seconds++
	if h.seconds%historyStep > 0 {
		return
	}
	h.points[h.recorded%historyPoints] = historyPoint{
		load:          now.load,
		capacity:      now.capacity,
		eventsPending: now.eventsPending,
		publishes:     now.publishes - h.before.publishes,
		denials:       now.denials - h.before.denials,
	}
	h.recorded++
}

// rates are means of the last 10 s.
type rates struct {
	PerSecond        float64 `json:"perSecond"`
	RefusedPerSecond float64 `json:"refusedPerSecond"`
}

func (h *history) keyVerifications() rates {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seconds == 0 {
		return rates{}
	}
	newest := h.last[(h.seconds-1)%historyStep]
	return rates{
		PerSecond:        float64(newest.verified-h.before.verified) / historyStep,
		RefusedPerSecond: float64(newest.keysRefused-h.before.keysRefused) / historyStep,
	}
}

// historyReport is the last hour, oldest first. Publishes are those that were accepted; they and denials are counts
// within a step. A capacity of -1 is no limit.
type historyReport struct {
	StepSeconds   int     `json:"stepSeconds"`
	Load          []int   `json:"load"`
	Capacity      []int   `json:"capacity"`
	Publishes     []int64 `json:"publishes"`
	Denials       []int64 `json:"denials"`
	EventsPending []int   `json:"eventsPending"`
}

func (h *history) report() historyReport {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := min(h.recorded, historyPoints)
	r := historyReport{
		StepSeconds:   historyStep,
		Load:          make([]int, 0, kept),
		Capacity:      make([]int, 0, kept),
		Publishes:     make([]int64, 0, kept),
		Denials:       make([]int64, 0, kept),
		EventsPending: make([]int, 0, kept),
	}
	for i := h.recorded - kept; i < h.recorded; i++ {
		p := &h.points[i%historyPoints]
		r.Load = append(r.Load, p.load)
		r.Capacity = append(r.Capacity, p.capacity)
		r.Publishes = append(r.Publishes, p.publishes)
		r.Denials = append(r.Denials, p.denials)
		r.EventsPending = append(r.EventsPending, p.eventsPending)
	}
	return r
}
