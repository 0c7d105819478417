package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"coordinator/internal/lease"
	"coordinator/internal/outbox"
	"coordinator/internal/pgtest"
	"coordinator/internal/secret"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main{M: m}) }

func open(t testing.TB, url string) *Database {
	t.Helper()
	d, err := New(secret.Secret(url), unobserved)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// lead takes over whatever is there.
func lead(t testing.TB, d *Database, holder string) (epoch uint64) {
	t.Helper()
	row, err := d.Look(t.Context())
	for tries := 0; err != nil && tries < 20; tries++ { // a busy machine may take longer to make the tables than a coordinator waits
		row, err = d.Look(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	epoch, won, err := d.TakeOver(t.Context(), row, 0, holder)
	if err != nil || !won {
		t.Fatalf("not taken over: %v", err)
	}
	return epoch
}

func event(queue uint64, position uint32, stream string, seq uint64) outbox.Event {
	return outbox.Event{
		Queue: queue, Position: position, Channel: "channel", StreamID: stream, Seq: seq, At: time.UnixMilli(1e12 + int64(position)),
		StreamType: "HLS-LIVE", Resolution: "1x1", IndexFile: "i",
	}
}

func closed(queue uint64, position uint32, stream string, seq uint64) outbox.Event {
	return outbox.Event{Queue: queue, Position: position, Channel: "channel", StreamID: stream, Seq: seq, At: time.UnixMilli(1e12 + int64(position)), Type: outbox.StreamClosed}
}

func commit(t testing.TB, s *Store, g outbox.Group) {
	t.Helper()
	if left, err := s.Commit(g); err != nil || len(left.Appended) > 0 {
		t.Fatalf("%d events are left: %v", len(left.Appended), err)
	}
}

// contents is all that a store holds.
type contents struct {
	Queues  map[uint64]outbox.QueueRecord
	Cluster outbox.Cluster
}

func contentsOf(t testing.TB, s *Store) contents {
	t.Helper()
	c := contents{Queues: map[uint64]outbox.QueueRecord{}}
	if err := s.Load(func(number uint64, r outbox.QueueRecord) { c.Queues[number] = r }); err != nil {
		t.Fatal(err)
	}
	var err error
	if c.Cluster, err = s.Cluster(); err != nil {
		t.Fatal(err)
	}
	return c
}

func notDeposed(t testing.TB) func(uint64) {
	return func(epoch uint64) { t.Errorf("deposed by epoch %d", epoch) }
}

func TestStoreHoldsWhatIsCommitted(t *testing.T) {
	t.Parallel()
	d := open(t, pgtest.URL(t))
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	if c := contentsOf(t, s); len(c.Queues) > 0 || c.Cluster.StoreID != "" {
		t.Errorf("a new database holds %+v", c)
	}
	first, second := event(7, 0, "s", 1), event(7, 1, "s", 2)
	first.Message, first.Session = 5, 70
	second.Message, second.Session = 6, 70
	commit(t, s, outbox.Group{
		Appended: []outbox.Event{first, second, event(9, 0, "u", 1), closed(9, 1, "u", 2)},
		Changes:  []outbox.Change{{Kind: outbox.StoreNamed, ID: "store"}, outbox.AddGateway("g1"), outbox.AddGateway("g2"), outbox.RemoveGateway("g2"), outbox.UseNumbers(1 << 20)},
	})
	commit(t, s, outbox.Group{Delivered: []outbox.DeliveredUpTo{{Queue: 7, Head: 2}, {Queue: 9, Head: 1}}})
	want := contents{
		Queues: map[uint64]outbox.QueueRecord{
			7: {Head: 2, Tail: 2, Announced: []outbox.AnnouncedStream{{Channel: "channel", StreamID: "s", LastSeq: 2}}},
			9: {Head: 1, Tail: 2, HeadAt: time.UnixMilli(1e12 + 1)},
		},
		Cluster: outbox.Cluster{StoreID: "store", Numbers: 1 << 20, Gateways: []string{"g1"}, Applied: map[uint64]uint64{70: 6}},
	}
	if diff := cmp.Diff(want, contentsOf(t, s)); diff != "" {
		t.Error(diff)
	}
	got, err := s.Read(9, 1)
	wanted := closed(9, 1, "u", 2)
	wanted.Queue, wanted.Position = 0, 0 // they are the caller's
	if diff := cmp.Diff(wanted, got, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".more" }, cmp.Ignore())); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := s.Read(7, 0); !errors.Is(err, outbox.ErrUnreadable) {
		t.Errorf("an event that is not there: %v", err)
	}
}

// A commit whose answer was lost is made again.
func TestCommitTwiceLeavesTheSame(t *testing.T) {
	t.Parallel()
	d := open(t, pgtest.URL(t))
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 0, "a", 1), event(2, 0, "b", 1)}})
	ev := event(1, 1, "a", 2)
	ev.Session, ev.Message = 3, 4
	g := outbox.Group{
		Appended:  []outbox.Event{ev, closed(2, 1, "b", 2), event(2, 2, "c", 1)},
		Delivered: []outbox.DeliveredUpTo{{Queue: 1, Head: 1}},
		Changes:   []outbox.Change{outbox.AddGateway("g"), outbox.ForgetSession(9)},
	}
	commit(t, s, g)
	once := contentsOf(t, s)
	commit(t, s, g)
	if diff := cmp.Diff(once, contentsOf(t, s)); diff != "" {
		t.Error(diff)
	}
}

