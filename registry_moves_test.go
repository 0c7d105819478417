package main

// Maintenance: the live RTMP streams of a drained encoder go to others while both work.

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// moveRig is a failoverRig whose encoder a is being emptied: id2 has been started on b.
func moveRig(t *testing.T, rules limits) (rig *registryRig, s *server, a, b *encoder) {
	t.Helper()
	rig, s, a, b = failoverRig(t, rules, "RTMP")
	rig.drain(a.id, true)
	rig.expect("b start ch id2")
	return rig, s, a, b
}

func TestMoveHandsOverAtTheFirstHLSLive(t *testing.T) {
	t.Parallel()
	for _, rules := range []limits{{}, failoverOn} { // failover off: the operator has asked for the move
		rig, s, a, b := moveRig(t, rules)
		if got := rig.live("ch"); got != "id1" {
			t.Errorf("before the handover: %q", got)
		}
		rig.available(a, "ch", "id1", "IMG-PREVIEW")
		rig.available(b, "ch", "id2", "IMG-PREVIEW")
		rig.expect("event id1 2 IMG-PREVIEW", "event id2 1 IMG-PREVIEW after id1")
		rig.available(b, "ch", "id2", "HLS-LIVE")
		rig.expect("event id2 2 HLS-LIVE after id1", "a stop ch id1")
		if got := rig.live("ch"); got != "id2" {
			t.Errorf("after the handover: %q", got)
		}
		rig.available(b, "ch", "id2", "HLS-LIVE")
		rig.available(a, "ch", "id1", "HLS-VOD")
		rig.closed(a, "ch", "id1")
		rig.expect("event id2 3 HLS-LIVE after id1", "event id1 3 HLS-VOD", "event id1 4 closed")
		rig.end(s, "ch", "id1")
		rig.closed(b, "ch", "id2")
		rig.expect("b stop ch id2", "event id2 4 closed after id1")
		for i, ev := range rig.events {
			if ev.Queue != 1 || ev.Position != uint32(i) {
				t.Errorf("event %+v is not next in the publication's queue", ev)
			}
		}
	}
}

func TestDrainWithoutMovingLeavesStreamsWhereTheyAre(t *testing.T) {
	t.Parallel()
	rig, _, a, _ := failoverRig(t, failoverOn, "RTMP")
	rig.drain(a.id, false)
	rig.pass(time.Hour)
	rig.expect()
	rig.drain(a.id, true) // later, after all
	rig.expect("b start ch id2")
}

func TestWebSocketAndKilledStreamsAreNotMoved(t *testing.T) {
	t.Parallel()
	rig, _, a, _ := failoverRig(t, failoverOn, "WS")
	rig.drain(a.id, true)
	rig.expect()
	rig, _, a, _ = failoverRig(t, failoverOn, "RTMP")
	rig.kill("ch", "*")
	rig.drain(a.id, true)
	rig.expect("s kill ch id1")
}

func TestAtMostFourMovesAtATime(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, failoverOn)
	s, a := rig.server("s", "RTMP"), rig.encoder("a", -1)
	const streams = 11
	for i := range streams {
		channel := fmt.Sprint("c", i)
		rig.available(a, channel, rig.publish(s, channel), "HLS-LIVE")
	}
	b := rig.encoder("b", -1)
	rig.forget()
	rig.drain(a.id, true)
	for moved := range streams {
		underWay := 0
		var next *publication
		for p := range livePublications(rig.r) {
			if p.successor != nil {
				underWay, next = underWay+1, p
			}
		}
		if want := min(4, streams-moved); underWay != want {
			t.Fatalf("%d moves under way after %d, want %d", underWay, moved, want)
		}
		rig.available(b, next.channel, next.successor.id, "HLS-LIVE")
	}
	for _, st := range slices.Clone(a.streams) {
		rig.closed(a, st.pub.channel, st.id)
	}
	if a.load() != 0 || b.load() != streams || rig.r.totals(rig.now).hasEncoder != streams {
		t.Errorf("%d streams left, %d moved", a.load(), b.load())
	}
	for _, line := range rig.trace {
		if strings.HasPrefix(line, "s kill") {
			t.Error(line)
		}
	}
}

func TestMoveWaitsForRoom(t *testing.T) {
	t.Parallel()
	rig, _, a, b := failoverRig(t, failoverOn, "RTMP")
	rig.loseEncoder(b)
	rig.drain(a.id, true)
	rig.pass(time.Hour)
	rig.expect()
	rig.encoder("c", 1)
	rig.expect("c start ch id2")
}

