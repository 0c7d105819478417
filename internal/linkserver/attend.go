package linkserver

// The goroutine of a gateway: it takes its links one after the other, calls the Handler for what comes, and has the clocks
// that run until the gateway is lost.

import (
	"fmt"
	"log/slog"
	"time"

	"coordinator/internal/link"
)

const (
	graceClosed = 10 * time.Second // after the end of a link, or the start
	graceSilent = 30 * time.Second // after the last frame
	syncWithin  = 30 * time.Second // after the first HELLO, while others are gathered
)

// attendance is the part of a gateway that run alone uses.
type attendance struct {
	current   *connection     // that is there, welcomed or not
	durable   <-chan struct{} // closed when the gateway is in the store; nil: it is
	absent    bool            // Handler.Absent was called
	wasLinked bool            // or about to be
	held      []link.Frame    // that have come, and that the gathering has no room for

	grace       *time.Timer
	graceReason error

	syncing  *time.Timer   // nil: there was no HELLO yet, or none is awaited
	syncFrom time.Time     // when it was started
	syncLeft time.Duration // then
}

// run ends when the gateway is lost or the server closed.
func (g *Gateway) run() {
	g.grace = time.NewTimer(graceClosed)
	g.graceReason = errNeverLinked
	defer g.grace.Stop()
	defer g.stopSyncing()
	if !g.known {
		g.durable = g.server.AddGateway(g.id)
	}
	for g.step() {
	}
}

func (g *Gateway) step() (goOn bool) {
	var batches <-chan []link.Frame
	var over, released <-chan struct{}
	var late <-chan time.Time
	if g.current != nil {
		over = g.current.over
		if g.held == nil {
			batches = g.current.batches
		} else {
			released = g.server.gathering.over
		}
	}
	if g.syncing != nil {
		late = g.syncing.C
	}
	select {
	case c := <-g.arrivals:
		g.arrive(c)
	case <-g.durable:
		g.durable = nil
		g.welcome()
	case batch, open := <-batches:
		if open {
			g.handle(batch)
		} else {
			g.leave()
		}
	case <-over:
		g.leave()
	case <-released:
		batch := g.held
		g.held = nil
		g.handle(batch)
	case <-g.grace.C:
		g.lose(g.graceReason)
	case <-late:
		g.syncing = nil
		if g.server.gathering.awaits(g) {
			g.lose(errNotSynced)
		}
	case <-g.doomed:
	case <-g.server.closing:
		g.goodbye()
		return false
	}
	if reason := g.lostFor(); reason != nil {
		g.bury(reason)
		return false
	}
	return true
}

// arrive takes over a link. The one before it ends first, with all that has come over it.
func (g *Gateway) arrive(c *connection) {
	g.leaveFor(errReplaced)
	g.current = c
	g.grace.Stop()
	c.goroutines.Go(c.read)
	if g.durable == nil {
		g.welcome()
	}
}

// welcome answers HELLO, once the gateway is in the store.
func (g *Gateway) welcome() {
	c := g.current
	if c == nil || g.lostFor() != nil {
		return
	}
	if c.hello.Numbers > 0 {
		g.server.Handler.Numbers(c.hello.Numbers)
	}
	g.awaitSynced()
	resumed, acked, fault := g.link(c)
	if fault != nil {
		g.current = nil
		g.server.refuseLater(c, errIsGone)
		g.lose(fault)
		return
	}
	c.welcomed = true
	how := "first link"
	if resumed {
		how = "link goes on"
	}
	g.say(slog.LevelInfo, c, "gateway linked", how, slog.String("version", c.hello.Version))
	if !g.server.sameControl(c) {
		g.say(slog.LevelWarn, c, "gateway lets in other peers than the coordinator", "its CONTROL_SECRET is another one")
	}
	if g.absent {
		g.absent = false
		g.server.Handler.Present(g)
	}
	callAll(acked)
}

// awaitSynced starts the clock of a gateway that is waited for. If the store is new, that is each one that comes in time.
func (g *Gateway) awaitSynced() {
	if g.server.StoreIsNew && !g.wasLinked {
		g.server.gathering.await(g)
	}
	g.wasLinked = true
	if g.syncing == nil && g.server.gathering.awaits(g) {
		g.startSyncing(syncWithin)
	}
}

// say logs what a gateway that is out of order can cause again and again.
func (g *Gateway) say(level slog.Level, c *connection, what, reason string, more ...slog.Attr) {
	g.server.Refusals.SayOf(level, "gateway "+g.id, c.remote, what, reason, append([]slog.Attr{slog.String("gateway", g.id)}, more...)...)
}

