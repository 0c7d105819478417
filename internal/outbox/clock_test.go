package outbox

// What a wall clock that is set, by an operator or by NTP, does to tries and ages: nothing.

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
)

// settableClock gives the time as time.Now does on a machine whose wall clock has been set.
type settableClock struct{ ahead atomic.Int64 }

// set puts the wall clock ahead, or back, of what it is now.
func (c *settableClock) set(by time.Duration) { c.ahead.Add(int64(by)) }

func (c *settableClock) now() time.Time {
	return clustertest.ClockReading(time.Now(), time.Duration(c.ahead.Load()))
}

func (c *settableClock) event(stream string, seq int) Event {
	ev := availableEvent(stream, seq)
	ev.At = c.now()
	return ev
}

// outbox is one that goes by the clock.
func (c *settableClock) outbox(t *testing.T, store Store, send Send) *Outbox {
	t.Helper()
	events, err := newOutbox(c.now, store, send, unobserved, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	events.Start()
	return events
}

func TestSettingTheClockDelaysNoTry(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][]time.Duration{
		"back an hour":                 {-time.Hour},
		"ahead an hour":                {time.Hour},
		"back and right again":         {-time.Hour, time.Hour},
		"ahead and right again":        {time.Hour, -time.Hour},
		"back ten years, in two steps": {-5 * 8760 * time.Hour, -5 * 8760 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var clock settableClock
				app, tries := newEventRecorder(), map[string][]time.Time{}
				var mu sync.Mutex // guards tries
				app.answer = func(_ context.Context, id string, _ Event) (int, http.Header, error) {
					mu.Lock()
					defer mu.Unlock()
					tries[id] = append(tries[id], time.Now())
					switch {
					case len(tries[id]) > 6:
						return 200, nil, nil
					case id == "told-1":
						return 503, http.Header{"Retry-After": {"120"}}, nil
					case id == "dated-1": // an HTTP date is wall time by nature: it is judged when it comes
						return 503, http.Header{"Retry-After": {clock.now().Add(2 * time.Minute).UTC().Format(http.TimeFormat)}}, nil
					}
					return 500, nil, nil
				}
				c := clock.outbox(t, newMemoryStore(), app.send)
				for _, stream := range []string{"plain", "told", "dated"} {
					c.Append(clock.event(stream, 1))
				}
				for _, step := range steps {
					time.Sleep(time.Minute)
					clock.set(step)
				}
				app.await(t, 3)
				mu.Lock()
				defer mu.Unlock()
				for id, at := range tries {
					for i := 1; i < len(at); i++ {
						wait, least := at[i].Sub(at[i-1]), time.Duration(0)
						if id != "plain-1" {
							least = 2*time.Minute - time.Second // HTTP dates have whole seconds
						}
						if most := 2*time.Minute + backoffCeiling(i) + pacedEvery; wait < least || least == 0 && wait > backoffCeiling(i)+pacedEvery || wait > most {
							t.Errorf("%s: try %d came after %v", id, i+1, wait)
						}
					}
				}
				finished(t, c)
			})
		})
	}
}

func TestSettingTheClockDelaysNoEndOfAnOutage(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{-time.Hour, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			const streams = 500
			var clock settableClock
			var back atomic.Bool
			var tries atomic.Int64
			app := newEventRecorder()
			app.answer = func(context.Context, string, Event) (int, http.Header, error) {
				tries.Add(1)
				if !back.Load() {
					return 0, nil, errUnreachable
				}
				return 200, nil, nil
			}
			c := clock.outbox(t, newMemoryStore(), app.send)
			for s := range streams {
				c.Append(clock.event(fmt.Sprint(s), 1))
			}
			time.Sleep(5 * time.Minute)
			clock.set(step)
			before := tries.Load()
			time.Sleep(time.Minute)
			if n := tries.Load() - before; n < streams || n > int64(time.Minute/pacedEvery)+1 {
				t.Errorf("%d tries in the minute after the step of %v", n, step)
			}
			back.Store(true)
			began := time.Now()
			app.await(t, streams)
			if took := time.Since(began); took > backoffMax+time.Second {
				t.Errorf("after a step of %v all was delivered %v after the outage", step, took)
			}
			finished(t, c)
		})
	}
}

// wantAge holds the age of the oldest event against what it really is.
func wantAge(t *testing.T, c *Outbox, want time.Duration) {
	t.Helper()
	synctest.Wait()
	if _, age := c.Pending(); (age - want).Abs() > smallestStep {
		t.Errorf("the oldest event is %v old, want %v", age, want)
	}
}

