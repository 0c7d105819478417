package main

// Ending publishers: STREAM-KILL and its repeats. A streaming server misses a kill that arrives before it has processed the
// accept. The channel would then be free here while its publisher goes on there. So the kill is repeated up to five times
// until the server answers with PUBLISH-END or is gone; after 30 s the publication is dropped. Only the channel waits for
// that; slots and events do not. Part of the registry, under its rules.

import (
	"errors"
	"time"
)

const (
	// A kill is repeated killsAgain times, at 1, 2, 4, 8 and 16 times firstKillAgain after the first one.
	firstKillAgain = time.Second
	killsAgain     = 5

	// After killPatience a publication is forgotten even if its server has not said that it ended.
	killPatience = 30 * time.Second
)

var (
	errKillIgnored   = errors.New("streaming server did not answer STREAM-KILL for 30 s")
	errByApplication = errors.New("closed by the application")
	errByOperator    = errors.New("closed by an operator")
)

// killing is a kill that was not answered yet.
type killing struct {
	since time.Time // when it was sent first
	again int       // repeats that were due when it was sent last
}

// kill tells the publisher of the channel's live publication to stop, if the ID is its current one or "*". Its encodings go
// on until the streaming server says that it has ended, or the kill has to be repeated. With "*" a takeover of the channel that is
// under way ends, too: its newcomer was allowed before the command. by is errByApplication or errByOperator. It reports whether there
// was a publication.
func (r *registry) kill(channel, streamID string, by error, now time.Time) (_ []notice, found bool, passedOn <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.takeovers[channel]; t != nil && streamID == "*" {
		r.refuseTakeoverLocked(t, errClosedUnderWay, now)
	}
	p := r.channels.Get(channel)
	found = p != nil && p.isKnownByLocked(streamID)
	if found {
		r.killLocked(p, by, now)
		r.noteLocked(notice{kind: noteKilledBy, channel: p.channel, stream: p.id, server: p.server.id, reason: by})
		passedOn = r.passedOnLocked()
	}
	r.reconcileLocked(now)
	return r.endTransitionLocked(now), found, passedOn
}

func (p *publication) isKnownByLocked(streamID string) bool {
	return streamID == "*" || streamID == p.id || p.successor != nil && streamID == p.successor.id
}

// killLocked tells a publisher to stop. The first reason counts.
func (r *registry) killLocked(p *publication, reason error, now time.Time) {
	r.endsLocked(p, reason)
	p.server.peer.kill(p.channel, p.publisherID)
	if !p.killed {
		p.killed = true
		r.publicationChangedLocked(p)
		r.killed[p] = &killing{since: now}
		r.stopWaitingLocked(p) // it takes no slot any more
	}
}

// giveUpLocked kills a publication on the coordinator's own initiative: no encoder can have it.
func (r *registry) giveUpLocked(p *publication, reason error, now time.Time) {
	if !p.killed {
		r.killLocked(p, reason, now)
		r.noteLocked(notice{kind: noteKilled, channel: p.channel, stream: p.id, server: p.server.id, reason: reason})
	}
	r.letGoLocked(p)
}

// repeatKillsLocked resends kills that are due, and drops publications whose streaming server does not answer. A server that
// is behind in reading gets no repeats: it has the first kill still to read.
func (r *registry) repeatKillsLocked(now time.Time) {
	for p, k := range r.killed {
		if p.server.away {
			continue
		}
		age := now.Sub(k.since)
		if age >= killPatience {
			r.noteLocked(notice{kind: noteKillIgnored, channel: p.channel, stream: p.id, server: p.server.id, reason: errKillIgnored, why: p.why})
			r.forgetLocked(p, now)
			continue
		}
		due := k.again
		for due < killsAgain && age >= firstKillAgain<<due {
			due++
		}
		if due > 0 {
			r.letGoLocked(p) // its slot no longer waits for the server
		}
		if due > k.again && p.server.peer.keepsUp() {
			k.again = due
			p.server.peer.kill(p.channel, p.publisherID)
		}
	}
}
