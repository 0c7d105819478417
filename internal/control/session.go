package control

// One control connection. Its reader owns it: it takes in messages one after the other and, when it ends, closes the
// socket and leaves nothing behind. What is said to the peer goes through a bounded queue, which a writer empties
// while there is something in it, so that an idle peer costs one goroutine. A peer that is silent for SilenceLimit,
// or whose socket does not take a message within SendLimit of its being queued, is disconnected.

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"coordinator/internal/door"
	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
)

const (
	HeartbeatEvery = 20 * time.Second
	SilenceLimit   = 60 * time.Second
	SendLimit      = 9 * time.Second // so that a peer that does not read is gone within 10 s
	goodbyeLimit   = 2 * time.Second

	MaxMessageBytes = 64 << 10
	MaxQueuedBytes  = 4 << 20 // room for a STREAM-KILL to each of 40,000 publishers of one server
)

var errBinary = errors.New("message is binary")

// messageError says why a message can't be read.
type messageError struct{ error }

// Why a connection ended.
var (
	errPeerClosed = errors.New("closed by the peer")
	errPeerLost   = errors.New("connection lost")
	errPeerSilent = errors.New("silent for 60 s")
	errPeerSlow   = errors.New("the peer does not read what is sent to it")
	errPeerDead   = errors.New("no answer to a ping for 5 s after a newer connection from the same address")
	errQueueFull  = errors.New("the peer reads too slowly: 4 MiB wait for it")
	errTooBig     = errors.New("message of more than 64 KiB")
	errStopping   = errors.New("this coordinator or gateway is stopping")
)

// Session is one control connection. Its methods may be called from any goroutine, never wait, and do nothing once it has
// ended.
type Session struct {
	// set once
	conn    *websocket.Conn
	heard   *heardConn // beneath conn
	metrics Metrics
	buffers *sync.Pool // of *bytes.Buffer, shared by all sessions
	log     *slog.Logger

	writer  sync.WaitGroup // the writer, while there is one
	probing atomic.Bool    // probed is not nil

	mu sync.Mutex
	// guarded by mu
	ended     error // why; nothing is queued any more
	writing   bool
	queue     []outgoing
	queued    int // bytes
	oldest    time.Time
	taken     time.Time // when the writer took what it writes now
	heartbeat *time.Timer
	probed    *pendingProbe
	paused    chan struct{} // nil: reading is not paused; closed when it goes on, or the session ends
}

// outgoing is what is queued for a peer: a text message, a ping or a close frame, as the WebSocket library counts kinds.
type outgoing struct {
	kind    int
	payload []byte
}

// newSession starts the heartbeat: every session has to be run, or ended.
func newSession(conn *websocket.Conn, heard *heardConn, m Metrics, buffers *sync.Pool, log *slog.Logger) *Session {
	conn.SetReadLimit(MaxMessageBytes)
	s := &Session{conn: conn, heard: heard, metrics: m, buffers: buffers, log: log}
	conn.SetPongHandler(func(string) error {
		s.noteLife()
		return nil
	})
	s.startHeartbeat()
	return s
}

// run is the reader. It returns when the connection is gone, and with it all that belonged to it.
func (s *Session) run(p Peer) {
	textPeer, wantsText := p.(TextPeer)
	p.Join(s)
	for {
		if !s.awaitMessage() {
			break
		}
		m, text, err := s.readMessage(wantsText)
		var faulty messageError
		if err != nil && !errors.As(err, &faulty) {
			s.end(endOf(err))
			break
		}
		s.noteLife()
		if err != nil {
			s.log.Debug("message ignored", "remote", s.Remote(), "reason", faulty.Error())
			continue
		}
		s.metrics.MessageReceived(m.Method)
		if wantsText {
			textPeer.HandleText(m.Method, text)
		} else {
			p.Handle(m)
		}
	}
	reason := s.reason()
	s.metrics.PeerDisconnected(label(reason))
	p.Leave(reason)
	if reason == errTooBig {
		s.discardRest()
	}
	door.CloseNow(s.heard.Conn)
	s.writer.Wait()
}

// readMessage waits for a message. It holds a buffer only while one comes in: most sessions are idle most of the time.
// After a messageError the connection is still good. The text is a copy, made only if it is wanted.
func (s *Session) readMessage(wantsText bool) (m wire.Message, text []byte, err error) {
	kind, r, err := s.conn.NextReader()
	if err != nil {
		return wire.Message{}, nil, err
	}
	buffer := s.buffers.Get().(*bytes.Buffer)
	defer s.buffers.Put(buffer)
	buffer.Reset()
	if _, err := buffer.ReadFrom(r); err != nil {
		return wire.Message{}, nil, err
	}
	if kind != websocket.TextMessage {
		return wire.Message{}, nil, messageError{errBinary}
	}
	if m, err = wire.Parse(buffer.Bytes()); err != nil {
		return wire.Message{}, nil, messageError{err}
	}
	if wantsText {
		text = bytes.Clone(buffer.Bytes())
	}
	return m, text, nil
}

// Pause stops reading: the peer's messages wait in its socket, and its silence does not count. Both Pause and Resume may be
// called by the reader itself, and more than once.
func (s *Session) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil && s.paused == nil {
		s.paused = make(chan struct{})
	}
}

// Resume lets the reader go on.
func (s *Session) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumeLocked()
}

func (s *Session) resumeLocked() {
	if s.paused != nil {
		close(s.paused)
		s.paused = nil
	}
}

// awaitMessage waits while reading is paused, and then allows the peer SilenceLimit for its next message, unless the session
// has ended. It reports false if it has ended during a pause: what waits in the socket of such a session is not read any more.
func (s *Session) awaitMessage() bool {
	for {
		paused := s.beginToWait()
		if paused == nil {
			return true
		}
		<-paused
		if s.reason() != nil {
			return false
		}
	}
}

