package main

// The end that a publisher is told of. A kill can get lost at the streaming server, which may not have taken in the accept
// before it: the channel would be free here while its publisher goes on there. So STREAM-KILL is said again until the
// server answers with PUBLISH-END or is gone. Only the channel waits for that; slots and events do not. Part of the
// registry, under its rules.

import (
	"errors"
	"time"
)

const (
	// A kill is said again firstKillAgain after the first time, then after twice as long, and so on: killsAgain times.
	firstKillAgain = time.Second
	killsAgain     = 5

	// killPatience is after how long a publication is forgotten whose streaming server does not say that it ended.
	killPatience = 30 * time.Second
)

var errKillIgnored = errors.New("streaming server did not answer STREAM-KILL")

// killing is a kill that was not answered yet.
type killing struct {
	since time.Time // when it was said first
	again int       // how often it was due again
}

// kill tells the publisher of the channel's live publication to stop, if the ID is its current one or "*". The
// publication lives on until the streaming server says that it ended. It reports whether there was one.
func (r *registry) kill(channel, streamID string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.channels.get(channel)
	if p == nil || !p.isKnownByLocked(streamID) {
		return false
	}
	r.killLocked(p, now)
	return true
}

func (p *publication) isKnownByLocked(streamID string) bool {
	return streamID == "*" || streamID == p.id || p.successor != nil && streamID == p.successor.id
}

func (r *registry) killLocked(p *publication, now time.Time) {
	p.server.peer.kill(p.channel, p.publisherID)
	if !p.killed {
		p.killed = true
		r.killed[p] = &killing{since: now}
		r.stopWaitingLocked(p) // it takes no slot any more
	}
}

// giveUpLocked is a kill by the coordinator itself: there is no encoder for the publication, or it is of no use to one.
func (r *registry) giveUpLocked(p *publication, reason error, now time.Time) {
	if !p.killed {
		r.killLocked(p, now)
		r.noteLocked(notice{kind: noteKilled, channel: p.channel, stream: p.id, server: p.server.id, reason: reason})
	}
	r.letGoLocked(p)
}

// repeatKillsLocked says kills again that are due, and forgets publications whose streaming server says nothing.
func (r *registry) repeatKillsLocked(now time.Time) {
	for p, k := range r.killed {
		age := now.Sub(k.since)
		if age >= killPatience {
			r.noteLocked(notice{kind: noteKillIgnored, channel: p.channel, stream: p.id, server: p.server.id, reason: errKillIgnored})
			r.endLocked(p)
			continue
		}
		due := k.again
		for due < killsAgain && age >= firstKillAgain<<due {
			due++
		}
		if due > k.again {
			k.again = due
			p.server.peer.kill(p.channel, p.publisherID)
		}
	}
}
