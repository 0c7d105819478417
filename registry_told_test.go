package main

// What the application is told of publishers, and why things ended: stories one by one, and a judge for the random clusters.

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"coordinator/internal/memo"
	"coordinator/internal/outbox"
	"coordinator/internal/tagged"

	"github.com/google/go-cmp/cmp"
)

// toldJudge follows the events of each publication as an application does. The zero value is ready for the first one.
type toldJudge struct {
	queues  map[uint64]*toldOf
	refused int

	// mayRepeat is for processes that die: the next one may tell of an interruption or of an accept
	// again, under the same ID.
	mayRepeat bool
}

type toldOf struct {
	accepted, failed string          // ID
	available        map[string]bool // streams; true: it is closed
	interrupted      map[string]bool
}

// take returns what is wrong with an event that follows those before it; "": nothing.
func (j *toldJudge) take(ev outbox.Event) string {
	if j.queues == nil {
		j.queues = map[uint64]*toldOf{}
	}
	q := j.queues[ev.Queue]
	if q == nil {
		q = &toldOf{available: map[string]bool{}, interrupted: map[string]bool{}}
		j.queues[ev.Queue] = q
		if ev.Type == outbox.PublishRefused {
			j.refused++
			q.failed = ev.StreamID
			return ""
		}
	}
	closed, known := q.available[ev.StreamID]
	switch {
	case q.failed != "":
		return "it comes after publish-failed"
	case closed:
		return "it comes after the stream-closed of its stream"
	case ev.Type == outbox.PublishRefused:
		return "a publisher that was not accepted has other events"
	case ev.Type == outbox.PublishAccepted && (q.accepted != "" || len(q.available) > 0):
		return "it is not the first one"
	case ev.Type == outbox.PublishFailed && (q.accepted != ev.StreamID || len(q.available) > 0 || ev.Reason == ""):
		return "it was not accepted under this ID, or a stream was available"
	case ev.Type == outbox.StreamInterrupted && (q.interrupted[ev.StreamID] && !j.mayRepeat || ev.Reason != "encoder_lost" && ev.Reason != "encoder_failed"):
		return "the stream is interrupted twice, or nobody knows why"
	case ev.Type == outbox.StreamClosed && (!known || !slices.Contains(endReasonNames[1:], ev.Reason)):
		return "the stream was not available, or nobody knows why it is closed"
	case ev.Type == outbox.StreamAvailable && ev.Fulfills != "" && (ev.Fulfills != q.accepted || len(q.available) > 0 && !j.mayRepeat):
		return "it fulfills an accept that there is none of, or that was fulfilled before"
	case ev.Type == outbox.StreamAvailable && ev.Fulfills == "" && q.accepted != "" && len(q.available) == 0:
		return "it fulfills no accept, and it is the first one"
	}
	switch ev.Type {
	case outbox.PublishAccepted:
		q.accepted = ev.StreamID
	case outbox.PublishFailed:
		q.failed = ev.StreamID
	case outbox.StreamInterrupted:
		q.interrupted[ev.StreamID] = true
	default:
		q.available[ev.StreamID] = ev.Type == outbox.StreamClosed
	}
	return ""
}

