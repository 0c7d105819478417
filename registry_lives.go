package main

// The life of publications and streams, from the claim of a channel to STREAM-CLOSED. Part of the registry, under its
// rules.

import (
	"math"
	"net"
	"strconv"
	"strings"
	"time"
	"unique"

	"coordinator/internal/outbox"
)

// channelIsBusy tells whether a publish request for the channel is denied without a look at its key.
func (r *registry) channelIsBusy(channel string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.channels.Get(channel)
	return p != nil && !p.server.suspect() && !r.limits.takeover
}

// claim makes a channel live: it takes the channel and an encoder's slot, accepts the request and starts the
// encoding. If there is no slot, the request waits for one up to limits.encoderWait and until answerBy at the latest;
// if the channel is live on a session that may be dead, it is held until that is known; if it may be taken over, the request waits for
// the end of the live publisher. A request that waits or is held is answered by a later transition. Errors, each leaving nothing behind
// and nothing said: errStopping, errPeerGone, errRestoring, errDraining, errChannelBusy, errJustTakenOver, errNoEncoder.
func (r *registry) claim(s *server, request claimRequest, now time.Time) ([]notice, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.stopping:
		return nil, errStopping
	case s.gone:
		return nil, errPeerGone
	case r.replay != nil:
		return nil, errRestoring
	}
	err := r.admitLocked(&waiter{server: s, request: request}, now)
	if isForWantOfEncoder(err) {
		r.tellRefusedLocked(&request, now)
	}
	return r.endTransitionLocked(now), err
}

// publishLocked makes a granted request's channel live.
func (r *registry) publishLocked(w *waiter, c choice, now time.Time) {
	r.lastNumber++
	channel, key, id := w.request.channel, w.request.key, r.newStreamID()
	names := channel + key + id + w.request.passthrough // one allocation for all, which does not keep the message alive
	waited := time.Duration(0)
	if !w.request.asked.IsZero() {
		waited = now.Sub(w.request.asked)
	}
	p := &publication{
		number:      r.lastNumber,
		channel:     names[:len(channel)],
		key:         names[len(channel) : len(channel)+len(key)],
		publisherID: names[len(channel)+len(key) : len(channel)+len(key)+len(id)],
		passthrough: names[len(channel)+len(key)+len(id):],
		server:      w.server,
		settings:    unique.Make(w.request.settings),
		since:       now.UnixNano(),
		accepted:    now.Sub(r.began),
		askedBefore: uint16(min(max(waited.Milliseconds(), 0), math.MaxUint16)),
		tookOver:    w.tookOver,
	}
	r.channels.Add(p)
	p.server.publications.Add(p)
	p.server.peer.accept(w.request.requestRef, p.channel, p.publisherID, p.number)
	r.noteLocked(notice{kind: noteStarted, channel: p.channel, stream: p.publisherID, server: p.server.id, encoder: c.encoder.id, words: p.passthrough, took: waited})
	r.tellAcceptedLocked(p, now)
	p.current = r.startLocked(p, c, p.publisherID, now)
	p.id = p.publisherID
	r.publicationChangedLocked(p)
}

// startLocked takes a slot of the encoder that was chosen and starts an encoding on it. Slots are taken here, reserved by
// reserveSlotLocked, and taken for streams that are found after a start by restorer.addStream; nowhere else.
func (r *registry) startLocked(p *publication, c choice, id string, now time.Time) *stream {
	e := c.encoder
	p.lastOrdinal++
	st := &stream{id: id, pub: p, encoder: e, ordinal: p.lastOrdinal, previous: p.lastToldLocked(), started: now.Sub(r.began)}
	e.streams.Add(st)
	p.atEncoders++
	r.slots.used++
	r.streamChangedLocked(st)
	r.publicationChangedLocked(p)
	settings := p.settings.Value()
	e.peer.start(encodeJob{
		channel:     p.channel,
		streamID:    st.id,
		sourceType:  string(p.server.kind),
		sourceURI:   p.server.sourceURI(p.channel, p.key),
		resolutions: settings.resolutions,
		record:      settings.record,
		previews:    settings.previews,
	})
	if r.limits.startTimeout > 0 {
		r.started = append(r.started, st)
	}
	n := notice{kind: noteEncoding, channel: p.channel, stream: st.id, server: p.server.id, encoder: e.id, address: e.address,
		taken: slotsTaken{e.load(), e.capacity, c.of}, placement: r.limits.placement}
	if c.passedOver != nil {
		n.words = "encoder " + strconv.FormatUint(c.passedOver.id, 10) + " " + c.because
	}
	r.noteLocked(n)
	return st
}

