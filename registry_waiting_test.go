package main

// Those who wait for a slot: publish requests, and publications that have lost their encoder.

import (
	"fmt"
	"testing"
	"time"
)

var waitTen = limits{failover: true, encoderWait: 10 * time.Second}

// waitFor is a claim that finds no slot and waits.
func (rig *registryRig) waitFor(s *server, channel string) {
	rig.t.Helper()
	if err := rig.claim(s, channel); err != nil || rig.r.channelIsBusy(channel) {
		rig.t.Fatalf("claim of %s: %v, live %v; want it to wait", channel, err, rig.r.channelIsBusy(channel))
	}
}

func TestWaitingRequestsAreServedInTheOrderOfTheirArrival(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, waitTen)
	s, other := rig.server("s", "RTMP"), rig.server("other", "WS")
	rig.waitFor(s, "a")
	rig.waitFor(other, "b")
	rig.waitFor(s, "c")
	rig.waitFor(s, "d")
	if got := wholeReport(rig.r, rig.now).WaitingRequests; got != 4 {
		t.Errorf("%d wait", got)
	}
	rig.expect()
	e := rig.encoder("e", 1)
	rig.expect("s accept r-a a id1", "e start a id1")
	rig.closed(e, "a", "id1") // a slot is freed
	rig.expect("s kill a id1", "other accept r-b b id2", "e start b id2")
	rig.drain(e.id, false)
	rig.resize(e, 2)
	rig.expect()
	rig.undrain(e.id)
	rig.expect("s accept r-c c id3", "e start c id3")
	rig.resize(e, -1)
	rig.expect("s accept r-d d id4", "e start d id4")
}

func TestSlotOfAnEndedStreamServesTheNext(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, waitTen)
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
	rig.publish(s, "a")
	rig.waitFor(s, "b")
	rig.forget()
	rig.end(s, "a", "id1")
	rig.expect("e stop a id1") // the slot is still busy
	rig.closed(e, "a", "id1")
	rig.expect("s accept r-b b id2", "e start b id2")
}

func TestWaitingIsOffByDefault(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, failoverOn)
	if err := rig.claim(rig.server("s", "RTMP"), "a"); err != errNoEncoder {
		t.Error(err)
	}
}

func TestWaitingRequestIsDeniedInTime(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, waitTen)
	s := rig.server("s", "RTMP")
	rig.waitFor(s, "a")
	if err := rig.claimBy(s, "late", 3*time.Second); err != nil { // its key verification took long
		t.Fatal(err)
	}
	rig.pass(3*time.Second - time.Millisecond)
	rig.expect()
	rig.pass(time.Millisecond)
	rig.expect("s deny r-late late")
	rig.pass(7 * time.Second)
	rig.expect("s deny r-a a")
	if !rig.reasonNoted(noteDenied, errWaitedInVain) {
		t.Error("nothing is noted")
	}
	rig.encoder("e", 1)
	rig.expect()
}

func TestWaitingRequestsAreLimited(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, waitTen)
	s := rig.server("s", "RTMP")
	claim := func(channel string) error { // without the invariants, which are for small clusters
		_, err := rig.r.claim(s, claimRequest{requestRef: requestRef{id: "r"}, channel: channel, answerBy: rig.now.Add(time.Minute)}, rig.now)
		return err
	}
	for i := range maxWaitingRequests {
		if err := claim(fmt.Sprint("c", i)); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := claim("more"); err != errNoEncoder {
		t.Error("one more than the limit: ", err)
	}
	rig.expect()
	rig.encoder("e", 1)
	rig.forget()
	if err := claim("again"); err != nil {
		t.Error("after one was served: ", err)
	}
	rig.loseServer(s)
	if rig.r.totals(rig.now).waitingRequests != 0 {
		t.Error("requests outlive their server")
	}
}

func TestWaitingRequestsVanishWithTheirServer(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, waitTen)
	s, other := rig.server("s", "RTMP"), rig.server("other", "RTMP")
	rig.waitFor(s, "a")
	rig.waitFor(other, "b")
	rig.waitFor(s, "c")
	rig.loseServer(s)
	rig.encoder("e", -1)
	rig.expect("other accept r-b b id1", "e start b id1")
}

