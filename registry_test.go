package main

// The transitions of the registry one by one: choice of the encoder, claims, the ways a stream ends, who is told what
// in which order. registry_guards_test.go has drain, encoders set aside and start timeout, registry_failover_test.go the way to another encoder.

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// member is an encoder with some of its slots taken.
type member struct{ capacity, load int }

func TestEncoderIsChosen(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		encoders  []member
		placement placement
		want      int // index, -1: none
	}{
		{"none there", nil, "", -1},
		{"all full", []member{{1, 1}, {2, 2}}, "", -1},
		{"capacity zero", []member{{0, 0}}, "", -1},
		{"idle ones: the first", []member{{1, 0}, {100, 0}, {-1, 0}}, "", 0},
		{"least load", []member{{100, 3}, {3, 2}}, "", 1},
		{"a full one with the least load is passed over", []member{{1, 1}, {9, 4}}, "", 1},
		{"same load: larger free share", []member{{4, 2}, {8, 2}, {6, 2}}, "", 1},
		{"same load: no limit is the largest share", []member{{1000, 1}, {-1, 1}, {1000, 1}}, "", 1},
		{"same load and capacity: the first", []member{{4, 1}, {4, 1}}, "", 0},
		{"no limit, but more load", []member{{-1, 5}, {6, 4}}, leastLoad, 1},
		{"no limit is never full", []member{{-1, 70}, {3, 3}}, leastLoad, 0},
		{"least share", []member{{4, 3}, {64, 4}}, leastShare, 1},
		{"least share: all are full", []member{{4, 4}, {64, 64}}, leastShare, -1},
		{"least share: capacity zero", []member{{0, 0}, {3, 2}}, leastShare, 1},
		{"least share: no limit is no share", []member{{64, 1}, {-1, 9}}, leastShare, 1},
		{"least share: no limit against an idle one", []member{{-1, 1}, {4, 0}}, leastShare, 1},
		{"least share: two without limit", []member{{-1, 3}, {-1, 2}}, leastShare, 1},
		{"least share: the same share, less load", []member{{8, 4}, {4, 2}}, leastShare, 1},
		{"pack", []member{{64, 0}, {8, 3}, {8, 4}}, pack, 2},
		{"pack: the fullest has no free slot", []member{{64, 1}, {8, 3}, {4, 4}}, pack, 1},
		{"pack: idle ones, the first", []member{{4, 0}, {64, 0}, {-1, 0}}, pack, 0},
		{"pack: the same load, the first", []member{{64, 2}, {4, 2}}, pack, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rig := newRegistryRig(t, limits{placement: test.placement})
			s := rig.server("s", "RTMP")
			rig.members(s, test.encoders)
			rig.forget()
			err := rig.claim(s, "new")
			if test.want < 0 {
				if err != errNoEncoder {
					t.Errorf("claim: %v, want errNoEncoder", err)
				}
				rig.expect()
				return
			}
			id := fmt.Sprint("id", rig.lastID)
			rig.expect("s accept r-new new "+id, fmt.Sprintf("e%d start new %s", test.want, id))
		})
	}
}

// members are registered as e0, e1 and so on.
func (rig *registryRig) members(s *server, members []member) (encoders []*encoder) {
	for i, m := range members {
		e := rig.encoder(fmt.Sprint("e", i), m.load)
		for j := range m.load {
			rig.publish(s, fmt.Sprintf("ch-%d-%d", i, j))
		}
		rig.resize(e, 0) // so that the next one gets its own
		encoders = append(encoders, e)
	}
	for i, m := range members {
		rig.resize(encoders[i], m.capacity)
	}
	return encoders
}

