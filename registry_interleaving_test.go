package main

// Random interleavings of all that can happen to a registry, with every peer doing right and wrong. After each step
// the invariants must hold and a model, which knows only what the peers and the application were told, must agree:
// see interleavingmodel_test.go.

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// replaySeed, when set to the seed of a failed run, makes every cluster the one of that run. The registry's own
// choices among equals, which follow the order of Go's maps, stay free: a failure comes back after a few tries.
const replaySeed = 0

func TestRandomInterleavings(t *testing.T) {
	t.Parallel()
	const clusters, steps = 4, 2000 // of each kind: 128,000 steps in all, and more until all stories were told
	const most = 40 * clusters      // the rarest one comes about once in two clusters
	for kind := range 16 {
		rules := limits{failover: kind&1 != 0, takeover: kind&8 != 0, extraEvents: kind != 3}
		if kind&2 != 0 {
			rules.encoderWait = 6 * time.Second
		}
		if kind&4 != 0 {
			rules.startTimeout = 15 * time.Second
		}
		t.Run(fmt.Sprintf("%+v", rules), func(t *testing.T) {
			t.Parallel()
			var failovers, moves, waited, held, successes, takeovers int
			told := func() bool {
				return moves > 0 && (failovers > 0) == rules.failover && (waited > 0) == (rules.encoderWait > 0) && (held > 0) == (rules.encoderWait == 0) && successes > 0 && (takeovers > 0) == rules.takeover
			}
			for n := 0; n < clusters || n < most && !told(); n++ {
				seed := uint64(replaySeed)
				if seed == 0 {
					seed = rand.Uint64()
				}
				m := runInterleaving(t, rules, seed, steps)
				failovers, moves, waited, held, successes, takeovers = failovers+m.failovers, moves+m.moves, waited+m.waited, held+m.held, successes+m.successes, takeovers+m.takeovers
			}
			t.Logf("%d failovers, %d moves, %d requests served after a wait, %d after a probe, %d ends told by twins, %d publishers who had to be ousted", failovers, moves, waited, held, successes, takeovers)
			if !told() {
				t.Error("not all stories were told")
			}
		})
	}
}

func runInterleaving(t *testing.T, rules limits, seed uint64, steps int) *clusterModel {
	m := newClusterModel(t, rules, rand.New(rand.NewPCG(seed, 0)))
	finished := false
	defer func() {
		if !finished {
			t.Logf("seed %d, the last that happened:\n%s", seed, strings.Join(m.log, "\n"))
		}
	}()
	actions := m.actions()
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	for i := range steps {
		if i == steps-steps/20 && seed%3 == 0 {
			m.say("stop")
			m.stopping = true
			m.done(m.r.stop())
		}
		pick := m.rnd.IntN(total)
		for _, a := range actions {
			if pick -= a.weight; pick < 0 {
				a.do()
				break
			}
		}
		m.now = m.now.Add(time.Duration(m.rnd.IntN(300)) * time.Millisecond)
	}
	m.everybodyLeaves()
	checkEmpty(t, m.r)
	m.checkHistory()
	finished = true
	return m
}

type modelAction struct {
	weight int
	do     func()
}

func (m *clusterModel) actions() []modelAction {
	return []modelAction{
		{3, m.joinServer}, {1, m.loseServer}, {4, m.joinEncoder}, {2, m.loseEncoder}, {3, m.resizeEncoder},
		{30, m.claim}, {6, m.endPublish}, {20, m.announce}, {15, m.announceSuccessor}, {30, m.finishStopped},
		{2, m.finishLive}, {2, m.closeCommand}, {8, m.drain}, {8, m.undrain}, {8, m.expire}, {6, m.foreignMessage},
		{6, m.answerProbe}, {3, m.twinEndsPublish}, {3, m.twinFinishes},
	}
}

func oneOf[T any](m *clusterModel, list []T) (chosen T, ok bool) {
	if len(list) == 0 {
		return chosen, false
	}
	return list[m.rnd.IntN(len(list))], true
}

