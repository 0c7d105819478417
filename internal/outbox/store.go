package outbox

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
	"bytes"
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

// maxGroup is how many events one commit adds at most, and how many it removes.
const maxGroup = 1024

// ErrUnreadable says that an event is not in the outbox or does not decode: reading it again will not help.
var ErrUnreadable = errors.New("unreadable event in the outbox")

// Group is what the writer has to make durable.
type Group struct {
	Appended  []Event
	Delivered []DeliveredUpTo
	Changes   []Change
}

func (g Group) empty() bool {
	return len(g.Appended) == 0 && len(g.Delivered) == 0 && len(g.Changes) == 0
}

// DeliveredUpTo says that the events of a queue before position head are delivered, or discarded.
type DeliveredUpTo struct {
	Queue uint64
	Head  uint32

	durable func() // called once that is so on disk, by a goroutine that holds no lock; nil: nobody asks
}

type boltStore struct {
	// set once
	dir        string
	lock       *os.File // the directory, locked as long as it is open
	wasDamaged bool     // the file that was found

	db atomic.Pointer[bbolt.DB] // replaced by the writer, under reading; nil: there was no room to create it

	// owned by the writer
	announced      int  // streams that are announced and not closed, and publishers that are to have an end
	isOld          bool // the file has an older version
	pages          int  // of the file
	ballast        int  // chunks
	retryCompactAt int  // free pages; 0: compacting did not fail
	crowded        bool // the reserve was low at the last commit

	// reading serializes reads: a fault inside bbolt can leave its locks held, and other readers would wait there for ever.
	reading sync.Mutex
	stuck   bool // guarded by reading: bbolt may hold a lock

	mu sync.Mutex
	// guarded by mu
	why      error              // why no stream may begin
	damaged  bool               // the file must not be written to any more
	inMemory map[uint64][]Event // since then, by queue
}

// openStore opens or creates the outbox in dir. A damaged file is set aside and replaced with an empty one; found says so.
// If the disk has no room for a new file, a later commit creates it. A second process on the same directory gets an error
// within outboxLockWait.
func openStore(dir string) (s *boltStore, found *damage, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("create the directory of the outbox: %w", err)
	}
	lock, err := lockDirectory(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open the outbox in directory %s: %w", dir, err)
	}
	s = &boltStore{dir: dir, lock: lock}
	db, found, err := openFile(dir)
	switch {
	case isDiskFull(err):
		s.why = fmt.Errorf("%w: %w", errNoRoom, err)
	case err != nil:
		return nil, nil, errors.Join(fmt.Errorf("open the outbox in directory %s: %w", dir, err), lock.Close())
	default:
		s.db.Store(db)
	}
	return s, found, nil
}

// isDiskFull reports whether err says that a disk, a quota or a file size limit is used up.
func isDiskFull(err error) bool {
	for _, full := range []error{errNoRoom, bolterrors.ErrMaxSizeReached, syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) {
			return true
		}
	}
	return false
}

// classify returns the error of a disk that is full or fails as it is, and any other as errDamaged: bbolt returns those only
// for a damaged file, such as a value where a bucket was. It hides the system's error when it cannot extend the file.
func classify(err error) error {
	if err == nil || isDiskFull(err) || strings.Contains(err.Error(), "file resize error") || strings.Contains(err.Error(), "file sync error") {
		return err
	}
	return asDamage(err)
}

// Trouble is why no stream may begin, nil if streams may. It may be called from anywhere.
func (s *boltStore) Trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// Load calls each with every queue record, in the order of their numbers. It is called once, before the first commit.
func (s *boltStore) Load(each func(number uint64, record QueueRecord)) error {
	db := s.db.Load()
	if db == nil {
		return nil
	}
	return guarded(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			s.ballast = countChunks(tx)
			s.isOld = !bytes.Equal(tx.Bucket([]byte(metaBucket)).Get([]byte(versionKey)), []byte{outboxVersion})
			return tx.Bucket([]byte(queuesBucket)).ForEach(func(key, value []byte) error {
				record, err := decodeQueueRecord(value)
				if err != nil || len(key) != 8 {
					return fmt.Errorf("%w: record of queue %x", errDamaged, key)
				}
				s.announced += len(record.Announced)
				each(binary.BigEndian.Uint64(key), record)
				return nil
			})
		})
	})
}