// Whatever encoders there are, none with a free slot is better than the one that is chosen.
func TestChosenEncoderIsTheBest(t *testing.T) {
	t.Parallel()
	share := func(m member) float64 {
		if m.capacity < 0 {
			return 0
		}
		return float64(m.load) / float64(m.capacity)
	}
	for p, better := range map[placement]func(a, b member) bool{
		leastLoad:  func(a, b member) bool { return a.load < b.load },
		leastShare: func(a, b member) bool { return share(a) < share(b) },
		pack:       func(a, b member) bool { return a.load > b.load },
	} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(200) {
				r := rand.New(rand.NewPCG(seed, 0))
				var members []member
				for range 1 + r.IntN(6) {
					load := r.IntN(5)
					members = append(members, member{[]int{-1, load, load + 1, load + r.IntN(60)}[r.IntN(4)], load})
				}
				rig := newRegistryRig(t, limits{placement: p})
				s := rig.server("s", "RTMP")
				encoders := rig.members(s, members)
				_ = rig.claim(s, "new")
				chosen := slices.IndexFunc(encoders, func(e *encoder) bool { return e.load() > members[slices.Index(encoders, e)].load })
				for i, m := range members {
					if free := m.capacity < 0 || m.load < m.capacity; free && (chosen < 0 || better(m, members[chosen])) {
						t.Fatalf("seed %d: %+v: encoder %d was chosen, and %d is better", seed, members, chosen, i)
					}
				}
			}
		})
	}
}

func TestHeadroomIsWhatTheWorstLossLeaves(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		encoders []member
		draining int // index, -1: none
		want     float64
	}{
		"no encoder":              {nil, -1, 0},
		"one alone":               {[]member{{8, 3}}, -1, -3},
		"one alone, idle":         {[]member{{8, 0}}, -1, 0},
		"the larger one counts":   {[]member{{8, 5}, {4, 1}}, -1, 3 - 5},
		"enough for either":       {[]member{{8, 2}, {8, 2}, {4, 0}}, -1, 10 - 2},
		"full ones":               {[]member{{2, 2}, {2, 2}}, -1, -2},
		"fewer slots than load":   {[]member{{1, 3}, {4, 0}}, -1, 0},
		"one has no limit":        {[]member{{-1, 7}, {4, 1}}, -1, 3 - 7},
		"two have no limit":       {[]member{{-1, 7}, {-1, 1}, {4, 4}}, -1, math.Inf(1)},
		"a draining one helps no": {[]member{{8, 5}, {8, 0}}, 1, -5},
		"a draining one is lost":  {[]member{{20, 18}, {4, 1}, {9, 2}}, 0, 10 - 18},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newRegistryRig(t, limits{})
			encoders := rig.members(rig.server("s", "RTMP"), test.encoders)
			if test.draining >= 0 {
				rig.drain(encoders[test.draining].id, false)
			}
			if got := rig.r.totals(rig.now).headroom; got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// While streams only begin, pack has one encoder at most that is neither full nor idle.
func TestPackFillsOneEncoderBeforeTheNext(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{placement: pack})
	s := rig.server("s", "RTMP")
	for i, capacity := range []int{4, 8, 3, 64, 8} {
		rig.encoder(fmt.Sprint("e", i), capacity)
	}
	for n := range 87 {
		rig.publish(s, fmt.Sprint("ch-", n))
		partly := 0
		for _, e := range rig.r.encoders {
			if e.load() > 0 && e.hasFreeSlot() {
				partly++
			}
		}
		if partly > 1 {
			t.Fatalf("after %d streams %d encoders are filled in part", n+1, partly)
		}
	}
	if err := rig.claim(s, "one-more"); err != errNoEncoder {
		t.Errorf("one more: %v", err)
	}
}

func TestClaimIsRefusedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		prepare func(*registryRig, *server)
		want    error
	}{
		{"channel is live", func(rig *registryRig, s *server) { rig.publish(s, "ch") }, errChannelBusy},
		{"channel is live on another server", func(rig *registryRig, s *server) { rig.publish(rig.server("s2", "WS"), "ch") }, errChannelBusy},
		{"no slot", func(rig *registryRig, s *server) { rig.publish(s, "a"); rig.publish(s, "b") }, errNoEncoder},
		{"server gone", func(rig *registryRig, s *server) { rig.loseServer(s) }, errPeerGone},
		{"server drained", func(rig *registryRig, s *server) { rig.drain(s.id, false) }, errDraining},
		{"encoder drained", func(rig *registryRig, s *server) { rig.drain(s.id+1, false) }, errNoEncoder},
		{"encoder gone", func(rig *registryRig, s *server) { rig.loseEncoder(rig.r.encoders[s.id+1]) }, errNoEncoder},
		{"stopping", func(rig *registryRig, s *server) { rig.step(rig.r.stop()) }, errStopping},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rig := newRegistryRig(t, limits{})
			s := rig.server("s", "RTMP")
			rig.encoder("e", 2)
			test.prepare(rig, s)
			before := rig.r.totals(rig.now)
			rig.forget()
			if err := rig.claim(s, "ch"); err != test.want {
				t.Errorf("claim: %v, want %v", err, test.want)
			}
			rig.expect()
			if diff := cmp.Diff(before, rig.r.totals(rig.now), cmp.AllowUnexported(totals{}, heldSessions{})); diff != "" {
				t.Error("left behind (-before +after):\n", diff)
			}
		})
	}
}

func TestJobReachesTheEncoderAsTheApplicationAllowedIt(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "WS"), rig.encoder("e", 1)
	want := encodeJob{channel: "ch", sourceType: "WS", streamID: "id1", sourceURI: "ws://10.0.0.1:1935/ch/k", resolutions: "ORIGINAL", record: "True", previews: "False"}
	if _, err := rig.r.claim(s, claimRequest{requestRef: requestRef{id: "7"}, channel: "ch", key: "k", settings: encodeSettings{want.resolutions, want.record, want.previews}}, rig.now); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]encodeJob{want}, e.peer.(*recordingEncoder).jobs, cmp.AllowUnexported(encodeJob{})); diff != "" {
		t.Error("job (-want +got):\n", diff)
	}
	rig.expect("s accept 7 ch id1", "e start ch id1")
}

func TestLifeOfAStream(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
	rig.publish(s, "ch")
	rig.available(e, "ch", "id1", "HLS-LIVE")
	rig.expect("s accept r-ch ch id1", "e start ch id1", "event id1 1 HLS-LIVE")

	rig.end(s, "ch", "id1")
	rig.expect("e stop ch id1")
	if got := rig.r.totals(rig.now); got.hasEncoder != 0 || got.closing != 1 || got.slots.Load != 1 {
		t.Errorf("closing: %+v", got)
	}
	if rig.r.channelIsBusy("ch") {
		t.Error("the channel is not free after PUBLISH-END")
	}
	if err := rig.claim(s, "ch"); err != errNoEncoder {
		t.Errorf("claim while the slot is busy: %v", err)
	}

	rig.available(e, "ch", "id1", "HLS-VOD")
	rig.closed(e, "ch", "id1")
	rig.expect("event id1 2 HLS-VOD", "event id1 3 closed")
	if rig.closed(e, "ch", "id1") || rig.available(e, "ch", "id1", "HLS-VOD") {
		t.Error("a closed stream is taken for a live one")
	}
	rig.expect()
	rig.publish(s, "ch")
	rig.expect("s accept r-ch ch id2", "e start ch id2")
}

func TestNothingAnnouncedNoClosedEvent(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
	rig.publish(s, "ch")
	rig.forget()
	rig.closed(e, "ch", "id1")
	rig.expect("s kill ch id1")
	if !rig.end(s, "ch", "id1") {
		t.Error("PUBLISH-END after the kill is not taken")
	}
	rig.expect()
}

func TestChannelLiveAgainWhileItsOldStreamFinishes(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 2)
	rig.publish(s, "ch")
	rig.available(e, "ch", "id1", "HLS-LIVE")
	rig.end(s, "ch", "id1")
	rig.publish(s, "ch")
	rig.available(e, "ch", "id2", "HLS-LIVE")
	rig.forget()

	if rig.end(s, "ch", "id1") {
		t.Error("a late PUBLISH-END of the old stream ends the new one")
	}
	rig.available(e, "ch", "id1", "HLS-VOD")
	rig.closed(e, "ch", "id1")
	rig.expect("event id1 2 HLS-VOD", "event id1 3 closed")
	if got := rig.live("ch"); got != "id2" {
		t.Errorf("live is %q", got)
	}
}

