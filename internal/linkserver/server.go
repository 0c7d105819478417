// Package linkserver is the coordinator's side of the links to gateways: who may link, what is sent and acknowledged, who is
// absent and who is lost, and when all that were known before a start are there again. It knows nothing of what frames mean.
//
// Each gateway has one goroutine, from the time that it is known until it is lost (Gateway.run). It alone calls the Handler
// and the functions that wait for acknowledgements, so that these are called one after the other and without a lock. A link
// has two more: one reads frames, the other writes them.
//
// What a gateway has to know beside the frames: HELLO and its answer are each alone in their message; nothing is sent between
// them; a nonce has 8 to 32 bytes; other messages have any number of frames, up to any length. After REFUSE or BYE of either
// side the gateway reads until the connection is closed, or closes it.
//
// Locks: Server.mu, Gateway.mu, gathering.mu and late.mu are taken one at a time, but for Gateway.mu before late.mu, and
// nothing waits or calls others under them. So Send may be called under any lock of the caller.
package linkserver

import (
	"bufio"
	"cmp"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"coordinator/internal/httpjson"
	"coordinator/internal/link"
	"coordinator/internal/logs"
	"coordinator/internal/secret"

	"github.com/gorilla/websocket"
)

const (
	refused = "gateway link refused"

	handshakeLimit = 5 * time.Second

	// maxGateways bounds the gateways that are known at a time, and maxLost those that are remembered after that.
	maxGateways = 1024
	maxLost     = 4096
)

// Config is what a Server is made of. All of it is needed but Epoch, Known and ControlSecret.
type Config struct {
	Store, Term   string   // identities: of the store, and of this coordinator as long as it leads
	Epoch         uint64   // 0 with DATA_DIR
	Known         []string // gateways in the store
	StoreIsNew    bool     // nothing was in the store
	Secret        secret.Secret
	ControlSecret secret.Secret
	Version       string
	Handler       Handler

	// AddGateway has a gateway written to the store before its first WELCOME. It does not wait.
	AddGateway func(id string) (durable <-chan struct{})

	// HigherEpoch is told that a gateway knows of a higher epoch than Epoch: this coordinator does not lead any more, or its database
	// has forgotten that it did. It does not wait. nil: nobody wants to know.
	HigherEpoch func(epoch uint64)

	Log      *slog.Logger
	Refusals *logs.Refusals
}

// Handler is the coordinator. Methods are called one after the other for a gateway, in the order of its frames, without a
// lock held; those for different gateways at the same time. They do not wait.
type Handler interface {
	Attach(g *Gateway, session uint64, a link.Attach)
	Message(g *Gateway, session uint64, m link.Message) // m.Text may be kept
	Gone(g *Gateway, session uint64, n link.Gone)
	Late(g *Gateway, session uint64, l link.Late)
	Alive(g *Gateway, session uint64)

	// Absent says that the gateway's link is closed or silent: what is sent to it waits. Present says that it is linked again;
	// it follows an Absent, so that neither is called when a gateway links for the first time.
	Absent(g *Gateway)
	Present(g *Gateway)

	// Lost says that the gateway is gone for good and refused from now on. It is the last call for a gateway.
	Lost(g *Gateway, reason error)

	// Numbers says that no number up to highest may be given again.
	Numbers(highest uint64)
}

// Server takes links and owns them.
type Server struct {
	// set once
	Config
	upgrader  websocket.Upgrader
	gathering *gathering
	late      *late
	closing   chan struct{} // closed when the server is

	unsure  atomic.Bool    // whether this coordinator leads
	running sync.WaitGroup // goroutines, and requests that are upgraded

	mu sync.Mutex
	// guarded by mu
	closed   bool
	reason   string // why it is closed
	gateways map[string]*Gateway
	lost     map[string]bool // gateways of this term
	lostIDs  []string        // the same, in order
	greeted  map[*connection]bool
}

// New starts to wait for the gateways that are known.
func New(cfg Config) *Server {
	s := &Server{
		Config: cfg,
		upgrader: websocket.Upgrader{
			ReadBufferSize:   readBuffer,
			WriteBufferSize:  32 << 10,
			HandshakeTimeout: handshakeLimit,
			// A page in a browser can't send the token, so its origin is of no interest.
			CheckOrigin: func(*http.Request) bool { return true },
		},
		gathering: newGathering(cfg.StoreIsNew),
		late:      newLate(),
		closing:   make(chan struct{}),
		gateways:  map[string]*Gateway{},
		lost:      map[string]bool{},
		greeted:   map[*connection]bool{},
	}
	s.upgrader.Error = s.refuseUpgrade
	for _, id := range cfg.Known {
		g := newGateway(s, id)
		g.known = true
		s.gateways[id] = g
		s.gathering.await(g)
	}
	s.running.Go(func() { s.late.run(s.closing) })
	for _, g := range s.gateways {
		s.running.Go(g.run)
	}
	s.gathering.begin()
	return s
}

// Gathered is closed when all gateways that were known are there with all that they keep, or lost.
func (s *Server) Gathered() <-chan struct{} { return s.gathering.over }

