package outbox

// What can befall the file of the outbox beyond full disks and damaged pages: starts side by side, commits whose error comes
// late, crashes between two steps.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
)

// mustCommit commits all of a group.
func mustCommit(t *testing.T, s *boltStore, g Group) {
	t.Helper()
	if left, err := s.Commit(g); err != nil || !left.empty() {
		t.Fatal(err, left)
	}
}

// TestPublishersAreAdmittedOnADiskThatOthersHaveFilled: a small outbox has room for streams that come and go.
func TestPublishersAreAdmittedOnADiskThatOthersHaveFilled(t *testing.T) {
	t.Parallel()
	s := openedStore(t, t.TempDir())
	defer s.Close()
	s.db.Load().MaxSize = 1 // nothing more
	for i := range 500 {
		name := fmt.Sprint("s", i)
		mustCommit(t, s, Group{Appended: lifeOf(name, 3)})
		mustCommit(t, s, Group{Delivered: []DeliveredUpTo{{Queue: queueOf(name), Head: 4}}})
		if i%10 == 0 {
			mustCommit(t, s, Group{Appended: []Event{availableEvent(fmt.Sprint("stays", i), 1)}})
			mustCommit(t, s, Group{Delivered: []DeliveredUpTo{{Queue: queueOf(fmt.Sprint("stays", i)), Head: 1}}})
		}
	}
	mustCommit(t, s, Group{})
	if err := s.Trouble(); err != nil {
		t.Error(err)
	}
}

// TestRemovalThatHangsIsNoticed, too: nothing is sent meanwhile.
func TestRemovalThatHangsIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var hang atomic.Bool
		release := make(chan struct{})
		store := &faultyStore{Store: newMemoryStore(), beforeCommit: func() error {
			if hang.Load() {
				<-release
			}
			return nil
		}}
		app := newEventRecorder()
		c := started(t, store, app.send)
		c.Append(availableEvent("s", 1))
		app.await(t, 1)
		hang.Store(true) // before its removal
		time.Sleep(commitPatience + time.Second)
		if err := c.Err(); !errors.Is(err, errStoreHangs) {
			t.Errorf("after 6 s: %v", err)
		}
		hang.Store(false)
		close(release)
		synctest.Wait()
		if err := c.Err(); err != nil {
			t.Error(err)
		}
		finished(t, c)
	})
}

// change opens the file as a plain database.
func change(t *testing.T, dir string, f func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, outboxFile), 0o600, nil)
	if err == nil {
		err = errors.Join(db.Update(f), db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestEventUnderAWrongKeyIsDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openedStore(t, dir)
	mustCommit(t, s, Group{Appended: lifeOf("s", 3)})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	change(t, dir, func(tx *bbolt.Tx) error {
		events := tx.Bucket([]byte(eventsBucket))
		key := eventKey(queueOf("s"), 1)
		value := append([]byte(nil), events.Get(key)...)
		return errors.Join(events.Delete(key), events.Put(eventKey(queueOf("s"), 1|1<<20), value))
	})
	s, found, err := openStore(dir)
	if err != nil || found == nil {
		t.Fatal(err, found)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestDamageFoundInUseIsSetAsideAtTheNextStart, whether or not a start would find it.
func TestDamageFoundInUseIsSetAsideAtTheNextStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openedStore(t, dir)
	mustCommit(t, s, Group{Appended: lifeOf("s", 3)})
	s.foundDamage(errDamaged)
	// As the end of the process does:
	if err := errors.Join(s.db.Load().Close(), s.lock.Close()); err != nil {
		t.Fatal(err)
	}
	s, found, err := openStore(dir)
	if err != nil || found == nil {
		t.Fatal(err, found)
	}
	if _, err := os.Stat(found.aside); err != nil {
		t.Error(err)
	}
	mustCommit(t, s, Group{Appended: lifeOf("later", 1)})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openedStore(t, dir).Close(); err != nil { // the next one finds nothing
		t.Error(err)
	}
}

// TestMetaPageWithoutItsChecksumIsNotBelieved: bbolt takes the other one, and so does the check before a commit.
func TestMetaPageWithoutItsChecksumIsNotBelieved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openedStore(t, dir)
	mustCommit(t, s, Group{Appended: lifeOf("s", 3)})
	pageSize := s.db.Load().Info().PageSize
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, outboxFile)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	txid := func(page int) uint64 { return binary.NativeEndian.Uint64(content[page*pageSize+16+48:]) }
	newest := 0
	if txid(1) > txid(0) {
		newest = 1
	}
	content[newest*pageSize+16+32+3] ^= 0x10 // in the place of its list of free pages
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s = openedStore(t, dir)
	defer s.Close()
	mustCommit(t, s, Group{Appended: lifeOf("later", 1)})
	if err := s.Trouble(); err != nil {
		t.Error(err)
	}
}

