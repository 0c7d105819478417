package main

// Dead sessions go early: a session whose twin connects is probed, requests for its channels wait for the outcome, and the
// twin's word counts for what has ended.

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/control"

	"github.com/gorilla/websocket"
)

func TestOnlyAnOlderSessionOfTheSameKeyIsProbed(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	rig.serverAt("10.0.0.1", "old", "RTMP")
	rig.serverAt("10.0.0.1", "ws", "WS")
	rig.serverAt("10.0.0.2", "elsewhere", "RTMP")
	rig.encoderAt("10.0.0.1", "encoder", 1)
	rig.expect()
	rig.serverAt("10.0.0.1", "new", "RTMP")
	rig.expect("old probe")
	rig.encoderAt("10.0.0.1", "second encoder", 1)
	rig.expect("encoder probe")
}

// TestASessionIsProbedOnceAtATime: it is not asked again before it has answered, and not for each of many that join at once.
func TestASessionIsProbedOnceAtATime(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	a := rig.serverAt("10.0.0.1", "a", "RTMP")
	b := rig.serverAt("10.0.0.1", "b", "RTMP")
	rig.expect("a probe")
	rig.serverAt("10.0.0.1", "c", "RTMP")
	rig.expect()
	rig.pass(probesApart)
	rig.expect("b probe") // a has not answered yet
	rig.probeAnswered(a.id)
	rig.probeAnswered(b.id)
	for i := range 100 {
		rig.serverAt("10.0.0.1", fmt.Sprint("d", i), "RTMP")
	}
	rig.expect()
	rig.pass(probesApart)
	if len(rig.trace) != 102 {
		t.Errorf("%d probes after 100 sessions have joined, want one of each but the newest", len(rig.trace))
	}
	rig.forget()
	rig.pass(time.Hour)
	rig.expect()
}

func TestRequestForAChannelOfASuspectSessionIsHeld(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) (rig *registryRig, old, back *server) {
		rig = newRegistryRig(t, limits{})
		old = rig.serverAt("10.0.0.1", "old", "RTMP")
		rig.encoder("e", -1)
		rig.publish(old, "ch")
		back = rig.serverAt("10.0.0.1", "back", "RTMP")
		rig.forget()
		if rig.r.channelIsBusy("ch") {
			t.Error("the channel counts as busy though its publisher may be dead")
		}
		if err := rig.claim(back, "ch"); err != nil {
			t.Fatalf("claim: %v", err)
		}
		if err := rig.claim(back, "ch"); err != nil {
			t.Fatalf("second claim: %v", err)
		}
		rig.expect()
		return rig, old, back
	}
	tests := map[string]struct {
		end  func(rig *registryRig, old, back *server)
		want []string
	}{
		"it is dead": {func(rig *registryRig, old, back *server) { rig.loseServer(old) }, []string{"e stop ch id1", "back accept r-ch ch id2", "e start ch id2", "back deny r-ch ch"}},
		"it answers": {func(rig *registryRig, old, back *server) { rig.probeAnswered(old.id) }, []string{"back deny r-ch ch", "back deny r-ch ch"}},
		"it ends":    {func(rig *registryRig, old, back *server) { rig.end(old, "ch", "id1") }, []string{"e stop ch id1", "back accept r-ch ch id2", "e start ch id2", "back deny r-ch ch"}},
		"its twin says that it has ended": {func(rig *registryRig, old, back *server) { rig.end(back, "ch", "id1") },
			[]string{"e stop ch id1", "back accept r-ch ch id2", "e start ch id2", "back deny r-ch ch"}},
		"the one who asked is gone": {func(rig *registryRig, old, back *server) { rig.loseServer(back); rig.loseServer(old) }, []string{"e stop ch id1"}},
		"nothing in time":           {func(rig *registryRig, old, back *server) { rig.pass(18 * time.Second) }, []string{"back deny r-ch ch", "back deny r-ch ch"}},
		"the coordinator stops":     {func(rig *registryRig, old, back *server) { rig.step(rig.r.stop()) }, []string{"back deny r-ch ch", "back deny r-ch ch"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig, old, back := begin(t)
			test.end(rig, old, back)
			rig.expect(test.want...)
		})
	}
}

