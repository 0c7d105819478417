package main

// Whatever a gateway sends and shows, while all is gathered after a start and later: the registry's rules hold, and nothing is
// left when the gateway is gone.

import (
	"crypto/rand"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"
	"coordinator/internal/memo"
	"coordinator/internal/tagged"
	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
)

// fuzzedLink is a link whose other end a test plays.
type fuzzedLink struct {
	t       *testing.T
	conn    *websocket.Conn
	welcome link.Welcome
}

// dialLink links a gateway that reads everything and acknowledges nothing; nil: it is gone.
func (n *fakeNet) dialLink(gateway string, known *link.Welcome) *fuzzedLink {
	l := n.greet(gateway, known)
	if l == nil {
		return nil
	}
	go func() {
		for {
			if _, _, err := l.conn.ReadMessage(); err != nil {
				return
			}
		}
	}()
	return l
}

// greet is dialLink up to WELCOME.
func (n *fakeNet) greet(gateway string, known *link.Welcome) *fuzzedLink {
	token, err := link.Token(crashSecret, time.Now())
	if err != nil {
		n.t.Fatal(err)
	}
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return n.Connect() }}
	conn, _, err := dialer.Dial("ws://coordinator"+link.Path, http.Header{link.TokenHeader: {token}})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	hello := link.Hello{Gateway: gateway, Nonce: []byte(rand.Text()), Oldest: 1, Newest: link.Protocol}
	if known != nil {
		hello.Store, hello.Term = known.Store, known.Term
	}
	if err := conn.WriteMessage(websocket.BinaryMessage, link.With(link.KindHello, 0, &hello).Append(nil)); err != nil {
		n.t.Fatal(err)
	}
	_, data, err := conn.ReadMessage()
	if err != nil {
		return nil
	}
	f, _, err := link.Next(data)
	l := &fuzzedLink{t: n.t, conn: conn}
	if err != nil || f.Kind != link.KindWelcome || f.Read(&l.welcome) != nil {
		return nil
	}
	return l
}

// numbered gives frames their link numbers, so that not all inputs end at the first one.
func numbered(b []byte, from uint64) (out []byte) {
	for len(b) > 0 {
		f, rest, err := link.Next(b)
		if err != nil {
			return append(out, b...)
		}
		if b = rest; f.Kind != link.KindAck && f.Number == 0 {
			from++
			f.Number = from
		}
		out = f.Append(out)
	}
	return out
}