func TestOldEpochWritesNothing(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	old, next := open(t, url), open(t, url)
	var heard uint64
	first := old.Store(lead(t, old, "a"), func(epoch uint64) { heard = epoch })
	commit(t, first, outbox.Group{Appended: []outbox.Event{event(1, 0, "a", 1)}})
	epoch := lead(t, next, "b")
	if held, err := old.Renew(t.Context(), first.epoch, "a"); held || err != nil {
		t.Errorf("the old leader renews: %v", err)
	}
	second := next.Store(epoch, notDeposed(t))
	before := contentsOf(t, second)
	left, err := first.Commit(outbox.Group{Appended: []outbox.Event{event(1, 1, "a", 2)}})
	if !errors.Is(err, errFenced) || len(left.Appended) != 1 || heard != epoch || first.Trouble() == nil {
		t.Errorf("an old epoch writes: %v; heard of epoch %d", err, heard)
	}
	if diff := cmp.Diff(before, contentsOf(t, second)); diff != "" {
		t.Error(diff)
	}
	commit(t, second, outbox.Group{Appended: []outbox.Event{event(1, 1, "a", 2)}})
}

// Commits of an old leader that race with the take-over are in what the new one reads, or nowhere.
func TestCommitThatRacesWithATakeOverIsSeenOrFenced(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	old, next := open(t, url), open(t, url)
	for round := range 30 {
		queue := uint64(round + 1)
		s := old.Store(lead(t, old, fmt.Sprint("a", round)), func(uint64) {})
		committed := 0
		var writing sync.WaitGroup
		writing.Go(func() {
			for i := range uint32(50) {
				if _, err := s.Commit(outbox.Group{Appended: []outbox.Event{event(queue, i, "s", uint64(i)+1)}}); err != nil {
					return
				}
				committed++
			}
		})
		epoch := lead(t, next, fmt.Sprint("b", round))
		found := contentsOf(t, next.Store(epoch, notDeposed(t))).Queues[queue].Tail
		writing.Wait()
		if int(found) != committed {
			t.Fatalf("%d are committed, and the next leader has read %d", committed, found)
		}
	}
}

func TestTakeOversHaveOneWinner(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := []*Database{open(t, url), open(t, url), open(t, url)}
	for range 100 {
		row, err := d[0].Look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var winners []uint64
		var all sync.WaitGroup
		for i := range d {
			all.Go(func() {
				epoch, won, err := d[i].TakeOver(context.Background(), row, 0, fmt.Sprint(i))
				if err != nil {
					t.Error(err)
				}
				if won {
					mu.Lock()
					defer mu.Unlock()
					winners = append(winners, epoch)
				}
			})
		}
		all.Wait()
		if !slices.Equal(winners, []uint64{row.Epoch + 1}) {
			t.Fatalf("epochs %v were won after %d", winners, row.Epoch)
		}
	}
	row, err := d[0].Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if epoch, won, err := d[0].TakeOver(t.Context(), row, 5000, "above"); !won || epoch != 5001 || err != nil {
		t.Errorf("epoch %d above 5000: %v", epoch, err)
	}
	if err := d[0].Resign(t.Context(), 5001, "above"); err != nil {
		t.Fatal(err)
	}
	if row, err := d[1].Look(t.Context()); err != nil || row.Holder != "" || row.Epoch != 5001 {
		t.Errorf("after the resignation: %+v %v", row, err)
	}
	if _, won, err := d[1].TakeOver(t.Context(), lease.Row{Epoch: 5001, Beat: 1e6}, 0, "x"); won || err != nil {
		t.Errorf("a row that was not seen is taken over: %v", err)
	}
}

