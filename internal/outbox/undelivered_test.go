package outbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// listed walks through all pages and describes their events.
func listed(t testing.TB, o *Outbox, channel string, limit int) (list []string) {
	t.Helper()
	names := map[Standing]string{Queued: "queued", Due: "due", Sending: "sending", Waiting: "waiting"}
	for at, more := (Place{}), true; more; {
		var page []Undelivered
		var err error
		if page, at, more, err = o.List(t.Context(), at, channel, limit); err != nil {
			t.Fatal(err)
		}
		if len(page) > limit || more && len(page) < limit {
			t.Errorf("a page of %d events, limit %d", len(page), limit)
		}
		for _, u := range page {
			text := u.ID() + " " + names[u.Standing]
			if u.Tries > 0 || u.LastAnswer != "" {
				text += fmt.Sprintf(" %d %s", u.Tries, u.LastAnswer)
			}
			if !u.NextTry.IsZero() {
				text += " " + time.Until(u.NextTry).Truncate(time.Minute).String()
			}
			list = append(list, text)
		}
	}
	return list
}

// numbered puts events into a queue.
func numbered(queue uint64, events []Event) []Event {
	for i := range events {
		events[i].Queue = queue
	}
	return events
}

// eachStore runs a story over a store in memory and one on disk. That in the database is held to be like the one on disk.
func eachStore(t *testing.T, story func(t *testing.T, store Store)) {
	t.Parallel()
	t.Run("in memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { story(t, newMemoryStore()) })
	})
	t.Run("on disk", func(t *testing.T) {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) { story(t, openedStore(t, dir)) })
	})
}

func TestUndeliveredEventsAreListedWithWhatTheyWaitFor(t *testing.T) {
	eachStore(t, func(t *testing.T, store Store) {
		app := newEventRecorder()
		hanging := make(chan struct{})
		app.answer = func(ctx context.Context, id string, _ Event) (int, http.Header, error) {
			switch id[0] {
			case 'r':
				return 503, http.Header{"Retry-After": {"250"}}, nil
			case 'u':
				return 0, nil, fmt.Errorf("post to http://secret.example/: %w", syscall.ECONNREFUSED)
			case 'h':
				<-hanging
			}
			return 200, nil, nil
		}
		c := started(t, store, app.send)
		appendAll(c, numbered(1, lifeOf("refused", 2))...)
		appendAll(c, numbered(2, lifeOf("taken", 3))...)
		appendAll(c, numbered(3, lifeOf("unanswered", 1))...)
		appendAll(c, numbered(4, lifeOf("hanging", 1))...)
		app.await(t, 4)
		synctest.Wait()
		<-time.After(removalsGather + time.Millisecond)
		synctest.Wait()
		want := []string{
			"refused-1 waiting 1 status 503 4m0s", "refused-2 queued", "refused-closed queued",
			"unanswered-1", "unanswered-closed queued",
			"hanging-1 sending", "hanging-closed queued",
		}
		for limit := 1; limit <= 8; limit++ {
			got := listed(t, c, "", limit)
			for i := range got {
				if strings.HasPrefix(got[i], "unanswered-1 ") { // its tries are too many to say when the next one is
					if !strings.Contains(got[i], "connection refused") {
						t.Error(got[i])
					}
					got[i] = "unanswered-1"
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pages of %d: (-want +got)\n%s", limit, diff)
			}
		}
		if diff := cmp.Diff(want[:3], listed(t, c, "channel-refused", 2)); diff != "" {
			t.Errorf("of a channel: %s", diff)
		}
		if got := listed(t, c, "channel-ref", 2); got != nil {
			t.Errorf("of a part of a channel's name: %v", got)
		}
		close(hanging)
		app.comesBack()
		if err := c.TryNow(t.Context(), ""); err != nil {
			t.Error(err)
		}
		finished(t, c)
	})
}

func discard(t testing.TB, o *Outbox, id string) error {
	t.Helper()
	told := 0
	err := o.Discard(t.Context(), id, func(u Undelivered) {
		if told++; u.ID() != id {
			t.Errorf("%s was discarded for %s", u.ID(), id)
		}
	})
	if (err == nil) != (told == 1) {
		t.Errorf("discard of %s: %v, told %d times", id, err, told)
	}
	return err
}

func TestDiscardedEventIsNotSentAgainAndTheNextOneIs(t *testing.T) {
	eachStore(t, func(t *testing.T, store Store) {
		app := newEventRecorder()
		var refusing sync.Map
		refusing.Store("s-1", true)
		app.answer = func(_ context.Context, id string, _ Event) (int, http.Header, error) {
			if _, refuses := refusing.Load(id); refuses {
				return 400, http.Header{"Retry-After": {"100"}}, nil
			}
			return 200, nil, nil
		}
		c := started(t, store, app.send)
		appendAll(c, lifeOf("s", 2)...)
		appendAll(c, lifeOf("other", 1)...)
		app.await(t, 2)
		synctest.Wait()
		for id, want := range map[string]error{
			"s-2": ErrNotFirst, "s-closed": ErrNotFirst, "other-1": ErrUnknownEvent, "s-3": ErrUnknownEvent,
			"s": ErrUnknownEvent, "-": ErrUnknownEvent, "": ErrUnknownEvent, "s-1-": ErrUnknownEvent,
		} {
			if err := discard(t, c, id); !errors.Is(err, want) {
				t.Errorf("discard of %q: %v, want %v", id, err, want)
			}
		}
		tries := app.tries("s-1")
		if err := discard(t, c, "s-1"); err != nil {
			t.Fatal(err)
		}
		if err := discard(t, c, "s-1"); !errors.Is(err, ErrUnknownEvent) {
			t.Errorf("discarded twice: %v", err)
		}
		app.await(t, 4)
		if diff := cmp.Diff([]string{"s-2", "s-closed"}, slices.DeleteFunc(app.order(), func(id string) bool { return id[0] == 'o' })); diff != "" {
			t.Error(diff)
		}
		if app.tries("s-1") != tries {
			t.Error("it was sent after it was discarded")
		}
		if pending, _ := c.Pending(); pending != 0 || len(c.delivery.discarding) > 0 {
			t.Errorf("%d events pending", pending)
		}
		finished(t, c)
	})
}

func TestEventInFlightIsNotDiscarded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		answers := make(chan int)
		app.answer = func(context.Context, string, Event) (int, http.Header, error) { return <-answers, nil, nil }
		c := started(t, newMemoryStore(), app.send)
		appendAll(c, lifeOf("s", 1)...)
		synctest.Wait()
		if err := discard(t, c, "s-1"); !errors.Is(err, ErrInFlight) {
			t.Errorf("in flight: %v", err)
		}
		answers <- 200
		synctest.Wait() // the next one goes at once
		if err := discard(t, c, "s-1"); !errors.Is(err, ErrUnknownEvent) {
			t.Errorf("it was taken: %v", err)
		}
		if err := discard(t, c, "s-closed"); !errors.Is(err, ErrInFlight) {
			t.Errorf("in flight behind it: %v", err)
		}
		answers <- 200
		finished(t, c)
	})
}

