package outbox

// The sending side: which event goes next, how many at once, and when a failed one is tried again.
//
// One event of a queue is in flight at a time, and queues never wait for each other: a failed one steps aside until its
// time comes. At most MaxInFlight requests run, retries take at most half of them, so that streams whose events hang leave
// room for others. While the application accepts nothing at all, tries are paced, so that its outage costs next to nothing
// however many events wait.
//
// All deadlines are durations on the monotonic clock (eventClock): setting the wall clock delays no try. Whatever makes an
// event ready either starts it or wakes run, which sleeps until the next one is due.

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	MaxInFlight = 256
	maxRetrying = MaxInFlight / 2
	maxStreak   = 16                    // events of a queue in a row, before it is the turn of others
	pacedEvery  = 10 * time.Millisecond // between tries while the application fails
	maxCached   = 1024                  // events kept in memory although committed, to be sent without reading them back
)

type delivery struct {
	// set once
	send      Send
	read      func(queue uint64, position uint32) (Event, error)
	log       *slog.Logger
	delivered func() // called after each event that was taken
	observe   Observe
	kick      chan struct{}    // run has to look at its timer
	now       func() time.Time // time.Now but in tests, which set the wall clock

	workers sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	ctx            context.Context // nil before run
	clock          eventClock
	queues         map[uint64]*queue // those with events that are undelivered, or delivered and unknown to the writer
	fresh          queueList         // their event at head was not tried yet
	due            queueList         // it was, and may be tried again now
	waiting        queueHeap         // it was, and has to wait
	aged           queueHeap         // all queues with undelivered events
	changed        []*queue          // their head has moved on from what the writer knows
	discarding     map[uint64]func() // by queue: to be called when its discard, which the writer does not know yet, is durable
	cached         int
	inFlight       int
	retrying       int // of those in flight
	freshTurn      bool
	paceUntil      time.Duration // by clock; matters while the application fails
	health         health
	readReportedAt time.Time
}

func newDelivery(send Send, observe Observe, delivered func(), read func(uint64, uint32) (Event, error), now func() time.Time, log *slog.Logger) *delivery {
	return &delivery{
		send: send, observe: observe, delivered: delivered, read: read, log: log, kick: make(chan struct{}, 1), now: now,
		clock: newEventClock(now()), queues: map[uint64]*queue{}, discarding: map[uint64]func(){},
		waiting: queueHeap{which: byDue}, aged: queueHeap{which: byAge},
	}
}

// resume takes up a queue from the store, before run.
func (d *delivery) resume(number uint64, record QueueRecord) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if record.Head == record.Tail {
		return
	}
	q := newQueue(number, record.Head)
	q.end = record.Tail
	d.queues[number] = q
	d.aged.set(q, d.clock.happened(record.HeadAt, longAgo, d.clock.at(d.now())))
	d.fresh.push(q)
}

// committed takes over events that are durable now.
func (d *delivery) committed(events []Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range events {
		ev := &events[i]
		d.clock.observe(ev.At)
		q := d.queues[ev.Queue]
		if q == nil {
			q = newQueue(ev.Queue, ev.Position)
			d.queues[ev.Queue] = q
		}
		q.end = ev.Position + 1
		if q.end-q.head > 1 {
			continue
		}
		d.aged.set(q, d.clock.at(ev.At))
		if q.held {
			continue
		}
		d.fresh.push(q)
		if d.cached < maxCached {
			d.cached++
			kept := *ev
			q.cached = &kept
		}
	}
	d.launchLocked(d.clock.at(d.now()))
}

// takeDelivered gives how far queues are delivered, for those that have got further since it was last called: at most limit
// events in all. more says that there are others.
func (d *delivery) takeDelivered(limit int) (delivered []DeliveredUpTo, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for limit > 0 && len(d.changed) > 0 {
		q := d.changed[len(d.changed)-1]
		n := min(q.head-q.given, uint32(limit))
		q.given += n
		limit -= int(n)
		upTo := DeliveredUpTo{Queue: q.number, Head: q.given}
		if q.given == q.head {
			if q.held {
				upTo.durable = d.discarding[q.number]
				delete(d.discarding, q.number)
			}
			d.changed = d.changed[:len(d.changed)-1]
			if q.head == q.end {
				delete(d.queues, q.number)
			}
		}
		delivered = append(delivered, upTo)
	}
	return delivered, len(d.changed) > 0
}

