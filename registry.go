package main

// Who is connected and which streams live. The registry alone holds the cluster's state, behind one mutex.
// No I/O, no clock, no logging: every operation is one transition, and what follows from it (orders to peers,
// events) is handed over before the lock is let go, so that effects leave in the order of their transitions.
// Streams, servers and encoders are known by identity: whoever holds an old one can't touch its successor.

import (
	"errors"
	"strings"
	"sync"
	"time"
)

var (
	errChannelBusy = errors.New("channel is live already")
	errNoEncoder   = errors.New("no encoder has a free slot")
	errPeerGone    = errors.New("streaming server is gone")
)

// serverPeer takes the orders to a streaming server. Its methods are called under the registry's lock:
// they append to a bounded queue, never wait and never call back.
type serverPeer interface {
	accept(requestID, channel, streamID string)
	deny(requestID, channel string)
	kill(channel, streamID string)
}

// encoderPeer takes the orders to an encoder, under the same rules as serverPeer.
type encoderPeer interface {
	start(encodeJob)
	stop(channel, streamID string)
}

// eventLog takes the events for the application, under the same rules as serverPeer.
type eventLog interface {
	append(event)
}

// encodeJob is what an encoder is told of a stream. sourceURI holds the stream key: it is never logged.
type encodeJob struct {
	channel, streamID             string
	sourceType, sourceURI         string
	resolutions, record, previews string
}

// event is something the application is told. Events with the same queue are delivered strictly in order.
type event struct {
	queue             string // first stream ID of the publication
	channel, streamID string
	seq               uint64 // 1, 2, 3 ... per stream, without gaps
	closed            bool   // stream-closed; else stream-available
	previous          string // the stream ID that this one took over from, if any

	// of stream-available
	streamType, resolution, indexFile, startTime string

	at time.Time
}

// server is a connected streaming server.
type server struct {
	// set once
	id         uint64
	serverType string // RTMP or WS
	ip         string
	port       int
	ssl        bool
	peer       serverPeer

	// guarded by registry.mu
	gone    bool
	streams map[*stream]struct{} // its live ones
}

// encoder is a registered encoder.
type encoder struct {
	// set once
	id   uint64
	peer encoderPeer

	// guarded by registry.mu
	gone     bool
	capacity int                  // negative: no limit
	streams  map[*stream]struct{} // live and closing: each holds one slot
}

func (e *encoder) load() int { return len(e.streams) }

func (e *encoder) hasFreeSlot() bool { return e.capacity < 0 || e.load() < e.capacity }

// stream is one encoding of a publication: live until its publisher or its encoder ends it, then closing until
// the encoder is done with it. A closed stream is in no map any more.
type stream struct {
	// set once
	channel, id string
	server      *server
	encoder     *encoder

	// guarded by registry.mu
	closing bool
	lastSeq uint64 // of its events; 0: the application does not know of it
}

type registry struct {
	// set once
	newStreamID func() string
	events      eventLog

	mu sync.Mutex
	// guarded by mu
	lastID   uint64 // of servers and encoders
	servers  map[uint64]*server
	encoders map[uint64]*encoder
	channels map[string]*stream // the live stream of each channel
	streams  map[string]*stream // live and closing, by stream ID
	slots    slotCount
}

// slotCount is kept up with every transition, so that asking for it costs the same with any number of streams.
type slotCount struct {
	used      int
	capacity  int // of the encoders with a limit
	unlimited int // encoders without one
}

// newRegistry returns an empty registry. The identities of servers and encoders count up from firstID.
func newRegistry(firstID uint64, newStreamID func() string, events eventLog) *registry {
	return &registry{
		newStreamID: newStreamID,
		events:      events,
		lastID:      firstID - 1,
		servers:     map[uint64]*server{},
		encoders:    map[uint64]*encoder{},
		channels:    map[string]*stream{},
		streams:     map[string]*stream{},
	}
}

// joinServer takes in a streaming server and gives it its identity.
func (r *registry) joinServer(s *server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID++
	s.id = r.lastID
	s.streams = map[*stream]struct{}{}
	r.servers[s.id] = s
}