func TestChannelTakenWhileTheRequestWaits(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, waitTen)
	s, other := rig.server("s", "RTMP"), rig.server("other", "RTMP")
	rig.waitFor(s, "a")
	rig.waitFor(other, "a")
	rig.waitFor(s, "b")
	rig.encoder("e", -1)
	rig.expect("s accept r-a a id1", "e start a id1", "other deny r-a a", "s accept r-b b id2", "e start b id2")
	if !rig.reasonNoted(noteDenied, errChannelBusy) {
		t.Error("nothing is noted")
	}
}

func TestServerDrainedWhileItsRequestWaits(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, waitTen)
	s := rig.server("s", "RTMP")
	rig.waitFor(s, "a")
	rig.drain(s.id, false)
	rig.encoder("e", 1)
	rig.expect("s deny r-a a")
}

func TestStopDeniesThoseWhoWait(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, waitTen)
	s := rig.server("s", "RTMP")
	rig.waitFor(s, "a")
	rig.step(rig.r.stop())
	rig.expect("s deny r-a a")
	rig.encoder("e", 1)
	if err := rig.claim(s, "b"); err != errStopping {
		t.Error(err)
	}
	rig.expect()

	rig, _ = waitingPublication(t)
	rig.step(rig.r.stop())
	rig.encoder("e", 1)
	rig.pass(time.Second)
	rig.expect()
}

// waitingPublication has channel ch, announced as id1, waiting for another encoder.
func waitingPublication(t *testing.T) (*registryRig, *server) {
	t.Helper()
	rig, s, a, b := failoverRig(t, waitTen, "RTMP")
	rig.loseEncoder(b)
	rig.loseEncoder(a)
	rig.expect("event id1 2 closed")
	if rows := rowsOf(rig.r); len(rows) != 1 || rows[0].State != "waiting" || rows[0].StreamID != "id1" {
		t.Fatalf("rows: %+v", rows)
	}
	if report := wholeReport(rig.r, rig.now); report.WaitingRequests != 0 || len(report.ActiveStreams) != 1 || report.ActiveStreams[0].Encoder != 0 {
		t.Fatalf("report: %+v", report)
	}
	return rig, s
}

func TestPublicationWaitsForAnotherEncoder(t *testing.T) {
	t.Parallel()
	rig, _ := waitingPublication(t)
	rig.pass(10*time.Second - time.Millisecond)
	e := rig.encoder("e", 1)
	rig.available(e, "ch", "id2", "HLS-LIVE")
	rig.expect("e start ch id2", "event id2 1 HLS-LIVE after id1")
	rig.pass(time.Minute)
	rig.expect()
}

func TestPublicationWaitsInVain(t *testing.T) {
	t.Parallel()
	rig, s := waitingPublication(t)
	rig.pass(10*time.Second - time.Millisecond)
	rig.expect()
	rig.pass(time.Millisecond)
	rig.expect("s kill ch id1")
	if !rig.reasonNoted(noteKilled, errWaitedInVain) {
		t.Error("no warning says why")
	}
	rig.encoder("e", 1)
	rig.expect()
	rig.end(s, "ch", "id1")
	rig.publish(s, "ch")
}

func TestPublisherEndsWhileItWaits(t *testing.T) {
	t.Parallel()
	rig, s := waitingPublication(t)
	if !rig.end(s, "ch", "id1") {
		t.Error("PUBLISH-END was not taken")
	}
	rig.encoder("e", 1)
	rig.expect()

	rig, s = waitingPublication(t)
	rig.loseServer(s)
	rig.encoder("e", 1)
	rig.expect()
}

func TestRequestForTheChannelOfAWaitingPublicationIsRefused(t *testing.T) {
	t.Parallel()
	rig, s := waitingPublication(t)
	if err := rig.claim(s, "ch"); err != errChannelBusy {
		t.Error(err)
	}
}

