package main

// Events and announced streams on disk (bbolt), so that no crash loses them.
//
// Two buckets: "events" holds the undelivered events under (queue number, position), "queues" one record per queue with
// the range of positions in use and the queue's announced streams (a stream-available was recorded, its stream-closed
// was not), each with the sequence number of its last event. Queues are numbered as their publications begin, so new keys stay
// near the right edge of both trees. A record goes when nothing of its queue waits and no stream of it is announced.
//
// Positions come with the events: committing a group twice leaves the same as committing it once, which makes it safe
// to repeat a commit whose error came after the data had reached the disk.
//
// A file that turns out to be damaged is left alone from then on: what comes after is kept in memory, so that live streams
// go on, and no stream begins. The next start sets it aside.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The file's pages count as resident memory once they were touched through bbolt's mapping, and the system maps up to
// 16 for one touch. In a file above releaseAbove they are given back after so many events were read or written; the next
// touch finds them in the page cache. In a large file that is after releaseAfter, or they would
// be too many; one that is not may be resident as a whole.
const (
	releaseAbove      = 4 << 20
	releaseAfter      = 512
	largeFile         = 64 << 20
	releaseAfterSmall = 16_384 // in one that is not large
)

// maxGroup is how many events one commit adds at most, and how many it removes.
const maxGroup = 1024

// errUnreadable says that an event is not in the outbox or does not decode: reading it again will not help.
var errUnreadable = errors.New("unreadable event in the outbox")

// group is what the writer has to make durable.
type group struct {
	appended  []event
	delivered []deliveredMark
}

func (g group) empty() bool { return len(g.appended) == 0 && len(g.delivered) == 0 }

// deliveredMark says that the events of a queue before position head are delivered.
type deliveredMark struct {
	queue uint64
	head  uint32
}

type outbox struct {
	dir string // set once

	db      atomic.Pointer[bbolt.DB] // stored by the writer, under reading; nil: there was no room to make it
	touched atomic.Int64             // events read or written since the last release

	// owned by the writer
	announced    int // streams that are announced and not closed
	pages        int // of the file
	ballast      int // chunks
	compactAbove int
	crowded      bool // there was no room for streams to begin

	// reading is held by the one who reads: a fault can leave bbolt's locks behind, and others would wait there for ever.
	reading sync.Mutex
	stuck   bool // guarded by reading: that has happened

	mu sync.Mutex
	// guarded by mu
	why      error              // why no stream may begin
	damaged  bool               // the file must not be written to any more
	inMemory map[uint64][]event // since then, by queue
}

// openOutbox opens or creates the outbox in dir. A damaged file is set aside, which found tells of, and an empty one takes its
// place. Where the disk has no room for a new file it is made later. A second process on the same directory gets an
// error within outboxLockWait.
func openOutbox(dir string) (o *outbox, found *damage, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("create the directory of the outbox: %w", err)
	}
	o = &outbox{dir: dir}
	db, found, err := openFile(dir)
	switch {
	case isDiskFull(err):
		o.why = fmt.Errorf("%w: %w", errNoRoom, err)
	case err != nil:
		return nil, nil, fmt.Errorf("open the outbox in directory %s: %w", dir, err)
	default:
		o.db.Store(db)
	}
	return o, found, nil
}

// isDiskFull tells a disk, a quota or a limit that is used up from other faults.
func isDiskFull(err error) bool {
	return errors.Is(err, errNoRoom) || errors.Is(err, bolterrors.ErrMaxSizeReached) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// unlessFull tells what only a damaged file makes bbolt say, such as a value where a bucket was, from a disk that is full or
// fails. bbolt hides the system's error when it cannot make the file longer.
func unlessFull(err error) error {
	if err == nil || isDiskFull(err) || strings.Contains(err.Error(), "file resize error") || strings.Contains(err.Error(), "file sync error") {
		return err
	}
	return asDamage(err)
}

// trouble is why no stream may begin, nil if streams may. It may be called from anywhere.
func (o *outbox) trouble() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.why
}

// load calls each with every queue record, in the order of their numbers. It is called once, before the first commit.
func (o *outbox) load(each func(number uint64, record queueRecord)) error {
	db := o.db.Load()
	if db == nil {
		return nil
	}
	return guarded(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			defer o.release(tx)
			o.ballast = countChunks(tx)
			return tx.Bucket([]byte(queuesBucket)).ForEach(func(key, value []byte) error {
				record, err := decodeQueueRecord(value)
				if err != nil || len(key) != 8 {
					return fmt.Errorf("%w: record of queue %x", errDamaged, key)
				}
				o.announced += len(record.announced)
				each(binary.BigEndian.Uint64(key), record)
				o.touch(tx, 1)
				return nil
			})
		})
	})
}

