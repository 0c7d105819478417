package main

// A registry with peers that write down what they are told, in one trace over all of them, so that a test can say
// what happens and in which order. The time is the test's own.

import (
	"fmt"
	"testing"
	"time"

	"coordinator/internal/outbox"

	"github.com/google/go-cmp/cmp"
)

// registryRig gives out stream IDs id1, id2 ... and checks the invariants after each step.
type registryRig struct {
	t      testing.TB
	r      *registry
	now    time.Time
	trace  []string // since the last expect
	events []outbox.Event
	noted  []notice
	lastID int

	lastMachine int
}

func newRegistryRig(t testing.TB, rules limits) *registryRig {
	rig := &registryRig{t: t, now: time.Unix(1_700_000_000, 0)}
	rig.r = newRegistry(1, rig.now, rig.nextID, rig, rules)
	return rig
}

func (rig *registryRig) nextID() string {
	rig.lastID++
	return fmt.Sprint("id", rig.lastID)
}

func (rig *registryRig) record(format string, args ...any) {
	rig.trace = append(rig.trace, fmt.Sprintf(format, args...))
}

// append is the event log.
func (*registryRig) End(outbox.Mark) {}

func (rig *registryRig) AppendPart(ev outbox.Event) {
	rig.events = append(rig.events, ev)
	if ev.Type != outbox.StreamAvailable && ev.Type != outbox.StreamClosed {
		rig.record("event %s", shortEvent(ev))
		return
	}
	what := ev.StreamType
	if ev.Type == outbox.StreamClosed {
		what = "closed"
	}
	previous := ""
	if ev.Previous != "" {
		previous = " after " + ev.Previous
	}
	rig.record("event %s %d %s%s", ev.StreamID, ev.Seq, what, previous)
}

type recordingServer struct {
	rig  *registryRig
	name string
}

func (p *recordingServer) keepsUp() bool { return true }

func (p *recordingServer) probe(uint64) { p.rig.record("%s probe", p.name) }

func (p *recordingServer) accept(to requestRef, channel, streamID string, _ uint64) {
	p.rig.record("%s accept %s %s %s", p.name, to.id, channel, streamID)
}
func (p *recordingServer) deny(to requestRef, channel string) {
	p.rig.record("%s deny %s %s", p.name, to.id, channel)
}
func (p *recordingServer) kill(channel, streamID string) {
	p.rig.record("%s kill %s %s", p.name, channel, streamID)
}

type recordingEncoder struct {
	rig  *registryRig
	name string
	self *encoder // nil until it has joined: it may be given work while it does
	jobs []encodeJob
}

func (p *recordingEncoder) probe(uint64) { p.rig.record("%s probe", p.name) }

func (p *recordingEncoder) start(job encodeJob) {
	p.jobs = append(p.jobs, job)
	if e := p.self; e != nil && e.capacity >= 0 && e.load() > e.capacity {
		p.rig.t.Errorf("%s with a capacity of %d is given its stream %d", p.name, e.capacity, e.load())
	}
	p.rig.record("%s start %s %s", p.name, job.channel, job.streamID)
}
func (p *recordingEncoder) stop(channel, streamID string) {
	p.rig.record("%s stop %s %s", p.name, channel, streamID)
}

// expect holds the trace since the last call against lines; none means that nobody was told anything.
func (rig *registryRig) expect(lines ...string) {
	rig.t.Helper()
	if diff := cmp.Diff(lines, rig.trace); diff != "" {
		rig.t.Fatal("told (-want +got):\n", diff)
	}
	rig.trace = nil
}

// forget is for what a test takes for granted.
func (rig *registryRig) forget() { rig.trace = nil }

func (rig *registryRig) step(notices []notice) {
	rig.t.Helper()
	rig.noted = append(rig.noted, notices...)
	checkInvariants(rig.t, rig.r)
}

// reasonNoted tells whether a notice of the kind with the reason was handed out.
func (rig *registryRig) reasonNoted(kind noticeKind, reason error) bool {
	for _, n := range rig.noted {
		if n.kind == kind && n.reason == reason {
			return true
		}
	}
	return false
}

// server connects a streaming server on a machine of its own.
func (rig *registryRig) server(name string, kind serverKind) *server {
	rig.t.Helper()
	rig.lastMachine++
	return rig.serverAt(fmt.Sprint("10.0.0.", rig.lastMachine), name, kind)
}

func (rig *registryRig) serverAt(ip, name string, kind serverKind) *server {
	rig.t.Helper()
	s := rig.r.joinServer(attachment{}, &recordingServer{rig: rig, name: name}, serverInfo{kind: kind, ip: ip, port: 1935}, rig.now)
	rig.step(nil)
	return s
}

// encoder registers an encoder on a machine of its own.
func (rig *registryRig) encoder(name string, capacity int) *encoder {
	rig.t.Helper()
	rig.lastMachine++
	return rig.encoderAt(fmt.Sprint("10.0.0.", rig.lastMachine), name, capacity)
}

func (rig *registryRig) encoderAt(address, name string, capacity int) *encoder {
	rig.t.Helper()
	peer := &recordingEncoder{rig: rig, name: name}
	e, notices := rig.r.joinEncoder(attachment{}, peer, address, capacity, rig.now)
	peer.self = e
	rig.step(notices)
	return e
}

func (rig *registryRig) resize(e *encoder, capacity int) {
	rig.t.Helper()
	notices, _ := rig.r.resize(e, capacity, rig.now)
	rig.step(notices)
}

func (rig *registryRig) loseEncoder(e *encoder) {
	rig.t.Helper()
	rig.step(rig.r.leaveEncoder(e, rig.now))
}

