// Events for the application: the room that the coordinator knows.
//
// An event goes append -> memory -> one writer goroutine -> outbox -> delivery -> the application's 200 -> removed with
// the writer's next commit. It is sent only after its commit, so a crash at any moment loses nothing that was sent; one
// whose removal was not yet committed is sent again after the restart, with the same event ID. The writer is the only one
// that waits for the disk. What cannot be written stays in memory and is tried again until it can.
package main

import (
	"cmp"
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
)

var errDiskHangs = errors.New("the disk does not answer")

// eventStore keeps events durably. The outbox is one; tests use others.
type eventStore interface {
	load(each func(number uint64, record queueRecord)) error
	commit(group) (left group, err error) // of one goroutine only; what is left may be given again after an error
	read(queue uint64, position uint32) (event, error)
	trouble() error // why no stream may begin
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

	wasDamaged bool   // the outbox, at the start
	lastQueue  uint64 // the highest number of a queue that the store held at the start, 0 if none

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
	reported string    // guarded by mu: what the log says is wrong, "" if nothing

	// owned by the writer (before start and after its end: by newCallbacks and drain)
	unwritten group
}

// newCallbacks opens the outbox when there is an application to tell, and records a stream-closed for each stream that
// was announced and not closed when the last process ended. Nothing is sent before start.
func newCallbacks(cfg *Config, log *slog.Logger) (*callbacks, error) {
	if cfg.EventCallbackURL == "" {
		return &callbacks{log: log}, nil
	}
	store, found, err := openOutbox(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if found != nil {
		log.Error("the outbox is damaged and was set aside: undelivered events are lost, and the application may take streams for live that are not",
			"file", found.file, "aside", found.aside, "error", found.err)
	}
	client := newAppClient(cfg.EventCallbackURL, cfg.EventCallbackAuth, maxInFlight)
	c, err := resumeCallbacks(store, client.post, log)
	if err != nil {
		client.close()
		return nil, errors.Join(err, store.close())
	}
	c.client, c.wasDamaged = client, found != nil
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
		c.report(err) // they stay in memory until they can be written
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

// keeping is nil as long as events can be kept: the last commit did not fail, the one under way does not hang, and the
// store has no trouble. Otherwise a stream must not begin, and the error says why.
func (c *callbacks) keeping() error {
	if c.store == nil {
		return nil
	}
	return cmp.Or(c.committing(), c.store.trouble())
}

func (c *callbacks) committing() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken == nil && !c.takenAt.IsZero() && time.Since(c.takenAt) > commitPatience {
		return errDiskHangs
	}
	return c.broken
}

// outboxDamaged tells whether the outbox was damaged, at the start or since.
func (c *callbacks) outboxDamaged() bool {
	return c.wasDamaged || c.store != nil && errors.Is(c.store.trouble(), errDamaged)
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
		if trouble := c.store.trouble(); errors.Is(trouble, errDamaged) {
			c.log.Error("undelivered events are lost", "events", waiting, "error", trouble)
		} else {
			c.log.Info("undelivered events are kept for the next start", "events", waiting)
		}
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
	again := time.NewTicker(commitRetry)
	defer again.Stop()
	for c.ctx.Err() == nil {
		var recovery <-chan time.Time // nil while there is nothing to recover from: then the writer sleeps
		if c.keeping() != nil {
			recovery = again.C
		}
		select {
		case <-c.wake:
		case <-c.wakeRemoval:
			c.pause(removalsGather, c.wake)
		case <-recovery:
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
	if c.unwritten.empty() && c.store.trouble() == nil {
		return nil
	}
	appended := c.unwritten.appended
	left, err := c.store.commit(c.unwritten)
	c.unwritten = left
	c.delivery.committed(appended[:len(appended)-len(left.appended)])
	if err == nil {
		c.allCommitted()
	}
	return err
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
	trouble := c.store.trouble()
	before := c.setBroken(err, trouble)
	switch after := cmp.Or(err, trouble); {
	case after == nil && before == "":
	case after == nil:
		c.log.Info("events are written to disk again, publishers are admitted again")
	case after.Error() == before:
	case errors.Is(after, errDamaged):
		c.log.Error("the outbox is damaged: publishers are denied and the events of live streams kept in memory until a restart, which sets the file aside", "error", after)
	case err == nil:
		c.log.Error("there is hardly any room on the disk for events: publishers are denied", "error", after)
	default:
		c.log.Error("events cannot be written to disk, they are kept in memory and publishers are denied", "error", after)
	}
}

// setBroken notes how the last commit went, and returns what was reported last.
func (c *callbacks) setBroken(err, trouble error) (reported string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reported, c.reported = c.reported, ""
	if now := cmp.Or(err, trouble); now != nil {
		c.reported = now.Error()
	}
	c.broken = err
	return reported
}

func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
