package main

// A small cluster that dies at each step: the coordinator, a gateway, or both, at each message of a link. All of it is real but
// the network, which is pipes, and the clock.

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/logs"
	"coordinator/internal/wire"
)

const (
	crashSecret = "a key of gateways, as long as needed"
	crashAfter  = 60 * time.Second // a step that takes longer hangs
)

// mortal is a cluster whose processes can die.
type mortal struct {
	t    *testing.T
	app  clustertest.Pipes
	rnd  *rand.Rand
	dead chan *mortalCoordinator
	over chan struct{}
	work sync.WaitGroup

	// passing is held while a message of a link passes, so that nothing passes while something dies.
	passing sync.Mutex
	passed  int
	deaths  map[int]func(*mortal) // by message
	stalled bool                  // nothing passes
	onKey   func()                // when the application is asked about a key; nil: nothing

	away time.Duration // from a coordinator's death to the next one's start

	saying sync.Mutex
	said   []string // guarded by saying: what happened

	mu sync.Mutex
	// guarded by mu
	coordinator *mortalCoordinator // nil: none
	gateways    map[string]*mortalGateway
	peers       []*mortalPeer
	events      map[string]string   // content by ID
	told        map[string][]string // by stream
	announced   map[string][]string // by stream: what its encoder has said
	closedByApp map[string]bool     // channels with a close command
	gatewayDied bool
	mayDeny     bool // gateways may, while no answer comes
	sessions    map[string]int
	restarts    int // under way
	faults      []string
}

type mortalCoordinator struct {
	*daemon
	dir   string
	pipes clustertest.Pipes
	conns []net.Conn // guarded by mortal.mu
	gone  bool       // guarded by mortal.mu
}

type mortalGateway struct {
	*gatewayDaemon
	pipes clustertest.Pipes
	links []net.Conn // guarded by mortal.mu
	gone  bool       // guarded by mortal.mu
}

func (m *mortal) say(format string, args ...any) {
	m.saying.Lock()
	defer m.saying.Unlock()
	m.said = append(m.said, fmt.Sprintf("%s  ", time.Now().Format("05.000"))+fmt.Sprintf(format, args...))
}

