// Package outbox keeps events on disk until the application has taken them, and delivers them in order.
//
// Order: the events of a queue are sent strictly in the order of their positions, one at a time. Queues never wait for each
// other.
//
// At least once: an event is sent only after its commit, and removed with a commit after its 200. So a crash loses no event
// that was committed. One whose removal was not committed is sent again after the next start, with the same ID. An event is given up
// only by Discard, which is durable before the next one of its queue is sent. A stream that was announced and whose stream-closed was
// never appended gets one at the next start; a publisher that was accepted, and none of whose streams was announced, gets its
// publish-failed.
//
// An event goes AppendPart and End -> memory -> the writer goroutine -> store -> delivery -> 200 -> removed with the writer's
// next commit. The writer is the only one that waits for the disk. What cannot be written stays in memory and is tried again
// until it can.
package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fileCommits    = 5 * time.Millisecond  // from the start of one commit to that of the next, under load
	sharedCommits  = 15 * time.Millisecond // a commit costs a database as much processor time as a dozen lives in it
	removalsGather = 50 * time.Millisecond // removals alone wait this long for company: nothing waits for them
	commitRetry    = time.Second
	removalsRetry  = 200 * time.Millisecond // after a failed commit removals wait this long for company
	commitPatience = 5 * time.Second        // then a disk that says nothing counts as one that cannot be written
	finishGrace    = time.Second            // for the last commits at the end, if deliveries have taken all of the time
)

var errStoreHangs = errors.New("the disk or the database does not answer")

// Store keeps events durably, and what belongs to a cluster: a file (boltStore), or a database (internal/pgstore). Load and Cluster are
// called before all others.
type Store interface {
	Load(each func(number uint64, record QueueRecord)) error
	Cluster() (Cluster, error)            // without what comes from Load
	Commit(Group) (left Group, err error) // of one goroutine only; what is left may be given again after an error
	Read(queue uint64, position uint32) (Event, error)

	// Scan looks at up to look events, in the order of their places from the given one on, and returns at least those whose record holds
	// text, with their places. If there are more, they begin at next. Events whose removal is on its way may be among them.
	Scan(from Place, text string, look int) (found []Event, next Place, more bool, err error)

	Trouble() error // why no stream may begin
	Close() error
}

// Send tells the application of one event. It returns the status of the answer and its header, or an error if there was
// no answer. It gives up by itself after a time of its own, and at once when ctx ends. It is called by up to MaxInFlight
// goroutines at a time.
type Send func(ctx context.Context, ev Event) (status int, reply http.Header, err error)

// Attempt is how a try went: what Send returned, and how long it took.
type Attempt struct {
	Event  Event
	Number int // 1: the first one of this process
	Status int
	Err    error
	Took   time.Duration
}

// Observe is told of each try. It is called by several goroutines.
type Observe func(Attempt)

// Outbox takes events and sees to it that the application gets them. A nil Outbox drops them.
type Outbox struct {
	// set once
	log         *slog.Logger
	store       Store
	delivery    *delivery
	stop        context.CancelFunc
	ctx         context.Context
	commitEvery time.Duration
	wasDamaged  bool   // the file, at the start
	lastQueue   uint64 // the highest number of a queue that the store held at the start, 0 if none

	wake        chan struct{} // events were appended
	wakeRemoval chan struct{} // events were delivered
	undelivered atomic.Int64  // events appended and not yet delivered, on disk or not
	allDone     chan struct{} // undelivered came down to 0
	running     sync.WaitGroup
	started     atomic.Bool
	finishOnce  sync.Once
	finishErr   error

	mu       sync.Mutex
	appended []Event   // guarded by mu
	whole    int       // guarded by mu: how many of them are of transitions that have ended
	changes  []Change  // guarded by mu
	commitAt time.Time // guarded by mu: when the commit that is under way began
	writing  time.Time // guarded by mu: when the oldest event happened that the writer has taken and not committed
	broken   error     // guarded by mu: why the last commit failed
	reported string    // guarded by mu: what the log says is wrong, "" if nothing

	// owned by the writer (before Start and after its end: by Open and Finish)
	unwritten Group
}

// Open opens the outbox in the directory dir, which is created if it is missing, and appends a stream-closed for each
// stream that was announced and not closed when the last process ended. Nothing is sent before Start. A damaged file is
// set aside and an empty one takes its place. On a full disk Open works, and Err says so. It fails if another process uses
// dir, if a newer version wrote the file, or if the system does not let it use dir.
func Open(dir string, send Send, observe Observe, log *slog.Logger) (*Outbox, error) {
	store, err := openLogged(dir, log)
	if err != nil {
		return nil, err
	}
	return newDirectOutbox(time.Now, store, send, observe, log)
}

