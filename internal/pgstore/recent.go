package pgstore

// What was committed lately is kept for a while. A database that fails over to another server may have lost it: it is committed again
// when the connection is a new one, and what is there already stays as it is.

import (
	"slices"
	"sync"
	"time"

	"coordinator/internal/outbox"
)

const (
	keepCommitted = 10 * time.Second // counted back from the last commit, so that time in which the database is away does not count
	maxCommitted  = 16 << 10         // events and changes of those kept
)

type recent struct {
	mu     sync.Mutex
	groups []committedGroup // guarded by mu
	size   int              // guarded by mu
}

type committedGroup struct {
	at time.Time
	outbox.Group
}

func sizeOf(g outbox.Group) int { return len(g.Appended) + len(g.Delivered) + len(g.Changes) }

func (r *recent) add(g outbox.Group, now time.Time) {
	g.Appended = slices.Clone(g.Appended) // the outbox goes on using it
	for i := range g.Appended {
		g.Appended[i].Durable = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups = append(r.groups, committedGroup{now, g})
	r.size += sizeOf(g)
	n := 0
	for ; n < len(r.groups) && (r.size > maxCommitted || now.Sub(r.groups[n].at) > keepCommitted); n++ {
		r.size -= sizeOf(r.groups[n].Group)
		r.groups[n] = committedGroup{}
	}
	r.groups = r.groups[n:]
}

// before returns all that is kept, and g behind it.
func (r *recent) before(g outbox.Group) (all outbox.Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, past := range append(slices.Clip(r.groups), committedGroup{Group: g}) {
		all.Appended = append(all.Appended, past.Appended...)
		all.Delivered = append(all.Delivered, past.Delivered...)
		all.Changes = append(all.Changes, past.Changes...)
	}
	return all
}

// event finds one that is kept, and was not delivered.
func (r *recent) event(at place) (outbox.Event, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	isDelivered := func(upTo outbox.DeliveredUpTo) bool { return upTo.Queue == at.queue && upTo.Head > at.position }
	for _, g := range slices.Backward(r.groups) {
		if slices.ContainsFunc(g.Delivered, isDelivered) {
			return outbox.Event{}, false
		}
		for _, ev := range g.Appended {
			if ev.Queue == at.queue && ev.Position == at.position {
				return ev, true
			}
		}
	}
	return outbox.Event{}, false
}