func (m *clusterModel) anyChannel() string { return fmt.Sprint("c", m.rnd.IntN(7)) }

func (m *clusterModel) joinServer() {
	if len(m.servers) == 4 {
		return
	}
	kind := m.rnd.IntN(4) // and machine: those of a kind are twins
	s := &modelServer{m: m}
	s.server = m.r.joinServer(attachment{}, s, serverInfo{kind: []serverKind{kindRTMP, kindRTMP, kindRTMP, kindWS}[kind], ip: fmt.Sprint("10.0.0.", kind)}, m.now)
	m.servers = append(m.servers, s)
	m.say("server %d joins, %s", s.id, s.kind)
	m.done(nil)
}

func (m *clusterModel) loseServer() {
	if s, ok := oneOf(m, m.servers); ok {
		m.say("server %d leaves", s.id)
		m.serverLeaves(s)
	}
}

func (m *clusterModel) joinEncoder() {
	if len(m.encoders) == 5 {
		return
	}
	e := &modelEncoder{m: m, capacity: m.rnd.IntN(6) - 1, connected: true}
	m.say("an encoder of %d joins", e.capacity)
	m.encoders = append(m.encoders, e)
	var notices []notice
	e.encoder, notices = m.r.joinEncoder(attachment{}, e, fmt.Sprint("10.0.1.", m.rnd.IntN(4)), e.capacity, m.now)
	m.done(notices)
}

func (m *clusterModel) loseEncoder() {
	if e, ok := oneOf(m, m.encoders); ok {
		m.say("encoder %d leaves", e.encoder.id)
		m.encoderLeaves(e)
	}
}

func (m *clusterModel) resizeEncoder() {
	if e, ok := oneOf(m, m.encoders); ok {
		e.capacity = m.rnd.IntN(6) - 1
		m.say("encoder %d has %d slots", e.encoder.id, e.capacity)
		notices, _ := m.r.resize(e.encoder, e.capacity, m.now)
		m.done(notices)
	}
}

func (m *clusterModel) claim() {
	s, ok := oneOf(m, m.servers)
	if !ok {
		return
	}
	m.lastRequest++
	q := &modelRequest{id: fmt.Sprint("q", m.lastRequest), server: s, channel: m.anyChannel(), asked: m.now, answerBy: m.now.Add(time.Duration(m.rnd.IntN(8000)) * time.Millisecond)}
	m.say("server %d asks %s for %s", s.id, q.id, q.channel)
	m.requests[q.id] = q
	m.claiming = true
	notices, err := m.r.claim(s.server, claimRequest{requestRef: requestRef{id: q.id}, channel: q.channel, answerBy: q.answerBy}, m.now)
	m.claiming = false
	if err != nil {
		m.say("... %v", err)
		m.answered(q.id)
	}
	m.done(notices)
}

func (m *clusterModel) livePublications() (list []*modelPublication) {
	for i := range 7 { // in the order of the channels, so that a seed means the same each time
		if p := m.live[fmt.Sprint("c", i)]; p != nil {
			list = append(list, p)
		}
	}
	return append(list, m.ousted...)
}

func (m *clusterModel) endPublish() {
	if p, ok := oneOf(m, m.livePublications()); ok {
		m.say("publisher %s of %s ends", p.id, p.channel)
		m.publicationEnds(p)
		notices, own := m.r.end(p.server.server, p.channel, p.id, m.now)
		m.hold(own, "PUBLISH-END of %s was not taken", p.id)
		m.done(notices)
	}
}

// tasksWith returns what encoders still have, in the order of their start.
func (m *clusterModel) tasksWith(wanted func(*modelTask) bool) (list []*modelTask) {
	for _, k := range m.tasks {
		if !k.over && wanted(k) {
			list = append(list, k)
		}
	}
	return list
}

func (m *clusterModel) announce() {
	if k, ok := oneOf(m, m.tasksWith(func(*modelTask) bool { return true })); ok {
		m.announceOf(k, []string{"HLS-LIVE", "HLS-LIVE", "IMG-PREVIEW", "HLS-VOD"}[m.rnd.IntN(4)])
	}
}

