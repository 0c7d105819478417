package lease

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errAway = errors.New("the database is away")

// memoryTable is a database that may be away for some, slow, or lose answers.
type memoryTable struct {
	mu        sync.Mutex
	row       Row
	elections map[uint64]string // who has won which epoch
	twice     bool              // an epoch was won again
}

func newTable(row Row) *memoryTable { return &memoryTable{row: row, elections: map[uint64]string{}} }

func (m *memoryTable) now() Row {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.row
}

// view is the table as one process reaches it.
type view struct {
	*memoryTable
	away   atomic.Bool  // nothing gets there
	silent atomic.Bool  // what gets there is done, and not answered
	slow   atomic.Int64 // nanoseconds, of the way there
	late   atomic.Bool  // answers come after 7 s, even if nobody waits for them any more

	renewals atomic.Int64
}

func (v *view) ask(ctx context.Context, do func()) error {
	if slow := time.Duration(v.slow.Load()); slow > 0 {
		<-time.After(slow) // it gets there even if nobody waits for it any more
	}
	if v.away.Load() {
		<-ctx.Done()
		return errAway
	}
	v.mu.Lock()
	do()
	v.mu.Unlock()
	if v.silent.Load() {
		<-ctx.Done()
		return errAway
	}
	if v.late.Load() {
		<-time.After(7 * time.Second)
		return nil
	}
	return ctx.Err()
}

func (v *view) Look(ctx context.Context) (row Row, err error) {
	err = v.ask(ctx, func() { row = v.row })
	return row, err
}

func (v *view) Renew(ctx context.Context, epoch uint64, holder string) (held bool, err error) {
	v.renewals.Add(1)
	err = v.ask(ctx, func() {
		if held = v.row.Epoch == epoch && v.row.Holder == holder; held {
			v.row.Beat++
		}
	})
	return held, err
}

func (v *view) TakeOver(ctx context.Context, seen Row, above uint64, holder string) (epoch uint64, won bool, err error) {
	err = v.ask(ctx, func() {
		if won = v.row == seen; won {
			epoch = max(seen.Epoch, above) + 1
			v.row = Row{epoch, v.row.Beat + 1, holder}
			_, again := v.elections[epoch]
			v.twice = v.twice || again
			v.elections[epoch] = holder
		}
	})
	return epoch, won, err
}

func (v *view) Resign(ctx context.Context, epoch uint64, holder string) error {
	return v.ask(ctx, func() {
		if v.row.Epoch == epoch && v.row.Holder == holder {
			v.row.Holder = ""
		}
	})
}

// candidate is a process that wants to lead.
type candidate struct {
	*Keeper
	view   *view
	frozen atomic.Int64 // by how much its clock is ahead
	stop   context.CancelFunc
	over   chan struct{}

	mu     sync.Mutex
	terms  []*Term
	giveUp atomic.Bool  // it can't lead
	ending atomic.Int64 // nanoseconds that the parts of a term take to end
	log    strings.Builder
}

func (c *candidate) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(b)
}

func (c *candidate) lead(t *Term) {
	c.mu.Lock()
	c.terms = append(c.terms, t)
	c.mu.Unlock()
	if c.giveUp.Load() {
		return
	}
	<-t.Context().Done()
	<-time.After(time.Duration(c.ending.Load()))
}

// last is the term that began last, nil if none has.
func (c *candidate) last() *Term {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.terms) == 0 {
		return nil
	}
	return c.terms[len(c.terms)-1]
}

func (c *candidate) logged() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

func (c *candidate) start() {
	ctx, cancel := context.WithCancel(context.Background())
	c.stop, c.over = cancel, make(chan struct{})
	go func() {
		defer close(c.over)
		c.Run(ctx)
	}()
}

func (c *candidate) end() {
	c.stop()
	<-c.over
}

var bubbleBegan = time.Now()

func newCandidate(table *memoryTable, name string) *candidate {
	c := &candidate{view: &view{memoryTable: table}}
	clock := func() time.Duration { return time.Since(bubbleBegan) + time.Duration(c.frozen.Load()) }
	c.Keeper = New(Config{Table: c.view, Holder: name, Clock: clock, Log: slog.New(slog.NewTextHandler(c, nil)), Lead: c.lead})
	return c
}

// one is the only one who wants to lead; it has not started.
func one(t *testing.T, row Row, story func(t *testing.T, c *candidate)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { story(t, newCandidate(newTable(row), "a")) })
}

// two are a leader and one that stands by.
func two(t *testing.T, story func(t *testing.T, a, b *candidate)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(Row{})
		a, b := newCandidate(table, "a"), newCandidate(table, "b")
		a.start()
		defer a.end()
		<-time.After(100 * time.Millisecond)
		b.start()
		defer b.end()
		<-time.After(3 * time.Second)
		if a.last() == nil || !a.last().Valid() || b.last() != nil {
			t.Fatal("the first one does not lead alone")
		}
		story(t, a, b)
	})
}

// leadsWithin waits until a candidate leads beyond doubt in a later term than before.
func leadsWithin(t *testing.T, c *candidate, before *Term, least, most time.Duration) *Term {
	t.Helper()
	began := time.Now()
	for time.Since(began) <= most {
		if term := c.last(); term != nil && term != before && term.Valid() {
			if took := time.Since(began); took < least {
				t.Fatalf("leads after %v", took)
			}
			return term
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatalf("does not lead within %v; log:\n%s", most, c.logged())
	return nil
}

func wantCause(t *testing.T, term *Term, cause error) {
	t.Helper()
	select {
	case <-term.Context().Done():
	case <-time.After(3 * time.Second):
		t.Fatal("the term goes on")
	}
	if got := context.Cause(term.Context()); got != cause {
		t.Errorf("the term has ended because of %v", got)
	}
}
