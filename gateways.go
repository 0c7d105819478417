package main

// Gateways: processes that hold the control sockets of peers, so that these outlive this process. Their links are the business
// of internal/linkserver. Here is what comes over them: sessions, what their peers say, and that gateways come and go. After a
// start all of it is gathered first, and the registry makes its state again from that (registry_restore.go); then a session at
// a gateway is like one whose socket is here.

import (
	"cmp"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"coordinator/internal/buildinfo"
	"coordinator/internal/control"
	"coordinator/internal/link"
	"coordinator/internal/linkserver"
	"coordinator/internal/logs"
	"coordinator/internal/outbox"
	"coordinator/internal/wire"
)

var (
	errBadKind     = errors.New("session is of a kind that this version does not know")
	errBadAddress  = errors.New("session has no address that a peer can have")
	errBadMemo     = errors.New("memo can't be read")
	errBadNumber   = errors.New("its identity can't have been given")
	errKnownID     = errors.New("another session has its identity")
	errUnexpected  = errors.New("gateway shows a session of an earlier coordinator that nobody waits for any more")
	errGatewayGone = errors.New("its gateway is gone")
)

// gateways takes in what comes over links: it is their linkserver.Handler.
type gateways struct {
	// set once
	c       *coordinator
	log     *slog.Logger
	links   *linkserver.Server
	passing *passing
	closing chan struct{} // closed when nothing is passed on any more
	ended   sync.WaitGroup

	// phase is held for reading while anything is taken in, and for writing while what was gathered is restored.
	phase sync.RWMutex
	// guarded by phase
	restored bool
	store    outbox.Cluster // as it was at the start; once restored, only its identity

	mu sync.Mutex
	// guarded by mu
	at  map[string]map[uint64]*gatewaySession // gateway, number of the session there
	ids map[uint64]bool                       // identities of these sessions
}

// newGateways begins to wait for the gateways that are known. It is called once nothing else of the coordinator is missing.
func newGateways(c *coordinator, cfg *Config, refusals *logs.Refusals, log *slog.Logger) *gateways {
	h := &gateways{
		c: c, log: log, store: c.events.cluster, closing: make(chan struct{}),
		at: map[string]map[uint64]*gatewaySession{}, ids: map[uint64]bool{},
	}
	c.events.cluster = outbox.Cluster{} // it may be large, and is of use up to the restore only
	h.passing = newPassing(c.events.keepsEvents(), c.mandate)
	h.passing.begin()
	c.registry.await(h.passing, h.useNumbers)
	h.links = linkserver.New(linkserver.Config{
		Store:         h.store.StoreID,
		Term:          rand.Text(),
		Epoch:         c.mandate.Epoch(),
		Known:         h.store.Gateways,
		StoreIsNew:    h.store.IsNew,
		Secret:        cfg.GatewaySecret,
		ControlSecret: cfg.ControlSecret,
		Version:       buildinfo.Version(),
		Handler:       h,
		HigherEpoch:   c.mandate.Heard,
		AddGateway:    func(id string) <-chan struct{} { return c.events.Change(outbox.AddGateway(id)) },
		Log:           log,
		Refusals:      refusals,
	})
	c.links = h.links.Gateways
	if len(h.store.Gateways) > 0 {
		log.Info("waiting for the gateways that the store knows, and for what they hold", "gateways", len(h.store.Gateways))
	}
	h.ended.Go(func() {
		select {
		case <-h.links.Gathered():
			h.restore()
		case <-h.closing:
		}
	})
	h.ended.Go(func() { h.passing.run(h.closing) })
	return h
}

// storeID is the identity of the store, "" if no gateway may link.
func (h *gateways) storeID() string {
	if h == nil {
		return ""
	}
	return h.links.Store
}

// close says goodbye on all links, and why. Nothing is passed on to gateways or taken from them when it has returned.
func (h *gateways) close(why string) {
	h.links.Close(why)
	close(h.closing)
	h.ended.Wait()
}

// leaveRequests ends what is under way for publish requests at gateways, once the coordinator stops.
func (h *gateways) leaveRequests() {
	for _, s := range h.all() {
		if p, ok := s.peer.(*serverPeerSession); ok {
			p.cancel() // they wait for the next coordinator
		}
	}
}