func (rig *registryRig) loseServer(s *server) {
	rig.t.Helper()
	rig.step(rig.r.leaveServer(s, rig.now))
}

// claim asks for the channel, with the channel's name as that of the request, to be answered within 18 s.
func (rig *registryRig) claim(s *server, channel string) error {
	rig.t.Helper()
	return rig.claimBy(s, channel, 18*time.Second)
}

func (rig *registryRig) claimBy(s *server, channel string, answerIn time.Duration) error {
	rig.t.Helper()
	notices, err := rig.r.claim(s, claimRequest{requestRef: requestRef{id: "r-" + channel}, channel: channel, key: "k", verified: true, answerBy: rig.now.Add(answerIn)}, rig.now)
	rig.step(notices)
	return err
}

// publish is a claim that must be granted at once; it returns the stream ID.
func (rig *registryRig) publish(s *server, channel string) string {
	rig.t.Helper()
	if err := rig.claim(s, channel); err != nil {
		rig.t.Fatalf("claim of %s: %v", channel, err)
	}
	p := rig.r.channels.Get(channel)
	if p == nil {
		rig.t.Fatalf("%s is not live", channel)
	}
	return p.publisherID
}

func (rig *registryRig) end(s *server, channel, id string) bool {
	rig.t.Helper()
	notices, own := rig.r.end(s, channel, id, rig.now)
	rig.step(notices)
	return own
}

func (rig *registryRig) available(e *encoder, channel, id, streamType string) bool {
	rig.t.Helper()
	notices, own := rig.r.announce(e, channel, id, announcement{streamType: streamType, resolution: "640x360", indexFile: "i.m3u8"}, rig.now)
	rig.step(notices)
	return own
}

func (rig *registryRig) closed(e *encoder, channel, id string) bool {
	rig.t.Helper()
	notices, own := rig.r.streamClosed(e, channel, id, rig.now, rig.now)
	rig.step(notices)
	return own
}

func (rig *registryRig) kill(channel, id string) bool {
	rig.t.Helper()
	notices, killed, _ := rig.r.kill(channel, id, errByApplication, rig.now)
	rig.step(notices)
	return killed
}

// probeAnswered is a sign of life after a probe.
func (rig *registryRig) probeAnswered(session uint64) {
	rig.t.Helper()
	rig.step(rig.r.probeAnswered(session, rig.now))
}

func (rig *registryRig) drain(id uint64, move bool) {
	rig.t.Helper()
	notices, _, err := rig.r.drain(id, move, rig.now)
	if err != nil {
		rig.t.Fatal(err)
	}
	rig.step(notices)
}

func (rig *registryRig) undrain(id uint64) {
	rig.t.Helper()
	notices, _, err := rig.r.undrain(id, rig.now)
	if err != nil {
		rig.t.Fatal(err)
	}
	rig.step(notices)
}

// pass lets time go by and then does what is due.
func (rig *registryRig) pass(d time.Duration) {
	rig.t.Helper()
	rig.now = rig.now.Add(d)
	rig.step(rig.r.expire(rig.now))
}

// live returns the stream ID that the application knows the channel by, "" if it is not live.
func (rig *registryRig) live(channel string) string {
	for _, row := range wholeReport(rig.r, rig.now).ActiveStreams {
		if row.Channel == channel {
			return row.StreamID
		}
	}
	return ""
}

// rowsOf returns the rows of all streams.
func rowsOf(r *registry) (rows []streamRow) {
	r.streamRows(func(part []streamRow) { rows = append(rows, part...) })
	return rows
}

// wholeReport is the report with its streams.
func wholeReport(r *registry, now time.Time) clusterReport {
	report := r.report(now)
	r.liveStreams(func(streams []streamReport) {
		for _, s := range streams {
			s.describeAnnounced()
			s.outputs = nil
			report.ActiveStreams = append(report.ActiveStreams, s)
		}
	})
	return report
}

// nowhere takes what a registry says to peers and application.
type nowhere struct{}

func (nowhere) probe(uint64)                              {}
func (nowhere) keepsUp() bool                             { return true }
func (nowhere) accept(requestRef, string, string, uint64) {}
func (nowhere) deny(requestRef, string)                   {}
func (nowhere) kill(_, _ string)                          {}
func (nowhere) start(encodeJob)                           {}
func (nowhere) stop(_, _ string)                          {}
func (nowhere) End(outbox.Mark)                           {}

func (nowhere) AppendPart(outbox.Event) {}

// registryWith has so many live streams on 20 servers and 100 encoders, each with four outputs.
func registryWith(tb testing.TB, streams int) *registry {
	tb.Helper()
	lastID := 0
	now := time.Now()
	r := newRegistry(1, now, func() string { lastID++; return fmt.Sprintf("stream-%08d", lastID) }, nowhere{}, limits{})
	for i := range 100 {
		r.joinEncoder(attachment{}, nowhere{}, fmt.Sprint("10.0.0.", i), -1, now)
	}
	var servers []*server
	for range 20 {
		servers = append(servers, r.joinServer(attachment{}, nowhere{}, serverInfo{kind: kindRTMP, ip: "10.0.0.1", port: 1935}, now))
	}
	for i := range streams {
		channel := fmt.Sprintf("channel-%08d", i*7919%streams)
		if _, err := r.claim(servers[i%20], claimRequest{requestRef: requestRef{id: "1"}, channel: channel, key: "key-" + channel}, now.Add(time.Duration(i))); err != nil {
			tb.Fatal(err)
		}
		st := r.channels.Get(channel).current
		for _, resolution := range []string{"ORIGINAL", "1280x720", "640x360", "320x180"} {
			r.announce(st.encoder, channel, st.id, announcement{streamType: "HLS-LIVE", resolution: resolution}, now)
		}
	}
	return r
}