// hasDelivered says that takeDelivered has something to give.
func (d *delivery) hasDelivered() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.changed) > 0
}

// oldest is the age of the oldest undelivered event, as far as events were looked at; 0 when there is none.
func (d *delivery) oldest() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at := d.aged.smallest(); at != math.MaxInt64 {
		return d.clock.at(d.now()) - at
	}
	return 0
}

// run starts workers until ctx ends, and returns when all have ended.
func (d *delivery) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer d.stopWorkers()
	for {
		timer.Reset(d.launchDue(ctx))
		select {
		case <-timer.C:
		case <-d.kick:
		case <-ctx.Done():
			return
		}
	}
}

func (d *delivery) stopWorkers() {
	d.startNoMore()
	d.workers.Wait()
}

func (d *delivery) startNoMore() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = nil
}

// launchDue starts what may be sent now and returns how long to wait until there may be more.
func (d *delivery) launchDue(ctx context.Context) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = ctx
	now := d.clock.at(d.now())
	for d.waiting.smallest() <= now {
		q := d.waiting.list[0]
		d.waiting.remove(q)
		d.due.push(q)
	}
	d.startLocked(now)
	next := d.waiting.smallest()
	if d.readyLocked() {
		next = min(next, d.paceUntil)
	}
	if next == math.MaxInt64 {
		return time.Hour
	}
	return next - now
}

// launchLocked starts what may be sent now. What is ready but has to keep the pace is left to run, which sleeps until it
// is told.
func (d *delivery) launchLocked(now time.Duration) {
	d.startLocked(now)
	if d.readyLocked() {
		poke(d.kick)
	}
}

func (d *delivery) startLocked(now time.Duration) {
	for {
		t, ok := d.nextLocked(now)
		if !ok {
			return
		}
		ctx := d.ctx
		d.workers.Go(func() { d.work(ctx, t) })
	}
}

// try is one sending of the event at a queue's head.
type try struct {
	queue    *queue
	position uint32
	cached   *Event
	attempt  int // 1 for the first
	streak   int // events of this queue tried one after the other before this one
}

// nextLocked takes the next queue whose event may be sent, if there is one and room for another request.
func (d *delivery) nextLocked(now time.Duration) (try, bool) {
	if !d.readyLocked() {
		return try{}, false
	}
	if d.health.failing() {
		if now < d.paceUntil {
			return try{}, false
		}
		d.paceUntil = now + pacedEvery
	}
	d.freshTurn = !d.freshTurn
	var q *queue
	if d.fresh.empty() || d.retryReadyLocked() && !d.freshTurn {
		q = d.due.pop()
		d.retrying++
	} else {
		q = d.fresh.pop()
	}
	d.inFlight++
	q.flying = true
	t := try{queue: q, position: q.head, cached: q.cached, attempt: int(q.failed) + 1}
	if q.cached != nil {
		q.cached = nil
		d.cached--
	}
	return t, true
}

// readyLocked says that there is an event to send and room for its request.
func (d *delivery) readyLocked() bool {
	return d.runningLocked() && d.inFlight < MaxInFlight && (!d.fresh.empty() || d.retryReadyLocked())
}

func (d *delivery) runningLocked() bool { return d.ctx != nil && d.ctx.Err() == nil }

func (d *delivery) retryReadyLocked() bool { return !d.due.empty() && d.retrying < maxRetrying }

// work sends one event after the other as long as there are any ready.
func (d *delivery) work(ctx context.Context, t try) {
	for more := true; more; {
		t, more = d.attempt(ctx, t)
	}
}

// attempt sends one event and returns the next one to try.
func (d *delivery) attempt(ctx context.Context, t try) (try, bool) {
	ev, err := d.eventOf(t)
	if err != nil {
		return d.readFailed(t, err)
	}
	began := d.now()
	status, reply, err := d.send(ctx, ev)
	if err != nil && ctx.Err() != nil {
		return try{}, false // stopping: not the application's fault
	}
	now := d.now()
	delivered, wait := outcome(status, reply, err, t.attempt, now, rand.Float64())
	next, more, news := d.endTry(t, ev.At, delivered, answerOf(status, err), wait, now)
	if delivered {
		d.delivered()
	}
	d.observe(Attempt{Event: ev, Number: t.attempt, Status: status, Err: err, Took: now.Sub(began)})
	d.report(news, ev, status, err)
	return next, more
}

