package outbox

// What delivery keeps in memory of the events of one publication while there are any to deliver, and the two ways it lists
// queues: in order of arrival and by a key. A queue costs about 100 bytes however many events wait in it: they stay on disk.

import (
	"container/heap"
	"math"
	"time"
)

// queue is a run of events that are delivered strictly in order. Events at positions head <= p < end are committed and
// undelivered; the one at head is the only one that is ever in flight.
type queue struct {
	// set once
	number uint64

	// guarded by delivery.mu
	given     uint32 // takeDelivered has told the writer that all before this position is delivered
	head, end uint32
	failed    int32  // tries of the event at head that failed
	flying    bool   // a try of the event at head is in flight
	held      bool   // the event before head was discarded, and that is not durable yet: nothing of the queue is sent
	last      answer // to the event at head
	unseen    bool   // the event at head: when it happened is not known until it is read; till then its byAge is that of the one before
	cached    *Event // the event at head, if it need not be read from disk
	next      *queue // in the queueList that it stands in
	key       [2]time.Duration
	index     [2]int32
}

// The keys of a queue, by delivery's clock, and its indexes in the heaps ordered by them (notInHeap: not in that heap).
const (
	byDue = iota // when to try again
	byAge        // when the event at head happened

	notInHeap = -1
)

// newQueue returns a queue with no events, of which the next has the position given.
func newQueue(number uint64, position uint32) *queue {
	return &queue{number: number, given: position, head: position, end: position, index: [2]int32{notInHeap, notInHeap}}
}

// queueList is first in, first out. A queue stands in at most one.
type queueList struct{ first, last *queue }

func (l *queueList) push(q *queue) {
	if l.last == nil {
		l.first = q
	} else {
		l.last.next = q
	}
	l.last = q
}

// pop takes the first queue; nil when there is none.
func (l *queueList) pop() *queue {
	q := l.first
	if q == nil {
		return nil
	}
	l.first, q.next = q.next, nil
	if l.first == nil {
		l.last = nil
	}
	return q
}

// remove takes a queue out, wherever it stands; it need not be there.
func (l *queueList) remove(q *queue) {
	var before *queue
	for at := l.first; at != nil; before, at = at, at.next {
		if at != q {
			continue
		}
		if before == nil {
			l.first = q.next
		} else {
			before.next = q.next
		}
		if l.last == q {
			l.last = before
		}
		q.next = nil
		return
	}
}

func (l *queueList) empty() bool { return l.first == nil }

// queueHeap has the queue with the smallest key first.
type queueHeap struct {
	which int
	list  []*queue
}

// set puts a queue in, or moves it, under the given key.
func (h *queueHeap) set(q *queue, key time.Duration) {
	q.key[h.which] = key
	if i := q.index[h.which]; i != notInHeap {
		heap.Fix(h, int(i))
	} else {
		heap.Push(h, q)
	}
}

func (h *queueHeap) remove(q *queue) {
	if i := q.index[h.which]; i != notInHeap {
		heap.Remove(h, int(i))
	}
}

// smallest is the first key, or the largest there is when the heap is empty.
func (h *queueHeap) smallest() time.Duration {
	if len(h.list) == 0 {
		return math.MaxInt64
	}
	return h.list[0].key[h.which]
}

func (h *queueHeap) Len() int           { return len(h.list) }
func (h *queueHeap) Less(i, j int) bool { return h.list[i].key[h.which] < h.list[j].key[h.which] }

func (h *queueHeap) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].index[h.which], h.list[j].index[h.which] = int32(i), int32(j)
}

func (h *queueHeap) Push(q any) {
	q.(*queue).index[h.which] = int32(len(h.list))
	h.list = append(h.list, q.(*queue))
}

func (h *queueHeap) Pop() any {
	last := len(h.list) - 1
	q := h.list[last]
	h.list[last], h.list = nil, h.list[:last]
	q.index[h.which] = notInHeap
	return q
}
