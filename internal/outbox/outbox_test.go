package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAnEventIsSentOnlyAfterItsCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, app := &faultyStore{Store: newMemoryStore()}, newEventRecorder()
		release := make(chan struct{})
		store.beforeCommit = func() error { <-release; return nil }
		c := started(t, store, app.send)
		c.Append(availableEvent("s", 1))
		time.Sleep(time.Hour) // of the bubble's clock: all that can happen has happened
		if tries := app.tries("s-1"); tries != 0 {
			t.Errorf("sent %d times before it was committed", tries)
		}
		close(release)
		app.await(t, 1)
		finished(t, c)
	})
}

func TestEventsOfAStreamStayInOrderWhateverFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const streams, each = 300, 20
		app := newEventRecorder()
		app.answer = func(ctx context.Context, _ string, _ Event) (int, http.Header, error) {
			time.Sleep(rand.N(50 * time.Millisecond))
			switch rand.IntN(10) {
			case 0:
				return 503, nil, nil
			case 1:
				return 0, nil, errUnreachable
			case 2:
				<-ctx.Done()
				return 0, nil, ctx.Err()
			case 3:
				return 201, http.Header{"Retry-After": {"1"}}, nil
			}
			return 200, nil, nil
		}
		c := started(t, newMemoryStore(), app.send)
		for seq := 1; seq <= each; seq++ {
			for s := range streams {
				c.Append(availableEvent(fmt.Sprint(s), seq))
			}
		}
		app.await(t, streams*each)
		app.check(t)
		finished(t, c)
	})
}

func TestEventsOfOneQueueStayInOrderAcrossItsStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		var tries atomic.Int64
		app.answer = func(context.Context, string, Event) (int, http.Header, error) {
			if tries.Add(1)%2 == 1 {
				return 500, nil, nil
			}
			return 200, nil, nil
		}
		c := started(t, newMemoryStore(), app.send)
		appendAll(c, lifeOf("first", 2)...)
		for _, ev := range lifeOf("second", 2) {
			ev.Queue, ev.Position, ev.Previous = queueOf("first"), ev.Position+3, "first"
			c.Append(ev)
		}
		app.await(t, 6)
		want := []string{"first-1", "first-2", "first-closed", "second-1", "second-2", "second-closed"}
		if diff := cmp.Diff(want, app.order()); diff != "" {
			t.Error(diff)
		}
		finished(t, c)
	})
}

func TestARetryComesWithinItsBackoffAndNeverEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		var at []time.Time
		app.answer = func(context.Context, string, Event) (int, http.Header, error) {
			if at = append(at, time.Now()); len(at) <= 400 {
				return 500, nil, nil
			}
			return 200, nil, nil
		}
		c := started(t, newMemoryStore(), app.send)
		c.Append(availableEvent("s", 1))
		for app.count() == 0 {
			time.Sleep(time.Minute)
		}
		for i := 1; i < len(at); i++ {
			if wait := at[i].Sub(at[i-1]); wait > backoffCeiling(i)+pacedEvery {
				t.Errorf("try %d came after %v", i+1, wait)
			}
		}
		if took := at[400].Sub(at[0]); took < time.Hour || took > 3*time.Hour {
			t.Errorf("400 retries took %v: the jitter is not spread over the backoff", took)
		}
		finished(t, c)
	})
}

func TestRetryAfterIsTheLeastWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		var at []time.Time
		app.answer = func(context.Context, string, Event) (int, http.Header, error) {
			if at = append(at, time.Now()); len(at) == 1 {
				return 429, http.Header{"Retry-After": {"120"}}, nil
			}
			return 200, nil, nil
		}
		c := started(t, newMemoryStore(), app.send)
		c.Append(availableEvent("s", 1))
		for app.count() == 0 {
			time.Sleep(time.Second)
		}
		if wait := at[1].Sub(at[0]); wait < 2*time.Minute || wait > 2*time.Minute+backoffBase {
			t.Errorf("tried again after %v", wait)
		}
		finished(t, c)
	})
}

func TestNoAnswerWithinTenSecondsIsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		var gaveUp time.Duration
		app.answer = func(ctx context.Context, id string, _ Event) (int, http.Header, error) {
			if app.tries(id) > 1 {
				return 200, nil, nil
			}
			began := time.Now()
			<-ctx.Done()
			gaveUp = time.Since(began)
			return 0, nil, ctx.Err()
		}
		c := started(t, newMemoryStore(), app.send)
		c.Append(availableEvent("s", 1))
		for app.count() == 0 {
			time.Sleep(time.Second)
		}
		if gaveUp != answerTimeout {
			t.Errorf("gave up after %v", gaveUp)
		}
		finished(t, c)
	})
}

func TestHangingStreamsDoNotSlowOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		app.answer = func(ctx context.Context, id string, _ Event) (int, http.Header, error) {
			if strings.HasPrefix(id, "hangs") {
				<-ctx.Done()
				return 0, nil, ctx.Err()
			}
			time.Sleep(10 * time.Millisecond)
			return 200, nil, nil
		}
		c := started(t, newMemoryStore(), app.send)
		for s := range 300 {
			c.Append(availableEvent(fmt.Sprintf("hangs%d", s), 1))
		}
		time.Sleep(2 * answerTimeout) // all have been tried once and are retrying
		for round := range 100 {
			began, before := time.Now(), app.count()
			for s := range 100 {
				c.Append(availableEvent(fmt.Sprintf("good%d", s), round+1))
			}
			app.await(t, before+100)
			if took := time.Since(began); took > 200*time.Millisecond {
				t.Fatalf("round %d: 100 events of other streams took %v", round, took)
			}
			time.Sleep(rand.N(time.Second))
		}
		app.check(t)
		if err := c.Finish(stopped()); err != nil {
			t.Error(err)
		}
	})
}

func TestAnOutageIsPacedAndItsEndIsNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const streams = 5000
		app := newEventRecorder()
		var back atomic.Bool
		var tries atomic.Int64
		app.answer = func(context.Context, string, Event) (int, http.Header, error) {
			tries.Add(1)
			if !back.Load() {
				return 0, nil, errUnreachable
			}
			time.Sleep(10 * time.Millisecond)
			return 200, nil, nil
		}
		c := started(t, newMemoryStore(), app.send)
		for s := range streams {
			c.Append(availableEvent(fmt.Sprint(s), 1))
		}
		time.Sleep(10 * time.Minute)
		if perSecond := tries.Load() / 600; perSecond < 50 || perSecond > 101 {
			t.Errorf("%d tries per second during the outage", perSecond)
		}
		back.Store(true)
		began := time.Now()
		app.await(t, streams)
		if took := time.Since(began); took > backoffMax+5*time.Second {
			t.Errorf("all was delivered only %v after the end of the outage", took)
		}
		finished(t, c)
	})
}

func TestTheLogTellsOfAnOutageOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		var back atomic.Bool
		app.answer = func(context.Context, string, Event) (int, http.Header, error) {
			if back.Load() {
				return 200, nil, nil
			}
			return 503, nil, nil
		}
		var log lockedBuffer
		c, err := resume(newMemoryStore(), app.send, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		c.Start()
		for s := range 5000 {
			c.Append(availableEvent(fmt.Sprint(s), 1))
		}
		time.Sleep(10 * time.Minute)
		back.Store(true)
		app.await(t, 5000)
		finished(t, c)
		lines := log.String()
		for line, want := range map[string]int{"is not accepting events": 1, "is accepting events again": 1, "status=503": 1} {
			if got := strings.Count(lines, line); got != want {
				t.Errorf("%d times %q, want %d", got, line, want)
			}
		}
		if all := strings.Count(lines, "\n"); all > 2 {
			t.Errorf("%d lines:\n%s", all, lines)
		}
	})
}

func TestADiskThatFillsUpLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, app := &faultyStore{Store: newMemoryStore()}, newEventRecorder()
		var full atomic.Bool
		var commits atomic.Int64
		store.beforeCommit = func() error {
			commits.Add(1)
			if full.Load() {
				return fmt.Errorf("write outbox.db: %w", syscall.ENOSPC)
			}
			return nil
		}
		var log lockedBuffer
		c, err := resume(store, app.send, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		c.Start()
		appendAll(c, availableEvent("s", 1))
		app.await(t, 1)
		if err := c.Err(); err != nil {
			t.Error(err)
		}
		full.Store(true)
		began := commits.Load()
		for seq := 2; seq < 62; seq++ {
			c.Append(availableEvent("s", seq))
			time.Sleep(time.Second)
		}
		if err := c.Err(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("keeping with a full disk: %v", err)
		}
		if tries := commits.Load() - began; tries < 50 || tries > 62 {
			t.Errorf("%d commits were tried in a minute", tries)
		}
		full.Store(false)
		app.await(t, 61)
		synctest.Wait()
		if err := c.Err(); err != nil {
			t.Error("keeping after space was back:", err)
		}
		finished(t, c)
		app.check(t)
		if lines := log.String(); strings.Count(lines, "\n") != 2 {
			t.Errorf("want one line for each change:\n%s", lines)
		}
	})
}

func TestACommitThatFailsAfterItReachedTheDiskIsRepeatedSafely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kept, app := newMemoryStore(), newEventRecorder()
		store := &faultyStore{Store: kept}
		var healed atomic.Bool
		store.afterCommit = func() error {
			if !healed.Load() && rand.IntN(2) == 0 {
				return syscall.EIO
			}
			return nil
		}
		c := started(t, store, app.send)
		for seq := 1; seq <= 50; seq++ {
			c.Append(availableEvent("s", seq))
			c.Append(availableEvent("t", seq))
			time.Sleep(rand.N(2 * time.Second))
		}
		appendAll(c, closedEvent("s", 51), closedEvent("t", 51))
		app.await(t, 102)
		app.check(t)
		time.Sleep(time.Minute)
		healed.Store(true)
		finished(t, c)
		if len(kept.queues) != 0 || len(kept.events) != 0 || len(c.delivery.queues) != 0 {
			t.Errorf("left behind: %v %v %v", kept.queues, kept.events, c.delivery.queues)
		}
		if len(app.seen) != 102 {
			t.Errorf("%d events were sent", len(app.seen))
		}
	})
}

