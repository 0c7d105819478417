// Package host is what the daemon asks of the machine and the runtime that it runs on.
package host

// How much memory is spent to save garbage collections. With 100,000 live streams a collection marks some 40 MiB: under
// load, with little headroom, a good part of the CPU time goes there. So a busy daemon collects rarely, and a quiet one gives
// memory back to the system, but not in every pause: each page that comes back costs time as well. The figures are in
// docs/performance.md. If the operator sets GOGC, TuneGC is not to run.

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

// collector is the part of the runtime that TuneGC steers.
type collector struct {
	read       func() (live, allocated uint64) // bytes: of the heap after the last collection, and allocated since the start
	setPercent func(percent int)
	free       func() // gives memory back to the system
}

func runtimeCollector() collector {
	samples := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	return collector{
		read: func() (live, allocated uint64) {
			runtimemetrics.Read(samples)
			return samples[0].Value.Uint64(), samples[1].Value.Uint64()
		},
		setPercent: func(percent int) { debug.SetGCPercent(percent) },
		free:       debug.FreeOSMemory,
	}
}

// TuneGC adjusts the runtime's collector to the heap and the load until ctx ends. The collector is the whole process's: one
// TuneGC runs at a time.
func TuneGC(ctx context.Context) { tune(ctx, runtimeCollector()) }

func tune(ctx context.Context, c collector) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	percent, quiet, before := 100, quietAfter, uint64(0)
	for {
		live, allocated := c.read()
		if quiet++; allocated-before > busyAllocation {
			quiet = 0
		}
		before = allocated
		if wanted := gcPercent(live, quiet < quietAfter); wanted != percent {
			percent = wanted
			c.setPercent(percent)
		}
		if quiet == quietAfter {
			c.free()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