// handle takes in frames that have come together. Those after one that ends the link, or that there is no room for, are sent
// again over the next one.
func (g *Gateway) handle(batch []link.Frame) {
	for i := range batch {
		if g.current.useless {
			return
		}
		held, err := g.handleFrame(&batch[i])
		if held {
			g.hold(batch[i:])
			return
		}
		if err != nil {
			g.current.useless = true
			g.current.end(err)
			return
		}
	}
}

func (g *Gateway) handleFrame(f *link.Frame) (held bool, err error) {
	if !g.current.welcomed {
		return false, errUnexpected
	}
	payload, err := read(f)
	if err != nil {
		return false, err
	}
	if m, ok := payload.(*link.Message); ok && !g.server.gathering.takes(g, len(m.Text)+messageOverhead) {
		return true, nil
	}
	if ok, err := g.receive(f); !ok {
		return false, err
	}
	h := g.server.Handler
	switch p := payload.(type) {
	case *link.Attach:
		h.Attach(g, f.Session, *p)
	case *link.Message:
		h.Message(g, f.Session, *p)
	case *link.Gone:
		h.Gone(g, f.Session, *p)
	case *link.Reason:
		if g.server.heard(p.Epoch) { // it is not lost, but has gone to the coordinator that leads
			return false, errHigherEpoch
		}
		g.lose(byeError(*p))
	case *link.Late:
		h.Late(g, f.Session, *p)
	case *link.Count:
		acked, ok := g.acknowledge(p.Number)
		if !ok {
			return false, errNotSent
		}
		callAll(acked)
	default:
		switch f.Kind {
		case link.KindAlive:
			h.Alive(g, f.Session)
		case link.KindSynced:
			g.server.gathering.complete(g)
		}
	}
	return false, nil
}

// byeError is why a gateway leaves, in its own words.
func byeError(r link.Reason) error {
	const most = 200
	return fmt.Errorf("%w: %s", ErrLeft, r.Text[:min(len(r.Text), most)])
}

// hold stops the reading of a link until gathering is over. The gateway's clock stands still meanwhile.
func (g *Gateway) hold(batch []link.Frame) {
	if g.current.ended() != nil {
		g.current.useless = true
		g.server.gathering.letGo(g)
		return
	}
	g.held = batch
	if g.syncing != nil {
		g.syncLeft -= time.Since(g.syncFrom)
		g.syncing.Stop()
	}
	g.say(slog.LevelWarn, g.current, "gateway is not read for a while", "peers have said more than 256 MiB while no coordinator was there")
}

func (g *Gateway) startSyncing(left time.Duration) {
	g.syncFrom, g.syncLeft = time.Now(), left
	g.syncing = time.NewTimer(left)
}

func (g *Gateway) stopSyncing() {
	if g.syncing != nil {
		g.syncing.Stop()
		g.syncing = nil
	}
}

// leave ends a link that has ended, or can't go on.
func (g *Gateway) leave() { g.leaveFor(errBroken) }

func (g *Gateway) leaveFor(reason error) {
	c := g.current
	if c == nil {
		return
	}
	c.end(reason)
	if g.held != nil {
		c.useless, g.held = true, nil
		g.server.gathering.letGo(g)
		if g.syncing != nil {
			g.startSyncing(g.syncLeft)
		}
	}
	for batch := range c.batches { // it had come
		g.handle(batch)
	}
	c.goroutines.Wait()
	g.current = nil
	if c.welcomed {
		g.unlink()
	}
	if g.lostFor() != nil {
		return
	}
	reason = c.ended()
	level, grace := slog.LevelWarn, graceClosed
	g.graceReason = errNotBack
	switch reason {
	case errSilent, errStalled:
		grace, g.graceReason = graceSilent-silence, errFellSilent
	case errReplaced:
		level = slog.LevelInfo
	}
	g.grace.Reset(grace)
	if !c.welcomed {
		g.say(level, c, refused, reason.Error())
		return
	}
	g.say(level, c, "gateway is absent: its link has ended", reason.Error(), slog.Duration("gone_in", grace))
	if !g.absent {
		g.absent = true
		g.server.Handler.Absent(g)
	}
}

// bury tells that the gateway is lost.
func (g *Gateway) bury(reason error) {
	if c := g.current; c != nil {
		c.end(errIsLost)
		c.drain()
		g.current = nil
	}
	if g.last != nil {
		g.unlink()
	}
	g.server.Log.Warn("gateway is gone: what was live on its peers ends, and it is refused from now on", "gateway", g.id, "reason", reason.Error())
	g.server.Handler.Lost(g, reason)
	g.server.forget(g)
	close(g.over)
	g.server.gathering.complete(g)
	callAll(g.buried())
}

// goodbye ends the link because the server closes.
func (g *Gateway) goodbye() {
	g.bye(g.server.closeReason())
	c := g.current
	if c == nil {
		return
	}
	if !c.welcomed {
		c.end(errStopping)
	}
	c.drain()
	c.end(errStopping)
}