func TestThoseWhoWaitComeBeforeMoves(t *testing.T) {
	t.Parallel()
	rig, s, a, b := failoverRig(t, waitTen, "RTMP")
	rig.loseEncoder(b)
	rig.drain(a.id, true)
	rig.waitFor(s, "x")
	rig.encoder("c", 1)
	rig.expect("s accept r-x x id2", "c start x id2")
}

func TestSuccessorDies(t *testing.T) {
	t.Parallel()
	rig, _, a, b := moveRig(t, failoverOn)
	rig.available(b, "ch", "id2", "IMG-PREVIEW")
	rig.forget()
	rig.loseEncoder(b)
	rig.expect("event id2 2 closed after id1")
	rig.available(a, "ch", "id1", "IMG-PREVIEW")
	rig.expect("event id1 2 IMG-PREVIEW")
	c := rig.encoder("c", 1)
	rig.available(c, "ch", "id3", "HLS-LIVE")
	rig.expect("c start ch id3", "event id3 1 HLS-LIVE after id1", "a stop ch id1")
}

func TestSuccessorTimesOutAtItsStart(t *testing.T) {
	t.Parallel()
	rig, _, _, b := moveRig(t, limits{startTimeout: 5 * time.Second})
	rig.resize(b, 1)
	rig.pass(5 * time.Second)
	rig.expect("b stop ch id2")
	if got := rig.live("ch"); got != "id1" {
		t.Errorf("live is %q", got)
	}
}

func TestBothEncodersOfAMoveDie(t *testing.T) {
	t.Parallel()
	rig, _, a, b := moveRig(t, failoverOn)
	rig.encoder("c", 1)
	rig.loseEncoder(b)
	rig.expect("c start ch id3")
	rig.loseEncoder(a)
	rig.encoder("d", 1)
	rig.loseEncoder(rig.r.channels.Get("ch").current.encoder)
	rig.expect("event id1 2 closed", "d start ch id4")
}

func TestPublisherEndsDuringTheMove(t *testing.T) {
	t.Parallel()
	rig, s, a, b := moveRig(t, failoverOn)
	rig.end(s, "ch", "id1")
	rig.expect("a stop ch id1", "b stop ch id2")
	rig.available(b, "ch", "id2", "HLS-LIVE")
	rig.closed(a, "ch", "id1")
	rig.closed(b, "ch", "id2")
	rig.expect("event id2 1 HLS-LIVE after id1", "event id1 2 closed", "event id2 2 closed after id1")
}

func TestCloseCommandDuringTheMove(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"id1", "id2", "*"} {
		rig, s, _, b := moveRig(t, failoverOn)
		if !rig.kill("ch", id) {
			t.Errorf("close command with %s finds nothing", id)
		}
		rig.available(b, "ch", "id2", "HLS-LIVE")
		rig.end(s, "ch", "id1")
		rig.expect("s kill ch id1", "event id2 1 HLS-LIVE after id1", "a stop ch id1", "b stop ch id2")
	}
}

func TestUndrainInTheMiddleOfAMove(t *testing.T) {
	t.Parallel()
	rig, s, a, b := failoverRig(t, failoverOn, "RTMP")
	rig.resize(b, 1)
	rig.publish(s, "second") // on a or b: b is idle
	rig.drain(a.id, false)
	rig.resize(b, 2)
	rig.drain(a.id, true)
	id := rig.r.channels.Get("ch").successor.id
	rig.undrain(a.id)
	rig.forget()
	rig.available(b, "ch", id, "HLS-LIVE") // what is under way is finished
	rig.expect("event "+id+" 1 HLS-LIVE after id1", "a stop ch id1")
	rig.pass(time.Hour)
	rig.expect()
	rig.closed(a, "ch", "id1")
	rig.drain(b.id, true) // and now the other one
	if len(rig.trace) != 3 {
		t.Errorf("told: %q", rig.trace)
	}
}

func TestStreamThatArrivesAtADrainedEncoderIsMovedOn(t *testing.T) {
	t.Parallel()
	rig, _, _, b := moveRig(t, limits{})
	rig.encoder("c", 10)
	rig.drain(b.id, true) // id2 is starting there
	rig.expect()
	rig.available(b, "ch", "id2", "HLS-LIVE")
	rig.expect("event id2 1 HLS-LIVE after id1", "a stop ch id1", "c start ch id3")
}

func TestDrainWithNothingLeftToMoveIsOver(t *testing.T) {
	t.Parallel()
	rig, _, a, _ := failoverRig(t, limits{}, "WS") // whose streams can't be moved
	rig.drain(a.id, true)
	if _, moving := rig.r.moving[a]; !a.draining || moving {
		t.Errorf("draining %v, moving %v", a.draining, moving)
	}
}