// age tells how long ago an encoding was started.
func (r *registry) age(st *stream, now time.Time) time.Duration { return now.Sub(r.began) - st.started }

// sourceURI is where an encoder pulls a stream from; it holds the stream key.
func (s *server) sourceURI(channel, key string) string {
	scheme := "rtmp"
	if s.kind == kindWS {
		scheme = "ws"
	}
	if s.ssl {
		scheme += "s"
	}
	return scheme + "://" + s.address() + "/" + channel + "/" + key
}

func (s *server) address() string {
	return net.JoinHostPort(strings.Trim(s.ip, "[]"), strconv.Itoa(s.port))
}

// end is PUBLISH-END: the channel is free at once, the slot stays busy until the encoder is done.
// It reports whether the stream ID was that of a live publisher of the server, or of an older session whose place the
// server has taken; if not, nothing changes.
func (r *registry) end(s *server, channel, streamID string, now time.Time) ([]notice, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.ousted[streamID]
	if p == nil {
		p = r.channels.Get(channel)
	}
	if p == nil || p.channel != channel || p.publisherID != streamID || p.server != s && !s.isNewerTwinOf(&p.server.twin) {
		return nil, false
	}
	r.followsLocked(s.keeper)
	r.endLocked(p, nil, now)
	r.reconcileLocked(now)
	return r.endTransitionLocked(now), true
}

// endLocked ends a publication whose publisher has ended; reason is nil if its streaming server has said so.
func (r *registry) endLocked(p *publication, reason error, now time.Time) {
	r.endsLocked(p, reason)
	r.forgetLocked(p, now)
	r.noteLocked(notice{kind: noteEnded, channel: p.channel, stream: p.id, server: p.server.id, reason: reason, why: p.why})
}

// forgetLocked ends a publication: the channel is free, its streams are closing.
func (r *registry) forgetLocked(p *publication, now time.Time) {
	r.channels.Remove(p)
	delete(r.ousted, p.publisherID)
	p.server.publications.Remove(p)
	r.publicationChangedLocked(p)
	delete(r.killed, p)
	r.letGoLocked(p)
	delete(r.postponed, p)
	if len(r.held[p.channel]) > 0 && !p.ousted {
		r.freed = append(r.freed, p.channel)
	}
	r.tellFailedLocked(p, now)
}

// letGoLocked takes a publication off its encoders, or out of the queue for one.
func (r *registry) letGoLocked(p *publication) {
	delete(r.losses, p)
	delete(r.interrupted, p)
	r.stopWaitingLocked(p)
	if p.current != nil {
		r.stopLocked(p.current)
	}
	if p.successor != nil {
		r.stopLocked(p.successor)
	}
	p.current, p.successor = nil, nil
	r.publicationChangedLocked(p)
}

// stopLocked makes a live stream closing.
func (r *registry) stopLocked(st *stream) {
	st.closing = true
	r.closing[st.id] = st
	r.streamChangedLocked(st)
	st.encoder.peer.stop(st.pub.channel, st.id)
}

// announce is STREAM-AVAILABLE. It reports whether the stream is the encoder's own and not closed; if not, nothing changes.
func (r *registry) announce(e *encoder, channel, streamID string, a announcement, now time.Time) ([]notice, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.ownStreamLocked(e, channel, streamID)
	if st == nil {
		return nil, false
	}
	r.followsLocked(e.keeper)
	e.failures, e.setAsideUntil = 0, time.Time{}
	if !st.pub.proven {
		st.pub.proven = true
		r.publicationChangedLocked(st.pub)
	}
	// When the move began current was unknown to the application, so the successor was to follow the stream before it. Now
	// the application learns of current first, and the successor follows that.
	if next := st.pub.successor; next != nil && st == st.pub.current && next.lastSeq == 0 {
		next.previous = st.id
		r.streamChangedLocked(next)
	}
	st.addOutputLocked(output{a.streamType, a.resolution, st.formOf(a.indexFile), a.startTime})
	r.tellOfStreamLocked(st, outbox.Event{StreamType: a.streamType, Resolution: a.resolution, IndexFile: a.indexFile, StartTime: a.startTime, At: a.at})
	if st == st.pub.successor && a.streamType == "HLS-LIVE" {
		r.handOverLocked(st.pub)
		r.reconcileLocked(now)
	}
	if a.streamType == "HLS-LIVE" && !st.closing {
		r.noteLiveLocked(st.pub, now)
	}
	return r.endTransitionLocked(now), true
}

