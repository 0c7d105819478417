package main

import (
	"fmt"
	"testing"
	"time"
)

// takeoverRig has a publisher id1 that is live on server a. A request of server b is to take its channel over: see begin.
type takeoverRig struct {
	*registryRig
	a, b *server
	e    *encoder
}

func newTakeoverRig(t *testing.T, rules limits, capacity int) *takeoverRig {
	t.Helper()
	rules.takeover = true
	rig := &takeoverRig{registryRig: newRegistryRig(t, rules)}
	rig.e = rig.encoder("e", capacity)
	rig.a, rig.b = rig.server("a", kindRTMP), rig.server("b", kindWS)
	rig.publish(rig.a, "ch")
	rig.available(rig.e, "ch", "id1", "HLS-LIVE")
	rig.forget()
	return rig
}

// begin asks for the channel at server b.
func (rig *takeoverRig) begin() {
	rig.t.Helper()
	if err := rig.claim(rig.b, "ch"); err != nil {
		rig.t.Fatalf("claim of a channel that is live: %v", err)
	}
	rig.expect("a kill ch id1")
}

// used are the slots that are taken or reserved.
func (rig *takeoverRig) used() int { return rig.r.capacity().Load }

func TestTakeoverEndsWithOnePublisher(t *testing.T) {
	t.Parallel()
	const live = "id2" // the newcomer
	tests := map[string]struct {
		rules limits
		race  func(*takeoverRig)
		live  string // at the end, by the ID that the application knows; "": nobody
		used  int    // slots
	}{
		"the old publisher ends": {limits{}, func(rig *takeoverRig) {
			rig.end(rig.a, "ch", "id1")
			rig.expect("e stop ch id1", "b accept r-ch ch id2", "e start ch id2")
		}, live, 2},
		"it ends and its encoding is closed": {limits{}, func(rig *takeoverRig) {
			rig.end(rig.a, "ch", "id1")
			rig.forget()
			rig.closed(rig.e, "ch", "id1")
			rig.expect("event id1 2 closed")
		}, live, 1},
		"its encoding is closed before it ends": {limits{}, func(rig *takeoverRig) {
			rig.closed(rig.e, "ch", "id1")
			rig.expect("event id1 2 closed")
			rig.end(rig.a, "ch", "id1")
			rig.expect("b accept r-ch ch id2", "e start ch id2")
		}, live, 1},
		"it does not end": {limits{}, func(rig *takeoverRig) {
			rig.pass(takeoverPatience - 1)
			rig.expect("e stop ch id1", "a kill ch id1")
			rig.pass(1)
			rig.expect("b accept r-ch ch id2", "e start ch id2")
		}, live, 2},
		"its server dies": {limits{}, func(rig *takeoverRig) {
			rig.loseServer(rig.a)
			rig.expect("e stop ch id1", "b accept r-ch ch id2", "e start ch id2")
		}, live, 2},
		"the newcomer's server dies": {limits{}, func(rig *takeoverRig) {
			rig.loseServer(rig.b)
			rig.expect()
			rig.end(rig.a, "ch", "id1")
		}, "", 1},
		"the newcomer's server is drained": {limits{}, func(rig *takeoverRig) {
			rig.drain(rig.b.id, false)
			rig.pass(takeoverPatience)
			rig.expect("e stop ch id1", "a kill ch id1", "b deny r-ch ch")
			rig.end(rig.a, "ch", "id1")
		}, "", 1},
		"the encoder dies, another has a slot": {limits{}, func(rig *takeoverRig) {
			rig.encoder("f", 1)
			rig.loseEncoder(rig.e)
			rig.expect("event id1 2 closed")
			if err := rig.claim(rig.b, "other"); err != errNoEncoder {
				rig.t.Errorf("claim beside a takeover: %v, its slot is not kept", err)
			}
			rig.end(rig.a, "ch", "id1")
			rig.expect("b accept r-ch ch id2", "f start ch id2")
		}, live, 1},
		"the encoder is drained, another has a slot": {limits{}, func(rig *takeoverRig) {
			rig.encoder("f", 1)
			rig.drain(rig.e.id, true)
			if load := rig.e.load(); load != 1 {
				rig.t.Errorf("an encoder that drains has a load of %d", load)
			}
			rig.end(rig.a, "ch", "id1")
			rig.expect("e stop ch id1", "b accept r-ch ch id2", "f start ch id2")
		}, live, 2},
		"the encoder is drained, there is no other": {limits{}, func(rig *takeoverRig) {
			rig.drain(rig.e.id, false)
			rig.end(rig.a, "ch", "id1")
			rig.expect("e stop ch id1", "b deny r-ch ch")
		}, "", 1},
		"the encoder gets smaller, another has a slot": {limits{}, func(rig *takeoverRig) {
			rig.encoder("f", 1)
			rig.resize(rig.e, 1)
			rig.end(rig.a, "ch", "id1")
			rig.expect("e stop ch id1", "b accept r-ch ch id2", "f start ch id2")
		}, live, 2},
		"the encoder gets smaller, there is no other": {limits{}, func(rig *takeoverRig) {
			rig.resize(rig.e, 1)
			rig.pass(takeoverPatience)
			rig.expect("e stop ch id1", "a kill ch id1", "b deny r-ch ch")
			rig.end(rig.a, "ch", "id1")
		}, "", 1},
		"the encoder dies, there is no other": {limits{}, func(rig *takeoverRig) {
			rig.loseEncoder(rig.e)
			rig.expect("event id1 2 closed")
			rig.pass(takeoverPatience)
			rig.expect("a kill ch id1", "b deny r-ch ch")
			rig.end(rig.a, "ch", "id1")
		}, "", 0},
		"the encoder dies, another one comes in time": {limits{}, func(rig *takeoverRig) {
			rig.loseEncoder(rig.e)
			rig.encoder("f", 1)
			rig.pass(takeoverPatience)
			rig.expect("event id1 2 closed", "a kill ch id1", "b accept r-ch ch id2", "f start ch id2")
		}, live, 1},
		"the encoder dies, another one comes late, and requests wait": {limits{encoderWait: 10 * time.Second}, func(rig *takeoverRig) {
			rig.loseEncoder(rig.e)
			rig.pass(takeoverPatience)
			rig.expect("event id1 2 closed", "a kill ch id1")
			rig.encoder("f", 1)
			rig.expect("b accept r-ch ch id2", "f start ch id2")
		}, live, 1},
		"no other encoder comes, and requests wait": {limits{encoderWait: 10 * time.Second}, func(rig *takeoverRig) {
			rig.loseEncoder(rig.e)
			rig.pass(18*time.Second - 1)
			rig.forget()
			rig.pass(1)
			rig.expect("b deny r-ch ch")
			rig.end(rig.a, "ch", "id1")
		}, "", 0},
		"a rival asks in the middle": {limits{}, func(rig *takeoverRig) {
			if err := rig.claim(rig.server("c", kindRTMP), "ch"); err != errChannelBusy {
				rig.t.Errorf("claim of a channel that is being taken over: %v", err)
			}
			rig.end(rig.a, "ch", "id1")
			rig.expect("e stop ch id1", "b accept r-ch ch id2", "e start ch id2")
		}, live, 2},
		"the old publisher is back too soon": {limits{}, func(rig *takeoverRig) {
			rig.end(rig.a, "ch", "id1")
			rig.closed(rig.e, "ch", "id1")
			rig.forget()
			rig.pass(takeoversApart - 1)
			if err := rig.claim(rig.a, "ch"); err != errJustTakenOver {
				rig.t.Errorf("a second takeover after less than 10 s: %v", err)
			}
		}, live, 1},
		"the old publisher is back later": {limits{}, func(rig *takeoverRig) {
			rig.end(rig.a, "ch", "id1")
			rig.closed(rig.e, "ch", "id1")
			rig.forget()
			rig.pass(takeoversApart)
			if err := rig.claim(rig.a, "ch"); err != nil {
				rig.t.Errorf("a second takeover after 10 s: %v", err)
			}
			rig.end(rig.b, "ch", "id2")
			rig.expect("b kill ch id2", "e stop ch id2", "a accept r-ch ch id3", "e start ch id3")
		}, "id3", 2},
		"the application closes the old stream": {limits{}, func(rig *takeoverRig) {
			rig.kill("ch", "id1")
			rig.end(rig.a, "ch", "id1")
			rig.expect("a kill ch id1", "e stop ch id1", "b accept r-ch ch id2", "e start ch id2")
		}, live, 2},
		"the application closes the channel": {limits{}, func(rig *takeoverRig) {
			rig.kill("ch", "*")
			rig.expect("b deny r-ch ch", "a kill ch id1")
			if !rig.reasonNoted(noteDenied, errClosedUnderWay) {
				rig.t.Error("no notice")
			}
			rig.end(rig.a, "ch", "id1")
		}, "", 1},
		"the coordinator stops": {limits{}, func(rig *takeoverRig) {
			rig.step(rig.r.stop())
			rig.expect("b deny r-ch ch")
			rig.end(rig.a, "ch", "id1")
		}, "", 1},
		"the answer is due before 5 s": {limits{}, func(rig *takeoverRig) {
			rig.end(rig.a, "ch", "id1")
			rig.pass(takeoversApart)
			rig.forget()
			if err := rig.claimBy(rig.a, "ch", 3*time.Second); err != errNoEncoder { // id1 has a slot, id2 the other
				rig.t.Errorf("claim without a free slot: %v", err)
			}
			rig.closed(rig.e, "ch", "id1")
			if err := rig.claimBy(rig.a, "ch", 3*time.Second); err != nil {
				rig.t.Errorf("claim: %v", err)
			}
			rig.pass(3 * time.Second)
			rig.expect("event id1 2 closed", "b kill ch id2", "e stop ch id2", "b kill ch id2", "a accept r-ch ch id3", "e start ch id3")
		}, "id3", 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newTakeoverRig(t, test.rules, 2)
			rig.begin()
			if rig.used() != 2 {
				t.Errorf("%d slots are used, want that of the live stream and the newcomer's", rig.used())
			}
			test.race(rig)
			if got := rig.live("ch"); got != test.live {
				t.Errorf("live: %q, want %q", got, test.live)
			}
			if rig.used() != test.used {
				t.Errorf("%d slots are used, want %d", rig.used(), test.used)
			}
			for _, s := range rig.r.servers {
				rig.loseServer(s)
			}
			for _, e := range rig.r.encoders {
				rig.loseEncoder(e)
			}
			checkEmpty(t, rig.r)
		})
	}
}

