// Stores and an application for the tests of events.
package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// faultyStore injects faults into another store.
type faultyStore struct {
	eventStore
	beforeCommit func() error
	afterCommit  func() error // its error comes although the group is kept
	beforeRead   func() error
}

func (s *faultyStore) commit(g group) (group, error) {
	if s.beforeCommit != nil {
		if err := s.beforeCommit(); err != nil {
			return g, err
		}
	}
	left, err := s.eventStore.commit(g)
	if err == nil && s.afterCommit != nil {
		if err := s.afterCommit(); err != nil {
			return g, err
		}
	}
	return left, err
}

func (s *faultyStore) read(queue uint64, position uint32) (event, error) {
	if s.beforeRead != nil {
		if err := s.beforeRead(); err != nil {
			return event{}, err
		}
	}
	return s.eventStore.read(queue, position)
}

// memoryStore is an eventStore without a disk.
type memoryStore struct {
	mu     sync.Mutex
	queues map[uint64]queueRecord
	events map[[2]uint64]event
}

func newMemoryStore() *memoryStore {
	return &memoryStore{queues: map[uint64]queueRecord{}, events: map[[2]uint64]event{}}
}

// crashed is what a process that starts after a crash at this moment finds.
func (s *memoryStore) crashed() *memoryStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	copied := newMemoryStore()
	copied.events = maps.Clone(s.events)
	for number, record := range s.queues {
		record.announced = slices.Clone(record.announced)
		copied.queues[number] = record
	}
	return copied
}

func (s *memoryStore) load(each func(uint64, queueRecord)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, number := range slices.Sorted(maps.Keys(s.queues)) {
		each(number, s.queues[number])
	}
	return nil
}

func (s *memoryStore) trouble() error { return nil }

func (s *memoryStore) commit(g group) (group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range g.appended {
		ev.at = time.UnixMilli(ev.at.UnixMilli()) // a disk keeps no monotonic reading
		record, known := s.queues[ev.queue]
		if !known {
			record = queueRecord{head: ev.position}
		}
		if !known || record.head == record.tail {
			record.headAt = ev.at
		}
		record.tail = ev.position + 1
		record.note(&ev)
		s.queues[ev.queue] = record
		s.events[[2]uint64{ev.queue, uint64(ev.position)}] = ev
	}
	for _, mark := range g.delivered {
		record, known := s.queues[mark.queue]
		if !known {
			continue
		}
		for ; record.head < mark.head; record.head++ {
			delete(s.events, [2]uint64{mark.queue, uint64(record.head)})
		}
		if next, waits := s.events[[2]uint64{mark.queue, uint64(record.head)}]; waits {
			record.headAt = next.at
		}
		s.queues[mark.queue] = record
		if record.head == record.tail && len(record.announced) == 0 {
			delete(s.queues, mark.queue)
		}
	}
	return group{}, nil
}

func (s *memoryStore) read(queue uint64, position uint32) (event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ev, ok := s.events[[2]uint64{queue, uint64(position)}]
	if !ok {
		return event{}, errUnreadable
	}
	return ev, nil
}

func (s *memoryStore) close() error { return nil }

// eventRecorder stands for the application: it records what it is told and checks the order while it is told. answer decides about each request; nil
// says 200 to all.
type eventRecorder struct {
	answer func(ctx context.Context, id string, header http.Header) (status int, reply http.Header, err error)

	mu       sync.Mutex
	seen     map[string]int // tries, by event ID
	told     map[string]http.Header
	taken    []string // event IDs in the order of their first 200
	takenIDs map[string]bool
	flying   map[string]int // by stream
	most     int            // in flight at once, over all streams
	now      int
	faults   []string
	changed  chan struct{}
}

func newEventRecorder() *eventRecorder {
	return &eventRecorder{seen: map[string]int{}, told: map[string]http.Header{}, takenIDs: map[string]bool{}, flying: map[string]int{}, changed: make(chan struct{}, 1)}
}

var errUnreachable = errors.New("connection refused")

