package main

// Who is connected and what is live. The registry alone holds the cluster's state, behind one mutex.
// No I/O, no clock, no logging: every operation is one transition, and what follows from it (orders to peers,
// events) is handed over before the lock is released, so that effects leave in the order of their transitions. What
// is worth a log line comes back as notices. Publications, streams, servers and encoders are known by identity:
// whoever holds an old one can't touch its successor.
//
// A publish request:
//
//	claim --+-- free slot -------------------------------------------------------> live
//	        |
//	        +-- no free slot: waiting --+-- a slot is freed ---------------------> live
//	        |                           +-- encoderWait or answerBy has passed --> denied
//	        |
//	        +-- channel is live on another server, and may be taken over (registry_takeover.go): a slot is reserved,
//	        |   the live publication is killed
//	        |                           +-- that has ended, or takeoverPatience has passed --> live
//	        |
//	        +-- channel is live on a session that may be dead (registry_twins.go): held
//	        |                           +-- the channel is freed ----------------> claim again
//	        |                           +-- that session answers its probe, or
//	        |                               answerBy has passed -----------------> denied
//	        |
//	        +-- channel is live, server is draining, waiting is off -------------> denied
//
// What waits or is held is dropped if its server leaves, and denied at stop.
//
// A publication (one publisher on one channel; it outlives its encodings):
//
//	          drain with move: a successor starts
//	        +--------------------------------------> moving
//	        |                                          |
//	        |   the successor announced HLS-LIVE, or   |
//	        v   failed, or the old encoder was lost    |
//	claim->live <--------------------------------------+
//	        | ^
//	        | +-- encoder lost, another has a free slot: live again at once, under a new stream ID
//	        |
//	        |                    a slot is freed: live
//	        +-- encoder lost, no free slot --> waiting
//	        |                                    |
//	        |  close command, or no encoder      |  close command, or encoderWait
//	        v  can take it                       v  has passed
//	      killed <-------------------------------+
//	        |
//	        |  The channel stays taken and STREAM-KILL is repeated. Encodings are stopped at the first repeat
//	        |  after a close command, at once otherwise.
//	        v
//	      ended, the channel is free: PUBLISH-END (also from the server's newer twin) or the server left, in any
//	             state; killPatience has passed, if killed
//
// One that is killed because its channel is taken over is off the channel after takeoverPatience (ousted), and ends in the same ways.
// "Encoder lost" means here that it has left, or has ended this stream by itself. A publication that is moving can be killed, too.
//
// A stream (one encoding; holds a slot from start to closed):
//
//	start --> live -------- ENCODE-STOP ------> closing -- STREAM-CLOSED, or the encoder left --> closed
//	           |                                                                                    ^
//	           +-- STREAM-CLOSED (also from the encoder's newer twin), or the encoder left ---------+
//	               the publication fails over, or is killed
//
// live means current or successor of its publication. closing lasts as long as the encoder needs to finish recordings;
// a closing stream still announces outputs.
//
// stream-closed is told when a stream is closed, if it announced anything.
//
// Here: the state, joining and leaving. The other registry_*.go have the rest, one job each.

import (
	"container/list"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
	"unique"

	"coordinator/internal/channels"
	"coordinator/internal/members"
	"coordinator/internal/outbox"
)

var (
	errChannelBusy    = errors.New("channel is live already")
	errMayBeFree      = errors.New("channel is live on a session that may be dead")
	errNoEncoder      = errors.New("no encoder has a free slot")
	errPeerGone       = errors.New("streaming server is gone")
	errServerAway     = errors.New("the gateway of the streaming server is absent")
	errDraining       = errors.New("streaming server is draining")
	errStopping       = errors.New("coordinator is stopping")
	errUnknownSession = errors.New("no such session")
)

// serverPeer takes the orders to a streaming server. Its methods are called under the registry's lock:
// they append to a bounded queue, never wait and never call back.
type serverPeer interface {
	prober
	accept(to requestRef, channel, streamID string, publication uint64)
	deny(to requestRef, channel string)
	kill(channel, streamID string)
	keepsUp() bool // it has taken in nearly all that it was told; kills are said again only then
}

