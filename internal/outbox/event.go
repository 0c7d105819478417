package outbox

import (
	"cmp"
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

	Mark // of the last event of a transition

	more bool // events of the same transition follow
}

// Place is where an event stands among all: by its queue, and by its position in it.
type Place struct {
	Queue    uint64
	Position uint32
}

func (p Place) compare(other Place) int {
	return cmp.Or(cmp.Compare(p.Queue, other.Queue), cmp.Compare(p.Position, other.Position))
}

func (ev *Event) place() Place { return Place{ev.Queue, ev.Position} }

// Mark is what the commit of a transition's events brings with it.
type Mark struct {
	Session, Message uint64 // all messages of the session up to this one are applied; 0: it says nothing of messages
	Durable          func() // called once they are durable, by a goroutine that holds no lock; nil: nobody asks
}

// ID is the same whenever the event is sent, and no other event has it. A stream has one end, whoever tells it, and however
// many events were told before.
func (ev *Event) ID() string {
	if ev.Closed {
		return ev.StreamID + "-closed"
	}
	return ev.StreamID + "-" + strconv.FormatUint(ev.Seq, 10)
}
