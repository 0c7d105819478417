package outbox

// The file of the outbox: made whole or not at all, checked at the start, set aside when it is damaged.
//
// bbolt believes its file: a damaged page is a panic, and one that cannot be read is a fault of the process, because the
// file is mapped into memory. So each call of bbolt is guarded, and what is found that way is errDamaged.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	outboxFile     = "outbox.db"
	unfinished     = ".new" // behind the name of a file that is being made
	outboxVersion  = 1
	outboxLockWait = time.Second

	metaBucket   = "meta"
	queuesBucket = "queues"
	eventsBucket = "events"
	versionKey   = "version"
)

var (
	errDamaged = errors.New("damaged")
	errNewer   = errors.New("written by a newer version of this program")
	errInUse   = errors.New("in use by another process")
)

// damage is what was found at the start in a file that is set aside.
type damage struct {
	file, aside string
	err         error
}

// guarded calls bbolt. After errDamaged it may hold its locks, so it must not be called for anything that waits for them.
func guarded(call func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	return call()
}

// openFile opens the outbox in dir, which is made if there is none. A file that is damaged is set aside, and an empty one
// is made in its place. Errors: errInUse, errNewer, and what the system says.
func openFile(dir string) (db *bbolt.DB, found *damage, err error) {
	path := filepath.Join(dir, outboxFile)
	if err = checkFile(path); err == nil {
		db, err = openBolt(path, bbolt.Options{})
		if err == nil {
			return db, nil, nil
		}
	}
	if errors.Is(err, errDamaged) {
		aside := path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000Z")
		found = &damage{file: path, aside: aside, err: err}
		if err := os.Rename(path, aside); err != nil {
			return nil, nil, errors.Join(found.err, err)
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = makeFile(path)
	}
	if err == nil {
		db, err = openBolt(path, bbolt.Options{})
	}
	return db, found, err
}

// openBolt opens a file that was checked, or makes it. The list of free pages is kept in the file: without it bbolt makes one at
// the next start and after each failed commit, in a goroutine whose panics nobody can catch. Only a file of an earlier
// version may lack it, until the first commit.
func openBolt(path string, options bbolt.Options) (db *bbolt.DB, err error) {
	options.Timeout, options.FreelistType = outboxLockWait, bbolt.FreelistMapType
	options.NoFreelistSync = true // for the opening, which would write the list
	err = guarded(func() error {
		db, err = bbolt.Open(path, 0o600, &options)
		return err
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, errInUse
	}
	if err != nil {
		return nil, err
	}
	db.NoFreelistSync = false
	return db, nil
}

// makeFile makes an empty outbox under another name, and gives it its own when it is whole and durable: a start that is cut
// off, or meets a full disk, leaves nothing that a later one stumbles over.
func makeFile(path string) error {
	making := path + unfinished
	if err := os.Remove(making); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := openBolt(making, bbolt.Options{})
	if err != nil {
		return errors.Join(err, os.Remove(making))
	}
	err = guarded(func() error {
		if err := db.Update(prepareBuckets); err != nil {
			return err
		}
		return grow(db, streamPages+removalPages)
	})
	err = errors.Join(err, db.Close())
	if err == nil {
		err = os.Rename(making, path)
	}
	if err != nil {
		os.Remove(making)
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

func prepareBuckets(tx *bbolt.Tx) error {
	_, queuesErr := tx.CreateBucket([]byte(queuesBucket))
	_, eventsErr := tx.CreateBucket([]byte(eventsBucket))
	meta, metaErr := tx.CreateBucket([]byte(metaBucket))
	if err := errors.Join(queuesErr, eventsErr, metaErr); err != nil {
		return err
	}
	return meta.Put([]byte(versionKey), []byte{outboxVersion})
}

// syncDirectory makes a new file's name durable.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkFile reads all that is in a file. Errors: errDamaged, fs.ErrNotExist also if nothing was ever kept in it, errInUse,
// errNewer, and what the system says.
func checkFile(path string) error {
	if stat, err := os.Stat(path); err != nil {
		return err
	} else if stat.Size() == 0 { // of a start that was cut off
		return errors.Join(fs.ErrNotExist, os.Remove(path))
	}
	db, err := openBolt(path, bbolt.Options{ReadOnly: true})
	if err != nil {
		return asDamage(err)
	}
	var unused bool
	err = guarded(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			if name, _ := tx.Cursor().First(); name == nil {
				unused = true
				return nil
			}
			return checkBuckets(tx)
		})
	})
	if err == nil {
		err = db.Close()
	} // else its locks may be held, and its end is that of the process
	if err == nil && unused {
		return errors.Join(fs.ErrNotExist, os.Remove(path))
	}
	if err == nil {
		err = checkFreePages(path)
	}
	return err
}

// checkFreePages holds the list of free pages against the pages that there are. The file was checked for the rest: where
// there is no list, bbolt makes one of it.
func checkFreePages(path string) error {
	db, err := openBolt(path, bbolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		return asDamage(err)
	}
	err = guarded(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			listed := db.Stats().FreePageN
			for page := 2; ; page++ {
				info, err := tx.Page(page)
				switch {
				case err != nil:
					return err
				case info == nil && listed != 0:
					return fmt.Errorf("%w: the list of free pages", errDamaged)
				case info == nil:
					return nil
				case info.Type == "free":
					listed--
				}
			}
		})
	})
	if err == nil {
		err = db.Close()
	}
	return err
}

