// Events and announced streams on disk (bbolt), so that no crash loses them.
//
// Two buckets: "events" holds the undelivered events under (queue number, position), "queues" one record per queue with
// the range of positions in use and the queue's announced streams (a stream-available was recorded, its stream-closed
// was not), each with the sequence number of its last event. Queues are numbered as their publications begin, so new keys stay
// near the right edge of both trees, and a start reads the queue records only. A record goes when nothing of its queue
// waits and no stream of it is announced.
//
// Positions come with the events: committing a group twice leaves the same as committing it once, which makes it safe
// to repeat a commit whose error came after the data had reached the disk.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	outboxFile     = "outbox.db"
	outboxVersion  = 1
	outboxLockWait = time.Second

	metaBucket   = "meta"
	queuesBucket = "queues"
	eventsBucket = "events"
	versionKey   = "version"

	// The file's pages count as resident memory once they were touched through bbolt's mapping, and the system maps up to
	// 16 for one touch. In a file above releaseAbove they are given back after so many events were read or written; the next
	// touch finds them in the page cache. In a large file that is after releaseAfter, or they would
	// be too many; one that is not may be resident as a whole.
	releaseAbove      = 4 << 20
	releaseAfter      = 512
	largeFile         = 64 << 20
	releaseAfterSmall = 16_384 // in one that is not large

	// The list of free pages is written with each commit, which saves the next start a scan of all used pages. After an
	// outage the list is long, and what it then costs each commit is more than a scan: it is left out when it has more
	// than freePagesListed entries, unless more than pagesScanned pages would have to be scanned, and held in memory.
	freePagesListed = 2000
	pagesScanned    = 16_000
)

// errUnreadable says that an event is not in the outbox or does not decode: reading it again will not help.
var errUnreadable = errors.New("unreadable event in the outbox")

// group is what one transaction writes.
type group struct {
	appended  []event
	delivered []deliveredMark
}

// deliveredMark says that the events of a queue before position head are delivered.
type deliveredMark struct {
	queue uint64
	head  uint32
}

type outbox struct {
	db *bbolt.DB

	touched atomic.Int64 // events read or written since the last release
}

// openOutbox opens or creates the outbox in dir. A second process on the same directory gets an error within
// outboxLockWait.
func openOutbox(dir string) (*outbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the directory of the outbox: %w", err)
	}
	path := filepath.Join(dir, outboxFile)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:        outboxLockWait,
		FreelistType:   bbolt.FreelistMapType,
		NoFreelistSync: true, // for the opening; commit decides anew each time
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("the outbox in directory %s is in use by another process: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the outbox %s: %w", path, err)
	}
	o := &outbox{db: db}
	if err := errors.Join(o.prepare(), syncDirectory(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the outbox %s: %w", path, err), db.Close())
	}
	return o, nil
}

func (o *outbox) prepare() error {
	err := o.db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(metaBucket))
		if meta == nil {
			return os.ErrNotExist
		}
		if version := meta.Get([]byte(versionKey)); len(version) != 1 || version[0] != outboxVersion {
			return fmt.Errorf("its format has version %d, this program reads version %d", version, outboxVersion)
		}
		return nil
	})
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return o.db.Update(func(tx *bbolt.Tx) error {
		_, queuesErr := tx.CreateBucket([]byte(queuesBucket))
		_, eventsErr := tx.CreateBucket([]byte(eventsBucket))
		meta, metaErr := tx.CreateBucket([]byte(metaBucket))
		if err := errors.Join(queuesErr, eventsErr, metaErr); err != nil {
			return err
		}
		return meta.Put([]byte(versionKey), []byte{outboxVersion})
	})
}

// syncDirectory makes a new file's name durable.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load calls each with every queue record, in the order of their numbers.
func (o *outbox) load(each func(number uint64, record queueRecord)) error {
	return o.db.View(func(tx *bbolt.Tx) error {
		defer o.release(tx)
		return tx.Bucket([]byte(queuesBucket)).ForEach(func(key, value []byte) error {
			record, err := decodeQueueRecord(value)
			if err != nil || len(key) != 8 {
				return fmt.Errorf("record of queue %x: %w", key, err)
			}
			each(binary.BigEndian.Uint64(key), record)
			o.touch(tx, 1)
			return nil
		})
	})
}

// commit makes a group durable in one transaction, all of it or nothing. Only one goroutine may call it.
func (o *outbox) commit(g group) error {
	var pages int
	err := o.db.Update(func(tx *bbolt.Tx) error {
		pages = int(tx.Size()) / o.db.Info().PageSize
		queues, events := tx.Bucket([]byte(queuesBucket)), tx.Bucket([]byte(eventsBucket))
		queues.FillPercent, events.FillPercent = 0.9, 0.9
		for i := range g.appended {
			o.touch(tx, 1)
			if err := putEvent(queues, events, &g.appended[i]); err != nil {
				return err
			}
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
	if err != nil {
		return fmt.Errorf("commit to the outbox: %w", err)
	}
	free := o.db.Stats().FreePageN
	o.db.NoFreelistSync = free > freePagesListed && pages-free < pagesScanned
	return nil
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

func putEvent(queues, events *bbolt.Bucket, ev *event) error {
	record := queueRecord{head: ev.position}
	if value := queues.Get(queueKey(ev.queue)); value != nil {
		var err error
		if record, err = decodeQueueRecord(value); err != nil {
			return err
		}
	}
	if record.head == record.tail || record.tail == 0 {
		record.headAt = ev.at
	}
	record.tail = ev.position + 1
	record.note(ev)
	if err := events.Put(eventKey(ev.queue, ev.position), encodeEvent(ev)); err != nil {
		return err
	}
	return queues.Put(queueKey(ev.queue), record.encode(ev.queue))
}

// removeDelivered returns how many events it removed, and removes the queue when it has ended with them.
func removeDelivered(queues, events *bbolt.Bucket, mark deliveredMark) (removed int, err error) {
	value := queues.Get(queueKey(mark.queue))
	if value == nil {
		return 0, nil
	}
	record, err := decodeQueueRecord(value)
	if err != nil {
		return 0, err
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
func (o *outbox) read(queue uint64, position uint32) (found event, err error) {
	err = o.db.View(func(tx *bbolt.Tx) error {
		o.touch(tx, 1)
		value := tx.Bucket([]byte(eventsBucket)).Get(eventKey(queue, position))
		if value == nil {
			return errUnreadable
		}
		found, err = decodeEvent(value)
		return err
	})
	return found, err
}

func (o *outbox) close() error { return o.db.Close() }

func queueKey(number uint64) []byte { return binary.BigEndian.AppendUint64(nil, number) }

func eventKey(queue uint64, position uint32) []byte {
	return binary.BigEndian.AppendUint32(queueKey(queue), position)
}