// encoderPeer takes the orders to an encoder, under the same rules as serverPeer.
type encoderPeer interface {
	prober
	start(encodeJob)
	stop(channel, streamID string)
}

// eventSink takes the events for the application, under the same rules as serverPeer.
type eventSink interface {
	AppendPart(outbox.Event) // of the transition under way
	End(outbox.Mark)         // of a transition that has appended something
}

// encodeJob is what an encoder is told of a stream. sourceURI holds the stream key: it is never logged.
type encodeJob struct {
	channel, streamID             string
	sourceType, sourceURI         string
	resolutions, record, previews string
}

// encodeSettings is what the application allows a stream, in the words of a job. Many streams have the same: they are
// kept once for all of them.
type encodeSettings struct{ resolutions, record, previews string }

// requestRef is what an answer to a publish request names.
type requestRef struct {
	id      string // the peer's
	message uint64 // that it came with, as a gateway counts them; 0: over a socket of this process
}

// claimRequest is a publish request that the application has allowed. key is a secret.
type claimRequest struct {
	requestRef
	channel, key string
	settings     encodeSettings
	verified     bool      // by the application; else every key is valid
	passthrough  string    // the application's own words, printable ASCII
	asked        time.Time // when the streaming server asked
	answerBy     time.Time
}

// serverKind is how publishers reach a streaming server, as encoders are told and reports show it.
type serverKind string

const (
	kindRTMP serverKind = "RTMP"
	kindWS   serverKind = "WS" // WebSocket
)

// serverInfo is what a streaming server says of itself: its kind and where encoders reach it.
type serverInfo struct {
	kind serverKind
	ip   string // or host name
	port int
	ssl  bool
}

// server is a connected streaming server.
type server struct {
	// set once
	serverInfo
	attachment
	peer serverPeer

	// guarded by registry.mu
	twin
	gone         bool
	away         bool // its gateway is absent: nothing that it does not do counts
	draining     bool
	publications members.Set[*publication]
	held         int // publish requests of this session in registry.held
}

// encoder is a registered encoder.
type encoder struct {
	// set once
	attachment
	address string // of its machine, as the connection shows it: an IP address
	peer    encoderPeer

	// guarded by registry.mu
	twin
	gone          bool
	away          bool                 // as of a server
	capacity      int                  // negative: no limit
	streams       members.Set[*stream] // live and closing: each holds one slot
	reserved      int                  // slots, for takeovers under way
	retired       int                  // streams of these that their publications go on without
	draining      bool                 // takes no new stream
	failures      int                  // streams in a row that it failed right after their start
	setAsideUntil time.Time            // until then chosen only if no other encoder has a free slot
}

// publication is a publisher that is live on a channel, regardless of which encoder currently has its stream. There may be
// 100,000 of them and of streams, so each is kept small.
type publication struct {
	// set once
	number      uint64 // never reused while its events are on disk, not even by a later process
	channel     string
	key         string // a secret
	publisherID string // the first stream ID: what the streaming server knows the publisher by
	passthrough string // the application's own words
	server      *server
	settings    unique.Handle[encodeSettings]
	since       int64         // Unix nanoseconds
	accepted    time.Duration // the same, by the registry's clock

	// guarded by registry.mu
	id          string        // stream ID towards the application: of current, or of the last one while there is none
	current     *stream       // nil while the publication waits for another encoder or, once killed, for PUBLISH-END
	successor   *stream       // has been started to take over from current and has announced no HLS-LIVE yet
	waiting     *list.Element // in registry.waiting, or nil
	proven      bool          // an encoder has announced something of it
	killed      bool          // told to end; since when is in registry.killed
	ousted      bool          // killed, and off the channel
	tookOver    bool          // set once: the channel was taken over for it
	changed     bool          // in registry.changes
	owesEnd     bool          // the application was told that it was accepted, and neither that a stream is available nor that it failed
	mayBeUntold bool          // during a restore: its publish-accepted may never have been stored
	wasLive     bool          // an encoder has announced its HLS-LIVE
	why         endReason     // why it ends; notEnded: it does not
	failedMoves uint8
	askedBefore uint16 // milliseconds that its request waited for the accept; set once
	atEncoders  uint32 // streams that are not closed
	events      uint32 // events appended so far; the next one's position
	lastOrdinal uint32 // of its streams
	inServer    uint32 // index in server.publications
}

