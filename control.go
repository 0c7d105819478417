package main

// The control endpoints: authenticate, find out the peer's address, upgrade to a WebSocket (RFC 6455), and own the
// connections until they are gone. What happens on a connection is in session.go, what peers say in peers.go.

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

const maxTokenBytes = 4 << 10

// controlSockets serves the control endpoints and owns their connections.
type controlSockets struct {
	// set once
	secret      Secret
	coordinator *coordinator
	max         int // connections at once
	log         *slog.Logger
	upgrader    websocket.Upgrader
	buffers     sync.Pool // for messages that come in

	running sync.WaitGroup // one for each session

	mu sync.Mutex
	// guarded by mu
	closed   bool
	sessions map[*session]struct{}
}

func newControlSockets(cfg *Config, c *coordinator, max int, log *slog.Logger) *controlSockets {
	return &controlSockets{
		secret:      cfg.ControlSecret,
		coordinator: c,
		max:         max,
		log:         log,
		upgrader: websocket.Upgrader{
			// Small buffers, because there are many peers and their messages are short: see docs/performance.md.
			ReadBufferSize:  512,
			WriteBufferSize: 1024,
			WriteBufferPool: &sync.Pool{},

			HandshakeTimeout: 10 * time.Second,
			Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
				w.Header().Set("Sec-WebSocket-Version", "13") // RFC 6455, 4.4
				if status == http.StatusMethodNotAllowed {
					w.Header().Set("Allow", http.MethodGet)
				}
				writeError(w, status, reason.Error())
			},
		},
		buffers:  sync.Pool{New: func() any { return new(bytes.Buffer) }},
		sessions: map[*session]struct{}{},
	}
}

// rtmp, wss and hls are the handlers of the three endpoints.

func (cs *controlSockets) rtmp(w http.ResponseWriter, r *http.Request) {
	cs.serveStreamingServer(w, r, "rtmp-control", &server{serverType: "RTMP", port: 1935})
}

func (cs *controlSockets) wss(w http.ResponseWriter, r *http.Request) {
	cs.serveStreamingServer(w, r, "wss-control", &server{serverType: "WS", port: 80})
}

func (cs *controlSockets) hls(w http.ResponseWriter, r *http.Request) {
	if cs.authenticate(w, r, "hls-control") {
		cs.serve(w, r, &encoderPeerSession{})
	}
}

func (cs *controlSockets) serveStreamingServer(w http.ResponseWriter, r *http.Request, subject string, srv *server) {
	if !cs.authenticate(w, r, subject) {
		return
	}
	if err := srv.setAddress(r); err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	cs.serve(w, r, &serverPeerSession{server: srv})
}

// serve upgrades the request and hands the connection to a goroutine of its own: a handler that stayed would keep
// the request's buffers with it.
func (cs *controlSockets) serve(w http.ResponseWriter, r *http.Request, p controlPeer) {
	if cs.count() >= cs.max {
		cs.log.Warn("control connection refused", "remote", r.RemoteAddr, "path", r.URL.Path, "reason", "too many connections")
		writeError(w, http.StatusServiceUnavailable, "too many connections")
		return
	}
	heard := &heardConn{}
	conn, err := cs.upgrader.Upgrade(listeningWriter{w, heard}, r, nil)
	if err != nil {
		cs.log.Debug("no websocket upgrade", "remote", r.RemoteAddr, "reason", err.Error())
		return // the upgrader has answered
	}
	s := newSession(conn, heard, cs.coordinator.metrics, &cs.buffers, cs.log)
	if !cs.add(s) {
		s.end(errShutdown)
		conn.Close()
		return
	}
	go func() {
		defer cs.remove(s)
		s.run(p, cs.coordinator)
	}()
}

// authenticate refuses a request without a good control token. Without a secret no token is looked at.
func (cs *controlSockets) authenticate(w http.ResponseWriter, r *http.Request, subject string) bool {
	if cs.secret == "" {
		return true
	}
	err := checkToken(r.Header.Get("x-control-auth-token"), cs.secret, subject)
	if err != nil {
		cs.log.Warn("control connection refused", "remote", r.RemoteAddr, "path", r.URL.Path, "reason", err.Error())
		writeError(w, http.StatusForbidden, "control token refused")
	}
	return err == nil
}

// checkToken checks a JSON Web Token (RFC 7519): HS256 and nothing else, the subject, exp and nbf when they are there.
func checkToken(token string, secret Secret, subject string) error {
	if token == "" {
		return errors.New("no token")
	}
	if len(token) > maxTokenBytes {
		return errors.New("token too long")
	}
	var claims jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) {
		return []byte(secret.Reveal()), nil
	}, jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}))
	if err != nil {
		return errors.New("bad token") // the library's words may quote what the peer sent
	}
	if claims.Subject != subject {
		return errors.New("token is for another subject")
	}
	return nil
}

// setAddress takes the address that encoders reach the streaming server at from the handshake.
func (srv *server) setAddress(r *http.Request) error {
	if ip := r.Header.Get("x-external-ip"); ip != "" {
		if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
			ip = ip[1 : len(ip)-1]
		}
		if !isAddress(ip) {
			return errors.New("x-external-ip is no address")
		}
		srv.ip = ip
	} else {
		if srv.ip = addressOf(r.RemoteAddr); srv.ip == "" {
			return errors.New("connection has no address")
		}
	}
	if port := r.Header.Get("x-custom-port"); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return errors.New("x-custom-port is no port")
		}
		srv.port = int(n)
	}
	srv.ssl = strings.EqualFold(r.Header.Get("x-ssl-use"), "true")
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

func (cs *controlSockets) add(s *session) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return false
	}
	cs.sessions[s] = struct{}{}
	cs.running.Add(1)
	return true
}

func (cs *controlSockets) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.sessions)
}

func (cs *controlSockets) remove(s *session) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.sessions, s)
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
