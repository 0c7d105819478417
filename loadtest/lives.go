package main

// One life of a stream, played by the peers and the application together:
//
//	PUBLISH-REQUEST -> PUBLISH-ACCEPT, ENCODE-START -> STREAM-AVAILABLE -> event -> PUBLISH-END -> ENCODE-STOP ->
//	STREAM-CLOSED -> event
//
// No goroutine waits for a life: each step is taken by the reader or the request that makes it possible.
// The place of a life in the fleet is part of its channel's name, so that nothing is looked up.

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/wire"
)

const retryDenied = 100 * time.Millisecond

// life is a place that streams live in, one after the other, each on a channel of its own.
type life struct {
	// set once
	number int

	mu sync.Mutex
	// guarded by mu
	generation        int
	server            *peer
	channel, streamID string     // the ID is that of the accept, by which the server knows the publisher
	intended          time.Time  // when it should have begun
	acceptedAt        time.Time  // zero: it waits for its accept
	encodings         []encoding // the last one is that of the publisher
	underWay          bool
	held              bool // stays live
	more              int  // announcements beside those that each life begins with
	live              bool
	ended             bool // PUBLISH-END is sent
}

// encoding is a stream at an encoder. A life has one, unless a leader ends in the middle of its start: the next one starts again
// under a new ID what was not passed on to the encoder, and stops what was, if the accept was not passed on to the server.
type encoding struct {
	streamID string
	encoder  *peer
	told     []time.Time // when the encoder told of each event
	delivery delivery
}

// begin starts the next life in a place that is free.
func (f *fleet) begin(l *life, server *peer, intended time.Time, held bool) {
	channel := f.prepare(l, server, intended, held)
	f.begun.Add(1)
	server.Say("PUBLISH-REQUEST", "Request-ID", channel, "Stream-Channel", channel, "Stream-Key", "key-"+channel, "User-IP", "192.0.2.1")
}

func (f *fleet) prepare(l *life, server *peer, intended time.Time, held bool) (channel string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	l.server, l.intended, l.held = server, intended, held
	l.channel = f.prefix + strconv.Itoa(l.number) + "-" + strconv.Itoa(l.generation)
	l.streamID, l.acceptedAt = "", time.Time{}
	l.encodings = l.encodings[:0]
	l.underWay = true
	l.live, l.ended = false, false
	return l.channel
}

// find returns the place of a channel and which of its lives it names; nil for a channel of nobody here.
func (f *fleet) find(channel string) (*life, int) {
	rest, ours := strings.CutPrefix(channel, f.prefix)
	number, generation, _ := strings.Cut(rest, "-")
	n, err := strconv.Atoi(number)
	if !ours || err != nil || n < 0 || n >= len(f.lives) {
		return nil, 0
	}
	g, err := strconv.Atoi(generation)
	if err != nil {
		return nil, 0
	}
	return &f.lives[n], g
}

// isLocked tells whether the life goes on that a message names by its channel.
func (l *life) isLocked(generation int) bool { return l.underWay && generation == l.generation }

// encodingLocked returns the one with this stream ID, nil if there is none.
func (l *life) encodingLocked(streamID string) *encoding {
	for i := range l.encodings {
		if l.encodings[i].streamID == streamID {
			return &l.encodings[i]
		}
	}
	return nil
}

func (l *life) acceptedLocked() bool { return !l.acceptedAt.IsZero() }

// mayEndLocked tells once that it is time for PUBLISH-END.
func (l *life) mayEndLocked() bool {
	if !l.acceptedLocked() || !l.live || l.held || l.ended {
		return false
	}
	l.ended = true
	return true
}

// serverTold is what a streaming server does with a message.
func (f *fleet) serverTold(p *peer, message []byte) {
	switch wire.Method(message) {
	case "PUBLISH-ACCEPT":
		f.accepted(wire.Value(message, "Stream-Channel"), wire.Value(message, "Stream-ID"))
	case "PUBLISH-DENY":
		f.deny(wire.Value(message, "Stream-Channel"))
	case "STREAM-KILL":
		f.kill(wire.Value(message, "Stream-Channel"), wire.Value(message, "Stream-ID"))
	case "HEARTBEAT":
		f.lateness.record(p.beat(time.Now()))
	}
}

