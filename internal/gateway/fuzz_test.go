package gateway

import (
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"

	"github.com/gorilla/websocket"
)

// FuzzCoordinator lets a coordinator say anything: in place of a WELCOME, and after it, there with link numbers that are right,
// so that it gets further. The gateway may give the link up; it never panics, and goes on with the next coordinator.
func FuzzCoordinator(f *testing.F) {
	memos := []link.Memo{{Name: "s", Value: []byte("x")}, {Name: "p7", Value: []byte("y")}, {Name: "p7"}}
	frames := []link.Frame{
		link.With(link.KindAttached, 1, &link.Attached{ID: 7}),
		link.With(link.KindSay, 1, &link.Say{Items: []link.Item{{Text: []byte("ENCODE-STOP\n"), Memos: memos}, {Answers: 1, Memos: memos}}}),
		link.With(link.KindDone, 1, &link.Done{Number: 2, Memos: memos}),
		{Kind: link.KindProbe, Session: 1},
		{Kind: link.KindClose, Session: 1},
		link.With(link.KindRefused, 2, &link.Reason{Text: "no"}),
		link.With(link.KindAck, 0, &link.Count{Number: 1 << 63}),
		link.With(link.KindBye, 0, &link.Reason{Text: "bye"}),
		link.With(link.KindWelcome, 0, &link.Welcome{Store: "s", Term: "t"}),
		link.With(link.KindRefuse, 0, &link.Refuse{Gone: true}),
		{Kind: 200, Session: 1 << 63},
	}
	var all []byte
	for _, frame := range frames {
		f.Add(frame.Append(nil), frame.Append(nil))
		all = frame.Append(all)
	}
	f.Add(all, all)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, all[:len(all)-1])
	f.Fuzz(func(t *testing.T, first, then []byte) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, "c1")
			c := r.coordinator("c1")
			l := c.await()
			l.ws.WriteMessage(websocket.BinaryMessage, first)
			l.ended()
			l = c.await()
			l.welcome("t1")
			p, q := r.connect("rtmp"), r.connect("hls")
			sendText(t, p, request("7", "c"))
			sendText(t, q, "REGISTER\nCapacity:1\n")
			synctest.Wait()
			for rest := then; len(rest) > 0; {
				var frame link.Frame
				var err error
				if frame, rest, err = link.Next(rest); err != nil {
					break
				}
				if frame.Kind != link.KindAck {
					l.sent++
					frame.Number = l.sent
				}
				l.write(frame)
			}
			l.ws.WriteMessage(websocket.BinaryMessage, then)
			r.wait(time.Second)
			l.cut()
			l = c.await()
			l.welcome("t2")
			for {
				if f, open := <-l.in; !open {
					t.Fatal("the link has ended")
				} else if f.Kind == link.KindSynced {
					break
				}
			}
		})
	})
}