// unended lists the publishers without an end, and streams that are not closed.
func (j *toldJudge) unended() (ids []string) {
	for _, q := range j.queues {
		if q.accepted != "" && q.failed == "" && len(q.available) == 0 {
			ids = append(ids, q.accepted)
		}
		for id, closed := range q.available {
			if !closed {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// shortEvent is an event as a test writes it down.
func shortEvent(ev outbox.Event) string {
	text := strings.Join(slices.DeleteFunc([]string{ev.Type.String(), ev.StreamID, ev.StreamType, ev.Reason}, func(s string) bool { return s == "" }), " ")
	if ev.Type == outbox.StreamClosed {
		text += fmt.Sprintf(" %d s", int(ev.Duration.Seconds()))
	}
	return text
}

func TestApplicationHearsWhyThingsEnded(t *testing.T) {
	t.Parallel()
	type cluster struct {
		*registryRig
		s *server
		e *encoder
	}
	live := func(c cluster) {
		c.publish(c.s, "ch")
		c.available(c.e, "ch", "id1", "HLS-LIVE")
		c.pass(7 * time.Second)
	}
	const began = "publish-accepted id1, stream-available id1 HLS-LIVE"
	for name, story := range map[string]struct {
		rules limits
		do    func(cluster)
		want  string
	}{
		"the publisher ends": {limits{}, func(c cluster) {
			live(c)
			c.end(c.s, "ch", "id1")
			c.available(c.e, "ch", "id1", "HLS-VOD")
			c.closed(c.e, "ch", "id1")
		}, began + ", stream-available id1 HLS-VOD, stream-closed id1 publisher-ended 7 s"},
		"the application closes it, and the encoder is faster": {limits{}, func(c cluster) {
			live(c)
			c.kill("ch", "*")
			c.closed(c.e, "ch", "id1")
			c.end(c.s, "ch", "id1")
		}, began + ", stream-closed id1 closed-by-application 7 s"},
		"the server is lost": {limits{}, func(c cluster) {
			live(c)
			c.loseServer(c.s)
			c.closed(c.e, "ch", "id1")
		}, began + ", stream-closed id1 server-lost 7 s"},
		"the encoder is lost while it finishes": {limits{}, func(c cluster) {
			live(c)
			c.end(c.s, "ch", "id1")
			c.loseEncoder(c.e)
		}, began + ", stream-closed id1 publisher-ended 7 s"},
		"the encoder is lost": {limits{}, func(c cluster) {
			live(c)
			c.loseEncoder(c.e)
			c.end(c.s, "ch", "id1")
		}, began + ", stream-closed id1 encoder-lost 7 s"},
		"the encoder is lost, another one goes on": {limits{failover: true}, func(c cluster) {
			live(c)
			other := c.encoder("other", 1)
			c.loseEncoder(c.e)
			c.available(other, "ch", "id2", "HLS-LIVE")
			c.end(c.s, "ch", "id1")
			c.closed(other, "ch", "id2")
		}, began + ", stream-interrupted id1 encoder_lost, stream-closed id1 encoder-lost 7 s, stream-available id2 HLS-LIVE, stream-closed id2 publisher-ended 7 s"},
		"the encoder is lost, and no other has room": {limits{failover: true}, func(c cluster) {
			live(c)
			c.loseEncoder(c.e)
			c.end(c.s, "ch", "id1")
		}, began + ", stream-closed id1 encoder-lost 7 s"},
		"the encoder fails, and the wait for another one is in vain": {limits{failover: true, encoderWait: 2 * time.Second}, func(c cluster) {
			live(c)
			c.closed(c.e, "ch", "id1")
			c.pass(3 * time.Second)
			c.end(c.s, "ch", "id1")
		}, began + ", stream-interrupted id1 encoder_failed, stream-closed id1 encoder-failed 7 s"},
		"the encoder is lost during a move": {limits{failover: true}, func(c cluster) {
			live(c)
			other := c.encoder("other", 1)
			c.drain(c.e.id, true)
			c.loseEncoder(c.e)
			c.available(other, "ch", "id2", "HLS-LIVE")
			c.end(c.s, "ch", "id1")
			c.closed(other, "ch", "id2")
		}, began + ", stream-interrupted id1 encoder_lost, stream-closed id1 encoder-lost 7 s, stream-available id2 HLS-LIVE, stream-closed id2 publisher-ended 7 s"},
		"moved": {limits{failover: true}, func(c cluster) {
			live(c)
			other := c.encoder("other", 1)
			c.drain(c.e.id, true)
			c.available(other, "ch", "id2", "HLS-LIVE")
			c.end(c.s, "ch", "id1")
			c.closed(c.e, "ch", "id1")
			c.closed(other, "ch", "id2")
		}, began + ", stream-available id2 HLS-LIVE, stream-closed id1 moved 7 s, stream-closed id2 publisher-ended 7 s"},
		"a move whose successor only makes previews": {limits{failover: true}, func(c cluster) {
			live(c)
			other := c.encoder("other", 1)
			c.drain(c.e.id, true)
			c.available(other, "ch", "id2", "IMG-PREVIEW")
			c.undrain(c.e.id)
			c.drain(other.id, false)
			c.drain(c.e.id, true)
			c.pass(movePatience)
			c.closed(other, "ch", "id2")
		}, began + ", stream-available id2 IMG-PREVIEW, stream-closed id2 never-started 67 s"},
		"the application closes it during a move, and the encoder is faster": {limits{failover: true}, func(c cluster) {
			live(c)
			other := c.encoder("other", 1)
			c.drain(c.e.id, true)
			c.kill("ch", "*")
			c.closed(c.e, "ch", "id1")
			c.available(other, "ch", "id2", "IMG-PREVIEW")
			c.end(c.s, "ch", "id1")
			c.closed(other, "ch", "id2")
			if slices.ContainsFunc(c.noted, func(n notice) bool { return n.kind == noteMoved }) {
				c.t.Error("a publication that ends is noted as moved")
			}
		}, began + ", stream-closed id1 closed-by-application 7 s, stream-available id2 IMG-PREVIEW, stream-closed id2 closed-by-application 7 s"},
		"the application closes it during a move, and the next encoder begins": {limits{failover: true}, func(c cluster) {
			live(c)
			other := c.encoder("other", 1)
			c.drain(c.e.id, true)
			c.kill("ch", "*")
			c.available(other, "ch", "id2", "HLS-LIVE")
			c.end(c.s, "ch", "id1")
			c.closed(c.e, "ch", "id1")
			c.closed(other, "ch", "id2")
		}, began + ", stream-available id2 HLS-LIVE, stream-closed id1 closed-by-application 7 s, stream-closed id2 closed-by-application 7 s"},
		"the gateway of the encoder is gone, and no other has room": {limits{failover: true}, func(c cluster) {
			live(c)
			c.e.gateway = "g"
			c.step(c.r.leaveGateways(func(g string) bool { return g == "g" }, c.now))
			c.end(c.s, "ch", "id1")
		}, began + ", stream-closed id1 encoder-lost 7 s"},
		"the gateway of the encoder is gone, and another one goes on": {limits{failover: true}, func(c cluster) {
			live(c)
			c.encoder("other", 1)
			c.e.gateway = "g"
			c.step(c.r.leaveGateways(func(g string) bool { return g == "g" }, c.now))
		}, began + ", stream-interrupted id1 encoder_lost, stream-closed id1 encoder-lost 7 s"},
		"the gateway of the server stays away": {limits{}, func(c cluster) {
			live(c)
			c.encoder("other", 1)
			far := c.server("far", "RTMP")
			far.gateway = "g"
			c.r.gatewayAbsent("g")
			if err := c.claimBy(far, "other", 17*time.Second); err != nil {
				c.t.Error(err)
			}
			c.pass(18 * time.Second)
			if !c.reasonNoted(noteDenied, errServerAway) {
				c.t.Error("the reason of the denial is another one")
			}
		}, began},
		"taken over": {limits{takeover: true}, func(c cluster) {
			live(c)
			c.encoder("other", 1)
			if err := c.claim(c.server("s2", "RTMP"), "ch"); err != nil {
				c.t.Fatal(err)
			}
			c.end(c.s, "ch", "id1")
			c.closed(c.e, "ch", "id1")
		}, began + ", publish-accepted id2, stream-closed id1 taken-over 7 s"},
		"the coordinator stops": {limits{failover: true}, func(c cluster) {
			live(c)
			c.encoder("other", 1)
			c.step(c.r.stop())
			c.loseEncoder(c.e)
			c.loseServer(c.s)
		}, began + ", stream-closed id1 coordinator-stopped 7 s"},
		"the coordinator stops during a move": {limits{failover: true}, func(c cluster) {
			live(c)
			other := c.encoder("other", 1)
			c.drain(c.e.id, true)
			c.step(c.r.stop())
			c.loseEncoder(c.e)
			c.loseEncoder(other)
			c.loseServer(c.s)
			if slices.ContainsFunc(c.noted, func(n notice) bool { return n.kind == noteMoved }) {
				c.t.Error("a stream that ends with the coordinator is noted as moved")
			}
		}, began + ", stream-closed id1 coordinator-stopped 7 s"},
		"nothing was announced, and the publisher ends": {limits{}, func(c cluster) {
			c.publish(c.s, "ch")
			c.end(c.s, "ch", "id1")
			c.closed(c.e, "ch", "id1")
		}, "publish-accepted id1, publish-failed id1 publisher_ended"},
		"nothing was announced, and the source can't be opened": {limits{failover: true}, func(c cluster) {
			c.publish(c.s, "ch")
			c.closed(c.e, "ch", "id1")
			c.end(c.s, "ch", "id1")
		}, "publish-accepted id1, publish-failed id1 source_failed"},
		"nothing was announced in time": {limits{startTimeout: 10 * time.Second}, func(c cluster) {
			c.publish(c.s, "ch")
			c.pass(10 * time.Second)
			c.end(c.s, "ch", "id1")
			c.closed(c.e, "ch", "id1")
		}, "publish-accepted id1, publish-failed id1 never_started"},
		"nothing was announced before the end, and a preview after it": {limits{startTimeout: 10 * time.Second}, func(c cluster) {
			c.publish(c.s, "ch")
			c.pass(10 * time.Second)
			c.end(c.s, "ch", "id1")
			c.available(c.e, "ch", "id1", "IMG-PREVIEW")
			c.closed(c.e, "ch", "id1")
		}, "publish-accepted id1, stream-available id1 IMG-PREVIEW, stream-closed id1 never-started 10 s"},
		"nothing was announced, and the encoder is lost": {limits{failover: true}, func(c cluster) {
			c.publish(c.s, "ch")
			other := c.encoder("other", 1)
			c.loseEncoder(c.e)
			c.loseEncoder(other)
			c.end(c.s, "ch", "id1")
		}, "publish-accepted id1, stream-interrupted id1 encoder_lost, publish-failed id1 no_encoder"},
		"a publisher that never says that it has ended": {limits{}, func(c cluster) {
			c.publish(c.s, "ch")
			c.kill("ch", "*")
			for range 8 {
				c.pass(5 * time.Second)
			}
			c.closed(c.e, "ch", "id1")
		}, "publish-accepted id1, publish-failed id1 closed_by_application"},
		"no room": {limits{}, func(c cluster) {
			live(c)
			if err := c.claim(c.s, "other"); err != errNoEncoder {
				c.t.Error(err)
			}
		}, began + ", publish-failed id2 no_encoder"},
		"no room in time": {limits{encoderWait: 5 * time.Second}, func(c cluster) {
			live(c)
			if err := c.claim(c.s, "other"); err != nil {
				c.t.Error(err)
			}
			c.pass(6 * time.Second)
		}, began + ", publish-failed id2 no_encoder"},
		"a busy channel": {limits{}, func(c cluster) {
			live(c)
			if err := c.claim(c.s, "ch"); err != errChannelBusy {
				c.t.Error(err)
			}
		}, began},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, extra := range []bool{true, false} {
				story.rules.extraEvents = extra
				rig := newRegistryRig(t, story.rules)
				story.do(cluster{rig, rig.server("s", "RTMP"), rig.encoder("e", 1)})
				var told, want []string
				var judge toldJudge
				next := map[uint64]uint32{}
				for _, ev := range rig.events {
					if fault := judge.take(ev); fault != "" {
						t.Errorf("%s: %s", shortEvent(ev), fault)
					}
					if ev.Position != next[ev.Queue] {
						t.Errorf("%s is at %d, want %d", shortEvent(ev), ev.Position, next[ev.Queue])
					}
					next[ev.Queue]++
					told = append(told, shortEvent(ev))
				}
				for what := range strings.SplitSeq(story.want, ", ") {
					if extra || strings.HasPrefix(what, "stream-available") || strings.HasPrefix(what, "stream-closed") {
						want = append(want, what)
					}
				}
				if diff := cmp.Diff(want, told); diff != "" {
					t.Errorf("extra events %v: told (-want +got):\n%s", extra, diff)
				}
			}
		})
	}
}

func TestPassthroughIsInEachEvent(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{failover: true, extraEvents: true})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
	claim := func(channel string) error {
		notices, err := rig.r.claim(s, claimRequest{requestRef: requestRef{id: channel}, channel: channel, key: "k", passthrough: "of " + channel, verified: true}, rig.now)
		rig.step(notices)
		return err
	}
	if err := claim("one"); err != nil {
		t.Fatal(err)
	}
	if err := claim("two"); err != errNoEncoder {
		t.Fatal(err)
	}
	rig.available(e, "one", "id1", "HLS-LIVE")
	other := rig.encoder("other", 1)
	rig.loseEncoder(e)
	rig.available(other, "one", "id3", "HLS-LIVE")
	if rows := rowsOf(rig.r); len(rows) != 1 || rows[0].Passthrough != "of one" {
		t.Errorf("rows %+v", rows)
	}
	rig.end(s, "one", "id1")
	if rows := rowsOf(rig.r); len(rows) != 1 || rows[0].State != "closing" || rows[0].Passthrough != "of one" {
		t.Errorf("rows %+v", rows)
	}
	rig.closed(other, "one", "id3")
	if len(rig.events) != 7 {
		t.Errorf("%d events", len(rig.events))
	}
	for _, ev := range rig.events {
		if ev.Passthrough != "of "+ev.Channel {
			t.Errorf("%s: %q", shortEvent(ev), ev.Passthrough)
		}
	}
}

// Without an application that verifies keys anybody could fill the disk.
func TestRefusalOfAnUnverifiedPublisherIsNoEvent(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{extraEvents: true})
	s := rig.server("s", "RTMP")
	if _, err := rig.r.claim(s, claimRequest{requestRef: requestRef{id: "1"}, channel: "ch", key: "k"}, rig.now); err != errNoEncoder {
		t.Error(err)
	}
	rig.expect()
}

