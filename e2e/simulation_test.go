package e2e

// Streaming servers and encoders that behave at random as real ones do: they publish, announce, fail, die and come
// back, and note in a history what they were told and what they are about to say. kill_test.go and cluster_test.go
// let them loose on a coordinator; simhistory_test.go judges what they noted.

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
)

// simulation is a random cluster. It runs in phases: busy, calm (nobody begins anything, what is live stays) and
// leaving (publishers end, encoders finish what they are told to stop).
type simulation struct {
	// set once
	t        testing.TB
	history  *simHistory
	seed     uint64
	address  func() string // of the coordinator, which may change
	channels int           // how many there are to publish on
	think    time.Duration // longest pause between two steps of one who acts
	failures bool          // peers fail and die
	private  bool          // publishers have channels of their own, so that none is busy, and some stay for long
	seeding  atomic.Uint64
	maxSteps int64
	steps    atomic.Int64
	marks    atomic.Uint64
	busy     context.Context // over: calm
	calmDown context.CancelFunc
	staying  context.Context // over: leaving
	leave    context.CancelFunc
	present  context.Context // over: disconnect
	vanish   context.CancelFunc
	actors   sync.WaitGroup // servers and encoders
	workers  sync.WaitGroup // publishers and tasks, within a phase
	servers  []*simServer
	encoders []*simEncoder
}

func newSimulation(t testing.TB, seed uint64, maxSteps int, address func() string) *simulation {
	s := &simulation{t: t, history: &simHistory{}, seed: seed, address: address, channels: 40, think: 12 * time.Millisecond, failures: true, maxSteps: int64(maxSteps)}
	s.busy, s.calmDown = context.WithCancel(context.Background())
	s.staying, s.leave = context.WithCancel(context.Background())
	s.present, s.vanish = context.WithCancel(context.Background())
	t.Cleanup(s.end)
	return s
}

// end takes all peers away and waits for them.
func (s *simulation) end() {
	s.calmDown()
	s.leave()
	s.vanish()
	s.actors.Wait()
	s.workers.Wait()
}

func (s *simulation) rand() *rand.Rand { return rand.New(rand.NewPCG(s.seed, s.seeding.Add(1))) }

// step counts one; the last one ends the busy phase.
func (s *simulation) step() {
	if s.steps.Add(1) == s.maxSteps {
		s.calmDown()
	}
}

// pause lets some time go by, unless one of the events comes first; it tells whether none did.
func (s *simulation) pause(r *rand.Rand, ctx context.Context, events ...<-chan struct{}) bool {
	timer := time.NewTimer(time.Duration(r.Int64N(int64(s.think))))
	defer timer.Stop()
	var first, second <-chan struct{}
	if len(events) > 0 {
		first = events[0]
	}
	if len(events) > 1 {
		second = events[1]
	}
	select {
	case <-timer.C:
		return true
	case <-first:
	case <-second:
	case <-ctx.Done():
	}
	return false
}

// simConn is one control connection of a peer.
type simConn struct {
	name string // of the peer and the number of its connection
	conn *websocket.Conn
	gone chan struct{} // closed by the reader

	mu sync.Mutex // one message at a time, in the order of the history
}

// dial connects, trying on until it succeeds or the peers are to vanish; then it returns nil.
func (s *simulation) dial(endpoint, name string, header http.Header) *simConn {
	dialer := websocket.Dialer{HandshakeTimeout: clustertest.Patience}
	for {
		conn, _, err := dialer.DialContext(s.present, "ws://"+s.address()+"/ws/control/"+endpoint, header)
		if err == nil {
			return &simConn{name: name, conn: conn, gone: make(chan struct{})}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-s.present.Done():
			return nil
		}
	}
}

// listen hands each message to handle until the connection is gone.
func (s *simulation) listen(w *simConn, handle func(wire.Message)) {
	stop := context.AfterFunc(s.present, func() { w.conn.Close() })
	defer stop()
	defer w.conn.Close()
	for {
		_, data, err := w.conn.ReadMessage()
		if err != nil {
			s.history.note(simEntry{what: simGone, who: w.name})
			close(w.gone)
			return
		}
		handle(wire.ParseStrict(data))
	}
}