func TestRollingUpdateLosesNoPublisher(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, failoverOn)
	s := rig.server("s", "RTMP")
	var fleet []*encoder
	for i := range 3 {
		fleet = append(fleet, rig.encoder(fmt.Sprint("e", i), 10))
	}
	for i := range 12 {
		channel := fmt.Sprint("c", i)
		id := rig.publish(s, channel)
		rig.available(rig.r.channels.Get(channel).current.encoder, channel, id, "HLS-LIVE")
	}
	for i, e := range fleet {
		rig.drain(e.id, true)
		load := e.load()
		for servingOf(rig, e) > 0 {
			for p := range livePublications(rig.r) {
				if p.successor != nil {
					rig.available(p.successor.encoder, p.channel, p.successor.id, "HLS-LIVE")
				}
			}
		}
		if e.load() != load {
			t.Errorf("load went from %d to %d, though its encodings go on until their publishers end", load, e.load())
		}
		rig.loseEncoder(e)
		fleet[i] = rig.encoder("new", 10)
	}
	if got := rig.r.totals(rig.now); got.hasEncoder != 12 || got.slots.Load != 12 {
		t.Errorf("%+v", got)
	}
	for _, line := range rig.trace {
		if strings.HasPrefix(line, "s kill") {
			t.Error(line)
		}
	}
}

func servingOf(rig *registryRig, e *encoder) int {
	rig.t.Helper()
	for _, row := range wholeReport(rig.r, rig.now).Encoders {
		if row.ID == e.id {
			return row.Serving
		}
	}
	rig.t.Fatalf("encoder %d is not in the report", e.id)
	return 0
}

// TestServingLeavesOutWhatNobodyNeeds: an encoding that another one took over from, or that was to take over and is given up.
// One whose publisher has ended counts, because its recording is still being written.
func TestServingLeavesOutWhatNobodyNeeds(t *testing.T) {
	t.Parallel()
	rig, s, a, b := moveRig(t, failoverOn)
	serving := func(onA, onB int) {
		t.Helper()
		if gotA, gotB := servingOf(rig, a), servingOf(rig, b); gotA != onA || gotB != onB {
			t.Errorf("serving %d and %d, want %d and %d", gotA, gotB, onA, onB)
		}
	}
	serving(1, 1)
	rig.available(b, "ch", "id2", "IMG-PREVIEW")
	rig.pass(movePatience) // given up, and tried again
	serving(1, 1)
	if b.load() != 2 {
		t.Errorf("load %d, want the one that was given up and the next", b.load())
	}
	rig.available(b, "ch", "id3", "HLS-LIVE")
	serving(0, 1)
	rig.available(a, "ch", "id1", "HLS-LIVE") // it goes on
	serving(0, 1)
	rig.end(s, "ch", "id1")
	serving(0, 1)
	rig.closed(a, "ch", "id1")
	rig.closed(b, "ch", "id2")
	serving(0, 1)
	rig.closed(b, "ch", "id3")
	serving(0, 0)
}

func TestOldEncoderDiesBeforeTheHandover(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"gone", "closed"} {
		for _, rules := range []limits{{}, failoverOn} {
			rig, s, a, b := moveRig(t, rules)
			if way == "gone" {
				rig.loseEncoder(a)
			} else {
				rig.closed(a, "ch", "id1")
			}
			rig.expect("event id1 2 closed")
			if got := rig.live("ch"); got != "id2" {
				t.Errorf("live is %q", got)
			}
			if !slices.ContainsFunc(rig.noted, func(n notice) bool { return n.kind == noteMoved && n.stream == "id2" }) {
				t.Error("the move is not noted")
			}
			rig.available(b, "ch", "id2", "HLS-LIVE")
			rig.expect("event id2 1 HLS-LIVE after id1")
			rig.end(s, "ch", "id1")
			rig.expect("b stop ch id2")
		}
	}
}

// A successor that never gets going gives up its turn, so that an encoder that takes streams and says nothing can't
// hold up the maintenance of another.
func TestSuccessorThatNeverBegins(t *testing.T) {
	t.Parallel()
	rig, _, a, b := moveRig(t, failoverOn)
	rig.resize(b, 1)
	rig.pass(movePatience - time.Millisecond)
	rig.available(b, "ch", "id2", "IMG-PREVIEW") // is not enough
	rig.forget()
	c := rig.encoder("c", 1)
	rig.pass(time.Millisecond)
	rig.expect("b stop ch id2", "c start ch id3")
	rig.closed(b, "ch", "id2")
	rig.available(c, "ch", "id3", "HLS-LIVE")
	rig.expect("event id2 2 closed after id1", "event id3 1 HLS-LIVE after id1", "a stop ch id1")
	rig.closed(a, "ch", "id1")
}

