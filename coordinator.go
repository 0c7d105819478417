package main

// The use cases: join, publish, end, announce, stream closed, close command, drain, leave. The only file that knows the whole
// story: what peers and the application ask for comes in here, is checked, and becomes one transition of the registry.

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"coordinator/internal/control"
	"coordinator/internal/history"
	"coordinator/internal/linkserver"
	"coordinator/internal/logs"
	"coordinator/internal/outbox"
	"coordinator/internal/profile"
	"coordinator/internal/timeline"
	"coordinator/internal/wire"
)

const (
	// answerWithin bounds a publish request from its arrival to its answer, key verification and waiting for a slot
	// included. Time limits of the registry are kept up to expireEvery late, so that the answer goes out within 18 s; peers give
	// up at 20 s.
	answerWithin = 18*time.Second - expireEvery

	// expireEvery is how exactly the registry's time limits are kept.
	expireEvery = 250 * time.Millisecond

	// maxServerVerifications is how many key verifications one streaming server may have under way at once, so that one whose
	// channels all hang leaves the others their turns.
	maxServerVerifications = maxVerifyRequests / 2

	// maxPendingPublishes bounds the publish requests that wait for the application, over all sockets.
	maxPendingPublishes = 16384
	maxRequestIDBytes   = 256
	maxStreamIDLength   = 128

	// commandPatience is how long a command waits for the cluster to be there, and for gateways to have it.
	commandPatience = 10 * time.Second
)

var (
	errBadID        = errors.New("channel, key or request ID is malformed")
	errTooMany      = errors.New("too many publish requests at once")
	errNotKept      = errors.New("events can't be kept")
	errNotSure      = errors.New("the database does not answer: this coordinator can't be sure that it leads")
	errBadChannel   = errors.New("malformed channel")
	errBadStreamID  = errors.New("malformed stream ID")
	errNotPassedOn  = errors.New("the gateway that holds the session has not taken it in: it may be absent; ask again")
	errTooLate      = errors.New("its time is over")
	errEventsUnread = errors.New("undelivered events can't be read now: ask again")
	errStandby      = errors.New("standby")
)

// publishRequest is what a streaming server asks for a publisher. key is a secret.
type publishRequest struct {
	requestRef
	channel, key, userIP string
}

// serverSession is what a streaming server's session has for its publish requests.
type serverSession struct {
	// set once, before the first one
	turns  chan struct{}   // one item for each key verification under way; room for maxServerVerifications
	ctx    context.Context // of the requests: it ends with the session
	cancel context.CancelFunc

	// server is set once, before the first request. If the session came from its gateway while all was gathered, it is set when
	// the cluster is there, and stays nil if that gateway is gone before.
	server *server
}

