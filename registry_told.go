package main

// What the application is told, and why things ended. The first cause of an end counts, of a publication as of a stream: what follows
// from a close command was closed by it, whichever peer says so first.
//
// With limits.extraEvents the application also hears of publishers: each publish-accepted has exactly one end, which is a stream-closed
// if any stream of the publication was announced, else a publish-failed. Until it is known which, the publication owes an end, and so
// does its record in the store. Part of the registry, under its rules.

import (
	"strings"
	"time"

	"coordinator/internal/outbox"
)

// endReason is why a publication or a stream has ended. The values are in memos on gateways: none changes its meaning.
type endReason uint8

const (
	notEnded endReason = iota
	publisherEnded
	closedByApplication
	closedByOperator
	takenOver
	serverLost
	encoderLost
	encoderFailed
	moved
	neverStarted
	coordinatorStopped
	coordinatorLost
	endReasons
)

// endReasonNames are those of x-close-reason.
var endReasonNames = [endReasons]string{
	"", "publisher-ended", "closed-by-application", "closed-by-operator", "taken-over", "server-lost", "encoder-lost", "encoder-failed",
	"moved", "never-started", "coordinator-stopped", "coordinator-lost",
}

func (e endReason) String() string { return endReasonNames[e] }

// endReasonOf reads that of a memo. One that only a later version knows counts as the coordinator's loss: that version has ended.
func endReasonOf(kept uint8) endReason { return min(endReason(kept), coordinatorLost) }

// underscored is how x-reason spells it.
func (e endReason) underscored() string { return strings.ReplaceAll(e.String(), "-", "_") }

// failReason is the x-reason of a publish-failed whose publisher was accepted.
func (e endReason) failReason() string {
	switch e {
	case encoderFailed:
		return "source_failed"
	case encoderLost:
		return failNoEncoder
	}
	return e.underscored()
}

const failNoEncoder = "no_encoder"

// endReasonLocked is the x-close-reason of an error; notices.go has the codes of the timeline for the same errors. Once the coordinator stops,
// it has itself closed the socket of a peer that is gone, unless a gateway holds it.
func (r *registry) endReasonLocked(reason error, gateway string) endReason {
	switch reason {
	case nil, errAcceptedLate:
		return publisherEnded
	case errByApplication:
		return closedByApplication
	case errByOperator:
		return closedByOperator
	case errTakenOver, errChannelTaken:
		return takenOver
	case errEncoderFailed:
		return encoderFailed
	case errNeverStarted:
		return neverStarted
	case errEncoderAsked:
		return coordinatorLost
	}
	switch {
	case r.stopping && gateway == "":
		return coordinatorStopped
	case reason == errPeerGone:
		return serverLost
	}
	return encoderLost
}

// gatewayOfEncoder is "" for a stream that only the store knows: it has no encoder.
func (st *stream) gatewayOfEncoder() string {
	if st.encoder == nil {
		return ""
	}
	return st.encoder.gateway
}

// endsLocked notes why a publication ends, unless it is ending already.
func (r *registry) endsLocked(p *publication, reason error) {
	if p.why == notEnded {
		p.why = r.endReasonLocked(reason, p.server.gateway)
	}
}

// whyClosedLocked is why a stream is closed now. reason is nil if its encoder was told to stop it.
func (r *registry) whyClosedLocked(st *stream, reason error) endReason {
	switch {
	case st.retiredFor != notEnded:
		return st.retiredFor
	case st.pub.why != notEnded:
		return st.pub.why
	}
	return r.endReasonLocked(reason, st.gatewayOfEncoder())
}

// tellLocked appends an event of a publication.
func (r *registry) tellLocked(p *publication, ev outbox.Event) {
	ev.Queue, ev.Position, ev.Channel, ev.Passthrough = p.number, p.events, p.channel, p.passthrough
	p.events++
	r.told = true
	r.events.AppendPart(ev)
}

// tellOfStreamLocked tells of a stream what the application counts: stream-available and stream-closed.
func (r *registry) tellOfStreamLocked(st *stream, ev outbox.Event) {
	r.streamToldLocked(st)
	switch {
	case r.silent:
		st.pub.mayBeUntold = false // the event is in the store, or was: so was the accept before it
	case !st.isOver:
		r.tellUntoldAcceptLocked(st.pub)
		ev.Fulfills = st.pub.fulfillAcceptLocked()
		r.tellNextOfStreamLocked(st, ev)
	}
}

