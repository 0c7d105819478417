package door

// One connection that is not a control socket. While idle it is held here, outside net/http.
//
// net/http has it only from the first byte of a request until shortly after the answer. In between a small goroutine waits
// for the next byte: net/http keeps 20 KiB for an idle connection, and 16,384 of them would cost more than everything else.
// The time limits are exact, too: a request has to be complete 10 s after its first byte, and the first one 10 s after the
// connection was accepted, TLS handshake included.

import (
	"bytes"
	"container/list"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	RequestWithin = 10 * time.Second // from its first byte to its last

	// IdleLimit is how long a connection may wait for a request. It is longer than load balancers keep an idle connection, which is 60 s to 600 s: one that is closed just
	// when they send the next request on it costs their client a 502.
	IdleLimit    = 620 * time.Second
	idleInServer = time.Second // part of it: a busy connection is not handed to and fro

	// MaxHeaderLines bounds what the headers of a request cost: a line costs more than its bytes.
	MaxHeaderLines = 256

	// alertWithin is for the alert that ends a TLS connection. Whoever does not take it is cut off.
	alertWithin = 100 * time.Millisecond
)

var errTooManyLines = errors.New("request has too many header lines")

// The stages of a visitor.
const (
	waiting  int32 = iota // for the first byte of a request
	atWork                // a request is coming in, or being answered
	idle                  // it was answered; the server waits for the next one, no longer than idleInServer
	released              // nothing came: the server closes it, which gives it back
	upgraded              // to a WebSocket; the server has no part in it any more
)

// visitor is the net.Conn of one connection. The server gives it back by closing it.
type visitor struct {
	// set once
	net.Conn // the socket, or TLS over it
	socket   heldSocket
	listener *doorListener

	stage atomic.Int32

	// owned by whoever reads: the wait, then the server
	handshakeDone bool // or there is none
	bufferSize    int  // of the server
	lines         int  // of the request that is coming in, so far; guarded by mu

	mu sync.Mutex // held while the stage goes to and from atWork
	// guarded by mu: while a handler is at work, the server reads in another goroutine
	wholeBy        time.Time // when the request that is coming in has to be complete; zero: it is
	serverDeadline time.Time // the read deadline that the server has set
	waits          int       // deadlines that the server has set since it went idle: the second one is for a request

	// guarded by door.mu
	element *list.Element // in among; nil: it has left
	among   *list.List    // door.unserved or door.served
	since   time.Time     // it has been there
}

func newVisitor(l *doorListener, socket net.Conn) *visitor {
	v := &visitor{socket: heldSocket{Conn: socket}, listener: l, handshakeDone: l.secure == nil, wholeBy: time.Now().Add(RequestWithin)}
	v.Conn = &v.socket
	if l.secure != nil {
		v.Conn = tls.Server(&v.socket, l.secure)
	}
	return v
}

// NetConn returns the socket.
func (v *visitor) NetConn() net.Conn { return v.socket.Conn }

// heldSocket puts back the byte that ended the wait for a request.
type heldSocket struct {
	net.Conn
	first   [1]byte
	held    bool
	closing atomic.Bool // writing takes no longer than alertWithin from here
}

// SetWriteDeadline is also called by crypto/tls before it sends its last alert, and by the server in the middle of that.
func (s *heldSocket) SetWriteDeadline(t time.Time) error {
	if s.closing.Load() {
		return nil
	}
	return s.Conn.SetWriteDeadline(t)
}

func (s *heldSocket) Read(p []byte) (int, error) {
	if s.held && len(p) > 0 {
		s.held = false
		return copy(p, s.first[:]), nil
	}
	return s.Conn.Read(p)
}

// awaitRequest waits for the first byte of a request and passes the visitor to the server.
func (v *visitor) awaitRequest() {
	until, first := v.mustBeWholeBy()
	if !first {
		until = time.Now().Add(IdleLimit - idleInServer)
	}
	v.socket.Conn.SetReadDeadline(until)
	if _, err := io.ReadFull(v.socket.Conn, v.socket.first[:]); err != nil {
		if first && !v.handshakeDone && errors.Is(err, os.ErrDeadlineExceeded) {
			v.logFailedHandshake(handshakeTooSlow)
		}
		v.dismiss()
		return
	}
	v.socket.held = true
	if first && v.handshakeDone && v.socket.first[0] == tlsRecord {
		v.logFailedHandshake("client spoke TLS on the HTTP port")
	}
	v.requestBegins(waiting)
	select {
	case v.listener.ready <- v:
	case <-v.listener.closed:
		v.dismiss()
	}
}