func newServerSession() serverSession {
	s := serverSession{turns: make(chan struct{}, maxServerVerifications)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

type coordinator struct {
	// set once
	idMaxLength int
	log         *slog.Logger
	registry    *registry
	verifier    *keyVerifier
	events      *callbacks
	mandate     mandate
	startedAt   time.Time
	metrics     *metrics
	timeline    *timeline.Timeline
	history     *history.History
	links       func() []linkserver.Status // of gateways; newGateways sets it

	up chan struct{} // closed when the cluster is there: after a start, when gateways have shown what they hold

	stopping  atomic.Bool
	pending   atomic.Int64
	publishes sync.WaitGroup

	mu  sync.Mutex
	due []func() // guarded by mu: to be called when the cluster is there
}

// newCoordinator wires the use cases. The identities of peers and the numbers of publications count up from the time of
// the start in microseconds, so that no later process gives one of them again and all stay below 2^53. Should the clock
// have been set back, they begin behind those that the store knows of.
func newCoordinator(cfg *Config, log *slog.Logger, m *metrics, decisions *timeline.Timeline, verifier *keyVerifier, events *callbacks, mandate mandate) *coordinator {
	firstID := max(uint64(time.Now().UnixMicro()), events.LastQueue()+1, events.cluster.Numbers+1)
	c := &coordinator{
		idMaxLength: cfg.IDMaxLength,
		log:         log,
		registry: newRegistry(firstID, time.Now(), rand.Text, events, limits{
			failover:     cfg.EncoderFailover,
			encoderWait:  cfg.EncoderWait,
			startTimeout: cfg.StreamStartTimeout,
			placement:    placement(cfg.Placement),
			takeover:     cfg.PublishTakeover,
			extraEvents:  cfg.EventCallbackExtra,
		}),
		verifier:  verifier,
		events:    events,
		mandate:   mandate,
		startedAt: time.Now(),
		metrics:   m,
		timeline:  decisions,
		links:     func() []linkserver.Status { return nil },
		up:        make(chan struct{}),
	}
	c.history = history.New(c.reading)
	return c
}

// goUp says that the cluster is there. It is called once; without gateways before anything happens.
func (c *coordinator) goUp() {
	c.mu.Lock()
	due := c.due
	c.due = nil
	close(c.up)
	c.mu.Unlock()
	for _, f := range due {
		f()
	}
}

// whenUp calls f once the cluster is there: at once if it is, else when it comes up.
func (c *coordinator) whenUp(f func()) {
	if !c.addWhenUp(f) {
		f()
	}
}

func (c *coordinator) addWhenUp(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.up:
		return false
	default:
		c.due = append(c.due, f)
		return true
	}
}

// keepTime enforces the registry's time limits until ctx ends.
func (c *coordinator) keepTime(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.logAndCount(c.registry.expire(time.Now()))
		case <-ctx.Done():
			return
		}
	}
}

// stop denies publish requests from now on, those that wait included.
func (c *coordinator) stop() {
	c.stopping.Store(true)
	c.logAndCount(c.registry.stop())
}

// wait returns when no publish request is under way any more: once stopped and all control sockets gone, at once.
func (c *coordinator) wait() { c.publishes.Wait() }

// joinServer adds a streaming server that has connected.
func (c *coordinator) joinServer(at attachment, peer serverPeer, info serverInfo) *server {
	s := c.registry.joinServer(at, peer, info, time.Now())
	c.log.Info("streaming server connected", serverAttr(s.id), "type", string(s.kind), "ip", s.ip, "port", s.port, "ssl", s.ssl, gatewayAttr(at.gateway))
	return s
}

// leaveServer is called once when the connection of a streaming server is gone.
func (c *coordinator) leaveServer(s *server, reason error) {
	c.logServerGone(s, reason)
	c.logAndCount(c.registry.leaveServer(s, time.Now()))
}

func (c *coordinator) logServerGone(s *server, reason error) {
	c.log.Info("streaming server disconnected", serverAttr(s.id), "reason", reason.Error())
}

// joinEncoder adds an encoder at its first REGISTER. remote is where its connection comes from.
func (c *coordinator) joinEncoder(at attachment, peer encoderPeer, remote string, capacity int) *encoder {
	e, notices := c.registry.joinEncoder(at, peer, control.AddressOf(remote), capacity, time.Now())
	c.log.Info("encoder registered", encoderAttr(e.id), "remote", logs.Loggable(remote), "capacity", capacity, gatewayAttr(at.gateway))
	c.logAndCount(notices)
	return e
}

// resizeEncoder is every later REGISTER.
func (c *coordinator) resizeEncoder(e *encoder, capacity int) {
	notices, changed := c.registry.resize(e, capacity, time.Now())
	if changed {
		c.log.Info("encoder changed its capacity", encoderAttr(e.id), "capacity", capacity)
	}
	c.logAndCount(notices)
}

// leaveEncoder is called once when the connection of a registered encoder is gone.
func (c *coordinator) leaveEncoder(e *encoder, reason error) {
	c.logEncoderGone(e, reason)
	c.logAndCount(c.registry.leaveEncoder(e, time.Now()))
}