// say notes the entry, unless it is empty, and sends the message. A broken connection is the reader's business.
func (s *simulation) say(w *simConn, e simEntry, method string, args ...string) {
	var b strings.Builder
	b.WriteString(method + "\n")
	for i := 0; i < len(args); i += 2 {
		b.WriteString(args[i] + ":" + args[i+1] + "\n")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.what != "" {
		e.who = w.name
		s.history.note(e)
	}
	w.conn.SetWriteDeadline(time.Now().Add(clustertest.Patience))
	w.conn.WriteMessage(websocket.TextMessage, []byte(b.String()))
}

// cut ends a connection, politely or without a word.
func (s *simulation) cut(w *simConn, r *rand.Rand) {
	if w == nil {
		return
	}
	s.history.note(simEntry{what: simGone, who: w.name})
	if r.IntN(2) == 0 {
		w.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	}
	w.conn.Close()
}

// simServer is a streaming server. It can miss a kill the first time, as real ones do when it comes right behind the accept.
type simServer struct {
	sim      *simulation
	name     string
	endpoint string
	port     string // that encoders pull from

	mu sync.Mutex
	// guarded by mu
	rand     *rand.Rand
	wire     *simConn
	requests int
	asked    map[string]chan *simPublisher // by request ID; a denial is nil
	live     map[string]*simPublisher      // by channel
}

type simPublisher struct {
	channel, id string
	wire        *simConn
	over        chan struct{}
	missed      bool // a kill
}

// addServer connects a streaming server with so many publishers that come and go.
func (s *simulation) addServer(endpoint string, publishers int) {
	n := len(s.servers)
	server := &simServer{sim: s, name: fmt.Sprint(endpoint, n), endpoint: endpoint, port: strconv.Itoa(2000 + n), rand: s.rand(), asked: map[string]chan *simPublisher{}, live: map[string]*simPublisher{}}
	s.servers = append(s.servers, server)
	s.actors.Go(server.run)
	for i := range publishers {
		r := s.rand()
		channel := func() string { return fmt.Sprint("ch", r.IntN(s.channels)) }
		if s.private {
			channel = func() string { return fmt.Sprint(server.name, "-", i) }
		}
		s.workers.Go(func() { server.publishers(r, channel) })
	}
}

// awaitAnswered waits until all who ask now have their answers.
func (s *simulation) awaitAnswered() {
	s.t.Helper()
	timeout := time.After(clustertest.Patience)
	for _, server := range s.servers {
		for _, request := range server.asking() {
			for server.asks(request) {
				select {
				case <-time.After(5 * time.Millisecond):
				case <-timeout:
					s.t.Fatalf("%s has no answer to %s", server.name, request)
				}
			}
		}
	}
}

func (p *simServer) asking() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.asked))
}

func (p *simServer) asks(request string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[request] != nil
}

func (p *simServer) run() {
	for n := 1; ; n++ {
		w := p.sim.dial(p.endpoint, fmt.Sprintf("%s.%d", p.name, n), http.Header{"x-custom-port": {p.port}})
		if w == nil {
			return
		}
		p.connected(w)
		p.sim.listen(w, func(m wire.Message) { p.handle(w, m) })
		p.lost()
	}
}

// connected sends PUBLISH-END for the publishers of the connection before.
func (p *simServer) connected(w *simConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wire = w
	for _, pub := range p.live {
		p.sim.say(w, simEntry{}, "PUBLISH-END", "Stream-Channel", pub.channel, "Stream-ID", pub.id)
	}
	clear(p.live)
}

func (p *simServer) lost() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wire = nil
	for _, answer := range p.asked {
		close(answer)
	}
	clear(p.asked)
	for _, pub := range p.live {
		close(pub.over)
	}
}