// useNumbers writes to the store that numbers up to last may have been given: see registry.await.
func (h *gateways) useNumbers(last uint64) { h.c.events.Change(outbox.UseNumbers(last)) }

// Numbers implements linkserver.Handler.
func (h *gateways) Numbers(highest uint64) { h.c.registry.skipNumbers(highest) }

// Attach implements linkserver.Handler: it takes in a session.
func (h *gateways) Attach(g *linkserver.Gateway, number uint64, a link.Attach) {
	h.phase.RLock()
	defer h.phase.RUnlock()
	s, err := h.newSession(g, number, a)
	if err != nil {
		h.refuse(g, number, a.Remote, err)
		return
	}
	g.Send(link.With(link.KindAttached, number, &link.Attached{ID: s.at.id}), nil)
	s.peer.begin(s, s.at)
	if h.restored {
		s.peer.join()
	}
}

func (h *gateways) newSession(g *linkserver.Gateway, number uint64, a link.Attach) (*gatewaySession, error) {
	s := &gatewaySession{gateways: h, gateway: g, number: number, remote: a.Remote}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case len(a.Remote) > 100 || control.Kind(a.Kind) != control.HLS && (!control.IsAddress(a.IP) || a.Port > 65535):
		return nil, errBadAddress
	case a.ID > maxNumber:
		return nil, errBadNumber
	case h.restored && (len(a.Memos) > 0 || a.ID != 0):
		return nil, errUnexpected
	case a.ID != 0 && (h.ids[a.ID] || !h.c.registry.claimID(a.ID)) || h.at[g.ID()][number] != nil:
		return nil, errKnownID
	}
	s.info = serverInfo{kind: serverKind(a.Kind), ip: a.IP, port: int(a.Port), ssl: a.SSL}
	switch control.Kind(a.Kind) {
	case control.RTMP, control.WS:
		s.peer = &serverPeerSession{c: h.c, info: s.info}
	case control.HLS:
		s.peer, s.isEncoder = &encoderPeerSession{c: h.c}, true
	default:
		return nil, errBadKind
	}
	if err := s.readMemos(a.Memos); err != nil {
		return nil, err
	}
	s.at = attachment{id: a.ID, since: time.Unix(0, a.Since), gateway: g.ID(), keeper: s}
	if s.at.id == 0 {
		s.at.id = h.c.registry.newID()
	}
	s.applied = h.store.Applied[s.at.id]
	h.ids[s.at.id] = true
	if h.at[g.ID()] == nil {
		h.at[g.ID()] = map[uint64]*gatewaySession{}
	}
	h.at[g.ID()][number] = s
	return s, nil
}

func (h *gateways) refuse(g *linkserver.Gateway, number uint64, remote string, err error) {
	h.log.Error("session at a gateway is refused: its connection is closed and what was live on it ends",
		"gateway", g.ID(), "remote", logs.Loggable(remote), "reason", err.Error())
	g.Send(link.With(link.KindRefused, number, &link.Reason{Text: err.Error()}), nil)
}

func (h *gateways) session(g *linkserver.Gateway, number uint64) *gatewaySession {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at[g.ID()][number]
}

// Message implements linkserver.Handler: a peer has said something. While gathering only publish requests are looked at, so
// that keys are verified meanwhile.
func (h *gateways) Message(g *linkserver.Gateway, number uint64, m link.Message) {
	h.phase.RLock()
	defer h.phase.RUnlock()
	s := h.session(g, number)
	if s == nil {
		return // it was refused
	}
	k := keptMessage{number: m.Number, said: saidBefore(m.Age), text: m.Text}
	if !h.restored {
		if parsed, err := wire.Parse(m.Text); err != nil || parsed.Method != "PUBLISH-REQUEST" {
			s.kept = append(s.kept, k)
			return
		}
	}
	s.take(k)
}

// saidBefore is when something was said, by its age in milliseconds.
func saidBefore(age uint64) time.Time {
	return time.Now().Add(-time.Duration(min(age, maxAge)) * time.Millisecond)
}

