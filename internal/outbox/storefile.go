package outbox

// The file of the outbox: created whole or not at all, checked at the start, set aside when it is damaged.
//
// bbolt trusts its file: a damaged page makes it panic, and one that cannot be read is a memory fault, because the file is
// mapped. So each call of bbolt is guarded, and turns both into errDamaged.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"coordinator/internal/regular"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	outboxFile     = "outbox.db"
	unfinished     = ".new"     // suffix of a file under construction
	condemned      = ".damaged" // suffix of a marker: the file was found damaged while it was in use
	outboxVersion  = 2          // 1 knew no reasons and no passthrough; it is read, and becomes 2 with the first commit
	outboxLockWait = time.Second

	metaBucket   = "meta"
	queuesBucket = "queues"
	eventsBucket = "events"
	versionKey   = "version"
)

var (
	errDamaged = errors.New("damaged")
	errNewer   = errors.New("unsupported format")
	errInUse   = errors.New("in use by another process")
)

// damage is what was found at the start in a file that is set aside.
type damage struct {
	file, aside string
	err         error
}

// guarded runs a call of bbolt. After errDamaged bbolt may still hold its locks: call nothing that takes them.
func guarded(call func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	return call()
}

// lockDirectory keeps other processes out of the directory: bbolt locks a file only once it is open. Errors: errInUse, and
// what the system says.
func lockDirectory(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(outboxLockWait); ; time.Sleep(outboxLockWait / 20) {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOLCK):
			return d, nil // without locks of directories, bbolt's lock of the file is left
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, errors.Join(err, d.Close())
		case time.Now().After(until):
			return nil, errors.Join(errInUse, d.Close())
		}
	}
}

// openFile opens the outbox in dir, or creates it. A damaged file is set aside and replaced with an empty one. Errors:
// errInUse, errNewer, errDamaged if the file cannot be set aside, and what the system says.
func openFile(dir string) (db *bbolt.DB, found *damage, err error) {
	path := filepath.Join(dir, outboxFile)
	if _, err := os.Stat(path + condemned); err == nil {
		return replaceFile(path, fmt.Errorf("%w: it was found when it was in use", errDamaged))
	}
	if err = checkFile(path); err == nil {
		db, err = openBolt(path, bbolt.Options{})
		if err == nil {
			return db, nil, nil
		}
	}
	if errors.Is(err, errDamaged) {
		return replaceFile(path, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = createFile(path)
	}
	if err == nil {
		db, err = openBolt(path, bbolt.Options{})
	}
	return db, nil, err
}

// replaceFile sets a damaged file aside and opens an empty one.
func replaceFile(path string, reason error) (db *bbolt.DB, found *damage, err error) {
	found = &damage{file: path, aside: path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000Z"), err: reason}
	if err := os.Rename(path, found.aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errors.Join(reason, err)
	}
	if err := os.Remove(path + condemned); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errors.Join(reason, err)
	}
	if err = createFile(path); err == nil {
		db, err = openBolt(path, bbolt.Options{})
	}
	return db, found, err
}

// openBolt opens or creates a bbolt file with our options. The list of free pages is kept in the file: without it bbolt
// rebuilds one at the next start and after each failed commit, in a goroutine whose panics nobody can catch. Only a file of
// an earlier version may lack it, until the first commit.
func openBolt(path string, options bbolt.Options) (db *bbolt.DB, err error) {
	options.Timeout, options.FreelistType = outboxLockWait, bbolt.FreelistMapType
	options.NoFreelistSync = true // while opening, which would write the list
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

// createFile creates an empty outbox under another name and renames it when it is whole and durable: a start that is cut
// off, or meets a full disk, leaves nothing that a later one stumbles over.
func createFile(path string) error {
	tmp := path + unfinished
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := openBolt(tmp, bbolt.Options{})
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	err = guarded(func() error {
		if err := db.Update(prepareBuckets); err != nil {
			return err
		}
		return grow(db, pagesAtFirst)
	})
	err = errors.Join(err, db.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
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

// checkFile validates the whole file. It removes one that never held anything, and returns fs.ErrNotExist for it. Other
// errors: errDamaged, errInUse, errNewer, and what the system says.
func checkFile(path string) error {
	if stat, err := regular.Stat(path); err != nil {
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
	} // else leave it open: Close could block
	if err == nil && unused {
		return errors.Join(fs.ErrNotExist, os.Remove(path))
	}
	if err == nil {
		err = checkFreePages(path)
	}
	return err
}

// checkFreePages compares the list of free pages with the pages that are free. It comes last: where there is no list, bbolt
// builds one by scanning a file that was found whole.
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

// checkFreeList checks the header of the list of free pages before a commit frees its pages: bbolt frees as many as the
// header says, four billion perhaps. The offsets are those of bbolt's meta pages (internal/common/meta.go).
func checkFreeList(path string, pageSize int) error {
	const head, magic, checksum = 16, 0xED0CDAED, 56
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
		sum := fnv.New64a()
		sum.Write(meta[:checksum])
		valid := binary.NativeEndian.Uint32(meta[:]) == magic && number(checksum) == sum.Sum64() // else bbolt takes the other one
		if txid := number(48); valid && txid >= newest {
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

// asDamage wraps err as errDamaged, unless it comes from the system.
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
	case version[0] < 1 || version[0] > outboxVersion:
		return fmt.Errorf("%w: its format has version %d, this program reads versions 1 to %d", errNewer, version[0], outboxVersion)
	}
	undelivered := uint64(0)
	err := queues.ForEach(func(key, value []byte) error {
		record, err := decodeQueueRecord(value)
		if err != nil || len(key) != 8 || record.Tail < record.Head {
			return fmt.Errorf("%w: record of queue %x", errDamaged, key)
		}
		undelivered += uint64(record.Tail - record.Head)
		return nil
	})
	if err != nil {
		return err
	}
	err = events.ForEach(func(key, value []byte) error {
		if _, err := DecodeEvent(value); err != nil || len(key) != 12 {
			return fmt.Errorf("%w: event %x", errDamaged, key)
		}
		record, err := decodeQueueRecord(queues.Get(key[:8]))
		if position := binary.BigEndian.Uint32(key[8:]); err != nil || position < record.Head || position >= record.Tail {
			return fmt.Errorf("%w: event %x is not in its queue", errDamaged, key)
		}
		undelivered--
		return nil
	})
	if err == nil && undelivered != 0 {
		return fmt.Errorf("%w: the number of events is off by %d", errDamaged, int64(undelivered))
	}
	return err
}

func queueKey(number uint64) []byte { return binary.BigEndian.AppendUint64(nil, number) }

func eventKey(queue uint64, position uint32) []byte {
	return binary.BigEndian.AppendUint32(queueKey(queue), position)
}