func (c *coordinator) logEncoderGone(e *encoder, reason error) {
	c.log.Info("encoder disconnected", encoderAttr(e.id), "reason", reason.Error())
}

// probeAnswered is called at the first sign of life of a session that was probed.
func (c *coordinator) probeAnswered(session uint64) {
	c.logAndCount(c.registry.probeAnswered(session, time.Now()))
}

// publish answers a publish request, with accept or deny on its server's peer, within answerWithin from when it was said. It
// returns at once; what has to wait for the application, or for the cluster to come up, runs beside the caller and ends with the
// connection.
func (c *coordinator) publish(s *serverSession, req publishRequest, said time.Time) {
	if c.validID(req.channel) {
		c.timeline.Add(requestEntry(s.server, req, time.Now()))
	}
	err := c.mayAsk(req)
	if err == nil && !time.Now().Before(said.Add(answerWithin)) { // it was long on its way; its gateway has denied it
		err = errTooLate
	}
	if err != nil {
		c.deny(s, req, err)
		return
	}
	if c.pending.Add(1) > maxPendingPublishes {
		c.pending.Add(-1)
		c.deny(s, req, errTooMany)
		return
	}
	c.publishes.Go(func() {
		defer c.pending.Add(-1)
		if err := c.verifyAndClaim(s, req, said.Add(answerWithin)); err != nil {
			c.deny(s, req, err)
		}
	})
}

// mayAsk returns an error if the request can be denied without asking the application.
func (c *coordinator) mayAsk(req publishRequest) error {
	switch {
	case c.stopping.Load():
		return errStopping
	case !c.validID(req.channel) || !c.validID(req.key) || len(req.id) > maxRequestIDBytes:
		return errBadID
	case c.registry.channelIsBusy(req.channel):
		return errChannelBusy
	case c.mandate.IsForGood() && c.events.Err() != nil:
		return errNotKept
	}
	return nil
}

func (c *coordinator) verifyAndClaim(s *serverSession, req publishRequest, answerBy time.Time) error {
	allowed, err := c.verify(s.ctx, s.turns, req)
	if err != nil {
		return err
	}
	if !c.awaitUp(s.ctx, time.Until(answerBy)) {
		return errRestoring
	}
	if s.server == nil {
		return errPeerGone
	}
	if err := c.awaitStore(s.ctx, answerBy); err != nil {
		return err
	}
	if !time.Now().Before(answerBy) {
		return errTooLate
	}
	notices, err := c.registry.claim(s.server, claimRequest{
		requestRef: req.requestRef,
		channel:    req.channel,
		key:        req.key,
		settings: encodeSettings{
			resolutions: profile.FormatResolutions(allowed.Resolutions),
			record:      profile.FormatRecord(allowed.Record),
			previews:    allowed.Previews.String(),
		},
		verified:    c.verifier.client != nil,
		passthrough: allowed.Passthrough,
		asked:       answerBy.Add(-answerWithin),
		answerBy:    answerBy,
	}, time.Now())
	c.logAndCount(notices)
	return err
}

// awaitStore waits until a publisher may be granted, as far as leading and keeping events are concerned. A full disk is not waited for; a
// database may be back, or another coordinator leads, before the time is over. When the term ends, requests at gateways wait for the
// next leader: they are let go of when nothing is passed on any more.
func (c *coordinator) awaitStore(session context.Context, answerBy time.Time) error {
	ctx, cancel := context.WithDeadline(session, answerBy)
	defer cancel()
	for {
		reason := errNotKept
		if c.mandate.AwaitValid(ctx) != nil {
			reason = errNotSure
		} else if c.events.Err() == nil {
			return nil
		} else if c.mandate.IsForGood() {
			return errNotKept
		}
		select {
		case <-time.After(expireEvery):
		case <-ctx.Done():
		}
		switch {
		case c.stopping.Load():
			return errStopping
		case session.Err() != nil:
			return session.Err()
		case ctx.Err() != nil:
			return reason
		}
	}
}