// Until a discard is durable it is not answered, and nothing of its queue is sent: after a crash the discarded event would come behind.
func TestDiscardIsDurableBeforeItIsAnsweredAndTheNextEventIsSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, app := &faultyStore{Store: newMemoryStore()}, newEventRecorder()
		app.answer = func(_ context.Context, id string, _ Event) (int, http.Header, error) {
			if id == "s-1" {
				return 503, http.Header{"Retry-After": {"100"}}, nil
			}
			return 200, nil, nil
		}
		c := started(t, store, app.send)
		appendAll(c, lifeOf("s", 1)...)
		synctest.Wait()
		var mu sync.Mutex
		failing := true
		store.beforeCommit = func() error {
			mu.Lock()
			defer mu.Unlock()
			if failing {
				return errors.New("no disk")
			}
			return nil
		}
		answered := make(chan error, 1)
		go func() { answered <- c.Discard(t.Context(), "s-1", func(Undelivered) {}) }()
		time.Sleep(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		late := availableEvent("s", 3) // comes while the discard is under way
		c.Append(late)
		if err := c.Discard(ctx, "s-closed", func(Undelivered) { t.Error("two events were discarded") }); !errors.Is(err, ErrNotFirst) {
			t.Errorf("of the next one: %v", err)
		}
		if got := listed(t, c, "", 10); !slices.Equal(got, []string{"s-closed queued"}) {
			t.Errorf("while it is not durable: %v", got)
		}
		if app.tries("s-closed") > 0 || len(answered) > 0 {
			t.Error("the discard is not durable, and the next event was sent, or the command was answered")
		}
		mu.Lock()
		failing = false
		mu.Unlock()
		if err := <-answered; err != nil {
			t.Error(err)
		}
		if got := slices.Sorted(positionsOf(store.Store.(*memoryStore).crashed().events)); slices.Contains(got, 0) {
			t.Error("the store still has it")
		}
		app.await(t, 2)
		if diff := cmp.Diff([]string{"s-closed", "s-3"}, app.order()); diff != "" {
			t.Error(diff)
		}
		finished(t, c)
	})
}

