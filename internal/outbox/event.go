package outbox

import (
	"cmp"
	"strconv"
	"time"
)

// Event is something that the application is told of a stream or of a publisher.
type Event struct {
	Type              Type
	Queue             uint64 // number of the publication; never used again while there are events of it
	Position          uint32 // in the queue: 0, 1, 2 ... without gaps
	Channel, StreamID string // of PublishRefused the ID is random, and no stream has it
	Seq               uint64 // of StreamAvailable and StreamClosed: 1, 2, 3 ... per stream, without gaps
	Previous          string // the stream that this one took over from, "" if none
	Passthrough       string // the application's own words about the publication, printable ASCII

	// of StreamAvailable
	StreamType, Resolution, IndexFile, StartTime string

	// Reason is why the stream was closed or interrupted, or the publisher failed. Duration is from the accept of its publisher to the
	// end of the stream; it is kept in whole seconds.
	Reason   string
	Duration time.Duration

	At time.Time // when it happened; its monotonic reading is used as long as the process lives

	Mark // of the last event of a transition

	// Fulfills is the ID of the PublishAccepted that needs no PublishFailed any more, because this is the first StreamAvailable of its
	// publication; "" if there is none. It is not kept.
	Fulfills string

	more bool // events of the same transition follow
}

// UnknownDuration is that of a publication whose process has died.
const UnknownDuration = -time.Second

// Type is what an event says.
type Type uint8

const (
	StreamAvailable   Type = iota // an output of the stream can be played
	StreamClosed                  // the last one of a stream that was available
	PublishAccepted               // the publisher may publish; the ID is that of its first stream
	StreamInterrupted             // the stream has lost its encoder, and the publication goes on at another one
	PublishFailed                 // the publication that was accepted under the ID is over, and no stream of it was ever available
	PublishRefused                // a publisher that the application has allowed was not accepted
	types
)

// names are what the application reads. It tells a PublishFailed from a PublishRefused by the stream ID, which only the first one has.
var names = [types]string{"stream-available", "stream-closed", "publish-accepted", "stream-interrupted", "publish-failed", "publish-failed"}

func (t Type) String() string { return names[t] }

// IsExtra tells whether only applications that have asked for more hear of it.
func (t Type) IsExtra() bool { return t != StreamAvailable && t != StreamClosed }

// Reasons of events for what was live when a process died.
const (
	closedByCrash = "coordinator-lost"
	failedByCrash = "coordinator_lost"
)

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
// many events were told before; a publisher is accepted once, and fails once.
func (ev *Event) ID() string {
	switch ev.Type {
	case StreamClosed:
		return ev.StreamID + "-closed"
	case PublishAccepted:
		return ev.StreamID + "-accepted"
	case StreamInterrupted:
		return ev.StreamID + "-interrupted"
	case PublishFailed, PublishRefused:
		return ev.StreamID + "-failed"
	}
	return ev.StreamID + "-" + strconv.FormatUint(ev.Seq, 10)
}
