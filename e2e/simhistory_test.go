package e2e

// What the peers and the application of a simulation saw, in one order, and the rules that it is held against. What a
// peer does is noted before it is said, what it is told after it was heard: so "before" between an act and what
// follows from it is certain, while two connections may tell of two things in the wrong order. Each rule says how it
// deals with that.

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

type simDeed string

const (
	simAccepted  simDeed = "accepted"  // a streaming server heard PUBLISH-ACCEPT
	simDenied    simDeed = "denied"    // it heard PUBLISH-DENY
	simKilled    simDeed = "killed"    // it heard STREAM-KILL
	simEnded     simDeed = "ended"     // it is about to say PUBLISH-END
	simStarted   simDeed = "started"   // an encoder heard ENCODE-START
	simStopped   simDeed = "stopped"   // it heard ENCODE-STOP
	simAnnounced simDeed = "announced" // it is about to say STREAM-AVAILABLE
	simFinished  simDeed = "finished"  // it is about to say STREAM-CLOSED
	simMark      simDeed = "mark"      // it is about to say REGISTER with the capacity index
	simGone      simDeed = "gone"      // a peer is about to end its connection, or finds it ended
	simMoving    simDeed = "moving"    // the encoder at a connection is about to be drained with moving
	simArrived   simDeed = "arrived"   // an event reached the application
)

type simEntry struct {
	what                      simDeed
	who                       string // a connection of a peer
	channel, stream, previous string
	kind, index               string // of an announcement
	event                     string // x-event-id
	seq                       int
	closed                    bool
	content                   string // of an event: all headers
	at                        time.Time
}

func (e simEntry) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s%s %s", e.who, e.what, e.channel, e.stream, e.event, e.kind, e.index))
}

type simHistory struct {
	mu sync.Mutex
	// guarded by mu
	entries []simEntry
	awaited simDeed
	seen    chan struct{} // closed at the next entry of what is awaited; nil: nothing is
}

// next is closed when something of the kind is noted.
func (h *simHistory) next(what simDeed) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.awaited, h.seen = what, make(chan struct{})
	return h.seen
}

func (h *simHistory) note(e simEntry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.at = time.Now()
	h.entries = append(h.entries, e)
	if h.seen != nil && e.what == h.awaited {
		close(h.seen)
		h.seen = nil
	}
}

// snapshot leaves out what was heard on a connection after its end.
func (h *simHistory) snapshot() (entries []simEntry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gone := map[string]bool{}
	for _, e := range h.entries {
		switch e.what {
		case simGone:
			if gone[e.who] {
				continue
			}
			gone[e.who] = true
		case simAccepted, simDenied, simKilled, simStarted, simStopped:
			if gone[e.who] {
				continue
			}
		}
		entries = append(entries, e)
	}
	return entries
}

// faults are the breaches of a rule that were found.
type faults []string

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

func (f faults) report(t testing.TB) {
	t.Helper()
	for i, fault := range f {
		if i == 10 {
			t.Errorf("and %d more", len(f)-i)
			break
		}
		t.Error(fault)
	}
}

// first returns the index of the first entry after from that fits, or len(entries).
func first(entries []simEntry, from int, fits func(simEntry) bool) int {
	for i := from + 1; i < len(entries); i++ {
		if fits(entries[i]) {
			return i
		}
	}
	return len(entries)
}

// excerpt is what the history has of a channel, for whoever looks into a fault.
func excerpt(entries []simEntry, channel string, from, to int) string {
	var b strings.Builder
	for i := max(0, from-10); i < min(len(entries), to+10); i++ {
		if e := entries[i]; e.channel == channel || e.channel == "" {
			fmt.Fprintf(&b, "\n  %d %s %v", i, e.at.Format("05.000000"), e)
		}
	}
	return b.String()
}

// storyOf is what the history has of a stream.
func storyOf(entries []simEntry, stream string) string {
	var b strings.Builder
	for i, e := range entries {
		if e.stream == stream {
			fmt.Fprintf(&b, "\n  %d %s %v", i, e.at.Format("05.000000"), e)
		}
	}
	return b.String()
}

