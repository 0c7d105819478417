package outbox

// Stores and an application for the tests of events.

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"
)

// faultyStore injects faults into another store.
type faultyStore struct {
	Store
	beforeCommit func() error
	afterCommit  func() error // its error comes although the group is kept
	beforeRead   func() error
}

func (s *faultyStore) Commit(g Group) (Group, error) {
	if s.beforeCommit != nil {
		if err := s.beforeCommit(); err != nil {
			return g, err
		}
	}
	left, err := s.Store.Commit(g)
	if err == nil && s.afterCommit != nil {
		if err := s.afterCommit(); err != nil {
			return g, err
		}
	}
	return left, err
}

func (s *faultyStore) Read(queue uint64, position uint32) (Event, error) {
	if s.beforeRead != nil {
		if err := s.beforeRead(); err != nil {
			return Event{}, err
		}
	}
	return s.Store.Read(queue, position)
}

// memoryStore is a Store without a disk.
type memoryStore struct {
	mu     sync.Mutex
	queues map[uint64]QueueRecord
	events map[[2]uint64]Event
	kept   map[string][]byte // of the cluster
}

func newMemoryStore() *memoryStore {
	return &memoryStore{queues: map[uint64]QueueRecord{}, events: map[[2]uint64]Event{}, kept: map[string][]byte{}}
}

// crashed is what a process that starts after a crash at this moment finds.
func (s *memoryStore) crashed() *memoryStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	copied := newMemoryStore()
	copied.events, copied.kept = maps.Clone(s.events), maps.Clone(s.kept)
	for number, record := range s.queues {
		record.Announced = slices.Clone(record.Announced)
		copied.queues[number] = record
	}
	return copied
}

func (s *memoryStore) Load(each func(uint64, QueueRecord)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, number := range slices.Sorted(maps.Keys(s.queues)) {
		each(number, s.queues[number])
	}
	return nil
}

func (s *memoryStore) Trouble() error { return nil }

func (s *memoryStore) Cluster() (Cluster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return readCluster(s.kept), nil
}

func (s *memoryStore) Commit(g Group) (Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range g.Appended {
		ev.At = time.UnixMilli(ev.At.UnixMilli()) // a disk keeps no monotonic reading
		record, known := s.queues[ev.Queue]
		if !known {
			record = QueueRecord{Head: ev.Position}
		}
		if !known || record.Head == record.Tail {
			record.HeadAt = ev.At
		}
		record.Tail = ev.Position + 1
		record.note(&ev)
		s.queues[ev.Queue] = record
		s.events[[2]uint64{ev.Queue, uint64(ev.Position)}] = ev
		if ev.Message > 0 {
			s.kept[appliedKey(ev.Session)] = binary.BigEndian.AppendUint64(nil, ev.Message)
		}
	}
	for _, c := range g.Changes {
		if key, value := c.entry(); value == nil {
			delete(s.kept, key)
		} else {
			s.kept[key] = value
		}
	}
	for _, upTo := range g.Delivered {
		record, known := s.queues[upTo.Queue]
		if !known {
			continue
		}
		for ; record.Head < upTo.Head; record.Head++ {
			delete(s.events, [2]uint64{upTo.Queue, uint64(record.Head)})
		}
		if next, waits := s.events[[2]uint64{upTo.Queue, uint64(record.Head)}]; waits {
			record.HeadAt = next.At
		}
		s.queues[upTo.Queue] = record
		if record.Head == record.Tail && len(record.Announced) == 0 {
			delete(s.queues, upTo.Queue)
		}
	}
	return Group{}, nil
}

func (s *memoryStore) Read(queue uint64, position uint32) (Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ev, ok := s.events[[2]uint64{queue, uint64(position)}]
	if !ok {
		return Event{}, ErrUnreadable
	}
	return ev, nil
}

func (s *memoryStore) Scan(from Place, text string, look int) (found []Event, next Place, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var places []Place
	for key := range s.events {
		if at := (Place{key[0], uint32(key[1])}); at.compare(from) >= 0 {
			places = append(places, at)
		}
	}
	slices.SortFunc(places, Place.compare)
	if len(places) > look {
		next, more, places = places[look], true, places[:look]
	}
	for _, at := range places {
		if ev := s.events[[2]uint64{at.Queue, uint64(at.Position)}]; bytes.Contains(EncodeEvent(&ev), []byte(text)) {
			found = append(found, ev)
		}
	}
	return found, next, more, nil
}

func (s *memoryStore) Close() error { return nil }