// One that avoids the encoder with the only free slot does not hold up those behind it.
func TestWhoAvoidsAnEncoderHoldsUpNobody(t *testing.T) {
	t.Parallel()
	rig, s, a, b := failoverRig(t, waitTen, "RTMP")
	rig.loseEncoder(b)
	rig.resize(a, 1)
	rig.waitFor(s, "x")
	rig.forget()
	rig.closed(a, "ch", "id1")
	rig.expect("event id1 2 closed", "s accept r-x x id2", "a start x id2")
	rig.encoder("c", 1)
	rig.expect("c start ch id3")
}

// A publication that was told to stop while it waited takes no slot any more, whether its server answers or not.
func TestCloseCommandWhileThePublicationWaits(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"id1", "*"} {
		rig, s := waitingPublication(t)
		if !rig.kill("ch", id) {
			t.Errorf("close command with %s finds nothing", id)
		}
		rig.encoder("e", 1)
		rig.expect("s kill ch id1")
		rig.end(s, "ch", "id1")
		rig.expect()
		if rig.r.channelIsBusy("ch") {
			t.Error("still live")
		}
	}
	rig, s := waitingPublication(t)
	rig.kill("ch", "*")
	rig.pass(killPatience)
	rig.expect("s kill ch id1")
	rig.encoder("e", 1)
	rig.publish(s, "ch")
}

// All wait for another encoder than the one that has failed them, and there is none: that is found out once, not for each.
func TestManyWhoAvoidAnEncoderCostLittle(t *testing.T) {
	t.Parallel()
	reconciling := func(publishers int) time.Duration {
		lastID := 0
		now := time.Now()
		r := newRegistry(1, now, func() string { lastID++; return fmt.Sprint("s", lastID) }, nowhere{}, limits{failover: true, encoderWait: time.Hour})
		s := r.joinServer(attachment{}, nowhere{}, serverInfo{kind: kindRTMP}, now)
		e, _ := r.joinEncoder(attachment{}, nowhere{}, "10.0.0.1", -1, now)
		for i := range publishers {
			channel := fmt.Sprint("c", i)
			if _, err := r.claim(s, claimRequest{requestRef: requestRef{id: "r"}, channel: channel, answerBy: now.Add(time.Minute)}, now); err != nil {
				t.Fatal(err)
			}
			id := r.channels.Get(channel).publisherID
			r.announce(e, channel, id, announcement{streamType: "HLS-LIVE", resolution: "1x1"}, now)
			r.streamClosed(e, channel, id, now, now)
		}
		for i := range 200 { // to look through, and full
			r.joinEncoder(attachment{}, nowhere{}, fmt.Sprint("10.0.1.", i), 0, now)
		}
		if r.waiting.Len() != publishers {
			t.Fatalf("%d wait", r.waiting.Len())
		}
		best := time.Hour
		for range 5 {
			began := time.Now()
			r.expire(now)
			best = min(best, time.Since(began))
		}
		return best
	}
	const publishers = 5000
	one, many := reconciling(1), reconciling(publishers)
	t.Logf("the wait queue is looked through in %v with one in it, in %v with %d", one, many, publishers)
	if many > publishers/10*one {
		t.Errorf("%v with one in the queue, %v with %d", one, many, publishers)
	}
}