func (p *simServer) handle(w *simConn, m wire.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	channel, id := m.Get("Stream-Channel"), m.Get("Stream-ID")
	switch m.Method {
	case "PUBLISH-ACCEPT", "PUBLISH-DENY":
		answer := p.asked[m.Get("Request-ID")]
		if answer == nil {
			p.sim.t.Errorf("%s: %s that nobody waits for: %v", w.name, m.Method, m.Args)
			return
		}
		delete(p.asked, m.Get("Request-ID"))
		if m.Method == "PUBLISH-DENY" {
			p.sim.history.note(simEntry{what: simDenied, who: w.name, channel: channel})
			close(answer)
			return
		}
		p.sim.history.note(simEntry{what: simAccepted, who: w.name, channel: channel, stream: id})
		pub := &simPublisher{channel: channel, id: id, wire: w, over: make(chan struct{})}
		p.live[channel] = pub
		answer <- pub
	case "STREAM-KILL":
		p.sim.history.note(simEntry{what: simKilled, who: w.name, channel: channel, stream: id})
		pub := p.live[channel]
		switch {
		case pub == nil || pub.id != id:
		case !pub.missed && p.rand.IntN(4) == 0:
			pub.missed = true
		default:
			p.endLocked(pub)
		}
	}
}

func (p *simServer) end(pub *simPublisher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live[pub.channel] == pub && p.wire == pub.wire {
		p.endLocked(pub)
	}
}

func (p *simServer) endLocked(pub *simPublisher) {
	delete(p.live, pub.channel)
	close(pub.over)
	p.sim.say(pub.wire, simEntry{what: simEnded, channel: pub.channel, stream: pub.id}, "PUBLISH-END", "Stream-Channel", pub.channel, "Stream-ID", pub.id)
}

// ask sends a publish request; nil when there is no connection.
func (p *simServer) ask(channel string) <-chan *simPublisher {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wire == nil {
		return nil
	}
	p.requests++
	id := strconv.Itoa(p.requests)
	answer := make(chan *simPublisher, 1)
	p.asked[id] = answer
	p.sim.say(p.wire, simEntry{}, "PUBLISH-REQUEST", "Request-ID", id, "Stream-Channel", channel, "Stream-Key", "key", "User-IP", "10.0.0.1")
	return answer
}

// publisherOn is who can be pulled from a channel, nil if nobody.
func (p *simServer) publisherOn(channel string) *simPublisher {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[channel]
}

func (p *simServer) connection() *simConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wire
}

// publishers is one after the other, each on a channel of its choice.
func (p *simServer) publishers(r *rand.Rand, channel func() string) {
	s := p.sim
	for s.pause(r, s.busy) {
		if s.failures && r.IntN(300) == 0 {
			s.step()
			s.cut(p.connection(), r)
			continue
		}
		answer := p.ask(channel())
		if answer == nil {
			continue
		}
		s.step()
		select {
		case pub := <-answer:
			if pub != nil {
				p.stayLive(r, pub)
			}
		case <-time.After(clustertest.Patience):
			s.t.Errorf("%s: a publish request without an answer", p.name)
			return
		}
	}
}

func (p *simServer) stayLive(r *rand.Rand, pub *simPublisher) {
	s := p.sim
	steps := r.IntN(12)
	if s.private && r.IntN(12) == 0 {
		steps *= 50
	}
	for range steps {
		if !s.pause(r, s.busy, pub.over) {
			break
		}
	}
	if s.busy.Err() != nil {
		select {
		case <-pub.over:
			return
		case <-s.staying.Done():
		}
	}
	s.step()
	p.end(pub)
}

// simEncoder is an encoder. As real ones do, it ends an encoding that has announced nothing when it is told to stop, or
// loses its connection; others go on until their source ends.
type simEncoder struct {
	sim  *simulation
	name string

	mu sync.Mutex
	// guarded by mu
	capacity int
	wire     *simConn
	names    [2]string           // of the last two connections
	tasks    map[string]*simTask // by stream ID
}

type simTask struct {
	channel, id, source string
	wire                *simConn
	stop                chan struct{} // closed when it is told to stop, or dropped
	stopping            bool          // guarded by simEncoder.mu
	announced           int           // guarded by simEncoder.mu
}

func (s *simulation) addEncoder(capacity int) *simEncoder {
	e := &simEncoder{sim: s, name: fmt.Sprint("hls", len(s.encoders)), capacity: capacity, tasks: map[string]*simTask{}}
	s.encoders = append(s.encoders, e)
	s.actors.Go(e.run)
	if s.failures {
		r := s.rand()
		s.workers.Go(func() { e.dieAtTimes(r) })
	}
	return e
}

