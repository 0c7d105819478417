package e2e

// The coordinator ends under load, behind gateways that hold the sockets of all peers: nobody but publishers who ask notices.
// More of it: E2E_KILLS=50 E2E_LIVES=500 go test -run TestCoordinatorEndsUnderLoad ./e2e

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

func TestCoordinatorEndsUnderLoad(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]struct {
		times int
		fail  bool
		end   func(*gatewayCluster)
	}{
		"by SIGKILL":                      {10, false, (*gatewayCluster).kill},
		"by SIGTERM":                      {5, false, (*gatewayCluster).stop},
		"by SIGKILL, with peers that die": {5, true, (*gatewayCluster).kill},
		"by SIGTERM, with peers that die": {3, true, (*gatewayCluster).stop},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endsUnderLoad(t, setting(t, "E2E_KILLS", story.times), story.fail, story.end)
		})
	}
}

func endsUnderLoad(t *testing.T, times int, fail bool, end func(*gatewayCluster)) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var c *gatewayCluster
	var dials atomic.Uint64
	s := newSimulation(t, seed, 1<<40, func() string { return c.gateways[dials.Add(1)%3].Addr })
	s.failures, s.private, s.think = fail, true, 30*time.Millisecond
	app := s.newApplication()
	app.verifies = true
	c = newGatewayCluster(t, "KEY_VERIFICATION_URL="+app.server.URL+"/verify", "EVENT_CALLBACK_URL="+app.server.URL+"/event")
	for range 3 {
		c.addGateway(false)
	}
	c.awaitLinked()
	const servers = 5
	publishers := max(1, setting(t, "E2E_LIVES", 100)/2/servers) // each has some 2 lives a second, with the time that it waits
	for range 4 {
		s.addEncoder(-1)
	}
	c.p.AwaitReport("the encoders", func(r clustertest.Report) bool { return len(r.Encoders) == 4 })
	for i := range servers {
		s.addServer([]string{"rtmp", "wss"}[i%2], publishers)
	}
	c.p.AwaitServers(servers)

	began, r := time.Now(), s.rand()
	for range times {
		awaitMoment(r, s.history)
		end(c)
		<-time.After(time.Duration(r.IntN(300)) * time.Millisecond) // nobody is there for a while
		c.start()
	}
	c.awaitThere()
	took := time.Since(began)
	lives := 0
	for _, e := range s.history.snapshot() {
		if e.what == simAccepted {
			lives++
		}
	}
	app.well.Store(true)
	s.calmDown()
	s.awaitAgreement(c.gateways[0].Daemon)
	s.leave()
	c.awaitIdle()

	entries := s.history.snapshot()
	for _, f := range []faults{checkPublishers(entries), checkEncodings(entries), checkEvents(entries, false), checkNothingLost(entries)} {
		f.report(t)
	}
	if !fail {
		checkUndisturbed(entries).report(t)
	}
	t.Logf("%d times in %v; %d lives until then, %.0f/s; %d entries", times, took, lives, float64(lives)/took.Seconds(), len(entries))
	if lives < 5*times {
		t.Error("there was no load")
	}
}

// awaitMoment waits for a random moment: when the coordinator has just come up, at work, or as something happens.
func awaitMoment(r *rand.Rand, history *simHistory) {
	moment := time.Duration(r.IntN(2500)) * time.Millisecond
	switch r.IntN(3) {
	case 0:
		moment = time.Duration(r.IntN(60)) * time.Millisecond
	case 1:
		deeds := []simDeed{simAccepted, simStarted, simAnnounced, simEnded, simStopped, simFinished, simArrived}
		select {
		case <-history.next(deeds[r.IntN(len(deeds))]):
		case <-time.After(3 * time.Second):
		}
		moment = time.Duration(r.IntN(4)) * time.Millisecond
	}
	<-time.After(moment)
}

// checkUndisturbed holds that no peer has noticed: no socket has closed, nobody who asked was turned away, and nobody was killed
// and no encoding stopped before its publisher had ended. The channel of each publisher is its own. An encoding that was started
// for a publisher who was never accepted is stopped, of course: the accept was under way when the coordinator ended.
func checkUndisturbed(entries []simEntry) (f faults) {
	live := map[string]simEntry{} // by channel
	for i, e := range entries {
		switch e.what {
		case simGone, simDenied:
			f.add("%v%s", e, excerpt(entries, e.channel, i, i))
		case simAccepted:
			live[e.channel] = e
		case simEnded:
			delete(live, e.channel)
		case simStopped, simKilled:
			if live[e.channel].stream == e.stream {
				f.add("%v: its publisher is live%s", e, excerpt(entries, e.channel, i, i))
			}
		}
	}
	return f
}