func (m *mortal) faultLocked(format string, args ...any) {
	m.say("FAULT: "+format, args...)
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

// newMortal starts a coordinator and gateways g1 and g2.
func newMortal(t *testing.T, seed uint64) *mortal {
	m := &mortal{
		t: t, app: clustertest.NewPipes(), rnd: rand.New(rand.NewPCG(seed, 3)), dead: make(chan *mortalCoordinator, 10), away: 500 * time.Millisecond, over: make(chan struct{}),
		gateways: map[string]*mortalGateway{}, events: map[string]string{}, told: map[string][]string{}, announced: map[string][]string{}, closedByApp: map[string]bool{}, sessions: map[string]int{"g1": 2, "g2": 2},
	}
	app := &clustertest.HTTPServer{Handler: http.HandlerFunc(m.serveApplication)}
	app.Serve(m.app)
	t.Cleanup(app.Close)
	m.startCoordinator(t.TempDir())
	m.startGateway("g1")
	m.startGateway("g2")
	m.work.Go(m.bury)
	return m
}

func (m *mortal) serveApplication(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("x-event-id")
	if id == "" {
		m.passing.Lock()
		onKey := m.onKey
		m.passing.Unlock()
		if onKey != nil {
			onKey()
		}
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	stream := r.Header.Get("x-streaming-id")
	content := fmt.Sprint(stream, r.Header["X-Event-Type"], r.Header["X-Stream-Type"], r.Header["X-Resolution"], r.Header["X-Previous-Streaming-Id"])
	switch before, found := m.events[id]; {
	case found && before != content:
		m.faultLocked("event %s was %s and is %s", id, before, content)
	case !found:
		m.say("event %s: %s", id, content)
		m.events[id] = content
		what := r.Header.Get("x-stream-type") + " " + r.Header.Get("x-resolution")
		if r.Header.Get("x-event-type") == "stream-closed" {
			what = "closed"
		}
		m.told[stream] = append(m.told[stream], what)
	}
}

func (m *mortal) config(env map[string]string) *Config {
	cfg, err := loadConfig(func(name string) string { return env[name] })
	if err != nil {
		m.t.Fatal(err)
	}
	return cfg
}

// noted is a log that goes into what is said.
type noted struct {
	m   *mortal
	who string
}

func (n noted) Write(b []byte) (int, error) {
	n.m.say("    %s: %s", n.who, strings.TrimSpace(string(b)))
	return len(b), nil
}

func (m *mortal) startCoordinator(dir string) {
	cfg := m.config(map[string]string{
		"DATA_DIR": dir, "GATEWAY_SECRET": crashSecret, "PUBLISH_TAKEOVER": "YES", "KEY_VERIFICATION_URL": "http://application/verify", "EVENT_CALLBACK_URL": "http://application/event",
	})
	d, err := newDaemon(cfg, logs.New(noted{m, "coordinator"}, false, true))
	if err != nil {
		m.t.Error(err)
		return
	}
	c := &mortalCoordinator{daemon: d, dir: dir, pipes: clustertest.NewPipes()}
	dial := func(context.Context, string, string) (net.Conn, error) {
		conn, err := m.app.Connect()
		m.mu.Lock()
		defer m.mu.Unlock()
		if err != nil || c.gone {
			return nil, syscall.ECONNREFUSED
		}
		c.conns = append(c.conns, conn)
		return conn, nil
	}
	d.verifier.client.Transport.DialContext = dial
	d.events.client.Transport.DialContext = dial
	d.serve(c.pipes, nil)
	d.start()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.coordinator = c
}

func (m *mortal) startGateway(name string) {
	cfg := m.config(map[string]string{"COORDINATOR_URL": "http://coordinator", "GATEWAY_SECRET": crashSecret})
	g := &mortalGateway{gatewayDaemon: newGatewayDaemon(cfg, logs.New(noted{m, name}, false, true)), pipes: clustertest.NewPipes()}
	g.gateway.Dial = func(context.Context, string, string) (net.Conn, error) { return m.link(g) }
	g.serve(g.pipes, nil)
	g.start()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gateways[name] = g
}

// link connects a gateway with the coordinator.
func (m *mortal) link(g *mortalGateway) (net.Conn, error) {
	m.mu.Lock()
	c := m.coordinator
	refused := c == nil || g.gone
	m.mu.Unlock()
	if refused {
		return nil, syscall.ECONNREFUSED
	}
	far, err := c.pipes.Connect()
	if err != nil {
		return nil, err
	}
	near, mine := net.Pipe()
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.gone || g.gone {
		far.Close()
		return nil, syscall.ECONNREFUSED
	}
	c.conns, g.links = append(c.conns, far, mine), append(g.links, far, mine)
	m.work.Go(func() { m.pass(mine, far) })
	m.work.Go(func() { m.pass(far, mine) })
	return near, nil
}

// pass passes on what is written, some milliseconds later. Messages of a link are shorter than the buffer here, and each is
// written at once.
func (m *mortal) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		m.mu.Lock()
		delay := time.Duration(m.rnd.IntN(20)) * time.Millisecond
		m.mu.Unlock()
		<-time.After(delay)
		m.messagePasses()
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// messagePasses kills who is to die now. What was to pass over a link that this has closed is lost.
func (m *mortal) messagePasses() {
	m.passing.Lock()
	defer m.passing.Unlock()
	m.passed++
	if die := m.deaths[m.passed]; die != nil {
		die(m)
	}
	for m.stalled {
		m.passing.Unlock()
		<-time.After(10 * time.Millisecond)
		m.passing.Lock()
	}
}

func (m *mortal) stall(stalled bool) {
	m.passing.Lock()
	defer m.passing.Unlock()
	m.stalled = stalled
	m.say("links stall: %v", stalled)
}

// stopCoordinator stops it as SIGTERM does, and starts another one on its files.
func (m *mortal) stopCoordinator() {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.coordinator
	if c == nil {
		return
	}
	m.say("the coordinator is stopped")
	m.coordinator = nil
	m.restarts++
	m.work.Go(func() {
		if err := c.stop(time.Second); err != nil {
			m.t.Error(err)
		}
		m.startCoordinator(c.dir)
		m.restarted()
	})
}

// killCoordinator has it say and do nothing more from now on. Another one starts later, with the files as they are.
func (m *mortal) killCoordinator() {
	m.mu.Lock()
	c := m.coordinator
	m.coordinator = nil
	if c != nil {
		c.gone = true
		m.restarts++
	}
	m.say("the coordinator dies")
	m.mu.Unlock()
	if c == nil {
		return
	}
	for _, conn := range m.connsOf(&c.conns) {
		conn.Close()
	}
	c.pipes.Close()
	next := m.t.TempDir()
	m.copyFiles(c.dir, next)
	c.dir = next
	m.dead <- c
}

func (m *mortal) connsOf(conns *[]net.Conn) []net.Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(*conns)
}

// copyFiles copies until what it has read twice is the same: a commit may be under way.
func (m *mortal) copyFiles(from, to string) {
	for range 1000 {
		data, err := os.ReadFile(filepath.Join(from, "outbox.db"))
		again, err2 := os.ReadFile(filepath.Join(from, "outbox.db"))
		if err != nil || err2 != nil {
			m.t.Error(err, err2)
			return
		}
		if bytes.Equal(data, again) {
			if err := os.WriteFile(filepath.Join(to, "outbox.db"), data, 0o600); err != nil {
				m.t.Error(err)
			}
			return
		}
	}
	m.t.Error("the file never comes to rest")
}

// bury ends what is left of coordinators that have died, and starts the next one.
func (m *mortal) bury() {
	for {
		select {
		case c := <-m.dead:
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				c.stop(0)
			}()
			<-time.After(m.away)
			m.startCoordinator(c.dir)
			m.restarted()
			<-stopped
		case <-m.over:
			return
		}
	}
}

