package linkserver

// Whatever a gateway sends: the server goes on, others notice nothing, and the gateway itself may link again, or is gone.

import (
	"crypto/rand"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/link"
	"coordinator/internal/logs"

	"github.com/gorilla/websocket"
)

// answering is a Handler that answers each message.
type answering struct{}

func (answering) Attach(*Gateway, uint64, link.Attach) {}
func (answering) Message(g *Gateway, session uint64, m link.Message) {
	g.Send(link.With(link.KindDone, session, &link.Done{Number: m.Number}), func() {})
}
func (answering) Gone(*Gateway, uint64, link.Gone) {}
func (answering) Late(*Gateway, uint64, link.Late) {}
func (answering) Alive(*Gateway, uint64)           {}
func (answering) Absent(*Gateway)                  {}
func (answering) Present(*Gateway)                 {}
func (answering) Lost(*Gateway, error)             {}
func (answering) Numbers(uint64)                   {}

type fuzzed struct {
	pipes clustertest.Pipes
	log   *clustertest.Log
}

func newFuzzed(f *testing.F) *fuzzed {
	z := &fuzzed{pipes: clustertest.NewPipes(), log: clustertest.NewLog()}
	log := slog.New(slog.NewTextHandler(z.log, nil))
	s := New(Config{
		Store: "store", Term: "term", Secret: gatewaySecret, Handler: answering{}, Log: log, Refusals: logs.NewRefusals(log),
		AddGateway: func(string) <-chan struct{} {
			done := make(chan struct{})
			close(done)
			return done
		},
	})
	server := &http.Server{Handler: s, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	served := make(chan error)
	go func() { served <- server.Serve(z.pipes) }()
	f.Cleanup(func() {
		s.Close("the test is over")
		server.Close()
		<-served
	})
	return z
}

// open makes a connection whose first message is given.
func (z *fuzzed) open(t *testing.T, first []byte) *websocket.Conn {
	t.Helper()
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return z.pipes.Connect() }}
	token, err := link.Token(gatewaySecret, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := dialer.Dial("ws://coordinator"+link.Path, http.Header{link.TokenHeader: {token}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(clustertest.Patience))
	conn.WriteMessage(websocket.BinaryMessage, first)
	return conn
}

// next reads the next frame that is not ACK.
func next(conn *websocket.Conn) (link.Frame, error) {
	for {
		_, b, err := conn.ReadMessage()
		if err != nil {
			return link.Frame{}, err
		}
		f, _, err := link.Next(b)
		if err != nil || f.Kind != link.KindAck {
			return f, err
		}
	}
}

// greeting is a good HELLO.
func greeting(id string, resume bool) []byte {
	h := link.Hello{Gateway: id, Nonce: []byte(rand.Text()), Oldest: 1, Newest: 1}
	if resume {
		h.Store, h.Term = "store", "term"
	}
	return link.With(link.KindHello, 0, &h).Append(nil)
}

// leave links a gateway again and has it leave for good, so that the server keeps nothing of it. It may be gone already.
func (z *fuzzed) leave(t *testing.T, id string) {
	t.Helper()
	conn := z.open(t, greeting(id, true))
	f, err := next(conn)
	var w link.Welcome
	switch {
	case err != nil:
		t.Fatal(err)
	case f.Kind == link.KindRefuse:
		return
	case f.Kind != link.KindWelcome || f.Read(&w) != nil:
		t.Fatalf("HELLO is answered with %v", f.Kind)
	}
	bye := byeFrame
	bye.Number = w.Received + 1
	conn.WriteMessage(websocket.BinaryMessage, bye.Append(nil))
	for err == nil {
		_, err = next(conn)
	}
	if isTimeout(err) {
		t.Fatal("BYE does not end the link")
	}
}

// compose makes frames of fuzzed bytes whose numbers are right for the most part.
func compose(input []byte) (b []byte) {
	take := func() (v byte) {
		if len(input) > 0 {
			v, input = input[0], input[1:]
		}
		return v
	}
	for number := uint64(1); len(input) > 0 && number < 100; number++ {
		f := link.Frame{Kind: link.Kind(take()), Session: uint64(take() % 4), Number: number}
		size := min(int(take()), len(input))
		f.Payload, input = input[:size], input[size:]
		switch {
		case f.Kind == link.KindAck:
			f.Number = 0
			number--
		case take() > 250:
			f.Number += uint64(take())
		}
		b = f.Append(b)
	}
	return b
}

func FuzzLink(f *testing.F) {
	z := newFuzzed(f)
	var composed []byte
	for _, frame := range []link.Frame{attach(1), message(1, 1, "x"), synced, link.With(link.KindLate, 1, &link.Late{Number: 1, Publication: 7}), ackOf(0), byeFrame} {
		composed = append(append(composed, byte(frame.Kind), byte(frame.Session), byte(len(frame.Payload))), frame.Payload...)
		if frame.Kind != link.KindAck {
			composed = append(composed, 0)
		}
	}
	one := attach(1)
	one.Number = 1
	f.Add(uint8(0), greeting("a", false))
	f.Add(uint8(1), one.Append(nil))
	f.Add(uint8(2), composed)
	f.Add(uint8(3), []byte("text"))
	f.Add(uint8(4), []byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, how uint8, input []byte) {
		if how %= 5; how == 0 { // the first message
			conn := z.open(t, input)
			answer, err := next(conn)
			conn.Close()
			if err == nil && answer.Kind != link.KindWelcome && answer.Kind != link.KindRefuse {
				t.Fatalf("the answer is %v", answer.Kind)
			}
			var h link.Hello
			if hello, _, err := link.Next(input); err == nil && hello.Read(&h) == nil && answer.Kind == link.KindWelcome {
				z.leave(t, h.Gateway)
			}
		} else {
			id := rand.Text()
			conn := z.open(t, greeting(id, false))
			if answer, err := next(conn); err != nil || answer.Kind != link.KindWelcome {
				t.Fatalf("a good HELLO: %v, %v", answer.Kind, err)
			}
			read := make(chan error)
			go func() {
				var err error
				for err == nil {
					_, err = next(conn)
				}
				read <- err
			}()
			switch how {
			case 1:
				conn.WriteMessage(websocket.BinaryMessage, input)
			case 2:
				conn.WriteMessage(websocket.BinaryMessage, compose(input))
			case 3:
				conn.WriteMessage(websocket.TextMessage, input)
			case 4:
				conn.NetConn().Write(input)
			}
			conn.WriteControl(websocket.CloseMessage, nil, time.Now().Add(time.Second))
			conn.Close()
			<-read
			z.leave(t, id)
		}
		clustertest.WantOwnLines(t, z.log.String())
		z.log.Forget()
	})
}
