package outbox

import (
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

func openedStore(t testing.TB, dir string) *boltStore {
	t.Helper()
	o, found, err := openStore(dir)
	for tries := 0; errors.Is(err, errInUse) && tries < 10_000; tries++ {
		runtime.Gosched() // another test starts a process, which has the file for a moment
		o, found, err = openStore(dir)
	}
	if err != nil || found != nil {
		t.Fatal(err, found)
	}
	return o
}

func TestTheOutboxIsReadableByItsOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "data")
	o := openedStore(t, dir)
	defer o.Close()
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, outboxFile): 0o600} {
		if stat, err := os.Stat(path); err != nil || stat.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, stat.Mode(), err, want)
		}
	}
}

func TestADirectoryThatIsThereKeepsItsMode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	defer openedStore(t, dir).Close()
	if stat, err := os.Stat(dir); err != nil || stat.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", stat.Mode(), err)
	}
}

func TestASecondProcessOnTheSameDirectoryFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	app, log := newEventRecorder(), slog.New(slog.DiscardHandler)
	first, err := Open(dir, app.send, unobserved, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Finish(stopped()) }()
	if _, err = Open(dir, app.send, unobserved, log); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("second: %v", err)
	}
}

func TestAnOutboxThatCannotBeUsedEndsTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newer := filepath.Join(dir, "newer")
	file := filepath.Join(dir, "file")
	if err := os.Mkdir(newer, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(file, nil, 0o600),
		withVersion(newer, outboxVersion+1),
	); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{newer, file} {
		if _, _, err := openStore(d); err == nil || !strings.Contains(err.Error(), d) {
			t.Errorf("%s: %v", d, err)
		}
	}
}

func TestEventsAndRecordsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	ev := availableEvent("s", 300)
	ev.Previous, ev.IndexFile, ev.At = "r", strings.Repeat("\x00\xff long ", 9000), time.UnixMilli(-5)
	ev.Passthrough, ev.Reason, ev.Duration = "tenant=7", "moved", UnknownDuration
	ev.Queue, ev.Position = 0, 0
	for ev.Type = range types {
		got, err := DecodeEvent(EncodeEvent(&ev))
		if diff := cmp.Diff(ev, got, cmp.AllowUnexported(Event{})); diff != "" || err != nil {
			t.Error(err, diff)
		}
	}
	ev.Type = types
	if _, err := DecodeEvent(EncodeEvent(&ev)); err == nil {
		t.Error("a type that there is none of is taken for one")
	}
	record := QueueRecord{Head: 3, Tail: 1 << 31, HeadAt: ev.At, Announced: []AnnouncedStream{
		{Channel: "c", StreamID: "s", Previous: "r", LastSeq: 1 << 60, Passthrough: "tenant=7"}, {Channel: "c", StreamID: "t"},
	}}
	gotRecord, err := decodeQueueRecord(record.encode())
	if diff := cmp.Diff(record, gotRecord, cmp.AllowUnexported(QueueRecord{}, AnnouncedStream{})); diff != "" || err != nil {
		t.Error(err, diff)
	}

	// What was cut off, or has something behind it, is no record: it could be sent as an event with empty fields.
	short := availableEvent("s", 1)
	for name, record := range map[string][]byte{"event": EncodeEvent(&short), "record": record.encode()} {
		decode := func(b []byte) error {
			if name == "event" {
				_, err := DecodeEvent(b)
				return err
			}
			_, err := decodeQueueRecord(b)
			return err
		}
		for n := range record {
			if err := decode(record[:n]); err == nil {
				t.Errorf("%s: the first %d of %d bytes are taken for it", name, n, len(record))
			}
		}
		if err := decode(append(record, 0)); err == nil {
			t.Errorf("%s: one byte more is not noticed", name)
		}
	}
}