// isUp tells whether the cluster is there.
func (c *coordinator) isUp() bool {
	select {
	case <-c.up:
		return true
	default:
		return false
	}
}

// awaitUp waits until the cluster is there. It reports false if it is not within the time.
func (c *coordinator) awaitUp(ctx context.Context, within time.Duration) bool {
	if c.isUp() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case <-c.up:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *coordinator) verify(ctx context.Context, serverTurns chan struct{}, req publishRequest) (profile.Profile, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout+time.Second) // with the wait for a turn
	defer cancel()
	select {
	case serverTurns <- struct{}{}:
		defer func() { <-serverTurns }()
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return profile.Profile{}, ctx.Err() // its server is gone
		}
		return profile.Profile{}, errNoAnswer
	}
	allowed, err := c.verifier.verify(ctx, req.channel, req.key, req.userIP)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errNoAnswer
	}
	return allowed, err
}

func (c *coordinator) deny(s *serverSession, req publishRequest, reason error) {
	channel := req.channel
	if !c.validID(channel) {
		channel = "(malformed)"
	}
	deny := func() {
		if s.server != nil {
			c.logAndCount(c.registry.deny(s.server, req.requestRef, req.channel, channel, reason))
		}
	}
	if req.message == 0 {
		deny()
	} else {
		c.whenUp(deny) // a gateway holds its session: before that the registry may not have its server
	}
}

// endPublish is PUBLISH-END.
func (c *coordinator) endPublish(s *server, channel, streamID string) {
	notices, own := c.registry.end(s, channel, streamID, time.Now())
	if !own {
		c.notItsOwn("PUBLISH-END", serverAttr(s.id), channel, streamID)
	}
	c.logAndCount(notices)
}

// announce is STREAM-AVAILABLE.
func (c *coordinator) announce(e *encoder, channel, streamID string, a announcement) {
	now := time.Now()
	notices, own := c.registry.announce(e, channel, streamID, a, now)
	if !own {
		c.notItsOwn("STREAM-AVAILABLE", encoderAttr(e.id), channel, streamID)
		return
	}
	c.log.Debug("stream available", "channel", channel, "stream", streamID, "type", a.streamType, "resolution", a.resolution)
	c.timeline.Add(announcementEntry(e, channel, streamID, a, now))
	c.logAndCount(notices)
}

// streamClosed is STREAM-CLOSED, said at the time at. errorCode and errorMessage are the encoder's words, empty if it had no trouble.
func (c *coordinator) streamClosed(e *encoder, channel, streamID string, at time.Time, errorCode, errorMessage string) {
	if errorCode != "" || errorMessage != "" {
		errorCode, errorMessage = c.registry.withoutKey(channel, streamID, errorCode), c.registry.withoutKey(channel, streamID, errorMessage)
	}
	notices, own := c.registry.streamClosed(e, channel, streamID, at, time.Now())
	if !own {
		c.notItsOwn("STREAM-CLOSED", encoderAttr(e.id), channel, streamID)
		return
	}
	if errorCode != "" || errorMessage != "" {
		c.log.Warn("encoder reports a failed stream", "channel", channel, "stream", streamID, encoderAttr(e.id),
			"code", logs.Loggable(errorCode), "message", logs.Loggable(errorMessage))
		giveWords(notices, streamID, errorCode, errorMessage)
	}
	c.logAndCount(notices)
}

// drain takes a peer out of service, undrain puts it back. Errors: errUnknownSession, errNotPassedOn.

func (c *coordinator) drain(id uint64, move bool) error {
	notices, passedOn, err := c.registry.drain(id, move, time.Now())
	c.logAndCount(notices)
	if err != nil {
		return err
	}
	return awaitPassing(passedOn)
}

