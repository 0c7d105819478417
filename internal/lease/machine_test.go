package lease

import (
	"testing"
	"time"
)

func TestWhatIsHeardOfEpochs(t *testing.T) {
	t.Parallel()
	m := machine{holder: "a"}
	m.see(Row{Epoch: 7, Holder: ""}, 0)
	if !m.mayTakeOver(0) {
		t.Error("nobody leads, and it does not take over at once")
	}
	if !m.tookOver(8, 0) {
		t.Error("it has won, and does not lead")
	}
	m.hear(8)
	m.hear(maxEpoch + 1)
	if !m.leads {
		t.Error("its own epoch, or one that can't be, ends the term")
	}
	m.hear(20)
	if m.leads {
		t.Error("a higher epoch does not end the term")
	}
	m.see(Row{Epoch: 8, Holder: "a"}, time.Second)
	if !m.mayTakeOver(time.Second) || m.highest != 20 {
		t.Errorf("its own row is not taken over at once above 20: %+v", m)
	}
	m.hear(21) // while the take-over is under way
	if m.tookOver(21, time.Second) || m.leads {
		t.Error("leads an epoch that somebody else has led")
	}
	m.see(Row{Epoch: 5, Holder: "b"}, 2*time.Second) // the database has lost commits
	for at := 2 * time.Second; at < 10*time.Second; at += lookEach {
		m.see(Row{Epoch: 5, Holder: "b"}, at)
		if may := at-2*time.Second >= quietFor; m.mayTakeOver(at) != may {
			t.Errorf("takes over %v after the row went back: %v", at-2*time.Second, !may)
		}
	}
}

// When the database was away for all, the one that leads is to be the first to be heard.
func TestQuietTimeBeginsAnewAfterTheDatabaseWasAway(t *testing.T) {
	t.Parallel()
	row := Row{Epoch: 3, Beat: 5, Holder: "b"}
	for _, c := range []struct {
		gap  time.Duration
		anew bool
	}{{blindFor - 1, false}, {blindFor, true}, {time.Hour, true}} {
		m := machine{holder: "a"}
		m.see(row, 0)
		m.see(row, 2*time.Second)
		back := 2*time.Second + c.gap
		m.see(row, back)
		for at := back; at < back+quietFor; at += lookEach {
			m.see(row, at)
			if may := !c.anew && at >= quietFor; m.mayTakeOver(at) != may {
				t.Errorf("gap of %v: takes over %v after it: %v", c.gap, at-back, !may)
			}
		}
		m.see(row, back+quietFor)
		if !m.mayTakeOver(back + quietFor) {
			t.Errorf("gap of %v: never takes over", c.gap)
		}
	}
}

func TestLeadIsSureFor5SecondsFromBeforeItsRenewal(t *testing.T) {
	t.Parallel()
	m := machine{holder: "a"}
	m.tookOver(1, time.Second)
	check := func(until time.Duration) {
		t.Helper()
		if !m.isValid(until-1) || m.isValid(until) {
			t.Errorf("not valid until %v: %+v", until, m)
		}
	}
	check(6 * time.Second)
	m.renewed(true, 3*time.Second)
	check(8 * time.Second)
	m.renewed(true, 2*time.Second) // an earlier one, answered later
	check(8 * time.Second)
	m.renewed(true, 20*time.Second)
	check(25 * time.Second)
	m.renewed(false, 21*time.Second)
	if m.leads || m.isValid(21*time.Second) {
		t.Error("leads without the row")
	}
}
