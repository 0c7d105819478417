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
	fence     uint64
	elections int
}

// view is the table as one process reaches it.
type view struct {
	*memoryTable
	away   atomic.Bool  // nothing gets there
	silent atomic.Bool  // what gets there is done, and not answered
	slow   atomic.Int64 // nanoseconds, of the way there
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
	return ctx.Err()
}

func (v *view) Look(ctx context.Context) (row Row, err error) {
	err = v.ask(ctx, func() { row = v.row })
	return row, err
}

func (v *view) Renew(ctx context.Context, epoch uint64, holder string) (held bool, err error) {
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
			v.row, v.fence = Row{epoch, v.row.Beat, holder}, epoch
			v.elections++
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
	ending time.Duration // how long the parts of a term take to end
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
	<-t.Context().Done()
	<-time.After(c.ending)
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

// two are a leader and one that stands by.
func two(t *testing.T, story func(t *testing.T, a, b *candidate)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := &memoryTable{}
		a, b := newCandidate(table, "a"), newCandidate(table, "b")
		a.start()
		<-time.After(100 * time.Millisecond)
		b.start()
		<-time.After(3 * time.Second)
		if a.last() == nil || !a.last().Valid() || b.last() != nil {
			t.Fatal("the first one does not lead alone")
		}
		story(t, a, b)
		a.end()
		b.end()
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

func TestLeaderThatDiesIsFollowedAfter6Seconds(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		first := a.last()
		a.view.away.Store(true) // as if it were dead
		second := leadsWithin(t, b, nil, 5*time.Second, 6600*time.Millisecond)
		if second.Epoch() != first.Epoch()+1 {
			t.Errorf("epoch %d follows %d", second.Epoch(), first.Epoch())
		}
		if first.Valid() {
			t.Error("the old one is sure to lead, too")
		}
		a.view.away.Store(false)
		wantCause(t, first, ErrDeposed)
		if !strings.Contains(a.logged(), "leads no more") || !strings.Contains(b.logged(), "this coordinator leads now") {
			t.Errorf("logs:\n%s\n%s", a.logged(), b.logged())
		}
		<-time.After(time.Minute)
		if a.last() != first || !second.Valid() {
			t.Error("the lead does not stay")
		}
	})
}

func TestLeaderThatStopsIsFollowedAtOnce(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		a.ending = 700 * time.Millisecond
		first := a.last()
		a.stop()
		<-time.After(600 * time.Millisecond)
		if b.last() != nil {
			t.Fatal("another one leads while the parts of the term still end")
		}
		leadsWithin(t, b, nil, 0, 700*time.Millisecond)
		wantCause(t, first, ErrStopping)
	})
}

func TestLeadOutlivesADatabaseThatIsAwayForAll(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		term := a.last()
		a.view.away.Store(true)
		b.view.away.Store(true)
		changed := term.Changed()
		select {
		case <-changed:
		case <-time.After(5100 * time.Millisecond):
			t.Fatal("nobody is told that the lead is in doubt")
		}
		if term.Valid() || term.Context().Err() != nil {
			t.Fatal("the term is valid, or over")
		}
		waited, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := term.AwaitValid(waited); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting ends with %v", err)
		}
		a.view.away.Store(false)
		b.view.away.Store(false)
		again, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		if err := term.AwaitValid(again); err != nil || a.last() != term || b.last() != nil {
			t.Errorf("it does not go on in the same term: %v", err)
		}
		for _, line := range []string{"goes on, but", "sure to lead again", "does not say who leads", "answers again"} {
			if strings.Count(a.logged(), line) != 1 {
				t.Errorf("%q is not logged once:\n%s", line, a.logged())
			}
		}
	})
}

