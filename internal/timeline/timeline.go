// Package timeline remembers the last decisions about channels, so that "why is it so" has an answer after the fact, for
// channels that are not live, too. However long their names are, it holds Entries decisions at most, in at most MaxBytes of memory:
// when either is used up, the oldest are forgotten.
//
// Nothing in it has a pointer, so the garbage collector has nothing to look at. An entry's texts lie one after the other in a
// segment; a new segment takes the place of the oldest one, whose entries are forgotten with it. The index is two tables of hashes,
// by channel and by stream: a place in one has its last entry, and each entry says how far back the one before it is.
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

	chunkEntries = 1 << 10
	segmentBytes = 128<<10 - 8 // with its number it fills 128 KiB
	segments     = 70
	longestText  = 512     // bytes of an address, and of any other text
	longestName  = 4 << 10 // bytes of a channel or a stream ID; no valid one is longer
)

// Timeline may be used by several goroutines.
type Timeline struct {
	// set once
	seed  maphash.Seed
	began time.Time

	mu sync.Mutex
	// guarded by mu
	next      uint64 // sequence number of the next entry; the first one is 1
	oldest    uint64 // the first one that is not forgotten
	chunks    [Entries / chunkEntries]*[chunkEntries]record
	texts     [segments]*segment
	text      uint64 // where the next texts go: the number of the segment, counted from 0, times its size, and the place in it
	begun     uint64 // segments that have been begun
	byChannel [Entries]uint64
	byStream  [Entries]uint64
}

// segment holds the texts of entries that came one after the other.
type segment struct {
	last  uint64 // sequence number of the last one
	bytes [segmentBytes]byte
}

// record is what is kept of an entry beside its texts.
type record struct {
	at, time        int64 // Unix nanoseconds; time is Since, or the nanoseconds that it Took
	order           int64
	server, encoder uint64
	text            uint64
	figures         [4]int32 // see Entry.record
	sameChannel     uint32   // how far back the entry before it is that shares its place in the table of channels; 0: there is none
	sameStream      uint32
	lengths         [5]uint16
	kind            Kind
}

// New returns an empty timeline.
func New() *Timeline {
	return &Timeline{seed: maphash.MakeSeed(), began: time.Now(), next: 1, oldest: 1}
}

// Add remembers an entry. A later try of an event changes the entry of the try before it, so that an application that is away for
// hours costs no entries.
func (t *Timeline) Add(e Entry) {
	e.Channel, e.Stream = cut(e.Channel, longestName), cut(e.Stream, longestName)
	e.Address, e.Text, e.Code = cut(e.Address, longestText), cut(e.Text, longestText), cut(e.Code, longestText)
	if e.Kind == Event {
		e.Code = "" // it follows from the status, which a later try changes
	}
	e.Order = t.began.UnixNano() + int64(e.At.Sub(t.began))
	channel, stream := t.place(e.Channel), t.place(e.Stream)
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.Kind == Event && e.Tries > 1 && t.tryAgainLocked(&e, stream) {
		return
	}
	r := t.recordLocked(t.next)
	*r = e.record()
	r.text = t.keepLocked(e.Channel, e.Stream, e.Code, e.Address, e.Text)
	if t.next-t.oldest == Entries {
		t.oldest++
	}
	if e.Channel != "" {
		r.sameChannel = t.linkLocked(&t.byChannel[channel])
	}
	if e.Stream != "" {
		r.sameStream = t.linkLocked(&t.byStream[stream])
	}
	t.next++
}

func cut(text string, most int) string { return text[:min(len(text), most)] }

// place is where a channel or a stream stands in its table. The hash has a seed, so that nobody can pick names that all stand in
// one place.
func (t *Timeline) place(name string) uint64 { return maphash.String(t.seed, name) % Entries }

// linkLocked makes the next entry the last one of a place, and returns how far back the one before it is.
func (t *Timeline) linkLocked(last *uint64) (back uint32) {
	if *last >= t.oldest && *last > 0 {
		back = uint32(t.next - *last)
	}
	*last = t.next
	return back
}

func (t *Timeline) recordLocked(number uint64) *record {
	i := number % Entries
	chunk := &t.chunks[i/chunkEntries]
	if *chunk == nil {
		*chunk = new([chunkEntries]record)
	}
	return &(*chunk)[i%chunkEntries]
}

// keepLocked keeps the texts of the next entry, and forgets the entries whose texts were there.
func (t *Timeline) keepLocked(texts ...string) (at uint64) {
	size := 0
	for _, text := range texts {
		size += len(text)
	}
	if t.text%segmentBytes+uint64(size) > segmentBytes {
		t.text += segmentBytes - t.text%segmentBytes
	}
	number := t.text / segmentBytes
	s := &t.texts[number%segments]
	if *s == nil {
		*s = new(segment)
	}
	if number == t.begun {
		t.begun++
		t.oldest = max(t.oldest, (*s).last+1)
	}
	(*s).last = t.next
	at = t.text
	for _, text := range texts {
		t.text += uint64(copy((*s).bytes[t.text%segmentBytes:], text))
	}
	return at
}

