package gateway

// A gateway with real HTTP servers and WebSockets, over pipes and in fake time, and a coordinator that a test plays frame by
// frame.

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/control"
	"coordinator/internal/door"
	"coordinator/internal/link"
	"coordinator/internal/logs"
	"coordinator/internal/secret"
	"coordinator/internal/tagged"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testSecret    = secret.Secret("a key of gateways, as long as needed")
	controlSecret = secret.Secret("a key of peers")
)

// rig is a gateway that runs.
type rig struct {
	t        *testing.T
	logs     *clustertest.Log
	g        *Gateway
	sockets  *control.Sockets
	pipes    clustertest.Pipes // of the gateway
	start    time.Time
	stopOnce sync.Once
	running  sync.WaitGroup
	server   *door.Server

	mu    sync.Mutex
	hosts map[string]func() (net.Conn, error) // what dials a coordinator; nil: nobody answers
}

// counts counts what control sockets tell.
type counts struct{}

func (counts) MessageReceived(string)  {}
func (counts) MessageSent(string)      {}
func (counts) PeerDisconnected(string) {}

// newRig starts a gateway that knows the coordinators at the hosts.
func newRig(t *testing.T, hosts ...string) *rig {
	t.Helper()
	r := &rig{t: t, logs: clustertest.NewLog(), pipes: clustertest.NewPipes(), start: time.Now(), hosts: map[string]func() (net.Conn, error){}}
	log := logs.New(r.logs, false, true)
	var urls []*url.URL
	for _, host := range hosts {
		urls = append(urls, &url.URL{Scheme: "http", Host: host + ":80"})
	}
	r.g = New(Config{URLs: urls, Secret: testSecret, ControlSecret: controlSecret, Version: "test", Log: log, Dial: r.dial})
	refusals := logs.NewRefusals(log)
	r.sockets = control.NewSockets(control.Config{Secret: controlSecret, Max: 1000, NewPeer: r.g.NewPeer, Metrics: counts{}, Log: log, Refusals: refusals})
	mux := http.NewServeMux()
	mux.HandleFunc("/ws/control/rtmp", r.sockets.ServeRTMP)
	mux.HandleFunc("/ws/control/hls", r.sockets.ServeHLS)
	mux.HandleFunc("/", r.g.Forward)
	r.server = door.NewServer(mux, func() int { return 1000 }, refusals, log)
	r.running.Go(func() { r.server.Serve(r.pipes, nil) })
	r.g.Start()
	t.Cleanup(r.stop)
	return r
}

func (r *rig) stop() {
	r.stopOnce.Do(func() {
		r.g.Stop()
		r.sockets.Close()
		r.server.Close()
		r.running.Wait()
		r.server.Wait()
	})
}

// dial connects nobody while the test still sets up who is there: time stands still until then.
func (r *rig) dial(ctx context.Context, _, address string) (net.Conn, error) {
	if time.Now().Equal(r.start) {
		<-time.After(1)
	}
	r.mu.Lock()
	connect, known := r.hosts[address]
	r.mu.Unlock()
	if !known {
		return nil, syscall.ECONNREFUSED
	}
	if connect == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return connect()
}

func (r *rig) at(host string, connect func() (net.Conn, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts[host+":80"] = connect
}

func (r *rig) away(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.hosts, host+":80")
}

// faultProxy is one that goes only when nobody dials through it any more.
func (r *rig) faultProxy() *clustertest.FaultProxy {
	proxy := clustertest.NewFaultProxy(r.t)
	r.t.Cleanup(r.stop)
	return proxy
}

// wait lets time pass, and all that it sets in motion come to rest.
func (r *rig) wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// connect is a peer that sends its token and reads everything.
func (r *rig) connect(kind string, header ...string) *clustertest.Peer {
	r.t.Helper()
	return r.connectOver(r.pipes.Connect, kind, header...)
}

func (r *rig) connectOver(connect func() (net.Conn, error), kind string, header ...string) *clustertest.Peer {
	r.t.Helper()
	token, err := clustertest.Token(controlSecret.Reveal(), kind+"-control")
	if err != nil {
		r.t.Fatal(err)
	}
	dialer := &websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return connect() }}
	p, _, err := clustertest.Dial(r.t, "ws://gateway/ws/control/"+kind, dialer, append(header, "x-control-auth-token", token)...)
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return p
}

