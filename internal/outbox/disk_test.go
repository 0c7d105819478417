package outbox

// Disks that fill up and files that are damaged, at the start and while the daemon runs.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// volume is a directory with little room.
type volume struct {
	dir  string
	fill func() error // takes the rest of the room
	free func() error // gives it back
}

const volumeSize = 4 << 20

// smallVolumes are those that can be had here: a limit of the file's size everywhere, real file systems where this may
// mount them.
func smallVolumes(t *testing.T, story func(t *testing.T, open func(t testing.TB) *boltStore, v volume)) {
	t.Run("limit of the file", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		nothing := func() error { return nil }
		story(t, func(t testing.TB) *boltStore {
			o := openedStore(t, dir)
			o.db.Load().MaxSize = volumeSize
			return o
		}, volume{dir, nothing, nothing})
	})
	for name, mount := range map[string]func(t *testing.T, dir string) error{"tmpfs": mountTmpfs, "ext4": mountExt4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := mount(t, dir); err != nil {
				if os.Getenv("CI") == "true" && os.Getuid() == 0 {
					t.Fatal(err)
				}
				t.Skip("cannot mount a small volume here: ", err)
			}
			t.Cleanup(func() {
				if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
					t.Errorf("umount: %v %s", err, out)
				}
			})
			data, other := filepath.Join(dir, "data"), filepath.Join(dir, "of others")
			story(t, func(t testing.TB) *boltStore { return openedStore(t, data) }, volume{data, func() error { return fillWith(other) }, func() error { return os.Remove(other) }})
		})
	}
}

func mountTmpfs(_ *testing.T, dir string) error {
	return mountWith("-t", "tmpfs", "-o", fmt.Sprint("size=", volumeSize), "tmpfs", dir)
}

func mountExt4(t *testing.T, dir string) error {
	image := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 2*volumeSize)); err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", image).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w %s", err, out)
	}
	return mountWith("-o", "loop", image, dir)
}

func mountWith(args ...string) error {
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mount: %w %s", err, out)
	}
	return nil
}

// fillWith writes a file until the volume is full, to the last byte.
func fillWith(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return nil
}

// crowdedStreams are live when the application goes away.
const crowdedStreams = 50

// fillUp has live streams tell of themselves while the application is away, until no stream may begin any more, and then until the
// disk takes nothing. It returns how many events were told.
func fillUp(t *testing.T, c *Outbox) (seq int) {
	t.Helper()
	deniedAt, brokenAt := 0, 0
	for seq = 1; brokenAt == 0 || seq < brokenAt+5; seq++ {
		for i := range crowdedStreams {
			c.Append(availableEvent(fmt.Sprint("s", i), seq))
		}
		<-time.After(20 * time.Millisecond)
		synctest.Wait()
		if deniedAt == 0 && c.Err() != nil {
			deniedAt = seq
		}
		if brokenAt == 0 && c.committing() != nil {
			brokenAt = seq
		}
		if seq > 10_000 {
			t.Fatal("the disk is never full")
		}
	}
	if deniedAt >= brokenAt {
		t.Errorf("publishers are denied at round %d, when the disk takes nothing from round %d on: the last of the room is not kept", deniedAt, brokenAt)
	}
	return seq - 1
}

func closeAll(c *Outbox, seq int) {
	for i := range crowdedStreams {
		c.Append(closedEvent(fmt.Sprint("s", i), seq))
	}
}

var errAway = errors.New("away")

func away(context.Context, string, Event) (int, http.Header, error) { return 0, nil, errAway }

// TestFullDiskRecoversWhenTheApplicationIsBack: nobody frees space by hand.
func TestFullDiskRecoversWhenTheApplicationIsBack(t *testing.T) {
	t.Parallel()
	smallVolumes(t, func(t *testing.T, open func(testing.TB) *boltStore, v volume) {
		synctest.Test(t, func(t *testing.T) {
			app := newEventRecorder()
			app.answer = away
			c := started(t, open(t), app.send)
			told := fillUp(t, c)
			if err := v.fill(); err != nil {
				t.Fatal(err)
			}
			closeAll(c, told+1)
			<-time.After(10 * time.Second)
			app.comesBack()
			app.await(t, crowdedStreams*(told+1))
			<-time.After(10 * time.Second)
			synctest.Wait()
			if err := c.Err(); err != nil {
				t.Errorf("publishers are still denied: %v", err)
			}
			if pending, _ := c.Pending(); pending != 0 {
				t.Errorf("%d events are pending", pending)
			}
			app.check(t)
			finished(t, c)
		})
	})
}

