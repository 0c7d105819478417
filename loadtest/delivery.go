package main

// Whether the application got what it has to: every event of a stream once, in order. Pure.

import (
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// verdict is what one arriving event turned out to be.
type verdict int

const (
	fresh      verdict = iota
	repeated           // the ID is known: the application drops it, which is allowed
	outOfOrder         // a later event of the stream came first
	unexpected         // no ID, an event that was never told, or a known one under another ID
)

// delivery follows the events of one stream, which are numbered from 1; the last is stream-closed.
// It sees what an application sees that drops repeats by their ID.
type delivery struct {
	ids  []string // of the events that arrived, by number; "" is missing
	last int      // highest number that arrived
	told int      // events that the encoder has told the coordinator of
}

// newDelivery follows a stream that will have so many events.
func newDelivery(events int) delivery { return delivery{ids: make([]string, events)} }

func (d *delivery) arrive(number int, id string) verdict {
	switch {
	case id == "" || number < 1 || number > d.told:
		return unexpected
	case slices.Contains(d.ids, id):
		return repeated
	case d.ids[number-1] != "":
		return unexpected
	}
	d.ids[number-1] = id
	if number < d.last {
		return outOfOrder
	}
	d.last = number
	return fresh
}

func (d *delivery) arrived() int {
	n := 0
	for _, id := range d.ids {
		if id != "" {
			n++
		}
	}
	return n
}

func (d *delivery) complete() bool { return d.arrived() == len(d.ids) }

// lost counts the events that were told and have not arrived. It means something when nothing more is to come.
func (d *delivery) lost() int { return max(0, d.told-d.arrived()) }

// contents tells whether events that come again say the same again. It remembers all events of a run, by their IDs.
type contents struct {
	seed maphash.Seed

	mu sync.Mutex
	// guarded by mu
	hashes map[string]uint64
	differ map[string]bool // IDs that came with two contents
}

func newContents() *contents {
	return &contents{seed: maphash.MakeSeed(), hashes: map[string]uint64{}, differ: map[string]bool{}}
}

// note takes in an event: what it says is in headers that begin with X-.
func (c *contents) note(header http.Header) {
	var lines []string
	for name, values := range header {
		if strings.HasPrefix(name, "X-") {
			lines = append(lines, name+"\n"+strings.Join(values, "\n"))
		}
	}
	slices.Sort(lines)
	id, hash := header.Get("X-Event-Id"), maphash.String(c.seed, strings.Join(lines, "\n\n"))
	c.mu.Lock()
	defer c.mu.Unlock()
	if before, known := c.hashes[id]; known && before != hash {
		c.differ[id] = true
	}
	c.hashes[id] = hash
}

// twofold counts the IDs that came with two contents.
func (c *contents) twofold() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.differ)
}
