package linkserver

// A server over pipes, what its Handler is told, and gateways that say what the test says.

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/link"
	"coordinator/internal/logs"
	"coordinator/internal/secret"

	"github.com/gorilla/websocket"
)

const (
	gatewaySecret = secret.Secret("a secret of gateways, of 32 bytes")
	controlSecret = secret.Secret(clustertest.ControlSecret)
)

// recorder is a Handler that notes its calls.
type recorder struct {
	t *testing.T

	mu       sync.Mutex
	calls    []string
	gateways map[string]*Gateway
	acked    map[string]int

	onMessage func(g *Gateway, session uint64, m link.Message)
}

func newRecorder(t *testing.T) *recorder {
	return &recorder{t: t, gateways: map[string]*Gateway{}, acked: map[string]int{}}
}

func (r *recorder) note(g *Gateway, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	call := fmt.Sprintf(format, args...)
	if g != nil {
		if other := r.gateways[g.ID()]; other != nil && other != g {
			r.t.Errorf("%s is another gateway than before", g.ID())
		}
		r.gateways[g.ID()] = g
		call = g.ID() + " " + call
	}
	r.calls = append(r.calls, call)
}

func (r *recorder) Attach(g *Gateway, session uint64, a link.Attach) {
	r.note(g, "attach %d %s", session, a.Kind)
}

func (r *recorder) Message(g *Gateway, session uint64, m link.Message) {
	if r.onMessage != nil {
		r.onMessage(g, session, m)
		return
	}
	r.note(g, "message %d %d %s", session, m.Number, m.Text[:min(len(m.Text), 20)])
}

func (r *recorder) Gone(g *Gateway, session uint64, n link.Gone) {
	r.note(g, "gone %d %d", session, n.Number)
}
func (r *recorder) Late(g *Gateway, session uint64, l link.Late) {
	r.note(g, "late %d %d %d", session, l.Number, l.Publication)
}
func (r *recorder) Alive(g *Gateway, session uint64) { r.note(g, "alive %d", session) }
func (r *recorder) Absent(g *Gateway)                { r.note(g, "absent") }
func (r *recorder) Present(g *Gateway)               { r.note(g, "present") }
func (r *recorder) Lost(g *Gateway, reason error)    { r.note(g, "lost: %v", reason) }
func (r *recorder) Numbers(highest uint64)           { r.note(nil, "numbers %d", highest) }

// onAck is for Send: it counts under a name.
func (r *recorder) onAck(name string) func() {
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.acked[name]++
		r.calls = append(r.calls, "acked "+name)
	}
}

func (r *recorder) of(id string) *Gateway {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gateways[id] == nil {
		r.t.Fatalf("%s has not said anything", id)
	}
	return r.gateways[id]
}

// rig is a server. In a bubble, want* wait until all that can happen now has happened.
type rig struct {
	t *testing.T
	*Server
	*recorder
	log   *clustertest.Log
	pipes clustertest.Pipes
	cfg   Config
	gws   int

	added   []string
	durable chan struct{} // nil: at once
}

// newRig starts a server of the store "store" in the term "term"; set changes its settings.
func newRig(t *testing.T, set func(r *rig, cfg *Config)) *rig {
	t.Helper()
	r := &rig{t: t, recorder: newRecorder(t), log: clustertest.NewLog(), pipes: clustertest.NewPipes()}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	r.cfg = Config{
		Store: "store", Term: "term", Secret: gatewaySecret, ControlSecret: controlSecret, Version: "1.0", Handler: r.recorder,
		AddGateway: r.add, Log: log, Refusals: logs.NewRefusals(log),
	}
	if set != nil {
		set(r, &r.cfg)
	}
	r.Server = New(r.cfg)
	server := &http.Server{Handler: r.Server, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(r.pipes) })
	t.Cleanup(func() {
		r.Server.Close("the test is over")
		server.Close()
		serving.Wait()
	})
	return r
}

