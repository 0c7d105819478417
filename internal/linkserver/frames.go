package linkserver

import (
	"coordinator/internal/link"
	"coordinator/internal/tagged"

	"google.golang.org/protobuf/encoding/protowire"
)

// read reads what a frame of a gateway says: nil if its kind says nothing more, or is that of a later version.
func read(f *link.Frame) (payload tagged.Message, err error) {
	switch f.Kind {
	case link.KindAttach:
		payload = &link.Attach{}
	case link.KindMessage:
		payload = &link.Message{}
	case link.KindGone:
		payload = &link.Gone{}
	case link.KindLate:
		payload = &link.Late{}
	case link.KindAck:
		payload = &link.Count{}
	case link.KindBye:
		payload = &link.Reason{}
	case link.KindAlive, link.KindSynced:
	case link.KindHello, link.KindWelcome, link.KindRefuse, link.KindAttached, link.KindRefused, link.KindSay, link.KindDone, link.KindProbe, link.KindClose:
		return nil, errUnexpected
	default:
		return nil, nil
	}
	switch f.Kind {
	case link.KindAck, link.KindBye, link.KindSynced:
	default:
		if f.Session == 0 {
			return nil, errNoSession
		}
	}
	if payload != nil && f.Read(payload) != nil {
		return nil, errUnreadable
	}
	return payload, nil
}

// wireBytes is how many bytes a frame has on a link.
func wireBytes(f *link.Frame) int {
	n := protowire.SizeVarint(f.Session) + protowire.SizeVarint(f.Number) + 1 + len(f.Payload)
	return protowire.SizeVarint(uint64(n)) + n
}
