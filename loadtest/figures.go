package main

// What is counted and timed. Counters only grow: a window is the difference of two snapshots.

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// timing collects durations from 1 µs to 10 min with three significant digits. Any number of goroutines may use it.
type timing struct {
	mu        sync.Mutex
	histogram *hdrhistogram.Histogram // guarded by mu
}

func newTiming() *timing {
	return &timing{histogram: hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 3)}
}

func (t *timing) record(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	longest := t.histogram.HighestTrackableValue()
	_ = t.histogram.RecordValue(min(max(d.Microseconds(), 1), longest)) // within the range
}

func (t *timing) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.histogram.Reset()
}

// percentiles are in milliseconds.
type percentiles struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

func (t *timing) percentiles() percentiles {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := func(percent float64) float64 { return float64(t.histogram.ValueAtPercentile(percent)) / 1000 }
	return percentiles{at(50), at(99), at(99.9), float64(t.histogram.Max()) / 1000}
}

// counters are of a whole run.
type counters struct {
	// lives
	begun, completed, denied, killed atomic.Int64
	anew                             atomic.Int64 // starts under another stream ID than before

	// events
	told, arrived, repeated, outOfOrder, unexpected atomic.Int64

	disconnected atomic.Int64 // peers that lost their connection
	progress     atomic.Int64 // anything that went on
}
