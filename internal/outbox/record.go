package outbox

// How events and queue records look on disk: fields one after the other, numbers as varints, strings with their length
// before them. The format has one version for the whole file (outboxVersion).

import (
	"encoding/binary"
	"slices"
	"time"
)

// QueueRecord is what the outbox knows about a queue.
type QueueRecord struct {
	Head, Tail uint32 // events at head <= position < tail are undelivered
	HeadAt     time.Time
	Announced  []AnnouncedStream
}

// AnnouncedStream is a stream of which the application was, or will be, told that it is available, and whose end is
// not recorded.
type AnnouncedStream struct {
	Channel, StreamID, Previous string
	LastSeq                     uint64
}

// note keeps the announced streams up to date with an event that joins the queue.
func (r *QueueRecord) note(ev *Event) {
	i := slices.IndexFunc(r.Announced, func(s AnnouncedStream) bool { return s.StreamID == ev.StreamID })
	switch {
	case ev.Closed && i >= 0:
		r.Announced = slices.Delete(r.Announced, i, i+1)
	case ev.Closed:
	case i >= 0:
		r.Announced[i].LastSeq = ev.Seq
	default:
		r.Announced = append(r.Announced, AnnouncedStream{Channel: ev.Channel, StreamID: ev.StreamID, Previous: ev.Previous, LastSeq: ev.Seq})
	}
}

func (r *QueueRecord) encode() []byte {
	b := make([]byte, 0, 160)
	b = appendString(b, "") // earlier versions wrote a name here
	b = binary.AppendUvarint(b, uint64(r.Head))
	b = binary.AppendUvarint(b, uint64(r.Tail))
	b = appendTime(b, r.HeadAt)
	b = binary.AppendUvarint(b, uint64(len(r.Announced)))
	for _, s := range r.Announced {
		b = appendString(b, s.Channel)
		b = appendString(b, s.StreamID)
		b = appendString(b, s.Previous)
		b = binary.AppendUvarint(b, s.LastSeq)
	}
	return b
}

func decodeQueueRecord(b []byte) (QueueRecord, error) {
	f := fields{rest: string(b)}
	f.text() // of earlier versions: a name that nothing needs
	r := QueueRecord{Head: uint32(f.number()), Tail: uint32(f.number()), HeadAt: f.time()}
	for n := f.number(); n > 0 && !f.broken; n-- {
		r.Announced = append(r.Announced, AnnouncedStream{Channel: f.text(), StreamID: f.text(), Previous: f.text(), LastSeq: f.number()})
	}
	return r, f.err()
}

func EncodeEvent(ev *Event) []byte {
	var closed uint64
	if ev.Closed {
		closed = 1
	}
	b := make([]byte, 0, 256)
	b = binary.AppendUvarint(b, closed)
	b = appendTime(b, ev.At)
	b = binary.AppendUvarint(b, ev.Seq)
	for _, s := range []string{ev.Channel, ev.StreamID, ev.Previous, ev.StreamType, ev.Resolution, ev.IndexFile, ev.StartTime} {
		b = appendString(b, s)
	}
	return b
}

// size is how many bytes an event takes, a little more or less.
func (ev *Event) size() int {
	return 40 + len(ev.Channel) + len(ev.StreamID) + len(ev.Previous) + len(ev.StreamType) + len(ev.Resolution) + len(ev.IndexFile) + len(ev.StartTime)
}

// DecodeEvent gives the event without its queue.
func DecodeEvent(b []byte) (Event, error) {
	f := fields{rest: string(b)}
	ev := Event{
		Closed: f.number() == 1, At: f.time(), Seq: f.number(),
		Channel: f.text(), StreamID: f.text(), Previous: f.text(),
		StreamType: f.text(), Resolution: f.text(), IndexFile: f.text(), StartTime: f.text(),
	}
	return ev, f.err()
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTime(b []byte, t time.Time) []byte { return binary.AppendVarint(b, t.UnixMilli()) }

// fields reads a record from its front. After a broken field all others are zero.
type fields struct {
	rest   string
	broken bool
}

func (f *fields) number() (n uint64) {
	for shift := 0; shift < 64; shift += 7 {
		if f.rest == "" {
			break
		}
		c := f.rest[0]
		f.rest = f.rest[1:]
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return n
		}
	}
	f.rest, f.broken = "", true
	return 0
}

func (f *fields) text() string {
	n := f.number()
	if n > uint64(len(f.rest)) {
		f.rest, f.broken = "", true
		return ""
	}
	s := f.rest[:n]
	f.rest = f.rest[n:]
	return s
}

// time reads a zigzag varint, as encoding/binary writes signed numbers.
func (f *fields) time() time.Time {
	n := f.number()
	return time.UnixMilli(int64(n>>1) ^ -int64(n&1))
}

func (f *fields) err() error {
	if f.broken || f.rest != "" {
		return ErrUnreadable
	}
	return nil
}
