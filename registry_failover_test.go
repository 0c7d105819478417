package main

// A publication that loses its encoder, story by story. registry_waiting_test.go has the queue for slots,
// registry_moves_test.go maintenance.

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// failoverRig has channel ch live as id1 on encoder a and announced, and an idle encoder b.
func failoverRig(t *testing.T, rules limits, serverType serverKind) (rig *registryRig, s *server, a, b *encoder) {
	t.Helper()
	rig = newRegistryRig(t, rules)
	s, a = rig.server("s", serverType), rig.encoder("a", 2)
	rig.publish(s, "ch")
	rig.available(a, "ch", "id1", "HLS-LIVE")
	b = rig.encoder("b", 2)
	rig.forget()
	return rig, s, a, b
}

var failoverOn = limits{failover: true}

func TestFailoverWhenTheEncoderIsGone(t *testing.T) {
	t.Parallel()
	rig, s, a, b := failoverRig(t, failoverOn, "RTMP")
	rig.loseEncoder(a)
	rig.expect("b start ch id2", "event id1 2 closed")
	rig.available(b, "ch", "id2", "HLS-LIVE")
	rig.available(b, "ch", "id2", "IMG-PREVIEW")
	rig.expect("event id2 1 HLS-LIVE after id1", "event id2 2 IMG-PREVIEW after id1")
	if rig.end(s, "ch", "id2") {
		t.Error("the server ends the publisher by an ID that it was never told")
	}
	rig.end(s, "ch", "id1")
	rig.closed(b, "ch", "id2")
	rig.expect("b stop ch id2", "event id2 3 closed after id1")
	for i, ev := range rig.events {
		if ev.Queue != 1 || ev.Position != uint32(i) || ev.Channel != "ch" {
			t.Errorf("event %+v is not next in the publication's queue", ev)
		}
	}
}

func TestFailoverJobIsTheSameButForItsStreamID(t *testing.T) {
	t.Parallel()
	rig, s, a, b := failoverRig(t, failoverOn, "RTMP")
	job := encodeJob{channel: "other", sourceType: "RTMP", sourceURI: "rtmp://10.0.0.1:1935/other/k", resolutions: "1280x720", record: "True", previews: "256x144,3"}
	rig.resize(b, 0)
	if _, err := rig.r.claim(s, claimRequest{requestRef: requestRef{id: "7"}, channel: "other", key: "k", settings: encodeSettings{job.resolutions, job.record, job.previews}}, rig.now); err != nil {
		t.Fatal(err)
	}
	rig.resize(b, 2)
	rig.loseEncoder(a)
	for _, got := range b.peer.(*recordingEncoder).jobs {
		if got.channel != "other" {
			continue
		}
		if got.streamID == "id2" {
			t.Error("two encoders are given the same stream ID")
		}
		got.streamID = ""
		if diff := cmp.Diff(job, got, cmp.AllowUnexported(encodeJob{})); diff != "" {
			t.Error("job (-want +got):\n", diff)
		}
		return
	}
	t.Error("no job for the channel")
}

func TestFailoverWhenTheEncoderClosesAnAnnouncedStream(t *testing.T) {
	t.Parallel()
	rig, _, a, _ := failoverRig(t, failoverOn, "RTMP")
	rig.closed(a, "ch", "id1")
	rig.expect("b start ch id2", "event id1 2 closed")
}

func TestFailoverOfAClosedStreamNeverGoesBackToWhoClosedIt(t *testing.T) {
	t.Parallel()
	rig, _, a, b := failoverRig(t, failoverOn, "RTMP")
	rig.loseEncoder(b)
	rig.closed(a, "ch", "id1")
	rig.expect("s kill ch id1", "event id1 2 closed")
}