// Nothing that an ousted publisher's peers say later reaches the newcomer, and its kills go on.
func TestOustedPublisherChangesNothing(t *testing.T) {
	t.Parallel()
	rig := newTakeoverRig(t, limits{failover: true}, 2)
	rig.begin()
	rig.pass(takeoverPatience)
	rig.forget()

	for _, at := range []time.Duration{8, 16} {
		rig.pass(at*time.Second - takeoverPatience - 1)
		rig.expect()
		rig.pass(1)
		rig.expect("a kill ch id1")
		rig.now = rig.now.Add(takeoverPatience - at*time.Second)
	}
	if rig.kill("ch", "id1") {
		t.Error("the ID of an ousted publisher is still the channel's")
	}
	rig.available(rig.e, "ch", "id1", "HLS-VOD")
	rig.closed(rig.e, "ch", "id1")
	rig.expect("event id1 2 HLS-VOD", "event id1 3 closed")
	if !rig.end(rig.a, "ch", "id1") || rig.end(rig.a, "ch", "id1") {
		t.Error("the end of an ousted publisher was not taken once")
	}
	rig.pass(time.Minute)
	rig.expect()
	if rig.live("ch") != "id2" {
		t.Errorf("live: %q, want the newcomer", rig.live("ch"))
	}
}