// positionsOf are the positions of the events of a store.
func positionsOf(events map[[2]uint64]Event) func(func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for key := range events {
			if !yield(uint32(key[1])) {
				return
			}
		}
	}
}

func TestDiscardThatCannotBeWrittenSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, app := &faultyStore{Store: newMemoryStore()}, newEventRecorder()
		app.answer = func(context.Context, string, Event) (int, http.Header, error) {
			return 503, http.Header{"Retry-After": {"100"}}, nil
		}
		c := started(t, store, app.send)
		c.Append(closedEvent("s", 1)) // the last of its queue
		synctest.Wait()
		hang := make(chan struct{})
		store.beforeCommit = func() error { <-hang; return nil }
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var discarded []string
		if err := c.Discard(ctx, "s-closed", func(u Undelivered) { discarded = append(discarded, u.ID()) }); !errors.Is(err, ErrNotDurable) {
			t.Error(err)
		}
		if len(discarded) > 0 {
			t.Error("told before it was durable")
		}
		close(hang)
		synctest.Wait()
		if !slices.Equal(discarded, []string{"s-closed"}) {
			t.Errorf("told %v", discarded)
		}
		app.comesBack()
		c.Append(availableEvent("s", 2)) // its queue goes on
		app.await(t, 1)
		finished(t, c)
	})
}

func TestEventsAreTriedNowIfSomebodyAsks(t *testing.T) {
	eachStore(t, func(t *testing.T, store Store) {
		app := newEventRecorder()
		app.answer = func(context.Context, string, Event) (int, http.Header, error) {
			return 503, http.Header{"Retry-After": {"250"}}, nil
		}
		c := started(t, store, app.send)
		for s := range 5 {
			appendAll(c, numbered(uint64(s+1), lifeOf(fmt.Sprint(s), 1))...)
		}
		tries := func() (list []int) {
			synctest.Wait()
			for s := range 5 {
				list = append(list, app.tries(fmt.Sprint(s, "-1")))
			}
			return list
		}
		<-time.After(10 * time.Second)
		if got := tries(); !slices.Equal(got, []int{1, 1, 1, 1, 1}) {
			t.Fatalf("tries before: %v", got)
		}
		if err := c.TryNow(t.Context(), "channel-2"); err != nil {
			t.Error(err)
		}
		if got := tries(); !slices.Equal(got, []int{1, 1, 2, 1, 1}) {
			t.Errorf("of one channel: %v", got)
		}
		if err := c.TryNow(t.Context(), ""); err != nil {
			t.Error(err)
		}
		if got := tries(); !slices.Equal(got, []int{2, 2, 3, 2, 2}) {
			t.Errorf("of all: %v", got)
		}
		if err := c.TryNow(t.Context(), "channel"); err != nil {
			t.Error(err)
		}
		if got := tries(); !slices.Equal(got, []int{2, 2, 3, 2, 2}) {
			t.Errorf("of an unknown channel: %v", got)
		}
		app.comesBack()
		if err := c.TryNow(t.Context(), ""); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if app.count() != 10 {
			t.Errorf("%d events were taken at once", app.count())
		}
		finished(t, c)
	})
}