func (m *clusterModel) announceSuccessor() {
	if k, ok := oneOf(m, m.tasksWith(func(k *modelTask) bool { return k.live() && k.from != nil && k.from.live() })); ok {
		m.announceOf(k, "HLS-LIVE")
	}
}

func (m *clusterModel) announceOf(k *modelTask, kind string) {
	m.say("encoder %d announces %s of %s", k.encoder.encoder.id, kind, k.id)
	k.hlsLive = k.hlsLive || kind == "HLS-LIVE"
	notices, own := m.r.announce(k.encoder.encoder, k.channel, k.id, announcement{streamType: kind, resolution: "ORIGINAL"}, m.now)
	m.hold(own && k.announced, "STREAM-AVAILABLE of %s was not taken", k.id)
	m.done(notices)
}

func (m *clusterModel) finish(k *modelTask) {
	m.say("encoder %d closes %s", k.encoder.encoder.id, k.id)
	k.over = true
	notices, own := m.r.streamClosed(k.encoder.encoder, k.channel, k.id, m.now, m.now)
	m.hold(own, "STREAM-CLOSED of %s was not taken", k.id)
	m.done(notices)
}

func (m *clusterModel) finishStopped() {
	if k, ok := oneOf(m, m.tasksWith(func(k *modelTask) bool { return k.stopped })); ok {
		m.finish(k)
	}
}

func (m *clusterModel) finishLive() {
	if k, ok := oneOf(m, m.tasksWith(func(k *modelTask) bool { return !k.stopped })); ok {
		m.finish(k)
	}
}

func (m *clusterModel) closeCommand() {
	channel := m.anyChannel()
	p := m.live[channel]
	id := "*"
	if p != nil && m.rnd.IntN(2) == 0 {
		if k, ok := oneOf(m, p.tasks); ok {
			id = k.id
		}
	}
	m.say("close command for %s %s", channel, id)
	m.commanding = true
	notices, killed, _ := m.r.kill(channel, id, errByApplication, m.now)
	m.commanding = false
	m.hold(p != nil || !killed, "a channel that is not live was killed")
	m.hold(p == nil || id != "*" || killed, "channel %s was not killed", channel)
	m.done(notices)
}

func (m *clusterModel) drain() {
	if s, ok := oneOf(m, m.servers); ok && m.rnd.IntN(5) == 0 {
		m.say("drain server %d", s.id)
		notices, _, err := m.r.drain(s.id, true, m.now)
		m.hold(err == nil, "drain: %v", err)
		m.done(notices)
	} else if e, ok := oneOf(m, m.encoders); ok {
		move := m.rnd.IntN(3) > 0
		m.say("drain encoder %d, move %v", e.encoder.id, move)
		e.draining, e.moving = true, e.moving || move
		notices, _, err := m.r.drain(e.encoder.id, move, m.now)
		m.hold(err == nil, "drain: %v", err)
		m.done(notices)
	}
}

func (m *clusterModel) undrain() {
	if s, ok := oneOf(m, m.servers); ok && m.rnd.IntN(3) == 0 {
		m.say("undrain server %d", s.id)
		_, _, err := m.r.undrain(s.id, m.now)
		m.hold(err == nil, "undrain: %v", err)
		m.done(nil)
	} else if e, ok := oneOf(m, m.encoders); ok {
		m.say("undrain encoder %d", e.encoder.id)
		e.draining, e.moving = false, false
		notices, _, err := m.r.undrain(e.encoder.id, m.now)
		m.hold(err == nil, "undrain: %v", err)
		m.done(notices)
	}
}

// expire lets more time go by than the other steps, at times a lot of it.
func (m *clusterModel) expire() {
	pause := []time.Duration{0, 0, 0, time.Second, time.Second, 3 * time.Second, 8 * time.Second, 70 * time.Second}[m.rnd.IntN(8)]
	m.now = m.now.Add(pause)
	m.say("%v go by", pause)
	m.done(m.r.expire(m.now))
	for _, q := range m.requests {
		m.hold(m.now.Before(q.answerBy), "request %s is not answered in time", q.id)
	}
	for _, p := range m.livePublications() {
		m.hold(p.killed.IsZero() || p.again == killsDue(m.now.Sub(p.killed)), "kill of %s was not said again, %v after the first one", p.id, m.now.Sub(p.killed))
	}
}