func TestOustedPublisherIsForgottenAfter30Seconds(t *testing.T) {
	t.Parallel()
	rig := newTakeoverRig(t, limits{}, 2)
	rig.begin()
	rig.pass(takeoverPatience)
	rig.pass(killPatience - takeoverPatience - 1)
	if rig.reasonNoted(noteKillIgnored, errKillIgnored) {
		t.Error("forgotten too early")
	}
	rig.pass(1)
	if !rig.reasonNoted(noteKillIgnored, errKillIgnored) || len(rig.r.ousted) > 0 || rig.live("ch") != "id2" {
		t.Errorf("after 30 s: %d are ousted, live: %q", len(rig.r.ousted), rig.live("ch"))
	}
}

// The live publisher is left alone unless the newcomer is sure to get its channel.
func TestNoTakeover(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		rules    limits
		capacity int
		claim    func(*takeoverRig) error
		want     error
	}{
		"no free slot":       {limits{takeover: true}, 1, func(rig *takeoverRig) error { return rig.claim(rig.b, "ch") }, errNoEncoder},
		"on the same server": {limits{takeover: true}, 2, func(rig *takeoverRig) error { return rig.claim(rig.a, "ch") }, errChannelBusy},
		"switched off": {limits{}, 2, func(rig *takeoverRig) error {
			rig.r.limits.takeover = false
			return rig.claim(rig.b, "ch")
		}, errChannelBusy},
		"the server is drained": {limits{takeover: true}, 2, func(rig *takeoverRig) error {
			rig.drain(rig.b.id, false)
			return rig.claim(rig.b, "ch")
		}, errDraining},
		"the queue is full": {limits{takeover: true, encoderWait: time.Second}, 1, func(rig *takeoverRig) error {
			for i := range maxWaitingRequests {
				if err := rig.claim(rig.b, fmt.Sprint("c", i)); err != nil {
					return err
				}
			}
			return rig.claim(rig.b, "ch")
		}, errNoEncoder},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newTakeoverRig(t, test.rules, test.capacity)
			if err := test.claim(rig); err != test.want {
				t.Errorf("%v, want %v", err, test.want)
			}
			rig.expect()
			if rig.live("ch") != "id1" || rig.used() != 1 {
				t.Errorf("live: %q, %d slots are used", rig.live("ch"), rig.used())
			}
		})
	}
}