// Commit makes as much of g durable as fits, and returns the rest: removals first, in smaller transactions if need be, then
// changes, then events in their order. With an empty g it only restores the reserve. Only one goroutine may call it.
func (s *boltStore) Commit(g Group) (left Group, err error) {
	if s.isDamaged() {
		s.commitInMemory(g)
		return Group{}, nil
	}
	left = g
	err = guarded(func() (err error) {
		left, err = s.commitToFile(g)
		return err
	})
	if err = classify(err); errors.Is(err, errDamaged) {
		s.foundDamage(err)
		s.commitInMemory(left)
		return Group{}, nil
	}
	s.setTrouble(err)
	if err != nil {
		err = fmt.Errorf("commit to the outbox: %w", err)
	}
	if isDiskFull(err) && left.empty() {
		err = nil // g is on disk; only the reserve is low, and trouble says so
	}
	return left, err
}

func (s *boltStore) commitToFile(g Group) (left Group, err error) {
	db, err := s.file()
	if err != nil {
		return g, err
	}
	if n, _ := s.fit(db, g.Appended); n == len(g.Appended) {
		if err := s.write(db, g); err == nil {
			g = Group{}
		} else if errors.Is(err, errDamaged) {
			return g, err
		}
	}
	if g.Delivered, err = s.removeBySteps(db, g.Delivered); err != nil {
		return g, err
	}
	if err := s.write(db, Group{Changes: g.Changes}); err != nil {
		return g, err
	}
	g.Changes = nil
	for len(g.Appended) > 0 {
		n, err := s.fit(db, g.Appended)
		if n == 0 {
			return g, err
		}
		for err = s.write(db, Group{Appended: g.Appended[:n]}); err != nil; err = s.write(db, Group{Appended: g.Appended[:n]}) {
			if n /= 2; n == 0 || errors.Is(err, errDamaged) {
				return g, err
			}
		}
		g.Appended = g.Appended[n:]
	}
	if err := s.compactIfWorth(db); errors.Is(err, errDamaged) {
		return g, err
	}
	return g, s.makeRoom(s.db.Load())
}

// file returns the file to write to, and creates it if there was no room for it before.
func (s *boltStore) file() (*bbolt.DB, error) {
	if db := s.db.Load(); db != nil {
		return db, nil
	}
	db, _, err := openFile(s.dir)
	if err == nil {
		s.db.Store(db)
	}
	return db, err
}

// removeBySteps removes delivered events, in smaller transactions where the disk has no room for all at once, and returns
// what is left.
func (s *boltStore) removeBySteps(db *bbolt.DB, delivered []DeliveredUpTo) (left []DeliveredUpTo, err error) {
	for most := maxGroup; len(delivered) > 0; {
		part, rest := firstRemovals(delivered, most)
		switch err := s.write(db, Group{Delivered: part}); {
		case err == nil:
			delivered, most = rest, min(2*most, maxGroup)
		case errors.Is(err, errDamaged):
			return delivered, err
		case len(part) <= 1:
			if err := s.writeWithoutFreeList(db, Group{Delivered: part}); err != nil {
				return delivered, err
			}
			delivered = rest
		default:
			most = len(part) / 2
		}
	}
	return nil, nil
}

func firstRemovals(delivered []DeliveredUpTo, most int) (part, rest []DeliveredUpTo) {
	n := min(most, len(delivered))
	return delivered[:n], delivered[n:]
}

// writeWithoutFreeList is write that leaves the list of free pages out of the file, for which bbolt needs pages in a row.
// The next write puts it in again.
func (s *boltStore) writeWithoutFreeList(db *bbolt.DB, g Group) error {
	db.NoFreelistSync = true
	defer func() { db.NoFreelistSync = false }()
	return s.write(db, g)
}