// encoderTold is what an encoder does with a message.
func (f *fleet) encoderTold(p *peer, message []byte) {
	switch wire.Method(message) {
	case "ENCODE-START":
		f.encode(p, wire.Value(message, "Stream-Channel"), wire.Value(message, "Stream-ID"))
	case "ENCODE-STOP":
		f.finishEncoding(p, wire.Value(message, "Stream-Channel"), wire.Value(message, "Stream-ID"))
	case "HEARTBEAT":
		f.lateness.record(p.beat(time.Now()))
	}
}

func (f *fleet) accepted(channel, streamID string) {
	l, generation := f.find(channel)
	if l == nil {
		f.unexpected.Add(1)
		return
	}
	known, end := f.acceptLife(l, generation, streamID)
	switch {
	case !known:
		f.unexpected.Add(1)
		return
	case end != nil:
		end.Say("PUBLISH-END", "Stream-Channel", channel, "Stream-ID", streamID)
	case f.endAfter > 0:
		time.AfterFunc(f.endAfter, func() { f.endUnseen(l, generation) })
	}
	f.progress.Add(1)
}

// acceptLife tells whether the life was waiting for its accept, and who has to end it now, if anyone.
func (f *fleet) acceptLife(l *life, generation int, streamID string) (known bool, end *peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isLocked(generation) || l.acceptedLocked() || streamID == "" {
		return false, nil
	}
	n := len(l.encodings)
	switch started := l.encodingLocked(streamID); {
	case n == 0: // its start is on its way
	case started == nil && !f.startsAnew:
		return false, nil
	case started != nil && started != &l.encodings[n-1]: // and another one was started in its place
		return false, nil
	}
	l.streamID, l.acceptedAt = streamID, time.Now()
	f.accept.record(l.acceptedAt.Sub(l.intended))
	if l.mayEndLocked() {
		end = l.server
	}
	return true, end
}

// endUnseen ends a life whether the application has heard of it or not.
func (f *fleet) endUnseen(l *life, generation int) {
	if server, channel, streamID := l.endNow(generation); server != nil {
		server.Say("PUBLISH-END", "Stream-Channel", channel, "Stream-ID", streamID)
	}
}

// endNow says who has to end the life; nobody if it is over or about to be.
func (l *life) endNow(generation int) (server *peer, channel, streamID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.underWay || l.generation != generation || l.ended {
		return nil, "", ""
	}
	l.ended = true
	return l.server, l.channel, l.streamID
}

func (f *fleet) deny(channel string) {
	f.denied.Add(1)
	l, generation := f.find(channel)
	if l == nil || !l.denyNow(generation) {
		f.unexpected.Add(1)
		return
	}
	time.AfterFunc(retryDenied, func() { f.retire(l) })
}

// denyNow gives up a life that was waiting for its accept.
func (l *life) denyNow(generation int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.underWay || l.generation != generation || l.acceptedLocked() {
		return false
	}
	l.underWay = false
	return true
}

func (f *fleet) kill(channel, streamID string) {
	f.killed.Add(1)
	if l, generation := f.find(channel); l != nil {
		f.endUnseen(l, generation)
	}
}

func (f *fleet) encode(p *peer, channel, streamID string) {
	l, generation := f.find(channel)
	if l == nil || !f.startEncoding(l, generation, p, streamID) {
		f.unexpected.Add(1)
		return
	}
	f.told.Add(int64(f.announcements))
	for n := 1; n <= f.announcements; n++ {
		announce(p, channel, streamID, n)
	}
	f.progress.Add(1)
}

func announce(encoder *peer, channel, streamID string, n int) {
	encoder.Say("STREAM-AVAILABLE", "Stream-Channel", channel, "Stream-ID", streamID, "Stream-Type", "HLS-LIVE",
		"Resolution", "1280x720-30", "Index-file", indexFile(channel, n))
}

// announceMore has the encoder of a held life tell the rest of its announcements.
func (f *fleet) announceMore(l *life) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &l.encodings[len(l.encodings)-1]
	if !e.tell(l.more) {
		f.unexpected.Add(1)
		return
	}
	f.told.Add(int64(l.more))
	for n := f.announcements + 1; n <= f.announcements+l.more; n++ {
		announce(e.encoder, l.channel, e.streamID, n)
	}
	f.progress.Add(1)
}

