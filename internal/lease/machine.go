package lease

// The rules, without clock and database: what is known, and what follows from it. Times are readings of one clock.

import "time"

const (
	validFor  = 5 * time.Second // from before a renewal was sent
	quietFor  = 6 * time.Second // that the row must not have changed, for another one to take over
	blindFor  = 3 * time.Second // without an answer: what the row was like meanwhile is not known, and nothing of it counts
	renewEach = time.Second
	lookEach  = 500 * time.Millisecond
)

// machine is what one process knows.
type machine struct {
	holder string // set once: this process

	highest uint64 // epoch that it has heard of

	// while it does not lead
	seen   Row
	since  time.Duration // when the row was first seen like this: the receipt of the answer
	last   time.Duration // when it was last seen
	looked bool

	// while it leads
	leads      bool
	epoch      uint64
	validUntil time.Duration
}

// see takes in the row. received is when the answer came.
func (m *machine) see(row Row, received time.Duration) {
	m.hear(row.Epoch)
	if !m.looked || row != m.seen || received-m.last > blindFor {
		m.seen, m.since, m.looked = row, received, true
	}
	m.last = received
}

// hear takes in that there is, or was, such an epoch.
func (m *machine) hear(epoch uint64) { m.highest = max(m.highest, epoch) }

// mayTakeOver tells whether to try it now. A row with this process's own name is from a take-over whose answer was lost, or from a term
// that has ended: whatever was done with that epoch counts no more.
func (m *machine) mayTakeOver(now time.Duration) bool {
	switch {
	case m.leads || !m.looked:
		return false
	case m.seen.Holder == "" || m.seen.Holder == m.holder:
		return true
	}
	return m.last-m.since >= quietFor && now-m.last <= blindFor
}

// tookOver takes in that a take-over was won. sent is when it was sent, or before.
func (m *machine) tookOver(epoch uint64, sent time.Duration) {
	m.hear(epoch)
	m.leads, m.epoch, m.validUntil, m.looked = true, epoch, sent+validFor, false
}

// renewed takes in the answer to a renewal, which tells whether the lead was held. sent is when it was sent, or before.
func (m *machine) renewed(held bool, sent time.Duration) {
	if held {
		m.validUntil = max(m.validUntil, sent+validFor)
	} else {
		m.end()
	}
}

// isOver tells whether a higher epoch than that of the term was heard of.
func (m *machine) isOver() bool { return m.leads && m.highest > m.epoch }

// end ends the lead. The row is looked at anew before this process takes over again.
func (m *machine) end() { m.leads = false }

// isValid tells whether it leads beyond doubt.
func (m *machine) isValid(now time.Duration) bool { return m.leads && now < m.validUntil }
