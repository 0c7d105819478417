package pgstore

import (
	"errors"
	"testing"
	"time"

	"coordinator/internal/outbox"
	"coordinator/internal/pgtest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

// A primary that was replaced and is only read from then on keeps the connections that it has. Nobody may take it for the database: what is
// committed now is at the other one.
func TestOldPrimaryThatKeepsItsConnectionsIsLeft(t *testing.T) {
	t.Parallel()
	old := pgtest.New(t)
	url := old.NewDatabase(t)
	next := old.Standby(t)
	old.Set(t, "synchronous_standby_names", "*") // not before there is one: whoever commits waits for it
	url = pgtest.Either(t, url, next.At(url))
	leader, other := open(t, url), open(t, url)
	s := leader.Store(lead(t, leader, "a"), notDeposed(t))
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 0, "a", 1)}})
	if _, err := s.Read(1, 0); err != nil { // has a connection now
		t.Fatal(err)
	}
	if _, err := other.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	old.Set(t, "default_transaction_read_only", "on")
	next.Promote(t)
	g := outbox.Group{Appended: []outbox.Event{event(1, 1, "a", 2)}}
	if _, err := s.Commit(g); err != nil {
		t.Errorf("the first commit after it: %v", err)
	}
	ev, err := s.Read(1, 1)
	if errors.Is(err, outbox.ErrUnreadable) {
		t.Fatalf("an event counts as lost that is at the new primary: %v", err)
	}
	if err != nil || ev.Seq != 2 {
		t.Errorf("reading: %+v %v", ev, err)
	}
	if held, err := leader.Renew(t.Context(), s.epoch, "a"); !held || err != nil {
		t.Errorf("renewing: %v", err)
	}
	row, err := other.Look(t.Context())
	if err != nil || row.Beat != 2 {
		t.Errorf("the other coordinator sees %+v of the old primary, %v", row, err)
	}
}

// A pooler may read at a server that is behind. What is missing there is not lost as long as it is where events are written.
func TestEventThatIsMissingWhereItIsReadIsNotLost(t *testing.T) {
	t.Parallel()
	primary := pgtest.New(t)
	url := primary.NewDatabase(t)
	behind := primary.Standby(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 0, "a", 1)}})
	primary.AwaitFollowed(t)
	behind.CutOff(t)
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 1, "a", 2)}})
	config, err := pgx.ParseConfig(behind.At(url))
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	d.reading = newConnection(config, readLimit, nil)
	s.recent = recent{} // it was committed long ago
	for i := range uint32(2) {
		if ev, err := s.Read(1, i); err != nil || ev.Seq != uint64(i)+1 {
			t.Errorf("reading event %d: %+v %v", i, ev, err)
		}
	}
	if d.reading.conn != nil {
		t.Error("the connection to the server that is behind is kept")
	}
	if _, err := s.Read(1, 2); !errors.Is(err, outbox.ErrUnreadable) {
		t.Errorf("an event that is nowhere: %v", err)
	}
}

// An event that the next leader has delivered is not lost.
func TestEventThatAnotherLeaderHasDeliveredIsNotLost(t *testing.T) {
	t.Parallel()
	d := open(t, pgtest.URL(t))
	s := d.Store(lead(t, d, "a"), func(uint64) {})
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 0, "a", 1)}})
	s.recent = recent{}
	next := d.Store(lead(t, d, "b"), notDeposed(t))
	commit(t, next, outbox.Group{Delivered: []outbox.DeliveredUpTo{{Queue: 1, Head: 1}}})
	if _, err := s.Read(1, 0); !errors.Is(err, errFenced) {
		t.Errorf("reading: %v", err)
	}
}

// What was committed lately is committed again at a server that has not got it, and what was delivered since stays removed.
func TestCommitsThatADatabaseHasLostAreMadeAgain(t *testing.T) {
	t.Parallel()
	old := pgtest.New(t)
	url := old.NewDatabase(t)
	next := old.Standby(t)
	d := open(t, pgtest.Either(t, url, next.At(url)))
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 0, "a", 1)}, Changes: []outbox.Change{outbox.AddGateway("g")}})
	old.AwaitFollowed(t)
	next.CutOff(t)
	said := event(2, 0, "b", 1)
	said.Session, said.Message = 7, 1
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(1, 1, "a", 2), said, event(3, 0, "c", 1)}, Changes: []outbox.Change{outbox.AddGateway("h")}})
	commit(t, s, outbox.Group{Changes: []outbox.Change{outbox.ForgetSession(7)}})
	commit(t, s, outbox.Group{Appended: []outbox.Event{closed(2, 1, "b", 2)}, Delivered: []outbox.DeliveredUpTo{{Queue: 3, Head: 1}}, Changes: []outbox.Change{outbox.RemoveGateway("g")}})
	before := contentsOf(t, s)
	old.Crash()
	next.Promote(t)
	ev, err := s.Read(2, 1)
	if err != nil || ev.Type != outbox.StreamClosed {
		t.Errorf("an event that the database has lost, and nobody has committed again yet: %+v %v", ev, err)
	}
	for err := errors.New("not tried"); err != nil; _, err = s.Commit(outbox.Group{}) { // the first one may find its connection gone
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, contentsOf(t, s)); diff != "" {
		t.Error(diff)
	}
}

// Not all that was ever committed is kept.
func TestCommitsAreKeptForAWhile(t *testing.T) {
	t.Parallel()
	var r recent
	now := time.Now()
	for i := range uint32(100) {
		r.add(outbox.Group{Appended: []outbox.Event{event(1, i, "a", uint64(i)+1)}}, now.Add(time.Duration(i)*time.Second))
	}
	if all := r.before(outbox.Group{}); len(all.Appended) != 11 || r.size != 11 || all.Appended[10].Position != 99 {
		t.Errorf("%d events are kept, of size %d", len(all.Appended), r.size)
	}
	now = now.Add(100 * time.Second)
	for i := range uint32(3) {
		r.add(outbox.Group{Appended: make([]outbox.Event, maxCommitted/2), Delivered: []outbox.DeliveredUpTo{{Queue: uint64(i)}}}, now)
	}
	if all := r.before(outbox.Group{}); len(all.Delivered) != 1 || all.Delivered[0].Queue != 2 || r.size != sizeOf(all) {
		t.Errorf("%d groups are kept, of size %d", len(all.Delivered), r.size)
	}
}