// checkFreeList looks at the head of the list of free pages before a commit gives up its pages: bbolt gives up as many as the
// head says, four billion perhaps. The places are those of bbolt's meta pages (internal/common/meta.go).
func checkFreeList(path string, pageSize int) error {
	const head, magic = 16, 0xED0CDAED
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	var list, pages, newest uint64
	for page := range 2 {
		var meta [64]byte
		if _, err := file.ReadAt(meta[:], int64(page*pageSize+head)); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		number := func(at int) uint64 { return binary.NativeEndian.Uint64(meta[at:]) }
		if txid := number(48); binary.NativeEndian.Uint32(meta[:]) == magic && txid >= newest {
			list, pages, newest = number(32), number(40), txid
		}
	}
	const none = 1<<64 - 1
	if list == none {
		return nil
	}
	var page [head]byte
	if _, err := file.ReadAt(page[:], int64(list)*int64(pageSize)); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if binary.NativeEndian.Uint64(page[:]) != list || uint64(binary.NativeEndian.Uint32(page[12:])) >= pages {
		return fmt.Errorf("%w: the list of free pages", errDamaged)
	}
	return nil
}

// asDamage tells a file that bbolt cannot open from one that the system does not let it open.
func asDamage(err error) error {
	var path *fs.PathError
	var number syscall.Errno
	if errors.Is(err, errInUse) || errors.Is(err, errDamaged) || errors.As(err, &path) || errors.As(err, &number) {
		return err
	}
	return fmt.Errorf("%w: %w", errDamaged, err)
}

func checkBuckets(tx *bbolt.Tx) error {
	meta, queues, events := tx.Bucket([]byte(metaBucket)), tx.Bucket([]byte(queuesBucket)), tx.Bucket([]byte(eventsBucket))
	if meta == nil || queues == nil || events == nil {
		return fmt.Errorf("%w: a bucket is missing", errDamaged)
	}
	switch version := meta.Get([]byte(versionKey)); {
	case len(version) != 1:
		return fmt.Errorf("%w: it has no version", errDamaged)
	case version[0] != outboxVersion:
		return fmt.Errorf("%w: its format has version %d, this program reads version %d", errNewer, version[0], outboxVersion)
	}
	undelivered := uint64(0)
	err := queues.ForEach(func(key, value []byte) error {
		record, err := decodeQueueRecord(value)
		if err != nil || len(key) != 8 || record.tail < record.head {
			return fmt.Errorf("%w: record of queue %x", errDamaged, key)
		}
		undelivered += uint64(record.tail - record.head)
		return nil
	})
	if err != nil {
		return err
	}
	err = events.ForEach(func(key, value []byte) error {
		if _, err := decodeEvent(value); err != nil || len(key) != 12 {
			return fmt.Errorf("%w: event %x", errDamaged, key)
		}
		undelivered--
		return nil
	})
	if err == nil && undelivered != 0 {
		return fmt.Errorf("%w: %d events are missing", errDamaged, int64(undelivered))
	}
	return err
}

func queueKey(number uint64) []byte { return binary.BigEndian.AppendUint64(nil, number) }

func eventKey(queue uint64, position uint32) []byte {
	return binary.BigEndian.AppendUint32(queueKey(queue), position)
}
