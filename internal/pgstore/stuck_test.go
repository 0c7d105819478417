package pgstore

// What would be stuck, or mixed up, for ever.

import (
	"context"
	"testing"
	"time"

	"coordinator/internal/outbox"
	"coordinator/internal/pgtest"

	"github.com/jackc/pgx/v5"
)

const endBackends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'coordinator'"

// What was committed lately takes a slow database longer than a commit may take. It gets the time.
func TestSlowDatabaseGetsThroughWithWhatWasCommittedLately(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	var g outbox.Group
	const events = 1000
	for i := range uint32(events) {
		g.Appended = append(g.Appended, event(1, i, "a", uint64(i)+1))
	}
	commit(t, s, g)
	commit(t, s, outbox.Group{Delivered: []outbox.DeliveredUpTo{{Queue: 1, Head: events}}})
	pgtest.Exec(t, url, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.0045); RETURN NEW; END $$;
		CREATE TRIGGER slow BEFORE INSERT ON coordinator_event FOR EACH ROW EXECUTE FUNCTION slow()`)
	pgtest.Exec(t, url, endBackends)
	g = outbox.Group{Appended: []outbox.Event{event(2, 0, "b", 1)}}
	var err error
	for range 4 {
		if _, err = s.Commit(g); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.limit != commitLimit {
		t.Errorf("the limit stays at %v", s.limit)
	}
}

// A database that has lost a take-over gives its epoch again. Only one of the two writes.
func TestEpochThatWasGivenTwiceIsOfOneOnly(t *testing.T) {
	t.Parallel()
	old := pgtest.New(t)
	url := old.NewDatabase(t)
	next := old.Standby(t)
	url = pgtest.Either(t, url, next.At(url))
	a, b, c := open(t, url), open(t, url), open(t, url)
	if err := a.Resign(t.Context(), lead(t, a, "a"), "a"); err != nil {
		t.Fatal(err)
	}
	old.AwaitFollowed(t)
	next.CutOff(t)
	epoch := lead(t, b, "b")
	deposed := make(chan uint64, 1)
	earlier := b.Store(epoch, func(epoch uint64) { deposed <- epoch })
	commit(t, earlier, outbox.Group{Appended: []outbox.Event{event(7, 0, "b", 1)}})
	old.Crash()
	next.Promote(t)
	if again := lead(t, c, "c"); again != epoch {
		t.Fatalf("the epochs are %d and %d", epoch, again)
	}
	s := c.Store(epoch, notDeposed(t))
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(8, 0, "c", 1)}})
	for range 3 { // the first one may find its connection gone
		if _, err := earlier.Commit(outbox.Group{Delivered: []outbox.DeliveredUpTo{{Queue: 8, Head: 1}}}); err == nil {
			t.Error("the earlier one has written")
		}
	}
	select {
	case above := <-deposed:
		if above <= epoch {
			t.Errorf("deposed by epoch %d", above)
		}
	default:
		t.Error("not deposed")
	}
	if q := contentsOf(t, s).Queues[8]; q.Head != 0 || q.Tail != 1 {
		t.Errorf("the queue is %+v", q)
	}
}

// A process that is frozen while it takes in a directory holds the fence. The database gives its transaction up.
func TestTakeInThatIsFrozenHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	a, b := open(t, url), open(t, url)
	epoch := lead(t, a, "a")
	conn, err := pgx.ConnectConfig(t.Context(), a.committing.config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := limitWaits(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	if _, err := a.claim(t.Context(), tx, epoch); err != nil {
		t.Fatal(err)
	}
	row, err := b.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; {
		_, won, err := b.TakeOver(t.Context(), row, row.Epoch, "b")
		if err == nil && won {
			return
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("not taken over: %v", err)
		}
	}
}
