package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestLeaderThatDiesIsFollowedAfter6Seconds(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		first := a.last()
		a.view.away.Store(true) // as if it were dead
		second := leadsWithin(t, b, nil, 5*time.Second, 6500*time.Millisecond)
		if second.Epoch() != first.Epoch()+1 {
			t.Errorf("epoch %d follows %d", second.Epoch(), first.Epoch())
		}
		if first.Valid() {
			t.Error("the old one is sure to lead, too")
		}
		a.view.away.Store(false)
		wantCause(t, first, ErrDeposed)
		if !strings.Contains(a.logged(), "lost the lead") || !strings.Contains(b.logged(), "this coordinator leads now") {
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
		a.ending.Store(int64(700 * time.Millisecond))
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

// However long the database is away for all: the term goes on, unsure, and nobody else leads, not even if others reach the database first
// when it is back.
func TestLeadOutlivesADatabaseThatIsAwayForAll(t *testing.T) {
	for name, away := range map[string]time.Duration{"5.5 s": 5500 * time.Millisecond, "30 s": 30 * time.Second, "1 h": time.Hour} {
		t.Run(name, func(t *testing.T) {
			two(t, func(t *testing.T, a, b *candidate) {
				term := a.last()
				changed := term.Changed()
				a.view.away.Store(true)
				b.view.away.Store(true)
				select {
				case <-changed:
				case <-time.After(5100 * time.Millisecond):
					t.Fatal("nobody is told that the lead is in doubt")
				}
				if s := a.Status(); term.Valid() || s.Valid || !s.Leads || term.Context().Err() != nil {
					t.Fatalf("the term is valid, or over: %+v", s)
				}
				waited, cancel := context.WithTimeout(t.Context(), away-5400*time.Millisecond)
				defer cancel()
				if err := term.AwaitValid(waited); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("waiting ends with %v", err)
				}
				b.view.away.Store(false)
				<-time.After(2 * time.Second)
				a.view.away.Store(false)
				again, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if err := term.AwaitValid(again); err != nil || a.last() != term || b.last() != nil {
					t.Errorf("it does not go on in the same term: %v; log:\n%s", err, b.logged())
				}
				synctest.Wait() // the line is logged after those who wait are told
				lines := []string{"no longer sure that it leads", "sure again that it leads", "does not say who leads", "answers again"}
				for i, line := range lines {
					if n := strings.Count(a.logged(), line); n != 1 && (away < time.Minute || i != 2) {
						t.Errorf("%q is logged %d times:\n%s", line, n, a.logged())
					}
				}
			})
		})
	}
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

func TestRenewalThatIsNotAnsweredExtendsNothing(t *testing.T) {
	for name, unheard := range map[string]func(*view) *atomic.Bool{
		"never":     func(v *view) *atomic.Bool { return &v.silent },
		"after 7 s": func(v *view) *atomic.Bool { return &v.late },
	} {
		t.Run(name, func(t *testing.T) {
			two(t, func(t *testing.T, a, b *candidate) {
				term, no := a.last(), unheard(a.view)
				no.Store(true)
				<-time.After(5100 * time.Millisecond)
				for range 200 {
					if term.Valid() {
						t.Fatal("renewals without an answer in time keep the term valid")
					}
					<-time.After(100 * time.Millisecond)
				}
				if name == "never" && b.last() != nil {
					t.Error("another one leads, and has seen the beats")
				}
			})
		})
	}
}

func TestTakeOverWithoutAnAnswerIsDoneAgain(t *testing.T) {
	one(t, Row{Epoch: 3}, func(t *testing.T, c *candidate) {
		c.view.slow.Store(int64(100 * time.Millisecond))
		c.start()
		defer c.end()
		<-time.After(150 * time.Millisecond) // the take-over is on its way
		c.view.silent.Store(true)
		<-time.After(time.Second)
		if row := c.view.now(); row.Epoch != 4 || row.Holder != "a" || c.last() != nil {
			t.Fatalf("the row is %+v", row)
		}
		c.view.silent.Store(false)
		if term := leadsWithin(t, c, nil, 0, 3*time.Second); term.Epoch() != 5 {
			t.Errorf("leads with epoch %d", term.Epoch())
		}
	})
}

// Gateways may tell of an epoch after the term that they told it to has ended, and while the next one begins.
func TestEpochHeardDuringATakeOverIsNotLed(t *testing.T) {
	two(t, func(t *testing.T, a, _ *candidate) {
		first := a.last()
		a.view.slow.Store(int64(300 * time.Millisecond))
		first.Heard(20)
		<-time.After(500 * time.Millisecond) // looked, and takes over above 20
		first.Heard(40)
		if second := leadsWithin(t, a, first, 0, 3*time.Second); second.Epoch() != 41 || len(a.terms) != 2 {
			t.Errorf("leads with epoch %d, its term %d", second.Epoch(), len(a.terms))
		}
	})
}

// Who takes over and stops leaves nobody waiting for it.
func TestTakeOverDuringTheStopIsResigned(t *testing.T) {
	one(t, Row{Epoch: 3}, func(t *testing.T, c *candidate) {
		c.view.slow.Store(int64(300 * time.Millisecond))
		c.start()
		<-time.After(500 * time.Millisecond)
		c.end()
		if row := c.view.now(); row.Epoch != 4 || row.Holder != "" {
			t.Errorf("the row is %+v", row)
		}
	})
}

func TestTermIsRenewedUntilItsPartsHaveEnded(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		a.ending.Store(int64(20 * time.Second))
		term := a.last()
		a.stop()
		<-time.After(19 * time.Second)
		if term.Valid() || b.last() != nil {
			t.Error("it lets publishers in, or another one leads, while the parts of the term still end")
		}
		leadsWithin(t, b, nil, 900*time.Millisecond, 1600*time.Millisecond)
	})
}

