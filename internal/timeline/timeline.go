// Package timeline remembers the last decisions about channels, so that "why is it so" has an answer after the fact, for
// channels that are not live, too. However long their names are, it holds Entries decisions at most, in at most MaxBytes of memory:
// when either is used up, the oldest are forgotten.
//
// Nothing of it but what was added just now has a pointer, so the garbage collector has nothing to look at. The records of entries lie
// one after the other in segments; a new segment takes the place of the oldest one, whose entries are forgotten with it. What is asked
// for is found by hashes of channels and streams, one after the other as well: looking through them all takes less than a tenth of a
// millisecond. What an entry costs is the wait for memory that is in no cache: so records are short, and little is written out of order.
//
// It keeps what it is given: keys, tokens and source URIs must not be among it.
package timeline

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	Entries  = 1 << 16  // that are remembered
	MaxBytes = 16 << 20 // that they take, with all that belongs to them

	places       = 1 << 14     // in the table of events
	segmentBytes = 128<<10 - 8 // with its last entry it fills 128 KiB
	segments     = 120
	longestText  = 512     // bytes of an address, and of any other text
	longestCode  = 255     // bytes of a code
	longestName  = 4 << 10 // bytes of a channel or a stream ID; no valid one is longer
)

// Timeline may be used by several goroutines.
type Timeline struct {
	// set once
	seed  maphash.Seed
	began time.Time

	mu sync.Mutex
	// guarded by mu

	fresh [16]Entry // added and not kept yet: kept together, they wait for memory together
	count int       // of fresh

	next              uint64             // sequence number of the next entry; the first one is 1
	oldest            uint64             // the first one that is not forgotten
	kept              [segments]*segment // used in turn
	segment           uint64             // the one that is filled, counted from 0
	filled            int                // of it, in bytes
	records           [Entries]uint32    // places of entries among the bytes of all segments; as the next two by the last bits of the sequence number
	channels, streams [Entries]uint32    // hashes
	events            [places]uint64     // sequence numbers of the last entry of an event, by the hash of its stream; 0: there is none
}

// segment holds the records of entries that came one after the other.
type segment struct {
	last  uint64 // sequence number of the last one
	bytes [segmentBytes]byte
}

// New returns an empty timeline.
func New() *Timeline {
	return &Timeline{seed: maphash.MakeSeed(), began: time.Now(), next: 1, oldest: 1}
}

// Add remembers an entry. A later try of an event changes the entry of the try before it, so that an application that is away for
// hours costs no entries.
func (t *Timeline) Add(e Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fresh[t.count] = e
	t.count++
	if t.count == len(t.fresh) {
		t.keepFreshLocked()
	}
}

func (t *Timeline) keepFreshLocked() {
	for i := range t.fresh[:t.count] {
		t.keepLocked(&t.fresh[i])
		t.fresh[i] = Entry{}
	}
	t.count = 0
}

func (t *Timeline) keepLocked(e *Entry) {
	e.Channel, e.Stream, e.Code = cut(e.Channel, longestName), cut(e.Stream, longestName), cut(e.Code, longestCode)
	e.Address, e.Text = cut(e.Address, longestText), cut(e.Text, longestText)
	if e.Kind == Event {
		e.Code = "" // it follows from the status, which a later try changes
	}
	e.Order = t.began.UnixNano() + int64(e.At.Sub(t.began))
	stream := t.hash(e.Stream)
	if e.Kind == Event && e.Tries > 1 && t.tryAgainLocked(e, stream) {
		return
	}
	size := e.recordSize()
	t.makeRoomLocked(size)
	s := t.kept[t.segment%segments]
	s.last = t.next
	r := record(s.bytes[t.filled : t.filled+size])
	r.write(e)
	i := t.next % Entries
	t.records[i] = uint32(t.segment%segments*segmentBytes) + uint32(t.filled)
	t.channels[i], t.streams[i] = t.hash(e.Channel), stream
	t.filled += size
	if t.next-t.oldest == Entries {
		t.oldest++
	}
	if e.Kind == Event {
		r.setEventBefore(t.linkLocked(&t.events[stream%places]))
	}
	t.next++
}

func cut(text string, most int) string { return text[:min(len(text), most)] }

// hash has a seed, so that nobody can pick names that all have one hash.
func (t *Timeline) hash(name string) uint32 { return uint32(maphash.String(t.seed, name)) }

// linkLocked makes the next entry the last one of a place, and returns how far back the one before it is; 0: there is none.
func (t *Timeline) linkLocked(last *uint64) (back uint16) {
	if *last >= t.oldest && *last > 0 {
		back = uint16(t.next - *last) // less than Entries
	}
	*last = t.next
	return back
}

// makeRoomLocked begins another segment if the next record does not fit into the one that is filled, and forgets the entries that
// were there.
func (t *Timeline) makeRoomLocked(size int) {
	if t.filled+size > segmentBytes {
		t.segment++
		t.filled = 0
	}
	if t.filled > 0 {
		return
	}
	s := &t.kept[t.segment%segments]
	if *s == nil {
		*s = new(segment)
	}
	t.oldest = max(t.oldest, (*s).last+1)
}

func (t *Timeline) recordLocked(number uint64) record {
	at := t.records[number%Entries]
	return record(t.kept[at/segmentBytes].bytes[at%segmentBytes:])
}

// tryAgainLocked changes the entry of the try before. It fails if that is forgotten.
func (t *Timeline) tryAgainLocked(e *Entry, stream uint32) (found bool) {
	const far = 256 // entries to look at; a stream has fewer
	number := t.events[stream%places]
	for range far {
		if number < t.oldest {
			return false
		}
		r := t.recordLocked(number)
		if r.isTryOf(e) {
			r.writeFigures(e)
			return true
		}
		back := r.eventBefore()
		if back == 0 {
			return false
		}
		number -= uint64(back)
	}
	return false
}

// Query says which entries are asked for: those that have all that is given.
type Query struct {
	Channel, Stream string // "": any
	Kind            Kind   // 0: any
}

// Each calls visit with the entries that are asked for, in parts, the last one first. It holds up Add no longer than a part takes.
func (t *Timeline) Each(q Query, visit func([]Entry)) {
	for before := t.end(); before > 0; {
		var part []Entry
		part, before = t.part(q, before)
		if len(part) > 0 {
			visit(part)
		}
	}
}

// end is the number after that of the last entry.
func (t *Timeline) end() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keepFreshLocked()
	return t.next
}

// part looks at some entries, back from the one before the given one, and returns where to go on; 0: nowhere.
func (t *Timeline) part(q Query, before uint64) (found []Entry, next uint64) {
	const (
		hashes  = 16 << 10
		records = 512
	)
	channel, stream := t.hash(q.Channel), t.hash(q.Stream)
	t.mu.Lock()
	defer t.mu.Unlock()
	number, read := before-1, 0
	for ; number >= t.oldest && before-number <= hashes && read < records; number-- {
		i := number % Entries
		if q.Channel != "" && t.channels[i] != channel || q.Stream != "" && t.streams[i] != stream {
			continue
		}
		r := t.recordLocked(number)
		read++
		if (q.Kind == 0 || r.kind() == q.Kind) && (q.Channel == "" || r.isOfChannel(q.Channel)) && (q.Stream == "" || r.isOfStream(q.Stream)) {
			found = append(found, r.entry(number))
		}
	}
	if number < t.oldest {
		return found, 0
	}
	return found, number + 1
}