// coordinator is one process: a test plays it through its links.
type coordinator struct {
	t      *testing.T
	secret secret.Secret
	links  chan *testLink
	pipes  clustertest.Pipes
	other  http.HandlerFunc // what is not a link
	server *http.Server
	served chan struct{}
	wg     sync.WaitGroup // of those who read

	mu   sync.Mutex
	all  []*testLink
	over bool
}

func (r *rig) coordinator(host string) *coordinator {
	c := r.newCoordinator()
	r.at(host, c.pipes.Connect)
	return c
}

// newCoordinator starts one that nobody can dial yet.
func (r *rig) newCoordinator() *coordinator {
	c := &coordinator{t: r.t, secret: testSecret, links: make(chan *testLink, 10_000), pipes: clustertest.NewPipes(), served: make(chan struct{})}
	c.server = &http.Server{Handler: c, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go func() {
		defer close(c.served)
		c.server.Serve(c.pipes)
	}()
	r.t.Cleanup(func() {
		r.stop() // or it would go on to link
		c.server.Close()
		<-c.served
		c.cutAll()
		c.wg.Wait()
	})
	return c
}

func (c *coordinator) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path != link.Path {
		if c.other == nil {
			http.NotFound(w, req)
			return
		}
		c.other(w, req)
		return
	}
	if fault := link.TokenFault(req.Header.Get(link.TokenHeader), testSecret); fault != "" {
		c.t.Error(fault)
	}
	ws, err := (&websocket.Upgrader{}).Upgrade(w, req, nil)
	if err != nil {
		return // the gateway was gone
	}
	ws.SetCloseHandler(func(int, string) error { return nil }) // the test says when the link ends
	l := &testLink{t: c.t, c: c, ws: ws, in: make(chan link.Frame, 4096)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		ws.Close()
		return
	}
	c.all = append(c.all, l)
	c.wg.Go(l.read)
	c.links <- l
}

// cutAll is the end of the coordinator.
func (c *coordinator) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, l := range c.all {
		l.cut()
	}
}

// await is the next link, with its HELLO.
func (c *coordinator) await() *testLink {
	c.t.Helper()
	timeout := time.After(time.Hour)
	for {
		select {
		case l := <-c.links:
			f, open := <-l.in
			if !open { // the gateway has given it up
				continue
			}
			if f.Kind != link.KindHello {
				c.t.Fatalf("a link begins with %v", f.Kind)
			}
			l.read1(f, &l.hello)
			return l
		case <-timeout:
			c.t.Fatal("no link")
		}
	}
}

// testLink is the coordinator's end of a link.
type testLink struct {
	t     *testing.T
	c     *coordinator
	ws    *websocket.Conn
	in    chan link.Frame // closed at the end
	hello link.Hello
	sent  uint64
	acked uint64
	acks  int

	writing sync.Mutex
}

func (l *testLink) read() {
	defer close(l.in)
	for {
		_, message, err := l.ws.ReadMessage()
		if err != nil {
			return
		}
		for len(message) > 0 {
			var f link.Frame
			if f, message, err = link.Next(message); err != nil {
				l.t.Error(err)
				return
			}
			l.in <- f
		}
	}
}

func (l *testLink) cut() { l.ws.NetConn().Close() }

func (l *testLink) read1(f link.Frame, payload tagged.Message) {
	l.t.Helper()
	if err := f.Read(payload); err != nil {
		l.t.Fatal(err)
	}
}

// next is the next frame but ACK, which must be of the kind.
func (l *testLink) next(kind link.Kind) link.Frame {
	l.t.Helper()
	for {
		select {
		case f, open := <-l.in:
			if !open {
				l.t.Fatalf("the link has ended, and no %v came", kind)
			}
			if f.Kind == link.KindAck && kind != link.KindAck {
				l.note(f)
				continue
			}
			if f.Kind != kind {
				l.t.Fatalf("got %v, want %v", f.Kind, kind)
			}
			return f
		case <-time.After(time.Hour):
			l.t.Fatalf("no %v", kind)
		}
	}
}

func (l *testLink) note(f link.Frame) {
	var ack link.Count
	l.read1(f, &ack)
	l.acked = ack.Number
	l.acks++
}

