package lease

// Everything that processes can do with one row, in every order: what is under way takes effect at once, late, or never, and its answer
// comes at once, late, or never.

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// model is the row and those who want it. It has no pointers, so that it is copied by assignment and compared by ==.
type model struct {
	now   time.Duration
	row   Row
	procs [3]process
	late  call // nobody waits for it any more, and it can still take effect

	lossy bool       // the database has lost commits, or will
	won   [32]number // who has won an epoch
}

type number uint8 // 1 is the first one; 0 is nobody

type process struct {
	machine
	call call // under way
}

type call struct {
	kind    string // "" is none
	by      number
	seen    Row    // of a take-over
	above   uint64 // of a take-over
	epoch   uint64 // of a renewal, and of the end of a term
	sent    time.Duration
	applied bool

	row Row    // what a look has found
	got uint64 // epoch that a take-over has won
	ok  bool   // won, or held
}

// move is what can happen next: process i does something. 0 is time itself.
type move struct {
	by   number
	what string
}

func (v move) String() string { return fmt.Sprint(v.by, " ", v.what) }

var names = [...]string{"", "a", "b", "c"}

// moves are all that can happen next among n processes. Those with "at once" are several in one, without which the depth would not reach
// far.
func (m *model) moves(n int) []move {
	moves := []move{{0, "wait 1"}, {0, "wait 5"}, {0, "wait 6"}}
	if m.late.kind != "" {
		moves = append(moves, move{0, "late"}, move{0, "never"})
	}
	if m.lossy && m.row.Epoch > 1 {
		moves = append(moves, move{0, "lose"})
	}
	for i := range number(n) {
		p := &m.procs[i]
		add := func(what ...string) {
			for _, w := range what {
				moves = append(moves, move{i + 1, w})
			}
		}
		switch {
		case p.call.kind == "" && p.leads:
			add("renew", "renew at once", "resign", "resign at once")
		case p.call.kind == "" && p.mayTakeOver(m.now):
			add("take", "take at once", "look at once")
		case p.call.kind == "":
			add("look", "look at once", "watch")
		case !p.call.applied:
			add("apply", "answer at once")
			if m.late.kind == "" {
				add("give up")
			}
		default:
			add("answer", "give up")
		}
		if p.highest < m.row.Epoch {
			add("hear")
		}
	}
	return moves
}

func (m *model) play(v move) error {
	if v.by == 0 {
		return m.happen(v.what)
	}
	p := &m.procs[v.by-1]
	switch v.what {
	case "look", "renew", "take":
		p.call = call{kind: v.what, by: v.by, seen: p.seen, above: p.highest, epoch: p.epoch, sent: m.now}
	case "resign":
		p.end()
		p.call = call{kind: v.what, by: v.by, epoch: p.epoch, sent: m.now}
	case "hear":
		p.hear(m.row.Epoch)
	case "apply":
		return m.apply(&p.call)
	case "answer":
		return m.answer(p)
	case "give up":
		if !p.call.applied {
			m.late = p.call
		}
		p.call = call{}
	case "look at once", "renew at once", "take at once", "resign at once":
		return m.playAll(v.by, v.what[:len(v.what)-len(" at once")], "apply", "answer")
	case "answer at once":
		return m.playAll(v.by, "apply", "answer")
	case "watch": // for 6 s
		for range 3 {
			m.now += 2 * time.Second
			if err := m.playAll(v.by, "look", "apply", "answer"); err != nil {
				return err
			}
		}
	}
	return m.check()
}

func (m *model) playAll(by number, whats ...string) error {
	for _, what := range whats {
		if err := m.play(move{by, what}); err != nil {
			return err
		}
	}
	return nil
}

// happen is what nobody does.
func (m *model) happen(what string) error {
	switch what {
	case "wait 1":
		m.now += time.Second
	case "wait 5":
		m.now += 5 * time.Second
	case "wait 6":
		m.now += 6 * time.Second
	case "late", "never":
		c := m.late
		m.late = call{}
		if what == "late" {
			return m.apply(&c)
		}
	case "lose":
		m.row = Row{Epoch: m.row.Epoch - 1, Beat: m.row.Beat - 1, Holder: "of old"}
	}
	return m.check()
}