func (p *publication) Index() *uint32 { return &p.inServer }

func (p *publication) Channel() string { return p.channel }

// stream is one encoding of a publication: live until the publication or the encoder ends it, then closing until
// the encoder is done with it. A closed stream is in no set any more.
type stream struct {
	// set once
	id      string
	pub     *publication
	encoder *encoder
	started time.Duration // by the registry's clock

	// guarded by registry.mu
	previous   string // stream ID that it took over from; fixed with its first event
	closing    bool
	retiredFor endReason // why it is closing although its publication goes on at another encoder; notEnded: it is not
	changed    bool      // in registry.changes
	isOver     bool      // its stream-closed was in the store at the start: nothing is told of it any more
	inEncoder  uint32    // index in encoder.streams
	ordinal    uint32    // 1, 2, 3 ... of its publication's streams; set once
	lastSeq    uint32    // of its events; 0: nothing was announced
	outputs    []unique.Handle[output]
}

func (st *stream) Index() *uint32 { return &st.inEncoder }

// announcement is what an encoder says in STREAM-AVAILABLE.
type announcement struct {
	streamType, resolution, indexFile, startTime string

	at time.Time // when it was said
}

// limits are the registry's rules that an operator can set.
type limits struct {
	failover     bool          // a publication whose encoder is lost goes on at another one
	encoderWait  time.Duration // for a free slot; 0: not at all
	startTimeout time.Duration // for the first announcement of a stream; 0: none
	placement    placement     // "": leastLoad
	takeover     bool          // a publisher may take over a channel that is live on another server
	extraEvents  bool          // the application also hears of publishers and interruptions
}

type registry struct {
	// set once
	limits      limits
	began       time.Time // times of streams are kept as durations since then, a third of the size of a time.Time
	newStreamID func() string
	random      func(n int) int // from 0 to n-1
	events      eventSink
	passer      passer            // nil: there are no gateways
	reserve     func(last uint64) // of numbers, if there are

	mu sync.Mutex
	// guarded by mu
	stopping     bool
	lastID       uint64 // of servers and encoders
	lastNumber   uint64 // of publications
	reserved     uint64 // of both, if there are gateways
	servers      map[uint64]*server
	encoders     map[uint64]*encoder
	moving       map[*encoder]struct{}        // drained, and to be emptied
	channels     channels.Index[*publication] // the publication that holds each channel, with an encoder or without
	ousted       map[string]*publication      // that have lost their channel and have not ended, by publisher ID
	closing      map[string]*stream           // streams, by ID
	slots        slotCount
	waiting      list.List                 // of *waiter, in the order of arrival
	waitingCount int                       // publish requests among them
	killed       map[*publication]*killing // until PUBLISH-END or killPatience
	twins        map[twinKey]*twinGroup
	unprobed     map[*twinGroup]struct{} // those with sessions to probe soon
	held         map[string][]*waiter    // publish requests, by channel: see registry_twins.go
	heldCount    int
	takeovers    map[string]*takeover         // under way, by channel
	takenOver    map[string]time.Time         // when the last takeover of a channel began, for takeoversApart
	freed        []string                     // channels with held requests that have become free
	losses       map[*publication][]time.Time // of encoders, within the last minute
	interrupted  map[*publication]time.Time   // those that have lost an encoder and have no HLS-LIVE of the next one yet: since when
	started      []*stream                    // in the order of their start, while startTimeout is not over
	postponed    map[*publication]loss        // in a restore and in leaveGateways, until goOnAllLocked: losses to be dealt with then; else nil
	replay       *replay                      // from await until restored; else nil
	silent       bool                         // no event is appended: set while messages are replayed whose events are in the store
	cause        memoKeeper                   // the session at a gateway whose message the transition under way follows from
	told         bool                         // the transition under way has appended an event
	changes      changes                      // of the transition under way
	notices      []notice
}