// quiet looks that nothing but ACK has come.
func (l *testLink) quiet() {
	l.t.Helper()
	synctest.Wait()
	for {
		select {
		case f, open := <-l.in:
			if !open {
				l.t.Fatal("the link has ended")
			}
			if f.Kind != link.KindAck {
				l.t.Fatalf("%v %v %q", f.Kind, f.Session, f.Payload)
			}
			l.note(f)
		default:
			return
		}
	}
}

// ended waits for the end of the link.
func (l *testLink) ended() {
	l.t.Helper()
	timeout := time.After(time.Hour)
	for {
		select {
		case _, open := <-l.in:
			if !open {
				return
			}
		case <-timeout:
			l.t.Fatal("the link does not end")
		}
	}
}

func (l *testLink) write(frames ...link.Frame) {
	l.writing.Lock()
	defer l.writing.Unlock()
	var message []byte
	for _, f := range frames {
		message = f.Append(message)
	}
	l.ws.WriteMessage(websocket.BinaryMessage, message) // whoever awaits its effect sees a failure
}

// welcome answers the HELLO, and takes what a new term begins with.
func (l *testLink) welcome(term string) {
	l.t.Helper()
	l.write(l.welcomeFrame(link.Welcome{Store: "store", Term: term, ControlSame: true}))
}

func (l *testLink) welcomeFrame(w link.Welcome) link.Frame {
	w.Proof, w.Protocol = link.MAC(l.c.secret, l.hello.Nonce), link.Protocol
	return link.With(link.KindWelcome, 0, &w)
}

// send sends a frame with a link number.
func (l *testLink) send(kind link.Kind, session uint64, payload tagged.Message) {
	f := link.Frame{Kind: kind, Session: session}
	if payload != nil {
		f = link.With(kind, session, payload)
	}
	l.sent++
	f.Number = l.sent
	l.write(f)
}

func (l *testLink) say(session uint64, answers uint64, text string, memos ...link.Memo) {
	l.send(link.KindSay, session, &link.Say{Items: []link.Item{{Text: []byte(text), Answers: answers, Memos: memos}}})
}

// keepAlive says something every 3 s until the link is cut.
func (l *testLink) keepAlive() {
	l.c.wg.Go(func() {
		for {
			<-time.After(3 * time.Second)
			l.writing.Lock()
			err := l.ws.WriteMessage(websocket.BinaryMessage, link.With(link.KindAck, 0, &link.Count{}).Append(nil))
			l.writing.Unlock()
			if err != nil {
				return
			}
		}
	})
}

func (l *testLink) attach() (session uint64, a link.Attach) {
	l.t.Helper()
	f := l.next(link.KindAttach)
	l.read1(f, &a)
	return f.Session, a
}

func (l *testLink) message() (session uint64, m link.Message) {
	l.t.Helper()
	f := l.next(link.KindMessage)
	l.read1(f, &m)
	return f.Session, m
}

func (l *testLink) wantMessage(number uint64, text string) {
	l.t.Helper()
	if _, m := l.message(); m.Number != number || string(m.Text) != text {
		l.t.Fatalf("message %d %q, want %d %q", m.Number, m.Text, number, text)
	}
}

func (l *testLink) gone() (session uint64, g link.Gone) {
	l.t.Helper()
	f := l.next(link.KindGone)
	l.read1(f, &g)
	return f.Session, g
}

func (r *rig) wantState(what string, ok func(State) bool) {
	r.t.Helper()
	synctest.Wait()
	if s := r.g.State(); !ok(s) {
		r.t.Errorf("%s: %+v", what, s)
	}
}

func request(id, channel string) string {
	return fmt.Sprintf("PUBLISH-REQUEST\nRequest-ID:%s\nStream-Channel:%s\nStream-Key:k\nUser-IP:10.0.0.9\n", id, channel)
}

func sendText(t *testing.T, p *clustertest.Peer, text string) {
	t.Helper()
	if err := p.SendRaw(websocket.TextMessage, text); err != nil {
		t.Fatal(err)
	}
}

// trySay says something to a peer on a link that may have ended.
func (l *testLink) trySay(session uint64, text string) {
	l.sent++
	f := link.With(link.KindSay, session, &link.Say{Items: []link.Item{{Text: []byte(text)}}})
	f.Number = l.sent
	l.writing.Lock()
	defer l.writing.Unlock()
	l.ws.WriteMessage(websocket.BinaryMessage, f.Append(nil))
}