// dismiss ends a visitor that the server does not have.
func (v *visitor) dismiss() {
	v.listener.door.leave(v)
	CloseNow(v)
}

// Read is called by the server, and by whoever has the connection once it is upgraded. It does the TLS handshake first, so
// that the limit of the first request covers it.
func (v *visitor) Read(p []byte) (int, error) {
	if v.stage.Load() == upgraded {
		return v.Conn.Read(p)
	}
	if !v.handshakeDone {
		if err := v.handshake(v.Conn.(*tls.Conn)); err != nil {
			return 0, err
		}
	}
	if v.bufferSize == 0 { // the first read
		v.bufferSize = len(p)
	}
	if v.stage.Load() == idle && len(p) < v.bufferSize { // the beginning of a request has come with the one before
		v.requestBegins(idle)
	}
	n, err := v.Conn.Read(p)
	if v.tooManyLines(p[:n]) {
		return 0, errTooManyLines
	}
	if v.stage.Load() == idle {
		if n > 0 {
			v.requestBegins(idle)
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			v.stage.CompareAndSwap(idle, released)
		}
	}
	return n, err
}

// tooManyLines counts the lines of a request that is coming in.
func (v *visitor) tooManyLines(read []byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.wholeBy.IsZero() {
		return false
	}
	v.lines += bytes.Count(read, []byte("\n"))
	return v.lines > MaxHeaderLines
}

// serverIsIdle notes that the server waits for the next request.
func (v *visitor) serverIsIdle() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waits = 0
	v.stage.Store(idle)
}

// SetReadDeadline is called by the server: once when it begins to wait for a request, and again when one has begun, of which
// it may have read whole lines with the request before.
func (v *visitor) SetReadDeadline(t time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stage.Load() == idle {
		if v.waits++; v.waits == 2 {
			v.requestBeginsLocked(idle)
		}
	}
	v.serverDeadline = t
	if !v.wholeBy.IsZero() {
		if t.IsZero() || t.After(v.wholeBy) {
			t = v.wholeBy
		}
	}
	return v.Conn.SetReadDeadline(t)
}

// mustBeWholeBy returns when the request that is coming in has to be complete, if one is.
func (v *visitor) mustBeWholeBy() (deadline time.Time, one bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.wholeBy, !v.wholeBy.IsZero()
}

// requestBegins notes the first byte of a request, unless the visitor has left the stage of waiting for one: the handler
// of a request that came together with the one before may be at work already. The first request has its limit from the
// connection's beginning.
func (v *visitor) requestBegins(from int32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.requestBeginsLocked(from)
}

func (v *visitor) requestBeginsLocked(from int32) {
	if !v.stage.CompareAndSwap(from, atWork) || !v.wholeBy.IsZero() {
		return
	}
	v.wholeBy = time.Now().Add(RequestWithin)
	v.Conn.SetReadDeadline(v.wholeBy)
}

func (v *visitor) requestIsWhole() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stage.Store(atWork)
	v.lines = 0
	if !v.wholeBy.IsZero() {
		v.wholeBy = time.Time{}
		v.Conn.SetReadDeadline(v.serverDeadline) // or the read would time out while the handler runs
	}
}

// Close ends the connection, unless the server only gives it back because it is idle.
func (v *visitor) Close() error {
	if v.stage.CompareAndSwap(released, waiting) {
		v.listener.door.waitAgain(v)
		return nil
	}
	if v.listener.isOver() { // the server closes one after the other, and waits for each
		v.listener.door.leave(v)
		CloseNow(v)
		return nil
	}
	v.socket.Conn.SetWriteDeadline(time.Now().Add(alertWithin))
	v.socket.closing.Store(true)
	err := v.Conn.Close()
	v.listener.door.leave(v) // not before it is closed: as long as it is open it counts
	return err
}

func (v *visitor) handshake(secure *tls.Conn) error {
	until, _ := v.mustBeWholeBy()
	secure.SetWriteDeadline(until)
	err := secure.Handshake()
	if err == nil {
		v.handshakeDone = true
		return secure.SetWriteDeadline(time.Time{})
	}
	reason, answer := handshakeFault(err)
	if reason != "" {
		v.logFailedHandshake(reason)
	}
	if answer != "" {
		io.WriteString(v.socket.Conn, answer)
	}
	return err
}

func (v *visitor) logFailedHandshake(reason string) {
	v.listener.door.refusals.Say(slog.LevelWarn, v.RemoteAddr().String(), "TLS handshake failed", reason)
}