// fullStore has room for removals only.
type fullStore struct {
	Store
	removed func(events int)
}

func (s fullStore) Commit(g Group) (Group, error) {
	if _, err := s.Store.Commit(Group{Delivered: g.Delivered}); err != nil {
		return g, err
	}
	s.removed(len(g.Delivered))
	g.Delivered = nil
	return g, errNoRoom
}

// TestDeliveredEventsMakeRoomSoon: on a full disk, too, what was delivered is removed within a moment. Otherwise a crash
// would have it all sent again.
func TestDeliveredEventsMakeRoomSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, app := newMemoryStore(), newEventRecorder()
		const streams = 100
		for i := range streams {
			if _, err := store.Commit(Group{Appended: lifeOf(fmt.Sprint("s", i), 0)}); err != nil {
				t.Fatal(err)
			}
		}
		began, removed, last := time.Now(), 0, time.Duration(0)
		c := started(t, fullStore{store, func(events int) {
			if removed += events; events > 0 {
				last = time.Since(began)
			}
		}}, app.send)
		c.Append(availableEvent("more", 1)) // there is no room for it
		app.await(t, streams)
		<-time.After(10 * time.Second)
		_ = c.Finish(stopped()) // what has no room is lost; from here on nobody else counts
		if removed != streams || last > 2*removalsRetry {
			t.Errorf("%d of %d events were removed, the last ones after %v", removed, streams, last)
		}
	})
}

// TestStartOnAFullDiskWorks, and recovers the same way: streams that were announced get their stream-closed.
func TestStartOnAFullDiskWorks(t *testing.T) {
	t.Parallel()
	smallVolumes(t, func(t *testing.T, open func(testing.TB) *boltStore, v volume) {
		synctest.Test(t, func(t *testing.T) {
			app := newEventRecorder()
			app.answer = away
			c := started(t, open(t), app.send)
			fillUp(t, c)
			if err := v.fill(); err != nil {
				t.Fatal(err)
			}
			_ = c.Finish(stopped()) // what does not fit is lost with the process

			app.comesBack()
			c = started(t, open(t), app.send)
			for i := range crowdedStreams {
				stream := fmt.Sprint("s", i)
				for app.tries(stream+"-1") == 0 || !app.isClosed(stream) {
					<-time.After(time.Second)
				}
			}
			<-time.After(10 * time.Second)
			synctest.Wait()
			if err := c.Err(); err != nil {
				t.Errorf("publishers are still denied: %v", err)
			}
			app.check(t)
			finished(t, c)
		})
	})
}

// isClosed tells whether the last event that was taken of a stream is its stream-closed.
func (a *eventRecorder) isClosed(stream string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := len(a.taken) - 1; i >= 0; i-- {
		if strings.HasPrefix(a.taken[i], stream+"-") {
			return a.told[a.taken[i]].Type == StreamClosed
		}
	}
	return false
}

