package main

// One control connection. Its reader owns it: it takes in messages one after the other and, when it ends, closes the
// socket and leaves nothing behind. What is said to the peer goes through a bounded queue, which a writer empties
// while there is something in it, so that an idle peer costs one goroutine. A peer that is silent for silenceLimit,
// or whose socket does not take a message within sendLimit of its being queued, is disconnected.

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"coordinator/internal/door"
	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
)

const (
	heartbeatEvery = 20 * time.Second
	silenceLimit   = 60 * time.Second
	sendLimit      = 9 * time.Second // so that a peer that does not read is gone within 10 s
	goodbyeLimit   = 2 * time.Second

	maxMessageBytes = 64 << 10
	maxQueuedBytes  = 4 << 20 // room for a STREAM-KILL to each of 40,000 publishers of one server
)

var errBinary = errors.New("message is binary")

// messageError says why a message can't be read.
type messageError struct{ error }

// Why a connection ended.
var (
	errPeerClosed = errors.New("closed by the peer")
	errPeerLost   = errors.New("connection lost")
	errPeerSilent = errors.New("silent for 60 s")
	errPeerSlow   = errors.New("does not read")
	errPeerDead   = errors.New("no answer to a ping for 5 s after a newer connection from the same address")
	errQueueFull  = errors.New("send queue is full")
	errTooBig     = errors.New("message of more than 64 KiB")
	errShutdown   = errors.New("coordinator is stopping")
)

// controlPeer is what a kind of peer does with its connection. Only the connection's reader calls it.
type controlPeer interface {
	join(*session, *coordinator)
	handle(wire.Message)
	leave(reason error)
}

type session struct {
	// set once
	conn    *websocket.Conn
	heard   *heardConn // beneath conn
	metrics *metrics
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
}

// outgoing is what is queued for a peer: a text message, a ping or a close frame, as the WebSocket library counts kinds.
type outgoing struct {
	kind    int
	payload []byte
}

// newSession starts the heartbeat: every session has to be run, or ended.
func newSession(conn *websocket.Conn, heard *heardConn, m *metrics, buffers *sync.Pool, log *slog.Logger) *session {
	conn.SetReadLimit(maxMessageBytes)
	s := &session{conn: conn, heard: heard, metrics: m, buffers: buffers, log: log}
	conn.SetPongHandler(func(string) error {
		s.noteLife()
		return nil
	})
	s.startHeartbeat()
	return s
}

// run is the reader. It returns when the connection is gone, and with it all that belonged to it.
func (s *session) run(p controlPeer, c *coordinator) {
	p.join(s, c)
	for {
		s.awaitMessage()
		m, err := s.readMessage()
		var faulty messageError
		if err != nil && !errors.As(err, &faulty) {
			s.end(endOf(err))
			break
		}
		s.noteLife()
		if err != nil {
			s.log.Debug("message ignored", "remote", s.remote(), "reason", faulty.Error())
			continue
		}
		s.metrics.received.count(m.Method)
		p.handle(m)
	}
	reason := s.reason()
	s.metrics.disconnects.count(disconnectReason(reason))
	p.leave(reason)
	if reason == errTooBig {
		s.discardRest()
	}
	door.CloseNow(s.heard.Conn)
	s.writer.Wait()
}

// readMessage waits for a message. It holds a buffer only while one comes in: most sessions are idle most of the time.
// After a messageError the connection is still good.
func (s *session) readMessage() (wire.Message, error) {
	kind, r, err := s.conn.NextReader()
	if err != nil {
		return wire.Message{}, err
	}
	buffer := s.buffers.Get().(*bytes.Buffer)
	defer s.buffers.Put(buffer)
	buffer.Reset()
	if _, err := buffer.ReadFrom(r); err != nil {
		return wire.Message{}, err
	}
	if kind != websocket.TextMessage {
		return wire.Message{}, messageError{errBinary}
	}
	m, err := wire.Parse(buffer.Bytes())
	if err != nil {
		return wire.Message{}, messageError{err}
	}
	return m, nil
}

