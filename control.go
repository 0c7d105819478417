package main

// The control endpoints: authenticate, find out the peer's address, upgrade to a WebSocket (RFC 6455), and own the
// connections until they are gone. What happens on a connection is in session.go, what peers say in peers.go. Whoever is
// refused learns little; the log says why.

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

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
)

const (
	maxTokenBytes = 4 << 10
	clockLeeway   = 30 * time.Second // the clocks of peers differ from ours
)

const controlRefused = "control connection refused"

var errTooManyConnections = errors.New("too many connections")

// controlSockets serves the control endpoints and owns their connections.
type controlSockets struct {
	// set once
	secret      Secret
	coordinator *coordinator
	max         int // connections at once
	log         *slog.Logger
	refusals    *refusals
	upgrader    websocket.Upgrader
	buffers     sync.Pool // for messages that come in

	running sync.WaitGroup // one for each place taken

	mu sync.Mutex
	// guarded by mu
	closed     bool
	taken      int // places: one for each session, and for each request that is being upgraded to one
	sessions   map[*session]peerOrigin
	neighbours neighbours
}

func newControlSockets(cfg *Config, c *coordinator, max int, log *slog.Logger, refusals *refusals) *controlSockets {
	cs := &controlSockets{
		secret:      cfg.ControlSecret,
		coordinator: c,
		max:         max,
		log:         log,
		refusals:    refusals,
		upgrader: websocket.Upgrader{
			// Small buffers, because there are many peers and their messages are short: see docs/performance.md.
			ReadBufferSize:  512,
			WriteBufferSize: 1024,
			WriteBufferPool: &sync.Pool{},

			HandshakeTimeout: 10 * time.Second,
		},
		buffers:    sync.Pool{New: func() any { return new(bytes.Buffer) }},
		sessions:   map[*session]peerOrigin{},
		neighbours: neighbours{servers: map[serverAddress]int{}},
	}
	cs.upgrader.Error = cs.refuseUpgrade
	if cs.secret != "" {
		// A page in a browser can't send the token, so its origin is of no interest. A proxy that rewrites Host would make
		// that of a peer a foreign one.
		cs.upgrader.CheckOrigin = func(*http.Request) bool { return true }
	}
	return cs
}

func (cs *controlSockets) sayRefused(r *http.Request, reason string) {
	cs.refusals.say(slog.LevelWarn, r.RemoteAddr, controlRefused, reason, slog.String("path", r.URL.Path))
}

// sayWrongMethod is in front of the endpoints, whose handlers see nothing of a request with another method than theirs.
func (cs *controlSockets) sayWrongMethod(next http.Handler) http.Handler {
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
func (cs *controlSockets) refuseUpgrade(w http.ResponseWriter, r *http.Request, status int, err error) {
	reason := strings.TrimPrefix(err.Error(), "websocket: ") // a constant of the library
	w.Header().Set("Sec-WebSocket-Version", "13")            // RFC 6455, 4.4
	switch status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", "GET, OPTIONS")
	case http.StatusForbidden:
		reason = "header Origin names another host"
	}
	cs.sayRefused(r, reason)
	writeError(w, status, reason)
}

// rtmp, wss and hls are the handlers of the three endpoints.

func (cs *controlSockets) rtmp(w http.ResponseWriter, r *http.Request) {
	cs.serveStreamingServer(w, r, "rtmp-control", serverInfo{kind: kindRTMP, port: 1935})
}

func (cs *controlSockets) wss(w http.ResponseWriter, r *http.Request) {
	cs.serveStreamingServer(w, r, "wss-control", serverInfo{kind: kindWS, port: 80})
}

func (cs *controlSockets) hls(w http.ResponseWriter, r *http.Request) {
	if cs.authenticate(w, r, "hls-control") {
		cs.serve(w, r, &encoderPeerSession{}, originOf(r, serverInfo{}))
	}
}

