package history

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// recordHistory runs a history over fake time: each second it reads what the second's number (from 1) gives. check is
// called half a second after the last of them.
func recordHistory(t *testing.T, seconds int, readAt func(second int) Reading, check func(*History)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		h := New(func() Reading { return readAt(int(time.Since(start).Round(time.Second) / time.Second)) })
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { h.Run(ctx) })
		<-time.After(time.Duration(seconds)*time.Second + time.Second/2)
		check(h)
		cancel()
		running.Wait()
	})
}

func TestHistoryHasAPointEachTenSeconds(t *testing.T) {
	t.Parallel()
	recordHistory(t, 39, func(second int) Reading {
		return Reading{Load: second, Capacity: -1, EventsPending: 2 * second, Publishes: int64(second * second), Denials: int64(3 * second)}
	}, func(h *History) {
		want := Report{
			StepSeconds:   10,
			Load:          []int{10, 20, 30},
			Capacity:      []int{-1, -1, -1},
			Publishes:     []int64{100, 300, 500},
			Denials:       []int64{30, 30, 30},
			EventsPending: []int{20, 40, 60},
		}
		if diff := cmp.Diff(want, h.Report()); diff != "" {
			t.Error("(-want +got):\n", diff)
		}
	})
}

func TestHistoryForgetsAfterAnHour(t *testing.T) {
	t.Parallel()
	recordHistory(t, 2*3600+5, func(second int) Reading {
		return Reading{Load: second, Publishes: int64(second)}
	}, func(h *History) {
		r := h.Report()
		if len(r.Load) != 360 || len(r.Capacity) != 360 || len(r.Publishes) != 360 || len(r.Denials) != 360 || len(r.EventsPending) != 360 {
			t.Fatalf("%d points", len(r.Load))
		}
		for i, load := range r.Load {
			if want := 3600 + 10*(i+1); load != want || r.Publishes[i] != 10 {
				t.Fatalf("point %d: load %d, %d publishes; want load %d, 10 publishes", i, load, r.Publishes[i], want)
			}
		}
	})
}

func TestRatesAreMeansOfTheLastTenSeconds(t *testing.T) {
	t.Parallel()
	// 20 verifications in the third second, 5 of them refused
	burst := func(second int) (r Reading) {
		if second >= 3 {
			r.Verified, r.KeysRefused = 20, 5
		}
		return r
	}
	for second, want := range map[int]Rates{0: {}, 2: {}, 3: {2, 0.5}, 12: {2, 0.5}, 13: {}, 60: {}} {
		recordHistory(t, second, burst, func(h *History) {
			if got := h.KeyVerifications(); got != want {
				t.Errorf("after %d s: %v, want %v", second, got, want)
			}
		})
	}
}

func TestHistoryOfNothingIsEmptyLists(t *testing.T) {
	t.Parallel()
	r := New(nil).Report()
	if r.Load == nil || len(r.Load) != 0 || r.EventsPending == nil {
		t.Errorf("%+v", r)
	}
}