// tellUntoldAcceptLocked tells publish-accepted, if an earlier process has accepted the publisher and it may never have been stored.
func (r *registry) tellUntoldAcceptLocked(p *publication) {
	if p.mayBeUntold {
		p.mayBeUntold = false
		r.tellAcceptedLocked(p, r.began.Add(p.accepted))
	}
}

// fulfillAcceptLocked returns the ID of the publish-accepted that needs no publish-failed any more, because a stream is told of; "": there is none.
func (p *publication) fulfillAcceptLocked() (publisherID string) {
	if !p.owesEnd {
		return ""
	}
	p.owesEnd = false
	return p.publisherID
}

// tellNextOfStreamLocked appends an event of a stream under the stream's next number.
func (r *registry) tellNextOfStreamLocked(st *stream, ev outbox.Event) {
	st.lastSeq++
	ev.StreamID, ev.Seq, ev.Previous = st.id, uint64(st.lastSeq), st.previous
	r.tellLocked(st.pub, ev)
}

// tellClosedLocked tells of the end of a stream, if the application knows it, and that its publisher failed, if that is due.
func (r *registry) tellClosedLocked(st *stream, why endReason, at time.Time) {
	if st.lastSeq > 0 {
		ev := outbox.Event{Type: outbox.StreamClosed, Reason: why.String(), Duration: outbox.UnknownDuration, At: at}
		if why != coordinatorLost {
			ev.Duration = max(0, at.Sub(r.began)-st.pub.accepted)
		}
		r.tellOfStreamLocked(st, ev)
	}
	r.tellFailedLocked(st.pub, at)
}

func (r *registry) tellAcceptedLocked(p *publication, at time.Time) {
	if r.limits.extraEvents {
		p.owesEnd = true
		r.tellLocked(p, outbox.Event{Type: outbox.PublishAccepted, StreamID: p.publisherID, At: at})
	}
}

// tellFailedLocked tells publish-failed if the publication owes an end, is over, and no encoder has a stream of it. It does so in a replay, too,
// whatever the store has of the message that is replayed: had an end been stored, none would be owed.
func (r *registry) tellFailedLocked(p *publication, at time.Time) {
	if p.owesEnd && p.atEncoders == 0 && !p.server.publications.Has(p) {
		p.owesEnd = false
		r.tellLocked(p, outbox.Event{Type: outbox.PublishFailed, StreamID: p.publisherID, Reason: p.why.failReason(), At: at})
	}
}

// tellRefusedLocked tells publish-failed of a publisher that no encoder had room for, but only of one that the application has allowed: with
// others strangers could fill the disk.
func (r *registry) tellRefusedLocked(request *claimRequest, at time.Time) {
	if !r.limits.extraEvents || !request.verified {
		return
	}
	r.lastNumber++
	p := &publication{number: r.lastNumber, channel: request.channel, passthrough: request.passthrough}
	r.tellLocked(p, outbox.Event{Type: outbox.PublishRefused, StreamID: r.newStreamID(), Reason: failNoEncoder, At: at})
}

func isForWantOfEncoder(reason error) bool {
	return reason == errNoEncoder || reason == errWaitedInVain
}

// interruptedLocked is called when a publication goes on after it has lost a stream, before the stream-closed of that stream is told.
func (r *registry) interruptedLocked(st *stream, reason error, now time.Time) {
	p := st.pub
	if r.stopping || p.killed {
		return // nothing goes on
	}
	if _, already := r.interrupted[p]; !already && p.wasLive {
		r.interrupted[p] = now
	}
	isKnown := st.lastSeq > 0 || st.id == p.publisherID // to the application
	if r.limits.extraEvents && isKnown && !st.isOver && !r.silent {
		why := r.endReasonLocked(reason, st.gatewayOfEncoder()).underscored()
		r.tellLocked(p, outbox.Event{Type: outbox.StreamInterrupted, StreamID: st.id, Previous: st.previous, Reason: why, At: now})
	}
}

// noteLiveLocked notes how long viewers had to wait for an HLS-LIVE: for the first one, or after an interruption.
func (r *registry) noteLiveLocked(p *publication, now time.Time) {
	if !p.wasLive {
		p.wasLive = true
		took := now.Sub(r.began) - p.accepted + time.Duration(p.askedBefore)*time.Millisecond
		r.noteLocked(notice{kind: noteFirstLive, took: took})
	}
	if since, was := r.interrupted[p]; was {
		delete(r.interrupted, p)
		r.noteLocked(notice{kind: noteLiveAgain, took: now.Sub(since)})
	}
}
