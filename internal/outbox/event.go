package outbox

import (
	"strconv"
	"time"
)

// Event is something that the application is told: that an output of a stream can be played, or that the stream is closed.
type Event struct {
	Queue             uint64 // number of the publication; never used again while there are events of it
	Position          uint32 // in the queue: 0, 1, 2 ... without gaps
	Channel, StreamID string
	Seq               uint64 // 1, 2, 3 ... per stream, without gaps
	Closed            bool   // stream-closed; else stream-available
	Previous          string // the stream that this one took over from, "" if none

	// of stream-available
	StreamType, Resolution, IndexFile, StartTime string

	At time.Time // when it happened; its monotonic reading is used as long as the process lives

	// With the commit of the event, all messages of the session up to this one are applied; 0: it says nothing of messages.
	Session, Message uint64
}

// ID is the same whenever the event is sent, and no other event has it.
func (ev *Event) ID() string { return ev.StreamID + "-" + strconv.FormatUint(ev.Seq, 10) }