// Whatever races with deliveries: an event is taken or discarded, never lost, and never sent once it was discarded. Order stays.
func TestDiscardsRaceWithDeliveries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const streams, each = 40, 12
		var mu sync.Mutex
		taken, discarded, last := map[string]bool{}, map[string]bool{}, map[string]uint64{}
		isBack := false
		send := func(_ context.Context, ev Event) (int, http.Header, error) {
			mu.Lock()
			if discarded[ev.ID()] || ev.Seq < last[ev.StreamID] {
				t.Errorf("%s was sent: discarded %t, after %d", ev.ID(), discarded[ev.ID()], last[ev.StreamID])
			}
			last[ev.StreamID] = ev.Seq
			mu.Unlock()
			time.Sleep(rand.N(30 * time.Millisecond))
			mu.Lock()
			defer mu.Unlock()
			if !isBack && rand.IntN(3) > 0 {
				return 503, nil, nil
			}
			taken[ev.ID()] = true
			return 200, nil, nil
		}
		store := &faultyStore{Store: newMemoryStore()}
		store.beforeCommit = func() error {
			time.Sleep(rand.N(20 * time.Millisecond))
			mu.Lock()
			defer mu.Unlock()
			if !isBack && rand.IntN(5) == 0 {
				return errors.New("no disk")
			}
			return nil
		}
		c := started(t, store, send)
		for s := range streams {
			appendAll(c, lifeOf(fmt.Sprint(s), each-1)...)
		}
		var operators sync.WaitGroup
		for range 4 {
			operators.Go(func() {
				for range 300 {
					page, _, _, err := c.List(t.Context(), Place{Queue: rand.Uint64()}, "", 5)
					if err != nil {
						t.Error(err)
					}
					for _, u := range page {
						err := c.Discard(t.Context(), u.ID(), func(u Undelivered) {
							mu.Lock()
							defer mu.Unlock()
							discarded[u.ID()] = true
						})
						if err != nil && !errors.Is(err, ErrNotFirst) && !errors.Is(err, ErrInFlight) && !errors.Is(err, ErrUnknownEvent) {
							t.Error(err)
						}
					}
					time.Sleep(rand.N(50 * time.Millisecond))
				}
			})
		}
		operators.Wait()
		mu.Lock()
		isBack = true
		mu.Unlock()
		finished(t, c)
		for s := range streams {
			for _, ev := range lifeOf(fmt.Sprint(s), each-1) {
				if taken[ev.ID()] == discarded[ev.ID()] {
					t.Errorf("%s: taken %t, discarded %t", ev.ID(), taken[ev.ID()], discarded[ev.ID()])
				}
			}
		}
		if len(discarded) == 0 || len(taken) == 0 {
			t.Errorf("%d discarded, %d taken", len(discarded), len(taken))
		}
	})
}

func TestEventsThatCannotBeReadAreNotListed(t *testing.T) {
	t.Parallel()
	store := &unscannable{Store: newMemoryStore()}
	c := resumed(t, store, newEventRecorder().send)
	store.err = io.ErrUnexpectedEOF
	if _, _, _, err := c.List(t.Context(), Place{}, "", 1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if err := c.Discard(t.Context(), "s-1", nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if err := c.TryNow(t.Context(), "c"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := c.List(gone, Place{}, "", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("for nobody: %v", err)
	}
	if err := c.Finish(stopped()); err != nil {
		t.Error(err)
	}
}

type unscannable struct {
	Store
	err error
}

func (s *unscannable) Scan(Place, string, int) ([]Event, Place, bool, error) {
	return nil, Place{}, false, s.err
}

// A file that was found damaged is listed as far as it can be read, with what came after.
func TestDamagedOutboxIsListedToo(t *testing.T) {
	t.Parallel()
	s := openedStore(t, t.TempDir())
	mustCommit(t, s, Group{Appended: append(numbered(2, lifeOf("file", 1)), numbered(9, lifeOf("z", 1))...)})
	s.foundDamage(errDamaged)
	mustCommit(t, s, Group{Appended: numbered(5, lifeOf("memory", 1))})
	var ids []string
	for from, more := (Place{}), true; more; {
		var found []Event
		var err error
		if found, from, more, err = s.Scan(from, "", 3); err != nil {
			t.Fatal(err)
		}
		for _, ev := range found {
			ids = append(ids, ev.ID())
		}
	}
	if diff := cmp.Diff([]string{"file-1", "file-closed", "memory-1", "memory-closed", "z-1", "z-closed"}, ids); diff != "" {
		t.Error(diff)
	}
}

func TestAnswersAreSummedUpWithoutTheAddress(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"connection refused":                  &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		"connection closed without an answer": io.ErrUnexpectedEOF,
		"host name not found":                 &net.DNSError{Name: "secret.example", IsTimeout: true},
		"no answer in time":                   context.DeadlineExceeded,
		"no answer":                           errors.New("http://secret.example"),
	} {
		if got := answerOf(0, fmt.Errorf("post: %w", err)).String(); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
	if got := answerOf(429, nil).String(); got != "status 429" {
		t.Error(got)
	}
	if got := (answer{}).String(); got != "" {
		t.Error(got)
	}
}

func TestNoOutboxHasNoUndeliveredEvents(t *testing.T) {
	t.Parallel()
	var o *Outbox
	if page, _, more, err := o.List(t.Context(), Place{}, "", 1); page != nil || more || err != nil {
		t.Error(page, more, err)
	}
	if err := o.TryNow(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if err := o.Discard(t.Context(), "s-1", nil); !errors.Is(err, ErrUnknownEvent) {
		t.Error(err)
	}
}