// newDirectOutbox forgets the gateways of an earlier process. Their streams are closed now, as far as the application is told: they
// must not be live again should gateways be let in later.
func newDirectOutbox(now func() time.Time, store Store, send Send, observe Observe, log *slog.Logger) (*Outbox, error) {
	c, err := store.Cluster()
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	o, err := openOutbox(now, store, send, observe, nil, log)
	if err != nil {
		return nil, err
	}
	var changes []Change
	for _, gateway := range c.Gateways {
		changes = append(changes, RemoveGateway(gateway))
	}
	for session := range c.Applied {
		changes = append(changes, ForgetSession(session))
	}
	if len(changes) == 0 {
		return o, nil
	}
	log.Warn("no gateway may link any more, and those of the last run are given up: restart them, or what is live on them goes on unseen", "gateways", len(c.Gateways))
	o.Change(changes...)
	if err := o.writeAll(); err != nil {
		o.report(err) // it stays in memory until it can be written
	}
	return o, nil
}

// openLogged is openStore, and logs that a damaged file was set aside.
func openLogged(dir string, log *slog.Logger) (*boltStore, error) {
	store, found, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	if found != nil {
		log.Error("the outbox is damaged and was set aside: undelivered events are lost, and the application may take streams for live that are not",
			"file", found.file, "aside", found.aside, "error", found.err)
		store.wasDamaged = true
	}
	return store, nil
}

// openOutbox is newOutbox, and closes the store if that fails.
func openOutbox(now func() time.Time, store Store, send Send, observe Observe, cluster *Cluster, log *slog.Logger) (*Outbox, error) {
	o, err := newOutbox(now, store, send, observe, cluster, log)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	if bolt, ok := store.(*boltStore); ok {
		o.wasDamaged = bolt.wasDamaged
	}
	return o, nil
}

// newOutbox goes on with what a store holds. Tests set the wall clock by now. cluster is nil without gateways; else it gets
// what is known of queues.
func newOutbox(now func() time.Time, store Store, send Send, observe Observe, cluster *Cluster, log *slog.Logger) (*Outbox, error) {
	o := &Outbox{
		log:         log,
		store:       store,
		commitEvery: fileCommits,
		wake:        make(chan struct{}, 1),
		wakeRemoval: make(chan struct{}, 1),
		allDone:     make(chan struct{}, 1),
	}
	o.ctx, o.stop = context.WithCancel(context.Background())
	o.delivery = newDelivery(send, observe, o.eventDelivered, store.Read, now, log)
	if err := o.resume(cluster); err != nil {
		o.stop()
		return nil, fmt.Errorf("read the events left from the last run: %w", err)
	}
	return o, nil
}

// resume reads which queues the store holds, for the delivery, and closes the streams whose end was not recorded.
func (o *Outbox) resume(cluster *Cluster) error {
	var lost []Event
	now := o.delivery.now()
	err := o.store.Load(func(number uint64, record QueueRecord) {
		o.lastQueue = max(o.lastQueue, number)
		o.undelivered.Add(int64(record.Tail - record.Head))
		o.delivery.resume(number, record)
		if cluster != nil {
			cluster.Tails[number] = record.Tail
		}
		for i, s := range record.owed() {
			if cluster != nil && len(cluster.Gateways) > 0 {
				cluster.Announced = append(cluster.Announced, Announced{number, s})
				continue
			}
			lost = append(lost, s.lost(number, record.Tail+uint32(i), now))
		}
	})
	if err != nil {
		return err
	}
	for _, ev := range lost {
		o.Append(ev)
	}
	if err := o.writeAll(); err != nil {
		o.report(err) // they stay in memory until they can be written
	}
	if waiting := o.undelivered.Load(); waiting > 0 {
		o.log.Info("delivering events left from the last run", "events", waiting)
	}
	return nil
}

// Start begins to write and to deliver.
func (o *Outbox) Start() {
	if o == nil {
		return
	}
	o.started.Store(true)
	o.running.Go(o.write)
	if o.delivery.send != nil {
		o.running.Go(func() { o.delivery.run(o.ctx) })
	}
}

// Append takes over an event that is a transition by itself: AppendPart and End in one.
func (o *Outbox) Append(ev Event) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.appendLocked(ev)
	o.endLocked(Mark{})
}

