package gateway

import (
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"
)

// The life of a link: what a peer says goes up, what it is told comes down, over a link that breaks and a coordinator that is
// replaced.
func TestPeersAndCoordinatorTalkOverLinksThatBreak(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		c := r.coordinator("c1")
		l := c.await()
		if h := l.hello; h.Gateway == "" || h.Store != "" || h.Term != "" || len(h.Nonce) != 32 || h.Version != "test" || h.Newest != link.Protocol ||
			!link.Proves(h.ControlMAC, controlSecret, h.Nonce) {
			t.Errorf("%+v", h)
		}
		l.welcome("t1")
		l.next(link.KindSynced)

		p := r.connect("rtmp", "x-external-ip", "192.0.2.1", "x-custom-port", "1936", "x-ssl-use", "true")
		session, a := l.attach()
		if a.Kind != "RTMP" || a.Remote != "10.0.0.1:40000" || a.IP != "192.0.2.1" || a.Port != 1936 || !a.SSL || a.Since == 0 || a.ID != 0 || a.FirstKept != 1 {
			t.Errorf("%+v", a)
		}
		l.send(link.KindAttached, session, &link.Attached{ID: 77})
		const odd = "publish-request\r\n request-id : 7 \nStream-Channel: c\nno colon\n\nbody"
		sendText(t, p, odd)
		l.wantMessage(1, odd)
		p.Send("HEARTBEAT")
		sendText(t, p, "\n")
		p.SendRaw(2, "PUBLISH-END\n")
		sendText(t, p, "\xff\n")
		sendText(t, p, "PUBLISH-END\nStream-Channel:c\n")
		l.wantMessage(2, "PUBLISH-END\nStream-Channel:c\n")
		l.say(session, 1, "PUBLISH-ACCEPT\nRequest-ID:7\nStream-Channel:c\nStream-ID:x\n", link.Memo{Name: "p5", Value: []byte("memo")})
		p.Expect("PUBLISH-ACCEPT", "Request-ID", "7", "Stream-ID", "x")

		// The link breaks; the coordinator has got everything but the last message, and the gateway has got both frames.
		l.cut()
		r.wait(0)
		sendText(t, p, "PUBLISH-END\nStream-Channel:d\n")
		l = c.await()
		if h := l.hello; h.Store != "store" || h.Term != "t1" || h.Received != 2 || h.Numbers != 77 {
			t.Errorf("%+v", h)
		}
		l.sent = 2
		l.write(l.welcomeFrame(link.Welcome{Store: "store", Term: "t1", Received: 3, ControlSame: true}), // SYNCED, ATTACH and a message
			link.Frame{Kind: link.KindSay, Session: session, Number: 3, Payload: link.With(link.KindSay, 0, &link.Say{Items: []link.Item{{Text: []byte("STREAM-KILL\n")}}}).Payload})
		l.sent++
		l.wantMessage(2, "PUBLISH-END\nStream-Channel:c\n")
		l.wantMessage(3, "PUBLISH-END\nStream-Channel:d\n")
		l.quiet()
		p.Expect("STREAM-KILL")
		l.send(link.KindDone, session, &link.Done{Number: 2})

		// Another process: it is told all that is kept.
		r.wait(time.Second)
		l.cut()
		l = c.await()
		l.welcome("t2")
		session, a = l.attach()
		if a.ID != 77 || a.FirstKept != 3 || len(a.Memos) != 1 || a.Memos[0].Name != "p5" || string(a.Memos[0].Value) != "memo" {
			t.Errorf("%+v", a)
		}
		l.wantMessage(3, "PUBLISH-END\nStream-Channel:d\n")
		l.next(link.KindSynced)
		l.say(session, 0, "STREAM-KILL\nStream-Channel:c\nStream-ID:x\n")
		p.Expect("STREAM-KILL", "Stream-ID", "x")
		p.Conn.Close()
		if s, g := l.gone(); s != session || g.Number != 4 || g.Reason == "" {
			t.Errorf("%d %+v", s, g)
		}
		r.wantState("the end is not done", func(s State) bool { return s.Sessions == 1 && len(s.Sockets) == 0 && s.Links == 3 })
		l.send(link.KindDone, session, &link.Done{Number: 4})
		r.wantState("it is done", func(s State) bool { return s.Sessions == 0 && s.Kept == 0 && s.Memos == 0 && s.KeptBytes == 0 })
	})
}