// ServeHTTP takes requests for link.Path, with GET.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Secret == "" { // it would let everybody in
		http.NotFound(w, r)
		return
	}
	if fault := link.TokenFault(r.Header.Get(link.TokenHeader), s.Secret); fault != "" {
		s.sayRefused(r.RemoteAddr, fault)
		httpjson.Error(w, http.StatusForbidden, httpjson.TokenRefused, "gateway token refused")
		return
	}
	if !s.take() {
		httpjson.Error(w, http.StatusServiceUnavailable, httpjson.Stopping, errStopping.Error())
		return
	}
	wrapped := &timedConn{until: time.Now().Add(helloLimit)}
	ws, err := s.upgrader.Upgrade(hijacker{w, wrapped}, r, nil)
	if err != nil {
		if !errors.As(err, new(websocket.HandshakeError)) { // else refuseUpgrade has answered
			s.sayRefused(r.RemoteAddr, "gateway was gone, or sent frames before it had an answer")
		}
		s.running.Done()
		return
	}
	// The handler returns at once, since its goroutine would keep the request's buffers.
	go func() {
		defer s.running.Done()
		s.greet(newConnection(ws, wrapped, r.RemoteAddr))
	}()
}

// take has Close wait for a request that is upgraded, unless the server is closed.
func (s *Server) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.running.Add(1)
	}
	return !s.closed
}

// refuseUpgrade answers a request that is no WebSocket handshake.
func (s *Server) refuseUpgrade(w http.ResponseWriter, r *http.Request, status int, err error) {
	code, reason := httpjson.NotWebSocket, strings.TrimPrefix(err.Error(), "websocket: ") // a constant of the library
	w.Header().Set("Sec-WebSocket-Version", "13")                                         // RFC 6455, 4.4
	if status == http.StatusMethodNotAllowed {
		code = httpjson.MethodNotAllowed
		w.Header().Set("Allow", "GET, OPTIONS")
	}
	s.sayRefused(r.RemoteAddr, reason)
	httpjson.Error(w, status, code, reason)
}

func (s *Server) sayRefused(remote, reason string, more ...slog.Attr) {
	s.Refusals.Say(slog.LevelWarn, remote, refused, reason, more...)
}

// Status is a gateway as lists show it.
type Status struct {
	ID             string
	Remote         string // of its link, or of the last one; "": it was not linked yet
	Linked         bool
	Since          time.Time // when it was linked, or when it became absent
	Unacknowledged int       // bytes
	Version        string
	Protocol       uint32

	// of all its links
	FramesIn, FramesOut, BytesIn, BytesOut uint64
}

// Gateways are all that are known and not lost, by identity.
func (s *Server) Gateways() []Status {
	var list []Status
	for _, g := range s.all() {
		list = append(list, g.status())
	}
	slices.SortFunc(list, func(a, b Status) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

func (s *Server) all() (list []*Gateway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.gateways {
		list = append(list, g)
	}
	return list
}

// Close says BYE on all links behind what was sent, closes them and waits until they are gone, little more than goodbyeLimit;
// new ones are refused. Nothing is sent, handled or acknowledged after it has returned, and no gateway is lost by it. The
// caller holds no lock that a Handler takes.
func (s *Server) Close(reason string) {
	s.close(reason)
	s.running.Wait()
}

func (s *Server) close(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed, s.reason = true, reason
	close(s.closing)
	s.gathering.stop()
	for c := range s.greeted {
		c.end(errStopping)
	}
}

// SetUnsure tells all gateways whether this coordinator can't be sure to lead. They ask others then, and stay.
func (s *Server) SetUnsure(unsure bool) {
	if s.unsure.Swap(unsure) == unsure {
		return
	}
	for _, g := range s.all() {
		g.acknowledgeNow()
	}
}

// heard takes in which epoch a gateway knows of. It reports whether that is above this coordinator's.
func (s *Server) heard(epoch uint64) bool {
	if epoch <= s.Epoch {
		return false
	}
	if s.HigherEpoch != nil {
		s.HigherEpoch(epoch)
	}
	return true
}

// greets notes that nobody owns a connection yet, so that Close ends it.
func (s *Server) greets(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.greeted[c] = true
	}
	return !s.closed
}

func (s *Server) hasGreeted(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.greeted, c)
}

// gateway finds a gateway, or takes it in as a new one. A fault says why it can't be linked.
func (s *Server) gateway(id string, isNew bool) (g *Gateway, fault error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g = s.gateways[id]
	switch {
	case s.closed:
		return nil, errStopping
	case g != nil:
		return g, nil
	case s.lost[id] || !isNew:
		return nil, errIsGone
	case len(s.gateways) >= maxGateways:
		return nil, errTooMany
	}
	g = newGateway(s, id)
	s.gateways[id] = g
	s.running.Go(g.run)
	return g, nil
}

// forget refuses a gateway from now on. Those that were lost long ago are refused only because they know the store.
func (s *Server) forget(g *Gateway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.gateways, g.id)
	s.lost[g.id] = true
	s.lostIDs = append(s.lostIDs, g.id)
	if len(s.lostIDs) > maxLost {
		delete(s.lost, s.lostIDs[0])
		s.lostIDs = s.lostIDs[1:]
	}
}

func (s *Server) closeReason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// hijacker wraps the connection of a WebSocket upgrade in a timedConn.
type hijacker struct {
	http.ResponseWriter
	conn *timedConn
}

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn.Conn = conn
	return h.conn, buffered, err
}
