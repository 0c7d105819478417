package linkserver

// What is sent to a gateway and what is acknowledged, in this term. The rest of a gateway is in attend.go.

import (
	"errors"
	"sync"
	"time"

	"coordinator/internal/link"
)

const (
	// maxUnacknowledged bounds what waits for a gateway.
	maxUnacknowledged = 64 << 20

	frameOverhead = 64 // bytes of a frame beside its payload, in memory
)

func frameBytes(f *link.Frame) int { return len(f.Payload) + frameOverhead }

// ErrLeft is why a gateway is lost that has said BYE. Its own words follow.
var ErrLeft = errors.New("it has left")

// Why other gateways are lost.
var (
	errOverflow    = errors.New("more than 64 MiB are sent to it and not acknowledged")
	errNeverLinked = errors.New("it has not linked within 10 s of the start")
	errNotBack     = errors.New("it was not linked again within 10 s")
	errFellSilent  = errors.New("silent for 30 s")
	errNotSynced   = errors.New("it has not sent all that it keeps within 30 s")
	errForgot      = errors.New("it has forgotten what it had sent and received")
	errImpossible  = errors.New("it has received what was not sent, or not received what it has acknowledged")
)

// Gateway is a gateway in this term. Its methods may be called from anywhere.
type Gateway struct {
	// set once
	server   *Server
	id       string
	known    bool             // it is in the store already
	arrivals chan *connection // links whose HELLO is good
	doomed   chan struct{}    // poked when lost is set
	over     chan struct{}    // closed when it is lost, and that is told

	attendance // of run

	mu sync.Mutex
	// guarded by mu
	linked   *connection // that it is linked by; nil: none
	lost     error       // why
	told     bool        // lost, and nothing is kept for it
	closed   bool        // the server is: nothing is sent any more
	since    time.Time   // when it was linked, or became absent
	last     *connection // linked, or the one before
	number   uint64      // of the last frame to it
	written  uint64      // of the last frame that went into a link
	unacked  []sent      // all above the last that it has acknowledged
	size     int         // of unacked
	received uint64      // number of the last frame of it
	ackDue   bool        // one has come since the last ACK

	framesIn, framesOut, bytesIn, bytesOut uint64
}

// sent is a frame that may have to be sent again.
type sent struct {
	frame link.Frame
	acked func()
}

func newGateway(s *Server, id string) *Gateway {
	return &Gateway{
		server: s, id: id, arrivals: make(chan *connection), doomed: make(chan struct{}, 1), over: make(chan struct{}),
		since: time.Now(),
	}
}

func (g *Gateway) ID() string { return g.id }

// Send queues a frame, whose payload is not changed any more. It never waits and may be called under locks; frames leave in
// the order of the calls. acked, if there is one, is called once by a goroutine that holds no lock when the frame is
// acknowledged or the gateway was lost: after Handler.Lost, if that was not called before. After Server.Close it is not
// called.
func (g *Gateway) Send(f link.Frame, acked func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return
	case g.told:
		if acked != nil {
			g.server.late.call(acked)
		}
		return
	}
	if g.size+frameBytes(&f) > maxUnacknowledged {
		g.loseLocked(errOverflow)
	}
	if g.lost != nil {
		f.Payload = nil // it is not sent: only acked is of interest
	}
	g.queueLocked(f, acked)
}

func (g *Gateway) queueLocked(f link.Frame, acked func()) {
	g.number++
	f.Number = g.number
	g.unacked = append(g.unacked, sent{f, acked})
	g.size += frameBytes(&f)
	if g.linked != nil {
		poke(g.linked.wake)
	}
}

// lose is the end of a gateway: run does what follows.
func (g *Gateway) lose(reason error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loseLocked(reason)
}

func (g *Gateway) loseLocked(reason error) {
	if g.lost == nil {
		g.lost = reason
		poke(g.doomed)
	}
}

func (g *Gateway) lostFor() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lost
}

