package main

// What the peers and the application of a random cluster were told, and what they may be told next. The model is fed
// by the orders and events alone; it looks into the registry only to compare which channels are live.

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"coordinator/internal/outbox"
)

type clusterModel struct {
	t     *testing.T
	r     *registry
	rules limits
	rnd   *rand.Rand
	now   time.Time
	log   []string // the last lines
	told  int      // orders and events

	servers  []*modelServer
	encoders []*modelEncoder
	requests map[string]*modelRequest // not answered
	live     map[string]*modelPublication
	ousted   []*modelPublication // that have lost their channels and have not ended
	all      []*modelPublication
	tasks    []*modelTask
	byID     map[string]*modelTask
	queues   map[uint64]bool // that have had events
	judge    toldJudge

	lastID, lastRequest            int
	claiming, commanding, stopping bool

	begun, ended                              int // publications, as noted
	failovers, moves, waited, held, successes int // what the run has seen; successes of twins
	takeovers                                 int // of publishers who did not end in time
}

type modelServer struct {
	*server
	m      *clusterModel
	probed bool // and has not answered
}

type modelEncoder struct {
	m                           *clusterModel
	encoder                     *encoder
	capacity                    int
	connected, draining, moving bool
	probed                      bool
}

type modelRequest struct {
	id, channel string
	server      *modelServer
	asked       time.Time
	answerBy    time.Time
}

type modelPublication struct {
	id, channel string
	server      *modelServer
	killed      time.Time // the first time
	again       int       // how often the kill was due again when it was last said
	ended       bool
	tasks       []*modelTask
	queue       uint64 // of its events; 0 before the first
	events      uint32
}

// modelTask is a stream ID on an encoder.
type modelTask struct {
	id, channel        string
	pub                *modelPublication
	encoder            *modelEncoder
	from               *modelTask // live when this one was started to take over from it
	started            time.Time
	stopped            bool // ENCODE-STOP was sent
	over               bool // closed by the encoder, or the encoder is gone
	announced, hlsLive bool
	closed             bool // the application knows
	noted              bool // its end, once
	lastSeq            uint64
}

func (k *modelTask) live() bool { return !k.stopped && !k.over }

func newClusterModel(t *testing.T, rules limits, rnd *rand.Rand) *clusterModel {
	m := &clusterModel{t: t, rules: rules, rnd: rnd, now: time.Unix(1_700_000_000, 0), requests: map[string]*modelRequest{}, live: map[string]*modelPublication{}, byID: map[string]*modelTask{}, queues: map[uint64]bool{}}
	m.r = newRegistry(1, m.now, func() string { m.lastID++; return fmt.Sprint("id", m.lastID) }, m, rules)
	return m
}

