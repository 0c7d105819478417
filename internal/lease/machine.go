package lease

// The rules, without clock and database: what is known, and what follows from it. Times are readings of one clock.

import "time"

const (
	validFor  = 5 * time.Second // from before a renewal was sent
	quietFor  = 6 * time.Second // that the row must not have changed, for another one to take over
	blindFor  = 3 * time.Second // without an answer: whatever was seen before says nothing of the time in between
	renewEach = time.Second
	lookEach  = 500 * time.Millisecond

	// maxEpoch is above all that there can be: one a second would get there in 285 million years. Whoever names a higher one is wrong.
	maxEpoch = 1 << 53
)

// machine is what one process knows.
type machine struct {
	holder string // set once: this process

	highest uint64 // epoch that it has heard of

	// while it does not lead
	looked bool // the three below say something
	seen   Row
	since  time.Duration // receipt of the first answer that showed the row like this, of many without a long gap
	latest time.Duration // receipt of the last answer

	// while it leads
	leads      bool
	epoch      uint64
	validUntil time.Duration
}

// see takes in the row. received is when the answer came. The quiet time begins anew after a time in which the database was away: it was
// away for the leader, too, who is to go on.
func (m *machine) see(row Row, received time.Duration) {
	m.hear(row.Epoch)
	if !m.looked || row != m.seen || received-m.latest >= blindFor {
		m.looked, m.seen, m.since = true, row, received
	}
	m.latest = received
}

// hear takes in that there is, or was, such an epoch. A higher one than its own ends the lead.
func (m *machine) hear(epoch uint64) {
	if epoch > maxEpoch {
		return
	}
	m.highest = max(m.highest, epoch)
	if m.highest > m.epoch {
		m.leads = false
	}
}

// mayTakeOver tells whether to try it now. A row with this process's own name is from a take-over whose answer was lost, or from a term
// that has ended: whatever was done with that epoch counts no more.
func (m *machine) mayTakeOver(now time.Duration) bool {
	switch {
	case m.leads || !m.looked:
		return false
	case m.seen.Holder == "" || m.seen.Holder == m.holder:
		return true
	}
	return now-m.since >= quietFor
}

// tookOver takes in that a take-over was won; sent is when it was sent, or before. It reports whether this process leads now. It does not
// if it has heard of such an epoch, or a higher one, meanwhile: then it takes over again.
func (m *machine) tookOver(epoch uint64, sent time.Duration) bool {
	m.looked = false
	if epoch <= m.highest {
		return false
	}
	m.highest = epoch
	m.leads, m.epoch, m.validUntil = true, epoch, sent+validFor
	return true
}

// renewed takes in the answer to a renewal, which tells whether the lead was held. sent is when it was sent, or before.
func (m *machine) renewed(held bool, sent time.Duration) {
	if held {
		m.validUntil = max(m.validUntil, sent+validFor)
	} else {
		m.end()
	}
}

// end ends the lead. The row is looked at anew before this process takes over again.
func (m *machine) end() { m.leads = false }

// isValid tells whether it leads beyond doubt.
func (m *machine) isValid(now time.Duration) bool { return m.leads && now < m.validUntil }