// notice is something that the operator may want to read: what happened, to whom.
type notice struct {
	kind            noticeKind
	at              time.Time // zero: now
	channel, stream string
	previous        string // stream ID
	server, encoder uint64
	reason          error
	until           time.Time // of an encoder that is set aside
	address         string    // of the encoder of an encoding; of the streaming server that has the channel of a denied request
	since           int64     // since when that has it, in Unix nanoseconds
	taken           slotsTaken
	placement       placement     // by which the encoder of an encoding was chosen
	words           string        // of the encoder of a stream that is closed; of a publication that has begun: the application's; of an encoding: who was passed over
	why             endReason     // of a publication that has ended
	took            time.Duration // of noteStarted, noteFirstLive and noteLiveAgain: see there
}

// slotsTaken are the slots of all encoders in service when none of them could take a request, with -1 encoders if that is not known; or the
// slots of the encoder that was chosen, and of how many it was chosen.
type slotsTaken struct{ used, capacity, encoders int }

type noticeKind int

const (
	noteStarted     noticeKind = iota // a publication, with its first stream: how long after the request
	noteDenied                        // a publish request, whatever the reason
	noteEnded                         // a publication
	noteKilled                        // a publication, by the coordinator itself
	noteKilledBy                      // a publication, by a command
	noteKillIgnored                   // a publication that ends here, though its streaming server never said that it ended
	noteMoved                         // a publication, to the encoder of its successor
	noteFailedOver                    // a publication, to another encoder
	noteEncoding                      // a stream has begun
	noteClosed                        // a stream
	noteSetAside                      // an encoder
	noteDraining                      // a streaming server, or an encoder
	noteMoving                        // an encoder that drains: its streams are taken to others
	noteInService                     // a streaming server or an encoder, again
	noteWaiting                       // a publish request, or a publication, for a slot
	noteFirstLive                     // a publication has its first HLS-LIVE: how long after the request
	noteLiveAgain                     // a publication that lost an encoder has its HLS-LIVE again: how long after that
)

func (r *registry) noteLocked(n notice) { r.notices = append(r.notices, n) }

// endTransitionLocked is the last step of a transition that may have appended events: they go into one commit. It returns what
// is worth a line in the log or an entry in the timeline. now is zero if nothing of it has to be later than what was before.
func (r *registry) endTransitionLocked(now time.Time) []notice {
	r.sendMemosLocked()
	mark := outbox.Mark{}
	if r.passer != nil {
		mark = r.passer.endTransition(r.cause, r.told)
		r.cause, r.silent = nil, false
		r.reserveNumbersLocked()
	}
	if r.told {
		r.told = false
		r.events.End(mark)
	}
	notices := r.notices
	r.notices = nil
	for i := range notices {
		if notices[i].at.IsZero() {
			notices[i].at = now
		}
	}
	return notices
}

// newRegistry returns an empty registry. The identities of servers and encoders count up from firstID, and so do the
// numbers of publications. now and all later times have to be of one clock.
func newRegistry(firstID uint64, now time.Time, newStreamID func() string, events eventSink, limits limits) *registry {
	return &registry{
		limits:      limits,
		began:       now,
		newStreamID: newStreamID,
		random:      rand.IntN,
		events:      events,
		lastID:      firstID - 1,
		lastNumber:  firstID - 1,
		servers:     map[uint64]*server{},
		encoders:    map[uint64]*encoder{},
		moving:      map[*encoder]struct{}{},
		channels:    channels.NewIndex[*publication](),
		ousted:      map[string]*publication{},
		closing:     map[string]*stream{},
		killed:      map[*publication]*killing{},
		twins:       map[twinKey]*twinGroup{},
		unprobed:    map[*twinGroup]struct{}{},
		held:        map[string][]*waiter{},
		takeovers:   map[string]*takeover{},
		takenOver:   map[string]time.Time{},
		losses:      map[*publication][]time.Time{},
		interrupted: map[*publication]time.Time{},
	}
}

