// The sending side of callbacks: which event goes next, how many at once, and when a failed one is tried again.
//
// One event of a queue is in flight at a time, and queues never wait for each other: a failed one steps aside until its
// time comes. At most maxInFlight requests run, retries take at most half of them, so that streams whose events hang leave
// room for others. While the application takes nothing at all, tries are paced, so that its outage costs next to nothing
// however many events wait.
package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

const (
	maxInFlight   = 256
	maxRetrying   = maxInFlight / 2
	eventsPerTurn = 16
	pacedEvery    = 10 * time.Millisecond // between tries while the application fails
	maxCached     = 1024                  // events kept in memory although committed, to be sent without reading them back
)

type postFunc func(ctx context.Context, header http.Header) (status int, reply http.Header, err error)

type delivery struct {
	// set once
	post      postFunc
	read      func(queue uint64, position uint32) (event, error)
	log       *slog.Logger
	delivered func()                                  // called after each event that was taken
	observe   func(result string, took time.Duration) // may be nil
	kick      chan struct{}                           // run has to look at its timer

	workers *crew

	mu sync.Mutex
	// guarded by mu
	ctx            context.Context   // nil before run
	queues         map[uint64]*queue // those with events that are undelivered, or delivered and unknown to the writer
	fresh          queueList         // their event at head was not tried yet
	due            queueList         // it was, and may be tried again now
	waiting        queueHeap         // it was, and has to wait
	aged           queueHeap         // all queues with undelivered events
	changed        []*queue          // their head has moved on from what the writer knows
	cached         int
	inFlight       int
	retrying       int // of those in flight
	freshTurn      bool
	paceUntil      int64 // Unix nanoseconds; matters while the application fails
	health         health
	readReportedAt time.Time
}

func newDelivery(post postFunc, read func(uint64, uint32) (event, error), log *slog.Logger) *delivery {
	return &delivery{
		post: post, read: read, log: log, kick: make(chan struct{}, 1), workers: newCrew(), queues: map[uint64]*queue{},
		waiting: queueHeap{which: byDue}, aged: queueHeap{which: byAge},
	}
}

// resume takes up a queue from the store, before run.
func (d *delivery) resume(number uint64, record queueRecord) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if record.head == record.tail {
		return
	}
	q := newQueue(number, record.head)
	q.end = record.tail
	d.queues[number] = q
	d.aged.set(q, record.headAt.UnixNano())
	d.fresh.push(q)
}

// committed takes over events that are durable now.
func (d *delivery) committed(events []event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range events {
		ev := &events[i]
		q := d.queues[ev.queue]
		if q == nil {
			q = newQueue(ev.queue, ev.position)
			d.queues[ev.queue] = q
		}
		q.end = ev.position + 1
		if q.end-q.head > 1 {
			continue
		}
		d.aged.set(q, ev.at.UnixNano())
		d.fresh.push(q)
		if d.cached < maxCached {
			d.cached++
			kept := *ev
			q.cached = &kept
		}
	}
	d.launchLocked(time.Now().UnixNano())
}

// takeDelivered gives marks for queues whose head has moved since they were last given, for at most limit events in all.
// more says that there are others.
func (d *delivery) takeDelivered(limit int) (marks []deliveredMark, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for limit > 0 && len(d.changed) > 0 {
		q := d.changed[len(d.changed)-1]
		n := min(q.head-q.marked, uint32(limit))
		q.marked += n
		limit -= int(n)
		marks = append(marks, deliveredMark{queue: q.number, head: q.marked})
		if q.marked == q.head {
			d.changed = d.changed[:len(d.changed)-1]
			if q.head == q.end {
				delete(d.queues, q.number)
			}
		}
	}
	return marks, len(d.changed) > 0
}

// unmarked says that takeDelivered has something to give.
func (d *delivery) unmarked() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.changed) > 0
}

// oldest is when the oldest undelivered event happened, as far as events were looked at; zero when there is none.
func (d *delivery) oldest() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at := d.aged.smallest(); at != math.MaxInt64 {
		return time.Unix(0, at)
	}
	return time.Time{}
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
	d.mu.Lock()
	d.ctx = nil // nobody starts one any more
	d.mu.Unlock()
	d.workers.wait()
}

// launchDue starts what may be sent now and returns how long to wait until there may be more.
func (d *delivery) launchDue(ctx context.Context) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = ctx
	now := time.Now().UnixNano()
	for d.waiting.smallest() <= now {
		q := d.waiting.list[0]
		d.waiting.remove(q)
		d.due.push(q)
	}
	d.launchLocked(now)
	next := d.waiting.smallest()
	if d.readyLocked() {
		next = min(next, d.paceUntil)
	}
	if next == math.MaxInt64 {
		return time.Hour
	}
	return time.Duration(next - now)
}

func (d *delivery) launchLocked(now int64) {
	for {
		t, ok := d.nextLocked(now)
		if !ok {
			return
		}
		ctx := d.ctx
		d.workers.run(func() { d.work(ctx, t) })
	}
}

// try is one sending of the event at a queue's head.
type try struct {
	queue    *queue
	position uint32
	cached   *event
	attempt  int // 1 for the first
	turn     int // events of this queue tried one after the other before this one
}