// killGateway has it vanish with all its sockets. Another one takes its place at once.
func (m *mortal) killGateway(name string) {
	m.mu.Lock()
	g := m.gateways[name]
	g.gone, m.gatewayDied = true, true
	m.restarts++
	m.say("gateway %s dies", name)
	m.mu.Unlock()
	for _, conn := range m.connsOf(&g.links) {
		conn.Close()
	}
	g.pipes.Close()
	m.work.Go(func() { g.stop(0) })
	m.work.Go(func() {
		m.startGateway(name)
		m.restarted()
	})
}

func (m *mortal) restarted() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.restarts--
}

// end stops all, and says what was wrong.
func (m *mortal) end() {
	m.passing.Lock()
	m.deaths, m.stalled = nil, false
	m.passing.Unlock()
	m.await("processes are there", func() bool { return m.restarts == 0 })
	m.mu.Lock()
	for _, p := range m.peers {
		p.leaving = true
	}
	peers := slices.Clone(m.peers)
	m.mu.Unlock()
	for _, p := range peers {
		p.cut()
	}
	for _, g := range m.gateways {
		if !g.gone {
			g.stop(0)
		}
	}
	close(m.over)
	if c := m.coordinator; c != nil {
		c.stop(0)
	}
	m.work.Wait()
	if len(m.faults) > 0 {
		m.t.Errorf("%s\n%s", strings.Join(m.faults, "\n"), strings.Join(m.said, "\n"))
	}
}