func TestServerMayGoAndComeBack(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	url := server.NewDatabase(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	for round := range uint32(3) {
		commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 2*round, "s", 1)}})
		server.Crash()
		if _, err := s.Commit(outbox.Group{Appended: []outbox.Event{event(1, 2*round+1, "s", 1)}}); err == nil {
			t.Error("it commits to a server that is down")
		}
		if _, err := s.Read(1, 0); err == nil || errors.Is(err, outbox.ErrUnreadable) {
			t.Errorf("reading from a server that is down: %v", err)
		}
		server.Start(t)
		commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 2*round+1, "s", 1)}})
		_, _ = d.Renew(t.Context(), s.epoch, "a") // finds out that its connection is gone
		if held, err := d.Renew(t.Context(), s.epoch, "a"); !held || err != nil {
			t.Errorf("the lease does not go on: %v", err)
		}
	}
	pgtest.Exec(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'coordinator'")
	for range 2 {
		_, _ = d.Renew(t.Context(), s.epoch, "a")
	}
	if held, err := d.Renew(t.Context(), s.epoch, "a"); !held || err != nil {
		t.Errorf("connections that were ended are not made anew: %v", err)
	}
}

// The plans of the function must not be those of empty tables.
func TestCommitsUseTheKeys(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	position := uint32(0)
	for queue := range uint64(300) {
		var g outbox.Group
		for range 20 {
			g.Appended = append(g.Appended, event(queue+1, position, fmt.Sprint("s", queue), uint64(position)+1))
			position++
		}
		g.Delivered = []outbox.DeliveredUpTo{{Queue: queue, Head: position - 25}}
		commit(t, s, g)
	}
	pgtest.Exec(t, url, "SELECT pg_stat_force_next_flush()")
	<-time.After(1200 * time.Millisecond) // statistics of other sessions come late
	for _, table := range []string{"coordinator_event", "coordinator_announced", "coordinator_progress"} {
		if n := pgtest.Number(t, url, "SELECT coalesce(max(seq_scan), 0) FROM pg_stat_user_tables WHERE relname = '"+table+"'"); n > 5 {
			t.Errorf("%s was scanned %d times", table, n)
		}
	}
}

// While somebody holds a snapshot no dead row goes. What changes with each commit is found all the same without looking at dead ones.
func TestASnapshotDoesNotMakeCommitsSlower(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM coordinator_event"); err != nil {
		t.Fatal(err)
	}
	const pages = "SELECT sum(heap_blks_hit + idx_blks_hit) FROM pg_statio_user_tables"
	looked, queue := 0, uint64(0)
	commits := func() int {
		for range 1000 {
			queue++
			ev := event(queue, 0, fmt.Sprint("s", queue), 1)
			ev.Session, ev.Message = 7, queue
			end := closed(queue, 1, ev.StreamID, 2)
			end.Session, end.Message = 7, queue
			commit(t, s, outbox.Group{Appended: []outbox.Event{ev, end}, Delivered: []outbox.DeliveredUpTo{{Queue: queue - 1, Head: 2}}})
		}
		before := looked
		looked = counted(t, s.claimed, url, pages)
		return looked - before
	}
	commits()
	early := commits()
	commits()
	pgtest.Exec(t, url, "ANALYZE coordinator_event, coordinator_announced, coordinator_progress") // as autovacuum does: hardly any row is alive
	if late := commits(); late > early*5/4 {
		t.Errorf("1,000 commits look at %d pages, and later at %d", early, late)
	}
	for range 100 {
		if _, err := s.Read(queue, 1); err != nil {
			t.Fatal(err)
		}
	}
	if pages := counted(t, d.reading.conn, url, pages) - looked; pages > 100*20 {
		t.Errorf("reading an event 100 times looks at %d pages", pages)
	}
}

// counted returns a statistic with what conn has done.
func counted(t *testing.T, conn *pgx.Conn, url, sql string) int {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "SELECT pg_stat_force_next_flush()"); err != nil {
		t.Fatal(err)
	}
	return pgtest.Number(t, url, sql)
}

// Whatever the order in which events are read, those that nobody has asked for are not.
func TestReadingReadsWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	const queues, readers = 1000, 64
	var g outbox.Group
	for queue := range uint64(queues) {
		g.Appended = append(g.Appended, event(queue+1, 0, fmt.Sprint("s", queue), 1), event(queue+1, 1, fmt.Sprint("s", queue), 2))
	}
	commit(t, s, g)
	const count = "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_user_tables WHERE relname = 'coordinator_event'"
	before := counted(t, s.claimed, url, count)
	var reading sync.WaitGroup
	for reader := range readers {
		reading.Go(func() {
			for i := reader; i < queues; i += readers {
				queue := uint64(i*617%queues + 1)
				if ev, err := s.Read(queue, 1); err != nil || ev.StreamID != fmt.Sprint("s", queue-1) || ev.Seq != 2 {
					t.Errorf("queue %d: %+v %v", queue, ev, err)
				}
			}
		})
	}
	reading.Wait()
	if read := counted(t, d.reading.conn, url, count) - before; read < queues || read > 2*queues {
		t.Errorf("%d events were read for %d", read, queues)
	}
}

