package main

// What the timeline is told, and by which codes: of publish requests, key verifications, what the registry has noted, and events.
// Part of the use cases.

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"coordinator/internal/logs"
	"coordinator/internal/outbox"
	"coordinator/internal/timeline"
)

// requestEntry is a publisher that asks. s is nil while the cluster is not there. The address of the publisher is what its streaming
// server says, and left out if it is none.
func requestEntry(s *server, req publishRequest, now time.Time) timeline.Entry {
	e := timeline.Entry{At: now, Kind: timeline.Asked, Code: timeline.Done, Channel: req.channel}
	if s != nil {
		e.Server, e.Address = s.id, s.address()
	}
	if _, err := netip.ParseAddr(req.userIP); err == nil {
		e.Text = req.userIP
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
	if !ev.Closed {
		e.Text = ev.StreamType + " " + logs.Loggable(ev.Resolution)
	}
	return e
}

func attemptEntry(a outbox.Attempt, now time.Time) timeline.Entry {
	ev := &a.Event
	e := timeline.Entry{
		At: now, Kind: timeline.Event, Channel: ev.Channel, Stream: ev.StreamID,
		Status: a.Status, Tries: a.Number, Took: a.Took,
	}
	if !ev.Closed { // the number of a stream-closed is not asked for: there is one
		e.Event, e.Text = int(ev.Seq), ev.StreamType+" "+logs.Loggable(ev.Resolution)
	}
	return e
}

// noticeEntry has no kind if the notice is about no channel.
func noticeEntry(n *notice) timeline.Entry {
	e := timeline.Entry{At: n.at, Channel: n.channel, Stream: n.stream, Server: n.server, Encoder: n.encoder, Address: n.address, Code: timeline.Done}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	switch n.kind {
	case noteStarted:
		e.Kind = timeline.Accepted
	case noteDenied:
		n.denied(&e)
	case noteEncoding:
		e.Kind, e.Used, e.Capacity, e.Encoders = timeline.Started, n.taken.used, n.taken.capacity, n.taken.encoders
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

// giveWords puts the words of an encoder to the notice of its stream's end.
func giveWords(notices []notice, streamID, code, message string) {
	for i := range notices {
		if n := &notices[i]; n.kind == noteClosed && n.stream == streamID {
			n.words = strings.TrimSpace(logs.Loggable(code) + " " + logs.Loggable(message))
		}
	}
}