// await waits until something holds, which is asked under mu.
func (m *mortal) await(what string, holds func() bool) bool {
	for until := time.Now().Add(crashAfter); time.Now().Before(until); <-time.After(20 * time.Millisecond) {
		m.mu.Lock()
		ok := holds()
		m.mu.Unlock()
		if ok {
			return true
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faultLocked("%s does not happen within %v", what, crashAfter)
	return false
}

// mortalPeer is a streaming server or an encoder at a gateway. It connects again if that dies.
type mortalPeer struct {
	m       *mortal
	name    string
	gateway string
	encoder bool

	// guarded by mortal.mu
	conn    *clustertest.Connection
	out     chan []string // method and arguments that the peer says, in order
	leaving bool
	live    map[string]string // channel, publisher ID
	asked   map[string]time.Time
	denied  map[string]bool
	tasks   map[string]*mortalTask
	killed  map[string]bool // channels
	isDeaf  bool            // to STREAM-KILL
}

type mortalTask struct {
	channel  string
	stopped  bool
	isPlayed bool
}

func (m *mortal) newPeer(name, gateway string, encoder bool) *mortalPeer {
	p := &mortalPeer{m: m, name: name, gateway: gateway, encoder: encoder, killed: map[string]bool{}}
	m.mu.Lock()
	m.peers = append(m.peers, p)
	m.mu.Unlock()
	m.work.Go(p.run)
	m.await(name+" connects", func() bool { return p.conn != nil })
	return p
}

func (p *mortalPeer) cut() {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.conn != nil {
		p.conn.Cut()
	}
}

func (p *mortalPeer) run() {
	for {
		p.m.mu.Lock()
		g, leaving := p.m.gateways[p.gateway], p.leaving
		p.m.mu.Unlock()
		if leaving {
			return
		}
		endpoint := "rtmp"
		if p.encoder {
			endpoint = "hls"
		}
		if ws, err := openControl(g.pipes.Connect, endpoint, 1000+len(p.name)+int(p.name[1])); err == nil {
			p.connected(&clustertest.Connection{Conn: ws})
			p.m.mu.Lock()
			if !p.leaving && !g.gone {
				p.m.faultLocked("the socket of %s was closed", p.name)
			}
			p.m.mu.Unlock()
		}
		<-time.After(time.Second)
	}
}

func (p *mortalPeer) connected(c *clustertest.Connection) {
	p.m.mu.Lock()
	out := make(chan []string, 1000)
	p.conn, p.out, p.live, p.asked, p.denied, p.tasks = c, out, map[string]string{}, map[string]time.Time{}, map[string]bool{}, map[string]*mortalTask{}
	p.m.mu.Unlock()
	if p.encoder {
		out <- []string{"REGISTER", "Capacity", "4"}
	}
	over := make(chan struct{})
	defer close(over)
	p.m.work.Go(func() {
		heartbeat := time.NewTicker(20 * time.Second)
		defer heartbeat.Stop()
		for {
			select {
			case <-heartbeat.C:
				c.Say("HEARTBEAT")
			case words := <-out:
				c.Say(words[0], words[1:]...)
			case <-over:
				return
			}
		}
	})
	c.Each(func(data []byte) {
		if message := wire.ParseStrict(data); message.Method != "HEARTBEAT" {
			p.hear(c, message)
		}
	})
}

// hear does what peers do. What takes them time runs beside it.
func (p *mortalPeer) hear(c *clustertest.Connection, message wire.Message) {
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	channel, id := message.Get("Stream-Channel"), message.Get("Stream-ID")
	m.say("%s hears %s %s %s", p.name, message.Method, channel, id)
	after := func(d time.Duration, f func()) {
		m.work.Go(func() {
			<-time.After(d)
			f()
		})
	}
	switch message.Method {
	case "PUBLISH-ACCEPT":
		if p.asked[channel].IsZero() {
			m.faultLocked("%s has not asked for %s, and it is accepted", p.name, channel)
		}
		if took := time.Since(p.asked[channel]); took > 20*time.Second {
			m.faultLocked("%s is accepted after %v", channel, took)
		}
		delete(p.asked, channel)
		p.live[channel] = id
	case "PUBLISH-DENY":
		p.denied[channel] = true
		delete(p.asked, channel)
		if !m.gatewayDied && !m.mayDeny {
			m.faultLocked("%s is denied", channel)
		}
	case "STREAM-KILL":
		if p.live[channel] != id || p.isDeaf {
			return
		}
		if !m.closedByApp[channel] && !m.gatewayDied {
			m.faultLocked("publisher %s of %s is killed", id, channel)
		}
		delete(p.live, channel)
		p.killed[channel] = true
		p.out <- []string{"PUBLISH-END", "Stream-Channel", channel, "Stream-ID", id}
	case "ENCODE-START":
		if p.tasks[id] != nil {
			m.faultLocked("%s is to encode %s twice", p.name, id)
			return
		}
		task := &mortalTask{channel: channel}
		p.tasks[id] = task
		after(30*time.Millisecond, func() { p.available(c, task, id, "HLS-LIVE", "640x360") })
		after(60*time.Millisecond, func() { p.available(c, task, id, "IMG-PREVIEW", "256x144") })
	case "ENCODE-STOP":
		task := p.tasks[id]
		if task == nil || task.stopped {
			return
		}
		task.stopped = true
		// The start of another one may be on its way over another link.
		after(time.Second, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.isNeededLocked(channel, id) {
				m.faultLocked("stream %s of %s is stopped, and its publisher is live", id, channel)
			}
		})
		after(40*time.Millisecond, func() { p.close(c, task, id) })
	}
}

// isNeededLocked tells whether the publisher of a channel is live and nobody else has its stream.
func (m *mortal) isNeededLocked(channel, id string) bool {
	live, others := false, false
	for _, p := range m.peers {
		live = live || p.live[channel] != "" && !p.isDeaf
		for other, task := range p.tasks {
			others = others || other != id && task.channel == channel && !task.stopped
		}
	}
	return live && !others && !m.gatewayDied
}

func (p *mortalPeer) available(c *clustertest.Connection, task *mortalTask, id, kind, resolution string) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.conn != c || p.tasks[id] != task || task.stopped && kind != "HLS-VOD" {
		return
	}
	p.out <- []string{"STREAM-AVAILABLE", "Stream-Channel", task.channel, "Stream-ID", id, "Stream-Type", kind, "Resolution", resolution, "Index-file", "index"}
	p.m.say("%s says %s is there as %s", p.name, id, kind)
	p.m.announced[id] = append(p.m.announced[id], kind+" "+resolution)
	task.isPlayed = true
}

