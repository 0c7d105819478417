// Package control holds the control sockets of streaming servers and encoders: who may connect, and each connection until it
// is gone. It knows the form of messages and nothing of what they mean.
package control

// The control endpoints: authenticate, find out the peer's address, upgrade to a WebSocket (RFC 6455), and own the
// connections until they are gone. What happens on a connection is in session.go. Whoever is refused learns little; the log
// says why.

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"coordinator/internal/httpjson"
	"coordinator/internal/logs"
	"coordinator/internal/secret"
	"coordinator/internal/token"
	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
)

const refused = "control connection refused"

var errTooManyConnections = errors.New("too many connections")

// Kind is a kind of peer, as reports show it.
type Kind string

const (
	RTMP Kind = "RTMP" // streaming server whose publishers use RTMP
	WS   Kind = "WS"   // streaming server whose publishers use WebSockets
	HLS  Kind = "HLS"  // encoder
)

// Handshake is what a peer has told with its request. It is not changed.
type Handshake struct {
	Kind   Kind
	Remote string // address and port that the connection came from

	// of streaming servers: where encoders reach it
	IP   string // or host name
	Port int
	SSL  bool

	named     bool // it gave its address itself
	forwarded bool // the request passed a proxy that says so
}

// Peer is what a kind of peer does with its connection. Only the connection's reader calls it: Join once before anything
// else, Handle for each message, in order, and Leave once when nothing comes any more. The message is valid only during the
// call.
type Peer interface {
	Join(*Session)
	Handle(wire.Message)
	Leave(reason error)
}

// TextPeer is a Peer that takes messages as the peer has sent them, in place of Handle. The text is its own. Like
// any Peer it is not given what has no method or is not UTF-8.
type TextPeer interface {
	Peer
	HandleText(method string, text []byte)
}

// Metrics counts what happens on control sockets. Its methods may be called from anywhere, under locks, too.
type Metrics interface {
	MessageReceived(method string) // whatever the peer calls it
	MessageSent(method string)
	PeerDisconnected(reason string) // one of Reasons, or "other"
}

// Config is what sockets are made of. All of it is needed but the secret.
type Config struct {
	Secret   secret.Secret // that peers sign their tokens with; empty: any peer may connect
	Max      int           // connections at once
	NewPeer  func(Handshake) Peer
	Metrics  Metrics
	Log      *slog.Logger
	Refusals *logs.Refusals
}

// Sockets serves the control endpoints and owns their connections.
type Sockets struct {
	// set once
	Config
	upgrader websocket.Upgrader
	buffers  sync.Pool // for messages that come in

	running sync.WaitGroup // one for each connection reserved

	mu sync.Mutex
	// guarded by mu
	closed     bool
	reserved   int // connections: of sessions, and of requests that are being upgraded to one
	sessions   map[*Session]Handshake
	neighbours neighbours
}

func NewSockets(cfg Config) *Sockets {
	cs := &Sockets{
		Config: cfg,
		upgrader: websocket.Upgrader{
			// Small buffers, because there are many peers and their messages are short: see docs/performance.md.
			ReadBufferSize:  512,
			WriteBufferSize: 1024,
			WriteBufferPool: &sync.Pool{},

			HandshakeTimeout: 10 * time.Second,
		},
		buffers:    sync.Pool{New: func() any { return new(bytes.Buffer) }},
		sessions:   map[*Session]Handshake{},
		neighbours: neighbours{servers: map[serverAddress]int{}},
	}
	cs.upgrader.Error = cs.refuseUpgrade
	if cs.Secret != "" {
		// A page in a browser can't send the token, so its origin is of no interest. A proxy that rewrites Host would make
		// that of a peer a foreign one.
		cs.upgrader.CheckOrigin = func(*http.Request) bool { return true }
	}
	return cs
}

func (cs *Sockets) sayRefused(r *http.Request, reason string) {
	cs.Refusals.Say(slog.LevelWarn, r.RemoteAddr, refused, reason, slog.String("path", r.URL.Path))
}

// SayWrongMethod goes in front of the endpoints, whose handlers see nothing of a request with another method than theirs.
func (cs *Sockets) SayWrongMethod(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
		default:
			cs.sayRefused(r, "method is not GET")
		}
		next.ServeHTTP(w, r)
	})
}

// refuseUpgrade answers a request that is no WebSocket handshake, or one that a foreign page in a browser makes.
func (cs *Sockets) refuseUpgrade(w http.ResponseWriter, r *http.Request, status int, err error) {
	code, reason := httpjson.NotWebSocket, strings.TrimPrefix(err.Error(), "websocket: ") // a constant of the library
	w.Header().Set("Sec-WebSocket-Version", "13")                                         // RFC 6455, 4.4
	switch status {
	case http.StatusMethodNotAllowed:
		code = httpjson.MethodNotAllowed
		w.Header().Set("Allow", "GET, OPTIONS")
	case http.StatusForbidden:
		code, reason = httpjson.OriginRefused, "header Origin names another host"
	}
	cs.sayRefused(r, reason)
	httpjson.Error(w, status, code, reason)
}

// ServeRTMP, ServeWSS and ServeHLS are the handlers of the three endpoints, for GET.