// TestGhostsAreServedLast: of those who ask for a channel that has become free, the one whose own session is in doubt comes
// last.
func TestGhostsAreServedLast(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	first := rig.serverAt("10.0.0.1", "first", "RTMP")
	rig.encoder("e", 2)
	rig.publish(first, "ch")
	ghost := rig.serverAt("10.0.0.1", "ghost", "RTMP")
	if err := rig.claim(ghost, "ch"); err != nil {
		t.Fatal(err)
	}
	rig.pass(probesApart)
	back := rig.serverAt("10.0.0.1", "back", "RTMP")
	if err := rig.claim(back, "ch"); err != nil {
		t.Fatal(err)
	}
	rig.forget()
	rig.loseServer(first)
	rig.expect("e stop ch id1", "back accept r-ch ch id2", "e start ch id2", "ghost deny r-ch ch")
}

// TestTwinThatComesAndGoesHoldsUpNobodyForLong: each answer decides about the requests that are held.
func TestTwinThatComesAndGoesHoldsUpNobodyForLong(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	live := rig.serverAt("10.0.0.1", "live", "RTMP")
	other := rig.server("other", "RTMP")
	rig.encoder("e", 2)
	rig.publish(live, "ch")
	for range 10 {
		flapping := rig.serverAt("10.0.0.1", "flapping", "RTMP")
		if rig.r.channelIsBusy("ch") {
			t.Fatal("the publisher is not in doubt")
		}
		if err := rig.claim(other, "ch"); err != nil {
			t.Fatal(err)
		}
		rig.pass(probesApart)
		rig.forget()
		rig.probeAnswered(live.id)
		rig.expect("other deny r-ch ch")
		rig.loseServer(flapping)
	}
}

func TestOnlyTheLaterTwinIsBelieved(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, failoverOn)
	old, e := rig.serverAt("10.0.0.1", "old", "RTMP"), rig.encoderAt("10.1.0.1", "e", 1)
	rig.publish(old, "ch")
	back := rig.serverAt("10.0.0.1", "back", "RTMP")
	other := rig.serverAt("10.0.0.2", "other", "RTMP")
	ws := rig.serverAt("10.0.0.1", "ws", "WS")
	spare := rig.encoderAt("10.1.0.2", "spare", 1)
	rig.forget()
	for _, s := range []*server{other, ws} {
		if rig.end(s, "ch", "id1") {
			t.Errorf("%+v ends a foreign publisher", s)
		}
	}
	if rig.end(back, "ch", "*") || rig.end(back, "ch", "") || rig.end(back, "other", "id1") || rig.closed(spare, "ch", "id1") {
		t.Error("a wrong ID or channel, or another machine, is believed")
	}
	rig.expect()
	rig.end(back, "ch", "id1")
	rig.closed(e, "ch", "id1")
	id := rig.publish(back, "ch")
	if rig.end(old, "ch", id) {
		t.Error("the older session ends the newer one's publisher")
	}
}

// TestStreamThatATwinClosesGoesOnElsewhere: an encoder that is back has dropped it, which says nothing of the stream.
func TestStreamThatATwinClosesGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, failoverOn)
	s, old := rig.server("s", "RTMP"), rig.encoderAt("10.1.0.1", "old", 1)
	rig.publish(s, "ch")
	back := rig.encoderAt("10.1.0.1", "back", 1)
	rig.forget()
	if rig.available(back, "ch", "id1", "HLS-LIVE") {
		t.Error("more than its end is believed from a twin")
	}
	if !rig.closed(back, "ch", "id1") {
		t.Error("STREAM-CLOSED is not taken")
	}
	rig.expect("back start ch id2")
	if old.load() != 0 || old.failures != 0 {
		t.Errorf("the older session has load %d and %d failures", old.load(), old.failures)
	}
}

func TestEncoderThatIsProbedIsChosenLast(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, old := rig.server("s", "RTMP"), rig.encoderAt("10.1.0.1", "old", 3)
	rig.encoderAt("10.1.0.1", "back", 2)
	rig.pass(answersSoon)
	rig.forget()
	rig.publish(s, "a")
	rig.publish(s, "b")
	rig.publish(s, "c") // rather than deny it
	rig.expect("s accept r-a a id1", "back start a id1", "s accept r-b b id2", "back start b id2", "s accept r-c c id3", "old start c id3")
	rig.probeAnswered(old.id)
	rig.publish(s, "d")
	rig.expect("s accept r-d d id4", "old start d id4")
}

// twin connects a streaming server from the place of the last one.
func (n *fakeNet) twin(endpoint string) *clustertest.Peer {
	synctest.Wait() // until the one before has joined: its upgrade is answered first
	n.lastPort--
	return n.dialPeer(endpoint)
}

