package linkserver

// Over real sockets: what is said last arrives, though what has come is not read any more.

import (
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/link"
	"coordinator/internal/logs"

	"github.com/gorilla/websocket"
)

func TestLastWordsArriveAtAGatewayThatIsSending(t *testing.T) {
	t.Parallel()
	for _, want := range []link.Kind{link.KindBye, link.KindRefuse} {
		t.Run(want.String(), func(t *testing.T) {
			t.Parallel()
			for range 10 {
				log := slog.New(slog.DiscardHandler)
				s := New(Config{
					Store: "store", Term: "term", Secret: gatewaySecret, Handler: answering{}, Log: log, Refusals: logs.NewRefusals(log),
					AddGateway: func(string) <-chan struct{} {
						done := make(chan struct{})
						close(done)
						return done
					},
				})
				server := httptest.NewTLSServer(s)
				g := &gatewayOf{t: t, server: server}
				if want == link.KindRefuse {
					g.store = "store" // and it is not known there
				}
				g.dial()
				var closing sync.WaitGroup
				if want == link.KindBye {
					closing.Go(func() { s.Close("stopping") })
				}
				if last := g.last(); last != want {
					t.Errorf("%v comes last, want %v", last, want)
				}
				closing.Wait()
				s.Close("the test is over")
				server.Close()
			}
		})
	}
}

// gatewayOf sends for as long as it can, whatever it is told.
type gatewayOf struct {
	t       *testing.T
	server  *httptest.Server
	store   string
	conn    *websocket.Conn
	sending sync.WaitGroup
	sent    chan struct{} // closed when it has sent 100 messages
}

func (g *gatewayOf) dial() {
	token, err := link.Token(gatewaySecret, time.Now())
	if err != nil {
		g.t.Fatal(err)
	}
	dialer := websocket.Dialer{TLSClientConfig: g.server.Client().Transport.(*http.Transport).TLSClientConfig}
	if g.conn, _, err = dialer.Dial(strings.Replace(g.server.URL, "http", "ws", 1)+link.Path, http.Header{link.TokenHeader: {token}}); err != nil {
		g.t.Fatal(err)
	}
	g.conn.SetReadDeadline(time.Now().Add(clustertest.Patience))
	h := link.Hello{Gateway: rand.Text(), Nonce: []byte(rand.Text()), Oldest: 1, Newest: 1, Store: g.store}
	g.conn.WriteMessage(websocket.BinaryMessage, link.With(link.KindHello, 0, &h).Append(nil))
	if g.store == "" {
		if f, err := next(g.conn); err != nil || f.Kind != link.KindWelcome {
			g.t.Fatalf("the answer is %v, %v", f.Kind, err)
		}
	}
	g.sent = make(chan struct{})
	g.sending.Go(func() {
		for n := uint64(1); ; n++ {
			f := message(1, n, strings.Repeat("x", 1000))
			f.Number = n
			if g.conn.WriteMessage(websocket.BinaryMessage, f.Append(nil)) != nil {
				return
			}
			if n == 100 {
				close(g.sent)
			}
		}
	})
	if g.store == "" {
		<-g.sent
	}
}

// last is the last frame that comes.
func (g *gatewayOf) last() (kind link.Kind) {
	defer g.sending.Wait()
	defer g.conn.Close()
	for {
		_, b, err := g.conn.ReadMessage()
		if err != nil {
			return kind
		}
		for len(b) > 0 {
			var f link.Frame
			if f, b, err = link.Next(b); err != nil {
				g.t.Error(err)
				return kind
			}
			kind = f.Kind
		}
	}
}
