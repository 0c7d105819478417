package outbox

// What an operator can see of undelivered events, and do about them: try them now, or give one up. They are read from the store page by
// page; what each of them waits for, the delivery knows.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	pageAtOnce = 1000   // events that one step reads for a page
	scanAtOnce = 10_000 // events that one step looks through for those of a channel, or for a single one
)

// Errors of Discard.
var (
	ErrUnknownEvent = errors.New("no undelivered event has this ID")
	ErrNotFirst     = errors.New("other undelivered events of its publication come before it: discard those first")
	ErrInFlight     = errors.New("the event is being sent right now: ask again")
	ErrNotDurable   = errors.New("the discard could not be written yet: the event is given up once it can be")
)

// Standing is what an undelivered event waits for.
type Standing int

const (
	Queued  Standing = iota // for the events before it
	Due                     // for its turn
	Sending                 // for the application's answer
	Waiting                 // for the time of its next try
)

// Undelivered is an event that the application has not taken, and what it waits for.
type Undelivered struct {
	Event
	Standing   Standing
	Tries      int       // that have failed, since the outbox was opened
	LastAnswer string    // how the last of them ended; "" if there was none
	NextTry    time.Time // of one that is Waiting
}

// List returns a page of undelivered events from a place on: at most limit, and only those of a channel unless it is "". If there are
// more, they begin at next. Events that are not durable yet are left out.
func (o *Outbox) List(ctx context.Context, from Place, channel string, limit int) (page []Undelivered, next Place, more bool, err error) {
	look := pageAtOnce
	if channel != "" {
		look = scanAtOnce
	}
	err = o.each(ctx, from, channel, look, func(list []Undelivered) bool {
		for i := range list {
			switch {
			case channel != "" && list[i].Channel != channel:
			case len(page) == limit:
				next, more = list[i].place(), true
				return false
			default:
				page = append(page, list[i])
			}
		}
		return true
	})
	return page, next, more, err
}

// each calls f with undelivered events in the order of their places until it returns false: with all whose record holds text, and
// perhaps with others.
func (o *Outbox) each(ctx context.Context, from Place, text string, look int, f func([]Undelivered) bool) error {
	if o == nil {
		return nil
	}
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var events []Event
		var err error
		if events, from, more, err = o.store.Scan(from, text, look); err != nil {
			return fmt.Errorf("read undelivered events: %w", err)
		}
		if !f(o.delivery.standing(events)) {
			return nil
		}
	}
	return nil
}

// TryNow ends the wait of events of a channel for their next try, or of all if channel is "". While the application takes nothing they
// are tried one every 10 ms, as ever.
func (o *Outbox) TryNow(ctx context.Context, channel string) error {
	if o == nil {
		return nil
	}
	if channel == "" {
		o.delivery.tryAllNow()
		return nil
	}
	return o.each(ctx, Place{}, channel, scanAtOnce, func(list []Undelivered) bool {
		for i := range list {
			if list[i].Standing == Waiting && list[i].Channel == channel {
				o.delivery.tryNow(list[i].Queue)
			}
		}
		return true
	})
}

// Discard gives up the event with this ID, which has to be the first of its queue and not on its way to the application. It returns nil
// once that is durable; discarded is called then, too, by a goroutine that must not be held up. After ErrNotDurable, which comes when
// ctx ends, it is still called if it becomes durable.
func (o *Outbox) Discard(ctx context.Context, id string, discarded func(Undelivered)) error {
	ev, err := o.find(ctx, id)
	if err != nil {
		return err
	}
	durable := make(chan struct{})
	err = o.delivery.discard(ev.place(), func() {
		discarded(ev)
		close(durable)
	})
	if err != nil {
		return err
	}
	o.eventDelivered() // nobody waits for it any more
	select {
	case <-durable:
		return nil
	case <-ctx.Done():
		return ErrNotDurable
	}
}

// find looks for an event by its ID, which begins with that of its stream.
func (o *Outbox) find(ctx context.Context, id string) (found Undelivered, err error) {
	stream := id[:max(0, strings.LastIndexByte(id, '-'))]
	if stream == "" {
		return found, ErrUnknownEvent
	}
	isThere := false
	err = o.each(ctx, Place{}, stream, scanAtOnce, func(list []Undelivered) bool {
		for i := range list {
			if list[i].ID() == id {
				found, isThere = list[i], true
				return false
			}
		}
		return true
	})
	if err == nil && !isThere {
		err = ErrUnknownEvent
	}
	return found, err
}

// standing says of events of the store what they wait for, and leaves out those that are delivered.
func (d *delivery) standing(events []Event) []Undelivered {
	d.mu.Lock()
	defer d.mu.Unlock()
	wall := d.now()
	now := d.clock.at(wall)
	list := make([]Undelivered, 0, len(events))
	for _, ev := range events {
		q := d.queues[ev.Queue]
		if q == nil || ev.Position < q.head {
			continue
		}
		u := Undelivered{Event: ev}
		if ev.Position == q.head && !q.held {
			u.Standing, u.Tries, u.LastAnswer = Due, int(q.failed), q.last.String()
			if q.flying {
				u.Standing = Sending
			} else if q.index[byDue] != notInHeap && q.key[byDue] > now {
				u.Standing, u.NextTry = Waiting, wall.Add(q.key[byDue]-now)
			}
		}
		list = append(list, u)
	}
	return list
}

// tryNow ends the wait of the event at a queue's head.
func (d *delivery) tryNow(number uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if q := d.queues[number]; q != nil && q.index[byDue] != notInHeap {
		d.waiting.remove(q)
		d.due.push(q)
		d.launchLocked(d.clock.at(d.now()))
	}
}

func (d *delivery) tryAllNow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.waiting.list {
		q.index[byDue] = notInHeap
		d.due.push(q)
	}
	d.waiting.list = nil
	d.launchLocked(d.clock.at(d.now()))
}

// discard passes over the event at a place, which the writer then removes. Nothing of its queue is sent until that is durable: else the
// next event could be taken, and after a crash the discarded one would come behind it.
func (d *delivery) discard(at Place, durable func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queues[at.Queue]
	switch {
	case q == nil || at.Position < q.head:
		return ErrUnknownEvent // it was delivered
	case at.Position > q.head || q.held:
		return ErrNotFirst
	case q.flying:
		return ErrInFlight
	}
	d.waiting.remove(q)
	d.fresh.remove(q)
	d.due.remove(q)
	if q.cached != nil {
		q.cached = nil
		d.cached--
	}
	delete(d.health.streams, q.number)
	d.passHeadLocked(q)
	q.held = true
	d.discarding[q.number] = func() {
		d.letGo(q)
		durable()
	}
	return nil
}

// letGo has a queue go on after a discard.
func (d *delivery) letGo(q *queue) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q.held = false
	if q.head < q.end {
		d.fresh.push(q)
		d.launchLocked(d.clock.at(d.now()))
	}
}
