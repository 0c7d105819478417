// Package gateway holds peers' control sockets for a coordinator that may die and come back. It decides nothing.
//
// What is kept and said to whom is in keeper.go, which is pure. Around it: the peers' sessions (peers.go), the link to the
// coordinator (leaders.go finds who leads, linking.go dials and greets, active.go reads and writes, lookout.go asks whether another one
// has taken over), and requests that are passed on (forward.go).
package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"coordinator/internal/control"
	"coordinator/internal/link"
	"coordinator/internal/secret"
)

const (
	denyEvery     = 500 * time.Millisecond // so that a publisher is denied within 18.5 s
	readyWithin   = 20 * time.Second
	goodbyeWithin = time.Second // for BYE, and the coordinator's end of the link
)

// Config is what a gateway is made of.
type Config struct {
	URLs          []*url.URL    // bases of coordinators, without a slash at the end
	Secret        secret.Secret // that is shared with them
	ControlSecret secret.Secret // "": none
	Version       string        // of the program
	Log           *slog.Logger

	// for tests
	Dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: the network
	TLS  *tls.Config                                                          // nil: the system's authorities
}

// Gateway is made by New, started once and stopped once.
type Gateway struct {
	// set once
	Config
	forwarder *forwarder
	running   sync.WaitGroup
	end       context.CancelFunc
	linking   chan struct{} // closed when there will be no link any more

	bytesIn, bytesOut atomic.Int64 // of frames, over all links

	mu sync.Mutex // for the keeper; nothing waits under it
	// guarded by mu
	id         *identity
	link       *activeLink // nil: none
	stopping   bool
	target     *url.URL      // of the last link; nil: none was
	linked     chan struct{} // closed at the next link
	links      int           // since the start
	heard      time.Time     // when the coordinator has last said something
	leftFor    uint64        // the highest epoch that a coordinator was left for; it is looked for, and not obeyed before its WELCOME
	knownStore time.Time     // when the coordinator of the store that the keeper knows was last linked
}

// identity is what a gateway is to its coordinator, from the start or the end of the one before. Its sessions end with it.
type identity struct {
	*keeper
	peers map[uint64]*peer
	open  sync.WaitGroup // of peers
}

func newIdentity() *identity {
	return &identity{keeper: newKeeper(rand.Text()), peers: map[uint64]*peer{}}
}

// New makes a gateway that does nothing yet.
func New(cfg Config) *Gateway {
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	g := &Gateway{Config: cfg, id: newIdentity(), linked: make(chan struct{}), linking: make(chan struct{}), end: func() {}}
	g.forwarder = newForwarder(g)
	return g
}

// Start begins to look for a coordinator.
func (g *Gateway) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	g.end = cancel
	g.running.Go(func() {
		defer close(g.linking)
		g.keepLink(ctx)
	})
	g.running.Go(func() { g.denyLate(ctx) })
}

// Stop tells the coordinator that this gateway stops, so that it need not wait for it, and ends the link. Peers' sockets are
// closed after it, by whoever has them. It is called once, started or not.
func (g *Gateway) Stop() {
	if g.sayBye() {
		select {
		case <-g.linking:
		case <-time.After(goodbyeWithin):
		}
	}
	g.end()
	g.running.Wait()
	g.forwarder.close()
}

// sayBye reports whether there is a link to say it on.
func (g *Gateway) sayBye() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopping = true
	l := g.link
	if l == nil {
		return false
	}
	g.sendLocked(g.id.frame(link.With(link.KindBye, 0, &link.Reason{Text: "the gateway stops"})))
	l.closing = true
	g.unlinkLocked()
	return true
}

// denyLate denies publish requests that have waited for too long.
func (g *Gateway) denyLate(ctx context.Context) {
	tick := time.NewTicker(denyEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			g.denyOnce(now)
		case <-ctx.Done():
			return
		}
	}
}

