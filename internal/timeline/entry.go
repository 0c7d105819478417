package timeline

import (
	"encoding/json"
	"time"
)

// Kind is what has happened.
type Kind uint8

const (
	_         Kind = iota
	Asked          // a publisher to publish
	Verified       // the application was asked about a key
	Denied         // a publish request
	Accepted       // a publish request
	Started        // an encoding, at an encoder that was chosen
	Announced      // an output of a stream
	Moved          // a channel, to the stream of another encoder
	Killed         // a publisher was told to end
	Ended          // a publisher
	Closed         // a stream
	Event          // that the application was told of
	Discarded      // an event, by an operator
	Waiting        // a publisher for an encoder, also one whose encoder was lost
)

// names are those in JSON.
var names = [...]string{
	Asked: "asked", Verified: "verified", Denied: "denied", Accepted: "accepted", Started: "started", Announced: "announced",
	Moved: "moved", Killed: "killed", Ended: "ended", Closed: "closed", Event: "event", Discarded: "discarded", Waiting: "waiting",
}

func (k Kind) String() string { return names[k] }

// hasEvent tells which fields of an entry are kept: those of tries and events, or the others.
func (k Kind) hasEvent() bool { return k == Verified || k == Event || k == Discarded }

// KindOf reads a name of JSON; 0: it is none.
func KindOf(name string) Kind {
	for k := Asked; int(k) < len(names); k++ {
		if names[k] == name {
			return k
		}
	}
	return 0
}

// Entry is a decision and what it was made by. What does not belong to its kind is zero.
type Entry struct {
	Number uint64 // given by the timeline, in the order of Add

	// Order is given by the timeline, too, and sorted by: At in nanoseconds of the monotonic clock, so that setting the wall clock puts no
	// entry before earlier ones. It starts from the wall clock at New: whoever has read up to an entry of an earlier process goes on with those
	// of this one.
	Order int64

	At      time.Time
	Kind    Kind
	Code    string // why, for programs; of Event it follows from the status
	Channel string
	Stream  string // ID
	Server  uint64 // as in the report
	Encoder uint64
	Address string // of the streaming server; of Started and Closed: of the encoder

	// Text is of Asked: the address of the publisher. Of Denied and Killed: the reason, as the log has it. Of Accepted: the passthrough.
	// Of Started: who was passed over, and why. Of Announced, Event and Discarded: the output, or the type of another event. Of Moved:
	// the stream before. Of Closed: the encoder's words.
	Text string

	// of Verified, Event and Discarded
	Took          time.Duration
	Status, Tries int // the status is also of Denied; 0: no answer
	Event         int // which one of its stream; or OtherEvent, EventOfNobody

	// of Denied and Waiting: those of all encoders in service, with -1 Encoders if that is not known; of Started: those of the one that was
	// chosen, and of how many it was chosen
	Used, Capacity, Encoders int       // a negative capacity is no limit
	Since                    time.Time // Denied: the channel is live
}

// OtherEvent is the number of an event that is not counted among those of its stream.
const OtherEvent = -1

// EventOfNobody is the number of an event without a stream. Its Stream is an ID that only this event has: later tries find the entry by it,
// and it is not shown.
const EventOfNobody = -2

// MarshalJSON puts the reason into words.
func (e *Entry) MarshalJSON() ([]byte, error) {
	stream := e.Stream
	if e.Event == EventOfNobody {
		stream = ""
	}
	return json.Marshal(struct {
		ID           uint64    `json:"id"`
		At           time.Time `json:"at"`
		Kind         string    `json:"kind"`
		Code         string    `json:"code"`
		Reason       string    `json:"reason"`
		Channel      string    `json:"channel"`
		StreamID     string    `json:"streamId"`
		StreamServer uint64    `json:"streamServer"`
		Encoder      uint64    `json:"encoder"`
		Status       int       `json:"status"`
		Tries        int       `json:"tries"`
		Passthrough  string    `json:"passthrough"`
	}{e.Number, e.At, e.Kind.String(), e.Code, e.Reason(), e.Channel, stream, e.Server, e.Encoder, e.Status, e.Tries, e.passthrough()})
}