// A message about a stream that is not the sender's own changes nothing and nobody is told anything.
func TestForeignMessagesChangeNothing(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{failover: true})
	s, other := rig.server("s", "RTMP"), rig.server("other", "RTMP")
	e, idle := rig.encoder("e", 2), rig.encoder("idle", 0)
	rig.publish(s, "ch")
	rig.publish(s, "ch2")
	rig.available(e, "ch", "id1", "HLS-LIVE")
	rig.forget()
	before := wholeReport(rig.r, rig.now)
	tests := map[string]func() bool{
		"end by another server":             func() bool { return rig.end(other, "ch", "id1") },
		"end of another channel's stream":   func() bool { return rig.end(s, "ch2", "id1") },
		"end of an unknown stream":          func() bool { return rig.end(s, "ch", "nil") },
		"end of every stream":               func() bool { return rig.end(s, "ch", "*") },
		"end without an ID":                 func() bool { return rig.end(s, "ch", "") },
		"closed by another encoder":         func() bool { return rig.closed(idle, "ch", "id1") },
		"closed with another channel":       func() bool { return rig.closed(e, "ch2", "id1") },
		"closed of an unknown stream":       func() bool { return rig.closed(e, "ch", "nil") },
		"available by another encoder":      func() bool { return rig.available(idle, "ch", "id1", "HLS-LIVE") },
		"available with another channel":    func() bool { return rig.available(e, "ch2", "id1", "HLS-LIVE") },
		"available of an unknown stream":    func() bool { return rig.available(e, "", "", "HLS-LIVE") },
		"kill with another channel's ID":    func() bool { return rig.kill("ch2", "id1") },
		"kill of a channel that isn't live": func() bool { return rig.kill("ch3", "*") },
		"kill without an ID":                func() bool { return rig.kill("ch", "") },
	}
	for name, message := range tests {
		if message() {
			t.Errorf("%s: taken for the sender's own", name)
		}
		rig.expect()
		after := wholeReport(rig.r, rig.now)
		slices.SortFunc(after.Encoders, func(a, b encoderReport) int { return int(a.ID) - int(b.ID) })
		if len(after.ActiveStreams) != len(before.ActiveStreams) || after.Encoders[0].Load != 2 {
			t.Fatalf("%s: changed the cluster: %+v", name, after)
		}
	}
}

func TestServerGoneItsStreamsFinish(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
	rig.publish(s, "ch")
	rig.available(e, "ch", "id1", "HLS-LIVE")
	rig.forget()
	rig.loseServer(s)
	rig.expect("e stop ch id1")
	if rig.end(s, "ch", "id1") {
		t.Error("PUBLISH-END of a server that is gone ends something")
	}
	rig.loseServer(s) // a second time
	rig.closed(e, "ch", "id1")
	rig.expect("event id1 2 closed")
	rig.loseEncoder(e)
	checkEmpty(t, rig.r)
}

func TestEncoderGoneItsPublishersAreKilled(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 2)
	rig.publish(s, "ch")
	rig.available(e, "ch", "id1", "HLS-LIVE")
	rig.forget()
	rig.loseEncoder(e)
	rig.expect("s kill ch id1", "event id1 2 closed")
	rig.loseEncoder(e) // a second time
	rig.resize(e, 7)
	if rig.available(e, "ch", "id1", "HLS-VOD") || rig.closed(e, "ch", "id1") {
		t.Error("an encoder that is gone still has a stream")
	}
	rig.expect()
	if got := (capacityReport{}); rig.r.capacity() != got {
		t.Errorf("capacity: %+v", rig.r.capacity())
	}
	rig.loseServer(s)
	checkEmpty(t, rig.r)
}

func TestEncoderGoneWhileItsStreamCloses(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{failover: true})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 2)
	rig.publish(s, "ch")
	rig.available(e, "ch", "id1", "HLS-LIVE")
	rig.end(s, "ch", "id1")
	rig.encoder("spare", 2)
	rig.forget()
	rig.loseEncoder(e)
	rig.expect("event id1 2 closed")
}