// checkPublishers: a stream ID is accepted once, every accepted publisher ends, and never are two on one channel, not
// even while the coordinator has one of them killed: it has to wait for PUBLISH-END.
func checkPublishers(entries []simEntry) (f faults) {
	last := map[string]int{}
	overs := map[int]int{}
	known := map[string]bool{}
	for i, e := range entries {
		if e.what != simAccepted {
			continue
		}
		if known[e.stream] {
			f.add("%v: the stream ID was given out before", e)
		}
		known[e.stream] = true
		over := first(entries, i, func(o simEntry) bool {
			return o.who == e.who && (o.what == simGone || o.what == simEnded && o.stream == e.stream)
		})
		if over == len(entries) {
			f.add("%v: never ends", e)
			continue
		}
		before, found := last[e.channel]
		if other := entries[before]; found && overs[before] > i {
			f.add("%v: while %s is live there as %s%s", e, other.who, other.stream, excerpt(entries, e.channel, before, overs[before]))
		}
		last[e.channel], overs[i] = i, over
	}
	return f
}

// checkEncodings: a stream ID is started once. Two encodings of a channel are live at once only while one of them is
// to be moved away; otherwise one of them was stopped or lost, of which its encoder may hear later, though not on the
// same connection. A stream is stopped only where it was started, and once.
func checkEncodings(entries []simEntry) (f faults) {
	started, stopped := map[string]simEntry{}, map[string]bool{}
	last := map[string]int{}
	moving := map[string]bool{}
	overAt := func(s simEntry) func(simEntry) bool {
		return func(o simEntry) bool {
			return o.who == s.who && (o.what == simGone || (o.what == simStopped || o.what == simFinished) && o.stream == s.stream)
		}
	}
	hearsLater := func(s simEntry, i int) bool { // of its end, or would have heard of it
		return first(entries, i, func(o simEntry) bool {
			return o.who == s.who && (o.what == simGone || o.what == simStopped && o.stream == s.stream)
		}) < len(entries)
	}
	// The publisher has ended: that the other one is told to stop may be on its way over another connection, and it may finish by
	// itself before.
	ended := func(s simEntry, from, to int) bool {
		return slices.ContainsFunc(entries[:from], func(o simEntry) bool { return o.what == simEnded && o.stream == s.stream }) ||
			first(entries[:to], from, func(o simEntry) bool { return o.what == simEnded && o.channel == s.channel }) < to
	}
	for i, e := range entries {
		switch e.what {
		case simMoving:
			moving[e.who] = true
		case simStopped:
			if started[e.stream].who != e.who || stopped[e.stream] {
				f.add("%v: but it was not started there, or stopped before", e)
			}
			stopped[e.stream] = true
		case simStarted:
			if _, again := started[e.stream]; again {
				f.add("%v: the stream ID was given out before", e)
			}
			started[e.stream] = e
			if before, ok := last[e.channel]; ok {
				other := entries[before]
				over := first(entries, before, overAt(other))
				if over > i && !moving[other.who] && !(other.who != e.who && (moving[e.who] || hearsLater(other, i) || hearsLater(e, i) || ended(other, before, i))) {
					f.add("%v: while %v is live%s", e, other, excerpt(entries, e.channel, before, over))
				}
			}
			last[e.channel] = i
		}
	}
	return f
}

// checkEvents: first deliveries have the numbers 1, 2, 3 ... without gaps, tell what the encoder said in its order, and
// end with the one stream-closed; a repeat says the same again. With inOneLife, of one process, nothing is repeated once
// the next has arrived.
func checkEvents(entries []simEntry, inOneLife bool) (f faults) {
	type story struct {
		seq    int
		closed bool
	}
	said := map[string][]simEntry{}
	stories, events := map[string]*story{}, map[string]simEntry{}
	for _, e := range entries {
		if e.what == simAnnounced {
			said[e.stream] = append(said[e.stream], e)
		}
		if e.what != simArrived {
			continue
		}
		s := stories[e.stream]
		if s == nil {
			s = &story{}
			stories[e.stream] = s
		}
		if before, repeated := events[e.event]; repeated {
			before.at = e.at
			if before != e {
				f.add("%v: is repeated as %v\n%s\nbefore:\n%s", before, e, e.content, before.content)
			}
			if inOneLife && (e.closed != s.closed || !e.closed && e.seq != s.seq) {
				f.add("%v: is repeated after number %d", e, s.seq)
			}
			continue
		}
		events[e.event] = e
		if e.closed { // its identity has no number
			e.seq = s.seq + 1
		}
		if e.seq != s.seq+1 || s.closed {
			f.add("%v: comes after number %d (closed %v)", e, s.seq, s.closed)
		}
		s.seq, s.closed = e.seq, e.closed
		if told := said[e.stream]; !e.closed && (e.seq > len(told) || told[e.seq-1].index != e.index || told[e.seq-1].kind != e.kind || told[e.seq-1].channel != e.channel) {
			f.add("%v: is not what the encoder said: %v", e, told)
		}
	}
	for stream, s := range stories {
		if !s.closed {
			f.add("stream %s: ends with number %d and no stream-closed", stream, s.seq)
		}
		if s.seq == 1 {
			f.add("stream %s: stream-closed is all that was told of it", stream)
		}
	}
	return f
}