func TestTermThatWasLostIsNotRenewed(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		a.ending.Store(int64(20 * time.Second))
		before := a.view.renewals.Load()
		term := a.last()
		term.Heard(40)
		if s := a.Status(); term.Valid() || s.Leads || s.Valid {
			t.Errorf("it leads: %+v", s)
		}
		wantCause(t, term, ErrDeposed)
		leadsWithin(t, b, nil, 5*time.Second, 6500*time.Millisecond)
		<-time.After(10 * time.Second)
		if n := a.view.renewals.Load() - before; n != 0 {
			t.Errorf("%d renewals", n)
		}
		a.stop()
		<-a.over
		if row := b.view.now(); row.Holder != "b" || strings.Contains(a.logged(), "resigned") {
			t.Errorf("the row is %+v, log:\n%s", row, a.logged())
		}
	})
}

func TestLossIsSaidOnce(t *testing.T) {
	two(t, func(t *testing.T, a, _ *candidate) {
		term := a.last()
		a.view.mu.Lock()
		a.view.row.Holder = "c"
		a.view.mu.Unlock()
		a.view.slow.Store(int64(300 * time.Millisecond))
		for before := a.view.renewals.Load(); a.view.renewals.Load() == before; {
			<-time.After(10 * time.Millisecond)
		}
		term.Heard(40) // while a renewal is on its way
		<-time.After(time.Second)
		if n := strings.Count(a.logged(), "has lost the lead"); n != 1 {
			t.Errorf("%d times:\n%s", n, a.logged())
		}
	})
}

func TestStopWithoutADatabaseIsShort(t *testing.T) {
	two(t, func(t *testing.T, a, _ *candidate) {
		a.view.away.Store(true)
		<-time.After(1500 * time.Millisecond)
		began := time.Now()
		a.end()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the end takes %v", took)
		}
		if !strings.Contains(a.logged(), "could not resign") {
			t.Errorf("log:\n%s", a.logged())
		}
	})
}