// attachment is a session as it is held: by a socket of this process, or by a gateway.
type attachment struct {
	id      uint64     // identity; 0: it is given one when it joins
	since   time.Time  // zero: when it joins
	gateway string     // that holds the session; "": none
	keeper  memoKeeper // of a session at a gateway, else nil
}

// newID gives the identity of a session that is to join later.
func (r *registry) newID() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID++
	return r.lastID
}

// joinServer adds a streaming server. One without an identity is given one.
func (r *registry) joinServer(at attachment, peer serverPeer, info serverInfo, now time.Time) *server {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &server{serverInfo: info, attachment: r.attachLocked(at, now), peer: peer}
	s.twin = twin{session: s.id, prober: peer}
	r.servers[s.id] = s
	r.joinTwinsLocked(&s.twin, twinKey{string(s.kind), s.ip, s.port}, now)
	return s
}

// joinEncoder adds an encoder that has registered. One without an identity is given one. address is that of its machine.
func (r *registry) joinEncoder(at attachment, peer encoderPeer, address string, capacity int, now time.Time) (*encoder, []notice) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followsLocked(at.keeper)
	e := &encoder{attachment: r.attachLocked(at, now), address: address, peer: peer, capacity: capacity}
	e.twin = twin{session: e.id, prober: peer}
	r.encoders[e.id] = e
	r.slots.add(capacity)
	r.joinTwinsLocked(&e.twin, twinKey{kind: "HLS", address: address}, now)
	r.encoderChangedLocked(e)
	r.reconcileLocked(now)
	return e, r.endTransitionLocked(now)
}

// attachLocked fills in what a session has not been given before.
func (r *registry) attachLocked(at attachment, now time.Time) attachment {
	if at.id == 0 {
		r.lastID++
		at.id = r.lastID
	}
	if at.since.IsZero() {
		at.since = now
	}
	return at
}

// resize changes the capacity of an encoder, and tells whether it was another one; its load stays, even if it is above the new capacity.
func (r *registry) resize(e *encoder, capacity int, now time.Time) (notices []notice, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.gone {
		return nil, false
	}
	changed = e.capacity != capacity
	r.followsLocked(e.keeper)
	r.slots.remove(e.capacity)
	r.slots.add(capacity)
	e.capacity = capacity
	r.encoderChangedLocked(e)
	r.reconcileLocked(now)
	return r.endTransitionLocked(now), changed
}

// leaveServer forgets a streaming server: its publications end, and its publish requests that wait or are held are dropped.
func (r *registry) leaveServer(s *server, now time.Time) []notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followsLocked(s.keeper)
	r.leaveServerLocked(s, now)
	r.reconcileLocked(now)
	return r.endTransitionLocked(now)
}

func (r *registry) leaveServerLocked(s *server, now time.Time) {
	if s.gone {
		return
	}
	s.gone = true
	delete(r.servers, s.id)
	r.leaveTwinsLocked(&s.twin)
	r.forgetRequestsLocked(s)
	for _, p := range slices.Clone(s.publications) {
		r.endLocked(p, errPeerGone, now)
	}
}

// leaveEncoder forgets an encoder: all its streams are closed, publications that were live on it fail over or are killed.
func (r *registry) leaveEncoder(e *encoder, now time.Time) []notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followsLocked(e.keeper)
	r.leaveEncoderLocked(e, now)
	r.reconcileLocked(now)
	return r.endTransitionLocked(now)
}

func (r *registry) leaveEncoderLocked(e *encoder, now time.Time) {
	if e.gone {
		return
	}
	e.gone = true
	delete(r.encoders, e.id)
	delete(r.moving, e)
	r.leaveTwinsLocked(&e.twin)
	r.slots.remove(e.capacity)
	r.releaseSlotsLocked(e)
	for _, st := range slices.Clone(e.streams) {
		if st.closing {
			r.closeLocked(st, errEncoderGone, now)
		} else {
			r.loseLocked(st, true, errEncoderGone, now, now)
		}
	}
}

// stop is called when the coordinator begins to stop: from now on publish requests are denied, those that wait included, and
// there are no moves and no failover.
func (r *registry) stop() []notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopping = true
	r.denyRequestsLocked(errStopping)
	return r.endTransitionLocked(time.Time{})
}