// joinEncoder takes in an encoder that has registered and gives it its identity.
func (r *registry) joinEncoder(peer encoderPeer, capacity int) *encoder {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID++
	e := &encoder{id: r.lastID, peer: peer, capacity: capacity, streams: map[*stream]struct{}{}}
	r.encoders[e.id] = e
	r.slots.add(capacity)
	return e
}

// resize changes the capacity of an encoder; its load stays, even if it is above the new capacity.
func (r *registry) resize(e *encoder, capacity int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.gone {
		return
	}
	r.slots.remove(e.capacity)
	r.slots.add(capacity)
	e.capacity = capacity
}

// leaveServer forgets a streaming server; its live streams go over to closing.
func (r *registry) leaveServer(s *server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.gone {
		return
	}
	s.gone = true
	delete(r.servers, s.id)
	for st := range s.streams {
		r.endLocked(st)
	}
}

// leaveEncoder forgets an encoder; all its streams are closed, publishers of live ones are killed.
func (r *registry) leaveEncoder(e *encoder, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.gone {
		return
	}
	e.gone = true
	for st := range e.streams {
		r.closeLocked(st, now)
	}
	delete(r.encoders, e.id)
	r.slots.remove(e.capacity)
}

// channelIsLive tells whether a publish request for the channel would be denied whatever its key is.
func (r *registry) channelIsLive(channel string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.channels[channel] != nil
}

// claim makes a channel live: it takes the channel and an encoder's slot, accepts the request and starts the
// encoding. job comes without a stream ID. Errors, each leaving nothing behind: errPeerGone, errChannelBusy,
// errNoEncoder.
func (r *registry) claim(s *server, requestID string, job encodeJob) (*stream, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.gone {
		return nil, errPeerGone
	}
	if r.channels[job.channel] != nil {
		return nil, errChannelBusy
	}
	e := r.chooseEncoderLocked()
	if e == nil {
		return nil, errNoEncoder
	}
	job.channel = strings.Clone(job.channel) // the message it is cut from need not stay in memory
	job.streamID = r.newStreamID()
	st := &stream{channel: job.channel, id: job.streamID, server: s, encoder: e}
	r.channels[st.channel] = st
	r.streams[st.id] = st
	s.streams[st] = struct{}{}
	e.streams[st] = struct{}{}
	r.slots.used++
	s.peer.accept(requestID, st.channel, st.id)
	e.peer.start(job)
	return st, nil
}

// chooseEncoderLocked returns the encoder with a free slot and the least load, nil if there is none. Of equal
// loads the larger free share wins, which is the larger capacity; then the one that came first.
func (r *registry) chooseEncoderLocked() *encoder {
	var best *encoder
	for _, e := range r.encoders {
		if e.hasFreeSlot() && (best == nil || preferred(e, best)) {
			best = e
		}
	}
	return best
}

func preferred(a, b *encoder) bool {
	if a.load() != b.load() {
		return a.load() < b.load()
	}
	if a.load() > 0 && a.capacity != b.capacity { // an idle encoder is all free, whatever its size
		return a.capacity < 0 || (b.capacity >= 0 && a.capacity > b.capacity)
	}
	return a.id < b.id
}

// end is PUBLISH-END: the channel is free at once, the slot stays busy until the encoder is done.
// It reports whether the stream was the server's own live one; if not, nothing changes.
func (r *registry) end(s *server, channel, streamID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.channels[channel]
	if st == nil || st.id != streamID || st.server != s {
		return false
	}
	r.endLocked(st)
	return true
}

// endLocked takes a live stream over to closing.
func (r *registry) endLocked(st *stream) {
	st.closing = true
	delete(r.channels, st.channel)
	delete(st.server.streams, st)
	st.encoder.peer.stop(st.channel, st.id)
}

// announce is STREAM-AVAILABLE. Of available the caller sets what the encoder said and the time.
// It reports whether the stream is the encoder's own and not closed; if not, nothing changes.
func (r *registry) announce(e *encoder, available event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.streams[available.streamID]
	if st == nil || st.channel != available.channel || st.encoder != e {
		return false
	}
	st.lastSeq++
	available.channel, available.streamID, available.queue, available.seq = st.channel, st.id, st.id, st.lastSeq
	r.events.append(available)
	return true
}