// The clock of timers may have stood still: nobody has said that the lead is in doubt, and yet whoever has seen it waits.
func TestWhoHasSeenADoubtHearsThatItIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Int64
		term := newTerm(1, validFor, func() time.Duration { return time.Duration(now.Load()) }, nil)
		now.Store(int64(validFor + time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		waited := make(chan error, 1)
		go func() { waited <- term.AwaitValid(ctx) }()
		synctest.Wait()
		if _, changed := term.update(2 * validFor); changed {
			t.Error("the log is to say that it is over, and never said that it began")
		}
		if err := <-waited; err != nil {
			t.Error(err)
		}
	})
}

// Whoever keeps what the database may lose has to know when it answered last, not when the last question failed.
func TestATermKnowsSinceWhenItIsUnconfirmed(t *testing.T) {
	t.Parallel()
	now := time.Minute
	term := newTerm(1, now+validFor, func() time.Duration { return now }, nil)
	now += 2 * time.Second
	if got := term.Unconfirmed(); got != 2*time.Second {
		t.Errorf("%v after the take-over: %v", 2*time.Second, got)
	}
	term.update(now - time.Second + validFor) // by an answer that took a second
	now += validFor
	if got := term.Unconfirmed(); got != validFor+time.Second || term.Valid() {
		t.Errorf("%v after a renewal: %v, valid: %v", validFor+time.Second, got, term.Valid())
	}
}

// Links hear of the doubt soon after a longer sleep, also if the database does not answer.
func TestDoubtIsToldSoonAfterASleep(t *testing.T) {
	two(t, func(t *testing.T, a, _ *candidate) {
		changed := a.last().Changed()
		a.view.away.Store(true)
		a.frozen.Store(int64(12 * time.Second))
		select {
		case <-changed:
		case <-time.After(1100 * time.Millisecond):
			t.Error("nobody is told")
		}
	})
}

func TestStatusSaysWhoLeads(t *testing.T) {
	one(t, Row{Epoch: 3, Beat: 1, Holder: "z"}, func(t *testing.T, c *candidate) {
		c.view.away.Store(true)
		c.start()
		defer c.end()
		<-time.After(2200 * time.Millisecond)
		if s := c.Status(); s != (Status{AnswerAge: 2200 * time.Millisecond}) {
			t.Errorf("without an answer: %+v", s)
		}
		c.view.away.Store(false)
		<-time.After(2 * time.Second)
		if s := c.Status(); s.Leads || s.Valid || s.Epoch != 3 || s.Holder != "z" || !s.Answered || s.AnswerAge > lookEach {
			t.Errorf("as a standby: %+v", s)
		}
		leadsWithin(t, c, nil, 0, 6*time.Second)
		<-time.After(3500 * time.Millisecond)
		c.view.away.Store(true)
		<-time.After(2 * time.Second)
		s := c.Status()
		if !s.Leads || !s.Valid || s.Epoch != 4 || s.Holder != "a" || s.AnswerAge < time.Second || s.Renewed != 3 || s.Unanswered != 0 {
			t.Errorf("as the leader: %+v", s)
		}
		<-time.After(5 * time.Second)
		if s := c.Status(); !s.Leads || s.Valid || s.Unanswered < 2 {
			t.Errorf("without a database: %+v", s)
		}
	})
}

func TestLogSaysWhatHappenedToTheLead(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		a.view.away.Store(true)
		leadsWithin(t, b, nil, 0, 7*time.Second)
		a.view.away.Store(false)
		<-time.After(4 * time.Second)
		b.end()
		<-time.After(time.Second)
		b.start()
		<-time.After(time.Second)
		for c, lines := range map[*candidate][]string{
			a: {
				`leads now" epoch=1 holder=a because="nobody has led before"`,
				"no longer sure that it leads", "no_answer_for=5",
				`lost the lead and stands by" epoch=1`,
				`standing by: another coordinator leads" epoch=2 holder=b`,
				`leads now" epoch=3 holder=a because="the last leader has resigned" before="" before_epoch=2`,
			},
			b: {
				`standing by: another coordinator leads" epoch=1 holder=a`,
				`leads now" epoch=2 holder=b because="the last leader has shown no sign of life for 6 s" before=a before_epoch=1`,
				`has resigned: another one may lead" epoch=2`,
				`standing by: another coordinator leads" epoch=3 holder=a`,
			},
		} {
			rest := c.logged()
			for _, line := range lines {
				_, after, found := strings.Cut(rest, line)
				if !found {
					t.Fatalf("the log does not say in its place: %s\n%s", line, c.logged())
				}
				rest = after
			}
		}
	})
}