// streamClosed is STREAM-CLOSED: the stream is closed, its slot free. If the encoder ended a live stream by itself, the
// publication fails over or is killed. It reports whether the stream was the encoder's own, or that of an older session whose
// place the encoder has taken; if not, nothing changes.
func (r *registry) streamClosed(e *encoder, channel, streamID string, at, now time.Time) ([]notice, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.findStreamLocked(channel, streamID)
	if st == nil || st.encoder != e && !e.isNewerTwinOf(&st.encoder.twin) {
		return nil, false
	}
	r.followsLocked(e.keeper)
	switch {
	case st.closing:
		r.closeLocked(st, nil, at)
	case st.encoder != e: // it was lost with the older connection, which says nothing about the stream itself
		r.loseLocked(st, true, errEncoderGone, at, now)
	default:
		r.countFailureLocked(st, now)
		r.loseLocked(st, st.pub.proven, errEncoderFailed, at, now)
	}
	r.reconcileLocked(now)
	return r.endTransitionLocked(now), true
}

// withoutKey takes the key of a stream's publisher out of a text of its encoder, which may quote its source.
func (r *registry) withoutKey(channel, streamID, text string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.findStreamLocked(channel, streamID)
	if st == nil || st.pub.key == "" {
		return text
	}
	return strings.ReplaceAll(text, st.pub.key, "***")
}

// ownStreamLocked finds a live or closing stream of the encoder.
func (r *registry) ownStreamLocked(e *encoder, channel, streamID string) *stream {
	st := r.findStreamLocked(channel, streamID)
	if st == nil || st.encoder != e {
		return nil
	}
	return st
}

func (r *registry) findStreamLocked(channel, streamID string) *stream {
	st := r.closing[streamID]
	if st == nil && r.replay != nil {
		st = r.replay.streams[streamID]
	}
	if p := r.channels.Get(channel); st == nil && p != nil {
		st = p.liveStreamLocked(streamID)
	}
	if st == nil || st.pub.channel != channel {
		return nil
	}
	return st
}

func (p *publication) liveStreamLocked(id string) *stream {
	for _, st := range [...]*stream{p.current, p.successor} {
		if st != nil && st.id == id {
			return st
		}
	}
	return nil
}

// isLiveLocked reports whether the stream serves a live publication.
func (st *stream) isLiveLocked() bool { return st == st.pub.current || st == st.pub.successor }

// closeLocked makes a closing stream closed; reason is nil if its encoder was told to stop it.
func (r *registry) closeLocked(st *stream, reason error, at time.Time) {
	r.freeLocked(st, reason)
	r.tellClosedLocked(st, r.whyClosedLocked(st, reason), at)
}

// loseLocked makes a live stream closed, and has its publication go on or end. mayFailOver tells whether another encoder may fare better.
func (r *registry) loseLocked(st *stream, mayFailOver bool, reason error, at, now time.Time) {
	why := r.whyClosedLocked(st, reason)
	r.freeLocked(st, reason)
	r.lostLocked(st, mayFailOver, reason, now)
	if l := r.postponed[st.pub]; l.untold == st {
		l.why, l.at = why, at
		r.postponed[st.pub] = l
		return
	}
	r.tellClosedLocked(st, why, at)
}

// freeLocked takes a stream off its encoder. It is the one place where its slot becomes free.
func (r *registry) freeLocked(st *stream, reason error) {
	if st.closing {
		delete(r.closing, st.id)
	}
	if r.replay != nil {
		delete(r.replay.streams, st.id)
	}
	st.encoder.streams.Remove(st)
	st.pub.atEncoders--
	r.streamChangedLocked(st)
	if st.retiredFor != notEnded {
		st.encoder.retired--
	}
	r.slots.used--
	r.noteLocked(notice{kind: noteClosed, channel: st.pub.channel, stream: st.id, encoder: st.encoder.id, address: st.encoder.address, reason: reason})
}
