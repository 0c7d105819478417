package main

// What becomes of decisions: log lines, counts, and entries of the timeline with their codes. The decisions are about publish requests, key
// verifications, what the registry has noted, and events. Part of the use cases.

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"coordinator/internal/logs"
	"coordinator/internal/outbox"
	"coordinator/internal/timeline"
)

// logAndCount writes what the registry has noted to the log and the timeline, and counts it.
func (c *coordinator) logAndCount(notices []notice) {
	for i := range notices {
		n := &notices[i]
		if n.why != notEnded {
			c.metrics.publicationsEnded.count(n.why.String())
		}
		if e := noticeEntry(n); e.Kind != 0 {
			c.timeline.Add(e)
		}
		switch n.kind {
		case noteStarted:
			c.metrics.publishes.count("accepted")
			c.metrics.accepts.Observe(n.took.Seconds())
			c.log.Info("stream started", "channel", n.channel, "stream", n.stream, serverAttr(n.server), encoderAttr(n.encoder))
		case noteDenied:
			c.metrics.publishes.count(publishResult(n.reason))
			c.log.Info("publish denied", "channel", n.channel, serverAttr(n.server), "reason", n.reason.Error())
		case noteEnded:
			c.log.Info("publisher ended", "channel", n.channel, "stream", n.stream, serverAttr(n.server), "reason", n.why.String())
		case noteKilled:
			c.log.Warn("publisher killed", "channel", n.channel, "stream", n.stream, serverAttr(n.server), "reason", n.reason.Error())
		case noteKillIgnored:
			c.log.Warn("publisher forgotten, but it may still be publishing: look at its streaming server", "channel", n.channel, "stream", n.stream, serverAttr(n.server), "reason", n.reason.Error())
		case noteFailedOver:
			c.metrics.replacements.Inc()
			c.log.Info("stream goes on at another encoder", "channel", n.channel, "stream", n.stream, "previous", n.previous, encoderAttr(n.encoder))
		case noteMoved:
			c.metrics.replacements.Inc()
			c.log.Info("stream moved to another encoder", "channel", n.channel, "stream", n.stream, "previous", n.previous, encoderAttr(n.encoder))
		case noteClosed:
			c.log.Info("stream closed", "channel", n.channel, "stream", n.stream, encoderAttr(n.encoder))
		case noteSetAside:
			c.log.Warn("encoder set aside: it gets a stream only if no other encoder has a free slot; repair it", encoderAttr(n.encoder), "until", n.until, "reason", n.reason.Error())
		case noteDraining:
			c.log.Info("draining: it gets nothing new", n.peerAttr())
		case noteMoving:
			c.log.Info("draining: its streams are moved to other encoders", encoderAttr(n.encoder))
		case noteFirstLive:
			c.metrics.firstLives.Observe(n.took.Seconds())
		case noteLiveAgain:
			c.metrics.failoverGaps.Observe(n.took.Seconds())
		case noteInService:
			c.log.Info("back in service", n.peerAttr())
		}
	}
}

// serverAttr and encoderAttr name sessions in the log as the report of the commands API does.

func serverAttr(id uint64) slog.Attr { return slog.Uint64("streamServer", id) }

func encoderAttr(id uint64) slog.Attr { return slog.Uint64("encoder", id) }

// gatewayAttr is left out of a line about a session that no gateway holds.
func gatewayAttr(id string) slog.Attr {
	if id == "" {
		return slog.Attr{}
	}
	return slog.String("gateway", id)
}

// peerAttr is the session of a notice about one peer.
func (n *notice) peerAttr() slog.Attr {
	if n.server != 0 {
		return serverAttr(n.server)
	}
	return encoderAttr(n.encoder)
}

// requestEntry is a publisher that asks. s is nil after a start, until the cluster is there. The address of the publisher is what its
// streaming server says, and is left out if that is not an IP address.
func requestEntry(s *server, req publishRequest, now time.Time) timeline.Entry {
	e := timeline.Entry{At: now, Kind: timeline.Asked, Code: timeline.Done, Channel: req.channel}
	if s != nil {
		e.Server, e.Address = s.id, s.address()
	}
	if ip, err := netip.ParseAddr(req.userIP); err == nil {
		e.Text = ip.WithZone("").String() // a zone may be any text
	}
	return e
}

func verificationEntry(v verification, now time.Time) timeline.Entry {
	e := timeline.Entry{At: now, Kind: timeline.Verified, Code: timeline.Allowed, Channel: v.channel, Status: v.status, Tries: v.tries, Took: v.took}
	if v.err != nil {
		e.Code = publishResult(v.err)
	}
	if errors.Is(v.err, context.DeadlineExceeded) {
		e.Code = timeline.NoAnswer
	}
	return e
}

func announcementEntry(e *encoder, channel, streamID string, a announcement, now time.Time) timeline.Entry {
	return timeline.Entry{
		At: now, Kind: timeline.Announced, Code: timeline.Done, Channel: channel, Stream: streamID, Encoder: e.id,
		Text: a.streamType + " " + logs.Loggable(a.resolution),
	}
}