func TestALiveStreamWithNothingToDeliverTakesNoMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		c := started(t, newMemoryStore(), app.send)
		for seq := 1; seq <= 3; seq++ {
			for s := range 100 {
				c.Append(availableEvent(fmt.Sprint(s), seq))
			}
			app.await(t, 100*seq)
			time.Sleep(time.Second)
			synctest.Wait()
			if n := len(c.delivery.queues); n != 0 {
				t.Errorf("%d queues in memory", n)
			}
		}
		app.check(t)
		finished(t, c)
	})
}

func TestAReadThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, app := newMemoryStore(), newEventRecorder()
		c := resumed(t, store, app.send)
		appendAll(c, lifeOf("s", 9)...)
		if err := c.Finish(stopped()); err != nil {
			t.Fatal(err)
		}
		faulty := &faultyStore{Store: store, beforeRead: func() error {
			if rand.IntN(2) == 0 {
				return syscall.EIO
			}
			return nil
		}}
		c = started(t, faulty, app.send)
		app.await(t, 10)
		app.check(t)
		finished(t, c)
	})
}

func TestADamagedEventHoldsUpNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, app := newMemoryStore(), newEventRecorder()
		c := resumed(t, store, app.send)
		appendAll(c, lifeOf("s", 2)...)
		if err := c.Finish(stopped()); err != nil {
			t.Fatal(err)
		}
		delete(store.events, [2]uint64{queueOf("s"), 1})
		c = started(t, store, app.send)
		app.await(t, 2)
		if diff := cmp.Diff([]string{"s-1", "s-closed"}, app.order()); diff != "" {
			t.Error(diff)
		}
		finished(t, c)
	})
}

func TestStatsTellWhatWaitsAndSinceWhen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		var back atomic.Bool
		app.answer = func(context.Context, string, Event) (int, http.Header, error) {
			if back.Load() {
				return 200, nil, nil
			}
			return 500, nil, nil
		}
		c := started(t, newMemoryStore(), app.send)
		for s := range 5 {
			c.Append(availableEvent(fmt.Sprint(s), 1))
			time.Sleep(time.Minute)
		}
		if pending, oldest := c.Pending(); pending != 5 || oldest != 5*time.Minute {
			t.Errorf("%d pending, the oldest for %v, want 5 for 5m", pending, oldest)
		}
		back.Store(true)
		app.await(t, 5)
		synctest.Wait()
		if pending, oldest := c.Pending(); pending != 0 || oldest != 0 {
			t.Errorf("%d pending, the oldest for %v, after all was delivered", pending, oldest)
		}
		finished(t, c)
		finished(t, c) // a second call changes nothing
	})
}

func TestFinishKeepsForTheNextStartWhatItCannotDeliver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, app := newMemoryStore(), newEventRecorder()
		app.answer = func(ctx context.Context, _ string, _ Event) (int, http.Header, error) {
			<-ctx.Done()
			return 0, nil, ctx.Err()
		}
		c := started(t, store, app.send)
		appendAll(c, lifeOf("s", 3)...)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if err := c.Finish(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("Finish took %v", took)
		}
		app.answer = nil
		c = started(t, store, app.send)
		app.await(t, 4)
		app.check(t)
		finished(t, c)
	})
}

func TestDiskThatHangsCountsAsOneThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		store := &faultyStore{Store: newMemoryStore(), beforeCommit: func() error { <-release; return nil }}
		c := started(t, store, newEventRecorder().send)
		c.Append(availableEvent("s", 1))
		time.Sleep(commitPatience - time.Second)
		if err := c.Err(); err != nil {
			t.Errorf("after 4 s: %v", err)
		}
		time.Sleep(2 * time.Second)
		if err := c.Err(); !errors.Is(err, errStoreHangs) {
			t.Errorf("after 6 s: %v", err)
		}
		began := time.Now()
		if err := c.Finish(stopped()); !errors.Is(err, errStoreHangs) || time.Since(began) != finishGrace {
			t.Errorf("Finish: %v after %v", err, time.Since(began))
		}
		close(release)
		synctest.Wait()
	})
}

func TestDiskThatAnswersAgainKeepsEventsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		store := &faultyStore{Store: newMemoryStore(), beforeCommit: func() error { <-release; return nil }}
		c := started(t, store, newEventRecorder().send)
		c.Append(availableEvent("s", 1))
		time.Sleep(2 * commitPatience)
		close(release)
		synctest.Wait()
		if err := c.Err(); err != nil {
			t.Error(err)
		}
		finished(t, c)
	})
}

// What no application's server would take as a header could never be delivered.

// lockedBuffer is a log that a test reads while others write.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
