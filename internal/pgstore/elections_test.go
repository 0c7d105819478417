package pgstore

// Coordinators that race to lead, over PostgreSQL. All 1,000 elections: ELECTIONS=1000 go test -run TestElections ./internal/pgstore

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"coordinator/internal/lease"
	"coordinator/internal/pgtest"
	"coordinator/internal/secret"
)

const electionLimit = 30 * time.Second // 7 s, on a machine that has time for it

// electorate are coordinators that share a database.
type electorate struct {
	t   *testing.T
	url string

	won chan *leadership // one that has begun to lead

	mu     sync.Mutex
	leads  *leadership // guarded by mu: the last one
	epochs uint64      // guarded by mu: the last one's
}

// leadership is a term of a candidate.
type leadership struct {
	by   *candidate
	term *lease.Term
}

// candidate is one process's part in elections.
type candidate struct {
	name  string
	table *cutTable
	stop  context.CancelFunc
	ended chan struct{}
}

// cutTable is a database from which a candidate can be cut off.
type cutTable struct {
	*Database
	isCut atomic.Bool
}

func (c *cutTable) Renew(ctx context.Context, epoch uint64, holder string) (bool, error) {
	if c.isCut.Load() {
		<-ctx.Done()
		return false, ctx.Err()
	}
	return c.Database.Renew(ctx, epoch, holder)
}

func (c *cutTable) Look(ctx context.Context) (lease.Row, error) {
	if c.isCut.Load() {
		<-ctx.Done()
		return lease.Row{}, ctx.Err()
	}
	return c.Database.Look(ctx)
}

// stand has a candidate take part.
func (e *electorate) stand(name string) *candidate {
	ctx, cancel := context.WithCancel(context.Background())
	database, err := New(secret.Secret(e.url), unobserved)
	if err != nil {
		e.t.Fatal(err)
	}
	c := &candidate{name: name, table: &cutTable{Database: database}, stop: cancel, ended: make(chan struct{})}
	keeper := lease.New(lease.Config{Table: c.table, Holder: name, Clock: lease.Clock, Log: slog.New(slog.DiscardHandler), Lead: func(term *lease.Term) {
		e.begins(&leadership{c, term})
		<-term.Context().Done()
	}})
	go func() {
		defer close(c.ended)
		defer database.Close()
		keeper.Run(ctx)
	}()
	e.t.Cleanup(c.leave)
	return c
}

// leave ends its part: if it leads, it resigns.
func (c *candidate) leave() {
	c.stop()
	<-c.ended
}

// begins holds that there is one leader, with an epoch that is one above the last one.
func (e *electorate) begins(l *leadership) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.leads != nil && e.leads.term.Valid() {
		e.t.Errorf("%s leads with epoch %d while %s is sure to lead with epoch %d", l.by.name, l.term.Epoch(), e.leads.by.name, e.leads.term.Epoch())
	}
	if l.term.Epoch() != e.epochs+1 {
		e.t.Errorf("epoch %d comes after epoch %d", l.term.Epoch(), e.epochs)
	}
	e.leads, e.epochs = l, l.term.Epoch()
	e.won <- l
}

func (e *electorate) await() *leadership {
	e.t.Helper()
	select {
	case l := <-e.won:
		return l
	case <-time.After(electionLimit):
		e.t.Fatal("nobody leads")
		return nil
	}
}

func newElectorate(t *testing.T) *electorate {
	t.Helper()
	e := &electorate{t: t, url: pgtest.URL(t), won: make(chan *leadership, 16)}
	lead(t, open(t, e.url), "") // makes the tables
	e.epochs = 1
	return e
}

// elections is how many of them there are to be.
func elections(t *testing.T, usual int) int {
	t.Helper()
	value := os.Getenv("ELECTIONS")
	if value == "" {
		return usual
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("ELECTIONS=%s is no number above 0", value)
	}
	return n
}

// Two start at once, and nobody leads.
func TestElectionsOfTwoThatStartAtOnce(t *testing.T) {
	t.Parallel()
	e := newElectorate(t)
	n := elections(t, 100)
	wins := map[string]int{}
	for range n {
		a, b := e.stand("a"), e.stand("b")
		l := e.await()
		wins[l.by.name]++
		other := a
		if l.by == a {
			other = b
		}
		other.leave()
		l.by.leave()
		if len(e.won) > 0 {
			t.Fatal("the other one has led, too")
		}
	}
	e.wantEpoch(uint64(n) + 1)
	t.Logf("%d elections, won by %v", n, wins)
}

// Two stand by, and the one that leads is cut off from the database: both want its place when it has said nothing for 6 s.
func TestElectionsOfTwoThatStandBy(t *testing.T) {
	t.Parallel()
	lanes, each := 2, 1
	if n := elections(t, lanes*each); n > lanes*each {
		each = max(n/100, each)
	}
	for lane := range lanes {
		t.Run(fmt.Sprint("database ", lane), func(t *testing.T) {
			t.Parallel()
			e := newElectorate(t)
			for i := range 3 {
				e.stand(fmt.Sprint("candidate ", i))
			}
			l := e.await()
			for range each {
				began := time.Now()
				l.by.table.isCut.Store(true)
				next := e.await()
				if next.by == l.by {
					t.Error("who is cut off leads again")
				}
				if took := time.Since(began); took < 5*time.Second {
					t.Errorf("another one leads after %v", took)
				}
				l.by.table.isCut.Store(false) // and stands by
				select {
				case <-l.term.Context().Done():
				case <-time.After(electionLimit):
					t.Fatal("the old leader does not hear that it is deposed")
				}
				l = next
			}
			e.wantEpoch(uint64(each) + 2)
		})
	}
}

func (e *electorate) wantEpoch(epoch uint64) {
	e.t.Helper()
	row, err := open(e.t, e.url).Look(e.t.Context())
	if err != nil || row.Epoch != epoch {
		e.t.Errorf("epoch %d, want %d: %v", row.Epoch, epoch, err)
	}
}