func discardEntry(ev *outbox.Event, now time.Time) timeline.Entry {
	e := timeline.Entry{At: now, Kind: timeline.Discarded, Code: timeline.Done, Channel: ev.Channel, Stream: ev.StreamID}
	describeEvent(&e, ev)
	return e
}

// describeEvent says which event it is.
func describeEvent(e *timeline.Entry, ev *outbox.Event) {
	switch ev.Type {
	case outbox.StreamAvailable:
		e.Event, e.Text = int(ev.Seq), ev.StreamType+" "+logs.Loggable(ev.Resolution)
	case outbox.StreamClosed: // a stream has only one
	case outbox.PublishRefused:
		e.Event, e.Text = timeline.EventOfNobody, ev.Type.String()
	default:
		e.Event, e.Text = timeline.OtherEvent, ev.Type.String()
	}
}

func attemptEntry(a outbox.Attempt, now time.Time) timeline.Entry {
	ev := &a.Event
	e := timeline.Entry{
		At: now, Kind: timeline.Event, Channel: ev.Channel, Stream: ev.StreamID,
		Status: a.Status, Tries: a.Number, Took: a.Took,
	}
	describeEvent(&e, ev)
	return e
}

// noticeEntry is without a kind for a notice that is not an entry of the timeline.
func noticeEntry(n *notice) timeline.Entry {
	e := timeline.Entry{At: n.at, Channel: n.channel, Stream: n.stream, Server: n.server, Encoder: n.encoder, Address: n.address, Code: timeline.Done}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	switch n.kind {
	case noteStarted:
		e.Kind, e.Text = timeline.Accepted, n.words
	case noteWaiting:
		e.Kind, e.Code = timeline.Waiting, timeline.NoEncoder
		e.Used, e.Capacity, e.Encoders = n.taken.used, n.taken.capacity, n.taken.encoders
		if n.reason == errServerAway {
			e.Code = timeline.GatewayAbsent
		}
	case noteDenied:
		n.denied(&e)
	case noteEncoding:
		e.Kind, e.Used, e.Capacity, e.Encoders = timeline.Started, n.taken.used, n.taken.capacity, n.taken.encoders
		e.Text = n.words
		e.Code = placementCode(n.placement)
	case noteFailedOver:
		e.Kind, e.Code, e.Text = timeline.Moved, timeline.Failover, n.previous
	case noteMoved:
		e.Kind, e.Code, e.Text = timeline.Moved, timeline.Drained, n.previous
	case noteKilled, noteKilledBy:
		e.Kind, e.Code, e.Text = timeline.Killed, reasonCode(n.reason, timeline.Other), n.reason.Error()
	case noteEnded, noteKillIgnored:
		e.Kind, e.Code = timeline.Ended, reasonCode(n.reason, timeline.PublisherEnded)
	case noteClosed:
		e.Kind, e.Code, e.Text = timeline.Closed, reasonCode(n.reason, timeline.Done), n.words
	}
	return e
}

func placementCode(p placement) string {
	switch p {
	case leastShare:
		return "least_share"
	case pack:
		return "pack"
	}
	return "least_load"
}

func (n *notice) denied(e *timeline.Entry) {
	e.Kind, e.Code, e.Text = timeline.Denied, publishResult(n.reason), n.reason.Error()
	e.Used, e.Capacity, e.Encoders = n.taken.used, n.taken.capacity, n.taken.encoders
	if n.since != 0 {
		e.Since = time.Unix(0, n.since)
	}
	if answer := (answerError{}); errors.As(n.reason, &answer) {
		e.Status = answer.status
	}
}

// reasonCode is the code of why a publisher or a stream was ended.
func reasonCode(reason error, otherwise string) string {
	switch reason {
	case errByApplication:
		return timeline.ByApplication
	case errByOperator:
		return timeline.ByOperator
	case errEncoderFailed:
		return timeline.EncoderFailed
	case errEncoderGone:
		return timeline.EncoderGone
	case errEncodersLost:
		return timeline.EncodersLost
	case errNeverStarted:
		return timeline.NeverStarted
	case errChannelTaken:
		return timeline.ChannelTaken
	case errTakenOver:
		return timeline.TakenOver
	case errNoEncoder, errWaitedInVain:
		return timeline.NoEncoder
	case errPeerGone:
		return timeline.ServerGone
	case errKillIgnored:
		return timeline.KillIgnored
	case errAcceptedLate:
		return timeline.AcceptedLate
	}
	return otherwise
}

// giveWords adds an encoder's words to the notice of its stream's end.
func giveWords(notices []notice, streamID, code, message string) {
	for i := range notices {
		if n := &notices[i]; n.kind == noteClosed && n.stream == streamID {
			n.words = strings.TrimSpace(logs.Loggable(code) + " " + logs.Loggable(message))
		}
	}
}