// The alert goes by this age: it must not fall to 0 when the clock is set back, nor fire when it is set ahead.
func TestTheAgeOfTheOldestEventIsTheTimeThatHasPassedWhateverTheClockSays(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{-time.Hour, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var clock settableClock
			var accepted atomic.Int64 // so many events of the stream
			store, app := newMemoryStore(), newEventRecorder()
			app.answer = func(_ context.Context, _ string, ev Event) (int, http.Header, error) {
				if ev.Seq <= uint64(accepted.Load()) {
					return 200, nil, nil
				}
				return 503, nil, nil
			}
			c := clock.outbox(t, store, app.send)
			c.Append(clock.event("s", 1))
			time.Sleep(5 * time.Minute)
			c.Append(clock.event("s", 2))
			time.Sleep(2 * time.Minute)
			wantAge(t, c, 7*time.Minute)
			clock.set(step)
			wantAge(t, c, 7*time.Minute)
			time.Sleep(3 * time.Minute) // some tries later
			c.Append(clock.event("s", 3))
			wantAge(t, c, 10*time.Minute)

			// The second and the third are read from disk, which knows their wall times only.
			accepted.Store(1)
			time.Sleep(time.Minute)
			wantAge(t, c, 6*time.Minute)
			accepted.Store(2)
			time.Sleep(time.Minute)
			wantAge(t, c, 2*time.Minute)
			clock.set(-step)
			time.Sleep(time.Minute)
			wantAge(t, c, 3*time.Minute)
			if err := c.Finish(stopped()); err != nil {
				t.Error(err)
			}

			// A new process has the wall times only, and turns them into ages once. The third was stamped while the clock was wrong.
			want := max(0, 3*time.Minute-step)
			c = clock.outbox(t, store, app.send)
			wantAge(t, c, want)
			clock.set(step)
			time.Sleep(time.Minute)
			wantAge(t, c, want+time.Minute)
			accepted.Store(4)
			app.await(t, 4) // with the stream-closed that the start added
			wantAge(t, c, 0)
			finished(t, c)
		})
	}
}

func TestAnEventThatWaitsForTheDiskAgesWithTheMonotonicClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var clock settableClock
		release := make(chan struct{})
		store := &faultyStore{Store: newMemoryStore(), beforeCommit: func() error { <-release; return nil }}
		c := clock.outbox(t, store, newEventRecorder().send)
		c.Append(clock.event("s", 1))
		time.Sleep(time.Minute)
		clock.set(-time.Hour)
		wantAge(t, c, time.Minute)
		clock.set(2 * time.Hour)
		wantAge(t, c, time.Minute)
		close(release)
		finished(t, c)
	})
}

func TestWallTimesFindTheirPlaceOnTheMonotonicClock(t *testing.T) {
	t.Parallel()
	began := time.Now()
	at := func(passed, ahead time.Duration) time.Time { return clustertest.ClockReading(began.Add(passed), ahead) }
	clock := newEventClock(at(0, 0))
	see := func(passed, ahead time.Duration) { clock.observe(at(passed, ahead)) }
	see(time.Minute, 0)
	see(2*time.Minute, time.Second/2) // nobody sets a clock by so little
	see(10*time.Minute, time.Hour)    // set ahead
	see(20*time.Minute, -time.Hour)   // set back, before the beginning
	see(90*time.Minute, 0)            // and right again
	const now = 2 * time.Hour
	for name, test := range map[string]struct {
		passed, ahead, earliest, want time.Duration
	}{
		"before the beginning":               {-3 * time.Hour, 0, longAgo, -3 * time.Hour},
		"before any step":                    {5 * time.Minute, 0, 0, 5 * time.Minute},
		"after the step ahead":               {15 * time.Minute, time.Hour, 0, 15 * time.Minute},
		"after the step back":                {30 * time.Minute, -time.Hour, 20 * time.Minute, 30 * time.Minute},
		"right again":                        {100 * time.Minute, 0, 90 * time.Minute, 100 * time.Minute},
		"twice on the wall clock":            {65 * time.Minute, -time.Hour, 0, 5 * time.Minute},
		"twice, and behind one of minute 30": {65 * time.Minute, -time.Hour, 30 * time.Minute, 65 * time.Minute},
		"later than now":                     {5 * time.Hour, 0, 0, now},
		"nowhere behind the one before it":   {4 * time.Minute, 0, 95 * time.Minute, 95 * time.Minute},
	} {
		wall := at(test.passed, test.ahead).Round(0)
		if got := clock.happened(wall, test.earliest, now); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	for i := range 10 * stepsKept {
		see(now+time.Duration(i)*time.Minute, time.Duration(i%2)*time.Hour)
	}
	if len(clock.steps) != stepsKept || clock.steps[0].from != longAgo {
		t.Errorf("%d steps are kept, the first from %v", len(clock.steps), clock.steps[0].from)
	}
}