// write makes a group durable in one transaction, all of it or nothing. Call it inside guarded.
func (s *boltStore) write(db *bbolt.DB, g Group) error {
	if g.empty() {
		return nil
	}
	if err := checkFreeList(filepath.Join(s.dir, outboxFile), db.Info().PageSize); err != nil {
		return err
	}
	announced := s.announced
	err := db.Update(func(tx *bbolt.Tx) error {
		s.pages = int(tx.Size()) / db.Info().PageSize
		queues, events := tx.Bucket([]byte(queuesBucket)), tx.Bucket([]byte(eventsBucket))
		queues.FillPercent, events.FillPercent = 0.9, 0.9
		if s.isOld {
			if err := tx.Bucket([]byte(metaBucket)).Put([]byte(versionKey), []byte{outboxVersion}); err != nil {
				return err
			}
		}
		for i := range g.Appended {
			more, err := putEvent(queues, events, &g.Appended[i])
			if err != nil {
				return err
			}
			announced += more
		}
		for _, upTo := range g.Delivered {
			if err := removeDelivered(queues, events, upTo); err != nil {
				return err
			}
		}
		return applyChanges(tx, g.Changes, g.Appended)
	})
	if err == nil {
		s.announced, s.isOld = announced, false
	}
	return err
}

// putEvent returns by how many the announced streams become more.
func putEvent(queues, events *bbolt.Bucket, ev *Event) (more int, err error) {
	record := QueueRecord{Head: ev.Position}
	if value := queues.Get(queueKey(ev.Queue)); value != nil {
		if record, err = decodeQueueRecord(value); err != nil {
			return 0, fmt.Errorf("%w: record of queue %d", errDamaged, ev.Queue)
		}
		if ev.Position < record.Tail {
			return 0, nil // repeated after an error that came when it had reached the disk
		}
	}
	if record.Head == record.Tail || record.Tail == 0 {
		record.HeadAt = ev.At
	}
	record.Tail = ev.Position + 1
	more = -len(record.Announced)
	record.note(ev)
	more += len(record.Announced)
	if err := events.Put(eventKey(ev.Queue, ev.Position), EncodeEvent(ev)); err != nil {
		return 0, err
	}
	return more, queues.Put(queueKey(ev.Queue), record.encode())
}

// removeDelivered removes events, and the queue when it has ended with them.
func removeDelivered(queues, events *bbolt.Bucket, upTo DeliveredUpTo) error {
	value := queues.Get(queueKey(upTo.Queue))
	if value == nil {
		return nil
	}
	record, err := decodeQueueRecord(value)
	if err != nil {
		return fmt.Errorf("%w: record of queue %d", errDamaged, upTo.Queue)
	}
	for ; record.Head < upTo.Head; record.Head++ {
		if err := events.Delete(eventKey(upTo.Queue, record.Head)); err != nil {
			return err
		}
	}
	if record.Head == record.Tail && len(record.Announced) == 0 {
		return queues.Delete(queueKey(upTo.Queue))
	}
	if next := events.Get(eventKey(upTo.Queue, record.Head)); next != nil {
		if event, err := DecodeEvent(next); err == nil {
			record.HeadAt = event.At
		}
	}
	return queues.Put(queueKey(upTo.Queue), record.encode())
}

// Read returns one undelivered event. ErrUnreadable means that it can never be read.
func (s *boltStore) Read(queue uint64, position uint32) (Event, error) {
	if ev, found := s.readFromMemory(queue, position); found {
		return ev, nil
	}
	var found Event
	err := s.view(func(tx *bbolt.Tx) (err error) {
		value := tx.Bucket([]byte(eventsBucket)).Get(eventKey(queue, position))
		if value == nil {
			return fmt.Errorf("%w: event %d of queue %d is missing", errDamaged, position, queue)
		}
		if found, err = DecodeEvent(value); err != nil {
			return fmt.Errorf("%w: event %d of queue %d", errDamaged, position, queue)
		}
		return nil
	})
	return found, err
}

