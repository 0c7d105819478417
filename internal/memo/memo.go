// Package memo has what a gateway keeps of the sessions it holds, so that a coordinator that starts can go on where the one
// before it ended. A memo lives where its socket is and dies with it. Gateways keep memos as bytes and do not read them.
package memo

// Session is the memo of a session.
type Session struct {
	Kept     bool // always: no memo is empty, for an empty one is to be forgotten
	Draining bool
	Moving   bool // an encoder whose streams are taken to others
	Capacity int  // of an encoder; negative: no limit
}

// Place says where one encoding of a publication is.
type Place struct {
	Ordinal uint32 // of the stream: see Stream
	Encoder uint64 // session
	Gateway string // that the encoder is at; "": it is connected directly
}

// Publication is the memo of a publisher, at its streaming server's session. Key is a secret.
type Publication struct {
	Number                        uint64
	Channel, Key, PublisherID     string
	Resolutions, Record, Previews string // settings, in the words of ENCODE-START
	Since                         int64  // Unix nanoseconds

	ID       string // stream ID towards the application; "": the publisher ID
	Previous string // of the current stream
	Last     uint32 // ordinal given last

	Current, Successor *Place // nil: none
	Avoid              uint64 // session of the encoder that has failed it, while it waits for another; 0: any will do

	Proven, Killed, Ousted bool
	TookOver               bool // the channel was taken over for it
	FailedMoves            uint8

	Passthrough string // the application's own words
	Why         uint8  // why it ends; 0: it does not. The values are the coordinator's.
}

// Role is what a stream is to its publication.
type Role uint8

const (
	Current   Role = iota // it serves the publication, or did so to the end
	Successor             // it is to take over
	Retired               // the publication goes on without it: another one has taken over, or it was to take over and did not
)

// Stream is the memo of an encoding, at its encoder's session: what was ordered. It travels with the orders.
type Stream struct {
	ID, Channel   string
	Ordinal       uint32 // 1, 2, 3 ... of the streams of its publication
	Publication   uint64 // number
	Server        uint64 // session of the publication's streaming server
	ServerGateway string // that the server is at; "": it is connected directly
	Since         int64  // of the publication: Unix nanoseconds
	Previous      string // stream ID that it took over from
	Role          Role
	Closing       bool
	Passthrough   string // of the publication
	Why           uint8  // why it is closing; 0: it is not. The values are the coordinator's.
}

// Output is one that an encoder has announced.
type Output struct {
	StreamType, Resolution string
	IndexFile              string // in the coordinator's short form; "": it was too long to be kept
	StartTime              string
}

// Size is about how many bytes an output takes.
func (m *Output) Size() int { return len(m.Resolution) + len(m.IndexFile) + len(m.StartTime) + 16 }

// Told is the memo of what the application is told of a stream. It travels when the events are durable, so that it is never
// ahead of the store.
type Told struct {
	LastSeq uint32 // of the stream's events
	Outputs []Output
}
