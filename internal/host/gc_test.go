package host

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestBusyDaemonCollectsRarelyAndAQuietOneGivesMemoryBack plays the load second by second.
func TestBusyDaemonCollectsRarelyAndAQuietOneGivesMemoryBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var live, perSecond atomic.Uint64
		live.Store(40 << 20)
		allocated := uint64(0)
		var done []string
		note := func(what string) { done = append(done, fmt.Sprintf("%v %s", time.Since(began), what)) }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			tune(ctx, collector{ // looks at full seconds
				read: func() (uint64, uint64) {
					allocated += perSecond.Load()
					return live.Load(), allocated
				},
				setPercent: func(percent int) { note(fmt.Sprint("percent ", percent)) },
				free:       func() { note("free") },
			})
		}()
		time.Sleep(500 * time.Millisecond) // so that no change falls on a look
		for _, part := range []struct{ seconds, perSecond, live uint64 }{
			{3, 0, 40 << 20},         // idle from the start
			{10, 64 << 20, 40 << 20}, // busy
			{3, 0, 40 << 20},         // a pause that is too short to give memory back
			{5, 64 << 20, 160 << 20}, // busy with a larger heap
			{20, 1 << 20, 160 << 20}, // quiet
		} {
			perSecond.Store(part.perSecond)
			live.Store(part.live)
			synctest.Wait()
			time.Sleep(time.Duration(part.seconds) * time.Second)
		}
		cancel()
		<-ended
		want := []string{
			"0s percent 50",   // 32 MiB over 40
			"4s percent 300",  // 128 MiB over 40, in steps
			"17s percent 100", // 128 MiB over 160, at least 100
			"26s percent 50",  // after 5 quiet seconds
			"26s free",
		}
		if diff := cmp.Diff(want, done); diff != "" {
			t.Error(diff)
		}
	})
}
