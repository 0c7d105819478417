package pgstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"coordinator/internal/outbox"
	"coordinator/internal/pgtest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func unobserved(time.Duration, error) {}

// A statement whose connection is gone may be run long after it was given up. It must bring nothing back that was removed since.
func TestCommitThatWasOvertakenByALaterConnectionComesToNothing(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	g := outbox.Group{Appended: []outbox.Event{event(1, 0, "a", 1), closed(1, 1, "a", 2)}}
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(2, 0, "b", 1)}})
	late := arguments(s.epoch, s.writer, g, nil)
	pgtest.Exec(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'coordinator'")
	commit(t, s, g)
	commit(t, s, outbox.Group{Delivered: []outbox.DeliveredUpTo{{Queue: 1, Head: 2}}})
	before := contentsOf(t, s)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	other, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	if _, err := other.Exec(t.Context(), commitSQL, late...); codeOf(err) != overtaken {
		t.Errorf("a late commit: %v", err)
	}
	if diff := cmp.Diff(before, contentsOf(t, s)); diff != "" {
		t.Error(diff)
	}
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(3, 0, "c", 1)}})
}

// What was delivered is removed on a full disk, too, and what could not be written is left.
func TestFullDiskStopsAddingAndNotRemoving(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 0, "a", 1), event(1, 1, "a", 2)}})
	pgtest.Exec(t, url, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$;
		CREATE TRIGGER full_disk BEFORE INSERT ON coordinator_event FOR EACH ROW EXECUTE FUNCTION full_disk()`)
	g := outbox.Group{
		Appended:  []outbox.Event{event(1, 2, "a", 3)},
		Delivered: []outbox.DeliveredUpTo{{Queue: 1, Head: 1}},
		Changes:   []outbox.Change{outbox.AddGateway("g")},
	}
	left, err := s.Commit(g)
	if err == nil || !strings.Contains(err.Error(), "the disk of the database is full") {
		t.Errorf("on a full disk: %v", err)
	}
	if len(left.Appended) != 1 || len(left.Changes) != 1 || len(left.Delivered) != 0 {
		t.Errorf("%+v is left", left)
	}
	if q := contentsOf(t, s).Queues[1]; q.Head != 1 || q.Tail != 2 {
		t.Errorf("the queue is %+v", q)
	}
	pgtest.Exec(t, url, "DROP TRIGGER full_disk ON coordinator_event")
	commit(t, s, left)
	if c := contentsOf(t, s); c.Queues[1].Tail != 3 || len(c.Cluster.Gateways) != 1 {
		t.Errorf("%+v", c)
	}
}

// A database may be set to lose its last commits. A leader's epochs and events are not among them.
func TestCommitsAreDurableWhateverTheDatabaseIsSetTo(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	commit(t, s, outbox.Group{})
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, c := range []struct{ set, want string }{{"off", "on"}, {"on", "on"}, {"remote_apply", "remote_apply"}, {"local", "local"}} {
		for name, statement := range map[string]func(pgx.Tx) error{
			"commit": func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), commitSQL, arguments(s.epoch, s.writer, outbox.Group{}, nil)...)
				return err
			},
			"take-over": func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), takeOverSQL, int64(0), "b", int64(s.epoch), int64(1), "a", formatVersion)
				return err
			},
		} {
			tx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got string
			_, err = tx.Exec(t.Context(), "SET LOCAL synchronous_commit = "+c.set)
			err = errors.Join(err, statement(tx), tx.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&got), tx.Rollback(t.Context()))
			if err != nil || got != c.want {
				t.Errorf("%s at a database that is set to %s: %s, want %s; %v", name, c.set, got, c.want, err)
			}
		}
	}
}

func TestCoordinatorsThatStartTogetherMakeTheTablesOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	var all sync.WaitGroup
	for range 8 {
		d := open(t, url)
		all.Go(func() {
			row, err := d.Look(context.Background())
			for tries := 0; errors.Is(err, context.DeadlineExceeded) && tries < 20; tries++ {
				row, err = d.Look(context.Background())
			}
			if err != nil || row.Epoch != 0 {
				t.Errorf("%+v %v", row, err)
			}
		})
	}
	all.Wait()
}

// A primary that was replaced can only be read. Its connections are dropped, and the others of DATABASE_URL asked.
func TestDatabaseThatCanOnlyBeReadIsLeft(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 0, "a", 1)}})
	name := pgtest.Name(url)
	restart := "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'coordinator'"
	pgtest.Exec(t, url, "ALTER DATABASE "+name+" SET default_transaction_read_only = on; "+restart)
	if _, err := d.Look(t.Context()); !errors.Is(err, errReadOnly) {
		t.Errorf("looking: %v", err)
	}
	if _, err := s.Commit(outbox.Group{Appended: []outbox.Event{event(1, 1, "a", 2)}}); !errors.Is(err, errReadOnly) {
		t.Errorf("committing: %v", err)
	}
	if _, err := s.Read(1, 0); err == nil || errors.Is(err, outbox.ErrUnreadable) {
		t.Errorf("reading: %v", err)
	}
	pgtest.Exec(t, url+"&default_transaction_read_only=off", "ALTER DATABASE "+name+" RESET default_transaction_read_only")
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 1, "a", 2)}})
	if held, err := d.Renew(t.Context(), s.epoch, "a"); !held || err != nil {
		t.Errorf("renewing: %v", err)
	}
}

// A connection that was lost while nobody used it is made anew without a word.
func TestConnectionsThatWereEndedAreMadeAnew(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	for i := range uint32(5) {
		commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, i, "s", uint64(i)+1)}})
		if held, err := d.Renew(t.Context(), s.epoch, "a"); !held || err != nil {
			t.Errorf("renewing: %v", err)
		}
		if _, err := s.Read(1, i); err != nil {
			t.Errorf("reading: %v", err)
		}
		pgtest.Exec(t, url, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'coordinator'")
	}
}

// listening is the address of what answers a client that has said something.
func listening(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				answer(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

// A host that takes connections and says nothing leaves time for the next one, within what the lease allows.
func TestHostThatSaysNothingLeavesTimeForTheNext(t *testing.T) {
	t.Parallel()
	silent := listening(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	url := pgtest.URL(t)
	behind := pgtest.Pooled(t, url) // has a TCP port
	_, rest, _ := strings.Cut(behind, "@")
	d := open(t, "postgres://coordinator@"+silent+","+rest)
	began := time.Now()
	if _, err := d.Look(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > leaseLimit {
		t.Errorf("it took %v", took)
	}
}

func TestDatabaseThatSaysNothingHoldsNobodyUpForLong(t *testing.T) {
	t.Parallel()
	d := open(t, "postgres://u@"+listening(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })+"/d?sslmode=disable")
	s := d.Store(1, notDeposed(t))
	began := time.Now()
	var all sync.WaitGroup
	for range 100 { // as of the delivery
		all.Go(func() {
			if _, err := s.Read(1, 1); err == nil || errors.Is(err, outbox.ErrUnreadable) {
				t.Errorf("reading: %v", err)
			}
		})
	}
	all.Go(func() {
		if _, err := d.Look(context.Background()); err == nil || time.Since(began) > leaseLimit+time.Second {
			t.Errorf("looking: %v after %v", err, time.Since(began))
		}
	})
	all.Wait()
	if took := time.Since(began); took > readLimit+2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestWordsForFaults(t *testing.T) {
	t.Parallel()
	noTLS := listening(t, func(conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, 8)); err == nil {
			_, _ = conn.Write([]byte("N"))
		}
	})
	if _, err := open(t, "postgres://u@"+noTLS+"/d?sslmode=require").Look(t.Context()); err == nil || !strings.Contains(err.Error(), "offers no TLS") {
		t.Errorf("without TLS: %v", err)
	}
	for _, c := range []struct{ code, message, words string }{
		{"28P01", `password authentication failed for user "u"`, "refuses the password"},
		{"28000", `role "u" is not permitted to log in`, "refuses the user"},
		{"28000", `no pg_hba.conf entry for host "h", user "u", database "d", no encryption`, "wants TLS"},
		{"53300", "too many clients already", "no connection left"},
		{"53100", "could not extend file", "disk of the database is full"},
		{"57P03", "the database system is starting up", "stops or starts"},
		{"57P01", "terminating connection due to administrator command", "stops or starts"},
		{"25006", "cannot execute UPDATE in a read-only transaction", "can only be read"},
	} {
		err := plainly(fmt.Errorf("connect: %w", &pgconn.PgError{Code: c.code, Message: c.message}))
		if !strings.Contains(err.Error(), c.words) || codeOf(err) != c.code {
			t.Errorf("%s: %v, want %q", c.code, err, c.words)
		}
	}
}

func TestPoolerInTransactionMode(t *testing.T) {
	t.Parallel()
	url := pgtest.Pooled(t, pgtest.URL(t))
	a, b := open(t, url), open(t, url)
	s := a.Store(lead(t, a, "a"), func(uint64) {})
	for i := range uint32(50) {
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := b.Look(context.Background()); err != nil {
				t.Errorf("looking: %v", err)
			}
		})
		all.Go(func() {
			if held, err := a.Renew(context.Background(), s.epoch, "a"); !held || err != nil {
				t.Errorf("renewing: %v", err)
			}
		})
		commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, i, "s", uint64(i)+1)}})
		if ev, err := s.Read(1, i); err != nil || ev.Seq != uint64(i)+1 {
			t.Errorf("reading: %+v %v", ev, err)
		}
		all.Wait()
	}
	if q := contentsOf(t, s).Queues[1]; q.Tail != 50 {
		t.Errorf("the queue is %+v", q)
	}
	next := b.Store(lead(t, b, "b"), notDeposed(t))
	if _, err := s.Commit(outbox.Group{Appended: []outbox.Event{event(1, 50, "s", 51)}}); !errors.Is(err, errFenced) {
		t.Errorf("an old epoch writes: %v", err)
	}
	commit(t, next, outbox.Group{Appended: []outbox.Event{event(1, 50, "s", 51)}})
}

func TestFiguresOfTheDatabase(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 0, "s", 1)}})
	longerThan := func(longer time.Duration, url, sql string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		for _, statement := range []string{sql, "SELECT pg_sleep(0.05)"} {
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		f, err := d.Figures(t.Context())
		if err != nil || f.OldestSnapshot < longer || longer == 0 && f.OldestSnapshot >= 50*time.Millisecond || f.DeadRows < 0 {
			t.Errorf("%s: %+v %v", sql, f, err)
		}
	}
	longerThan(50*time.Millisecond, url, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
	longerThan(50*time.Millisecond, url, "BEGIN; CREATE TABLE written ()")
	longerThan(0, url, "BEGIN; SELECT 1")                                           // holds nothing back
	longerThan(0, pgtest.URL(t), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1") // of another database
}