func (r *rig) add(id string) <-chan struct{} {
	r.recorder.mu.Lock()
	defer r.recorder.mu.Unlock()
	r.added = append(r.added, id)
	if r.durable != nil {
		return r.durable
	}
	done := make(chan struct{})
	close(done)
	return done
}

// want holds the calls since the last time.
func (r *rig) want(calls ...string) {
	r.t.Helper()
	synctest.Wait()
	r.recorder.mu.Lock()
	defer r.recorder.mu.Unlock()
	if !slices.Equal(r.calls, calls) {
		r.t.Errorf("calls are %q, want %q\n%s", r.calls, calls, r.log)
	}
	r.calls = nil
}

func (r *rig) wantGathered(gathered bool) {
	r.t.Helper()
	synctest.Wait()
	select {
	case <-r.Gathered():
		if !gathered {
			r.t.Error("gathering is over")
		}
	default:
		if gathered {
			r.t.Errorf("gathering is not over\n%s", r.log)
		}
	}
}

// gw is a gateway's end of a link.
type gw struct {
	r    *rig
	conn *websocket.Conn
	in   chan link.Frame // all that comes but ACK
	sent uint64

	// A channel is a lock under which the time of a bubble goes on.
	held    chan struct{} // the test takes what is in it, and nothing is read
	writing chan struct{}

	mu     sync.Mutex
	acked  uint64
	unsure bool // the coordinator has said so last
	acks   int
	end    error
}

// hello is that of a gateway.
func hello(id string, change func(h *link.Hello)) link.Hello {
	nonce := []byte(rand.Text())
	h := link.Hello{Gateway: id, Nonce: nonce, ControlMAC: link.MAC(controlSecret, nonce), Oldest: 1, Newest: 1, Version: "0.9"}
	if change != nil {
		change(&h)
	}
	return h
}

// of an earlier term of the store, or of this one
func earlier(h *link.Hello) { h.Store, h.Term = "store", "earlier" }

func resumes(received uint64) func(h *link.Hello) {
	return func(h *link.Hello) { h.Store, h.Term, h.Received = "store", "term", received }
}

func (r *rig) header() http.Header {
	token, err := link.Token(gatewaySecret, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	return http.Header{link.TokenHeader: {token}}
}

func (r *rig) dial(header http.Header) (*websocket.Conn, *http.Response, error) {
	r.gws++
	from := fmt.Sprintf("10.0.%d.%d:40000", r.gws/250, r.gws%250+1)
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return r.pipes.ConnectFrom(from) }}
	return dialer.Dial("ws://coordinator"+link.Path, header)
}

// connect makes a connection without HELLO.
func (r *rig) connect() *gw {
	r.t.Helper()
	conn, _, err := r.dial(r.header())
	if err != nil {
		r.t.Fatal(err)
	}
	g := &gw{r: r, conn: conn, in: make(chan link.Frame, 100_000), held: make(chan struct{}, 1), writing: make(chan struct{}, 1)}
	g.held <- struct{}{}
	g.writing <- struct{}{}
	var reading sync.WaitGroup
	reading.Go(g.read)
	r.t.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return g
}

func (g *gw) read() {
	defer close(g.in)
	for {
		g.held <- <-g.held
		_, b, err := g.conn.ReadMessage()
		for err == nil && len(b) > 0 {
			var f link.Frame
			if f, b, err = link.Next(b); err == nil {
				g.take(f)
			}
		}
		if err != nil {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.end = err
			return
		}
	}
}