func TestMemosStayShort(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	rig.encoder("e", 1)
	rig.publish(rig.server("s", "RTMP"), "ch")
	p := rig.r.channels.Get("ch")
	st := p.current
	announce := func(kind, index string) {
		rig.r.announce(st.encoder, "ch", st.id, announcement{streamType: kind, resolution: "1280x720", indexFile: index, startTime: "12.5"}, rig.now)
	}
	announce("HLS-LIVE", "hls/ch/id1/1280x720/live.m3u8")
	announce("HLS-VOD", strings.Repeat("long/", 800))
	for i := range 100 {
		announce("HLS-VOD", fmt.Sprintf("hls/ch/id1/1280x720/vod-%d.m3u8", i))
	}
	told := st.toldMemoLocked()
	if n := len(tagged.Append(nil, &told)); n < 1000 || n > 1536 {
		t.Errorf("the memo has %d bytes", n)
	}
	first, long := told.Outputs[0], told.Outputs[1]
	if first.IndexFile != "hls/\x01/\x02/1280x720/live.m3u8" || first.StartTime != "12.5" || long.StreamType != "HLS-VOD" || long.IndexFile != "" || len(told.Outputs) < 15 {
		t.Errorf("%d outputs, the first ones %+v and %+v", len(told.Outputs), first, long)
	}
	p.channel, p.key, p.passthrough = strings.Repeat("c", 128), strings.Repeat("k", 128), strings.Repeat("p", 256)
	publication, ofStream := p.memoLocked(), st.memoLocked()
	if a, b := len(tagged.Append(nil, &publication)), len(tagged.Append(nil, &ofStream)); a > 1536 || b > 1536 {
		t.Errorf("the memos have %d and %d bytes", a, b)
	}
}