// nextLocked takes the next queue whose event may be sent, if there is one and a slot is free.
func (d *delivery) nextLocked(now int64) (try, bool) {
	if !d.readyLocked() {
		return try{}, false
	}
	if d.health.failing() {
		if now < d.paceUntil {
			return try{}, false
		}
		d.paceUntil = now + int64(pacedEvery)
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
	t := try{queue: q, position: q.head, cached: q.cached, attempt: int(q.attempt) + 1}
	if q.cached != nil {
		q.cached = nil
		d.cached--
	}
	return t, true
}

// readyLocked says that there is an event to send and a slot for it.
func (d *delivery) readyLocked() bool {
	return d.runningLocked() && d.inFlight < maxInFlight && (!d.fresh.empty() || d.retryReadyLocked())
}

func (d *delivery) runningLocked() bool { return d.ctx != nil && d.ctx.Err() == nil }

func (d *delivery) retryReadyLocked() bool { return !d.due.empty() && d.retrying < maxRetrying }

// work sends one event after the other as long as there are any ready.
func (d *delivery) work(ctx context.Context, t try) {
	for more := true; more; {
		t, more = d.send(ctx, t)
	}
}

// send tries one event and returns the next one to try.
func (d *delivery) send(ctx context.Context, t try) (try, bool) {
	ev, err := d.eventOf(t)
	if err != nil {
		return d.readFailed(t, err)
	}
	began := time.Now()
	status, reply, err := d.post(ctx, eventHeader(ev))
	if err != nil && ctx.Err() != nil {
		return try{}, false // stopping: not the application's fault
	}
	now := time.Now()
	delivered, wait := outcome(status, reply, err, t.attempt, now, rand.Float64())
	next, more, news := d.finish(t, ev.at, delivered, wait, now)
	if delivered {
		d.delivered()
	}
	if d.observe != nil {
		d.observe(resultName(delivered, err), now.Sub(began))
	}
	d.report(news, ev, status, err)
	return next, more
}

func (d *delivery) eventOf(t try) (event, error) {
	if t.cached != nil {
		return *t.cached, nil
	}
	return d.read(t.queue.number, t.position)
}

// finish notes how a try ended and takes the next one.
func (d *delivery) finish(t try, at time.Time, delivered bool, wait time.Duration, now time.Time) (try, bool, healthNews) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := t.queue
	var news healthNews
	d.aged.set(q, at.UnixNano())
	if delivered {
		news = d.health.succeeded(q.number)
		d.passHeadLocked(q)
	} else {
		news = d.health.failed(q.number, t.attempt, now)
		d.waitLocked(q, now.Add(wait))
	}
	next, more := d.releaseLocked(t, delivered, now)
	return next, more, news
}

// readFailed is finish for an event that could not be read. One that never can be is passed over, or it would hold up
// those behind it for ever.
func (d *delivery) readFailed(t try, err error) (try, bool) {
	lost := errors.Is(err, errUnreadable)
	_, wait := outcome(0, nil, err, t.attempt, time.Time{}, rand.Float64())
	next, more, first := d.finishUnread(t, lost, wait, time.Now())
	switch {
	case lost:
		d.log.Error("an undelivered event is damaged and passed over", "queue", t.queue.number, "position", t.position, "err", err)
		d.delivered()
	case first:
		d.log.Error("undelivered events cannot be read from disk, trying on", "err", err)
	}
	return next, more
}

func (d *delivery) finishUnread(t try, lost bool, wait time.Duration, now time.Time) (next try, more, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if lost {
		d.passHeadLocked(t.queue)
	} else {
		if first = now.Sub(d.readReportedAt) >= reportEvery; first {
			d.readReportedAt = now
		}
		d.waitLocked(t.queue, now.Add(wait))
	}
	next, more = d.releaseLocked(t, lost, now)
	return next, more, first
}

// passHeadLocked steps over the event at head, which the writer then removes.
func (d *delivery) passHeadLocked(q *queue) {
	if q.marked == q.head {
		d.changed = append(d.changed, q)
	}
	q.head++
	q.attempt = 0
	if q.head == q.end {
		d.aged.remove(q)
	}
}

func (d *delivery) waitLocked(q *queue, until time.Time) {
	q.attempt++
	d.waiting.set(q, until.UnixNano())
	if d.waiting.list[0] == q {
		poke(d.kick)
	}
}

// releaseLocked gives the slot of a try back and takes the next one, for this worker and for as many as there is room.
// A queue whose event has passed goes on for some events, which lie together on disk, before it is the turn of others.
func (d *delivery) releaseLocked(t try, passed bool, now time.Time) (try, bool) {
	d.inFlight--
	if t.attempt > 1 {
		d.retrying--
	}
	q := t.queue
	if passed && q.head < q.end {
		if t.turn < eventsPerTurn && d.runningLocked() {
			d.inFlight++
			d.launchLocked(now.UnixNano())
			return try{queue: q, position: q.head, attempt: 1, turn: t.turn + 1}, true
		}
		d.fresh.push(q)
	}
	next, more := d.nextLocked(now.UnixNano())
	d.launchLocked(now.UnixNano())
	if d.health.failing() {
		poke(d.kick) // run paces from here
	}
	return next, more
}

func (d *delivery) report(news healthNews, ev event, status int, err error) {
	log := d.log
	if err != nil {
		log = log.With("err", err)
	} else if news == applicationFails || news == streamFails {
		log = log.With("status", status)
	}
	switch news {
	case applicationFails:
		log.Error("the application takes no events, they are kept and sent again")
	case applicationWorks:
		log.Info("the application takes events again")
	case streamFails:
		log.Warn("an event was not taken, it is sent again", "channel", ev.channel, "stream", ev.streamID)
	case streamWorks:
		log.Info("the events of a stream are taken again", "channel", ev.channel, "stream", ev.streamID)
	}
}
