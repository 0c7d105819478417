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
// not recorded. With a LastSeq of 0 it is a publisher that was accepted under this ID: no stream of it was available yet, and it has
// not failed.
type AnnouncedStream struct {
	Channel, StreamID, Previous string
	Passthrough                 string
	LastSeq                     uint64
}

// owed leaves out an accept that is fulfilled: a database that lost commits may have both.
func (r *QueueRecord) owed() []AnnouncedStream {
	if !slices.ContainsFunc(r.Announced, func(s AnnouncedStream) bool { return s.LastSeq > 0 }) {
		return r.Announced
	}
	return slices.DeleteFunc(slices.Clone(r.Announced), func(s AnnouncedStream) bool { return s.LastSeq == 0 })
}

// lost is what the application is told if the process has died.
func (a *AnnouncedStream) lost(queue uint64, position uint32, now time.Time) Event {
	ev := Event{
		Type: StreamClosed, Queue: queue, Position: position, Channel: a.Channel, StreamID: a.StreamID, Previous: a.Previous,
		Passthrough: a.Passthrough, Seq: a.LastSeq + 1, Reason: closedByCrash, Duration: UnknownDuration, At: now,
	}
	if a.LastSeq == 0 {
		ev.Type, ev.Seq, ev.Reason = PublishFailed, 0, failedByCrash
	}
	return ev
}

// note keeps the announced streams up to date with an event that joins the queue.
func (r *QueueRecord) note(ev *Event) {
	switch ev.Type {
	case StreamClosed, PublishFailed: // no end of the accept is owed after either
		r.Announced = slices.DeleteFunc(r.Announced, func(s AnnouncedStream) bool { return s.StreamID == ev.StreamID || s.LastSeq == 0 })
	case PublishAccepted:
		r.announce(ev)
	case StreamAvailable:
		r.Announced = slices.DeleteFunc(r.Announced, func(s AnnouncedStream) bool { return s.LastSeq == 0 })
		r.announce(ev)
	}
}

func (r *QueueRecord) announce(ev *Event) {
	if i := slices.IndexFunc(r.Announced, func(s AnnouncedStream) bool { return s.StreamID == ev.StreamID }); i >= 0 {
		r.Announced[i].LastSeq = ev.Seq
		return
	}
	r.Announced = append(r.Announced, AnnouncedStream{
		Channel: ev.Channel, StreamID: ev.StreamID, Previous: ev.Previous, Passthrough: ev.Passthrough, LastSeq: ev.Seq,
	})
}

// sinceVersion2 stands where version 1 has a name that nothing needs, or nothing.
const sinceVersion2 = "\x02"

func (r *QueueRecord) encode() []byte {
	b := make([]byte, 0, 160)
	b = appendString(b, sinceVersion2)
	b = binary.AppendUvarint(b, uint64(r.Head))
	b = binary.AppendUvarint(b, uint64(r.Tail))
	b = appendTime(b, r.HeadAt)
	b = binary.AppendUvarint(b, uint64(len(r.Announced)))
	for _, s := range r.Announced {
		b = appendString(b, s.Channel)
		b = appendString(b, s.StreamID)
		b = appendString(b, s.Previous)
		b = binary.AppendUvarint(b, s.LastSeq)
		b = appendString(b, s.Passthrough)
	}
	return b
}

func decodeQueueRecord(b []byte) (QueueRecord, error) {
	f := fields{rest: string(b)}
	isOld := f.text() != sinceVersion2
	r := QueueRecord{Head: uint32(f.number()), Tail: uint32(f.number()), HeadAt: f.time()}
	for n := f.number(); n > 0 && !f.broken; n-- {
		a := AnnouncedStream{Channel: f.text(), StreamID: f.text(), Previous: f.text(), LastSeq: f.number()}
		if !isOld {
			a.Passthrough = f.text()
		}
		r.Announced = append(r.Announced, a)
	}
	return r, f.err()
}

func EncodeEvent(ev *Event) []byte {
	b := make([]byte, 0, 256)
	b = binary.AppendUvarint(b, typesSince2+uint64(ev.Type))
	b = appendTime(b, ev.At)
	b = binary.AppendUvarint(b, ev.Seq)
	for _, s := range []string{ev.Channel, ev.StreamID, ev.Previous, ev.StreamType, ev.Resolution, ev.IndexFile, ev.StartTime} {
		b = appendString(b, s)
	}
	b = appendString(appendString(b, ev.Passthrough), ev.Reason)
	return binary.AppendVarint(b, int64(ev.Duration/time.Second))
}

// size is how many bytes an event takes, a little more or less.
func (ev *Event) size() int {
	return 40 + len(ev.Channel) + len(ev.StreamID) + len(ev.Previous) + len(ev.StreamType) + len(ev.Resolution) + len(ev.IndexFile) + len(ev.StartTime) +
		len(ev.Passthrough) + len(ev.Reason)
}

// typesSince2 is the first number of an event since version 2, to which its type is added.
const typesSince2 = 2

// DecodeEvent gives the event without its queue.
func DecodeEvent(b []byte) (Event, error) {
	f := fields{rest: string(b)}
	first := f.number()
	ev := Event{
		At: f.time(), Seq: f.number(),
		Channel: f.text(), StreamID: f.text(), Previous: f.text(),
		StreamType: f.text(), Resolution: f.text(), IndexFile: f.text(), StartTime: f.text(),
	}
	switch {
	case first < typesSince2: // version 1: 1 is a stream-closed, and there was no reason
		ev.Type, ev.Duration = Type(first), UnknownDuration
	case first < typesSince2+uint64(types):
		ev.Type, ev.Passthrough, ev.Reason = Type(first-typesSince2), f.text(), f.text()
		ev.Duration = time.Duration(f.signed()) * time.Second
	default:
		f.broken = true
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

// signed reads a zigzag varint, as encoding/binary writes signed numbers.
func (f *fields) signed() int64 {
	n := f.number()
	return int64(n>>1) ^ -int64(n&1)
}

func (f *fields) time() time.Time { return time.UnixMilli(f.signed()) }

func (f *fields) err() error {
	if f.broken || f.rest != "" {
		return ErrUnreadable
	}
	return nil
}