// answerProbe is a sign of life of one who was probed; others leave before they answer.
func (m *clusterModel) answerProbe() {
	for _, s := range m.servers {
		if s.probed && m.rnd.IntN(2) == 0 {
			m.say("server %d answers", s.id)
			s.probed = false
			m.done(m.r.probeAnswered(s.id, m.now))
		}
	}
	for _, e := range m.encoders {
		if e.probed && m.rnd.IntN(2) == 0 {
			m.say("encoder %d answers", e.encoder.id)
			e.probed = false
			m.done(m.r.probeAnswered(e.encoder.id, m.now))
		}
	}
}

// twinEndsPublish is PUBLISH-END from a session that has come after the publisher's own, from the same place.
func (m *clusterModel) twinEndsPublish() {
	p, ok := oneOf(m, m.livePublications())
	s, found := oneOf(m, m.servers)
	if ok && found && m.mayBeSucceeded(s, p) {
		m.say("server %d ends %s of %s", s.id, p.id, p.channel)
		m.successes++
		m.publicationEnds(p)
		notices, own := m.r.end(s.server, p.channel, p.id, m.now)
		m.hold(own, "PUBLISH-END of %s was not taken from the server's twin", p.id)
		m.done(notices)
	}
}

func (m *clusterModel) mayBeSucceeded(s *modelServer, p *modelPublication) bool {
	return s.id > p.server.id && s.kind == p.server.kind && s.ip == p.server.ip
}

// twinFinishes is STREAM-CLOSED from an encoder that has come after the stream's own, from the same machine.
func (m *clusterModel) twinFinishes() {
	k, ok := oneOf(m, m.tasksWith(func(*modelTask) bool { return true }))
	e, found := oneOf(m, m.encoders)
	if ok && found && k.encoder.mayBeSucceeded(e) {
		m.say("encoder %d closes %s", e.encoder.id, k.id)
		m.successes++
		k.over = true
		notices, own := m.r.streamClosed(e.encoder, k.channel, k.id, m.now, m.now)
		m.hold(own, "STREAM-CLOSED of %s was not taken from the encoder's twin", k.id)
		m.done(notices)
	}
}

func (e *modelEncoder) mayBeSucceeded(by *modelEncoder) bool {
	return by.encoder.id > e.encoder.id && by.encoder.address == e.encoder.address
}

// foreignMessage is about a stream that is not the sender's own, or not any more: nobody may be told anything.
func (m *clusterModel) foreignMessage() {
	if len(m.tasks) == 0 {
		return
	}
	k := m.tasks[m.rnd.IntN(len(m.tasks))]
	told := m.told
	if e, ok := oneOf(m, m.encoders); ok && (e != k.encoder && !k.encoder.mayBeSucceeded(e) || k.over) {
		m.say("encoder %d speaks of %s", e.encoder.id, k.id)
		notices, own := m.r.streamClosed(e.encoder, k.channel, k.id, m.now, m.now)
		m.hold(!own && m.told == told, "a foreign STREAM-CLOSED of %s was taken", k.id)
		m.done(notices)
		_, own = m.r.announce(e.encoder, k.channel, k.id, announcement{streamType: "HLS-LIVE"}, m.now)
		m.hold(!own && m.told == told, "a foreign STREAM-AVAILABLE of %s was taken", k.id)
	}
	if s, ok := oneOf(m, m.servers); ok && (s != k.pub.server && !m.mayBeSucceeded(s, k.pub) || k.pub.ended || k.id != k.pub.id) {
		m.say("server %d speaks of %s", s.id, k.id)
		notices, own := m.r.end(s.server, k.channel, k.id, m.now)
		m.hold(!own && m.told == told, "a foreign PUBLISH-END of %s was taken", k.id)
		m.done(notices)
	}
}