// apply is what the database does with a statement.
func (m *model) apply(c *call) error {
	c.applied = true
	mine := m.row.Epoch == c.epoch && m.row.Holder == names[c.by]
	switch c.kind {
	case "look":
		c.row = m.row
	case "renew":
		if c.ok = mine; mine {
			m.row.Beat++
		}
	case "resign":
		if mine {
			m.row.Holder = ""
		}
	case "take":
		if c.ok = m.row == c.seen; !c.ok {
			break
		}
		c.got = max(c.seen.Epoch, c.above) + 1
		if c.got <= m.row.Epoch {
			return fmt.Errorf("the epoch goes back from %d to %d", m.row.Epoch, c.got)
		}
		if m.won[c.got] != 0 && !m.lossy {
			return fmt.Errorf("epoch %d is won twice", c.got)
		}
		m.won[c.got] = c.by
		m.row = Row{Epoch: c.got, Beat: m.row.Beat + 1, Holder: names[c.by]}
	}
	return m.check()
}

// answer tells a process what its statement has done.
func (m *model) answer(p *process) error {
	c := p.call
	p.call = call{}
	before := p.highest
	switch {
	case c.kind == "look":
		p.see(c.row, m.now)
	case c.kind == "renew" && p.leads:
		p.renewed(c.ok, c.sent)
	case c.kind == "take" && c.ok:
		if p.tookOver(c.got, c.sent) && p.epoch <= before {
			return fmt.Errorf("leads epoch %d, and has heard of %d", p.epoch, before)
		}
	}
	return m.check()
}

// check holds what must hold at any time.
func (m *model) check() error {
	valid := 0
	for i := range m.procs {
		p := &m.procs[i]
		if p.isValid(m.now) {
			valid++
		}
		if p.leads && p.epoch < p.highest {
			return fmt.Errorf("leads epoch %d, and has heard of %d", p.epoch, p.highest)
		}
	}
	if valid > 1 && !m.lossy {
		return fmt.Errorf("%d are sure to lead", valid)
	}
	return nil
}

// normal is the same model with all that does not matter for what can come taken out: times are how long ago they were.
func (m model) normal() model {
	ago := func(at *time.Duration) { *at = max(*at-m.now, -7*time.Second) }
	ago(&m.late.sent)
	for i := range m.procs {
		p := &m.procs[i]
		ago(&p.since)
		ago(&p.latest)
		ago(&p.call.sent)
		p.validUntil = max(p.validUntil-m.now, 0)
		if !p.leads {
			p.validUntil = 0
		}
		if !p.looked {
			p.seen, p.since, p.latest = Row{}, 0, 0
		}
	}
	m.now = 0
	return m
}

// explore plays all moves of n processes up to a depth. It returns the number of states, and of those in which the second process leads.
func explore(t *testing.T, begin model, n, depth int) (states, led int) {
	t.Helper()
	type step struct {
		from *step
		move move
		model
	}
	known := map[model]bool{begin.normal(): true}
	level := []*step{{model: begin.normal()}}
	for range depth {
		var next []*step
		for _, s := range level {
			for _, v := range s.moves(n) {
				m := s.model
				if err := m.play(v); err != nil {
					way := []string{v.String()}
					for at := s; at.from != nil; at = at.from {
						way = append(way, at.move.String())
					}
					slices.Reverse(way)
					t.Fatalf("%v: %q\n%+v", err, way, m)
				}
				if m = m.normal(); !known[m] {
					known[m] = true
					next = append(next, &step{s, v, m})
					if m.procs[1].leads {
						led++
					}
				}
			}
		}
		level = next
	}
	return len(known), led
}

func beginning() model {
	m := model{row: Row{Epoch: 4, Beat: 9, Holder: "a"}}
	m.won[4] = 1
	for i := range m.procs {
		m.procs[i].machine = machine{holder: names[i+1]}
	}
	m.procs[0].tookOver(4, 0)
	return m
}

func TestNoTwoAreSureToLead(t *testing.T) {
	t.Parallel()
	lossy := beginning()
	lossy.lossy = true
	for name, c := range map[string]struct {
		begin    model
		n, depth int
	}{
		"two processes":                         {beginning(), 2, 6},
		"three processes":                       {beginning(), 3, 5},
		"a database that loses commits, by two": {lossy, 2, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			depth := c.depth
			if testing.Short() {
				depth--
			}
			began := time.Now()
			states, led := explore(t, c.begin, c.n, depth)
			t.Logf("%d states, the second process leads in %d, %v", states, led, time.Since(began))
			if led == 0 {
				t.Error("the second process never leads")
			}
		})
	}
}
