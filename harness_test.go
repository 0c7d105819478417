package main

// The daemon in-process on port 0, with peers over real WebSockets and an application over real HTTP.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
)

// patience is how long a test waits for what must happen. It is long because machines are slow at times; what is
// waited for comes in milliseconds.
const patience = 20 * time.Second

// logBuffer is the stderr of a daemon.
type logBuffer struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed at the next write
}

func newLogBuffer() *logBuffer { return &logBuffer{changed: make(chan struct{})} }

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	return l.text.Write(p)
}

// forget empties the log.
func (l *logBuffer) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = bytes.Buffer{}
}

func (l *logBuffer) snapshot() (string, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String(), l.changed
}

func (l *logBuffer) String() string {
	text, _ := l.snapshot()
	return text
}

func (l *logBuffer) count(part string) int { return strings.Count(l.String(), part) }

// await returns the first line that holds all parts.
func (l *logBuffer) await(t testing.TB, parts ...string) string {
	t.Helper()
	timeout := time.After(patience)
	for {
		text, changed := l.snapshot()
		for line := range strings.Lines(text) {
			if holdsAll(line, parts) {
				return line
			}
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no log line with %q in:\n%s", parts, text)
		}
	}
}

// awaitLines waits until at least n lines hold the part.
func (l *logBuffer) awaitLines(t testing.TB, n int, part string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		text, changed := l.snapshot()
		if strings.Count(text, part) >= n {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("fewer than %d lines with %q in:\n%s", n, part, text)
		}
	}
}

func holdsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// attribute cuts the value of name=value out of a log line.
func attribute(line, name string) string {
	_, rest, _ := strings.Cut(line, " "+name+"=")
	value, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return strings.Trim(value, `"`)
}

type testDaemon struct {
	t    testing.TB
	addr string // host:port of plain HTTP
	logs *logBuffer
	stop func() error // as SIGTERM does; later calls return what the first did
}

// startDaemon runs the daemon with variables given as NAME=value, over defaults that suit a test.
func startDaemon(t testing.TB, variables ...string) *testDaemon {
	t.Helper()
	env := map[string]string{"HTTP_PORT": "0", "BIND_ADDRESS": "127.0.0.1", "DATA_DIR": t.TempDir(), "LOG_DEBUG": "YES"}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &testDaemon{t: t, logs: newLogBuffer()}
	ended := make(chan struct{})
	var result error
	stderr := newLogWriter(d.logs, env["LOG_FORMAT"] == "json")
	go func() {
		defer close(ended)
		defer stderr.close()
		if result = run(ctx, func(name string) string { return env[name] }, stderr, nil); result != nil {
			fmt.Fprintln(stderr, "run failed:", result)
		}
	}()
	d.stop = func() error {
		cancel()
		<-ended
		return result
	}
	t.Cleanup(func() { d.stop() })
	if env["LOG_FORMAT"] == "json" {
		var record struct{ Addr string }
		if err := json.Unmarshal([]byte(d.logs.await(t, `"msg":"listening"`, `"scheme":"http"`)), &record); err != nil {
			t.Fatal(err)
		}
		d.addr = record.Addr
	} else {
		d.addr = attribute(d.logs.await(t, "msg=listening", "scheme=http "), "addr")
	}
	return d
}

// call makes a request of the commands API and returns status and body. header is name, value, name, value ...
func (d *testDaemon) call(method, path string, header ...string) (int, string) {
	d.t.Helper()
	res, body := d.request(method, path, header...)
	return res.StatusCode, body
}