func (p *mortalPeer) close(c *clustertest.Connection, task *mortalTask, id string) {
	if task.isPlayed {
		p.available(c, task, id, "HLS-VOD", "640x360")
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.conn == c && p.tasks[id] == task {
		delete(p.tasks, id)
		p.m.say("%s has closed %s", p.name, id)
		p.out <- []string{"STREAM-CLOSED", "Stream-Channel", task.channel, "Stream-ID", id}
	}
}

// publish has a publisher come to a channel, and again if it is denied or its server dies.
func (p *mortalPeer) publish(channel string) {
	p.m.await(channel+" goes live", func() bool {
		if p.live[channel] != "" || p.killed[channel] {
			return true
		}
		p.askLocked(channel)
		return false
	})
}

func (p *mortalPeer) ask(channel string) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.askLocked(channel)
}

func (p *mortalPeer) askLocked(channel string) {
	if p.asked[channel].IsZero() {
		p.asked[channel] = time.Now()
		p.out <- []string{"PUBLISH-REQUEST", "Request-ID", "r-" + channel, "Stream-Channel", channel, "Stream-Key", "key", "User-IP", "10.9.9.9"}
	}
}

func (p *mortalPeer) unpublish(channel string) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if id := p.live[channel]; id != "" {
		delete(p.live, channel)
		p.m.say("%s: the publisher of %s ends", p.name, channel)
		p.out <- []string{"PUBLISH-END", "Stream-Channel", channel, "Stream-ID", id}
	}
}

// played tells whether an encoder has announced all of a stream of a channel.
func (m *mortal) playedLocked(channel string) *mortalPeer {
	for _, p := range m.peers {
		for id, task := range p.tasks {
			if task.channel == channel && !task.stopped && len(m.announced[id]) == 2 {
				return p
			}
		}
	}
	return nil
}