// awaitMessage allows the peer silenceLimit for its next message, unless the session has ended.
func (s *session) awaitMessage() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.conn.SetReadDeadline(time.Now().Add(silenceLimit))
	}
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

// disconnectReason is the label for the end of a control connection.
func disconnectReason(reason error) string {
	switch reason {
	case errPeerClosed:
		return "closed"
	case errPeerLost:
		return "lost"
	case errPeerSilent:
		return "silent"
	case errPeerSlow:
		return "slow"
	case errPeerDead:
		return "dead"
	case errQueueFull:
		return "queue_full"
	case errTooBig:
		return "too_big"
	case errShutdown:
		return "stopping"
	}
	return "other"
}

// end stops the session for a reason, of which the first counts: nothing is queued from now on and the reader wakes
// up. It never waits: it is called under the registry's lock, too.
func (s *session) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(reason, time.Now())
}

func (s *session) endLocked(reason error, readUntil time.Time) {
	if s.ended != nil {
		return
	}
	s.ended = reason
	if s.heartbeat != nil {
		s.heartbeat.Stop()
	}
	s.endProbeLocked()
	s.conn.SetReadDeadline(readUntil)
}

func (s *session) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// goodbye sends the close frame behind what is queued, and leaves the peer goodbyeLimit to answer it.
func (s *session) goodbye() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queueLocked(outgoing{websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, "")})
	s.endLocked(errShutdown, time.Now().Add(goodbyeLimit))
}

// discardRest reads on for a moment after a message that was too long: closing a socket with unread data resets it,
// and the peer would not see the close frame that tells it why.
func (s *session) discardRest() {
	raw := s.conn.NetConn()
	raw.SetReadDeadline(time.Now().Add(time.Second))
	io.CopyN(io.Discard, raw, 256<<20)
}

// send queues a message; arguments is name, value, name, value ... It never waits: a peer whose queue is full is
// disconnected.
func (s *session) send(method string, arguments ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendLocked(method, arguments...)
}

func (s *session) sendLocked(method string, arguments ...string) {
	if s.ended == nil {
		s.metrics.sent.count(method)
		s.queueLocked(outgoing{websocket.TextMessage, wire.Append(nil, method, arguments...)})
	}
}

func (s *session) queueLocked(o outgoing) {
	if s.ended != nil {
		return
	}
	if s.queued+len(o.payload) > maxQueuedBytes {
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
func (s *session) write() {
	for {
		batch, oldest := s.takeQueue()
		if batch == nil {
			return
		}
		s.conn.SetWriteDeadline(oldest.Add(sendLimit))
		for _, o := range batch {
			if err := s.writeOne(o, oldest.Add(sendLimit)); err != nil {
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

func (s *session) writeOne(o outgoing, deadline time.Time) error {
	if o.kind == websocket.TextMessage {
		return s.conn.WriteMessage(o.kind, o.payload)
	}
	return s.conn.WriteControl(o.kind, o.payload, deadline)
}

// takeQueue takes all that is queued; when there is nothing the writer is over.
func (s *session) takeQueue() (batch []outgoing, oldest time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, s.queue, s.queued = s.queue, nil, 0
	s.writing, s.taken = batch != nil, time.Now()
	return batch, s.oldest
}

// keepsUp tells whether the peer has taken in nearly all that was said to it.
func (s *session) keepsUp() bool {
	const nearly, soon = 64 << 10, time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queued < nearly && (!s.writing || time.Since(s.taken) < soon)
}

func (s *session) startHeartbeat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.heartbeat = time.AfterFunc(heartbeatEvery, s.beat)
	}
}

func (s *session) beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendLocked("HEARTBEAT")
	if s.ended == nil {
		s.heartbeat.Reset(heartbeatEvery)
	}
}

func (s *session) remote() string {
	if addr := s.conn.RemoteAddr(); addr != nil {
		return addr.String()
	}
	return ""
}

// addressOf is the IP address of a connection's end, in its plain form; "" if it has none.
func addressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return ""
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().WithZone("").String()
	}
	return host
}
