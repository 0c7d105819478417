package main

// Gateways that are absent or back, late answers, and the numbers that no later process may give again. A gateway is absent as
// a whole: nobody can know what its peers do meanwhile, so they get nothing new, and what they fail to do is not held against
// them. What happens when a gateway is gone: see leaveGateways. Part of the registry, under its rules.

import (
	"errors"
	"slices"
	"time"
)

var errAcceptedLate = errors.New("its gateway had denied the request already")

// isAwayLocked tells whether the gateway of its server or of one of its encoders is absent. Then no time limit of the publication
// runs.
func (p *publication) isAwayLocked() bool {
	return p.server.away || p.current != nil && p.current.encoder.away || p.successor != nil && p.successor.encoder.away
}

// gatewayAbsent is called when nothing comes from a gateway any more, and gatewayBack when it is there again. All time limits
// begin anew then.

func (r *registry) gatewayAbsent(gateway string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setAwayLocked(gateway, true)
}

func (r *registry) gatewayBack(gateway string, now time.Time) []notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setAwayLocked(gateway, false)
	for p, k := range r.killed {
		if p.server.gateway == gateway {
			*k = killing{since: now}
		}
	}
	for el := r.waiting.Front(); el != nil; el = el.Next() {
		switch w := el.Value.(*waiter); {
		case w.pub != nil && w.pub.server.gateway == gateway:
			w.due = now.Add(r.limits.encoderWait)
		case w.pub == nil && w.server.gateway == gateway:
			if w.due = now.Add(r.limits.encoderWait); w.request.answerBy.Before(w.due) {
				w.due = w.request.answerBy
			}
		}
	}
	r.beginAnewLocked(gateway, now)
	if r.replay != nil {
		return nil
	}
	r.reconcileLocked(now)
	return r.endTransitionLocked(now)
}

func (r *registry) setAwayLocked(gateway string, away bool) {
	for _, s := range r.servers {
		if s.gateway == gateway {
			s.away = away
		}
	}
	for _, e := range r.encoders {
		if e.gateway == gateway {
			e.away = away
		}
	}
}

// beginAnewLocked has the time limits begin anew of streams that have announced nothing or are to take over, if their server or
// encoder is at the gateway.
func (r *registry) beginAnewLocked(gateway string, now time.Time) {
	concerned := func(st *stream) bool {
		limited := st == st.pub.successor || st == st.pub.current && st.lastSeq == 0
		return limited && (st.encoder.gateway == gateway || st.pub.server.gateway == gateway)
	}
	r.started = slices.DeleteFunc(r.started, concerned)
	begin := func(st *stream) {
		if st == nil || !concerned(st) {
			return
		}
		st.started = now.Sub(r.began)
		if r.limits.startTimeout > 0 {
			r.started = append(r.started, st)
		}
	}
	for _, s := range r.servers {
		for _, p := range s.publications {
			begin(p.current)
			begin(p.successor)
		}
	}
}

// late ends a publication that was accepted too late: the gateway had denied the request already, so that nobody publishes. It
// is not killed.
func (r *registry) late(s *server, publication uint64, now time.Time) []notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range s.publications {
		if p.number == publication {
			r.endLocked(p, errAcceptedLate, now)
			r.reconcileLocked(now)
			break
		}
	}
	return r.endTransitionLocked(now)
}

// await has a registry that nothing has happened to yet wait until restored is called: peers may join, but nobody is let in.
// reserve is called under the lock, before numbers up to last are given.
func (r *registry) await(p passer, reserve func(last uint64)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passer, r.reserve = p, reserve
	r.replay = newReplay()
	r.postponed = map[*publication]loss{}
	r.reserveNumbersLocked()
}

// numberBlock is how many identities and numbers are reserved at a time.
const numberBlock = 1 << 20

// reserveNumbersLocked is called when numbers may have been given. The next block is reserved when half of one is left: long
// before it is needed.
func (r *registry) reserveNumbersLocked() {
	if highest := max(r.lastID, r.lastNumber); highest+numberBlock/2 > r.reserved {
		r.reserved = highest + numberBlock
		r.reserve(r.reserved)
	}
}

// members returns the streaming server or the encoder with an identity; nil, nil: there is none.
func (r *registry) members(id uint64) (*server, *encoder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.servers[id], r.encoders[id]
}

// skipNumbers has identities and numbers go on above one that another process may have given.
func (r *registry) skipNumbers(highest uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID, r.lastNumber = max(r.lastID, highest), max(r.lastNumber, highest)
	r.reserveNumbersLocked()
}

// claimID has no other session be given an identity. It fails if one has it.
func (r *registry) claimID(id uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID = max(r.lastID, id)
	return r.servers[id] == nil && r.encoders[id] == nil
}