// What the memos and the store of a process that has died leave open is told once, with its first cause.
func TestRestoreTellsWhatIsOpen(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, story := range map[string]struct {
		publication func(*memo.Publication)
		stream      func(*keptStream) // nil: no encoder has it
		announced   []announcedStream
		replay      func(*registry)
		want        string
	}{
		"neither the accept nor the announcement was durable": {
			func(p *memo.Publication) { p.Proven = true }, func(*keptStream) {}, nil,
			func(r *registry) {
				r.announce(r.encoders[rowEncoder], "c", "p1", announcement{streamType: "HLS-LIVE", resolution: "1x1", indexFile: "i"}, now)
			},
			"publish-accepted p1, stream-available p1 HLS-LIVE, stream-closed p1 publisher-ended 0 s",
		},
		"the accept was not durable": {nil, func(*keptStream) {}, nil, nil, "publish-accepted p1, publish-failed p1 publisher_ended"},
		"it was closed by the application, and its encoder is gone": {
			func(p *memo.Publication) { p.Proven, p.Killed, p.Why = true, true, uint8(closedByApplication) }, nil,
			[]announcedStream{{queue: 10, channel: "c", id: "p1", lastSeq: 1}}, nil,
			"stream-closed p1 closed-by-application 0 s",
		},
		"its encoder knows why it is closing, its server does not": {
			nil, func(k *keptStream) { k.Closing, k.Why = true, uint8(neverStarted) }, []announcedStream{{queue: 10, channel: "c", id: "p1"}}, nil,
			"publish-failed p1 never_started",
		},
		"a database that lost commits has the accept and the stream": {
			func(p *memo.Publication) { p.Proven, p.ID = true, "p2" }, nil,
			[]announcedStream{{queue: 10, channel: "c", id: "p1"}, {queue: 10, channel: "c", id: "p2", lastSeq: 1}}, nil,
			"stream-interrupted p2 encoder_lost, stream-closed p2 coordinator-lost -1 s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := &toldEvents{}
			r := newRegistry(100, now, rand.Text, told, limits{extraEvents: true, failover: true, encoderWait: time.Minute})
			in := restoration{gateways: map[string]bool{"s": true, "e": true}, tails: map[uint64]uint32{}, announced: story.announced}
			if len(story.announced) > 0 {
				in.tails[10] = 2
			}
			in.servers = []keptServer{{
				id: rowServer, gateway: "s", info: serverInfo{kind: kindRTMP, ip: "10.0.0.1", port: 1935}, peer: nowhere{},
				publications: []memo.Publication{rowPublication(func(p *memo.Publication) {
					p.Since = now.UnixNano()
					if story.publication != nil {
						story.publication(p)
					}
				})},
			}}
			if story.stream != nil {
				in.encoders = []keptEncoder{{id: rowEncoder, gateway: "e", peer: nowhere{}, memo: memo.Session{Capacity: 2}, streams: []keptStream{rowStream(1, story.stream)}}}
			}
			rs := r.restore(in, now)
			if story.replay != nil {
				story.replay(r)
			}
			rs.restored(now)
			r.end(r.servers[rowServer], "c", "p1", now)
			if story.stream != nil {
				r.streamClosed(r.encoders[rowEncoder], "c", "p1", now, now)
			}
			if got := strings.Join(told.list, ", "); got != story.want {
				t.Errorf("told %s\nwant %s", got, story.want)
			}
		})
	}
}

// toldEvents is an event log of short events.
type toldEvents struct{ list []string }

func (*toldEvents) End(outbox.Mark) {}

func (e *toldEvents) AppendPart(ev outbox.Event) { e.list = append(e.list, shortEvent(ev)) }