// tryAgainLocked changes the entry of the try before. It fails if that is forgotten.
func (t *Timeline) tryAgainLocked(e *Entry, place uint64) (found bool) {
	const far = 256 // entries to look at; a stream has fewer
	number := t.byStream[place]
	for range far {
		if number < t.oldest {
			return false
		}
		r := t.recordLocked(number)
		if r.kind == Event && r.figures[2] == int32(e.Event) && t.isOfStreamLocked(r, e.Stream) {
			again := e.record()
			r.at, r.order, r.time, r.figures = again.at, again.order, again.time, again.figures
			return true
		}
		if r.sameStream == 0 {
			return false
		}
		number -= uint64(r.sameStream)
	}
	return false
}

func (t *Timeline) textLocked(r *record, from, size int) []byte {
	at := int(r.text%segmentBytes) + from
	return t.texts[r.text/segmentBytes%segments].bytes[at : at+size]
}

func (t *Timeline) isOfChannelLocked(r *record, channel string) bool {
	return string(t.textLocked(r, 0, int(r.lengths[0]))) == channel
}

func (t *Timeline) isOfStreamLocked(r *record, stream string) bool {
	return string(t.textLocked(r, int(r.lengths[0]), int(r.lengths[1]))) == stream
}

// Query says which entries are asked for: those that have all that is given.
type Query struct {
	Channel, Stream string // "": any
	Kind            Kind   // 0: any
}

// Each calls visit with the entries that are asked for, in parts, the last one first. It holds up Add no longer than a part takes.
func (t *Timeline) Each(q Query, visit func([]Entry)) {
	for from := t.last(q); from > 0; {
		var part []Entry
		part, from = t.part(q, from)
		if len(part) > 0 {
			visit(part)
		}
	}
}

// last is where to begin to look.
func (t *Timeline) last(q Query) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case q.Stream != "":
		return t.byStream[t.place(q.Stream)]
	case q.Channel != "":
		return t.byChannel[t.place(q.Channel)]
	}
	return t.next - 1
}

// part looks at some entries, from the given one back, and returns where to go on; 0: nowhere.
func (t *Timeline) part(q Query, number uint64) (found []Entry, next uint64) {
	const some = 1024
	t.mu.Lock()
	defer t.mu.Unlock()
	for range some {
		if number < t.oldest {
			return found, 0
		}
		r := t.recordLocked(number)
		if (q.Kind == 0 || r.kind == q.Kind) &&
			(q.Channel == "" || t.isOfChannelLocked(r, q.Channel)) && (q.Stream == "" || t.isOfStreamLocked(r, q.Stream)) {
			found = append(found, t.entryLocked(r, number))
		}
		back := uint64(1)
		switch {
		case q.Stream != "":
			back = uint64(r.sameStream)
		case q.Channel != "":
			back = uint64(r.sameChannel)
		}
		if back == 0 {
			return found, 0
		}
		number -= back
	}
	return found, number
}

func (t *Timeline) entryLocked(r *record, number uint64) Entry {
	e := r.entry()
	e.Number = number
	from := 0
	for i, text := range []*string{&e.Channel, &e.Stream, &e.Code, &e.Address, &e.Text} {
		*text = string(t.textLocked(r, from, int(r.lengths[i])))
		from += int(r.lengths[i])
	}
	if e.Kind == Event {
		e.Code = codeOfEvent(e.Status)
	}
	return e
}

// record is what is kept of the entry, but for the links to others and the place of its texts.
func (e *Entry) record() record {
	r := record{
		at: e.At.UnixNano(), order: e.Order, server: e.Server, encoder: e.Encoder, kind: e.Kind,
		lengths: [5]uint16{uint16(len(e.Channel)), uint16(len(e.Stream)), uint16(len(e.Code)), uint16(len(e.Address)), uint16(len(e.Text))},
	}
	switch {
	case e.Kind.hasEvent():
		r.time, r.figures = int64(e.Took), [4]int32{int32(e.Status), int32(e.Tries), int32(e.Event)}
	default:
		r.figures = [4]int32{int32(e.Used), int32(e.Capacity), int32(e.Encoders), int32(e.Status)}
		if !e.Since.IsZero() {
			r.time = e.Since.UnixNano()
		}
	}
	return r
}

func (r *record) entry() Entry {
	e := Entry{At: time.Unix(0, r.at).UTC(), Order: r.order, Kind: r.kind, Server: r.server, Encoder: r.encoder}
	switch {
	case r.kind.hasEvent():
		e.Took, e.Status, e.Tries, e.Event = time.Duration(r.time), int(r.figures[0]), int(r.figures[1]), int(r.figures[2])
	default:
		e.Used, e.Capacity, e.Encoders, e.Status = int(r.figures[0]), int(r.figures[1]), int(r.figures[2]), int(r.figures[3])
		if r.time != 0 {
			e.Since = time.Unix(0, r.time).UTC()
		}
	}
	return e
}
