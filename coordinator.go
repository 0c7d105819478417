package main

// The use cases: join, publish, end, announce, finish, close, leave. The only file that knows the whole story: what
// peers and the application ask for comes in here, is checked, and becomes one transition of the registry.

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// answerWithin bounds a publish request from its arrival to its answer; peers give up at 20 s.
	answerWithin = 15 * time.Second

	// maxPendingPublishes bounds the publish requests that wait for the application, over all sockets.
	maxPendingPublishes = 16384
)

var (
	errBadID     = errors.New("channel or key is malformed")
	errStopping  = errors.New("coordinator is stopping")
	errTooMany   = errors.New("too many publish requests at once")
	errNotKept   = errors.New("events can't be kept")
	errUnknownID = errors.New("malformed stream ID")
)

// publishRequest is what a streaming server asks for a publisher. key is a secret.
type publishRequest struct {
	requestID, channel, key, userIP string
}

type coordinator struct {
	// set once
	idMaxLength int
	log         *slog.Logger
	registry    *registry
	verifier    *keyVerifier
	events      *callbacks

	stopping  atomic.Bool
	pending   atomic.Int64
	publishes sync.WaitGroup
}

// newCoordinator wires the use cases. The identities of peers count up from the time of the start in microseconds,
// so that no later process gives one of them again and all stay below 2^53.
func newCoordinator(cfg *Config, log *slog.Logger, verifier *keyVerifier, events *callbacks) *coordinator {
	firstID := uint64(time.Now().UnixMicro())
	return &coordinator{
		idMaxLength: cfg.IDMaxLength,
		log:         log,
		registry:    newRegistry(firstID, rand.Text, events),
		verifier:    verifier,
		events:      events,
	}
}

// stop denies publish requests from now on, and waits for those that are under way. The control sockets, whose
// end ends their requests, have to be closed first or meanwhile.
func (c *coordinator) stop() { c.stopping.Store(true) }

func (c *coordinator) wait() { c.publishes.Wait() }

// joinServer takes in a streaming server that has connected.
func (c *coordinator) joinServer(s *server) {
	c.registry.joinServer(s)
	c.log.Info("streaming server connected", "session", s.id, "type", s.serverType, "ip", s.ip, "port", s.port, "ssl", s.ssl)
}

// leaveServer is called once when the connection of a streaming server is gone.
func (c *coordinator) leaveServer(s *server) {
	c.registry.leaveServer(s)
}

// joinEncoder takes in an encoder by its first REGISTER.
func (c *coordinator) joinEncoder(peer encoderPeer, capacity int) *encoder {
	e := c.registry.joinEncoder(peer, capacity)
	c.log.Info("encoder registered", "session", e.id, "capacity", capacity)
	return e
}

// resizeEncoder is every later REGISTER.
func (c *coordinator) resizeEncoder(e *encoder, capacity int) {
	c.registry.resize(e, capacity)
	c.log.Info("encoder changed its capacity", "session", e.id, "capacity", capacity)
}

// leaveEncoder is called once when the connection of a registered encoder is gone.
func (c *coordinator) leaveEncoder(e *encoder) {
	c.registry.leaveEncoder(e, time.Now())
}

// publish answers a publish request, with accept or deny on the server's peer, within answerWithin. It returns at
// once; what has to wait for the application runs beside the caller and ends with ctx, which is the connection's.
func (c *coordinator) publish(ctx context.Context, s *server, req publishRequest) {
	if err := c.mayAsk(req); err != nil {
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
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		if err := c.verifyAndClaim(ctx, s, req); err != nil {
			c.deny(s, req, err)
		}
	})
}

// mayAsk finds the reasons to deny that need no question to the application.
func (c *coordinator) mayAsk(req publishRequest) error {
	switch {
	case c.stopping.Load():
		return errStopping
	case !c.validID(req.channel) || !c.validID(req.key):
		return errBadID
	case c.registry.channelIsLive(req.channel):
		return errChannelBusy
	case c.events.keeping() != nil:
		return errNotKept
	}
	return nil
}