func (m *clusterModel) say(format string, args ...any) {
	if len(m.log) == 120 {
		m.log = slices.Delete(m.log, 0, 60)
	}
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (m *clusterModel) hold(ok bool, format string, args ...any) {
	if !ok {
		m.t.Helper()
		m.t.Fatalf(format, args...)
	}
}

func (m *clusterModel) answered(request string) {
	m.hold(m.requests[request] != nil, "request %s is answered twice, or its server is gone", request)
	delete(m.requests, request)
}

func (m *clusterModel) publicationEnds(p *modelPublication) {
	m.hold(!p.ended && (m.live[p.channel] == p || slices.Contains(m.ousted, p)), "publication %s ends twice", p.id)
	p.ended = true
	if m.live[p.channel] == p {
		delete(m.live, p.channel)
	}
	m.ousted = slices.DeleteFunc(m.ousted, func(other *modelPublication) bool { return other == p })
}

// oust is for a publication whose channel is given to a request: it was killed, and has had its time to end.
func (m *clusterModel) oust(p *modelPublication, by *modelRequest) {
	m.hold(m.rules.takeover && !p.killed.IsZero() && p.server != by.server, "accept for %s, which %s is live on", p.channel, p.id)
	m.hold(m.now.Sub(by.asked) >= takeoverPatience || !m.now.Before(by.answerBy), "accept for %s, which %s has had %v to end on", p.channel, p.id, m.now.Sub(by.asked))
	for _, k := range p.tasks {
		m.hold(!k.live(), "stream %s of a publisher who has lost the channel goes on", k.id)
	}
	delete(m.live, p.channel)
	m.ousted = append(m.ousted, p)
	m.takeovers++
}

// killIsOver tells whether the publication may be forgotten because its server ignored a kill.
func (m *clusterModel) killIsOver(p *modelPublication) bool {
	return !p.killed.IsZero() && m.now.Sub(p.killed) >= killPatience
}

// isForgotten tells whether it was forgotten, and not ousted, when its channel is given to another one or its stream is stopped.
func (m *clusterModel) isForgotten(p *modelPublication) bool {
	return m.killIsOver(p) && m.r.ousted[p.id] == nil
}

func (s *modelServer) accept(to requestRef, channel, streamID string, _ uint64) {
	requestID := to.id
	m := s.m
	m.told++
	m.say("    accept %s %s %s", requestID, channel, streamID)
	m.hold(!m.stopping, "accept while stopping")
	m.hold(m.requests[requestID] != nil && m.requests[requestID].server == s && m.requests[requestID].channel == channel, "accept of a request that server %d has not asked", s.id)
	if old := m.live[channel]; old != nil && m.isForgotten(old) {
		m.publicationEnds(old)
	} else if old != nil {
		m.oust(old, m.requests[requestID])
	}
	switch {
	case m.claiming:
	case m.rules.encoderWait == 0:
		m.held++
	default:
		m.waited++
	}
	m.answered(requestID)
	p := &modelPublication{id: streamID, channel: channel, server: s}
	m.live[channel] = p
	m.all = append(m.all, p)
}

func (s *modelServer) deny(to requestRef, channel string) {
	requestID := to.id
	s.m.told++
	s.m.say("    deny %s %s", requestID, channel)
	s.m.answered(requestID)
}

func (s *modelServer) kill(channel, streamID string) {
	m := s.m
	m.told++
	m.say("    kill %s %s", channel, streamID)
	p := m.live[channel]
	for _, ousted := range m.ousted {
		if ousted.id == streamID {
			p = ousted
		}
	}
	m.hold(p != nil && p.server == s && p.id == streamID, "server %d is to kill %s, which is not its live publisher", s.id, streamID)
	switch {
	case p.killed.IsZero():
		p.killed = m.now
	case !m.commanding:
		due := killsDue(m.now.Sub(p.killed))
		m.hold(due > p.again, "kill of %s is said again, %v after the first one", p.id, m.now.Sub(p.killed))
		p.again = due
	}
}

// killsDue is how often a kill is to be said again within a time, 1, 2, 4, 8 and 16 s after the first one.
func killsDue(age time.Duration) (n int) {
	for _, at := range []time.Duration{1, 2, 4, 8, 16} {
		if age >= at*time.Second {
			n++
		}
	}
	return n
}

func (s *modelServer) keepsUp() bool { return true }

func (s *modelServer) probe(session uint64) {
	s.m.probed(session, s.id, &s.probed)
}

func (e *modelEncoder) probe(session uint64) {
	e.m.probed(session, e.encoder.id, &e.probed)
}

func (m *clusterModel) probed(session, of uint64, probed *bool) {
	m.told++
	m.say("    probe of %d", session)
	m.hold(session == of && !*probed, "session %d is probed as %d, probed already %v", of, session, *probed)
	*probed = true
}

func (e *modelEncoder) load() (n int) {
	for _, k := range e.m.tasks {
		if k.encoder == e && !k.over {
			n++
		}
	}
	return n
}

func (e *modelEncoder) start(job encodeJob) {
	m := e.m
	m.told++
	m.say("    start %s %s on an encoder of %d", job.channel, job.streamID, e.capacity)
	p := m.live[job.channel]
	m.hold(p != nil && p.killed.IsZero(), "start for channel %s, which has no publisher", job.channel)
	m.hold(e.connected && !e.draining && !m.stopping, "start on an encoder that takes nothing")
	m.hold(e.capacity < 0 || e.load() < e.capacity, "start on a full encoder")
	m.hold(m.byID[job.streamID] == nil, "stream ID %s is used again", job.streamID)
	m.hold(job.sourceType == string(p.server.kind), "source type %s", job.sourceType)
	k := &modelTask{id: job.streamID, channel: job.channel, pub: p, encoder: e, started: m.now}
	for _, other := range p.tasks {
		if other.live() {
			m.hold(k.from == nil, "a third live encoding of %s", p.channel)
			m.hold(other.encoder != e && other.encoder.moving, "a second live encoding of %s without a move", p.channel)
			k.from = other
		}
	}
	first := len(p.tasks) == 0
	m.hold(first == (k.id == p.id), "the first stream of %s is called %s", p.id, k.id)
	m.hold(first || p.server.kind == "RTMP", "a WebSocket source is started again")
	m.hold(first || k.from != nil || m.rules.failover, "failover though it is off")
	if !first && k.from == nil {
		m.failovers++
	}
	p.tasks, m.tasks = append(p.tasks, k), append(m.tasks, k)
	m.byID[k.id] = k
}

func (e *modelEncoder) stop(channel, streamID string) {
	m := e.m
	m.told++
	m.say("    stop %s %s", channel, streamID)
	k := m.byID[streamID]
	m.hold(k != nil && k.encoder == e && k.channel == channel && k.live(), "stop of %s, which the encoder has not, or for the second time", streamID)
	k.stopped = true
	if k.pub.ended {
		return
	}
	if m.isForgotten(k.pub) {
		m.publicationEnds(k.pub)
		return
	}
	if !k.pub.killed.IsZero() {
		return
	}
	late := m.rules.startTimeout > 0 && !k.announced && m.now.Sub(k.started) >= m.rules.startTimeout
	for _, other := range k.pub.tasks {
		if other.from == k && other.live() && other.hlsLive {
			m.moves++
			return // the handover of one
		}
	}
	m.hold(k.from != nil && k.from.live() && !k.hlsLive && (late || m.now.Sub(k.started) >= movePatience), "stop of %s, whose publisher is live", k.id)
}

// append is the application.
func (*clusterModel) End(outbox.Mark) {}

func (m *clusterModel) AppendPart(ev outbox.Event) {
	m.told++
	m.say("    event %s %d closed %v %s", ev.StreamID, ev.Seq, ev.Type == outbox.StreamClosed, ev.StreamType)
	if fault := m.judge.take(ev); fault != "" {
		m.hold(false, "event %s: %s", shortEvent(ev), fault)
	}
	if ev.Type != outbox.StreamAvailable && ev.Type != outbox.StreamClosed {
		m.takeExtra(ev)
		return
	}
	k := m.byID[ev.StreamID]
	m.hold(k != nil && ev.Channel == k.channel, "event of an unknown stream: %+v", ev)
	m.takeInOrder(k.pub, ev)
	m.hold(!k.closed, "event %+v after stream-closed", ev)
	k.lastSeq++
	m.hold(ev.Seq == k.lastSeq, "event %+v: want seq %d", ev, k.lastSeq)
	if k.id == k.pub.id {
		m.hold(ev.Previous == "", "event %+v of a first stream has a previous one", ev)
	} else {
		before := m.byID[ev.Previous]
		m.hold(before != nil && before.pub == k.pub && before != k, "event %+v has a wrong previous stream", ev)
	}
	if ev.Type == outbox.StreamClosed {
		m.hold(k.announced && k.over, "event %+v of a stream that is not over or was never announced", ev)
		k.closed = true
		return
	}
	if !k.announced {
		k.announced = true
		m.checkFirstAnnouncement(k)
	}
}

// takeExtra is for events that are not of a stream's own.
func (m *clusterModel) takeExtra(ev outbox.Event) {
	m.hold(m.rules.extraEvents, "%s, which nobody wants to hear", shortEvent(ev))
	if ev.Type == outbox.PublishRefused {
		m.hold(!m.queues[ev.Queue] && ev.Position == 0, "event %+v is in a publication's queue", ev)
		m.queues[ev.Queue] = true
		return
	}
	p := m.publication(ev.StreamID)
	m.hold(p != nil && ev.Channel == p.channel, "event of an unknown publisher: %+v", ev)
	m.takeInOrder(p, ev)
	switch ev.Type {
	case outbox.StreamInterrupted:
		k := m.byID[ev.StreamID]
		m.hold(k.over && !k.closed, "event %+v of a stream that is not over, or after its end", ev)
		m.hold(p.killed.IsZero(), "event %+v, and the publisher was told to end", ev)
	case outbox.PublishFailed:
		for _, k := range p.tasks {
			m.hold(k.over, "event %+v, and stream %s is not over", ev, k.id)
		}
	}
}

// publication is the one of a stream, or that was accepted under an ID.
func (m *clusterModel) publication(id string) *modelPublication {
	if k := m.byID[id]; k != nil {
		return k.pub
	}
	for _, p := range m.all {
		if p.id == id {
			return p
		}
	}
	return nil
}

func (m *clusterModel) takeInOrder(p *modelPublication, ev outbox.Event) {
	if p.queue == 0 {
		m.hold(!m.queues[ev.Queue], "event %+v is in another publication's queue", ev)
		m.queues[ev.Queue] = true
		p.queue = ev.Queue
	}
	m.hold(ev.Queue == p.queue && ev.Position == p.events, "event %+v is not number %d of queue %d", ev, p.events, p.queue)
	p.events++
}

// checkFirstAnnouncement: on failover stream-closed of the old ID comes before stream-available of the new one; only
// a move has both at once, until the old one is done.
func (m *clusterModel) checkFirstAnnouncement(k *modelTask) {
	for _, other := range k.pub.tasks {
		if other == k {
			return // those after it have been checked, or will be
		}
		if other.announced && !other.closed {
			m.hold(other.stopped || k.from == other, "%s is announced before %s is closed", k.id, other.id)
		}
	}
}

// done holds the state after a step, and what was noted of it, against the model.
func (m *clusterModel) done(notices []notice) {
	m.t.Helper()
	checkInvariants(m.t, m.r)
	m.checkNotices(notices)
	for channel, p := range m.live {
		if m.r.channels.Get(channel) == nil {
			m.hold(m.killIsOver(p), "channel %s is not live any more and nobody was told", channel)
			m.publicationEnds(p)
			continue
		}
		m.checkPublication(p)
	}
	for _, p := range slices.Clone(m.ousted) {
		if m.r.ousted[p.id] == nil {
			m.hold(m.killIsOver(p), "publisher %s is forgotten and nobody was told", p.id)
			m.publicationEnds(p)
		}
	}
	m.hold(len(m.live) == m.r.channels.Len(), "%d channels are live, peers know of %d", m.r.channels.Len(), len(m.live))
	if m.rules.encoderWait == 0 || m.stopping {
		for _, q := range m.requests {
			p := m.live[q.channel]
			takesOver := m.rules.takeover && p != nil && !p.killed.IsZero() && p.server != q.server
			m.hold(!m.stopping && p != nil && (p.server.suspect() || takesOver), "request %s is not answered", q.id)
		}
	}
}

func (m *clusterModel) checkNotices(notices []notice) {
	for _, n := range notices {
		switch n.kind {
		case noteStarted:
			m.begun++
		case noteEnded, noteKillIgnored:
			m.ended++
		case noteClosed:
			k := m.byID[n.stream]
			m.hold(k != nil && k.over && !k.noted, "the end of stream %s is noted twice or before it came", n.stream)
			k.noted = true
		}
	}
	m.hold(m.begun-m.ended == m.r.channels.Len()+len(m.r.ousted), "%d publications have begun, %d ended, %d are live, %d have lost their channels", m.begun, m.ended, m.r.channels.Len(), len(m.r.ousted))
}

func (m *clusterModel) checkPublication(p *modelPublication) {
	var live []*modelTask
	for _, k := range p.tasks {
		m.hold(!k.over || k.announced == k.closed, "stream %s is over: announced %v, closed %v", k.id, k.announced, k.closed)
		if k.live() {
			live = append(live, k)
		}
	}
	switch len(live) {
	case 0:
		mayWait := m.rules.failover && m.rules.encoderWait > 0 && p.server.kind == "RTMP"
		m.hold(mayWait || !p.killed.IsZero(), "publication %s has no encoder", p.id)
	case 2:
		m.hold(!live[1].hlsLive, "the move of %s is not over though its successor has announced HLS-LIVE", p.id)
	}
}

func (m *clusterModel) serverLeaves(s *modelServer) {
	m.servers = slices.DeleteFunc(m.servers, func(other *modelServer) bool { return other == s })
	s.probed = false
	for _, p := range m.livePublications() {
		if p.server == s {
			m.publicationEnds(p)
		}
	}
	for id, q := range m.requests {
		if q.server == s {
			delete(m.requests, id)
		}
	}
	m.done(m.r.leaveServer(s.server, m.now))
}

func (m *clusterModel) encoderLeaves(e *modelEncoder) {
	e.connected = false
	m.encoders = slices.DeleteFunc(m.encoders, func(other *modelEncoder) bool { return other == e })
	for _, k := range m.tasks {
		if k.encoder == e {
			k.over = true
		}
	}
	m.done(m.r.leaveEncoder(e.encoder, m.now))
}

func (m *clusterModel) everybodyLeaves() {
	for len(m.servers)+len(m.encoders) > 0 {
		m.loseServer()
		m.loseEncoder()
	}
}

// checkHistory is for the end, when all peers are gone: every publication and every stream has ended, as it began.
func (m *clusterModel) checkHistory() {
	m.hold(len(m.all) > 0 && len(m.tasks) >= len(m.all), "nothing happened")
	for _, p := range m.all {
		m.hold(p.ended && len(p.tasks) > 0, "publication %s: ended %v, %d streams", p.id, p.ended, len(p.tasks))
	}
	for _, k := range m.tasks {
		m.hold(k.over && k.noted && k.announced == k.closed, "stream %s: over %v, noted %v, announced %v, closed %v", k.id, k.over, k.noted, k.announced, k.closed)
	}
	m.hold(m.begun == len(m.all) && m.ended == m.begun, "%d publications, noted %d begun, %d ended", len(m.all), m.begun, m.ended)
	m.hold(len(m.judge.unended()) == 0, "%v have no end", m.judge.unended())
	m.hold(len(m.requests) == 0, "%d requests are not answered", len(m.requests))
}