// TestFileOfAnEarlierVersionIsTakenUp: testdata/format1.db.gz was written when records had names. It holds an announced
// stream with an undelivered event, one that has ended, and an announced one whose event was delivered.
func TestFileOfAnEarlierVersionIsTakenUp(t *testing.T) {
	t.Parallel()
	packed, err := os.Open(filepath.Join("testdata", "format1.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	dir, app := t.TempDir(), newEventRecorder()
	if err := os.WriteFile(filepath.Join(dir, outboxFile), content, 0o600); err != nil {
		t.Fatal(err)
	}
	app.taken, app.takenIDs = []string{"live-1", "taken-1"}, map[string]bool{"live-1": true, "taken-1": true}
	c := started(t, openedStore(t, dir), app.send)
	app.await(t, 7)
	app.check(t)
	finished(t, c)
	for id, closed := range map[string]bool{"live-2": false, "live-closed": true, "ended-1": false, "ended-closed": true, "taken-closed": true} {
		if ev := app.told[id]; (ev.Type == StreamClosed) != closed || ev.At.IsZero() {
			t.Errorf("%s was told as %+v", id, ev)
		}
	}
	o := openedStore(t, dir)
	if err := o.Load(func(number uint64, record QueueRecord) { t.Errorf("left: %d %+v", number, record) }); err != nil {
		t.Error(err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

// TestAgeOfTheOldestEventIsKeptOnDisk: after a start it is known before any event is read.
func TestAgeOfTheOldestEventIsKeptOnDisk(t *testing.T) {
	t.Parallel()
	o := openedStore(t, t.TempDir())
	defer o.Close()
	old, next, last := availableEvent("s", 1), availableEvent("s", 2), availableEvent("s", 3)
	old.At, next.At, last.At = time.UnixMilli(1_000), time.UnixMilli(2_000), time.UnixMilli(3_000)
	headAt := func() (at time.Time) {
		if err := o.Load(func(_ uint64, record QueueRecord) { at = record.HeadAt }); err != nil {
			t.Fatal(err)
		}
		return at
	}
	for _, step := range []struct {
		g    Group
		want time.Time
	}{
		{Group{Appended: []Event{old}}, old.At},
		{Group{Appended: []Event{next}}, old.At},
		{Group{Delivered: []DeliveredUpTo{{Queue: queueOf("s"), Head: 1}}}, next.At},
		{Group{Delivered: []DeliveredUpTo{{Queue: queueOf("s"), Head: 2}}}, next.At}, // there is none now
		{Group{Appended: []Event{last}}, last.At},
	} {
		if _, err := o.Commit(step.g); err != nil {
			t.Fatal(err)
		}
		if got := headAt(); !got.Equal(step.want) {
			t.Errorf("the oldest event is of %v, want %v", got, step.want)
		}
	}
}

// encodeEvent1 and encodeRecord1 write as version 1 did; a record had a name at first, which was empty later.

func encodeEvent1(ev *Event) []byte {
	b := appendTime(binary.AppendUvarint(nil, uint64(ev.Type)), ev.At)
	b = binary.AppendUvarint(b, ev.Seq)
	for _, s := range []string{ev.Channel, ev.StreamID, ev.Previous, ev.StreamType, ev.Resolution, ev.IndexFile, ev.StartTime} {
		b = appendString(b, s)
	}
	return b
}

func encodeRecord1(r QueueRecord, name string) []byte {
	b := binary.AppendUvarint(binary.AppendUvarint(appendString(nil, name), uint64(r.Head)), uint64(r.Tail))
	b = binary.AppendUvarint(appendTime(b, r.HeadAt), uint64(len(r.Announced)))
	for _, s := range r.Announced {
		b = appendString(appendString(appendString(b, s.Channel), s.StreamID), s.Previous)
		b = binary.AppendUvarint(b, s.LastSeq)
	}
	return b
}

func TestVersion1IsRead(t *testing.T) {
	t.Parallel()
	for _, ev := range lifeOf("s", 1) {
		got, err := DecodeEvent(encodeEvent1(&ev))
		ev.Queue, ev.Position, ev.At, ev.Duration = 0, 0, time.UnixMilli(ev.At.UnixMilli()), UnknownDuration
		if diff := cmp.Diff(ev, got, cmp.AllowUnexported(Event{})); diff != "" || err != nil {
			t.Error(err, diff)
		}
	}
	record := QueueRecord{Head: 3, Tail: 1 << 31, HeadAt: time.UnixMilli(-5), Announced: []AnnouncedStream{{Channel: "c", StreamID: "s", LastSeq: 2}, {Channel: "c", StreamID: "t", Previous: "s", LastSeq: 1}}}
	for _, name := range []string{"", "HVMAFYBAIQJYKQGXRLT3L3DYOR"} {
		got, err := decodeQueueRecord(encodeRecord1(record, name))
		if diff := cmp.Diff(record, got); diff != "" || err != nil {
			t.Error(err, diff)
		}
	}
}

// An earlier program must not read what it would take for damage, and one that was started by mistake may go back.
func TestFileBecomesVersion2WithTheFirstCommit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openedStore(t, dir).Close()
	if err := withVersion(dir, 1); err != nil {
		t.Fatal(err)
	}
	version := func() (v byte) {
		db, err := bbolt.Open(filepath.Join(dir, outboxFile), 0o600, &bbolt.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		db.View(func(tx *bbolt.Tx) error {
			v = tx.Bucket([]byte(metaBucket)).Get([]byte(versionKey))[0]
			return nil
		})
		return v
	}
	app := newEventRecorder()
	finished(t, started(t, openedStore(t, dir), app.send))
	if v := version(); v != 1 {
		t.Errorf("a start alone leaves version %d", v)
	}
	o := started(t, openedStore(t, dir), app.send)
	appendAll(o, lifeOf("s", 1)...)
	app.await(t, 2)
	finished(t, o)
	if v := version(); v != outboxVersion {
		t.Errorf("after a commit it is version %d", v)
	}
}

func FuzzDecodingDamagedRecords(f *testing.F) {
	record := QueueRecord{Head: 3, Tail: 9, Announced: []AnnouncedStream{{Channel: "c", StreamID: "s", LastSeq: 1}}}
	f.Add(record.encode())
	ev := availableEvent("s", 1)
	f.Add(EncodeEvent(&ev))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = DecodeEvent(b)
		_, _ = decodeQueueRecord(b)
	})
}

func TestAnnouncedStreamsAreClosedAtTheNextStart(t *testing.T) {
	t.Parallel()
	dir, app := t.TempDir(), newEventRecorder()
	c := started(t, openedStore(t, dir), app.send)
	appendAll(c, availableEvent("told", 1), availableEvent("told", 2))
	appendAll(c, lifeOf("over", 1)...)
	moved := availableEvent("moved", 1)
	moved.Queue, moved.Position, moved.Previous = queueOf("told"), 2, "told"
	c.Append(moved)
	app.await(t, 5)
	app.answer = func(context.Context, string, Event) (int, http.Header, error) { return 500, nil, nil }
	appendAll(c, availableEvent("waits", 1))
	if err := c.Finish(stopped()); err != nil {
		t.Fatal(err)
	}

	app.answer = nil
	c = resumed(t, openedStore(t, dir), app.send)
	c.Append(availableEvent("later", 1))
	c.Start()
	app.await(t, 10)
	app.check(t)
	finished(t, c)
	for id, closed := range map[string]bool{"told-closed": true, "moved-closed": true, "waits-1": false, "waits-closed": true} {
		if got, told := app.told[id]; !told || (got.Type == StreamClosed) != closed {
			t.Errorf("%s: told %t, closed %t; want closed %t", id, told, got.Type == StreamClosed, closed)
		}
	}
	if got := app.told["moved-closed"].Previous; got != "told" {
		t.Errorf("moved-closed continues %q", got)
	}
	if got := app.tries("over-closed"); got != 1 {
		t.Errorf("the end of a stream that was closed was told %d times", got)
	}
}

func TestRecordKnowsWhatIsOwed(t *testing.T) {
	t.Parallel()
	var r QueueRecord
	for i, step := range []struct {
		ty     Type
		stream string
		seq    uint64
		want   string
	}{
		{PublishAccepted, "a", 0, "a 0"},
		{StreamInterrupted, "a", 0, "a 0"},
		{StreamAvailable, "b", 1, "b 1"},
		{StreamAvailable, "b", 2, "b 2"},
		{StreamAvailable, "a", 1, "b 2, a 1"},
		{StreamClosed, "b", 3, "a 1"},
		{StreamClosed, "a", 2, ""},
		{PublishAccepted, "c", 0, "c 0"},
		{PublishFailed, "c", 0, ""},
		{PublishRefused, "d", 0, ""},
	} {
		r.note(&Event{Type: step.ty, StreamID: step.stream, Seq: step.seq})
		var owed []string
		for _, a := range r.Announced {
			owed = append(owed, fmt.Sprint(a.StreamID, " ", a.LastSeq))
		}
		if got := strings.Join(owed, ", "); got != step.want {
			t.Errorf("after event %d (%v): %q is owed, want %q", i, step.ty, got, step.want)
		}
	}
}

// Each publisher that was accepted has one end, in whatever process: a stream-closed if a stream of it was available, else a
// publish-failed.
func TestAcceptedPublishersHaveTheirEndAtTheNextStart(t *testing.T) {
	t.Parallel()
	dir, app := t.TempDir(), newEventRecorder()
	o := started(t, openedStore(t, dir), app.send)
	next := map[string]uint32{}
	add := func(queue, stream string, ty Type, seq uint64) {
		o.Append(Event{Type: ty, Queue: queueOf(queue), Position: next[queue], Channel: "c", StreamID: stream, Seq: seq, Passthrough: "p-" + queue, At: time.Now()})
		next[queue]++
	}
	add("waits", "waits", PublishAccepted, 0)
	add("live", "live", PublishAccepted, 0)
	add("live", "live", StreamAvailable, 1)
	add("second", "second", PublishAccepted, 0)
	add("second", "second", StreamInterrupted, 0)
	add("second", "other", StreamAvailable, 1)
	add("failed", "failed", PublishAccepted, 0)
	add("failed", "failed", PublishFailed, 0)
	add("over", "over", PublishAccepted, 0)
	add("over", "over", StreamAvailable, 1)
	add("over", "over", StreamClosed, 2)
	add("refused", "nobody", PublishRefused, 0)
	app.await(t, 12)
	if err := o.Finish(stopped()); err != nil {
		t.Fatal(err)
	}
	o = started(t, openedStore(t, dir), app.send)
	app.await(t, 15)
	finished(t, o)
	for id, want := range map[string]Event{
		"waits-failed": {Type: PublishFailed, Channel: "c", StreamID: "waits", Reason: "coordinator_lost", Passthrough: "p-waits", Duration: UnknownDuration},
		"live-closed":  {Type: StreamClosed, Channel: "c", StreamID: "live", Seq: 2, Reason: "coordinator-lost", Passthrough: "p-live", Duration: UnknownDuration},
		"other-closed": {Type: StreamClosed, Channel: "c", StreamID: "other", Seq: 2, Reason: "coordinator-lost", Passthrough: "p-second", Duration: UnknownDuration},
	} {
		got, told := app.told[id]
		got.Queue, got.Position, got.At = 0, 0, time.Time{}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Event{})); !told || diff != "" {
			t.Errorf("%s: told %t\n%s", id, told, diff)
		}
	}
	o = started(t, openedStore(t, dir), app.send)
	finished(t, o)
	if len(app.taken) != 15 {
		t.Errorf("%d events are told, want 15", len(app.taken))
	}
}

func TestNoCrashLosesOrReordersEvents(t *testing.T) {
	t.Parallel()
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		for range 8 {
			synctest.Test(t, func(t *testing.T) {
				crashAndResume(t, 50, newMemoryStore(), func(s Store) Store { return s.(*memoryStore).crashed() })
			})
		}
	})
	t.Run("on disk", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		crashAndResume(t, 25, openedStore(t, filepath.Join(dir, "0")), func(s Store) Store {
			path := filepath.Join(s.(*boltStore).dir, outboxFile)
			next, dirErr := os.MkdirTemp(dir, "")
			data, err := os.ReadFile(path)
			if err := errors.Join(dirErr, err, os.WriteFile(filepath.Join(next, outboxFile), data, 0o600)); err != nil {
				t.Error(err)
			}
			return openedStore(t, next)
		})
	})
}