// TestFirstStartOnAFullDiskLeavesNothingBehind: neither does one that is cut off.
func TestFirstStartOnAFullDiskLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	smallVolumes(t, func(t *testing.T, open func(testing.TB) *boltStore, v volume) {
		if err := errors.Join(os.MkdirAll(v.dir, 0o700), v.fill()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(v.dir), "of others")); err != nil {
			t.Skip("this volume is not full before there is an outbox")
		}
		o, found, err := openStore(v.dir)
		if err != nil || found != nil {
			t.Fatal(err, found)
		}
		if !errors.Is(o.Trouble(), errNoRoom) {
			t.Errorf("trouble: %v", o.Trouble())
		}
		if files, err := os.ReadDir(v.dir); err != nil || len(files) > 0 {
			t.Errorf("left behind: %v %v", files, err)
		}
		g := Group{Appended: lifeOf("s", 3)}
		if left, err := o.Commit(g); err == nil || len(left.Appended) != 4 {
			t.Errorf("commit without room: %v, %d left", err, len(left.Appended))
		}
		if err := v.free(); err != nil {
			t.Fatal(err)
		}
		if left, err := o.Commit(g); err != nil || !left.empty() || o.Trouble() != nil {
			t.Errorf("commit with room: %v, %v, %v", left, err, o.Trouble())
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestRoomForManyLiveStreamsCostsLittle: it is kept as ballast, or each commit would write a long list of free pages; it is
// there again after a restart, and free when the streams have ended.
func TestRoomForManyLiveStreamsCostsLittle(t *testing.T) {
	t.Parallel()
	const streams, part = 5 * chunkPages * endsPerPage, 512
	dir := t.TempDir()
	o := openedStore(t, dir)
	commit := func(g Group) {
		t.Helper()
		if left, err := o.Commit(g); err != nil || !left.empty() || o.Trouble() != nil {
			t.Fatal(err, left.empty(), o.Trouble())
		}
		if free := freePages(o.db.Load()); free > 8*chunkPages && o.announced > 0 {
			t.Fatalf("%d pages are free with %d live streams", free, o.announced)
		}
	}
	stream := func(i int, event func(string, int) Event, seq int) (ev Event) {
		ev = event("s", seq)
		ev.StreamID, ev.Queue, ev.Position = fmt.Sprint("s", i), uint64(i+1), uint32(seq-1)
		return ev
	}
	for i := 0; i < streams; i += part {
		var announced, taken Group
		for k := i; k < i+part; k++ {
			announced.Appended = append(announced.Appended, stream(k, availableEvent, 1))
			taken.Delivered = append(taken.Delivered, DeliveredUpTo{Queue: uint64(k + 1), Head: 1})
		}
		commit(announced)
		commit(taken)
	}
	enough := func() {
		t.Helper()
		if room := freePages(o.db.Load()) + o.ballast*chunkPages; room < removalPages+streamPages+streams/endsPerPage {
			t.Errorf("room for %d pages only, with %d live streams", room, streams)
		}
	}
	enough()
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	o = openedStore(t, dir)
	if err := o.Load(func(uint64, QueueRecord) {}); err != nil || o.ballast == 0 {
		t.Fatal(err, o.ballast)
	}
	commit(Group{})
	enough()

	// On a disk that takes nothing more all of them can end.
	o.db.Load().MaxSize = 1
	for i := 0; i < streams; i += part {
		var g Group
		for k := i; k < i+part; k++ {
			g.Appended = append(g.Appended, stream(k, closedEvent, 2))
		}
		if left, err := o.Commit(g); err != nil || !left.empty() {
			t.Fatalf("after %d ends: %v, %d left", i, err, len(left.Appended))
		}
	}
	for i := range streams / part {
		var g Group
		for k := i * part; k < (i+1)*part; k++ {
			g.Delivered = append(g.Delivered, DeliveredUpTo{Queue: uint64(k + 1), Head: 2})
		}
		if left, err := o.Commit(g); err != nil || !left.empty() {
			t.Fatalf("after %d removals: %v, %d left", i*part, err, len(left.Delivered))
		}
	}
	for range 2 * streams / endsPerPage / chunkPages {
		if _, err := o.Commit(Group{}); err != nil {
			t.Fatal(err)
		}
	}
	if o.Trouble() != nil || o.announced != 0 || o.ballast > 1 {
		t.Errorf("at the end: %v, %d announced, %d chunks", o.Trouble(), o.announced, o.ballast)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

func TestStartThatWasCutOffHarmsNoLaterOne(t *testing.T) {
	t.Parallel()
	whole := filepath.Join(t.TempDir(), "data")
	if err := openedStore(t, whole).Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(whole, outboxFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, left := range map[string]string{"nothing": "", "a part": string(content[:9000]), "all but the name": string(content)} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, outboxFile+unfinished), []byte(left), 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "nothing" { // as earlier versions left it
			if err := os.WriteFile(filepath.Join(dir, outboxFile), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o := openedStore(t, dir)
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Errorf("%s: %v %v", name, files, err)
		}
	}
}

// damagedFile returns an outbox with events of streams that have ended, of others that are announced, and with free pages.
func damagedFile(t *testing.T) (content []byte, pageSize int) {
	t.Helper()
	dir := t.TempDir()
	o := openedStore(t, dir)
	for i := range 40 {
		g := Group{Appended: lifeOf(fmt.Sprint("ended", i), 3)}
		if i%4 == 0 {
			g.Appended = g.Appended[:3] // announced
		}
		if i > 20 {
			g.Delivered = []DeliveredUpTo{{Queue: queueOf(fmt.Sprint("ended", i-20)), Head: 2}}
		}
		if _, err := o.Commit(g); err != nil {
			t.Fatal(err)
		}
	}
	pageSize = o.db.Load().Info().PageSize
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, outboxFile))
	if err != nil {
		t.Fatal(err)
	}
	return content, pageSize
}

// damages are what a disk does to a page.
func damages(pageSize int) map[string]func(file *os.File, page int64) error {
	at := func(page int64) int64 { return page * int64(pageSize) }
	return map[string]func(*os.File, int64) error{
		"zeros": func(file *os.File, page int64) error {
			_, err := file.WriteAt(make([]byte, pageSize), at(page))
			return err
		},
		"garbage": func(file *os.File, page int64) error {
			garbage := make([]byte, pageSize)
			for i := range garbage {
				garbage[i] = byte(rand.Uint32())
			}
			_, err := file.WriteAt(garbage, at(page))
			return err
		},
		"garbage behind its head": func(file *os.File, page int64) error {
			garbage := make([]byte, pageSize-16)
			for i := range garbage {
				garbage[i] = byte(rand.Uint32())
			}
			_, err := file.WriteAt(garbage, at(page)+16)
			return err
		},
		"cut off": func(file *os.File, page int64) error { return file.Truncate(at(page)) },
	}
}

// TestDamagedPagesNeverEndTheProcess damages each page of a file in turn, before a start and while its events are
// delivered. Whatever is found, the daemon goes on with it, and the start after that finds nothing to stumble over.
func TestDamagedPagesNeverEndTheProcess(t *testing.T) {
	t.Parallel()
	content, pageSize := damagedFile(t)
	for name, damage := range damages(pageSize) {
		for _, when := range []string{"before the start", "while it runs"} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				set := 0
				for page := range int64(len(content) / pageSize) {
					if !slices.ContainsFunc(content[page*int64(pageSize):][:pageSize], func(b byte) bool { return b != 0 }) {
						continue // nothing was ever there
					}
					set += damagedPage(t, content, page, damage, when == "while it runs")
				}
				if set < 5 {
					t.Errorf("damage was found %d times: the pages in use were not among those", set)
				}
			})
		}
	}
}