func TestDatabaseThatComesAndGoesDoesNotFillTheLog(t *testing.T) {
	two(t, func(t *testing.T, a, b *candidate) {
		for range 150 {
			for _, away := range []bool{true, false} {
				a.view.away.Store(away)
				b.view.away.Store(away)
				<-time.After(2 * time.Second)
			}
		}
		for _, c := range []*candidate{a, b} {
			if n := strings.Count(c.logged(), "\n"); n < 10 || n > 30 {
				t.Errorf("%d lines in 10 min:\n%s", n, c.logged())
			}
		}
		if a.last().Context().Err() != nil {
			t.Error("the lead was lost")
		}
	})
}

// What is first heard of a fault may only be that a connection was lost.
func TestEachCauseIsSaidOnceAMinute(t *testing.T) {
	var text strings.Builder
	h := health{log: slog.New(slog.NewTextHandler(&text, nil))}
	lost, refused := errors.New("connection lost"), errors.New("password refused")
	for i, c := range []struct {
		err   error
		after time.Duration
		want  bool
	}{
		{lost, 0, true}, {refused, time.Second, true}, {refused, 2 * time.Second, false}, {lost, 59 * time.Second, false},
		{refused, time.Minute, true}, {lost, time.Minute, true}, {lost, 61 * time.Second, false},
	} {
		text.Reset()
		if h.failed(c.err, c.after); strings.Contains(text.String(), c.err.Error()) != c.want {
			t.Errorf("case %d: %q", i, text.String())
		}
	}
	text.Reset()
	for i := range 100 {
		h.failed(fmt.Errorf("from port %d", i), 2*time.Minute)
	}
	if n := strings.Count(text.String(), "\n"); n != maxCauses {
		t.Errorf("%d lines of causes that are all different", n)
	}
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
		<-time.After(time.Second) // both have heard of it
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
		if took := time.Since(began); took < 5*time.Second {
			t.Errorf("somebody leads after %v", took)
		}
		if leader == nil || leader.Epoch() <= first.Epoch() {
			t.Fatalf("nobody leads above %d", first.Epoch())
		}
	})
}

// Two race to lead, again and again: the leader stops, or is cut off from the database until it is deposed, or hears of a higher epoch.
func TestElectionsHaveOneWinner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(Row{})
		both := []*candidate{newCandidate(table, "a"), newCandidate(table, "b")}
		for _, c := range both {
			c.start()
			defer func() { c.end() }()
		}
		var last uint64
		for i := range 1000 {
			var leader *candidate
			for leader == nil {
				<-time.After(10 * time.Millisecond)
				valid := 0
				for _, c := range both {
					if term := c.last(); term != nil && term.Valid() && term.Epoch() > last {
						leader = c
						valid++
					}
				}
				if valid > 1 {
					t.Fatal("two lead")
				}
			}
			last = leader.last().Epoch()
			switch i % 3 {
			case 0:
				leader.end()
				leader.start()
			case 1:
				leader.view.away.Store(true)
				go func() {
					<-time.After(8 * time.Second)
					leader.view.away.Store(false)
				}()
			case 2:
				leader.last().Heard(last + 1)
			}
		}
		<-time.After(10 * time.Second)
		if table.twice {
			t.Error("an epoch was won twice")
		}
	})
}