// finish is STREAM-CLOSED: the stream is closed, its slot free; the publisher of a live one is killed.
// It reports whether the stream was the encoder's own; if not, nothing changes.
func (r *registry) finish(e *encoder, channel, streamID string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.streams[streamID]
	if st == nil || st.channel != channel || st.encoder != e {
		return false
	}
	r.closeLocked(st, now)
	return true
}

// closeLocked takes a live or closing stream over to closed. It is the one place where a slot becomes free.
func (r *registry) closeLocked(st *stream, now time.Time) {
	if !st.closing {
		delete(r.channels, st.channel)
		delete(st.server.streams, st)
		st.server.peer.kill(st.channel, st.id)
	}
	delete(r.streams, st.id)
	delete(st.encoder.streams, st)
	r.slots.used--
	if st.lastSeq > 0 {
		st.lastSeq++
		r.events.append(event{queue: st.id, channel: st.channel, streamID: st.id, seq: st.lastSeq, closed: true, at: now})
	}
}

// kill tells the publisher of the channel's live stream to stop, if the ID is its own or "*". The stream lives
// on until the streaming server says that it ended. It reports whether there was one to kill.
func (r *registry) kill(channel, streamID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.channels[channel]
	if st == nil || (streamID != st.id && streamID != "*") {
		return false
	}
	st.server.peer.kill(st.channel, st.id)
	return true
}

func (c *slotCount) add(capacity int) {
	if capacity < 0 {
		c.unlimited++
	} else {
		c.capacity += capacity
	}
}

func (c *slotCount) remove(capacity int) {
	if capacity < 0 {
		c.unlimited--
	} else {
		c.capacity -= capacity
	}
}

// capacityReport is the answer to GET /commands/capacity; capacity -1 means no limit.
type capacityReport struct {
	Load         int `json:"load"`
	Capacity     int `json:"capacity"`
	EncoderCount int `json:"encoderCount"`
}

func (r *registry) capacity() capacityReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := capacityReport{Load: r.slots.used, Capacity: r.slots.capacity, EncoderCount: len(r.encoders)}
	if r.slots.unlimited > 0 {
		c.Capacity = -1
	}
	return c
}

// clusterReport is the answer to GET /commands/report.
type clusterReport struct {
	ActiveStreams    []streamReport  `json:"activeStreams"`
	StreamingServers []serverReport  `json:"streamingServers"`
	Encoders         []encoderReport `json:"encoders"`
}

type streamReport struct {
	Channel      string `json:"channel"`
	StreamID     string `json:"streamId"`
	StreamServer uint64 `json:"streamServer"`
	Encoder      uint64 `json:"encoder"`
}

type serverReport struct {
	ID         uint64 `json:"id"`
	IP         string `json:"ip"`
	Port       int    `json:"port"`
	SSL        bool   `json:"ssl"`
	ServerType string `json:"serverType"`
}

type encoderReport struct {
	ID       uint64 `json:"id"`
	Capacity int    `json:"capacity"`
	Load     int    `json:"load"`
}

// report copies the state; the caller sorts and encodes it without the lock.
func (r *registry) report() clusterReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := clusterReport{
		ActiveStreams:    make([]streamReport, 0, len(r.channels)),
		StreamingServers: make([]serverReport, 0, len(r.servers)),
		Encoders:         make([]encoderReport, 0, len(r.encoders)),
	}
	for _, st := range r.channels {
		c.ActiveStreams = append(c.ActiveStreams, streamReport{st.channel, st.id, st.server.id, st.encoder.id})
	}
	for _, s := range r.servers {
		c.StreamingServers = append(c.StreamingServers, serverReport{s.id, s.ip, s.port, s.ssl, s.serverType})
	}
	for _, e := range r.encoders {
		c.Encoders = append(c.Encoders, encoderReport{e.id, e.capacity, e.load()})
	}
	return c
}