// commit makes a group durable and returns what it could not. What it could is kept as a whole: removals in a transaction
// of their own where there is no room for all at once, so that they make room, and of the events the first ones. An
// empty group looks after room alone. Only one goroutine may call it.
func (o *outbox) commit(g group) (left group, err error) {
	if o.isDamaged() {
		o.commitInMemory(g)
		return group{}, nil
	}
	left = g
	err = guarded(func() (err error) {
		left, err = o.commitToFile(g)
		return err
	})
	if err = unlessFull(err); errors.Is(err, errDamaged) {
		o.foundDamage(err)
		o.commitInMemory(left)
		return group{}, nil
	}
	o.setTrouble(err)
	if err != nil {
		err = fmt.Errorf("commit to the outbox: %w", err)
	}
	if isDiskFull(err) && len(left.appended) == 0 && len(left.delivered) == 0 {
		err = nil // it is room for more that is missing
	}
	return left, err
}

func (o *outbox) commitToFile(g group) (left group, err error) {
	db, err := o.file()
	if err != nil {
		return g, err
	}
	if n, _ := o.fit(db, g.appended); n == len(g.appended) {
		if err := o.write(db, g); err == nil {
			g = group{}
		} else if errors.Is(err, errDamaged) {
			return g, err
		}
	}
	if g.delivered, err = o.removeBySteps(db, g.delivered); err != nil {
		return g, err
	}
	for len(g.appended) > 0 {
		n, err := o.fit(db, g.appended)
		if n == 0 {
			return g, err
		}
		if err := o.write(db, group{appended: g.appended[:n]}); err != nil {
			return g, err
		}
		g.appended = g.appended[n:]
	}
	if err := o.compactIfWorth(db); errors.Is(err, errDamaged) {
		return g, err
	}
	return g, o.makeRoom(o.db.Load())
}

// file is the file to write to, which is made if there was no room for it before.
func (o *outbox) file() (*bbolt.DB, error) {
	if db := o.db.Load(); db != nil {
		return db, nil
	}
	db, _, err := openFile(o.dir)
	if err == nil {
		o.db.Store(db)
	}
	return db, err
}

// removeBySteps removes delivered events, in smaller parts where the disk has no room for all at once, and returns what is left.
func (o *outbox) removeBySteps(db *bbolt.DB, marks []deliveredMark) (left []deliveredMark, err error) {
	for most := maxGroup; len(marks) > 0; {
		part, rest := firstRemovals(marks, most)
		switch err := o.write(db, group{delivered: part}); {
		case err == nil:
			marks, most = rest, min(2*most, maxGroup)
		case errors.Is(err, errDamaged) || len(part) <= 1:
			return marks, err
		default:
			most = len(part) / 2
		}
	}
	return nil, nil
}

func firstRemovals(marks []deliveredMark, most int) (part, rest []deliveredMark) {
	n := min(most, len(marks))
	return marks[:n], marks[n:]
}

// write makes a group durable in one transaction, all of it or nothing. The caller guards it.
func (o *outbox) write(db *bbolt.DB, g group) error {
	if g.empty() {
		return nil
	}
	if err := checkFreeList(filepath.Join(o.dir, outboxFile), db.Info().PageSize); err != nil {
		return err
	}
	announced := o.announced
	err := db.Update(func(tx *bbolt.Tx) error {
		o.pages = int(tx.Size()) / db.Info().PageSize
		queues, events := tx.Bucket([]byte(queuesBucket)), tx.Bucket([]byte(eventsBucket))
		queues.FillPercent, events.FillPercent = 0.9, 0.9
		for i := range g.appended {
			o.touch(tx, 1)
			more, err := putEvent(queues, events, &g.appended[i])
			if err != nil {
				return err
			}
			announced += more
		}
		for _, mark := range g.delivered {
			removed, err := removeDelivered(queues, events, mark)
			if err != nil {
				return err
			}
			o.touch(tx, removed)
		}
		return nil
	})
	if err == nil {
		o.announced = announced
	}
	return err
}