func TestNoFailover(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		rules      limits
		serverType serverKind
		prepare    func(rig *registryRig, b *encoder)
	}{
		{"WebSocket source", failoverOn, "WS", nil},
		{"switched off", limits{}, "RTMP", nil},
		{"no slot and no waiting", failoverOn, "RTMP", func(rig *registryRig, b *encoder) { rig.resize(b, 0) }},
		{"others are drained", failoverOn, "RTMP", func(rig *registryRig, b *encoder) { rig.drain(b.id, false) }},
		{"the application has closed it", failoverOn, "RTMP", func(rig *registryRig, b *encoder) { rig.kill("ch", "id1") }},
		{"stopping", failoverOn, "RTMP", func(rig *registryRig, b *encoder) { rig.step(rig.r.stop()) }},
	}
	for _, test := range tests {
		for _, way := range []string{"gone", "closed"} {
			t.Run(test.name+", "+way, func(t *testing.T) {
				t.Parallel()
				rig, s, a, b := failoverRig(t, test.rules, test.serverType)
				if test.prepare != nil {
					test.prepare(rig, b)
				}
				rig.forget()
				if way == "gone" {
					rig.loseEncoder(a)
				} else {
					rig.closed(a, "ch", "id1")
				}
				if test.name == "the application has closed it" { // and was killed then
					rig.expect("event id1 2 closed")
				} else {
					rig.expect("s kill ch id1", "event id1 2 closed")
				}
				if !rig.r.channelIsBusy("ch") || rig.live("ch") != "" {
					t.Error("the channel is free before its publisher has ended, or counts as live")
				}
				if !rig.end(s, "ch", "id1") || rig.r.channelIsBusy("ch") {
					t.Error("the publication lives on")
				}
				rig.expect()
			})
		}
	}
}

func TestStreamThatNeverBeganIsNotMovedWhenItsEncoderClosesIt(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, failoverOn)
	s, a := rig.server("s", "RTMP"), rig.encoder("a", 2)
	rig.publish(s, "ch")
	rig.publish(s, "ch2")
	b := rig.encoder("b", 2)
	rig.forget()
	rig.closed(a, "ch", "id1") // the source is the likely cause
	rig.expect("s kill ch id1")
	rig.loseEncoder(a) // the encoder is the cause
	rig.expect("b start ch2 id3")
	rig.closed(b, "ch2", "id3")
	rig.expect("s kill ch2 id2")
}

func TestThreeEncodersLostWithinAMinute(t *testing.T) {
	t.Parallel()
	lose := func(rig *registryRig, e *encoder, pause time.Duration) {
		rig.encoder("next", 1)
		rig.loseEncoder(e)
		rig.pass(pause)
	}
	on := func(rig *registryRig) *encoder {
		if p := rig.r.channels.Get("ch"); p != nil {
			return p.current.encoder
		}
		return nil
	}
	rig, _, a, _ := failoverRig(t, failoverOn, "RTMP")
	lose(rig, a, lossWindow/2)
	lose(rig, on(rig), lossWindow/2)
	rig.forget()
	lose(rig, on(rig), 0)
	rig.expect("s kill ch id1")
	if !rig.reasonNoted(noteKilled, errEncodersLost) {
		t.Error("no warning says why")
	}

	rig, _, a, _ = failoverRig(t, failoverOn, "RTMP")
	lose(rig, a, lossWindow/2)
	for range 10 { // never three within a minute
		lose(rig, on(rig), lossWindow/2+time.Millisecond)
	}
	if !rig.r.channelIsBusy("ch") {
		t.Error("killed for losses that are long ago")
	}
}

func TestOldEncoderComesBackAndClosesTheOldStream(t *testing.T) {
	t.Parallel()
	rig, _, a, b := failoverRig(t, failoverOn, "RTMP")
	rig.loseEncoder(a)
	again := rig.encoder("again", 2)
	rig.forget()
	if rig.closed(again, "ch", "id1") || rig.available(again, "ch", "id1", "HLS-VOD") || rig.closed(again, "ch", "id2") {
		t.Error("a new connection speaks for the old one")
	}
	rig.expect()
	rig.available(b, "ch", "id2", "HLS-LIVE")
	rig.expect("event id2 1 HLS-LIVE after id1")
}