func (g *gw) take(f link.Frame) {
	if f.Kind != link.KindAck {
		g.in <- f
		return
	}
	var ack link.Count
	if err := f.Read(&ack); err != nil || f.Number != 0 {
		g.r.t.Errorf("ACK: %v", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.acked, g.unsure = max(g.acked, ack.Number), ack.Unsure
	g.acks++
}

// link says HELLO.
func (r *rig) link(h link.Hello) *gw {
	r.t.Helper()
	g := r.connect()
	g.write(link.With(link.KindHello, 0, &h))
	return g
}

// welcomed is a link that was answered with WELCOME.
func (r *rig) welcomed(h link.Hello) (*gw, link.Welcome) {
	r.t.Helper()
	g := r.link(h)
	f := g.next()
	var w link.Welcome
	if f.Kind != link.KindWelcome || f.Read(&w) != nil {
		r.t.Fatalf("HELLO is answered with %v %q\n%s", f.Kind, f.Payload, r.log)
	}
	if !link.Proves(w.Proof, gatewaySecret, h.Nonce) || w.Store != "store" || w.Term != "term" || f.Number != 0 {
		r.t.Errorf("WELCOME is %+v", w)
	}
	return g, w
}

// refused is the answer to a HELLO that is refused.
func (r *rig) refused(h link.Hello) link.Refuse {
	r.t.Helper()
	return r.link(h).refusal(h)
}

func (g *gw) refusal(h link.Hello) link.Refuse {
	g.r.t.Helper()
	f := g.next()
	var refuse link.Refuse
	if f.Kind != link.KindRefuse || f.Read(&refuse) != nil {
		g.r.t.Fatalf("HELLO is answered with %v", f.Kind)
	}
	if !link.Proves(refuse.Proof, gatewaySecret, h.Nonce) {
		g.r.t.Error("REFUSE has no proof")
	}
	g.wantEnd()
	return refuse
}

// next is the next frame.
func (g *gw) next() link.Frame {
	g.r.t.Helper()
	select {
	case f, open := <-g.in:
		if !open {
			g.r.t.Fatalf("the link has ended: %v\n%s", g.end, g.r.log)
		}
		return f
	case <-time.After(time.Minute):
		g.r.t.Fatalf("nothing has come\n%s", g.r.log)
		panic("not reached")
	}
}

// wantEnd is the end of the link, with nothing more before it.
func (g *gw) wantEnd() {
	g.r.t.Helper()
	if f, open := <-g.in; open {
		g.r.t.Errorf("%v comes instead of the end", f.Kind)
	}
}

func (g *gw) isOpen() bool {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.end == nil
}

// write writes frames in one message, as they are.
func (g *gw) write(frames ...link.Frame) {
	var b []byte
	for _, f := range frames {
		b = f.Append(b)
	}
	<-g.writing
	_ = g.conn.WriteMessage(websocket.BinaryMessage, b) // the reader finds the end
	g.writing <- struct{}{}
}

// ping says that the gateway is there, for as long as it is.
func (g *gw) ping() *gw {
	var pinging sync.WaitGroup
	stop := make(chan struct{})
	pinging.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Second):
				g.ack(0)
			}
		}
	})
	g.r.t.Cleanup(func() {
		close(stop)
		g.conn.Close()
		pinging.Wait()
	})
	return g
}

// send gives frames their numbers and writes them.
func (g *gw) send(frames ...link.Frame) {
	for i := range frames {
		g.sent++
		frames[i].Number = g.sent
	}
	g.write(frames...)
}

func (g *gw) ack(number uint64) { g.write(link.With(link.KindAck, 0, &link.Count{Number: number})) }

func message(session, number uint64, text string) link.Frame {
	return link.With(link.KindMessage, session, &link.Message{Number: number, Text: []byte(text)})
}

func attach(session uint64) link.Frame {
	return link.With(link.KindAttach, session, &link.Attach{Kind: "HLS"})
}

func say(session uint64, text string) link.Frame {
	return link.With(link.KindSay, session, &link.Say{Items: []link.Item{{Text: []byte(text)}}})
}

var synced, byeFrame = link.Frame{Kind: link.KindSynced}, link.With(link.KindBye, 0, &link.Reason{Text: "stopping"})

// wantSay holds that a frame is SAY of a text.
func (g *gw) wantSay(number uint64, text string) {
	g.r.t.Helper()
	f := g.next()
	if f.Kind != link.KindSay || f.Number != number || !bytes.Contains(f.Payload, []byte(text)) {
		g.r.t.Errorf("%v %d %q comes, want SAY %d %s", f.Kind, f.Number, f.Payload, number, text)
	}
}