// TestCommitThatIsRepeatedInPartsKeepsTheRest: it had reached the disk before its error came.
func TestCommitThatIsRepeatedInPartsKeepsTheRest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openedStore(t, dir)
	life := lifeOf("s", 5)
	mustCommit(t, s, Group{Appended: life})
	mustCommit(t, s, Group{Appended: life[:2]})
	if s.announced != 0 {
		t.Errorf("%d streams are announced", s.announced)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openedStore(t, dir)
	defer s.Close()
	err := s.Load(func(_ uint64, record QueueRecord) {
		if record.Head != 0 || record.Tail != 6 || len(record.Announced) != 0 {
			t.Errorf("record %+v", record)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// TestOneOfTwoStartsWins, whatever is in the directory.
func TestOneOfTwoStartsWins(t *testing.T) {
	t.Parallel()
	damaged, _ := damagedFile(t)
	copy(damaged[:4096], make([]byte, 4096))
	copy(damaged[4096:8192], make([]byte, 4096))
	for name, content := range map[string][]byte{"nothing": nil, "a damaged file": damaged} {
		for range 4 {
			dir := t.TempDir()
			if content != nil {
				if err := os.WriteFile(filepath.Join(dir, outboxFile), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var starts sync.WaitGroup
			var won, lost atomic.Int64
			stores := make([]*boltStore, 2)
			for i := range stores {
				starts.Go(func() {
					s, _, err := openStore(dir)
					switch {
					case err == nil:
						stores[i] = s
						won.Add(1)
					case errors.Is(err, errInUse):
						lost.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			starts.Wait()
			if won.Load() != 1 || lost.Load() != 1 {
				t.Fatalf("%s: %d started, %d did not", name, won.Load(), lost.Load())
			}
			for _, s := range stores {
				if s != nil {
					mustCommit(t, s, Group{Appended: lifeOf("s", 1)})
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				}
			}
		}
	}
}

// TestCrashInTheMiddleOfGrowingLosesNoRoom: the value that makes the file longer is still there.
func TestCrashInTheMiddleOfGrowingLosesNoRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openedStore(t, dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	change(t, dir, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(metaBucket)).Put([]byte(roomKey), make([]byte, (pagesAtFirst-10)*os.Getpagesize()))
	})
	s = openedStore(t, dir)
	defer s.Close()
	s.db.Load().MaxSize = 1
	mustCommit(t, s, Group{Appended: lifeOf("s", 3)})
	if err := s.Trouble(); err != nil {
		t.Error(err)
	}
}

// TestRemovalNeedsNoPagesInARow: it goes without the list of free pages, which the next commit writes again.
func TestRemovalNeedsNoPagesInARow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openedStore(t, dir)
	mustCommit(t, s, Group{Appended: lifeOf("s", 3)})
	if err := s.writeWithoutFreeList(s.db.Load(), Group{Delivered: []DeliveredUpTo{{Queue: queueOf("s"), Head: 2}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // as it is
		t.Fatal(err)
	}
	s = openedStore(t, dir)
	mustCommit(t, s, Group{Delivered: []DeliveredUpTo{{Queue: queueOf("s"), Head: 3}}})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openedStore(t, dir)
	defer s.Close()
	err := s.Load(func(_ uint64, record QueueRecord) {
		if record.Head != 3 || record.Tail != 4 {
			t.Errorf("record %+v", record)
		}
	})
	if free := freePages(s.db.Load()); err != nil || free < streamPages || s.Trouble() != nil {
		t.Errorf("%v, %d free pages, %v", err, free, s.Trouble())
	}
}
