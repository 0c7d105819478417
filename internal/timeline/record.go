package timeline

import (
	"encoding/binary"
	"time"
)

// record is an entry in bytes: a head of one size, the figures that it has, and its texts one after the other. The slice may
// reach beyond its end.
type record []byte

// The head of a record.
const (
	kindAt        = 0
	hasAt         = 1 // which figures it has
	channelAt     = 2 // bytes of each text
	streamAt      = 4
	addressAt     = 6
	textAt        = 8
	codeAt        = 10
	eventBeforeAt = 11 // of Event: how far back the entry before it is that shares its place in the table of events; 0: there is none
	clockAt       = 13 // At, in Unix nanoseconds: it is shown, and nothing is decided by it
	orderAt       = 21 // Order
	headBytes     = 29
)

// The figures of a record, in this order.
const (
	hasServer  = 1 << iota // 8 bytes
	hasEncoder             // 8 bytes
	hasTime                // 8 bytes: Took in nanoseconds, or Since in Unix nanoseconds
	hasNumbers             // 4 of 4 bytes
)

const numbersBytes = 4 * 4

var littleEndian = binary.LittleEndian

// figures tells which ones the record of an entry has. That of a try has all that a later try writes over.
func (e *Entry) figures() (has uint8) {
	if e.Server != 0 {
		has |= hasServer
	}
	if e.Encoder != 0 {
		has |= hasEncoder
	}
	switch {
	case e.Kind.hasEvent():
		return has | hasTime | hasNumbers
	case !e.Since.IsZero():
		has |= hasTime
	}
	if e.Used != 0 || e.Capacity != 0 || e.Encoders != 0 || e.Status != 0 {
		has |= hasNumbers
	}
	return has
}

// figuresBytes is the size of figures. That of the bits below a figure is where it begins.
func figuresBytes(has uint8) (size int) {
	for _, one := range [...]uint8{hasServer, hasEncoder, hasTime} {
		if has&one != 0 {
			size += 8
		}
	}
	if has&hasNumbers != 0 {
		size += numbersBytes
	}
	return size
}

func (e *Entry) recordSize() int {
	return headBytes + figuresBytes(e.figures()) + len(e.Channel) + len(e.Stream) + len(e.Code) + len(e.Address) + len(e.Text)
}

// write makes it the record of an entry, with no event before it.
func (r record) write(e *Entry) {
	has := e.figures()
	r[kindAt], r[hasAt], r[codeAt] = byte(e.Kind), has, byte(len(e.Code))
	littleEndian.PutUint16(r[channelAt:], uint16(len(e.Channel)))
	littleEndian.PutUint16(r[streamAt:], uint16(len(e.Stream)))
	littleEndian.PutUint16(r[addressAt:], uint16(len(e.Address)))
	littleEndian.PutUint16(r[textAt:], uint16(len(e.Text)))
	r.setEventBefore(0)
	r.writeFigures(e)
	at := headBytes + figuresBytes(has)
	for _, text := range [...]string{e.Channel, e.Stream, e.Code, e.Address, e.Text} {
		at += copy(r[at:], text)
	}
}

// writeFigures writes what another try changes.
func (r record) writeFigures(e *Entry) {
	littleEndian.PutUint64(r[clockAt:], uint64(e.At.UnixNano()))
	littleEndian.PutUint64(r[orderAt:], uint64(e.Order))
	if r.has(hasServer) {
		littleEndian.PutUint64(r.figure(hasServer), e.Server)
	}
	if r.has(hasEncoder) {
		littleEndian.PutUint64(r.figure(hasEncoder), e.Encoder)
	}
	if r.has(hasTime) {
		passed := int64(e.Took)
		if !e.Kind.hasEvent() {
			passed = e.Since.UnixNano()
		}
		littleEndian.PutUint64(r.figure(hasTime), uint64(passed))
	}
	if r.has(hasNumbers) {
		numbers := [4]int{e.Used, e.Capacity, e.Encoders, e.Status}
		if e.Kind.hasEvent() {
			numbers = [4]int{e.Status, e.Tries, e.Event}
		}
		b := r.figure(hasNumbers)
		for i, n := range numbers {
			littleEndian.PutUint32(b[4*i:], uint32(int32(n)))
		}
	}
}

func (r record) kind() Kind { return Kind(r[kindAt]) }

func (r record) has(one uint8) bool { return r[hasAt]&one != 0 }

// figure returns the record from one of its figures on.
func (r record) figure(one uint8) []byte { return r[headBytes+figuresBytes(r[hasAt]&(one-1)):] }

func (r record) eventBefore() uint16        { return littleEndian.Uint16(r[eventBeforeAt:]) }
func (r record) setEventBefore(back uint16) { littleEndian.PutUint16(r[eventBeforeAt:], back) }

func (r record) isOfChannel(channel string) bool {
	return string(r.texts()[:littleEndian.Uint16(r[channelAt:])]) == channel
}

func (r record) isOfStream(stream string) bool {
	return string(r.texts()[littleEndian.Uint16(r[channelAt:]):][:littleEndian.Uint16(r[streamAt:])]) == stream
}

func (r record) texts() []byte { return r[headBytes+figuresBytes(r[hasAt]):] }

// isTryOf tells whether it is an earlier try of an event.
func (r record) isTryOf(e *Entry) bool {
	return r.kind() == Event && r.number(2) == e.Event && r.isOfStream(e.Stream)
}

func (r record) number(i int) int { return int(int32(littleEndian.Uint32(r.figure(hasNumbers)[4*i:]))) }

// entry undoes write.
func (r record) entry(number uint64) Entry {
	e := Entry{
		Number: number, At: time.Unix(0, int64(littleEndian.Uint64(r[clockAt:]))).UTC(), Order: int64(littleEndian.Uint64(r[orderAt:])), Kind: r.kind(),
	}
	if r.has(hasServer) {
		e.Server = littleEndian.Uint64(r.figure(hasServer))
	}
	if r.has(hasEncoder) {
		e.Encoder = littleEndian.Uint64(r.figure(hasEncoder))
	}
	switch {
	case e.Kind.hasEvent():
		e.Took = time.Duration(littleEndian.Uint64(r.figure(hasTime)))
		e.Status, e.Tries, e.Event = r.number(0), r.number(1), r.number(2)
	case r.has(hasNumbers):
		e.Used, e.Capacity, e.Encoders, e.Status = r.number(0), r.number(1), r.number(2), r.number(3)
	}
	if !e.Kind.hasEvent() && r.has(hasTime) {
		e.Since = time.Unix(0, int64(littleEndian.Uint64(r.figure(hasTime)))).UTC()
	}
	texts := r.texts()
	next := func(size int) (text string) {
		text, texts = string(texts[:size]), texts[size:]
		return text
	}
	e.Channel, e.Stream = next(int(littleEndian.Uint16(r[channelAt:]))), next(int(littleEndian.Uint16(r[streamAt:])))
	e.Code = next(int(r[codeAt]))
	e.Address, e.Text = next(int(littleEndian.Uint16(r[addressAt:]))), next(int(littleEndian.Uint16(r[textAt:])))
	if e.Kind == Event {
		e.Code = codeOfEvent(e.Status)
	}
	return e
}
