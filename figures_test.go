package main

// The last hour, and the words for how requests and connections end.

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// recordHistory runs a history over fake time: each second it reads what the second's number (from 1) gives. check is
// called half a second after the last of them.
func recordHistory(t *testing.T, seconds int, readAt func(second int) reading, check func(*history)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		h := newHistory(func() reading { return readAt(int(time.Since(start).Round(time.Second) / time.Second)) })
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { h.run(ctx) })
		<-time.After(time.Duration(seconds)*time.Second + time.Second/2)
		check(h)
		cancel()
		running.Wait()
	})
}

func TestHistoryHasAPointEachTenSeconds(t *testing.T) {
	t.Parallel()
	recordHistory(t, 39, func(second int) reading {
		return reading{load: second, capacity: -1, eventsPending: 2 * second, publishes: int64(second * second), denials: int64(3 * second)}
	}, func(h *history) {
		want := historyReport{
			StepSeconds:   10,
			Load:          []int{10, 20, 30},
			Capacity:      []int{-1, -1, -1},
			Publishes:     []int64{100, 300, 500},
			Denials:       []int64{30, 30, 30},
			EventsPending: []int{20, 40, 60},
		}
		if diff := cmp.Diff(want, h.report()); diff != "" {
			t.Error("(-want +got):\n", diff)
		}
	})
}

func TestHistoryForgetsAfterAnHour(t *testing.T) {
	t.Parallel()
	recordHistory(t, 2*3600+5, func(second int) reading {
		return reading{load: second, publishes: int64(second)}
	}, func(h *history) {
		r := h.report()
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
	burst := func(second int) (r reading) {
		if second >= 3 {
			r.verified, r.keysRefused = 20, 5
		}
		return r
	}
	for second, want := range map[int]rates{0: {}, 2: {}, 3: {2, 0.5}, 12: {2, 0.5}, 13: {}, 60: {}} {
		recordHistory(t, second, burst, func(h *history) {
			if got := h.keyVerifications(); got != want {
				t.Errorf("after %d s: %v, want %v", second, got, want)
			}
		})
	}
}

func TestHistoryOfNothingIsEmptyLists(t *testing.T) {
	t.Parallel()
	r := newHistory(nil).report()
	if r.Load == nil || len(r.Load) != 0 || r.EventsPending == nil {
		t.Errorf("%+v", r)
	}
}

func TestReasonsHaveLabels(t *testing.T) {
	t.Parallel()
	for reason, want := range map[error]string{
		errNoAnswer: "no_answer",
		fmt.Errorf("%w: status 403", errKeyDenied):        "denied_key",
		fmt.Errorf("%w: status 503", errApplicationError): "application_error",
		errWaitedInVain:             "no_encoder",
		errStopping:                 "stopping",
		errNotKept:                  "events_not_kept",
		errTooMany:                  "too_many",
		errPeerGone:                 "peer_gone",
		context.Canceled:            "peer_gone",
		fmt.Errorf("something new"): "other",
	} {
		if got := publishResult(reason); got != want {
			t.Errorf("publish: %v is %s, want %s", reason, got, want)
		}
	}
	for reason, want := range map[error]string{errPeerSilent: "silent", errPeerSlow: "slow", errQueueFull: "queue_full", errNoAnswer: "other"} {
		if got := disconnectReason(reason); got != want {
			t.Errorf("disconnect: %v is %s, want %s", reason, got, want)
		}
	}
}