func (e *simEncoder) run() {
	for n := 1; ; n++ {
		w := e.sim.dial("hls", fmt.Sprintf("%s.%d", e.name, n), nil)
		if w == nil {
			return
		}
		e.connected(w)
		e.sim.listen(w, func(m wire.Message) { e.handle(w, m) })
		e.lost()
	}
}

// connected registers and drops the tasks of the connection before that have announced nothing.
func (e *simEncoder) connected(w *simConn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wire, e.names = w, [2]string{e.names[1], w.name}
	e.sim.say(w, simEntry{}, "REGISTER", "Capacity", strconv.Itoa(e.capacity))
	for _, task := range e.tasks {
		if task.announced == 0 {
			e.sim.say(w, simEntry{}, "STREAM-CLOSED", "Stream-Channel", task.channel, "Stream-ID", task.id)
			delete(e.tasks, task.id)
			task.stopLocked()
		}
	}
}

func (task *simTask) stopLocked() {
	if !task.stopping {
		task.stopping = true
		close(task.stop)
	}
}

func (e *simEncoder) lost() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wire = nil
}

func (e *simEncoder) connection() *simConn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wire
}

// connections returns the names of those that the coordinator may still have: it may not know yet that the older one is cut.
func (e *simEncoder) connections() [2]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.names
}

func (e *simEncoder) handle(w *simConn, m wire.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	channel, id := m.Get("Stream-Channel"), m.Get("Stream-ID")
	switch m.Method {
	case "ENCODE-START":
		e.sim.history.note(simEntry{what: simStarted, who: w.name, channel: channel, stream: id})
		task := &simTask{channel: channel, id: id, source: m.Get("Stream-Source-URI"), wire: w, stop: make(chan struct{})}
		e.tasks[id] = task
		r := e.sim.rand()
		e.sim.workers.Go(func() { e.work(r, task) })
	case "ENCODE-STOP":
		e.sim.history.note(simEntry{what: simStopped, who: w.name, channel: channel, stream: id})
		if task := e.tasks[id]; task != nil {
			task.stopLocked()
		}
	}
}

// work encodes one stream until it is told to stop and has announced nothing, its source ends, or it fails.
func (e *simEncoder) work(r *rand.Rand, task *simTask) {
	s := e.sim
	defer e.finish(task)
	source := e.open(r, task)
	if source == nil {
		return
	}
	fails := s.failures && r.IntN(8) == 0
	for n := r.IntN(6); n > 0; n-- {
		if !s.pause(r, s.busy, task.stop, source.over) {
			break
		}
		e.announce(r, task)
	}
	if fails && s.busy.Err() == nil {
		return
	}
	select {
	case <-task.stop:
		if e.hasBegun(task) {
			<-source.over
		}
	case <-source.over:
	}
	for n := r.IntN(3); n > 0 && e.hasBegun(task); n-- { // the end of a recording
		if !s.pause(r, s.busy) {
			break
		}
		e.announce(r, task)
	}
}

// open finds the publisher behind a source URI, who may be accepted a moment later than the encoding is started; nil when
// there is nobody. An encoder that never fails waits until it is told to stop.
func (e *simEncoder) open(r *rand.Rand, task *simTask) *simPublisher {
	source, err := url.Parse(task.source)
	if err != nil {
		e.sim.t.Errorf("%s is to pull from %q", e.name, task.source)
		return nil
	}
	for n := 0; n < 100 || !e.sim.failures; n++ {
		for _, server := range e.sim.servers {
			if pub := server.publisherOn(task.channel); server.port == source.Port() && pub != nil {
				return pub
			}
		}
		select {
		case <-time.After(time.Duration(r.Int64N(int64(5 * time.Millisecond)))):
		case <-task.stop:
			return nil
		case <-e.sim.present.Done():
			return nil
		}
	}
	return nil
}

func (e *simEncoder) hasBegun(task *simTask) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return task.announced > 0
}