// order gives a command to the coordinator that is there, again and again until it is done.
func (m *mortal) order(what string, do func(*coordinator) error) {
	for until := time.Now().Add(crashAfter); time.Now().Before(until); <-time.After(100 * time.Millisecond) {
		m.mu.Lock()
		c := m.coordinator
		m.mu.Unlock()
		if c == nil || !c.coordinator.awaitUp(context.Background(), commandPatience) {
			continue
		}
		err := do(c.coordinator)
		m.mu.Lock()
		gone := c.gone
		m.mu.Unlock()
		if err == nil && !gone {
			m.say("command done: %s", what)
			return
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faultLocked("command is never done: %s", what)
}

// begin has two streaming servers and two encoders come, one of each at each gateway.
func (m *mortal) begin() (s1, s2, e1, e2 *mortalPeer) {
	s1, s2 = m.newPeer("s1", "g1", false), m.newPeer("s2", "g2", false)
	e1, e2 = m.newPeer("e1", "g1", true), m.newPeer("e2", "g2", true)
	m.order("encoders are there", func(c *coordinator) error {
		if c.registry.capacity().EncoderCount < 2 {
			return errNotPassedOn
		}
		return nil
	})
	return s1, s2, e1, e2
}

// play is a story with each thing that can happen to a stream.
func (m *mortal) play() {
	s1, s2, e1, e2 := m.begin()
	s1.publish("a")
	s2.publish("b")
	s1.publish("c")
	played := func(channels ...string) {
		m.await(fmt.Sprint(channels, " can be played"), func() bool {
			return !slices.ContainsFunc(channels, func(c string) bool {
				return m.playedLocked(c) == nil && (s1.live[c] != "" || s2.live[c] != "")
			})
		})
	}
	played("a", "b", "c")
	var drained uint64
	m.order("drain the encoder of a", func(c *coordinator) error {
		if drained == 0 {
			drained = encoderOf(c.registry, "a")
		}
		return orUnknown(c.drain(drained, true))
	})
	m.await("a is moved", func() bool {
		c := m.coordinator
		return m.gatewayDied || c != nil && encoderOf(c.coordinator.registry, "a") != drained
	})
	m.order("undrain it", func(c *coordinator) error {
		return orUnknown(c.undrain(drained))
	})
	m.mu.Lock()
	m.closedByApp["b"] = true
	m.mu.Unlock()
	m.order("close b", func(c *coordinator) error { return c.killPublisher("b", "*", errByApplication) })
	m.await("b ends", func() bool { return s2.live["b"] == "" })
	s2.publish("d")
	played("a", "c", "d")
	for _, end := range []struct {
		p       *mortalPeer
		channel string
	}{{s1, "a"}, {s2, "d"}, {s1, "c"}} {
		end.p.unpublish(end.channel)
	}
	m.await("all tasks end", func() bool { return len(e1.tasks)+len(e2.tasks) == 0 })
	m.checkEnd()
}

// playTakeover has a publisher at one gateway take over the channel of one at the other.
func (m *mortal) playTakeover(isDeaf bool) {
	s1, s2, e1, e2 := m.begin()
	s1.publish("a")
	m.await("a can be played", func() bool { return m.playedLocked("a") != nil || s1.live["a"] == "" })
	m.mu.Lock()
	old := s1.live["a"]
	m.closedByApp["a"] = true // the first publisher may be killed
	s1.isDeaf = isDeaf
	m.mu.Unlock()
	s2.publish("a")
	if isDeaf {
		m.await("the first publisher is off the channel", func() bool {
			c := m.coordinator
			return m.gatewayDied || c != nil && c.coordinator.isUp() && c.coordinator.registry.publisherOf("a") != old
		})
	} else {
		m.await("the first publisher ends", func() bool { return s1.live["a"] == "" })
	}
	<-time.After(2 * takeoverPatience)
	m.mu.Lock()
	if !m.gatewayDied && (s2.live["a"] == "" || s2.killed["a"]) {
		m.faultLocked("the publisher who took over is not live")
	}
	m.mu.Unlock()
	m.await("the second publisher can be played", func() bool { return m.playedLocked("a") != nil || s2.live["a"] == "" })
	s2.unpublish("a")
	m.await("all tasks end", func() bool { return len(e1.tasks)+len(e2.tasks) == 0 })
	s1.unpublish("a")
	m.checkEnd()
}

// publisherOf is the publisher ID of a channel; "": nobody has it.
func (r *registry) publisherOf(channel string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.channels.Get(channel); p != nil {
		return p.publisherID
	}
	return ""
}

// orUnknown takes a session that is gone for none that anything has to be done to.
func orUnknown(err error) error {
	if err == errUnknownSession {
		return nil
	}
	return err
}

// encoderOf is the session that has a channel's stream; 0: none.
func encoderOf(r *registry, channel string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.channels.Get(channel)
	if p == nil {
		return 0
	}
	return p.reportLocked().Encoder
}

// checkEnd looks at what is left, and at what the application was told.
func (m *mortal) checkEnd() {
	quiet := func() bool {
		c := m.coordinator
		if c == nil || len(c.gateways.links.Gateways()) < 2 {
			return false
		}
		pending, _ := c.events.Pending()
		capacity := c.coordinator.registry.capacity()
		if pending > 0 || capacity.Load > 0 || capacity.EncoderCount != 2 {
			return false
		}
		for name, g := range m.gateways {
			if s := g.gateway.State(); !s.Linked || s.Kept > 0 || s.UnacknowledgedBytes > 0 || s.Sessions != m.sessions[name] {
				return false
			}
		}
		return true
	}
	if !m.await("all comes to rest", quiet) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for name, g := range m.gateways {
			m.say("%s: %+v", name, g.gateway.State())
		}
		if c := m.coordinator; c != nil {
			pending, _ := c.events.Pending()
			m.say("%d events, %+v", pending, wholeReport(c.coordinator.registry, time.Now()))
		}
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, stream := range slices.Sorted(maps.Keys(m.told)) {
		told := m.told[stream]
		if last := len(told) - 1; slices.Index(told, "closed") != last {
			m.faultLocked("stream %s: the application was told %v", stream, told)
		} else if want := m.announced[stream]; !slices.Equal(told[:last], want) && !m.gatewayDied {
			m.faultLocked("stream %s: the application was told %v, want %v", stream, told[:last], want)
		}
	}
	for stream, want := range m.announced {
		if len(want) > 0 && m.told[stream] == nil && !m.gatewayDied {
			m.faultLocked("stream %s: the application was told nothing", stream)
		}
	}
	r := m.coordinator.coordinator.registry
	m.faults = append(m.faults, invariantFaults(r)...)
	for name, g := range m.gateways {
		if s := g.gateway.State(); s.Memos > 2 { // of the encoder, and of one that was drained
			m.faultLocked("%s keeps %d memos", name, s.Memos)
		}
	}
}

// cutLink breaks the link of a gateway.
func (m *mortal) cutLink(name string) {
	m.say("the link of %s breaks", name)
	for _, conn := range m.connsOf(&m.gateways[name].links) {
		conn.Close()
	}
}

// runMortal plays a story with deaths at messages of links, and returns how many messages there were.
func runMortal(t *testing.T, story func(*mortal), seed uint64, deaths map[int]func(*mortal)) (messages int) {
	synctest.Test(t, func(t *testing.T) {
		m := newMortal(t, seed)
		m.passing.Lock()
		m.deaths = deaths
		m.passing.Unlock()
		story(m)
		m.passing.Lock()
		messages = m.passed
		m.passing.Unlock()
		m.end()
	})
	return messages
}

func TestClusterSurvivesDeathsAtEachMessageOfItsLinks(t *testing.T) {
	t.Parallel()
	survivesDeaths(t, (*mortal).play, 7)
}

func TestTakeoverSurvivesDeathsAtEachMessageOfItsLinks(t *testing.T) {
	t.Parallel()
	for _, isDeaf := range []bool{false, true} {
		t.Run(fmt.Sprint("the old publisher does not end ", isDeaf), func(t *testing.T) {
			t.Parallel()
			survivesDeaths(t, func(m *mortal) { m.playTakeover(isDeaf) }, 23)
		})
	}
}

// survivesDeaths plays a story with a death at every so many messages. CRASHES=all takes each message, several times.
func survivesDeaths(t *testing.T, story func(*mortal), every int) {
	rounds := 1
	if os.Getenv("CRASHES") == "all" {
		every, rounds = 1, 3
	}
	kinds := []struct {
		name string
		die  func(*mortal)
		then func(*mortal) // soon after
	}{
		{"coordinator", (*mortal).killCoordinator, nil},
		{"coordinator twice", (*mortal).killCoordinator, (*mortal).killCoordinator},
		{"coordinator is stopped", (*mortal).stopCoordinator, nil},
		{"coordinator is stopped, then dies", (*mortal).stopCoordinator, (*mortal).killCoordinator},
		{"gateway", func(m *mortal) { m.killGateway("g2") }, nil},
		{"both", func(m *mortal) {
			m.killCoordinator()
			m.killGateway("g2")
		}, nil},
		{"coordinator, then gateway", (*mortal).killCoordinator, func(m *mortal) { m.killGateway("g2") }},
		{"link", func(m *mortal) { m.cutLink("g2") }, nil},
		{"link, then coordinator", func(m *mortal) { m.cutLink("g1") }, (*mortal).killCoordinator},
		{"both links", func(m *mortal) {
			m.cutLink("g1")
			m.cutLink("g2")
		}, nil},
	}
	messages := runMortal(t, story, 1, nil)
	for k, kind := range kinds {
		for at := 1 + k%every; at <= rounds*messages; at += every {
			seed := uint64(at)
			t.Run(fmt.Sprint(kind.name, " at ", at), func(t *testing.T) {
				deaths := map[int]func(*mortal){1 + at%messages: kind.die}
				if kind.then != nil {
					deaths[2+at%messages+rand.New(rand.NewPCG(seed, 4)).IntN(15)] = kind.then
				}
				runMortal(t, story, seed, deaths)
			})
		}
	}
}

// A gateway denies a request itself when the answer is late. The publication that was made live meanwhile ends without a kill.
func TestAcceptThatComesAfterTheGatewaysOwnDenialLeavesNoGhost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMortal(t, 1)
		s1, _, _, _ := m.begin()
		<-time.After(time.Second)
		m.mu.Lock()
		m.mayDeny = true
		m.mu.Unlock()
		m.passing.Lock()
		m.onKey = func() { m.stall(true) }
		m.passing.Unlock()
		s1.ask("late")
		m.await("it is accepted, and the answer is on its way", func() bool { return encoderOf(m.coordinator.coordinator.registry, "late") != 0 })
		m.await("the gateway denies it", func() bool { return s1.denied["late"] })
		m.passing.Lock()
		m.onKey = nil
		m.passing.Unlock()
		m.stall(false)
		m.await("the publication is gone", func() bool { return encoderOf(m.coordinator.coordinator.registry, "late") == 0 })
		m.mu.Lock()
		if s1.live["late"] != "" || s1.killed["late"] {
			m.faultLocked("the publisher was denied, and something else was said of it")
		}
		m.mu.Unlock()
		m.mayDeny = false
		s1.publish("late") // the publisher tries again
		s1.unpublish("late")
		m.checkEnd()
		m.end()
	})
}