// A process that was stopped for a time knows at once that it may have been deposed.
func TestFrozenLeaderIsInDoubtAtOnce(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		term := a.last()
		a.view.slow.Store(int64(time.Hour)) // nothing of it gets anywhere
		a.frozen.Store(int64(12 * time.Second))
		if term.Valid() {
			t.Error("it is sure to lead after 12 s")
		}
		leadsWithin(t, b, nil, 4*time.Second, 7*time.Second)
		if term.Valid() {
			t.Error("both lead")
		}
		a.view.slow.Store(0)
		<-time.After(time.Hour)
		wantCause(t, term, ErrDeposed)
	})
}

func TestRenewalThatIsAnsweredLateExtendsNothing(t *testing.T) {
	two(t, func(t *testing.T, a, _ *candidate) {
		term := a.last()
		a.view.silent.Store(true)
		<-time.After(7500 * time.Millisecond)
		if term.Valid() {
			t.Error("renewals without an answer keep the term valid")
		}
		a.view.silent.Store(false)
		<-time.After(4 * time.Second)
		if !term.Valid() || a.last() != term {
			t.Error("it does not go on: its beats were seen by others")
		}
	})
}

func TestTakeOverWithoutAnAnswerIsDoneAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCandidate(&memoryTable{row: Row{Epoch: 3}}, "a")
		c.view.silent.Store(true)
		look := c.view.row
		if _, won, err := c.view.TakeOver(expired(), look, 0, "a"); !won || err == nil {
			t.Fatal("it is answered")
		}
		c.view.silent.Store(false)
		c.start()
		if term := leadsWithin(t, c, nil, 0, time.Second); term.Epoch() != 5 {
			t.Errorf("leads with epoch %d", term.Epoch())
		}
		c.end()
	})
}

func expired() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestHigherEpochEndsTheTerm(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		first := a.last()
		first.Heard(first.Epoch())
		if first.Context().Err() != nil {
			t.Fatal("its own epoch ends the term")
		}
		first.Heard(40)
		wantCause(t, first, ErrDeposed)
		if second := leadsWithin(t, a, first, 0, time.Second); second.Epoch() != 41 {
			t.Errorf("leads with epoch %d", second.Epoch())
		}
		if b.last() != nil {
			t.Error("the other one has taken over meanwhile")
		}
	})
}

// A database that lost commits gives back an earlier row: of an earlier leader, whose epoch is never led again.
func TestRowThatGoesBackIsTakenOverAboveAllThatWasHeard(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		a.last().Heard(20)
		first := leadsWithin(t, a, a.terms[0], 0, time.Second)
		<-time.After(time.Second) // the other one has seen that epoch, too; else it would hear of it from a gateway
		a.view.mu.Lock()
		a.view.row = Row{Epoch: 1, Beat: 1, Holder: "of old"}
		a.view.mu.Unlock()
		wantCause(t, first, ErrDeposed)
		began := time.Now()
		for a.last() == first && b.last() == nil && time.Since(began) < 10*time.Second {
			<-time.After(10 * time.Millisecond)
		}
		leader := a.last()
		if leader == first {
			leader = b.last()
		}
		if leader == nil || leader.Epoch() <= first.Epoch() {
			t.Fatalf("nobody leads above %d", first.Epoch())
		}
	})
}

func TestElectionsHaveOneWinner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := &memoryTable{}
		both := []*candidate{newCandidate(table, "a"), newCandidate(table, "b")}
		for _, c := range both {
			c.start()
		}
		won := map[uint64]bool{}
		for range 1000 {
			var leader *candidate
			for leader == nil {
				<-time.After(10 * time.Millisecond)
				valid := 0
				for _, c := range both {
					if term := c.last(); term != nil && term.Valid() {
						leader = c
						valid++
					}
				}
				if valid > 1 {
					t.Fatal("two lead")
				}
			}
			if epoch := leader.last().Epoch(); won[epoch] {
				t.Fatalf("epoch %d is led twice", epoch)
			} else {
				won[epoch] = true
			}
			leader.end()
			leader.start()
		}
		for _, c := range both {
			c.end()
		}
	})
}