func TestSuccessorIsTriedThreeTimesAndAgainOnDemand(t *testing.T) {
	t.Parallel()
	rig, _, a, b := moveRig(t, failoverOn)
	rig.closed(b, "ch", "id2")
	rig.closed(b, "ch", "id3")
	rig.expect("b start ch id3", "b start ch id4")
	rig.closed(b, "ch", "id4")
	rig.pass(time.Hour)
	rig.expect()
	if got := rig.live("ch"); got != "id1" {
		t.Errorf("live is %q", got)
	}
	rig.drain(a.id, true)
	rig.available(b, "ch", "id5", "HLS-LIVE")
	rig.expect("b start ch id5", "event id5 1 HLS-LIVE after id1", "a stop ch id1")
}

// The application is told of a predecessor that it knows: an encoding that was moved away before it announced anything
// is none.
func TestMovedStreamNamesThePredecessorThatTheApplicationHasHeardOf(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		between func(rig *registryRig, b *encoder)
		want    []string
	}{
		"it stays silent": {func(*registryRig, *encoder) {}, []string{"event id3 1 HLS-LIVE after id1", "b stop ch id2"}},
		"it dies silent":  {func(rig *registryRig, b *encoder) { rig.loseEncoder(b) }, []string{"event id3 1 HLS-LIVE after id1"}},
		"it announces before its successor": {
			func(rig *registryRig, b *encoder) { rig.available(b, "ch", "id2", "HLS-LIVE") },
			[]string{"event id2 1 HLS-LIVE after id1", "event id3 1 HLS-LIVE after id2", "b stop ch id2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig, _, a, b := failoverRig(t, failoverOn, "RTMP")
			rig.loseEncoder(a)
			c := rig.encoder("c", 2)
			rig.drain(b.id, true)
			rig.expect("b start ch id2", "event id1 2 closed", "c start ch id3")
			test.between(rig, b)
			rig.available(c, "ch", "id3", "HLS-LIVE")
			rig.expect(test.want...)
		})
	}
}

// Streams whose successors never get going are tried again and again; those behind them must not wait for all of that.
func TestStreamsThatCannotBeMovedDoNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{failover: true})
	s, a := rig.server("s", "RTMP"), rig.encoder("a", -1)
	const stuck, streams = 20, 200
	for i := range streams {
		rig.publish(s, fmt.Sprint("ch", i))
	}
	b := rig.encoder("b", -1)
	rig.drain(a.id, true)
	moved := 0
	for range 60 {
		for p := range livePublications(rig.r) {
			var n int
			fmt.Sscanf(p.channel, "ch%d", &n)
			if p.successor != nil && n >= stuck {
				rig.available(b, p.channel, p.successor.id, "HLS-LIVE")
				moved++
			}
		}
		rig.pass(10 * time.Second)
	}
	if moved == 0 {
		t.Error("no stream was moved in ten minutes")
	}
}

func TestAChannelThatComesBackIsReportedOnce(t *testing.T) {
	t.Parallel()
	r := registryWith(t, 3500)
	now := time.Now()
	cells, _ := r.channels.Part(0, 3001)
	first, last := cells[5], cells[3000]
	reported, once := map[string]int{}, true
	r.liveStreams(func(part []streamReport) {
		for _, row := range part {
			reported[row.Channel]++
		}
		if once {
			once = false
			r.end(last.server, last.channel, last.publisherID, now)
			r.end(first.server, first.channel, first.publisherID, now)
			for _, channel := range []string{"other", first.channel} {
				if _, err := r.claim(first.server, claimRequest{channel: channel, key: "k"}, now); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	if reported[first.channel] != 1 {
		t.Errorf("%s is reported %d times", first.channel, reported[first.channel])
	}
}

// A successor that has announced previews only has its minute anew, too, when an absent gateway is back.
func TestMoveBeginsAnewWhenAGatewayIsBack(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{failover: true, startTimeout: 30 * time.Second})
	s, old := rig.server("s", "RTMP"), rig.encoder("old", 1)
	id := rig.publish(s, "c")
	rig.available(old, "c", id, "HLS-LIVE")
	next := rig.encoder("new", 1)
	next.gateway = "g"
	rig.drain(old.id, true)
	rig.available(next, "c", "id2", "IMG-PREVIEW")
	rig.pass(movePatience - 10*time.Second)
	rig.r.gatewayAbsent("g")
	rig.pass(20 * time.Second)
	rig.forget()
	rig.step(rig.r.gatewayBack("g", rig.now))
	rig.pass(movePatience - time.Second)
	rig.expect()
	rig.pass(time.Second)
	rig.expect("new stop c id2")
}