// touch counts records read or written, and gives memory back when there were many.
func (o *outbox) touch(tx *bbolt.Tx, records int) {
	after := int64(releaseAfter)
	if tx.Size() < largeFile {
		after = releaseAfterSmall
	}
	if o.touched.Add(int64(records)) >= after {
		o.touched.Store(0)
		o.release(tx)
	}
}

// putEvent returns by how many the announced streams become more.
func putEvent(queues, events *bbolt.Bucket, ev *event) (more int, err error) {
	record := queueRecord{head: ev.position}
	if value := queues.Get(queueKey(ev.queue)); value != nil {
		if record, err = decodeQueueRecord(value); err != nil {
			return 0, fmt.Errorf("%w: record of queue %d", errDamaged, ev.queue)
		}
	}
	if record.head == record.tail || record.tail == 0 {
		record.headAt = ev.at
	}
	record.tail = ev.position + 1
	more = -len(record.announced)
	record.note(ev)
	more += len(record.announced)
	if err := events.Put(eventKey(ev.queue, ev.position), encodeEvent(ev)); err != nil {
		return 0, err
	}
	return more, queues.Put(queueKey(ev.queue), record.encode(ev.queue))
}

// removeDelivered returns how many events it removed, and removes the queue when it has ended with them.
func removeDelivered(queues, events *bbolt.Bucket, mark deliveredMark) (removed int, err error) {
	value := queues.Get(queueKey(mark.queue))
	if value == nil {
		return 0, nil
	}
	record, err := decodeQueueRecord(value)
	if err != nil {
		return 0, fmt.Errorf("%w: record of queue %d", errDamaged, mark.queue)
	}
	for ; record.head < mark.head; record.head++ {
		if err := events.Delete(eventKey(mark.queue, record.head)); err != nil {
			return removed, err
		}
		removed++
	}
	if record.head == record.tail && len(record.announced) == 0 {
		return removed, queues.Delete(queueKey(mark.queue))
	}
	if next := events.Get(eventKey(mark.queue, record.head)); next != nil {
		if event, err := decodeEvent(next); err == nil {
			record.headAt = event.at
		}
	}
	return removed, queues.Put(queueKey(mark.queue), record.encode(mark.queue))
}

// read returns one undelivered event. errUnreadable means that it can never be read.
func (o *outbox) read(queue uint64, position uint32) (event, error) {
	if ev, found := o.readFromMemory(queue, position); found {
		return ev, nil
	}
	o.reading.Lock()
	defer o.reading.Unlock()
	db := o.db.Load()
	if db == nil || o.stuck {
		return event{}, errUnreadable
	}
	var found event
	o.stuck = true // should the next line but one fault
	err := guarded(func() error {
		return db.View(func(tx *bbolt.Tx) (err error) {
			o.stuck = false
			o.touch(tx, 1)
			value := tx.Bucket([]byte(eventsBucket)).Get(eventKey(queue, position))
			if value == nil {
				return fmt.Errorf("%w: event %d of queue %d is missing", errDamaged, position, queue)
			}
			if found, err = decodeEvent(value); err != nil {
				return fmt.Errorf("%w: event %d of queue %d", errDamaged, position, queue)
			}
			return nil
		})
	})
	switch {
	case err == nil:
	case !errors.Is(err, errDamaged):
		o.stuck = false
	default:
		o.foundDamage(err)
		return event{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return found, err
}

func (o *outbox) setTrouble(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.damaged {
		o.why = err
	}
}

func (o *outbox) foundDamage(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.damaged {
		o.damaged, o.why, o.inMemory = true, fmt.Errorf("the outbox is %w", err), map[uint64][]event{}
	}
}

func (o *outbox) isDamaged() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.damaged
}

func (o *outbox) commitInMemory(g group) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, ev := range g.appended {
		o.inMemory[ev.queue] = append(o.inMemory[ev.queue], ev)
	}
	for _, mark := range g.delivered {
		o.inMemory[mark.queue] = slices.DeleteFunc(o.inMemory[mark.queue], func(ev event) bool { return ev.position < mark.head })
		if len(o.inMemory[mark.queue]) == 0 {
			delete(o.inMemory, mark.queue)
		}
	}
}

func (o *outbox) readFromMemory(queue uint64, position uint32) (event, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, ev := range o.inMemory[queue] {
		if ev.position == position {
			return ev, true
		}
	}
	return event{}, false
}

// close leaves a damaged file to the end of the process: bbolt may wait in it for ever.
func (o *outbox) close() error {
	db := o.db.Load()
	if db == nil || o.isDamaged() {
		return nil
	}
	return guarded(db.Close)
}