func (d *delivery) eventOf(t try) (Event, error) {
	if t.cached != nil {
		return *t.cached, nil
	}
	return d.read(t.queue.number, t.position)
}

// endTry notes how a try ended and takes the next one.
func (d *delivery) endTry(t try, at time.Time, delivered bool, got answer, wait time.Duration, now time.Time) (try, bool, healthNews) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q, by := t.queue, d.clock.at(now)
	var news healthNews
	if q.unseen {
		q.unseen = false
		d.aged.set(q, d.clock.happened(at, q.key[byAge], by))
	}
	if delivered {
		news = d.health.succeeded(q.number, now)
		d.passHeadLocked(q)
	} else {
		news = d.health.failed(q.number, t.attempt, now)
		d.waitLocked(q, got, by+wait)
	}
	next, more := d.releaseLocked(t, delivered, by)
	return next, more, news
}

// readFailed is endTry for an event that could not be read. One that never can be is passed over, or it would hold up
// those behind it for ever.
func (d *delivery) readFailed(t try, err error) (try, bool) {
	lost := errors.Is(err, ErrUnreadable)
	_, wait := outcome(0, nil, err, t.attempt, time.Time{}, rand.Float64())
	next, more, first := d.endUnreadTry(t, lost, wait, d.now())
	switch {
	case lost:
		d.log.Error("an event is lost: the outbox does not have it any more, or can't read it, and the application will never hear of it", "publication", t.queue.number, "position", t.position, "error", err)
		d.delivered()
	case first:
		d.log.Error("cannot read undelivered events, will retry", "error", err)
	}
	return next, more
}

func (d *delivery) endUnreadTry(t try, lost bool, wait time.Duration, now time.Time) (next try, more, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if lost {
		d.passHeadLocked(t.queue)
	} else {
		if first = now.Sub(d.readReportedAt) >= reportEvery; first {
			d.readReportedAt = now
		}
		d.waitLocked(t.queue, answer{failure: failureUnread}, d.clock.at(now)+wait)
	}
	next, more = d.releaseLocked(t, lost, d.clock.at(now))
	return next, more, first
}

// passHeadLocked steps over the event at head, which the writer then removes.
func (d *delivery) passHeadLocked(q *queue) {
	if q.given == q.head {
		d.changed = append(d.changed, q)
	}
	q.head++
	q.failed, q.last = 0, answer{}
	if q.unseen = q.head < q.end; !q.unseen {
		d.aged.remove(q)
	}
}

func (d *delivery) waitLocked(q *queue, got answer, until time.Duration) {
	q.failed++
	q.last = got
	d.waiting.set(q, until)
	if d.waiting.list[0] == q {
		poke(d.kick)
	}
}

// releaseLocked frees the room of a try and takes the next one, for this worker and for as many as there is room.
// A queue whose event has passed goes on for some events, which lie together on disk, before it is the turn of others.
func (d *delivery) releaseLocked(t try, passed bool, now time.Duration) (try, bool) {
	d.inFlight--
	if t.attempt > 1 {
		d.retrying--
	}
	q := t.queue
	q.flying = false
	if passed && q.head < q.end {
		if t.streak < maxStreak && d.runningLocked() {
			d.inFlight++
			q.flying = true
			d.launchLocked(now)
			return try{queue: q, position: q.head, attempt: 1, streak: t.streak + 1}, true
		}
		d.fresh.push(q)
	}
	next, more := d.nextLocked(now)
	d.launchLocked(now)
	return next, more
}

func (d *delivery) report(news healthNews, ev Event, status int, err error) {
	log := d.log
	if err != nil {
		log = log.With("error", err)
	} else if news == applicationFails || news == streamFails {
		log = log.With("status", status)
	}
	switch news {
	case applicationFails:
		log.Error("application is not accepting events; keeping them and retrying")
	case applicationWorks:
		log.Info("application is accepting events again")
	case streamFails:
		log.Warn("application did not accept an event, will retry", "channel", ev.Channel, "stream", ev.StreamID)
	case streamWorks:
		log.Info("application accepts the events of a stream again", "channel", ev.Channel, "stream", ev.StreamID)
	}
}
