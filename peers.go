package main

// What the peers say and what is said to them, between their sockets and the use cases.
// A message that can't be understood has no effect and gets a debug line; only a REGISTER without a valid capacity gets a
// warning, because the encoder is of no use without one.

import (
	"context"
	"log/slog"
	"strconv"
	"strings"

	"coordinator/internal/control"
	"coordinator/internal/logs"
	"coordinator/internal/wire"
)

// newPeer is what a peer that has connected becomes.
func (c *coordinator) newPeer(h control.Handshake) control.Peer {
	if h.Kind == control.HLS {
		return &encoderPeerSession{c: c}
	}
	return &serverPeerSession{c: c, info: serverInfo{kind: serverKind(h.Kind), ip: h.IP, port: h.Port, ssl: h.SSL}}
}

// serverPeerSession is the connection of a streaming server.
type serverPeerSession struct {
	c    *coordinator
	info serverInfo

	// set once by Join
	*control.Session
	server      *server
	serverTurns chan struct{}   // one item for each key verification under way
	ctx         context.Context // of its publish requests
	cancel      context.CancelFunc
}

func (p *serverPeerSession) Join(s *control.Session) {
	p.Session = s
	p.serverTurns = make(chan struct{}, maxServerVerifications)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.server = p.c.joinServer(p, p.info)
}

func (p *serverPeerSession) Leave(reason error) {
	p.cancel()
	p.c.leaveServer(p.server, reason)
}

func (p *serverPeerSession) Handle(m wire.Message) {
	channel, streamID := m.Get("Stream-Channel"), m.Get("Stream-ID")
	switch m.Method {
	case "PUBLISH-REQUEST":
		userIP := m.Get("User-IP")
		p.c.publish(p.ctx, p.server, p.serverTurns, publishRequest{ // copies: the message may be large, and the wait long
			requestID: strings.Clone(m.Get("Request-ID")),
			channel:   strings.Clone(channel),
			key:       strings.Clone(m.Get("Stream-Key")),
			userIP:    strings.Clone(userIP[:min(len(userIP), maxUserIPBytes)]),
		})
	case "PUBLISH-END":
		p.c.endPublish(p.server, channel, streamID)
	default:
		p.c.handleCommon(m, p.Session, serverAttr(p.server.id))
	}
}

func (p *serverPeerSession) accept(requestID, channel, streamID string) {
	p.Send("PUBLISH-ACCEPT", "Request-ID", requestID, "Stream-Channel", channel, "Stream-ID", streamID)
}

func (p *serverPeerSession) deny(requestID, channel string) {
	p.Send("PUBLISH-DENY", "Request-ID", requestID, "Stream-Channel", channel)
}

func (p *serverPeerSession) kill(channel, streamID string) {
	p.Send("STREAM-KILL", "Stream-Channel", channel, "Stream-ID", streamID)
}

func (p *serverPeerSession) keepsUp() bool { return p.KeepsUp() }

func (p *serverPeerSession) probe(session uint64) {
	p.Probe(func() { p.c.probeAnswered(session) })
}

// encoderPeerSession is the connection of an encoder, which it becomes with its first REGISTER.
type encoderPeerSession struct {
	c *coordinator

	*control.Session // set once by Join

	// owned by the reader
	encoder *encoder
}

func (p *encoderPeerSession) Join(s *control.Session) { p.Session = s }

func (p *encoderPeerSession) Leave(reason error) {
	if p.encoder == nil {
		p.c.log.Info("encoder disconnected before it registered", "remote", p.Remote(), "reason", reason.Error())
		return
	}
	p.c.leaveEncoder(p.encoder, reason)
}

func (p *encoderPeerSession) Handle(m wire.Message) {
	if m.Method == "REGISTER" {
		p.register(m.Get("Capacity"))
		return
	}
	if p.encoder == nil {
		p.c.handleCommon(m, p.Session, slog.String("encoder", "(not registered)"))
		return
	}
	channel, streamID := m.Get("Stream-Channel"), m.Get("Stream-ID")
	switch m.Method {
	case "STREAM-AVAILABLE":
		a := announcement{
			streamType: strings.ToUpper(m.Get("Stream-Type")),
			resolution: m.Get("Resolution"),
			indexFile:  m.Get("Index-file"),
			startTime:  m.Get("Start-Time"),
		}
		if !a.complete() {
			p.c.log.Debug("incomplete message ignored", "method", m.Method, encoderAttr(p.encoder.id), "channel", logs.Loggable(channel), "stream", logs.Loggable(streamID))
			return
		}
		p.c.announce(p.encoder, channel, streamID, a)
	case "STREAM-CLOSED":
		p.c.streamClosed(p.encoder, channel, streamID, m.Get("Error-Code"), m.Get("Error-Message"))
	default:
		p.c.handleCommon(m, p.Session, encoderAttr(p.encoder.id))
	}
}

// register takes a capacity that fits 32 bits; any other is ignored with a warning.
func (p *encoderPeerSession) register(capacity string) {
	n, err := strconv.ParseInt(capacity, 10, 32)
	if err != nil {
		p.c.log.Warn("encoder sent an invalid capacity", "remote", p.Remote(), "capacity", logs.Loggable(capacity))
		return
	}
	n = max(n, -1)
	if p.encoder == nil {
		p.encoder = p.c.joinEncoder(p, p.Remote(), control.AddressOf(p.Remote()), int(n))
	} else {
		p.c.resizeEncoder(p.encoder, int(n))
	}
}

// An application's server takes request headers of some 8 KiB in all. An announcement that does not fit could never be
// delivered, and would hold up the stream-closed behind it for ever, so it is ignored.
const (
	longestIndexFile = 4 << 10
	longestDetail    = 256 // resolution and start time
)

// complete reports whether an announcement has all that the application needs, and fits its headers.
func (a announcement) complete() bool {
	switch a.streamType {
	case "HLS-LIVE", "HLS-VOD", "IMG-PREVIEW":
		return a.resolution != "" && a.indexFile != "" && len(headerValue(a.indexFile)) <= longestIndexFile &&
			len(headerValue(a.resolution)) <= longestDetail && len(headerValue(a.startTime)) <= longestDetail
	}
	return false
}

func (p *encoderPeerSession) start(job encodeJob) {
	p.Send("ENCODE-START",
		"Stream-Channel", job.channel,
		"Stream-ID", job.streamID,
		"Stream-Source-Type", job.sourceType,
		"Stream-Source-URI", job.sourceURI,
		"Resolutions", job.resolutions,
		"Record", job.record,
		"Previews", job.previews,
	)
}

func (p *encoderPeerSession) stop(channel, streamID string) {
	p.Send("ENCODE-STOP", "Stream-Channel", channel, "Stream-ID", streamID)
}

func (p *encoderPeerSession) probe(session uint64) {
	p.Probe(func() { p.c.probeAnswered(session) })
}

// handleCommon is what both kinds of peers may say. sender is how the log names the session.
func (c *coordinator) handleCommon(m wire.Message, s *control.Session, sender slog.Attr) {
	switch m.Method {
	case "HEARTBEAT":
	case "ERROR":
		c.log.Warn("peer reports an error", sender, "remote", s.Remote(), "code", logs.Loggable(m.Get("Error-Code")), "message", logs.Loggable(m.Get("Error-Message")))
	default:
		method := m.Method
		if !wire.IsToken(method, 64) {
			method = "(malformed)" // a message without its first line may begin with a key
		}
		c.log.Debug("unknown method ignored", sender, "remote", s.Remote(), "method", method)
	}
}