// Ten minutes without a coordinator: what is live goes on, nobody new comes, and what happened meanwhile is told in its order.
func TestTenMinutesWithoutACoordinator(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMortal(t, 1)
		s1, s2, e1, _ := m.begin()
		for _, channel := range []string{"stays", "ends"} {
			s1.publish(channel)
		}
		s2.publish("leaves")
		m.await("all can be played", func() bool {
			return m.playedLocked("stays") != nil && m.playedLocked("ends") != nil && m.playedLocked("leaves") != nil
		})
		<-time.After(time.Second) // what encoders have said is done with
		m.away, m.mayDeny = 10*time.Minute, true
		m.passing.Lock()
		m.killCoordinator()
		m.passing.Unlock()
		<-time.After(time.Minute)
		began := time.Now()
		s1.ask("comes")
		m.await("it is denied", func() bool { return s1.denied["comes"] })
		if took := time.Since(began); took < 18*time.Second || took > 19*time.Second {
			t.Errorf("a publisher is denied after %v", took)
		}
		s1.unpublish("ends")
		m.mu.Lock()
		s2.leaving, s2.live = true, map[string]string{}
		m.mu.Unlock()
		s2.cut()
		<-time.After(4 * time.Minute)
		kept := 0
		for _, g := range m.gateways {
			kept += g.gateway.State().KeptBytes
		}
		if kept > 1000 {
			t.Errorf("%d bytes of messages are kept", kept)
		}
		m.await("the coordinator is there again", func() bool { return m.coordinator == nil })
		<-time.After(6 * time.Minute)
		m.mu.Lock()
		m.mayDeny = false
		m.mu.Unlock()
		m.await("what has ended is told", func() bool { return len(e1.tasks) <= 1 && m.runningLocked() == 1 })
		m.mu.Lock()
		if s1.live["stays"] == "" || s1.killed["stays"] {
			m.faultLocked("a live publisher has ended")
		}
		m.mu.Unlock()
		s1.publish("comes")
		s1.unpublish("comes")
		s1.unpublish("stays")
		m.await("all tasks end", func() bool { return m.runningLocked() == 0 })
		m.sessions["g2"] = 1
		m.checkEnd()
		m.end()
	})
}

func (m *mortal) runningLocked() (running int) {
	for _, p := range m.peers {
		running += len(p.tasks)
	}
	return running
}
