package main

// What the peers say and what is said to them, between their sockets and the use cases.
// A message that can't be understood has no effect and gets a debug line; only a REGISTER without a valid capacity gets a
// warning, because the encoder is of no use without one.

import (
	"log/slog"
	"strconv"
	"strings"
	"time"

	"coordinator/internal/appclient"
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

// line is the way to a peer: its socket, or the gateway that holds that. Send, Answer and Probe never wait.
type line interface {
	Remote() string
	Send(method string, arguments ...string)
	Probe(answered func())
	KeepsUp() bool

	// Answer is Send for a message that answers a publish request. publication is the one that this has made live; 0: none.
	Answer(request requestRef, publication uint64, method string, arguments ...string)

	// Said is when the peer said what is taken in now, and Message the number that its gateway gave that; 0: it has no gateway.
	Said() time.Time
	Message() uint64
}

// socketLine is a socket of this process.
type socketLine struct{ *control.Session }

func (l socketLine) Answer(_ requestRef, _ uint64, method string, arguments ...string) {
	l.Send(method, arguments...)
}
func (socketLine) Said() time.Time { return time.Now() }
func (socketLine) Message() uint64 { return 0 }

// serverPeerSession is the connection of a streaming server.
type serverPeerSession struct {
	c    *coordinator
	info serverInfo

	// set once by begin
	line
	at attachment // what it joins with
	serverSession
}

func (p *serverPeerSession) Join(s *control.Session) {
	p.begin(socketLine{s}, attachment{})
	p.join()
}

func (p *serverPeerSession) begin(l line, at attachment) {
	p.line, p.at, p.serverSession = l, at, newServerSession()
}

func (p *serverPeerSession) join() { p.server = p.c.joinServer(p.at, p, p.info) }

func (p *serverPeerSession) restored(s *server, _ *encoder) { p.server = s }

func (p *serverPeerSession) Leave(reason error) {
	p.cancel()
	p.c.leaveServer(p.server, reason)
}

func (p *serverPeerSession) lost(reason error) {
	p.cancel()
	if p.server != nil {
		p.c.logServerGone(p.server, reason)
	}
}

func (p *serverPeerSession) Handle(m wire.Message) {
	channel, streamID := m.Get("Stream-Channel"), m.Get("Stream-ID")
	switch m.Method {
	case "PUBLISH-REQUEST":
		userIP := m.Get("User-IP")
		p.c.publish(&p.serverSession, publishRequest{ // copies: the message may be large, and the wait long
			requestRef: requestRef{strings.Clone(m.Get("Request-ID")), p.Message()},
			channel:    strings.Clone(channel),
			key:        strings.Clone(m.Get("Stream-Key")),
			userIP:     strings.Clone(userIP[:min(len(userIP), maxUserIPBytes)]),
		}, p.Said())
	case "PUBLISH-END":
		p.c.endPublish(p.server, channel, streamID)
	default:
		p.c.handleCommon(m, p.line, serverAttr(p.server.id))
	}
}

func (p *serverPeerSession) accept(to requestRef, channel, streamID string, publication uint64) {
	p.Answer(to, publication, "PUBLISH-ACCEPT", "Request-ID", to.id, "Stream-Channel", channel, "Stream-ID", streamID)
}

func (p *serverPeerSession) deny(to requestRef, channel string) {
	p.Answer(to, 0, "PUBLISH-DENY", "Request-ID", to.id, "Stream-Channel", channel)
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

	// set once by begin
	line
	at attachment // what it joins with

	// owned by the reader
	encoder *encoder
}

func (p *encoderPeerSession) Join(s *control.Session) { p.begin(socketLine{s}, attachment{}) }

func (p *encoderPeerSession) begin(l line, at attachment) { p.line, p.at = l, at }

// join does nothing: an encoder joins with its first REGISTER.
func (p *encoderPeerSession) join() {}

func (p *encoderPeerSession) restored(_ *server, e *encoder) { p.encoder = e }

func (p *encoderPeerSession) Leave(reason error) {
	if p.encoder == nil {
		p.lost(reason)
		return
	}
	p.c.leaveEncoder(p.encoder, reason)
}

func (p *encoderPeerSession) lost(reason error) {
	if p.encoder == nil {
		p.c.log.Info("encoder disconnected before it registered", "remote", p.Remote(), "reason", reason.Error())
		return
	}
	p.c.logEncoderGone(p.encoder, reason)
}

func (p *encoderPeerSession) Handle(m wire.Message) {
	if m.Method == "REGISTER" {
		p.register(m.Get("Capacity"))
		return
	}
	if p.encoder == nil {
		p.c.handleCommon(m, p.line, slog.String("encoder", "(not registered)"))
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
			at:         p.Said(),
		}
		if !a.complete() {
			p.c.log.Debug("incomplete message ignored", "method", m.Method, encoderAttr(p.encoder.id), "channel", logs.Loggable(channel), "stream", logs.Loggable(streamID))
			return
		}
		p.c.announce(p.encoder, channel, streamID, a)
	case "STREAM-CLOSED":
		p.c.streamClosed(p.encoder, channel, streamID, p.Said(), m.Get("Error-Code"), m.Get("Error-Message"))
	default:
		p.c.handleCommon(m, p.line, encoderAttr(p.encoder.id))
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
		p.encoder = p.c.joinEncoder(p.at, p, p.Remote(), int(n))
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
		return a.resolution != "" && a.indexFile != "" && len(appclient.HeaderValue(a.indexFile)) <= longestIndexFile &&
			len(appclient.HeaderValue(a.resolution)) <= longestDetail && len(appclient.HeaderValue(a.startTime)) <= longestDetail
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
func (c *coordinator) handleCommon(m wire.Message, l line, sender slog.Attr) {
	switch m.Method {
	case "HEARTBEAT":
	case "ERROR":
		c.log.Warn("peer reports an error", sender, "remote", l.Remote(), "code", logs.Loggable(m.Get("Error-Code")), "message", logs.Loggable(m.Get("Error-Message")))
	default:
		method := m.Method
		if !wire.IsToken(method, 64) {
			method = "(malformed)" // a message without its first line may begin with a key
		}
		c.log.Debug("unknown method ignored", sender, "remote", l.Remote(), "method", method)
	}
}