func (d *testDaemon) request(method, path string, header ...string) (*http.Response, string) {
	d.t.Helper()
	req, err := http.NewRequest(method, "http://"+d.addr+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	req.Close = true
	client := http.Client{
		Timeout:       patience,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return res, string(body)
}

func (d *testDaemon) report() clusterReport {
	d.t.Helper()
	status, body := d.call("GET", "/commands/report")
	var report clusterReport
	if err := json.Unmarshal([]byte(body), &report); err != nil || status != 200 {
		d.t.Fatalf("report: %d %s %v", status, body, err)
	}
	return report
}

// awaitReport polls the report until it is as wanted.
func (d *testDaemon) awaitReport(what string, wanted func(clusterReport) bool) clusterReport {
	d.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		report := d.report()
		if wanted(report) {
			return report
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("report never showed %s: %+v", what, report)
		}
	}
}

// awaitLoad waits until so many slots are taken.
func (d *testDaemon) awaitLoad(load int) {
	d.t.Helper()
	d.awaitReport(fmt.Sprintf("load %d", load), func(r clusterReport) bool {
		sum := 0
		for _, e := range r.Encoders {
			sum += e.Load
		}
		return sum == load
	})
}

// awaitServers waits until so many streaming servers are connected.
func (d *testDaemon) awaitServers(n int) clusterReport {
	d.t.Helper()
	return d.awaitReport(fmt.Sprintf("%d streaming servers", n), func(r clusterReport) bool { return len(r.StreamingServers) == n })
}

// awaitLive waits until the live streams are as given, channel by channel.
func (d *testDaemon) awaitLive(want map[string]string) {
	d.t.Helper()
	d.awaitReport(fmt.Sprintf("live streams %v", want), func(r clusterReport) bool { return maps.Equal(want, r.live()) })
}

// live maps channels to their stream IDs.
func (r clusterReport) live() map[string]string {
	live := map[string]string{}
	for _, s := range r.ActiveStreams {
		live[s.Channel] = s.StreamID
	}
	return live
}

// testPeer is a streaming server or an encoder.
type testPeer struct {
	t    testing.TB
	conn *websocket.Conn
	in   chan wire.Message // all but heartbeats; closed when the connection is gone
	gone error             // why; readable once in is closed

	writing    sync.Mutex
	heartbeats atomic.Int64
}

// dialPeer connects to a control endpoint: rtmp, wss or hls. header is name, value, name, value ...
func (d *testDaemon) dialPeer(endpoint string, header ...string) *testPeer {
	d.t.Helper()
	p, res, err := dialControl(d.t, "ws://"+d.addr+"/ws/control/"+endpoint, nil, header...)
	if err != nil {
		d.t.Fatalf("dial %s: %v (%v)", endpoint, err, res)
	}
	return p
}

func dialControl(t testing.TB, url string, dialer *websocket.Dialer, header ...string) (*testPeer, *http.Response, error) {
	if dialer == nil {
		dialer = &websocket.Dialer{HandshakeTimeout: patience}
	}
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	conn, res, err := dialer.Dial(url, h)
	if err != nil {
		return nil, res, err
	}
	p := &testPeer{t: t, conn: conn, in: make(chan wire.Message, 1024)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.read()
	}()
	t.Cleanup(func() {
		conn.Close()
		for range p.in { // a reader that waits for room
		}
		<-ended
	})
	return p, res, nil
}

func (p *testPeer) read() {
	defer close(p.in)
	for {
		_, data, err := p.conn.ReadMessage()
		if err != nil {
			p.gone = err
			return
		}
		m := wire.ParseStrict(data)
		if m.Method == "HEARTBEAT" {
			p.heartbeats.Add(1)
		} else {
			p.in <- m
		}
	}
}

// send writes a message as today's peers do. args is name, value, name, value ...
func (p *testPeer) send(method string, args ...string) {
	p.t.Helper()
	var b strings.Builder
	b.WriteString(method + "\n")
	for i := 0; i < len(args); i += 2 {
		b.WriteString(args[i] + ":" + args[i+1] + "\n")
	}
	if err := p.sendRaw(websocket.TextMessage, b.String()); err != nil {
		p.t.Fatalf("send %s: %v", method, err)
	}
}

func (p *testPeer) sendRaw(kind int, data string) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	return p.conn.WriteMessage(kind, []byte(data))
}

// expect takes the next message, which must have the method and the arguments (name, value ...).
func (p *testPeer) expect(method string, args ...string) wire.Message {
	p.t.Helper()
	select {
	case m, open := <-p.in:
		if !open {
			p.t.Fatalf("connection gone while waiting for %s: %v", method, p.gone)
		}
		if m.Method != method {
			p.t.Fatalf("got %s %v, want %s", m.Method, m.Args, method)
		}
		for i := 0; i < len(args); i += 2 {
			if got := m.Get(args[i]); got != args[i+1] {
				p.t.Fatalf("%s: %s is %q, want %q", method, args[i], got, args[i+1])
			}
		}
		return m
	case <-time.After(patience):
		p.t.Fatalf("no %s", method)
	}
	panic("not reached")
}

// awaitGone waits for the end of the connection and returns why it ended.
func (p *testPeer) awaitGone() error {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case _, open := <-p.in:
			if !open {
				return p.gone
			}
		case <-timeout:
			p.t.Fatal("connection is not closed")
		}
	}
}

// quiet proves that nothing was said to a streaming server up to now: its own denial is the next it hears.
func (p *testPeer) quiet() {
	p.t.Helper()
	p.request("quiet?", "!")
	p.expectDenied("quiet?")
}

// register connects an encoder and waits until it is in the report.
func (d *testDaemon) register(capacity int) (*testPeer, uint64) {
	d.t.Helper()
	known := map[uint64]bool{}
	for _, e := range d.report().Encoders {
		known[e.ID] = true
	}
	p := d.dialPeer("hls")
	p.send("REGISTER", "Capacity", fmt.Sprint(capacity))
	var id uint64
	d.awaitReport("the new encoder", func(r clusterReport) bool {
		for _, e := range r.Encoders {
			if !known[e.ID] {
				id = e.ID
			}
		}
		return id != 0
	})
	return p, id
}

// request asks to publish; the request's ID is "r-" and the channel.
func (p *testPeer) request(channel, key string) {
	p.t.Helper()
	p.send("PUBLISH-REQUEST", "Request-ID", "r-"+channel, "Stream-Channel", channel, "Stream-Key", key, "User-IP", "10.0.0.1")
}

