package main

// How much memory is spent to save collections. With 100,000 live streams a collection marks some 40 MiB: under load,
// with little headroom, a good part of the processor time goes there. So a busy daemon collects rarely, and a quiet one
// gives the memory back, but not in every pause: each page that comes back from the system costs time as well. The figures
// are in docs/performance.md. An operator's GOGC has the word.

import (
	"context"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

const (
	busyAllocation = 8 << 20 // bytes a second
	quietAfter     = 5       // seconds below that

	// By how much the heap may grow between two collections, within bounds.
	busyHeadroom  = 128 << 20
	quietHeadroom = 32 << 20
)

// gcPercent is the value of GOGC for a heap with so many live bytes, in steps, since each change stops the world.
func gcPercent(live uint64, busy bool) int {
	headroom, least, most := uint64(quietHeadroom), 50, 400
	if busy {
		headroom, least, most = busyHeadroom, 100, 600
	}
	const step = 50
	return min(max(int(headroom*100/(live+1))/step*step, least), most)
}

// tuneGC adjusts the collector to the heap and the load until ctx ends.
func tuneGC(ctx context.Context) {
	samples := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	percent, quiet, allocated := 100, quietAfter, uint64(0)
	for {
		runtimemetrics.Read(samples)
		before := allocated
		allocated = samples[1].Value.Uint64()
		if quiet++; allocated-before > busyAllocation {
			quiet = 0
		}
		if wanted := gcPercent(samples[0].Value.Uint64(), quiet < quietAfter); wanted != percent {
			percent = wanted
			debug.SetGCPercent(percent)
		}
		if quiet == quietAfter {
			debug.FreeOSMemory()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
