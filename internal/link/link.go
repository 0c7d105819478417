// Package link has the frames between a gateway and its coordinator: their form, and nothing of what they are for. It is
// pure. Both sides use it, in versions that differ.
//
// A message on the link's WebSocket is any number of frames, each behind its length.
package link

import (
	"encoding/binary"
	"errors"
	"fmt"

	"coordinator/internal/tagged"
)

// Protocol is the version of the frames that this program speaks, and Oldest the oldest one that it understands.
const (
	Protocol = 1
	Oldest   = 1
)

// MaxFrameBytes bounds a frame. The longest is an ATTACH: a server with 40,000 publishers has memos of some 12 MiB.
const MaxFrameBytes = 64 << 20

// Kind is what a frame is.
type Kind uint8

// The values are on the wire: none changes its meaning.
const (
	KindHello    Kind = iota + 1 // to the coordinator: who the gateway is and what it knows
	KindWelcome                  // to the gateway: who the coordinator is
	KindRefuse                   // to the gateway: it may not link
	KindAttach                   // to the coordinator: a session, with all that is kept of it
	KindAttached                 // to the gateway: it is taken in
	KindRefused                  // to the gateway: it is not; the gateway closes its socket
	KindMessage                  // to the coordinator: what the peer said
	KindSay                      // to the gateway: a message for the peer, memos to keep, or both
	KindGone                     // to the coordinator: the session's socket has closed
	KindDone                     // to the gateway: all that follows from messages up to a number is durable
	KindLate                     // to the coordinator: the request was denied already
	KindProbe                    // to the gateway: find out whether the peer lives
	KindClose                    // to the gateway: close the session's socket
	KindSynced                   // to the coordinator: all sessions are attached and their messages sent
	KindBye                      // both ways: the sender stops
	KindAck                      // both ways: frames have come, and the sender lives
	KindAlive                    // to the coordinator: the peer of a session that is probed has given a sign of life
	kinds
)

var kindNames = [kinds]string{"", "HELLO", "WELCOME", "REFUSE", "ATTACH", "ATTACHED", "REFUSED", "MESSAGE", "SAY", "GONE", "DONE", "LATE", "PROBE", "CLOSE", "SYNCED", "BYE", "ACK", "ALIVE"}

func (k Kind) String() string {
	if k == 0 || k >= kinds {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return kindNames[k]
}

// Frame is one frame. Number is its link number: 1, 2, 3 ... in each direction and term; HELLO, WELCOME, REFUSE and ACK have 0.
type Frame struct {
	Kind    Kind
	Number  uint64
	Session uint64 // as the gateway counts its sessions; 0: it is not about one
	Payload []byte // of the kind; nil if it has none
}

var (
	errCutOff  = errors.New("frame is cut off")
	errTooLong = errors.New("frame is too long")
)

// Append appends a frame with its length.
func (f Frame) Append(b []byte) []byte {
	var head [3*binary.MaxVarintLen64 + 1]byte
	h := binary.AppendUvarint(head[:0], f.Session)
	h = binary.AppendUvarint(h, f.Number)
	h = append(h, byte(f.Kind))
	b = binary.AppendUvarint(b, uint64(len(h)+len(f.Payload)))
	return append(append(b, h...), f.Payload...)
}

// Next takes the first frame from b. Its payload is a part of b. An unknown kind is no error: a later version may have it.
func Next(b []byte) (f Frame, rest []byte, err error) {
	length, n := binary.Uvarint(b)
	switch {
	case n <= 0:
		return Frame{}, nil, errCutOff
	case length > MaxFrameBytes:
		return Frame{}, nil, errTooLong
	case length > uint64(len(b)-n):
		return Frame{}, nil, errCutOff
	}
	b, rest = b[n:n+int(length):n+int(length)], b[n+int(length):]
	if f.Session, n = binary.Uvarint(b); n <= 0 {
		return Frame{}, nil, errCutOff
	}
	b = b[n:]
	if f.Number, n = binary.Uvarint(b); n <= 0 || n == len(b) {
		return Frame{}, nil, errCutOff
	}
	f.Kind, f.Payload = Kind(b[n]), b[n+1:]
	return f, rest, nil
}

// With makes a frame of a payload.
func With(kind Kind, session uint64, payload tagged.Message) Frame {
	return Frame{Kind: kind, Session: session, Payload: tagged.Append(nil, payload)}
}

// Read reads the payload of a frame into one of its kind.
func (f Frame) Read(payload tagged.Message) error {
	if err := tagged.Parse(f.Payload, payload); err != nil {
		return fmt.Errorf("%v: %w", f.Kind, err)
	}
	return nil
}