// link begins a link with what its HELLO says, or tells why the gateway is lost. What it had not acknowledged before is
// called by the caller.
func (g *Gateway) link(c *connection) (resumed bool, acked []func(), fault error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h, from := &c.hello, uint64(0)
	resumed = h.Store == g.server.Store && h.Term == g.server.Term
	switch {
	case g.lost != nil:
		return false, nil, errIsGone
	case resumed && (h.Received > g.written || h.Received < g.acknowledgedLocked()):
		return false, nil, errImpossible
	case resumed:
		from = h.Received
		acked = g.acknowledgeLocked(from)
	case g.received > 0 || g.acknowledgedLocked() > 0:
		return false, nil, errForgot
	}
	g.linked, g.last, g.since = c, c, time.Now()
	g.ackDue = g.server.unsure.Load() // the first one says so
	welcome := g.server.welcome(c, g.received)
	c.goroutines.Go(func() {
		c.write(func(b []byte, pingDue bool) ([]byte, bool) {
			if b = append(b, welcome...); len(b) > 0 { // alone in its message, as HELLO is
				welcome = nil
				return b, false
			}
			return g.toWrite(b, &from, pingDue)
		})
	})
	return resumed, acked, nil
}

// unlink ends what link began.
func (g *Gateway) unlink() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.linked, g.since = nil, time.Now()
}

// acknowledgedLocked is the number of the last frame that was acknowledged.
func (g *Gateway) acknowledgedLocked() uint64 { return g.number - uint64(len(g.unacked)) }

func (g *Gateway) acknowledgeLocked(upTo uint64) (acked []func()) {
	n := 0
	for ; n < len(g.unacked) && g.unacked[n].frame.Number <= upTo; n++ {
		if f := g.unacked[n].acked; f != nil {
			acked = append(acked, f)
		}
		g.size -= frameBytes(&g.unacked[n].frame)
	}
	clear(g.unacked[:n])
	if g.unacked = g.unacked[n:]; len(g.unacked) == 0 {
		g.unacked = nil
	}
	return acked
}

// acknowledge takes in an ACK.
func (g *Gateway) acknowledge(upTo uint64) (acked []func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if upTo > g.written {
		return nil, false
	}
	return g.acknowledgeLocked(upTo), true
}

// toWrite appends to an empty b what is to be written behind the frame with number from: frames, and ACK.
func (g *Gateway) toWrite(b []byte, from *uint64, pingDue bool) (batch []byte, last bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ackDue || pingDue {
		b = link.With(link.KindAck, 0, &link.Count{Number: g.received, Unsure: g.server.unsure.Load()}).Append(b)
		g.ackDue = false
		g.framesOut++
	}
	*from = max(*from, g.acknowledgedLocked())
	start := len(b)
	for _, f := range g.unacked[*from-g.acknowledgedLocked():] {
		if len(b) > start && len(b)+len(f.frame.Payload) > maxBatch || g.lost != nil {
			break
		}
		b = f.frame.Append(b)
		*from = f.frame.Number
		g.framesOut++
	}
	g.written = max(g.written, *from)
	g.bytesOut += uint64(len(b))
	return b, g.closed && *from == g.number
}

// acknowledgeNow has an ACK written, which says more than that.
func (g *Gateway) acknowledgeNow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ackDue = true; g.linked != nil {
		poke(g.linked.wake)
	}
}

// receive counts a frame of the gateway. It is false if there is nothing to be done with it.
func (g *Gateway) receive(f *link.Frame) (ok bool, fault error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lost != nil {
		return false, nil
	}
	if f.Kind != link.KindAck {
		if f.Number != g.received+1 {
			return false, errGap
		}
		g.received, g.ackDue = f.Number, true
	}
	g.framesIn++
	g.bytesIn += uint64(wireBytes(f))
	return true, nil
}

// bye makes BYE the last frame.
func (g *Gateway) bye(reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.linked != nil && g.lost == nil {
		g.queueLocked(link.With(link.KindBye, 0, &link.Reason{Text: reason}), nil)
	}
	g.closed = true
}

// buried ends a lost gateway: it returns what still waits.
func (g *Gateway) buried() (acked []func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	acked = g.acknowledgeLocked(g.number)
	g.told = true
	return acked
}

func (g *Gateway) status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{
		ID: g.id, Linked: g.linked != nil, Since: g.since, Unacknowledged: g.size,
		FramesIn: g.framesIn, FramesOut: g.framesOut, BytesIn: g.bytesIn, BytesOut: g.bytesOut,
	}
	if g.last != nil {
		s.Remote, s.Version, s.Protocol = g.last.remote, g.last.hello.Version, g.last.spoken
	}
	return s
}