// AppendPart takes over an event of the transition under way. It never waits for disk or network, and may be called under a
// lock. The caller has to append the events of a queue in the order of their positions, and to end one transition before it
// begins another, which means to serialize the calls: the registry does so by its lock. Not to be called after Finish has
// returned.
func (o *Outbox) AppendPart(ev Event) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.appendLocked(ev)
}

// End ends the transition, which has at least one event: its events go into one commit. It may be called where AppendPart may.
func (o *Outbox) End(m Mark) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endLocked(m)
}

func (o *Outbox) appendLocked(ev Event) {
	o.undelivered.Add(1)
	ev.more = true
	o.appended = append(o.appended, ev)
}

func (o *Outbox) endLocked(m Mark) {
	o.whole = len(o.appended)
	last := &o.appended[o.whole-1]
	last.Mark, last.more = m, false
	poke(o.wake)
}

// Err is nil as long as events can be kept: the last commit did not fail, the one under way does not hang, and the
// store has no trouble. Otherwise a stream must not begin, and the error says why.
func (o *Outbox) Err() error {
	if o == nil {
		return nil
	}
	return cmp.Or(o.committing(), o.store.Trouble())
}

func (o *Outbox) committing() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken == nil && !o.commitAt.IsZero() && time.Since(o.commitAt) > commitPatience {
		return errStoreHangs
	}
	return o.broken
}

// LastQueue is the highest number of a queue that the file held at Open, 0 if none: later ones have to be above it.
func (o *Outbox) LastQueue() uint64 {
	if o == nil {
		return 0
	}
	return o.lastQueue
}

// Damaged tells whether the outbox was damaged, at the start or since.
func (o *Outbox) Damaged() bool {
	return o != nil && (o.wasDamaged || errors.Is(o.store.Trouble(), errDamaged))
}

// Pending tells how many events are undelivered, and how old the oldest of them is (0: there is none). Setting the wall
// clock makes none older or younger.
func (o *Outbox) Pending() (pending int, oldest time.Duration) {
	if o == nil {
		return 0, 0
	}
	oldest = o.delivery.oldest()
	if at := o.oldestUnwritten(); !at.IsZero() {
		oldest = max(oldest, o.delivery.now().Sub(at))
	}
	return int(o.undelivered.Load()), oldest
}

func (o *Outbox) oldestUnwritten() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing.IsZero() && len(o.appended) > 0 {
		return o.appended[0].At
	}
	return o.writing
}

// Finish delivers until nothing is undelivered or ctx ends, then stops all goroutines, commits what is in memory and
// closes the outbox. The error is that of the last commit or of closing. Another call waits for the first one.
func (o *Outbox) Finish(ctx context.Context) error {
	if o == nil {
		return nil
	}
	o.finishOnce.Do(func() { o.finishErr = o.finishFirst(ctx) })
	return o.finishErr
}

func (o *Outbox) finishFirst(ctx context.Context) error {
	for o.started.Load() && o.delivery.send != nil && ctx.Err() == nil && o.undelivered.Load() > 0 {
		select {
		case <-o.allDone:
		case <-ctx.Done():
		}
	}
	o.stop()
	written := make(chan error, 1)
	go func() {
		o.running.Wait()
		written <- o.writeAll()
	}()
	var err error
	grace := finishGrace
	if deadline, limited := ctx.Deadline(); limited {
		grace = max(grace, time.Until(deadline)) // a burst of deliveries leaves many removals to commit
	}
	select {
	case err = <-written:
	case <-time.After(grace):
		return errStoreHangs // the process ends anyway; what was committed is kept
	}
	if waiting := o.undelivered.Load(); waiting > 0 {
		if trouble := o.store.Trouble(); errors.Is(trouble, errDamaged) {
			o.log.Error("undelivered events are lost", "events", waiting, "error", trouble)
		} else {
			o.log.Info("undelivered events are kept for the next start", "events", waiting)
		}
	}
	return errors.Join(err, o.store.Close())
}

// eventDelivered is told by the delivery after each 200.
func (o *Outbox) eventDelivered() {
	if o.undelivered.Add(-1) == 0 {
		poke(o.allDone)
	}
	poke(o.wakeRemoval)
}

// write is the writer goroutine.
func (o *Outbox) write() {
	again := time.NewTicker(commitRetry)
	defer again.Stop()
	for o.ctx.Err() == nil {
		var recovery <-chan time.Time // nil while there is nothing to recover from: then the writer sleeps
		if o.Err() != nil {
			recovery = again.C
		}
		select {
		case <-o.wake:
		case <-o.wakeRemoval:
			o.pause(removalsGather, o.wake)
		case <-recovery:
		case <-o.ctx.Done():
			return // finishFirst commits the rest
		}
		began := time.Now()
		err := o.writeGroup()
		o.report(err)
		if err != nil {
			o.pause(commitRetry, o.wakeRemoval) // what was delivered makes room, and would be sent again after a crash
			o.pause(removalsRetry, nil)
			poke(o.wake)
		} else {
			o.pause(o.commitEvery-time.Since(began), nil)
		}
	}
}