func (g *Gateway) denyOnce(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.doLocked(nil, g.id.deny(now))
}

// doLocked does what the keeper has asked for. None of it waits, and so all of it happens in the order of the keeper's calls.
func (g *Gateway) doLocked(frames []link.Frame, orders []order) {
	g.sendLocked(frames)
	for _, o := range orders {
		p := g.id.peers[o.session]
		if p == nil {
			continue // its socket has closed meanwhile
		}
		switch {
		case o.close != nil:
			if o.close == errKeptMost {
				g.Log.Error("memory for what the coordinator has to be told is full; the session that keeps most is closed, and what it kept is lost",
					"type", p.Kind, "remote", p.Remote, "limit_bytes", maxKeptInAll)
			}
			p.session.Close(o.close)
		case o.pause:
			g.Log.Warn("peer is not read for now: the coordinator has not taken what it said", "type", p.Kind, "remote", p.Remote, "limit_bytes", maxKept)
			p.session.Pause()
		case o.resume:
			g.Log.Info("peer is read again", "type", p.Kind, "remote", p.Remote)
			p.session.Resume()
		case o.probe:
			p.session.Probe(p.alive)
		default:
			p.session.SendText(bytes.Clone(o.text))
		}
	}
	if g.id.overflows() {
		g.id.forgetTerm() // all of it is told to the next one
		if g.link != nil {
			g.Log.Error("coordinator acknowledges nothing; the link is begun anew", "limit_bytes", maxUnacknowledged)
			g.link.end(errOverflow)
			g.unlinkLocked()
		}
	}
}

// sendLocked queues frames for the link. Without one they are lost, or kept by the keeper.
func (g *Gateway) sendLocked(frames []link.Frame) {
	if g.link != nil && len(frames) > 0 {
		g.link.queue = append(g.link.queue, frames...)
		g.link.wakeWriter()
	}
}

// unlinkLocked says that there is no link any more.
func (g *Gateway) unlinkLocked() {
	if g.link != nil {
		g.link = nil
		g.id.unlinked()
		g.knownStore = time.Now()
	}
}

// becomeAnother ends the identity: all sockets are closed, and the next link is that of a new gateway. It returns when they
// are gone.
func (g *Gateway) becomeAnother(reason error) (closed int) {
	old, closed := g.changeIdentity(reason)
	old.open.Wait()
	return closed
}

func (g *Gateway) changeIdentity(reason error) (old *identity, closed int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old = g.id
	g.id = newIdentity()
	g.leftFor = 0
	for _, p := range old.peers {
		p.session.Close(reason)
	}
	return old, len(old.peers)
}

// Ready tells whether a coordinator has answered lately.
func (g *Gateway) Ready() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.stopping && !g.heard.IsZero() && time.Since(g.heard) <= readyWithin
}

// State is what an operator sees of one moment.
type State struct {
	Sockets             map[control.Kind]int
	Sessions            int // those with a socket, and those that the coordinator has not been told the end of
	Linked              bool
	Links               int // made since the start
	BytesIn, BytesOut   int // of frames, over all of them
	Kept, KeptBytes     int // messages
	Memos               int
	UnacknowledgedBytes int
	Denied              int // requests
}

// State looks at all sessions.
func (g *Gateway) State() State {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := State{
		Sockets:             map[control.Kind]int{},
		Sessions:            len(g.id.sessions),
		Linked:              g.link != nil,
		Links:               g.links,
		BytesIn:             int(g.bytesIn.Load()),
		BytesOut:            int(g.bytesOut.Load()),
		KeptBytes:           g.id.size,
		UnacknowledgedBytes: g.id.unackedN,
		Denied:              g.id.denied,
	}
	for _, p := range g.id.peers {
		s.Sockets[p.Kind]++
	}
	for _, session := range g.id.sessions {
		s.Kept += len(session.kept)
		s.Memos += len(session.memos)
	}
	return s
}