// maxAge bounds the age of a message, in milliseconds.
const maxAge = 30 * 24 * 3600 * 1000

// Gone implements linkserver.Handler: the socket of a session has closed.
func (h *gateways) Gone(g *linkserver.Gateway, number uint64, n link.Gone) {
	h.phase.RLock()
	defer h.phase.RUnlock()
	s := h.session(g, number)
	if s == nil {
		return
	}
	k := keptMessage{number: n.Number, said: saidBefore(n.Age), gone: true, reason: n.Reason}
	if !h.restored {
		s.kept = append(s.kept, k)
		return
	}
	s.take(k)
}

// Late implements linkserver.Handler: a publish request was answered that the gateway had denied already.
func (h *gateways) Late(g *linkserver.Gateway, number uint64, l link.Late) {
	h.phase.RLock()
	defer h.phase.RUnlock()
	s := h.session(g, number)
	if s == nil || l.Publication == 0 {
		return // the answer was a denial, too
	}
	if p, ok := s.peer.(*serverPeerSession); ok && p.server != nil {
		h.c.logAndCount(h.c.registry.late(p.server, l.Publication, time.Now()))
	}
}

// Alive implements linkserver.Handler.
func (h *gateways) Alive(g *linkserver.Gateway, number uint64) {
	h.phase.RLock()
	defer h.phase.RUnlock()
	if s := h.session(g, number); s != nil {
		s.answered()
	}
}

// Absent, Present and Lost implement linkserver.Handler.

func (h *gateways) Absent(g *linkserver.Gateway) {
	h.phase.RLock()
	defer h.phase.RUnlock()
	h.c.registry.gatewayAbsent(g.ID())
}

func (h *gateways) Present(g *linkserver.Gateway) {
	h.phase.RLock()
	defer h.phase.RUnlock()
	h.c.logAndCount(h.c.registry.gatewayBack(g.ID(), time.Now()))
}

func (h *gateways) Lost(g *linkserver.Gateway, reason error) {
	h.c.metrics.gatewayGone(errors.Is(reason, linkserver.ErrLeft))
	h.phase.RLock()
	defer h.phase.RUnlock()
	sessions := h.takeAll(g.ID())
	changes := []outbox.Change{outbox.RemoveGateway(g.ID())}
	for _, s := range sessions {
		if s.isEncoder {
			changes = append(changes, outbox.ForgetSession(s.at.id))
		}
	}
	h.c.events.Change(changes...) // before the events that follow
	for _, s := range sessions {
		if h.restored || !s.isEncoder { // before that no encoder counts as registered
			s.peer.lost(errGatewayGone)
		}
	}
	if h.restored {
		h.c.logAndCount(h.c.registry.leaveGateways(func(gateway string) bool { return gateway == g.ID() }, time.Now()))
	}
}

// takeAll forgets all sessions of a gateway.
func (h *gateways) takeAll(gateway string) []*gatewaySession {
	h.mu.Lock()
	defer h.mu.Unlock()
	var sessions []*gatewaySession
	for _, s := range h.at[gateway] {
		sessions = append(sessions, s)
		delete(h.ids, s.at.id)
	}
	delete(h.at, gateway)
	slices.SortFunc(sessions, byID)
	return sessions
}

func byID(a, b *gatewaySession) int { return cmp.Compare(a.at.id, b.at.id) }

// forget drops a session that its gateway has forgotten.
func (h *gateways) forget(s *gatewaySession) {
	h.mu.Lock()
	delete(h.ids, s.at.id)
	delete(h.at[s.at.gateway], s.number)
	h.mu.Unlock()
	if s.isEncoder {
		h.c.events.Change(outbox.ForgetSession(s.at.id))
	}
}