// expectDenied takes the denial of what request asked.
func (p *testPeer) expectDenied(channel string) {
	p.t.Helper()
	p.expect("PUBLISH-DENY", "Request-ID", "r-"+channel, "Stream-Channel", channel)
}

// end is the publisher's end of a stream.
func (p *testPeer) end(channel, id string) {
	p.t.Helper()
	p.send("PUBLISH-END", "Stream-Channel", channel, "Stream-ID", id)
}

// publish makes a channel live and returns its stream ID; the encoder has taken its ENCODE-START.
func publish(server, encoder *testPeer, channel string) string {
	server.t.Helper()
	server.request(channel, "key")
	id := server.expect("PUBLISH-ACCEPT", "Request-ID", "r-"+channel, "Stream-Channel", channel).Get("Stream-ID")
	encoder.expect("ENCODE-START", "Stream-Channel", channel, "Stream-ID", id)
	return id
}

func (p *testPeer) available(channel, id, kind, resolution, index string) {
	p.t.Helper()
	p.send("STREAM-AVAILABLE", "Stream-Channel", channel, "Stream-ID", id, "Stream-Type", kind, "Resolution", resolution, "Index-file", index)
}

func (p *testPeer) closed(channel, id string) {
	p.t.Helper()
	p.send("STREAM-CLOSED", "Stream-Channel", channel, "Stream-ID", id)
}

// application is the application's two endpoints. It accepts everything unless told otherwise.
type application struct {
	t      testing.TB
	server *httptest.Server

	mu sync.Mutex
	// guarded by mu
	onKey   http.HandlerFunc
	onEvent http.HandlerFunc
	keys    []http.Header
	events  []http.Header // those answered with 200, in the order of their arrival
	changed chan struct{}
}

func newApplication(t testing.TB) *application {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newApplicationOn(t, l)
}

func newApplicationOn(t testing.TB, l net.Listener) *application {
	a := &application{t: t, changed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /verify", a.serveKey)
	mux.HandleFunc("POST /event", a.serveEvent)
	a.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}}
	a.server.Start()
	t.Cleanup(a.server.Close)
	return a
}

// variables are the environment variables that point a daemon to the application.
func (a *application) variables(more ...string) []string {
	return append([]string{"KEY_VERIFICATION_URL=" + a.server.URL + "/verify", "EVENT_CALLBACK_URL=" + a.server.URL + "/event"}, more...)
}

func (a *application) answerKeys(h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onKey = h
}

// holdKeysOf makes the answer about a channel wait for release. Other channels are answered at once.
func (a *application) holdKeysOf(channel string) (release func()) {
	released := make(chan struct{})
	a.answerKeys(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-streaming-channel") != channel {
			return
		}
		select {
		case <-released:
		case <-r.Context().Done():
		}
	})
	return sync.OnceFunc(func() { close(released) })
}

func (a *application) answerEvents(h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onEvent = h
}

func (a *application) keyHandler() http.HandlerFunc {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.onKey
}

func (a *application) eventHandler() http.HandlerFunc {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.onEvent
}

func (a *application) serveKey(w http.ResponseWriter, r *http.Request) {
	a.record(func() { a.keys = append(a.keys, r.Header.Clone()) })
	if h := a.keyHandler(); h != nil {
		h(w, r)
	}
}

func (a *application) serveEvent(w http.ResponseWriter, r *http.Request) {
	if h := a.eventHandler(); h != nil {
		rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		if h(rec, r); rec.status != http.StatusOK {
			return
		}
	}
	a.record(func() { a.events = append(a.events, r.Header.Clone()) })
}

func (a *application) record(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *application) snapshot() (keys, events []http.Header, changed chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.keys, a.events, a.changed
}

// awaitEvents waits until at least n events have arrived and returns them.
func (a *application) awaitEvents(n int) []http.Header {
	a.t.Helper()
	timeout := time.After(patience)
	for {
		_, events, changed := a.snapshot()
		if len(events) >= n {
			return events
		}
		select {
		case <-changed:
		case <-timeout:
			a.t.Fatalf("%d events, want %d: %v", len(events), n, events)
		}
	}
}

// awaitKeys waits until at least n key verifications have arrived.
func (a *application) awaitKeys(n int) []http.Header {
	a.t.Helper()
	timeout := time.After(patience)
	for {
		keys, _, changed := a.snapshot()
		if len(keys) >= n {
			return keys
		}
		select {
		case <-changed:
		case <-timeout:
			a.t.Fatalf("%d key verifications, want %d", len(keys), n)
		}
	}
}

// describe is an event in short: type channel stream, then what is available.
func describe(h http.Header) string {
	s := h.Get("x-event-type") + " " + h.Get("x-streaming-channel") + " " + h.Get("x-streaming-id")
	if kind := h.Get("x-stream-type"); kind != "" {
		s += " " + kind + " " + h.Get("x-resolution") + " " + h.Get("x-index-file")
	}
	return s
}

func describeAll(events []http.Header) (list []string) {
	for _, h := range events {
		list = append(list, describe(h))
	}
	return list
}