// A gateway that is absent for a moment has the only slots: nobody is turned away, and no publication killed, before it is known
// whether it comes back. That waiting is off says only that nobody waits for streams to end.
func TestSlotsOfAnAbsentGatewayAreWaitedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		then func(*registryRig)
		want []string
	}{
		"it is back": {func(rig *registryRig) { rig.step(append(rig.r.gatewayBack("g", rig.now), rig.r.expire(rig.now)...)) },
			[]string{"s accept r-new new id3", "far start new id3", "far start lost id4"}},
		"it is back with fewer slots": {func(rig *registryRig) {
			rig.r.encoders[3].capacity = 2
			rig.r.slots.capacity--
			rig.step(append(rig.r.gatewayBack("g", rig.now), rig.r.expire(rig.now)...))
		}, []string{"s accept r-new new id3", "far start new id3", "s kill lost id1"}},
		"it is gone": {func(rig *registryRig) {
			gone := rig.r.leaveGateways(func(gateway string) bool { return gateway == "g" }, rig.now)
			rig.step(append(gone, rig.r.expire(rig.now)...))
		}, []string{"s kill live id2", "s deny r-new new", "s kill lost id1"}},
		"it stays away": {func(rig *registryRig) { rig.pass(20 * time.Second) }, []string{"s deny r-new new"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newRegistryRig(t, limits{failover: true})
			s, near, far := rig.server("s", "RTMP"), rig.encoder("near", 1), rig.encoder("far", 3)
			far.gateway = "g"
			rig.publish(s, "lost")
			rig.publish(s, "live")
			rig.r.gatewayAbsent("g")
			rig.waitFor(s, "new")
			rig.loseEncoder(near)
			rig.pass(5 * time.Second)
			rig.forget()
			test.then(rig)
			rig.expect(test.want...)
		})
	}
}

// Nothing is started for a server that can't be told that its publisher is accepted.
func TestRequestOfAServerAtAnAbsentGatewayWaitsForIt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		then func(*registryRig)
		want []string
	}{
		"it is back": {func(rig *registryRig) { rig.step(rig.r.gatewayBack("g", rig.now)) }, []string{"away accept r-a a id2", "e start a id2"}},
		"it is gone": {func(rig *registryRig) {
			rig.step(rig.r.leaveGateways(func(g string) bool { return g == "g" }, rig.now))
		}, nil},
		"it stays away": {func(rig *registryRig) { rig.pass(20 * time.Second) }, []string{"away deny r-a a"}},
		"it is back, and the channel is live": {func(rig *registryRig) {
			rig.publish(rig.r.servers[1], "a")
			rig.forget()
			rig.step(rig.r.gatewayBack("g", rig.now))
		}, []string{"away deny r-a a"}},
		"it is back, and there is no slot any more": {func(rig *registryRig) {
			rig.publish(rig.r.servers[1], "c")
			rig.forget()
			rig.step(append(rig.r.gatewayBack("g", rig.now), rig.r.expire(rig.now)...))
		}, []string{"away deny r-a a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newRegistryRig(t, limits{failover: true})
			near, away := rig.server("near", "RTMP"), rig.server("away", "RTMP")
			away.gateway = "g"
			rig.encoder("e", 2)
			rig.r.gatewayAbsent("g")
			rig.waitFor(away, "a")
			rig.publish(near, "b") // others do not wait for it
			rig.pass(5 * time.Second)
			rig.forget()
			test.then(rig)
			rig.expect(test.want...)
		})
	}
}

func TestRequestThatWaitsForItsGatewayHoldsUpNobody(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, waitTen)
	near, away := rig.server("near", "RTMP"), rig.server("away", "RTMP")
	away.gateway = "g"
	rig.waitFor(away, "a")
	rig.waitFor(near, "b")
	rig.r.gatewayAbsent("g")
	rig.encoder("e", 2)
	rig.expect("near accept r-b b id1", "e start b id1")
	rig.step(rig.r.gatewayBack("g", rig.now))
	rig.expect("away accept r-a a id2", "e start a id2")
}

func TestWaitOfARequestBeginsAnewWhenItsGatewayIsBack(t *testing.T) {
	t.Parallel()
	for back, want := range map[time.Duration]time.Duration{6 * time.Second: 16 * time.Second, 12 * time.Second: 18 * time.Second} {
		rig := newRegistryRig(t, waitTen)
		s := rig.server("s", "RTMP")
		s.gateway = "g"
		if err := rig.claimBy(s, "a", 18*time.Second); err != nil {
			t.Fatal(err)
		}
		rig.r.gatewayAbsent("g")
		rig.pass(back)
		rig.step(rig.r.gatewayBack("g", rig.now))
		rig.pass(want - back - time.Millisecond)
		rig.expect()
		rig.pass(time.Millisecond)
		rig.expect("s deny r-a a")
	}
}