// TestHalfOpenServerIsCutOffAfter5SecondsWhenItIsBack: a server that has lost its network without a FIN dials again. Its
// publishers were denied for a minute.
func TestHalfOpenServerIsCutOffAfter5SecondsWhenItIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.keepTime()
		encoder := n.register()
		lost := n.dial("rtmp")
		if err := lost.WriteMessage(websocket.TextMessage, []byte("PUBLISH-REQUEST\nRequest-ID:1\nStream-Channel:show\nStream-Key:key\n")); err != nil {
			t.Fatal(err)
		}
		id := encoder.Expect("ENCODE-START", "Stream-Channel", "show").Get("Stream-ID")
		n.wait(3 * time.Second)
		pings := 0
		go ignorePings(lost, &pings)

		began := time.Now()
		back := n.twin("rtmp")
		back.Request("show", "key")
		back.Expect("PUBLISH-ACCEPT", "Stream-Channel", "show")
		if took := time.Since(began); took != control.ProbeLimit {
			t.Errorf("accepted after %v, want %v", took, control.ProbeLimit)
		}
		encoder.Expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", id)
		encoder.Expect("ENCODE-START", "Stream-Channel", "show")
		n.wantConnected(1, 1, 1)
		n.logs.Await(t, "streaming server disconnected", "no answer to a ping for 5 s after a newer connection from the same address")
		if synctest.Wait(); pings != 2 {
			t.Errorf("%d pings, want one at 0 and one at 2.5 s", pings)
		}
	})
}

// ignorePings reads all that comes and answers nothing.
func ignorePings(conn *websocket.Conn, pings *int) {
	conn.SetPingHandler(func(string) error { *pings++; return nil })
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			return
		}
	}
}

func TestTwinsThatBothAnswerBothStay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.keepTime()
		encoder := n.register()
		first := n.dialPeer("rtmp")
		clustertest.Publish(first, encoder, "show")
		began := time.Now()
		second := n.twin("rtmp")
		second.Request("show", "key")
		second.ExpectDenied("show")
		if took := time.Since(began); took > 0 {
			t.Errorf("denied after %v, want at once: the first one has answered", took)
		}
		n.register()
		n.wait(30 * time.Second)
		n.wantConnected(2, 2, 1)
	})
}

// TestAnyByteIsASignOfLife: half a frame is enough, though it is no message.
func TestAnyByteIsASignOfLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.keepTime()
		slow := n.dial("rtmp")
		pings := 0
		go ignorePings(slow, &pings)
		n.twin("rtmp")
		n.wait(time.Second)
		if _, err := slow.NetConn().Write([]byte{0x81}); err != nil { // the first byte of a text frame
			t.Fatal(err)
		}
		n.wait(30 * time.Second)
		n.wantConnected(2, 0, 0)
	})
}

func TestEndToldByTheTwinFreesTheChannelAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.keepTime()
		encoder := n.register()
		conn := n.dial("rtmp")
		lost := n.reading(conn)
		conn.SetPingHandler(func(string) error { return nil }) // its network is gone
		id := clustertest.Publish(lost, encoder, "show")
		back := n.twin("rtmp")
		back.End("show", id) // as servers do for all their publishers when they connect
		encoder.Expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", id)
		clustertest.Publish(back, encoder, "show")
		n.wantNow("live again", 0)
	})
}

// TestEncoderThatIsBackIsNotThereTwice: its old session goes after 5 s, and what was live on it goes on at the new one.
func TestEncoderThatIsBackIsNotThereTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.keepTime()
		server := n.dialPeer("rtmp")
		conn := n.dial("hls")
		lost := n.reading(conn)
		conn.SetPingHandler(func(string) error { return nil })
		lost.Send("REGISTER", "Capacity", "4")
		synctest.Wait()
		id := clustertest.Publish(server, lost, "show")
		lost.Available("show", id, "HLS-LIVE", "1x1", "i.m3u8")
		n.wait(10 * time.Second)
		back := n.register()
		n.wait(answersSoon)
		clustertest.Publish(server, back, "other") // nothing goes to the one that may be dead
		n.wait(control.ProbeLimit - answersSoon)
		n.wantConnected(1, 1, 2)
		back.Expect("ENCODE-START", "Stream-Channel", "show")
		server.Quiet()
	})
}
