package lease

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// model is a row and those who want it, as far as they have got. What is under way may take effect later, or never, and its
// answer may come later, or never.
type model struct {
	now   time.Duration
	row   Row
	procs [2]process
	wins  map[uint64]string // epoch: who has won it
}

type process struct {
	machine
	call *call // under way
}

type call struct {
	kind      string
	seen      Row
	above     uint64
	sent      time.Duration
	applied   bool
	row       Row    // what a look has found
	epoch     uint64 // what a take-over has won
	won, held bool
}

func (m *model) copied() *model {
	c := *m
	c.wins = map[uint64]string{}
	for epoch, who := range m.wins {
		c.wins[epoch] = who
	}
	for i := range c.procs {
		if m.procs[i].call != nil {
			under := *m.procs[i].call
			c.procs[i].call = &under
		}
	}
	return &c
}

// moves are all that can happen next.
func (m *model) moves() (moves []string) {
	for i := range m.procs {
		p := &m.procs[i]
		switch {
		case p.call == nil && p.leads:
			moves = append(moves, fmt.Sprint(i, "renew"), fmt.Sprint(i, "renew at once"))
		case p.call == nil && p.mayTakeOver(m.now):
			moves = append(moves, fmt.Sprint(i, "takeover"), fmt.Sprint(i, "takeover at once"))
		case p.call == nil:
			moves = append(moves, fmt.Sprint(i, "look"), fmt.Sprint(i, "look at once"))
		case !p.call.applied:
			moves = append(moves, fmt.Sprint(i, "apply"), fmt.Sprint(i, "forget"))
		default:
			moves = append(moves, fmt.Sprint(i, "answer"), fmt.Sprint(i, "forget"))
		}
	}
	return append(moves, "-wait 1", "-wait 3", "-wait 6")
}

func (m *model) play(move string) error {
	if move[0] == '-' {
		var seconds int
		fmt.Sscanf(move, "-wait %d", &seconds)
		m.now += time.Duration(seconds) * time.Second
		return m.check()
	}
	if begin, atOnce := strings.CutSuffix(move, " at once"); atOnce { // without this the depth would not reach far
		for _, part := range []string{begin, move[:1] + "apply", move[:1] + "answer"} {
			if err := m.play(part); err != nil {
				return err
			}
		}
		return nil
	}
	i := int(move[0] - '0')
	p := &m.procs[i]
	switch c := p.call; move[1:] {
	case "renew", "look":
		p.call = &call{kind: move[1:], sent: m.now}
	case "takeover":
		p.call = &call{kind: "takeover", seen: p.seen, above: p.highest, sent: m.now}
	case "apply":
		c.applied = true
		switch c.kind {
		case "look":
			c.row = m.row
		case "renew":
			if c.held = m.row.Epoch == p.epoch && m.row.Holder == p.holder; c.held {
				m.row.Beat++
			}
		case "takeover":
			if c.won = m.row == c.seen; c.won {
				c.epoch = max(c.seen.Epoch, c.above) + 1
				if other := m.wins[c.epoch]; other != "" {
					return fmt.Errorf("epoch %d is won twice", c.epoch)
				}
				if c.epoch <= m.row.Epoch {
					return fmt.Errorf("the epoch goes back from %d to %d", m.row.Epoch, c.epoch)
				}
				m.wins[c.epoch] = p.holder
				m.row = Row{Epoch: c.epoch, Beat: m.row.Beat, Holder: p.holder}
			}
		}
	case "answer":
		p.call = nil
		switch {
		case c.kind == "look":
			p.see(c.row, m.now)
		case c.kind == "renew":
			p.renewed(c.held, c.sent)
		case c.won:
			p.tookOver(c.epoch, c.sent)
		}
	case "forget": // the answer is lost; what was not applied never is
		p.call = nil
	}
	return m.check()
}

// check holds that no two are sure to lead.
func (m *model) check() error {
	if m.procs[0].isValid(m.now) && m.procs[1].isValid(m.now) {
		return fmt.Errorf("both are sure to lead, in the epochs %d and %d", m.procs[0].epoch, m.procs[1].epoch)
	}
	return nil
}

// key is all that matters for what can come: times by how long ago they were.
func (m *model) key() string {
	key := fmt.Sprint(m.row)
	for i := range m.procs {
		p := m.procs[i]
		age := func(at time.Duration) time.Duration { return min(m.now-at, 7*time.Second) }
		key += fmt.Sprint("|", p.highest, p.looked, p.seen, age(p.since), age(p.last), p.leads, p.epoch, max(p.validUntil-m.now, -time.Second))
		if c := p.call; c != nil {
			k := *c
			k.sent = age(c.sent)
			key += fmt.Sprintf("%+v", k)
		}
	}
	return key
}

// Everything that two processes can do, in every order, with answers that are late or lost.
func TestNoTwoAreSureToLead(t *testing.T) {
	t.Parallel()
	depth := 9
	if testing.Short() {
		depth = 8
	}
	begin := &model{row: Row{Epoch: 4, Beat: 9, Holder: "a"}, wins: map[uint64]string{4: "a"}}
	begin.procs[0].machine = machine{holder: "a", highest: 4, leads: true, epoch: 4, validUntil: validFor}
	begin.procs[1].machine = machine{holder: "b"}
	level := map[string]*model{begin.key(): begin}
	known, taken := map[string]bool{}, 0
	for range depth {
		next := map[string]*model{}
		for _, m := range level {
			for _, move := range m.moves() {
				n := m.copied()
				if err := n.play(move); err != nil {
					t.Fatalf("%v, after %q from %s", err, move, m.key())
				}
				if key := n.key(); !known[key] {
					known[key], next[key] = true, n
					if len(n.wins) > 1 && n.procs[1].leads {
						taken++
					}
				}
			}
		}
		level = next
	}
	t.Logf("%d states, the other one leads in %d", len(known), taken)
	if taken == 0 {
		t.Error("the other one never takes over")
	}
}

func TestWhatIsHeardOfEpochs(t *testing.T) {
	t.Parallel()
	m := machine{holder: "a"}
	m.see(Row{Epoch: 7, Holder: ""}, 0)
	if !m.mayTakeOver(0) {
		t.Error("nobody leads, and it does not take over at once")
	}
	m.tookOver(8, 0)
	m.hear(8)
	if m.isOver() {
		t.Error("its own epoch ends the term")
	}
	m.hear(20)
	if !m.isOver() {
		t.Error("a higher epoch does not end the term")
	}
	m.end()
	m.see(Row{Epoch: 8, Holder: "a"}, time.Second)
	if !m.mayTakeOver(time.Second) || m.highest != 20 {
		t.Errorf("its own row is not taken over at once above 20: %+v", m)
	}
	old := Row{Epoch: 5, Holder: "b"} // the database has lost commits
	for at := 2 * time.Second; at < 8*time.Second; at += lookEach {
		if m.see(old, at); m.mayTakeOver(at) {
			t.Errorf("a row that has gone back is taken over after %v", at-2*time.Second)
		}
	}
	m.see(old, 8*time.Second)
	if !m.mayTakeOver(8 * time.Second) {
		t.Error("a row that has gone back is not taken over after 6 s")
	}
	if m.mayTakeOver(12 * time.Second) {
		t.Error("it is taken over by what was seen 4 s ago")
	}
	m.see(old, 20*time.Second)
	if m.mayTakeOver(20 * time.Second) {
		t.Error("a time without an answer counts")
	}
}