func FuzzLinkOfCoordinator(f *testing.F) {
	frames := func(list ...link.Frame) (b []byte) {
		for _, f := range list {
			b = f.Append(b)
		}
		return b
	}
	kept := func(name string, m tagged.Message) link.Memo {
		return link.Memo{Name: name, Value: tagged.Append(nil, m)}
	}
	said := func(session, number uint64, method string, args ...string) link.Frame {
		return link.With(link.KindMessage, session, &link.Message{Number: number, Text: wire.Append(nil, method, args...)})
	}
	publication := memo.Publication{Number: 7, Channel: "a", Key: "k", PublisherID: "p", Since: 1, Last: 1, Current: &memo.Place{Ordinal: 1, Encoder: 12, Gateway: "g"}, Proven: true}
	stream := memo.Stream{ID: "p", Channel: "a", Ordinal: 1, Publication: 7, Server: 11, ServerGateway: "g", Since: 1}
	server := link.With(link.KindAttach, 1, &link.Attach{Kind: "RTMP", Remote: "10.0.0.1:4", IP: "10.0.0.1", Port: 1935, Since: 1, ID: 11, FirstKept: 4, Memos: []link.Memo{kept("p7", &publication)}})
	encoder := link.With(link.KindAttach, 2, &link.Attach{
		Kind: "HLS", Remote: "10.0.0.2:4", Since: 1, ID: 12, FirstKept: 2,
		Memos: []link.Memo{kept("s", &memo.Session{Kept: true, Capacity: 3}), kept("op", &stream), kept("tp", &memo.Told{LastSeq: 1, Outputs: []memo.Output{{StreamType: "HLS-LIVE", Resolution: "1x1"}}})},
	})
	newcomer := link.With(link.KindAttach, 3, &link.Attach{Kind: "WS", Remote: "10.0.0.3:4", IP: "10.0.0.3", Port: 443, SSL: true, FirstKept: 1})
	plain := link.With(link.KindAttach, 4, &link.Attach{Kind: "HLS", Remote: "10.0.0.4:4", FirstKept: 1})
	register := said(4, 1, "REGISTER", "Capacity", "1")
	request := said(3, 1, "PUBLISH-REQUEST", "Request-ID", "r", "Stream-Channel", "b", "Stream-Key", "k")
	available := said(2, 2, "STREAM-AVAILABLE", "Stream-Channel", "a", "Stream-ID", "p", "Stream-Type", "HLS-LIVE", "Resolution", "1x1", "Index-file", "i")
	closed := said(2, 3, "STREAM-CLOSED", "Stream-Channel", "a", "Stream-ID", "p")
	end := said(1, 4, "PUBLISH-END", "Stream-Channel", "a", "Stream-ID", "p")
	gone := func(session, number uint64) link.Frame {
		return link.With(link.KindGone, session, &link.Gone{Number: number, Reason: "lost"})
	}
	synced := link.Frame{Kind: link.KindSynced}
	late := link.With(link.KindLate, 1, &link.Late{Number: 3, Publication: 7})
	alive := link.Frame{Kind: link.KindAlive, Session: 1}

	f.Add(frames(server, encoder, available, synced), frames(closed, end, gone(1, 5), gone(2, 4)))
	f.Add(frames(server, encoder, available, closed, gone(2, 4), end, gone(1, 5), synced), []byte{})
	f.Add(frames(server, synced), frames(newcomer, plain, register, request, alive, late))
	f.Add(frames(encoder, newcomer, plain, register, request, synced), frames(gone(3, 2), gone(4, 2)))
	gap := link.Frame{Kind: link.KindAlive, Number: 99, Session: 1} // the gateway is gone before it is all there
	f.Add(frames(newcomer, said(3, 1, "PUBLISH-REQUEST", "Request-ID", "r", "Stream-Channel", "b"), said(3, 2, "PUBLISH-REQUEST", "Request-ID", "r", "Stream-Channel", "b", "Stream-Key", "k"), gap), []byte{})
	f.Add(frames(server, server, encoder, encoder, late, alive), frames(server))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		synctest.Test(t, func(t *testing.T) {
			n := newFakeNet(t, "GATEWAY_SECRET="+crashSecret, "EVENT_CALLBACK_URL=http://application/event", "STREAM_START_TIMEOUT=20", "ENCODER_WAIT=5")
			n.reaches(func() (net.Conn, error) { return nil, syscall.ECONNREFUSED })
			r := n.coordinator.registry
			ok := func(when string) {
				synctest.Wait()
				for _, fault := range invariantFaults(r) {
					t.Errorf("%s: %s", when, fault)
				}
			}
			l := n.dialLink("g", nil)
			l.conn.WriteMessage(websocket.BinaryMessage, numbered(before, 0))
			ok("gathering")
			n.wait(35 * time.Second)
			ok("gathered")
			if again := n.dialLink("g", &l.welcome); again != nil {
				again.conn.WriteMessage(websocket.BinaryMessage, numbered(after, again.welcome.Received))
				ok("later")
				for range 8 {
					n.waitAndExpire(30 * time.Second)
				}
				ok("a while later")
				if last := n.dialLink("g", &l.welcome); last != nil {
					last.conn.WriteMessage(websocket.BinaryMessage, numbered(link.With(link.KindBye, 0, &link.Reason{Text: "over"}).Append(nil), last.welcome.Received))
				}
			}
			n.wait(time.Minute)
			checkEmpty(t, r)
		})
	})
}

// waitAndExpire lets time pass and applies the time limits, which nobody does in this daemon.
func (n *fakeNet) waitAndExpire(d time.Duration) {
	n.wait(d)
	n.coordinator.logAndCount(n.coordinator.registry.expire(time.Now()))
}
