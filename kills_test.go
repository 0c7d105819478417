package main

// Kills hold: what is said again, when, and what does not wait for the answer.

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
)

func TestKillIsSaidAgainUntilThePublisherHasEnded(t *testing.T) {
	t.Parallel()
	orders := map[string]func(rig *registryRig, s *server, e *encoder){
		"the application's": func(rig *registryRig, s *server, e *encoder) { rig.kill("ch", "*") },
		"for a lost encoder": func(rig *registryRig, s *server, e *encoder) {
			rig.loseEncoder(e)
		},
		"for a stream that failed": func(rig *registryRig, s *server, e *encoder) { rig.closed(e, "ch", "id1") },
		"for a stream that never started": func(rig *registryRig, s *server, e *encoder) {
			rig.pass(rig.r.limits.startTimeout)
		},
	}
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newRegistryRig(t, limits{startTimeout: time.Minute})
			s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
			rig.publish(s, "ch")
			order(rig, s, e)
			rig.forget()
			stop := []string{"e stop ch id1"} // of the application's, with the first repeat
			if name != "the application's" {
				stop = nil
			}
			last := time.Duration(0)
			for _, at := range []time.Duration{1, 2, 4, 8, 16} {
				at *= time.Second
				rig.pass(at - last - time.Millisecond)
				rig.expect()
				rig.pass(time.Millisecond)
				rig.expect(append(stop, "s kill ch id1")...)
				last, stop = at, nil
			}
			rig.pass(killPatience - last - time.Millisecond)
			rig.expect()
			if !rig.end(s, "ch", "id1") || rig.r.channelIsBusy("ch") {
				t.Error("PUBLISH-END was not taken")
			}
			rig.forget()
			rig.pass(time.Hour)
			rig.expect()
		})
	}
}

func TestKillIsNotSaidToAServerThatIsGone(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
	rig.publish(s, "ch")
	rig.closed(e, "ch", "id1")
	rig.loseServer(s)
	rig.forget()
	rig.pass(5 * time.Second)
	rig.expect()
	if rig.r.channelIsBusy("ch") {
		t.Error("the channel of a server that is gone is taken")
	}
}

// A clock that was held up for a while makes up for nothing: a kill that was due twice is said once.
func TestKillThatIsOverdueIsSaidOnce(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s := rig.server("s", "RTMP")
	rig.encoder("e", 1)
	rig.publish(s, "ch")
	rig.kill("ch", "*")
	rig.forget()
	rig.pass(5 * time.Second)
	rig.expect("e stop ch id1", "s kill ch id1")
	rig.pass(3 * time.Second)
	rig.expect("s kill ch id1")
}

// TestOnlyTheChannelWaitsForTheEndOfAKilledPublisher: the slot is free and the application told, while nobody can publish on
// a channel that may have a publisher.
func TestOnlyTheChannelWaitsForTheEndOfAKilledPublisher(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
	rig.publish(s, "ch")
	rig.available(e, "ch", "id1", "HLS-LIVE")
	rig.forget()
	rig.closed(e, "ch", "id1")
	rig.expect("s kill ch id1", "event id1 2 closed")
	if err := rig.claim(s, "ch"); err != errChannelBusy {
		t.Errorf("claim of the channel: %v", err)
	}
	rig.publish(s, "other") // in its slot
	if got := rig.r.totals(rig.now); got.hasEncoder != 1 || got.ending != 1 || got.waiting != 0 {
		t.Errorf("totals: %+v", got)
	}
	if live := wholeReport(rig.r, rig.now).ActiveStreams; len(live) != 1 || live[0].Channel != "other" {
		t.Errorf("live: %+v", live)
	}
	for _, row := range rowsOf(rig.r) {
		if want := map[string]string{"ch": "ending", "other": "live"}[row.Channel]; row.State != want {
			t.Errorf("%s is %s, want %s", row.Channel, row.State, want)
		}
	}
	rig.pass(killPatience)
	if rig.r.channelIsBusy("ch") || !rig.reasonNoted(noteKillIgnored, errKillIgnored) {
		t.Error("a publisher that never ends is not forgotten, or without a warning")
	}
}

// TestGhostOfALostKillIsEnded plays the race of a real streaming server: the kill comes before it has taken in the accept
// and finds nobody. Today's servers then have a publisher that the coordinator does not know of.
func TestGhostOfALostKillIsEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.keepTime()
		server, encoder := n.dialPeer("rtmp"), n.register()
		id := clustertest.Publish(server, encoder, "show")
		encoder.Closed("show", id)
		server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", id) // and misses it
		n.wait(999 * time.Millisecond)
		server.Request("show", "key")
		server.ExpectDenied("show") // or there would be two
		n.wait(expireEvery)
		server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", id)
		server.End("show", id)
		clustertest.Publish(server, encoder, "show")
		n.wait(time.Minute - time.Second)
	})
}

// keepTime runs the coordinator's clock until the test is over.
func (n *fakeNet) keepTime() {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.coordinator.keepTime(ctx)
	}()
	n.t.Cleanup(func() {
		stop()
		<-ended
	})
}

// TestKillsAreNotRepeatedToAServerThatIsStillReading: thousands of publishers are killed at once, and the server needs
// seconds for the first kills. Repeats behind them would fill its queue and cut it off, with all its other publishers.
func TestKillsAreNotRepeatedToAServerThatIsStillReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const publishers, each = 8000, 900 * time.Microsecond // some 7 s for all kills
		n := newFakeNet(t, "LOG_DEBUG=NO")
		n.keepTime()
		conn, encoder := n.dial("rtmp"), n.register()
		kills, ended := map[string]int{}, make(chan struct{})
		go func() {
			defer close(ended)
			for {
				_, data, err := conn.ReadMessage()
				if err != nil {
					return
				}
				m := wire.ParseStrict(data)
				if m.Method != "STREAM-KILL" {
					continue
				}
				<-time.After(each)
				id := m.Get("Stream-ID")
				if kills[id]++; kills[id] == 1 {
					text := "PUBLISH-END\nStream-Channel:" + m.Get("Stream-Channel") + "\nStream-ID:" + id + "\n"
					if conn.WriteMessage(websocket.TextMessage, []byte(text)) != nil {
						return
					}
				}
			}
		}()
		for i := range publishers {
			text := fmt.Sprintf("PUBLISH-REQUEST\nRequest-ID:%d\nStream-Channel:c%d\nStream-Key:k\n", i, i)
			if err := conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
				t.Fatal(err)
			}
			encoder.Expect("ENCODE-START")
		}
		n.wantConnected(1, 1, publishers)
		encoder.Conn.Close()
		n.wait(30 * time.Second)
		n.wantConnected(1, 0, 0)
		if len(kills) != publishers {
			t.Errorf("%d of %d publishers were killed", len(kills), publishers)
		}
		conn.Close()
		<-ended
	})
}