// damagedPage opens files outside of the bubble: another test that starts a process just then holds their locks for a moment,
// and no time would pass meanwhile.
func damagedPage(t *testing.T, content []byte, page int64, damage func(*os.File, int64) error, running bool) (found int) {
	dir := quickDirectory(t)
	path := filepath.Join(dir, outboxFile)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	hit := func() {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err = errors.Join(err, damage(file, page), file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if !running {
		hit()
	}
	o, set, err := openStore(dir)
	if err != nil {
		t.Fatalf("page %d: %v", page, err)
	}
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		app.answer = away
		c := started(t, o, app.send)
		if <-time.After(time.Second); running {
			hit()
		}
		synctest.Wait()
		app.comesBack()
		appendAll(c, lifeOf("later", 2)...)
		for app.tries("later-closed") == 0 && !errors.Is(c.Err(), errStoreHangs) { // a fault can leave the writer waiting in bbolt
			<-time.After(time.Second)
		}
		<-time.After(time.Minute)
		if o.Trouble() != nil && (c.Err() == nil || !c.Damaged()) {
			t.Errorf("page %d: publishers are not denied though the outbox is damaged", page)
		}
		_ = c.Finish(stopped())
	})
	if damaged := o.Trouble(); damaged != nil && !errors.Is(damaged, errDamaged) {
		t.Errorf("page %d: %v", page, damaged)
	} else if damaged != nil {
		found = 1
	}
	if set != nil {
		found = 1
		if _, err := os.Stat(set.aside); err != nil || set.file != path {
			t.Errorf("page %d: set aside as %+v, %v", page, set, err)
		}
	}
	next := quickDirectory(t) // for a damaged file is held until the end of the process
	if left, err := os.ReadFile(path); err == nil {
		if err := os.WriteFile(filepath.Join(next, outboxFile), left, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, _, err = openStore(next)
	if err != nil {
		t.Fatalf("page %d, the next start: %v", page, err)
	}
	if _, err := o.Commit(Group{Appended: lifeOf("next", 1)}); err != nil || o.Trouble() != nil {
		t.Errorf("page %d, the next start: %v %v", page, err, o.Trouble())
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	return found
}

// quickDirectory is in memory where the system has such files: how
// long the disk of a busy machine takes is not the question.
func quickDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "coordinator")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
