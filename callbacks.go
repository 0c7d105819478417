// Events for the application: the room that the coordinator knows.
//
// An event goes append -> memory -> one writer goroutine -> outbox -> delivery -> the application's 200 -> removed with
// the writer's next commit. It is sent only after its commit, so a crash at any moment loses nothing that was sent; one
// whose removal was not yet committed is sent again after the restart, with the same event ID. The writer is the only one
// that waits for the disk. What cannot be written stays in memory and is tried again until it can.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	commitEvery    = 5 * time.Millisecond  // from the start of one commit to that of the next, under load
	removalsGather = 50 * time.Millisecond // removals alone wait this long for company: nothing waits for them
	commitRetry    = time.Second
	commitPatience = 5 * time.Second // then a disk that says nothing counts as one that cannot be written
	drainGrace     = time.Second     // for the last commits at the end, if draining has taken all of its time
	maxGroup       = 1024            // events added by one commit, and removed by it, at most
)

var errDiskHangs = errors.New("the disk does not answer")

// eventStore keeps events durably. The outbox is one; tests use others.
type eventStore interface {
	load(each func(number uint64, record queueRecord)) error
	commit(group) error // of one goroutine only; all or nothing, and may be repeated after an error
	read(queue uint64, position uint32) (event, error)
	close() error
}

// callbacks takes events and sees to it that the application gets them. Without EVENT_CALLBACK_URL it drops them.
type callbacks struct {
	// set once
	log      *slog.Logger
	store    eventStore // nil: no application to tell
	client   *appClient
	delivery *delivery
	stop     context.CancelFunc
	ctx      context.Context
	observe  func(result string, took time.Duration) // may be nil; set before start

	lastQueue uint64 // the highest number of a queue that the store held at the start, 0 if none

	wake        chan struct{} // events were appended
	wakeRemoval chan struct{} // events were delivered
	undelivered atomic.Int64  // events appended and not yet delivered, on disk or not
	allDone     chan struct{} // undelivered came down to 0
	running     sync.WaitGroup
	started     atomic.Bool
	drainOnce   sync.Once
	drainErr    error

	mu       sync.Mutex
	appended []event   // guarded by mu
	takenAt  time.Time // guarded by mu: when the writer took them
	writing  time.Time // guarded by mu: when the oldest event happened that the writer has taken and not committed
	broken   error     // guarded by mu: why the last commit failed

	// owned by the writer (before start and after its end: by newCallbacks and drain)
	unwritten group
}

// newCallbacks opens the outbox when there is an application to tell, and records a stream-closed for each stream that
// was announced and not closed when the last process ended. Nothing is sent before start.
func newCallbacks(cfg *Config, log *slog.Logger) (*callbacks, error) {
	if cfg.EventCallbackURL == "" {
		return &callbacks{log: log}, nil
	}
	store, err := openOutbox(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	client := newAppClient(cfg.EventCallbackURL, cfg.EventCallbackAuth, maxInFlight)
	c, err := resumeCallbacks(store, client.post, log)
	if err != nil {
		client.close()
		return nil, errors.Join(err, store.close())
	}
	c.client = client
	return c, nil
}

func resumeCallbacks(store eventStore, post postFunc, log *slog.Logger) (*callbacks, error) {
	return resumeCallbacksBy(time.Now, store, post, log)
}

// resumeCallbacksBy is for tests, which set the wall clock.
func resumeCallbacksBy(now func() time.Time, store eventStore, post postFunc, log *slog.Logger) (*callbacks, error) {
	c := &callbacks{
		log:         log,
		store:       store,
		wake:        make(chan struct{}, 1),
		wakeRemoval: make(chan struct{}, 1),
		allDone:     make(chan struct{}, 1),
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.delivery = newDelivery(post, store.read, now, log)
	c.delivery.delivered = c.eventDelivered
	if err := c.resume(); err != nil {
		c.stop()
		return nil, fmt.Errorf("take up undelivered events: %w", err)
	}
	return c, nil
}

// resume takes up what the store holds and closes the streams whose end was not recorded.
func (c *callbacks) resume() error {
	var lost []event
	now := c.delivery.now()
	err := c.store.load(func(number uint64, record queueRecord) {
		c.lastQueue = max(c.lastQueue, number)
		c.undelivered.Add(int64(record.tail - record.head))
		c.delivery.resume(number, record)
		for i, s := range record.announced {
			lost = append(lost, event{
				channel: s.channel, streamID: s.streamID, queue: number, position: record.tail + uint32(i), previous: s.previous,
				seq: s.lastSeq + 1, closed: true, at: now,
			})
		}
	})
	if err != nil {
		return err
	}
	for _, ev := range lost {
		c.append(ev)
	}
	if err := c.writeAll(); err != nil {
		return err
	}
	if waiting := c.undelivered.Load(); waiting > 0 {
		c.log.Info("taking up undelivered events", "events", waiting)
	}
	return nil
}

// start begins to write and to deliver.
func (c *callbacks) start() {
	if c.store == nil {
		return
	}
	c.started.Store(true)
	c.delivery.observe = c.observe
	c.running.Go(c.write)
	c.running.Go(func() { c.delivery.run(c.ctx) })
}

// append takes an event over. It never waits for disk or network and may be called under the registry's lock. Events of
// one queue come in the order of their positions, and are delivered in it. Not to be called after drain has returned.
func (c *callbacks) append(ev event) {
	if c.store == nil {
		return
	}
	c.undelivered.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.appended = append(c.appended, ev)
	poke(c.wake)
}

// keeping is nil as long as events can be kept: the last commit did not fail, and the one under way does not hang. Otherwise a stream must not begin, and the error says why.
func (c *callbacks) keeping() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken == nil && !c.takenAt.IsZero() && time.Since(c.takenAt) > commitPatience {
		return errDiskHangs
	}
	return c.broken
}

// stats tells how many events are undelivered, and how old the oldest of them is (0: there is none). Setting the wall
// clock makes none older or younger.
func (c *callbacks) stats() (pending int, oldest time.Duration) {
	if c.store == nil {
		return 0, 0
	}
	oldest = c.delivery.oldest()
	if at := c.oldestUnwritten(); !at.IsZero() {
		oldest = max(oldest, c.delivery.now().Sub(at))
	}
	return int(c.undelivered.Load()), oldest
}

func (c *callbacks) oldestUnwritten() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing.IsZero() && len(c.appended) > 0 {
		return c.appended[0].at
	}
	return c.writing
}