func (s *Session) beginToWait() (paused <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused == nil && s.ended == nil {
		s.conn.SetReadDeadline(time.Now().Add(SilenceLimit))
	}
	return s.paused
}

func endOf(err error) error {
	var closed *websocket.CloseError
	switch {
	case errors.Is(err, websocket.ErrReadLimit):
		return errTooBig
	case isTimeout(err):
		return errPeerSilent
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		return errPeerClosed
	}
	return errPeerLost
}

// isTimeout asks for the behaviour, because the library hides os.ErrDeadlineExceeded.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// labels are the words of metrics for why a connection ended.
var labels = map[error]string{
	errPeerClosed: "closed",
	errPeerLost:   "lost",
	errPeerSilent: "silent",
	errPeerSlow:   "slow",
	errPeerDead:   "dead",
	errQueueFull:  "queue_full",
	errTooBig:     "too_big",
	errStopping:   "stopping",
}

// Reasons are all that Metrics.PeerDisconnected is told, but for "other".
func Reasons() []string { return slices.Sorted(maps.Values(labels)) }

func label(reason error) string {
	if l := labels[reason]; l != "" {
		return l
	}
	return "other"
}

// end ends the session: nothing is queued from now on, and the reader wakes up. If it is called again, the first reason
// stands. It never waits: it is called under the registry's lock, too.
func (s *Session) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(reason, time.Now())
}

func (s *Session) endLocked(reason error, readUntil time.Time) {
	if s.ended != nil {
		return
	}
	s.ended = reason
	if s.heartbeat != nil {
		s.heartbeat.Stop()
	}
	s.endProbeLocked()
	s.resumeLocked()
	s.conn.SetReadDeadline(readUntil)
}

func (s *Session) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// goodbye sends the close frame behind what is queued, and leaves the peer goodbyeLimit to answer it.
func (s *Session) goodbye() { s.Close(errStopping) }

// Close is goodbye for another reason, which Leave is told.
func (s *Session) Close(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queueLocked(outgoing{websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, "")})
	s.endLocked(reason, time.Now().Add(goodbyeLimit))
}

// discardRest reads on for a moment after a message that was too long: closing a socket with unread data resets it,
// and the peer would not see the close frame that tells it why.
func (s *Session) discardRest() {
	raw := s.conn.NetConn()
	raw.SetReadDeadline(time.Now().Add(time.Second))
	io.CopyN(io.Discard, raw, 256<<20)
}

// Send queues a message; arguments is name, value, name, value ... It never waits: a peer whose queue is full is
// disconnected.
func (s *Session) Send(method string, arguments ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendLocked(method, arguments...)
}

func (s *Session) sendLocked(method string, arguments ...string) {
	if s.ended == nil {
		s.metrics.MessageSent(method)
		s.queueLocked(outgoing{websocket.TextMessage, wire.Append(nil, method, arguments...)})
	}
}

// SendText queues a message that is ready-made. The text is the session's from then on.
func (s *Session) SendText(text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.metrics.MessageSent(wire.Method(text))
		s.queueLocked(outgoing{websocket.TextMessage, text})
	}
}

func (s *Session) queueLocked(o outgoing) {
	if s.ended != nil {
		return
	}
	if s.queued+len(o.payload) > MaxQueuedBytes {
		s.endLocked(errQueueFull, time.Now())
		return
	}
	if len(s.queue) == 0 {
		s.oldest = time.Now()
	}
	s.queue = append(s.queue, o)
	s.queued += len(o.payload)
	if !s.writing {
		s.writing = true
		s.writer.Go(s.write)
	}
}

// write is the writer: it ends when the queue is empty.
func (s *Session) write() {
	for {
		batch, oldest := s.takeQueue()
		if batch == nil {
			return
		}
		s.conn.SetWriteDeadline(oldest.Add(SendLimit))
		for _, o := range batch {
			if err := s.writeOne(o, oldest.Add(SendLimit)); err != nil {
				if isTimeout(err) {
					s.end(errPeerSlow)
				} else {
					s.end(errPeerLost)
				}
				return // writing stays set: there is no writer after a failed one
			}
		}
	}
}

func (s *Session) writeOne(o outgoing, deadline time.Time) error {
	if o.kind == websocket.TextMessage {
		return s.conn.WriteMessage(o.kind, o.payload)
	}
	return s.conn.WriteControl(o.kind, o.payload, deadline)
}

// takeQueue takes all that is queued; when there is nothing the writer is over.
func (s *Session) takeQueue() (batch []outgoing, oldest time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, s.queue, s.queued = s.queue, nil, 0
	s.writing, s.taken = batch != nil, time.Now()
	return batch, s.oldest
}

// KeepsUp tells whether the peer has taken in nearly all that was said to it.
func (s *Session) KeepsUp() bool {
	const nearly, soon = 64 << 10, time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queued < nearly && (!s.writing || time.Since(s.taken) < soon)
}

func (s *Session) startHeartbeat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.heartbeat = time.AfterFunc(HeartbeatEvery, s.beat)
	}
}

func (s *Session) beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendLocked("HEARTBEAT")
	if s.ended == nil {
		s.heartbeat.Reset(HeartbeatEvery)
	}
}

// Remote returns the address and port that the connection came from; "" if it has none.
func (s *Session) Remote() string {
	if addr := s.conn.RemoteAddr(); addr != nil {
		return addr.String()
	}
	return ""
}

// AddressOf returns the IP address of a connection's end, in its plain form; "" if it has none.
func AddressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return ""
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().WithZone("").String()
	}
	return host
}