// checkNothingLost: all that an encoder said on a connection that lasted has arrived.
func checkNothingLost(entries []simEntry) (f faults) {
	gone, arrived := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		switch e.what {
		case simGone:
			gone[e.who] = true
		case simArrived:
			arrived[e.event] = true
		}
	}
	for _, e := range entries {
		if e.what == simAnnounced && !gone[e.who] && !arrived[e.stream+"-"+e.index] {
			f.add("%v: never arrived", e)
		}
	}
	return f
}

// checkSuccession: at a failover the new encoding is started after the old one was lost, and stream-closed of the old
// ID comes before all events of the new one. In a move it comes after the first HLS-LIVE of the new one. An encoding
// whose encoder was never drained with moving has had no move; a move is complete for certain when the old encoding is
// stopped while its publisher is live, which nobody can tell of one that lost its connection before it heard that it is.
func checkSuccession(entries []simEntry) (f faults, failovers, moves int) {
	begun, lost, over := map[string]int{}, map[string]int{}, map[string]int{} // by stream ID; over by publisher
	stopped, closed, live := map[string]int{}, map[string]int{}, map[string]int{}
	firstEvent, accepted := map[string]int{}, map[string]bool{}
	moving, of := map[string]bool{}, map[string][]string{} // by connection; of: stream IDs
	setOnce := func(m map[string]int, key string, i int) {
		if _, ok := m[key]; !ok {
			m[key] = i
		}
	}
	for i, e := range entries {
		switch e.what {
		case simAccepted:
			accepted[e.stream] = true
			of[e.who] = append(of[e.who], e.stream)
		case simStarted:
			of[e.who] = append(of[e.who], e.stream)
			setOnce(begun, e.stream, i)
		case simStopped:
			setOnce(stopped, e.stream, i)
		case simFinished:
			setOnce(lost, e.stream, i)
		case simEnded, simKilled:
			setOnce(over, e.stream, i)
		case simGone:
			for _, stream := range of[e.who] {
				setOnce(lost, stream, i)
				setOnce(over, stream, i)
			}
		case simMoving:
			moving[e.who] = true
		case simArrived:
			setOnce(firstEvent, e.stream, i)
			if e.closed {
				setOnce(closed, e.stream, i)
			}
			if e.kind == "HLS-LIVE" {
				setOnce(live, e.stream, i)
			}
		}
	}
	previous := func(stream string) string {
		if i, ok := firstEvent[stream]; ok {
			return entries[i].previous
		}
		return ""
	}
	for stream, at := range firstEvent {
		old := previous(stream)
		if old == "" {
			continue
		}
		from, ok := begun[old]
		if !ok {
			continue // lost with an encoder that did not live to hear of it
		}
		end, wasLost := lost[old]
		_, wasTold := firstEvent[old]
		if !moving[entries[from].who] {
			failovers++
			if !wasLost || end > begun[stream] {
				f.add("%v: its encoding began before that of %s was lost%s", entries[at], old, excerpt(entries, entries[at].channel, from, max(end, at)))
			}
			if wasTold && closed[old] > at {
				f.add("%v: arrives before stream-closed of %s", entries[at], old)
			}
			continue
		}
		publisher := old
		for previous(publisher) != "" {
			publisher = previous(publisher)
		}
		stop, wasStopped := stopped[old]
		before := func(deed map[string]int, stream string, i int) bool { at, done := deed[stream]; return done && at < i }
		if !wasStopped || !accepted[publisher] || before(over, publisher, stop) || before(lost, old, begun[stream]) || before(lost, stream, stop) || before(stopped, stream, stop) {
			continue
		}
		moves++
		if at, told := live[stream]; wasTold && (!told || at > closed[old]) {
			f.add("stream-closed of %s arrives before the first HLS-LIVE of %s, which took over from it%s", old, stream, excerpt(entries, entries[from].channel, from, closed[old]))
		}
	}
	return f, failovers, moves
}