// eventRecorder stands for the application: it records what it is told and checks the order while it is told. answer decides
// about each request; nil says 200 to all.
type eventRecorder struct {
	answer func(ctx context.Context, id string, ev Event) (status int, reply http.Header, err error)

	mu       sync.Mutex
	seen     map[string]int // tries, by event ID
	told     map[string]Event
	taken    []string // event IDs in the order of their first 200
	takenIDs map[string]bool
	flying   map[string]int // by stream
	most     int            // in flight at once, over all streams
	now      int
	faults   []string
	changed  chan struct{}
}

func newEventRecorder() *eventRecorder {
	return &eventRecorder{seen: map[string]int{}, told: map[string]Event{}, takenIDs: map[string]bool{}, flying: map[string]int{}, changed: make(chan struct{}, 1)}
}

var errUnreachable = errors.New("connection refused")

// answerTimeout is that of the application's client.
const answerTimeout = 10 * time.Second

func (a *eventRecorder) send(ctx context.Context, ev Event) (int, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	ev.At = time.UnixMilli(ev.At.UnixMilli()) // as the application reads it
	a.arrived(ev)
	status, reply, err := http.StatusOK, http.Header(nil), error(nil)
	if answer := a.currentAnswer(); answer != nil {
		status, reply, err = answer(ctx, ev.ID(), ev)
	}
	a.left(ev.StreamID, ev.ID(), err == nil && status == http.StatusOK)
	return status, reply, err
}

func (a *eventRecorder) currentAnswer() func(ctx context.Context, id string, ev Event) (int, http.Header, error) {
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

func (a *eventRecorder) arrived(ev Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := ev.ID()
	a.seen[id]++
	ev.Queue, ev.Position, ev.Mark, ev.more = 0, 0, Mark{}, false // an event that was read has none
	if told, known := a.told[id]; known && !reflect.DeepEqual(told, ev) {
		a.faults = append(a.faults, fmt.Sprintf("%s was first %+v, then %+v", id, told, ev))
	}
	a.told[id] = ev
	a.flying[ev.StreamID]++
	a.now++
	a.most = max(a.most, a.now)
	if a.flying[ev.StreamID] > 1 {
		a.faults = append(a.faults, "two events of stream "+ev.StreamID+" in flight")
	}
	if before := (&Event{StreamID: ev.StreamID, Seq: ev.Seq - 1}).ID(); ev.Seq > 1 && !a.takenIDs[before] {
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
	if a.most > MaxInFlight {
		t.Errorf("%d requests in flight", a.most)
	}
}

func (a *eventRecorder) order() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.taken)
}

// lifeOf gives the events of a stream's life: n times stream-available, then stream-closed.
func lifeOf(stream string, n int) []Event {
	var life []Event
	for seq := 1; seq <= n; seq++ {
		life = append(life, availableEvent(stream, seq))
	}
	return append(life, closedEvent(stream, n+1))
}

func availableEvent(stream string, seq int) Event {
	return Event{
		Channel: "channel-" + stream, StreamID: stream, Queue: queueOf(stream), Position: uint32(seq - 1), Seq: uint64(seq),
		StreamType: "HLS-LIVE", Resolution: "1280x720-30", StartTime: "0",
		IndexFile: fmt.Sprintf("hls/channel-%s/%s/1280x720-30/%d.m3u8", stream, stream, seq), At: time.Now(),
	}
}

func closedEvent(stream string, seq int) Event {
	return Event{Channel: "channel-" + stream, StreamID: stream, Queue: queueOf(stream), Position: uint32(seq - 1), Seq: uint64(seq), Type: StreamClosed, At: time.Now()}
}

// queueOf gives each stream a queue of its own.
func queueOf(stream string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(stream))
	return h.Sum64()
}

func appendAll(c *Outbox, events ...Event) {
	for _, ev := range events {
		c.Append(ev)
	}
}

func started(t testing.TB, store Store, send Send) *Outbox {
	t.Helper()
	c := resumed(t, store, send)
	c.Start()
	return c
}

func resumed(t testing.TB, store Store, send Send) *Outbox {
	t.Helper()
	c, err := resume(store, send, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stopped is a context for a Finish that delivers nothing more.
func stopped() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func finished(t testing.TB, c *Outbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := c.Finish(ctx); err != nil {
		t.Error("Finish:", err)
	}
	if waiting := c.undelivered.Load(); waiting != 0 {
		t.Errorf("%d events undelivered after Finish", waiting)
	}
}

func resume(store Store, send Send, log *slog.Logger) (*Outbox, error) {
	return newOutbox(time.Now, store, send, unobserved, nil, log)
}

func unobserved(Attempt) {}