func (c *coordinator) verifyAndClaim(ctx context.Context, s *server, req publishRequest) error {
	allowed, err := c.verifier.verify(ctx, req.channel, req.key, req.userIP)
	if err != nil {
		return err
	}
	switch {
	case c.stopping.Load():
		return errStopping
	case c.events.keeping() != nil:
		return errNotKept
	}
	st, err := c.registry.claim(s, req.requestID, encodeJob{
		channel:     req.channel,
		sourceType:  s.serverType,
		sourceURI:   s.sourceURI(req.channel, req.key),
		resolutions: formatResolutions(allowed.resolutions),
		record:      recordArgument(allowed.record),
		previews:    allowed.previews.String(),
	})
	if err != nil {
		return err
	}
	c.log.Info("stream started", "channel", st.channel, "stream", st.id, "session", s.id, "encoder", st.encoder.id)
	return nil
}

func (c *coordinator) deny(s *server, req publishRequest, reason error) {
	s.peer.deny(req.requestID, req.channel)
	channel := req.channel
	if !c.validID(channel) {
		channel = "(malformed)"
	}
	c.log.Info("publish denied", "channel", channel, "session", s.id, "reason", reason.Error())
}

// endPublish is PUBLISH-END.
func (c *coordinator) endPublish(s *server, channel, streamID string) {
	if c.registry.end(s, channel, streamID) {
		c.log.Info("publisher ended", "channel", channel, "stream", streamID, "session", s.id)
	} else {
		c.notItsOwn("PUBLISH-END", s.id, channel, streamID)
	}
}

// announce is STREAM-AVAILABLE. Of available the caller fills in the names and what the encoder said.
func (c *coordinator) announce(e *encoder, available event) {
	available.at = time.Now()
	if c.registry.announce(e, available) {
		c.log.Debug("stream available", "channel", available.channel, "stream", available.streamID, "type", available.streamType, "resolution", available.resolution)
	} else {
		c.notItsOwn("STREAM-AVAILABLE", e.id, available.channel, available.streamID)
	}
}

// finish is STREAM-CLOSED. errorCode and errorMessage are the encoder's words, empty if it had no trouble.
func (c *coordinator) finish(e *encoder, channel, streamID, errorCode, errorMessage string) {
	if !c.registry.finish(e, channel, streamID, time.Now()) {
		c.notItsOwn("STREAM-CLOSED", e.id, channel, streamID)
		return
	}
	if errorCode != "" || errorMessage != "" {
		c.log.Warn("encoder failed a stream", "channel", channel, "stream", streamID, "encoder", e.id, "code", errorCode, "message", errorMessage)
		return
	}
	c.log.Info("stream closed", "channel", channel, "stream", streamID, "encoder", e.id)
}

func (c *coordinator) notItsOwn(method string, id uint64, channel, streamID string) {
	c.log.Debug("message about a stream that is not the sender's own", "method", method, "session", id, "channel", channel, "stream", streamID)
}

// closeStream is the application's command. streamID is an ID or "*". Errors: errBadID, errUnknownID for what
// can't be a channel or a stream ID; there being nothing to close is none.
func (c *coordinator) closeStream(channel, streamID string) error {
	if !c.validID(channel) {
		return errBadID
	}
	if streamID != "*" && !isToken(streamID, maxStreamIDLength) {
		return errUnknownID
	}
	killed := c.registry.kill(channel, streamID)
	c.log.Info("close command", "channel", channel, "stream", streamID, "killed", killed)
	return nil
}

func (c *coordinator) validID(id string) bool { return isToken(id, c.idMaxLength) }

const maxStreamIDLength = 128

// isToken tells whether s is not empty, at most max bytes long and of [A-Za-z0-9_-] only.
func isToken(s string, max int) bool {
	if s == "" || len(s) > max {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

func recordArgument(record bool) string {
	if record {
		return "True"
	}
	return "False"
}

// sourceURI is where an encoder pulls a stream from; it holds the stream key.
func (s *server) sourceURI(channel, key string) string {
	scheme := "rtmp"
	if s.serverType == "WS" {
		scheme = "ws"
	}
	if s.ssl {
		scheme += "s"
	}
	host := net.JoinHostPort(strings.Trim(s.ip, "[]"), strconv.Itoa(s.port))
	return scheme + "://" + host + "/" + channel + "/" + key
}