// Scan implements Store. What came after the file was found damaged is only in memory, and is found, too.
func (s *boltStore) Scan(from Place, text string, look int) (found []Event, next Place, more bool, err error) {
	if s.db.Load() == nil {
		return nil, from, false, nil // there was no room to create it
	}
	err = s.view(func(tx *bbolt.Tx) error {
		cursor, looked := tx.Bucket([]byte(eventsBucket)).Cursor(), 0
		for key, value := cursor.Seek(eventKey(from.Queue, from.Position)); key != nil; key, value = cursor.Next() {
			if len(key) != 12 {
				return fmt.Errorf("%w: event %x", errDamaged, key)
			}
			at := Place{binary.BigEndian.Uint64(key), binary.BigEndian.Uint32(key[8:])}
			if looked++; looked > look {
				next, more = at, true
				return nil
			}
			if !bytes.Contains(value, []byte(text)) {
				continue
			}
			ev, err := DecodeEvent(value)
			if err != nil {
				return fmt.Errorf("%w: event %d of queue %d", errDamaged, at.Position, at.Queue)
			}
			ev.Queue, ev.Position = at.Queue, at.Position
			found = append(found, ev)
		}
		return nil
	})
	if err != nil {
		return nil, from, false, err
	}
	found = append(found, s.scanMemory(from, next, more)...)
	slices.SortFunc(found, func(a, b Event) int { return a.place().compare(b.place()) })
	return found, next, more, nil
}

// view runs f on the file. An error that is ErrUnreadable will not go away.
func (s *boltStore) view(f func(tx *bbolt.Tx) error) error {
	s.reading.Lock()
	defer s.reading.Unlock()
	db := s.db.Load()
	if db == nil || s.stuck {
		return ErrUnreadable
	}
	s.stuck = true // until View has begun: a fault in Begin leaves bbolt locked
	err := guarded(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			s.stuck = false
			return f(tx)
		})
	})
	switch {
	case err == nil:
	case !errors.Is(err, errDamaged):
		s.stuck = false
	default:
		s.foundDamage(err)
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return err
}

func (s *boltStore) setTrouble(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.damaged {
		s.why = err
	}
}

func (s *boltStore) foundDamage(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.damaged {
		return
	}
	s.damaged, s.why, s.inMemory = true, fmt.Errorf("the outbox is %w", err), map[uint64][]Event{}
	// Not all damage is found at a start, which is to set the file aside.
	if marker, err := os.Create(filepath.Join(s.dir, outboxFile+condemned)); err == nil {
		_ = marker.Close()
	}
}

func (s *boltStore) isDamaged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damaged
}

func (s *boltStore) commitInMemory(g Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range g.Appended {
		s.inMemory[ev.Queue] = append(s.inMemory[ev.Queue], ev)
	}
	for _, upTo := range g.Delivered {
		s.inMemory[upTo.Queue] = slices.DeleteFunc(s.inMemory[upTo.Queue], func(ev Event) bool { return ev.Position < upTo.Head })
		if len(s.inMemory[upTo.Queue]) == 0 {
			delete(s.inMemory, upTo.Queue)
		}
	}
}

func (s *boltStore) readFromMemory(queue uint64, position uint32) (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range s.inMemory[queue] {
		if ev.Position == position {
			return ev, true
		}
	}
	return Event{}, false
}

// scanMemory gives what is kept in memory since the file was found damaged, from a place on, and up to next if there is more in the file.
func (s *boltStore) scanMemory(from, next Place, more bool) (found []Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, events := range s.inMemory {
		for i := range events {
			if at := events[i].place(); at.compare(from) >= 0 && (!more || at.compare(next) < 0) {
				found = append(found, events[i])
			}
		}
	}
	return found
}

// Close does not Close a damaged file: bbolt could block for ever.
func (s *boltStore) Close() error {
	db := s.db.Load()
	switch {
	case s.isDamaged():
		return nil
	case db == nil:
		return s.lock.Close()
	}
	return errors.Join(guarded(db.Close), s.lock.Close())
}