// startEncoding notes that an encoder begins, and tells of all but the end now. It reports whether it was to be begun.
func (f *fleet) startEncoding(l *life, generation int, encoder *peer, streamID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isLocked(generation) || streamID == "" || l.encodingLocked(streamID) != nil {
		return false
	}
	first := len(l.encodings) == 0
	if other := !first || l.acceptedLocked() && l.streamID != streamID; other {
		if !f.startsAnew || l.acceptedLocked() && l.encodingLocked(l.streamID) != nil { // the publisher's stream is there
			return false
		}
		f.anew.Add(1)
	}
	l.live = false
	l.encodings = append(l.encodings, encoding{streamID: streamID, encoder: encoder, delivery: newDelivery(f.announcements + l.more + 1)})
	l.encodings[len(l.encodings)-1].tell(f.announcements)
	return true
}

func (f *fleet) finishEncoding(p *peer, channel, streamID string) {
	l, generation := f.find(channel)
	if l == nil || !l.finish(generation, streamID) {
		f.unexpected.Add(1)
		return
	}
	f.told.Add(1)
	p.Say("STREAM-CLOSED", "Stream-Channel", channel, "Stream-ID", streamID)
	f.progress.Add(1)
}

// finish notes that the encoder tells of the end now.
func (l *life) finish(generation int, streamID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isLocked(generation) {
		return false
	}
	e := l.encodingLocked(streamID)
	return e != nil && e.tell(1)
}

// tell notes that the encoder tells of the next events now.
func (e *encoding) tell(events int) bool {
	if e.delivery.told+events > len(e.delivery.ids) {
		return false
	}
	now := time.Now()
	for range events {
		e.told = append(e.told, now)
	}
	e.delivery.told += events
	return true
}

// take is the application's part: it has got an event.
func (f *fleet) take(header http.Header) {
	a := clustertest.EventOf(header)
	l, generation := f.find(a.Channel)
	if l == nil {
		return // of another run: an outbox lives longer than a load test
	}
	if f.contents != nil {
		f.contents.note(header)
	}
	f.progress.Add(1)
	switch next, server, streamID := f.arrive(l, generation, a); next {
	case endLife:
		server.Say("PUBLISH-END", "Stream-Channel", a.Channel, "Stream-ID", streamID)
	case holdLife:
		f.leaveFlight()
	case completeLife:
		f.completed.Add(1)
		f.retire(l)
	}
}

// step is what follows from an event.
type step int

const (
	noStep step = iota
	endLife
	holdLife
	completeLife
)

// arrive returns what follows, and for endLife whose publisher it is and under which ID.
func (f *fleet) arrive(l *life, generation int, a clustertest.Event) (next step, server *peer, streamID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if generation < l.generation || (generation == l.generation && !l.underWay) {
		f.repeated.Add(1) // that life is over: it had all its events
		return noStep, nil, ""
	}
	e := l.encodingLocked(a.StreamID)
	if e == nil || !l.isLocked(generation) {
		f.unexpected.Add(1)
		return noStep, nil, ""
	}
	number := f.announcements + l.more + 1
	if a.Type != "stream-closed" {
		number = indexNumber(a.IndexFile)
	}
	switch e.delivery.arrive(number, a.ID) {
	case repeated:
		f.repeated.Add(1)
		return noStep, nil, ""
	case unexpected:
		f.unexpected.Add(1)
		return noStep, nil, ""
	case outOfOrder:
		f.outOfOrder.Add(1)
	}
	f.arrived.Add(1)
	if number <= len(e.told) {
		f.event.record(time.Since(e.told[number-1]))
	}
	return l.nextLocked(e), l.server, l.streamID
}

// nextLocked is for an event of an encoding that has arrived.
func (l *life) nextLocked(e *encoding) step {
	if l.completeLocked() {
		l.underWay = false
		return completeLife
	}
	first := !l.live && e == &l.encodings[len(l.encodings)-1]
	l.live = l.live || first
	switch {
	case l.mayEndLocked():
		return endLife
	case first && l.held:
		return holdLife
	}
	return noStep
}

// completeLocked tells whether the publisher has ended and the application has heard all of it.
func (l *life) completeLocked() bool {
	for i := range l.encodings {
		if !l.encodings[i].delivery.complete() {
			return false
		}
	}
	return l.ended
}

// indexFile names the n-th announcement of a stream, indexNumber reads it from there.
func indexFile(channel string, n int) string {
	return "/hls/" + channel + "/" + strconv.Itoa(n) + ".m3u8"
}

func indexNumber(file string) int {
	name := strings.TrimSuffix(file[strings.LastIndexByte(file, '/')+1:], ".m3u8")
	n, _ := strconv.Atoi(name)
	return n
}