// drain delivers until nothing is undelivered or ctx ends, then stops all goroutines, commits what is in memory and
// closes the outbox. The error is that of the last commit or of closing. Another call waits for the first one.
func (c *callbacks) drain(ctx context.Context) error {
	c.drainOnce.Do(func() { c.drainErr = c.drainFirst(ctx) })
	return c.drainErr
}

func (c *callbacks) drainFirst(ctx context.Context) error {
	if c.store == nil {
		return nil
	}
	for c.started.Load() && ctx.Err() == nil && c.undelivered.Load() > 0 {
		select {
		case <-c.allDone:
		case <-ctx.Done():
		}
	}
	c.stop()
	written := make(chan error, 1)
	go func() {
		c.running.Wait()
		written <- c.writeAll()
	}()
	var err error
	grace := drainGrace
	if deadline, limited := ctx.Deadline(); limited {
		grace = max(grace, time.Until(deadline)) // a burst of deliveries leaves many removals to commit
	}
	select {
	case err = <-written:
	case <-time.After(grace):
		return errDiskHangs // the process ends anyway; what was committed is kept
	}
	if c.client != nil {
		c.client.close()
	}
	if waiting := c.undelivered.Load(); waiting > 0 {
		c.log.Info("undelivered events are kept for the next start", "events", waiting)
	}
	return errors.Join(err, c.store.close())
}

// eventDelivered is told by the delivery after each 200.
func (c *callbacks) eventDelivered() {
	if c.undelivered.Add(-1) == 0 {
		poke(c.allDone)
	}
	poke(c.wakeRemoval)
}

// write is the writer goroutine.
func (c *callbacks) write() {
	for c.ctx.Err() == nil {
		select {
		case <-c.wake:
		case <-c.wakeRemoval:
			c.pause(removalsGather, c.wake)
		case <-c.ctx.Done():
			return // drain commits the rest
		}
		began := time.Now()
		err := c.writeGroup()
		c.report(err)
		if err != nil {
			c.pause(commitRetry, nil)
			poke(c.wake)
		} else {
			c.pause(commitEvery-time.Since(began), nil)
		}
	}
}

// pause waits for d, or until something comes from early.
func (c *callbacks) pause(d time.Duration, early <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-early:
	case <-c.ctx.Done():
	}
}

// writeGroup commits all that was appended and delivered since the last commit. After an error it stays in unwritten and
// goes with the next one.
func (c *callbacks) writeGroup() error {
	c.unwritten.appended = append(c.unwritten.appended, c.takeAppended(maxGroup-len(c.unwritten.appended))...)
	marks, more := c.delivery.takeDelivered(maxGroup - len(c.unwritten.delivered))
	if more {
		poke(c.wakeRemoval)
	}
	c.unwritten.delivered = append(c.unwritten.delivered, marks...)
	if len(c.unwritten.appended) == 0 && len(c.unwritten.delivered) == 0 {
		return nil
	}
	if err := c.store.commit(c.unwritten); err != nil {
		return err
	}
	committed := c.unwritten.appended
	c.unwritten = group{}
	c.delivery.committed(committed)
	c.allCommitted()
	return nil
}

// writeAll commits until nothing is left in memory.
func (c *callbacks) writeAll() error {
	for {
		if err := c.writeGroup(); err != nil || c.allWritten() {
			return err
		}
	}
}

func (c *callbacks) allWritten() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.appended) == 0 && !c.delivery.unmarked()
}

// takeAppended takes over the first events in memory, at most limit.
func (c *callbacks) takeAppended(limit int) []event {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.appended
	if c.writing.IsZero() && len(taken) > 0 {
		c.writing, c.takenAt = taken[0].at, time.Now()
	}
	if len(taken) <= limit {
		c.appended = nil
		return taken
	}
	c.appended = taken[limit:]
	poke(c.wake)
	return taken[:limit:limit]
}

func (c *callbacks) allCommitted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing, c.takenAt = time.Time{}, time.Time{}
}

// report logs when events cannot be kept any more and when they can again.
func (c *callbacks) report(err error) {
	c.mu.Lock()
	before := c.broken
	c.broken = err
	c.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		c.log.Error("events cannot be written to disk, they are kept in memory and new publishes are denied", "err", err)
	case err == nil && before != nil:
		c.log.Info("events are written to disk again")
	}
}

func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