func TestCloseCommandAfterAFailover(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{"id1": false, "id2": true, "*": true, "id3": false} {
		rig, s, a, b := failoverRig(t, failoverOn, "RTMP")
		rig.loseEncoder(a)
		rig.forget()
		if got := rig.kill("ch", id); got != want {
			t.Errorf("close command with %s: %v", id, got)
		}
		if !want {
			rig.expect()
			continue
		}
		rig.expect("s kill ch id1")
		rig.loseEncoder(b) // before the server has answered
		rig.expect()
		if !rig.end(s, "ch", "id1") {
			t.Error("the channel was free before the publisher had ended")
		}
	}
}

func TestReportAndRowsNameTheCurrentStream(t *testing.T) {
	t.Parallel()
	rig, s, a, b := failoverRig(t, failoverOn, "RTMP")
	rig.loseEncoder(a)
	want := []streamReport{{Channel: "ch", StreamID: "id2", StreamServer: s.id, Encoder: b.id, Since: rig.now, Announced: []announcedOutput{}}}
	if diff := cmp.Diff(want, wholeReport(rig.r, rig.now).ActiveStreams, cmpopts.IgnoreUnexported(streamReport{})); diff != "" {
		t.Error("report (-want +got):\n", diff)
	}
	rows := rowsOf(rig.r)
	if len(rows) != 1 || rows[0].StreamID != "id2" || rows[0].State != "live" || rows[0].Encoder != b.id {
		t.Errorf("rows: %+v", rows)
	}
}

// An encoder that registers and vanishes in a loop: publications that lost another go to one that has stayed.
func TestEncoderThatComesAndGoesHarmsNobodyWhoWasMoved(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, failoverOn)
	s, a := rig.server("s", "RTMP"), rig.encoder("a", 8)
	for _, channel := range []string{"c1", "c2", "c3", "c4"} {
		rig.available(a, channel, rig.publish(s, channel), "HLS-LIVE")
	}
	steady := rig.encoder("steady", 5)
	rig.pass(stableAfter)
	rig.publish(s, "own") // so that it has more load than the next
	flighty := rig.encoder("flighty", -1)
	rig.loseEncoder(a)
	for range 10 {
		rig.loseEncoder(flighty)
		rig.pass(time.Second)
		flighty = rig.encoder("flighty", -1)
	}
	if steady.load() != 5 || rig.r.channels.Len() != 5 {
		t.Errorf("%d of 5 publications live, %d on the steady encoder", rig.r.channels.Len(), steady.load())
	}
	for _, line := range rig.trace {
		if strings.HasPrefix(line, "flighty start") {
			t.Error(line)
		}
	}
}

// An encoder that takes every stream and closes it at once does no harm to a publication that another one can encode.
func TestEncoderThatClosesAtOnceCostsAMovedPublicationNothing(t *testing.T) {
	t.Parallel()
	rig, _, a, b := failoverRig(t, failoverOn, "RTMP")
	good := rig.encoder("good", 1)
	rig.loseEncoder(a)
	rig.closed(b, "ch", "id2")
	rig.expect("b start ch id2", "event id1 2 closed", "good start ch id3")
	rig.available(good, "ch", "id3", "HLS-LIVE")
	rig.expect("event id3 1 HLS-LIVE after id1")
}

func TestNewEncoderDiesToo(t *testing.T) {
	t.Parallel()
	rig, s, a, b := failoverRig(t, failoverOn, "RTMP")
	c := rig.encoder("c", 1)
	rig.loseEncoder(a)
	rig.loseEncoder(b)
	rig.expect("b start ch id2", "event id1 2 closed", "c start ch id3")
	// Nothing was announced as id2: the application never heard of it.
	rig.available(c, "ch", "id3", "HLS-LIVE")
	rig.expect("event id3 1 HLS-LIVE after id1")
	rig.end(s, "ch", "id1")
	rig.loseEncoder(c)
	rig.expect("c stop ch id3", "event id3 2 closed after id1")
}