// pause waits for d, or until something comes from early.
func (o *Outbox) pause(d time.Duration, early <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-early:
	case <-o.ctx.Done():
	}
}

// writeGroup commits all that was appended and delivered since the last commit. After an error it stays in unwritten and
// goes with the next one.
func (o *Outbox) writeGroup() error {
	o.unwritten.Appended = append(o.unwritten.Appended, o.takeAppended(maxGroup-len(o.unwritten.Appended))...)
	taken, more := o.delivery.takeDelivered(maxGroup - len(o.unwritten.Delivered))
	if more {
		poke(o.wakeRemoval)
	}
	o.unwritten.Delivered = append(o.unwritten.Delivered, taken...)
	o.unwritten.Changes = append(o.unwritten.Changes, o.takeChanges()...)
	if o.unwritten.empty() && o.store.Trouble() == nil {
		return nil
	}
	o.setCommitting(time.Now())
	defer o.setCommitting(time.Time{})
	appended, delivered, changes := o.unwritten.Appended, o.unwritten.Delivered, o.unwritten.Changes
	left, err := o.store.Commit(o.unwritten)
	o.unwritten = left
	o.committed(appended[:len(appended)-len(left.Appended)])
	announceRemovals(delivered[:len(delivered)-len(left.Delivered)])
	announceDurable(changes[:len(changes)-len(left.Changes)])
	if err == nil {
		o.allCommitted()
	}
	return err
}

// announceRemovals tells those who wait for removals that they are durable.
func announceRemovals(delivered []DeliveredUpTo) {
	for _, upTo := range delivered {
		if upTo.durable != nil {
			upTo.durable()
		}
	}
}

// committed passes on events that are durable now.
func (o *Outbox) committed(events []Event) {
	for i := range events {
		if durable := events[i].Durable; durable != nil {
			durable()
		}
		events[i].Mark = Mark{}
	}
	o.delivery.committed(events)
}

// writeAll commits until nothing is left in memory.
func (o *Outbox) writeAll() error {
	for {
		if err := o.writeGroup(); err != nil || o.allWritten() {
			return err
		}
	}
}

func (o *Outbox) allWritten() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.appended) == 0 && len(o.changes) == 0 && !o.delivery.hasDelivered()
}

// takeAppended takes over the first transitions in memory: at most limit events, or one transition.
func (o *Outbox) takeAppended(limit int) []Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	if limit <= 0 || o.whole == 0 {
		if o.whole > 0 {
			poke(o.wake)
		}
		return nil
	}
	n := min(limit, o.whole)
	for n > 0 && o.appended[n-1].more {
		n--
	}
	for n == 0 || o.appended[n-1].more {
		n++
	}
	taken := o.appended[:n:n]
	if o.writing.IsZero() {
		o.writing = taken[0].At
	}
	o.whole -= n
	if o.appended = o.appended[n:]; len(o.appended) == 0 {
		o.appended = nil
	}
	if o.whole > 0 {
		poke(o.wake)
	}
	return taken
}

func (o *Outbox) setCommitting(began time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.commitAt = began
}

func (o *Outbox) allCommitted() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writing = time.Time{}
}

// report logs when events cannot be kept any more and when they can again.
func (o *Outbox) report(err error) {
	trouble := o.store.Trouble()
	before := o.setBroken(err, trouble)
	switch after := cmp.Or(err, trouble); {
	case after == nil && before == "":
	case after == nil:
		o.log.Info("events can be kept again, publishers are let in again")
	case after.Error() == before:
	case errors.Is(after, errDamaged):
		o.log.Error("the outbox is damaged: publishers are denied, and the events of live streams are kept in memory until a restart, which sets the file aside",
			"error", after)
	case err == nil:
		o.log.Error("there is hardly any room on the disk for events: publishers are denied", "error", after)
	default:
		o.log.Error("events cannot be kept on disk or in the database: they stay in memory, and no publisher is let in", "error", after)
	}
}

// setBroken notes how the last commit went, and returns what was reported last.
func (o *Outbox) setBroken(err, trouble error) (reported string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	reported, o.reported = o.reported, ""
	if now := cmp.Or(err, trouble); now != nil {
		o.reported = now.Error()
	}
	o.broken = err
	return reported
}

func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