func (a *eventRecorder) post(ctx context.Context, header http.Header) (int, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout) // as appClient has it
	defer cancel()
	stream, id := header.Get("x-streaming-id"), header.Get("x-event-id")
	a.arrived(stream, id, header)
	status, reply, err := http.StatusOK, http.Header(nil), error(nil)
	if answer := a.currentAnswer(); answer != nil {
		status, reply, err = answer(ctx, id, header)
	}
	a.left(stream, id, err == nil && status == http.StatusOK)
	return status, reply, err
}

func (a *eventRecorder) currentAnswer() func(ctx context.Context, id string, header http.Header) (int, http.Header, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.answer
}

// comesBack has the application accept everything from now on.
func (a *eventRecorder) comesBack() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = nil
}

func (a *eventRecorder) arrived(stream, id string, header http.Header) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[id]++
	if told, known := a.told[id]; known && !maps.EqualFunc(told, header, slices.Equal) {
		a.faults = append(a.faults, fmt.Sprintf("%s was first %v, then %v", id, told, header))
	}
	a.told[id] = header
	a.flying[stream]++
	a.now++
	a.most = max(a.most, a.now)
	if a.flying[stream] > 1 {
		a.faults = append(a.faults, "two events of stream "+stream+" in flight")
	}
	if seq, _ := strconv.Atoi(id[strings.LastIndex(id, "-")+1:]); seq > 1 && !a.takenIDs[stream+"-"+strconv.Itoa(seq-1)] {
		a.faults = append(a.faults, id+" came before its predecessor was taken")
	}
}

func (a *eventRecorder) left(stream, id string, taken bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flying[stream]--
	a.now--
	if taken && !a.takenIDs[id] {
		a.takenIDs[id] = true
		a.taken = append(a.taken, id)
	}
	poke(a.changed)
}

// await returns once as many different events were taken.
func (a *eventRecorder) await(t testing.TB, count int) {
	t.Helper()
	deadline := time.After(time.Hour)
	for {
		if taken := a.count(); taken >= count {
			return
		}
		select {
		case <-a.changed:
		case <-deadline:
			t.Fatalf("%d of %d events were taken within an hour", a.count(), count)
		}
	}
}

func (a *eventRecorder) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.taken)
}

func (a *eventRecorder) tries(id string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[id]
}

func (a *eventRecorder) check(t testing.TB) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, fault := range a.faults {
		t.Error(fault)
	}
	if a.most > maxInFlight {
		t.Errorf("%d requests in flight", a.most)
	}
}

func (a *eventRecorder) order() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.taken)
}

// lifeOf gives the events of a stream's life: n times stream-available, then stream-closed.
func lifeOf(stream string, n int) []event {
	var life []event
	for seq := 1; seq <= n; seq++ {
		life = append(life, availableEvent(stream, seq))
	}
	return append(life, closedEvent(stream, n+1))
}

func availableEvent(stream string, seq int) event {
	return event{
		channel: "channel-" + stream, streamID: stream, queue: queueOf(stream), position: uint32(seq - 1), seq: uint64(seq),
		streamType: "HLS-LIVE", resolution: "1280x720-30", startTime: "0",
		indexFile: fmt.Sprintf("hls/channel-%s/%s/1280x720-30/%d.m3u8", stream, stream, seq), at: time.Now(),
	}
}

func closedEvent(stream string, seq int) event {
	return event{channel: "channel-" + stream, streamID: stream, queue: queueOf(stream), position: uint32(seq - 1), seq: uint64(seq), closed: true, at: time.Now()}
}

// queueOf gives each stream a queue of its own.
func queueOf(stream string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(stream))
	return h.Sum64()
}

func appendAll(c *callbacks, events ...event) {
	for _, ev := range events {
		c.append(ev)
	}
}

func startedCallbacks(t testing.TB, store eventStore, post postFunc) *callbacks {
	t.Helper()
	c := resumedCallbacks(t, store, post)
	c.start()
	return c
}

func resumedCallbacks(t testing.TB, store eventStore, post postFunc) *callbacks {
	t.Helper()
	c, err := resumeCallbacks(store, post, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stopped is a context for a drain that delivers nothing more.
func stopped() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func drained(t testing.TB, c *callbacks) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := c.drain(ctx); err != nil {
		t.Error("drain:", err)
	}
	if waiting := c.undelivered.Load(); waiting != 0 {
		t.Errorf("%d events undelivered after drain", waiting)
	}
}