// announce counts for the coordinator only on the connection that the task came from. On a later one it is said, too.
func (e *simEncoder) announce(r *rand.Rand, task *simTask) {
	e.sim.step()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tasks[task.id] != task || e.wire == nil {
		return
	}
	task.announced++
	kind := []string{"HLS-LIVE", "HLS-LIVE", "HLS-VOD", "IMG-PREVIEW"}[r.IntN(4)]
	index := strconv.Itoa(task.announced)
	entry := simEntry{what: simAnnounced, channel: task.channel, stream: task.id, kind: kind, index: index}
	e.sim.say(e.wire, e.ownEntry(task, entry), "STREAM-AVAILABLE", "Stream-Channel", task.channel, "Stream-ID", task.id, "Stream-Type", kind, "Resolution", "640x360", "Index-file", index)
}

// ownEntry is the entry if the task came from today's connection, else none. e.mu is held.
func (e *simEncoder) ownEntry(task *simTask, entry simEntry) simEntry {
	if e.wire != task.wire {
		return simEntry{}
	}
	return entry
}

func (e *simEncoder) finish(task *simTask) {
	e.sim.step()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tasks[task.id] != task {
		return
	}
	delete(e.tasks, task.id)
	if e.wire != nil {
		entry := simEntry{what: simFinished, channel: task.channel, stream: task.id}
		e.sim.say(e.wire, e.ownEntry(task, entry), "STREAM-CLOSED", "Stream-Channel", task.channel, "Stream-ID", task.id)
	}
}

func (e *simEncoder) dieAtTimes(r *rand.Rand) {
	for e.sim.pause(r, e.sim.busy) {
		if r.IntN(60) == 0 {
			e.sim.step()
			e.sim.cut(e.connection(), r)
		}
	}
}

// simApplication notes the events that arrive. As long as it is not well it refuses, resets and delays some.
type simApplication struct {
	server   *httptest.Server
	history  *simHistory
	well     atomic.Bool
	verifies bool   // even if it is not well
	answered func() // after a 200 has left; may be nil

	mu       sync.Mutex
	rand     *rand.Rand     // guarded by mu
	failures map[string]int // guarded by mu: of an event
}

func (s *simulation) newApplication() *simApplication {
	a := &simApplication{history: s.history, rand: s.rand(), failures: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /verify", func(w http.ResponseWriter, r *http.Request) { a.misbehave(w, r, "") })
	mux.HandleFunc("POST /event", a.event)
	a.server = httptest.NewServer(mux)
	s.t.Cleanup(a.server.Close)
	return a
}

func (a *simApplication) event(w http.ResponseWriter, r *http.Request) {
	h := r.Header
	id := h.Get("x-event-id")
	seq, _ := strconv.Atoi(id[strings.LastIndex(id, "-")+1:])
	a.history.note(simEntry{what: simArrived, channel: h.Get("x-streaming-channel"), stream: h.Get("x-streaming-id"), previous: h.Get("x-previous-streaming-id"),
		kind: h.Get("x-stream-type"), index: h.Get("x-index-file"), event: id, seq: seq, closed: h.Get("x-event-type") == "stream-closed", content: contentOf(h)})
	if a.misbehave(w, r, id) {
		return
	}
	if a.answered != nil {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		a.answered()
	}
}

// contentOf is all that an event says.
func contentOf(h http.Header) string {
	var lines []string
	for name, values := range h {
		if strings.HasPrefix(name, "X-") {
			lines = append(lines, fmt.Sprint(name, values))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// misbehave fails an event twice at most, so that no retry has to wait for long.
func (a *simApplication) misbehave(w http.ResponseWriter, r *http.Request, event string) bool {
	fault, delay := a.chooseFault(event)
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
	}
	switch fault {
	case "refuse":
		w.WriteHeader(http.StatusInternalServerError)
	case "reset":
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
	}
	return fault != ""
}

func (a *simApplication) chooseFault(event string) (fault string, delay time.Duration) {
	if a.well.Load() || a.verifies && event == "" {
		return "", 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.rand.IntN(100)
	switch {
	case n < 5 && a.failures[event] < 2:
		fault = "refuse"
	case n < 8 && a.failures[event] < 2:
		fault = "reset"
	case n < 20:
		delay = time.Duration(a.rand.IntN(20)) * time.Millisecond
	}
	if fault != "" && event != "" {
		a.failures[event]++
	}
	return fault, delay
}
