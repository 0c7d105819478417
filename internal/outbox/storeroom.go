package outbox

// Room on the disk for the outbox: what a full disk stops is adding, never removing.
//
// bbolt is copy-on-write: even a removal needs free pages, and those that it frees are usable only by the next transaction.
// So the file always has more pages than it uses. They were written once, so nobody else can take them. Adding leaves
// removalPages of them, which is more than it takes to remove an event: from then on each removal leaves as many as it
// found. Before room gets that scarce no stream may begin, so that live ones have room for their events and their ends.
//
// With each commit bbolt writes a list of the free pages. So of the room for live streams only the part that is less
// than a chunk is kept as free pages; the rest is ballast, chunks that are in use until they are dropped.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

const (
	removalPages  = 64  // kept for removals: 256 KiB, with pages of 4 KiB
	streamPages   = 64  // kept for live streams, and one more for each endsPerPage of them:
	endsPerPage   = 4   // stream-closed events that surely fit in a page, with what their queue records grow by
	pagesAhead    = 512 // the file grows by this many; larger groups are written in parts that fit in them
	pagesPerEvent = 2   // that an event adds at most, besides its bytes: one split in each tree
	otherPages    = 16  // that a transaction adds at most: branches, the list of free pages

	// A new file has so many pages more than it uses: with others filling the disk, some 2,000 streams can be live.
	pagesAtFirst = removalPages + 2*streamPages + pagesAhead

	// A file with at least compactMinFree free pages, and compactShare times as many free ones as used ones, is copied to a new
	// one: the list of free pages is written with each commit, and the disk may need the room.
	compactMinFree = 4096
	compactShare   = 8

	chunkPages    = 512       // of ballast, without the page for the head
	ballastBucket = "ballast" // holds a bucket for each chunk, so that dropping one changes no other

	roomKey = "room" // in metaBucket: a value that extends the file and is deleted again; in a chunk: its bytes
)

var errNoRoom = errors.New("no room on the disk")

// grow extends a file by so many pages, which are free afterwards. It fails if the disk has no room for all of them.
func grow(db *bbolt.DB, pages int) error {
	err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(metaBucket)).Put([]byte(roomKey), make([]byte, pages*db.Info().PageSize))
	})
	if err != nil {
		return err
	}
	return db.Update(shrinkRoom)
}

func shrinkRoom(tx *bbolt.Tx) error { return tx.Bucket([]byte(metaBucket)).Delete([]byte(roomKey)) }

// dropRoom makes the pages free that a crash or an error has left in grow.
func dropRoom(db *bbolt.DB) error {
	left := false
	err := db.View(func(tx *bbolt.Tx) error {
		left = tx.Bucket([]byte(metaBucket)).Get([]byte(roomKey)) != nil
		return nil
	})
	if err == nil && left {
		err = db.Update(shrinkRoom)
	}
	return err
}

// freePages is how many pages the next transaction can use without extending the file.
func freePages(db *bbolt.DB) int {
	stats := db.Stats()
	return stats.FreePageN + stats.PendingPageN
}

// pagesFor is the most pages that adding events takes.
func pagesFor(events []Event, pageSize int) int {
	size := 0
	for i := range events {
		size += events[i].size() + 64
	}
	return otherPages + pagesPerEvent*len(events) + 2*size/pageSize
}

// fit returns how many of the events there is room for. If that is not all, it first extends the file or drops ballast.
func (s *boltStore) fit(db *bbolt.DB, events []Event) (n int, err error) {
	pageSize := db.Info().PageSize
	if needed := min(removalPages+pagesFor(events, pageSize), pagesAhead); freePages(db) < needed {
		if err = s.growTo(db, pagesAhead); err != nil {
			err = s.growTo(db, needed)
		}
		if err != nil && s.ballast > 0 {
			err = s.dropChunk(db)
		}
	}
	for n = len(events); n > 0 && freePages(db) < removalPages+pagesFor(events[:n], pageSize); {
		n /= 2
	}
	return n, err
}

// growTo extends the file until so many pages are free.
func (s *boltStore) growTo(db *bbolt.DB, pages int) error {
	if freePages(db) >= pages {
		return nil
	}
	if err := dropRoom(db); err != nil {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	if freePages(db) >= pages {
		return nil
	}
	if err := grow(db, pages); err != nil {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	return nil
}

// makeRoom restores the reserve, without which no stream may begin. After a shortage it asks for streamPages more, so that
// readiness does not flap.
func (s *boltStore) makeRoom(db *bbolt.DB) error {
	err := s.reserve(db, s.announced/endsPerPage)
	s.crowded = err != nil
	return err
}

// reserve keeps so many pages for the ends of live streams, besides those for removals.
func (s *boltStore) reserve(db *bbolt.DB, pages int) error {
	wanted := removalPages + streamPages + pages
	if s.crowded {
		wanted += streamPages
	}
	chunks := pages / chunkPages
	for s.ballast < chunks && freePages(db)+s.ballast*chunkPages < wanted {
		if err := s.growTo(db, removalPages+chunkPages+otherPages); err != nil {
			return err
		}
		if err := s.addChunk(db); err != nil {
			return err
		}
	}
	if s.ballast > 2*chunks+1 {
		if err := s.dropChunk(db); err != nil {
			return err
		}
	}
	return s.growTo(db, wanted-s.ballast*chunkPages)
}

func (s *boltStore) addChunk(db *bbolt.DB) error {
	err := db.Update(func(tx *bbolt.Tx) error {
		ballast, err := tx.CreateBucketIfNotExists([]byte(ballastBucket))
		if err != nil {
			return err
		}
		chunk, err := ballast.CreateBucketIfNotExists(queueKey(uint64(s.ballast)))
		if err != nil {
			return err
		}
		return chunk.Put([]byte(roomKey), make([]byte, chunkPages*db.Info().PageSize))
	})
	if err == nil {
		s.ballast++
	}
	return err
}

// dropChunk makes the pages of a chunk free.
func (s *boltStore) dropChunk(db *bbolt.DB) error {
	err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(ballastBucket)).DeleteBucket(queueKey(uint64(s.ballast - 1)))
	})
	if err == nil {
		s.ballast--
	}
	return err
}

// countChunks is how many there are in a file that is taken up.
func countChunks(tx *bbolt.Tx) (n int) {
	if ballast := tx.Bucket([]byte(ballastBucket)); ballast != nil {
		_ = ballast.ForEachBucket(func([]byte) error {
			n++
			return nil
		})
	}
	return n
}

// compactIfWorth copies a file that is nearly all free to a new one, which takes its place. That it fails, as on a full
// disk, changes nothing; it is tried again when twice as much is free.
func (s *boltStore) compactIfWorth(db *bbolt.DB) error {
	free := freePages(db)
	if free < max(compactMinFree, s.retryCompactAt) || (s.pages-free)*compactShare > free {
		return nil
	}
	s.retryCompactAt = 2 * free
	path := filepath.Join(s.dir, outboxFile)
	tmp := path + unfinished
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	copied, err := openBolt(tmp, bbolt.Options{})
	if err != nil {
		return err
	}
	err = guarded(func() error {
		return errors.Join(bbolt.Compact(copied, db, 1<<20), grow(copied, pagesAtFirst))
	})
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, copied.Close(), os.Remove(tmp))
	}
	s.replace(copied)
	s.retryCompactAt = 0
	return errors.Join(syncDirectory(s.dir), guarded(db.Close))
}

// replace makes later reads and commits use another file.
func (s *boltStore) replace(db *bbolt.DB) {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.db.Store(db)
}