func TestCapacityIsTheSumAndMinusOneWithoutALimit(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s := rig.server("s", "RTMP")
	expect := func(load, capacity, count int) {
		t.Helper()
		if got, want := rig.r.capacity(), (capacityReport{load, capacity, count}); got != want {
			t.Errorf("capacity %+v, want %+v", got, want)
		}
	}
	expect(0, 0, 0)
	a := rig.encoder("a", 2)
	b := rig.encoder("b", -1)
	rig.publish(s, "ch")
	expect(1, -1, 2)
	rig.resize(b, 3)
	expect(1, 5, 2)
	rig.resize(a, 0) // below its load, which stays
	expect(1, 3, 2)
	rig.resize(a, -1)
	expect(1, -1, 2)
	rig.loseEncoder(a)
	expect(0, 3, 1)
}

func TestKillReachesThePublisherByItsIDOrAny(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"id1", "*"} {
		rig := newRegistryRig(t, limits{})
		s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
		rig.publish(s, "ch")
		if !rig.kill("ch", id) {
			t.Errorf("kill with %s finds nothing", id)
		}
		rig.expect("s accept r-ch ch id1", "e start ch id1", "s kill ch id1")
		if !rig.r.channelIsBusy("ch") {
			t.Error("the channel is free before the publisher has ended")
		}
		rig.end(s, "ch", "id1")
		rig.closed(e, "ch", "id1")
		rig.expect("e stop ch id1")
		if rig.kill("ch", id) {
			t.Error("a second kill finds something")
		}
	}
}

func TestIgnoredKillIsForgottenAfter30s(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
	rig.publish(s, "ch")
	rig.kill("ch", "*")
	rig.forget()
	rig.pass(20 * time.Second)
	rig.forget()
	rig.kill("ch", "*") // does not prolong it
	rig.pass(10*time.Second - time.Millisecond)
	rig.expect("s kill ch id1")
	rig.pass(time.Millisecond)
	rig.expect()
	if rig.r.channelIsBusy("ch") || !rig.reasonNoted(noteKillIgnored, errKillIgnored) {
		t.Error("the publication lives on, or there is no warning")
	}
	if rig.reasonNoted(noteEnded, nil) {
		t.Error("its publisher is said to have ended")
	}
	if rig.end(s, "ch", "id1") {
		t.Error("a late PUBLISH-END ends something")
	}
	rig.closed(e, "ch", "id1")
	rig.expect()
}

// Who asks for all streams is given them in parts, and others come and go meanwhile.
func TestStreamsThatStayAreSeenOnceWhileOthersComeAndGo(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := registryWith(t, 3500)
	var s *server
	for _, s = range r.servers {
		break
	}
	others := 0
	comeAndGo := func() {
		for range 500 {
			others++
			channel := fmt.Sprint("other-", others)
			if _, err := r.claim(s, claimRequest{channel: channel, key: "k"}, now); err != nil {
				t.Fatal(err)
			}
			if others%3 > 0 { // more and more of them
				continue
			}
			p := r.channels.Get(channel)
			r.end(s, channel, p.publisherID, now)
			for _, e := range r.encoders {
				r.streamClosed(e, channel, p.publisherID, now, now)
			}
		}
	}
	reported, rows := map[string]int{}, map[string]int{}
	r.liveStreams(func(part []streamReport) {
		for _, s := range part {
			reported[s.Channel]++
		}
		comeAndGo()
	})
	r.streamRows(func(part []streamRow) {
		for _, row := range part {
			rows[row.Channel]++
		}
		comeAndGo()
	})
	for i := range 3500 {
		if channel := fmt.Sprintf("channel-%08d", i); reported[channel] != 1 || rows[channel] != 1 {
			t.Fatalf("%s is reported %d times and has %d rows", channel, reported[channel], rows[channel])
		}
	}
	if others < 2000 {
		t.Errorf("only %d came meanwhile", others)
	}
	checkInvariants(t, r)
}