func TestChannelIsBusyUnlessItMayBeTakenOver(t *testing.T) {
	t.Parallel()
	for _, takeover := range []bool{true, false} {
		rig := newRegistryRig(t, limits{takeover: takeover})
		rig.encoder("e", 1)
		rig.publish(rig.server("a", kindRTMP), "ch")
		if busy := rig.r.channelIsBusy("ch"); busy == takeover {
			t.Errorf("takeover %v: denied without asking: %v", takeover, busy)
		}
	}
}

// A request waits for the slot first, and the live publisher goes on meanwhile.
func TestTakeoverWaitsForASlot(t *testing.T) {
	t.Parallel()
	rig := newTakeoverRig(t, limits{encoderWait: 10 * time.Second}, 1)
	if err := rig.claim(rig.b, "ch"); err != nil {
		t.Fatal(err)
	}
	if err := rig.claim(rig.server("c", kindRTMP), "ch"); err != nil {
		t.Fatal(err)
	}
	rig.pass(5 * time.Second)
	rig.expect()
	rig.resize(rig.e, 2)
	rig.expect("a kill ch id1", "c deny r-ch ch")
	rig.end(rig.a, "ch", "id1")
	rig.expect("e stop ch id1", "b accept r-ch ch id2", "e start ch id2")
}

