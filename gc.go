package main

// How much memory is spent to save collections. A small heap is collected rarely, which costs a few MiB; a large one,
// with many streams or peers, is kept tight. The figures are in docs/performance.md. An operator's GOGC has the word.

import (
	"context"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

const gcHeadroom = 32 << 20 // bytes that the heap may grow between two collections, within the bounds of gcPercent

// gcPercent is the value of GOGC for a heap with so many live bytes.
func gcPercent(live uint64) int {
	for _, percent := range []int{400, 200, 100} {
		if live*uint64(percent)/100 <= gcHeadroom {
			return percent
		}
	}
	return 50
}

// tuneGC adjusts the collector to the heap until ctx ends.
func tuneGC(ctx context.Context) {
	live := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for percent := 100; ; {
		runtimemetrics.Read(live)
		if wanted := gcPercent(live[0].Value.Uint64()); wanted != percent {
			percent = wanted
			debug.SetGCPercent(percent)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