func (c *coordinator) undrain(id uint64) error {
	notices, passedOn, err := c.registry.undrain(id, time.Now())
	c.logAndCount(notices)
	if err != nil {
		return err
	}
	return awaitPassing(passedOn)
}

// listEvents, retryEvents and discardEvent are about events that the application has not taken. A channel may be "": all. Errors:
// errBadChannel, those of outbox.Discard, and errEventsUnread.

func (c *coordinator) listEvents(ctx context.Context, from outbox.Place, channel string, limit int) (page []outbox.Undelivered, next outbox.Place, more bool, err error) {
	if channel != "" && !c.validID(channel) {
		return nil, from, false, errBadChannel
	}
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	page, next, more, err = c.events.List(ctx, from, channel, limit)
	return page, next, more, c.unreadEvents(err)
}

func (c *coordinator) retryEvents(ctx context.Context, channel string) error {
	if channel != "" && !c.validID(channel) {
		return errBadChannel
	}
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	if err := c.events.TryNow(ctx, channel); err != nil {
		return c.unreadEvents(err)
	}
	c.log.Info("trying undelivered events now, on request", "channel", cmp.Or(channel, "*"))
	return nil
}

func (c *coordinator) discardEvent(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	err := c.events.Discard(ctx, id, func(u outbox.Undelivered) {
		c.metrics.discarded.Inc()
		c.timeline.Add(discardEntry(&u.Event, time.Now()))
		about := []any{"event", u.ID(), "type", u.Type.String(), "channel", u.Channel, "stream", u.StreamID, "since", u.At.UTC(), "tries", u.Tries, "answer", u.LastAnswer}
		switch u.Type {
		case outbox.StreamClosed:
			c.log.Warn("a stream-closed was discarded on request: the application goes on taking the stream for live", about...)
		case outbox.PublishFailed:
			c.log.Warn("a publish-failed was discarded on request: the application goes on taking the publisher for accepted", about...)
		default:
			c.log.Warn("an event was discarded on request: the application will never hear of it", about...)
		}
	})
	switch {
	case errors.Is(err, outbox.ErrUnknownEvent), errors.Is(err, outbox.ErrNotFirst), errors.Is(err, outbox.ErrInFlight), errors.Is(err, outbox.ErrNotDurable):
		return err
	}
	return c.unreadEvents(err)
}

// unreadEvents hides why events can't be read, which is not for everybody. A disk or a database that fails has lines of its own in the log.
func (c *coordinator) unreadEvents(err error) error {
	if err == nil {
		return nil
	}
	c.log.Debug("a command could not read undelivered events", "error", err)
	return errEventsUnread
}

// awaitPassing waits until gateways have what a command says, so that it outlives this process.
func awaitPassing(passedOn <-chan struct{}) error {
	if passedOn == nil {
		return nil
	}
	select {
	case <-passedOn:
		return nil
	case <-time.After(commandPatience):
		return errNotPassedOn
	}
}

func (c *coordinator) notItsOwn(method string, sender slog.Attr, channel, streamID string) {
	c.log.Debug("message about a stream that is not the sender's own", "method", method, sender, "channel", logs.Loggable(channel), "stream", logs.Loggable(streamID))
}

// killPublisher is the close command: it tells the publisher to stop. streamID is an ID or "*". by is errByApplication or errByOperator.
// Errors: errBadChannel, errBadStreamID; there being nothing to close is none.
func (c *coordinator) killPublisher(channel, streamID string, by error) error {
	if !c.validID(channel) {
		return errBadChannel
	}
	if streamID != "*" && !wire.IsToken(streamID, maxStreamIDLength) {
		return errBadStreamID
	}
	notices, killed, passedOn := c.registry.kill(channel, streamID, by, time.Now())
	c.log.Info("close command", "channel", channel, "stream", streamID, "killed", killed)
	c.logAndCount(notices)
	return awaitPassing(passedOn)
}

func (c *coordinator) validID(id string) bool { return wire.IsToken(id, c.idMaxLength) }