// A publication that waits for an encoder ends its wait: it gets no slot any more, though it is next in the queue.
func TestTakeoverOfAPublicationThatWaits(t *testing.T) {
	t.Parallel()
	rig := newTakeoverRig(t, limits{encoderWait: 10 * time.Second, failover: true}, 1)
	if err := rig.claim(rig.b, "ch"); err != nil { // waits, before the publication does
		t.Fatal(err)
	}
	rig.loseEncoder(rig.e)
	rig.expect("event id1 2 closed")
	rig.encoder("f", 2)
	rig.expect("a kill ch id1")
	rig.end(rig.a, "ch", "id1")
	rig.expect("b accept r-ch ch id2", "f start ch id2")
}

func TestTakeoverOfAPublisherWhoWasKilled(t *testing.T) {
	t.Parallel()
	rig := newTakeoverRig(t, limits{}, 2)
	rig.kill("ch", "*")
	rig.pass(3 * time.Second)
	rig.forget()
	if err := rig.claim(rig.b, "ch"); err != nil {
		t.Fatal(err)
	}
	rig.expect()
	rig.pass(takeoverPatience)
	rig.expect("a kill ch id1", "b accept r-ch ch id2", "e start ch id2")
}

func TestTakeoverDuringAMove(t *testing.T) {
	t.Parallel()
	rig := newTakeoverRig(t, limits{}, 2)
	rig.encoder("f", 2)
	rig.drain(rig.e.id, true)
	rig.expect("f start ch id2")
	rig.begin()
	rig.end(rig.a, "ch", "id1")
	rig.expect("e stop ch id1", "f stop ch id2", "b accept r-ch ch id3", "f start ch id3")
	if rig.used() != 3 {
		t.Errorf("%d slots are used", rig.used())
	}
}

// A session that may be dead is asked first. If it lives, its channel may be taken over as any other, by one of those who wait.
func TestTakeoverFromASessionThatMayBeDead(t *testing.T) {
	t.Parallel()
	rig := newTakeoverRig(t, limits{}, 2)
	rig.serverAt(rig.a.ip, "a2", kindRTMP)
	rig.expect("a probe")
	for _, s := range []*server{rig.b, rig.server("c", kindRTMP)} {
		if err := rig.claim(s, "ch"); err != nil {
			t.Fatal(err)
		}
	}
	rig.expect()
	rig.probeAnswered(rig.a.id)
	rig.expect("a kill ch id1", "c deny r-ch ch")
	rig.end(rig.a, "ch", "id1")
	rig.expect("e stop ch id1", "b accept r-ch ch id2", "e start ch id2")
}

// The gateway of the newcomer is absent when the channel becomes free: its slot is kept until the gateway is back, or the answer too late.
func TestTakeoverByAServerAtAnAbsentGateway(t *testing.T) {
	t.Parallel()
	for _, isBack := range []bool{true, false} {
		rig := newTakeoverRig(t, limits{}, 2)
		rig.b.gateway = "g1"
		rig.begin()
		rig.r.gatewayAbsent("g1")
		rig.end(rig.a, "ch", "id1")
		rig.pass(takeoverPatience)
		rig.expect("e stop ch id1")
		if isBack {
			rig.step(rig.r.gatewayBack("g1", rig.now))
			rig.expect("b accept r-ch ch id2", "e start ch id2")
			continue
		}
		rig.pass(13 * time.Second)
		rig.expect("b deny r-ch ch")
		if rig.used() != 1 {
			t.Errorf("%d slots are used", rig.used())
		}
	}
}

// The gateway of the live publisher is absent: the kill waits for it, and the newcomer does not.
func TestTakeoverFromAServerAtAnAbsentGateway(t *testing.T) {
	t.Parallel()
	rig := newTakeoverRig(t, limits{}, 2)
	rig.a.gateway = "g1"
	rig.r.gatewayAbsent("g1")
	rig.begin()
	rig.pass(takeoverPatience)
	rig.expect("e stop ch id1", "b accept r-ch ch id2", "e start ch id2")
	rig.step(rig.r.gatewayBack("g1", rig.now))
	rig.pass(time.Second)
	rig.expect("a kill ch id1")
}