func (cs *Sockets) ServeRTMP(w http.ResponseWriter, r *http.Request) {
	cs.serve(w, r, "rtmp-control", Handshake{Kind: RTMP, Port: 1935})
}

func (cs *Sockets) ServeWSS(w http.ResponseWriter, r *http.Request) {
	cs.serve(w, r, "wss-control", Handshake{Kind: WS, Port: 80})
}

func (cs *Sockets) ServeHLS(w http.ResponseWriter, r *http.Request) {
	cs.serve(w, r, "hls-control", Handshake{Kind: HLS})
}

// serve lets a peer in whose token has the subject. h is what is known of the peer from the endpoint alone.
func (cs *Sockets) serve(w http.ResponseWriter, r *http.Request, subject string, h Handshake) {
	if !cs.authenticate(w, r, subject) {
		return
	}
	if err := h.read(r); err != nil {
		cs.sayRefused(r, err.Error())
		httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedHandshake, err.Error())
		return
	}
	cs.upgrade(w, r, h)
}

// upgrade makes a session of a request. The handler returns at once: the session's reader is another goroutine, since this
// one would keep the request's buffers with it.
func (cs *Sockets) upgrade(w http.ResponseWriter, r *http.Request, h Handshake) {
	if err := cs.reserve(); err != nil {
		cs.sayRefused(r, err.Error())
		code := httpjson.TooManyConnections
		if err == errStopping {
			code = httpjson.Stopping
		}
		httpjson.Error(w, http.StatusServiceUnavailable, code, err.Error())
		return
	}
	heard := &heardConn{}
	conn, err := cs.upgrader.Upgrade(hijackRecorder{w, heard}, r, nil)
	if err != nil {
		if !errors.As(err, new(websocket.HandshakeError)) { // else refuseUpgrade has answered
			cs.sayRefused(r, "peer was gone, or sent messages before it had an answer")
		}
		cs.leave(nil)
		return
	}
	s := newSession(conn, heard, cs.Metrics, &cs.buffers, cs.Log)
	if !cs.add(s, h) {
		s.end(errStopping)
		conn.Close()
		cs.leave(s)
		return
	}
	go func() {
		defer cs.leave(s)
		defer cs.checkAddress(h)()
		s.run(cs.NewPeer(h))
	}()
}

// authenticate refuses a request without a good control token. Without a secret no token is looked at.
func (cs *Sockets) authenticate(w http.ResponseWriter, r *http.Request, subject string) bool {
	if cs.Secret == "" {
		return true
	}
	fault := token.Fault(r.Header.Get("x-control-auth-token"), cs.Secret, "CONTROL_SECRET", subject)
	if fault != "" {
		cs.sayRefused(r, fault)
		httpjson.Error(w, http.StatusForbidden, httpjson.TokenRefused, "control token refused")
	}
	return fault == ""
}

// read takes from the request where a streaming server is reached, and what tells whether that can be right.
func (h *Handshake) read(r *http.Request) error {
	h.Remote = r.RemoteAddr
	if h.Kind == HLS {
		return nil
	}
	h.forwarded = r.Header.Get("X-Forwarded-For") != ""
	if ip := r.Header.Get("x-external-ip"); ip != "" {
		if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
			ip = ip[1 : len(ip)-1]
		}
		if !IsAddress(ip) {
			return errors.New("x-external-ip is not an IP address or host name")
		}
		h.IP, h.named = ip, true
	} else {
		if h.IP = AddressOf(r.RemoteAddr); h.IP == "" {
			return errors.New("connection has no address")
		}
	}
	if port := r.Header.Get("x-custom-port"); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return errors.New("x-custom-port is not a valid port")
		}
		h.Port = int(n)
	}
	h.SSL = strings.EqualFold(r.Header.Get("x-ssl-use"), "true")
	return nil
}

// IsAddress tells whether s is an IP address or a host name.
func IsAddress(s string) bool {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Zone() == ""
	}
	for _, label := range strings.Split(s, ".") {
		if !wire.IsToken(label, 63) {
			return false
		}
	}
	return len(s) <= 253
}

// reserve is asked before a connection is upgraded, so that there are never more than Max.
func (cs *Sockets) reserve() error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case cs.closed:
		return errStopping
	case cs.reserved >= cs.Max:
		return errTooManyConnections
	}
	cs.reserved++
	cs.running.Add(1)
	return nil
}

// add takes in a session whose connection was reserved. It fails if all have been told to go meanwhile.
func (cs *Sockets) add(s *Session, h Handshake) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return false
	}
	cs.sessions[s] = h
	cs.neighbours.count(h, 1)
	return true
}

// Count returns how many connections there are, those that are being made included.
func (cs *Sockets) Count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.reserved
}

// leave gives a reserved connection back, and forgets its session, if it came to one.
func (cs *Sockets) leave(s *Session) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if h, added := cs.sessions[s]; added {
		delete(cs.sessions, s)
		cs.neighbours.count(h, -1)
	}
	cs.reserved--
	cs.running.Done()
}

// Close says goodbye on all control connections (status 1001) and waits until they are gone, little more than
// goodbyeLimit; new ones are refused.
func (cs *Sockets) Close() {
	cs.goodbyeToAll()
	cs.running.Wait()
}

func (cs *Sockets) goodbyeToAll() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	for s := range cs.sessions {
		s.goodbye()
	}
}