// crashAndResume runs lives that crash at a random commit, just before or just after it, with requests in flight. Then it
// checks that each event that was committed was taken, that none was taken out of order, that a repeat is the same event,
// and that each stream that was begun is closed by its last event.
func crashAndResume(t *testing.T, lives int, store Store, atCrash func(Store) Store) {
	app := newEventRecorder()
	closedWith := map[string]string{} // last event ID by stream
	committed := map[string]bool{}
	var mu sync.Mutex
	for life := range lives {
		crashed, copied, next := make(chan struct{}), make(chan struct{}), Store(nil)
		lastLife := life == lives-1
		commitsLeft, before := 1+rand.IntN(15), rand.IntN(2) == 0
		crash := func() error {
			select {
			case <-crashed:
			default:
				close(crashed) // from here on nobody hears from this process
				next = atCrash(store)
				close(copied)
			}
			return errors.New("crashed")
		}
		app.answer = func(ctx context.Context, _ string, _ Event) (int, http.Header, error) {
			select {
			case <-crashed:
				return 0, nil, errUnreachable
			default:
			}
			if rand.IntN(8) == 0 {
				return 500, nil, nil
			}
			return 200, nil, nil
		}
		send := func(ctx context.Context, ev Event) (int, http.Header, error) {
			status, reply, err := app.send(ctx, ev)
			select {
			case <-crashed:
				return 0, nil, errUnreachable
			default:
			}
			if rand.IntN(8) == 0 {
				return 0, nil, errUnreachable // the answer is lost on its way
			}
			return status, reply, err
		}
		faulty := &faultyStore{Store: recordingStore{store, func(ev Event) {
			mu.Lock()
			defer mu.Unlock()
			committed[ev.ID()] = true
		}}}
		faulty.beforeCommit = func() error {
			if commitsLeft--; !lastLife && (commitsLeft < 0 || commitsLeft == 0 && before) {
				return crash()
			}
			return nil
		}
		faulty.afterCommit = func() error {
			if commitsLeft == 0 && !lastLife {
				return crash()
			}
			return nil
		}
		c, err := resume(faulty, send, slog.New(slog.DiscardHandler))
		if err == nil {
			c.Start()
			seqs, begun := make([]int, 8), make([]int, 8)
			for more := true; more && !lastLife; {
				s := rand.IntN(len(seqs))
				stream := fmt.Sprintf("life%d.%d.%d", life, s, begun[s])
				if seqs[s]++; seqs[s] > 1 && rand.IntN(6) == 0 {
					c.Append(closedEvent(stream, seqs[s]))
					seqs[s] = 0
					begun[s]++
				} else {
					c.Append(availableEvent(stream, seqs[s]))
				}
				select {
				case <-crashed:
					more = false
				case <-time.After(rand.N(2 * time.Millisecond)):
				}
			}
			if lastLife {
				finished(t, c)
				break
			}
			_ = c.Finish(stopped())
		} else {
			_ = store.Close()
		}
		<-copied // finishing does not wait for a slow disk
		store = next
	}
	app.check(t)
	mu.Lock()
	defer mu.Unlock()
	for id := range committed {
		if !app.takenIDs[id] {
			t.Errorf("%s was committed and never taken", id)
		}
	}
	for _, id := range app.taken {
		stream := app.told[id].StreamID
		closedWith[stream] = id
	}
	for stream, id := range closedWith {
		if app.told[id].Type != StreamClosed {
			t.Errorf("the last event of stream %s is %s", stream, id)
		}
	}
	if len(closedWith) == 0 {
		t.Error("nothing was delivered")
	}
}

// recordingStore tells which events were committed.
type recordingStore struct {
	Store
	committed func(Event)
}

func (s recordingStore) Commit(g Group) (Group, error) {
	left, err := s.Store.Commit(g)
	for _, ev := range g.Appended[:len(g.Appended)-len(left.Appended)] {
		s.committed(ev)
	}
	return left, err
}

func withVersion(dir string, version byte) error {
	o, _, err := openStore(dir)
	if err != nil {
		return err
	}
	err = o.db.Load().Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(metaBucket)).Put([]byte(versionKey), []byte{version})
	})
	return errors.Join(err, o.Close())
}