// restore has the registry make its state again from what was gathered, and takes in what peers have said meanwhile.
func (h *gateways) restore() {
	h.phase.Lock()
	defer h.phase.Unlock()
	began := time.Now()
	in := restoration{gateways: map[string]bool{}, tails: h.store.Tails, lossy: !h.c.mandate.IsForGood()}
	var absent []string
	for _, g := range h.links.Gateways() {
		in.gateways[g.ID] = true
		if !g.Linked {
			absent = append(absent, g.ID)
		}
	}
	for _, a := range h.store.Announced {
		in.announced = append(in.announced, announcedStream{queue: a.Queue, channel: a.Channel, id: a.StreamID, previous: a.Previous, passthrough: a.Passthrough, lastSeq: uint32(a.LastSeq)})
	}
	sessions := h.all()
	streams := 0
	for _, s := range sessions {
		s.export(&in)
		streams += len(s.streams)
	}
	rs := h.c.registry.restore(in, time.Now())
	for _, s := range sessions {
		s.peer.restored(h.c.registry.members(s.at.id))
	}
	for _, k := range inOrderSaid(sessions) {
		k.session.take(k.keptMessage)
	}
	for _, gateway := range absent {
		h.c.registry.gatewayAbsent(gateway)
	}
	h.c.logAndCount(rs.restored(time.Now()))
	h.storeAgain(rs.lostByStore())
	h.forgetOthers(sessions)
	for _, s := range sessions {
		s.memos, s.publications, s.streams = nil, nil, nil
	}
	h.store = outbox.Cluster{StoreID: h.store.StoreID}
	h.restored = true
	if len(sessions) > 0 {
		h.log.Info("cluster is there again: its peers have stayed connected to gateways", "sessions", len(sessions), "streams", streams,
			"gateways", len(in.gateways), "took", time.Since(began))
	}
	h.c.goUp()
}

// storeAgain writes what a database has lost that went on without its last commits.
func (h *gateways) storeAgain(streams []announcedStream) {
	var changes []outbox.Change
	for _, a := range streams {
		changes = append(changes, outbox.KnowStream(outbox.Announced{Queue: a.queue, AnnouncedStream: outbox.AnnouncedStream{Channel: a.channel, StreamID: a.id, Previous: a.previous, Passthrough: a.passthrough, LastSeq: uint64(a.lastSeq)}}, a.fulfills))
	}
	if len(changes) > 0 {
		h.log.Error("the database has lost commits: events that it held and that were not delivered are lost, and what the application knows is written to it again",
			"streams", len(changes))
	}
	h.c.events.Change(changes...)
}

// saidMessage is a message of a session.
type saidMessage struct {
	session *gatewaySession
	keptMessage
}

// inOrderSaid empties the sessions' kept: first what servers have said, session by session, then what all encoders have said, by
// its time. So a stream that was lost is closed before another encoder announces the one in its place. Messages of one session stay
// in order.
func inOrderSaid(sessions []*gatewaySession) []saidMessage {
	var servers, encoders []saidMessage
	for _, s := range sessions {
		last := time.Time{}
		for _, k := range s.kept {
			if k.said.Before(last) { // ages are not exact
				k.said = last
			}
			last = k.said
			if s.isEncoder {
				encoders = append(encoders, saidMessage{s, k})
			} else {
				servers = append(servers, saidMessage{s, k})
			}
		}
		s.kept = nil
	}
	slices.SortStableFunc(encoders, func(a, b saidMessage) int { return a.said.Compare(b.said) })
	return append(servers, encoders...)
}

func (h *gateways) all() []*gatewaySession {
	h.mu.Lock()
	defer h.mu.Unlock()
	var sessions []*gatewaySession
	for _, at := range h.at {
		for _, s := range at {
			sessions = append(sessions, s)
		}
	}
	slices.SortFunc(sessions, byID)
	return sessions
}

// forgetOthers forgets in the store, of sessions that no gateway holds any more, which of their messages were applied.
func (h *gateways) forgetOthers(sessions []*gatewaySession) {
	here := map[uint64]bool{}
	for _, s := range sessions {
		here[s.at.id] = true
	}
	var changes []outbox.Change
	for id := range h.store.Applied {
		if !here[id] {
			changes = append(changes, outbox.ForgetSession(id))
		}
	}
	h.c.events.Change(changes...)
}

// maxNumber is the highest identity or number that a coordinator gives: JSON carries no higher one.
const maxNumber = 1<<53 - 1
