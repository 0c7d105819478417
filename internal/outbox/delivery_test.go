package outbox

// That whatever is ready to be sent is sent when its own time comes, and not when somebody else's does.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// While the application counts as failing, tries keep a pace. An event that becomes ready between two of them has to be
// sent with the next one, however far away the retries of others are.
func TestHealthyEventDoesNotSleepUntilTheRetryOfAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const sick, healthy = 20, 50
		app := newEventRecorder()
		var c *Outbox
		var mu sync.Mutex // guards the next two lines
		var failedInRow, appended int
		var since time.Time
		app.answer = func(_ context.Context, id string, _ Event) (int, http.Header, error) {
			mu.Lock()
			defer mu.Unlock()
			if id[0] == 'h' {
				failedInRow = 0
				return 200, nil, nil
			}
			failedInRow++
			if failedInRow > failingAfter && appended == app.count() { // this try is the last one for 10 ms
				appended++
				since = time.Now()
				c.Append(availableEvent(fmt.Sprint("healthy", appended), 1))
			}
			return 503, http.Header{"Retry-After": {"60"}}, nil
		}
		c = started(t, newMemoryStore(), app.send)
		for s := range sick {
			c.Append(availableEvent(fmt.Sprint("sick", s), 1))
		}
		for n := 1; n <= healthy; n++ {
			app.await(t, n)
			mu.Lock()
			waited := time.Since(since)
			mu.Unlock()
			if waited > pacedEvery {
				t.Fatalf("healthy event %d waited %v", n, waited)
			}
		}
		if err := c.Finish(stopped()); err != nil {
			t.Error(err)
		}
	})
}

func TestQueuesThatFailAtOnceLeaveThoseBehindThemTheirPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const streams = MaxInFlight + 50
		app := newEventRecorder()
		var mu sync.Mutex
		var began []time.Time
		app.answer = func(_ context.Context, id string, _ Event) (int, http.Header, error) {
			mu.Lock()
			began = append(began, time.Now())
			mu.Unlock()
			if id == "0-1" { // fails before the others, and is the next one to be retried: none of them changes that
				time.Sleep(5 * time.Millisecond)
				return 503, http.Header{"Retry-After": {"200"}}, nil
			}
			time.Sleep(6 * time.Millisecond)
			return 503, http.Header{"Retry-After": {"300"}}, nil
		}
		c := started(t, newMemoryStore(), app.send)
		for s := range streams {
			c.Append(availableEvent(fmt.Sprint(s), 1))
		}
		time.Sleep(time.Minute) // no retry is due by then
		mu.Lock()
		tried := slices.Clone(began)
		mu.Unlock()
		if len(tried) != streams {
			t.Fatalf("%d of %d streams were tried within a minute", len(tried), streams)
		}
		for i := MaxInFlight + failingAfter; i < streams; i++ { // it counts as failing by then
			if gap := tried[i].Sub(tried[i-1]); gap != pacedEvery {
				t.Errorf("try %d came %v after the one before", i, gap)
			}
		}
		if err := c.Finish(stopped()); err != nil {
			t.Error(err)
		}
	})
}

// Whatever makes an event ready: while there is one and room for its request, the next try begins within the pace.
func TestNothingThatIsReadyWaitsLongerThanThePace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		var tries, refuse atomic.Int64
		app.answer = func(context.Context, string, Event) (int, http.Header, error) {
			tries.Add(1)
			time.Sleep(rand.N(30 * time.Millisecond))
			if rand.Int64N(100) < refuse.Load() {
				return 503, http.Header{"Retry-After": {fmt.Sprint(rand.IntN(90))}}, nil
			}
			return 200, nil, nil
		}
		c := started(t, newMemoryStore(), app.send)
		events := map[int]int{} // by stream
		waited := 0
		for step := range 2000 {
			if step%100 == 0 {
				refuse.Store([]int64{0, 50, 97, 100}[rand.IntN(4)])
			}
			for range rand.IntN(10) {
				stream := rand.IntN(400)
				events[stream]++
				c.Append(availableEvent(fmt.Sprint(stream), events[stream]))
			}
			time.Sleep(rand.N(20 * time.Millisecond))
			synctest.Wait()
			if before := tries.Load(); c.delivery.ready() {
				waited++
				time.Sleep(pacedEvery)
				synctest.Wait()
				if tries.Load() == before {
					t.Fatalf("step %d: something is ready, and nothing was tried for %v", step, pacedEvery)
				}
			}
		}
		if waited == 0 {
			t.Error("nothing was ever found waiting")
		}
		app.check(t)
		if err := c.Finish(stopped()); err != nil {
			t.Error(err)
		}
	})
}

func (d *delivery) ready() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readyLocked()
}