func TestFaultsAreSaidPlainly(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	lead(t, d, "a")
	pgtest.Exec(t, url, "CREATE ROLE stranger LOGIN; UPDATE coordinator_format SET version = 9")
	fault := func(url string) string {
		_, err := open(t, url).Look(t.Context())
		if err == nil {
			return ""
		}
		return err.Error()
	}
	for url, words := range map[string]string{
		url: "update this coordinator",
		strings.Replace(url, "coordinator@", "stranger@", 1):             "lacks rights",
		strings.Replace(url, "/test", "/nothing", 1):                     "there is no such database",
		"postgres://u:hidden-password@127.0.0.1:1/d?sslmode=disable":     "can't be reached",
		"postgres://u:hidden-password@127.0.0.1:1/d?sslmode=verify-full": "can't be reached",
	} {
		if got := fault(url); !strings.Contains(got, words) || strings.Contains(got, "hidden-password") {
			t.Errorf("%s: %q, want %q", url, got, words)
		}
	}
	if _, err := New("postgres://u:hidden-password@h/d?sslmode=nonsense", unobserved); err == nil || strings.Contains(err.Error(), "hidden-password") {
		t.Errorf("a URL that can't be read: %v", err)
	}
}

// What a coordinator has kept in a directory is in the database after its first start with one, whenever that was broken off.
func TestOutboxOfADirectoryIsTakenOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	send := func(context.Context, outbox.Event) (int, http.Header, error) { return 503, nil, nil }
	o, before, err := outbox.OpenCluster(dir, send, func(outbox.Attempt) {}, log)
	if err != nil {
		t.Fatal(err)
	}
	o.Start()
	o.Change(outbox.AddGateway("g1"), outbox.UseNumbers(1<<21))
	o.AppendPart(event(7, 0, "s", 1))
	o.AppendPart(event(7, 1, "s", 2))
	o.End(outbox.Mark{Session: 3, Message: 9})
	for i := range uint64(3000) {
		o.Append(event(100+i, 0, fmt.Sprint(i), 1))
		o.Append(closed(100+i, 1, fmt.Sprint(i), 2))
	}
	expired, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Finish(expired); err != nil {
		t.Fatal(err)
	}
	d := open(t, pgtest.URL(t))
	epoch := lead(t, d, "a")
	s := d.Store(epoch, notDeposed(t))
	for round := range 3 { // as after a crash before the file was renamed
		f, err := outbox.OpenFile(dir)
		if err != nil {
			t.Fatal(err)
		}
		events, err := d.TakeIn(epoch, f)
		if wanted := []int{6002, 0, 0}[round]; events != wanted || err != nil {
			t.Fatalf("%d events are taken over: %v", events, err)
		}
		if round == 2 {
			if _, err := f.Moved(); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if f, err := outbox.OpenFile(dir); f != nil || err != nil {
		t.Errorf("the file is there again: %v", err)
	}
	c := contentsOf(t, s)
	want := outbox.Cluster{StoreID: before.StoreID, Numbers: 1 << 21, Gateways: []string{"g1"}, Applied: map[uint64]uint64{3: 9}}
	if diff := cmp.Diff(want, c.Cluster); diff != "" {
		t.Error(diff)
	}
	if q := c.Queues[7]; q.Head != 0 || q.Tail != 2 || len(q.Announced) != 1 || q.Announced[0].LastSeq != 2 || len(c.Queues) != 3001 {
		t.Errorf("%d queues, among them %+v", len(c.Queues), q)
	}
	if ev, err := s.Read(3099, 1); err != nil || ev.Type != outbox.StreamClosed || ev.StreamID != "2999" {
		t.Errorf("the last event is %+v %v", ev, err)
	}
	other := t.TempDir()
	o, _, err = outbox.OpenCluster(other, send, func(outbox.Attempt) {}, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Finish(expired); err != nil {
		t.Fatal(err)
	}
	f, err := outbox.OpenFile(other)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := d.TakeIn(epoch, f); !errors.Is(err, errHasStore) {
		t.Errorf("another outbox is taken over, too: %v", err)
	}
}