func (cs *controlSockets) serveStreamingServer(w http.ResponseWriter, r *http.Request, subject string, info serverInfo) {
	if !cs.authenticate(w, r, subject) {
		return
	}
	if err := info.setAddress(r); err != nil {
		cs.sayRefused(r, err.Error())
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	cs.serve(w, r, &serverPeerSession{info: info}, originOf(r, info))
}

// serve upgrades the request and hands the connection to a goroutine of its own: a handler that stayed would keep
// the request's buffers with it.
func (cs *controlSockets) serve(w http.ResponseWriter, r *http.Request, p controlPeer, origin peerOrigin) {
	if err := cs.takePlace(); err != nil {
		cs.sayRefused(r, err.Error())
		writeError(w, http.StatusServiceUnavailable, err.Error())
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
	s := newSession(conn, heard, cs.coordinator.metrics, &cs.buffers, cs.log)
	if !cs.add(s, origin) {
		s.end(errShutdown)
		conn.Close()
		cs.leave(s)
		return
	}
	go func() {
		defer cs.leave(s)
		defer cs.checkAddress(origin)()
		s.run(p, cs.coordinator)
	}()
}

// authenticate refuses a request without a good control token. Without a secret no token is looked at.
func (cs *controlSockets) authenticate(w http.ResponseWriter, r *http.Request, subject string) bool {
	if cs.secret == "" {
		return true
	}
	fault := tokenFault(r.Header.Get("x-control-auth-token"), cs.secret, subject)
	if fault != "" {
		cs.sayRefused(r, fault)
		writeError(w, http.StatusForbidden, "control token refused")
	}
	return fault == ""
}

// tokenFault says what is wrong with a JSON Web Token (RFC 7519), "" for nothing: it must be HS256 and nothing else, have
// the subject, and be valid by exp and nbf when they are there. The library's own words may quote what the peer sent.
func tokenFault(token string, secret Secret, subject string) string {
	if token == "" {
		return "no token: CONTROL_SECRET is not set on the peer"
	}
	if len(token) > maxTokenBytes {
		return "token is longer than 4 KiB"
	}
	parsed, err := jwt.ParseWithClaims(token, &tokenClaims{}, func(*jwt.Token) (any, error) {
		return []byte(secret.Reveal()), nil
	}, jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithLeeway(clockLeeway), jwt.WithSubject(subject))
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return "token is malformed"
	case err != nil && parsed.Method != jwt.SigningMethodHS256:
		return "token's algorithm is not HS256"
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return "token's signature is wrong: the peer has another CONTROL_SECRET"
	case errors.Is(err, jwt.ErrTokenExpired):
		return "token has expired: is a clock wrong?"
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return "token is not valid yet: is a clock wrong?"
	case errors.Is(err, jwt.ErrTokenInvalidSubject), errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return "token is for another endpoint: its subject is not " + subject
	case err != nil:
		return "token is not valid"
	}
	return ""
}

// setAddress takes the address that encoders reach the streaming server at from the handshake.
func (info *serverInfo) setAddress(r *http.Request) error {
	if ip := r.Header.Get("x-external-ip"); ip != "" {
		if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
			ip = ip[1 : len(ip)-1]
		}
		if !isAddress(ip) {
			return errors.New("x-external-ip is not an IP address or host name")
		}
		info.ip = ip
	} else {
		if info.ip = addressOf(r.RemoteAddr); info.ip == "" {
			return errors.New("connection has no address")
		}
	}
	if port := r.Header.Get("x-custom-port"); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return errors.New("x-custom-port is not a valid port")
		}
		info.port = int(n)
	}
	info.ssl = strings.EqualFold(r.Header.Get("x-ssl-use"), "true")
	return nil
}

// isAddress tells whether s is an IP address or a host name.
func isAddress(s string) bool {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Zone() == ""
	}
	for _, label := range strings.Split(s, ".") {
		if !isToken(label, 63) {
			return false
		}
	}
	return len(s) <= 253
}

// takePlace is asked before a connection is upgraded, so that there are never more than max.
func (cs *controlSockets) takePlace() error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case cs.closed:
		return errShutdown
	case cs.taken >= cs.max:
		return errTooManyConnections
	}
	cs.taken++
	cs.running.Add(1)
	return nil
}

// add puts a session into the place that was taken for it. It fails if all have been told to go meanwhile.
func (cs *controlSockets) add(s *session, origin peerOrigin) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return false
	}
	cs.sessions[s] = origin
	cs.neighbours.count(origin, 1)
	return true
}

func (cs *controlSockets) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.taken
}

// leave gives a place back, and forgets the session that it was for, if it came to one.
func (cs *controlSockets) leave(s *session) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if origin, added := cs.sessions[s]; added {
		delete(cs.sessions, s)
		cs.neighbours.count(origin, -1)
	}
	cs.taken--
	cs.running.Done()
}

// close says goodbye on all control connections (status 1001) and waits until they are gone, little more than
// goodbyeLimit; new ones are refused.
func (cs *controlSockets) close() {
	cs.goodbyeToAll()
	cs.running.Wait()
}

func (cs *controlSockets) goodbyeToAll() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	for s := range cs.sessions {
		s.goodbye()
	}
}
