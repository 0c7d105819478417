package e2e

// The coordinator ends under load, behind gateways that hold the sockets of all peers: nobody but publishers who ask notices.
// More of it: E2E_KILLS=50 E2E_LIVES=500 go test -run TestCoordinatorEndsUnderLoad ./e2e

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

func TestCoordinatorEndsUnderLoad(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]struct {
		times             int // 0: not in the usual run
		failures, operate bool
		inParts           bool // some links feel the end first
		end               func(*gatewayCluster)
	}{
		"by SIGKILL":                                      {10, false, false, false, (*gatewayCluster).kill},
		"by SIGKILL, on some links first":                 {5, false, false, true, killInParts},
		"by SIGKILL, on some links first, all at once":    {0, true, true, true, killInParts},
		"by SIGTERM":                                      {3, false, false, false, (*gatewayCluster).stop},
		"by SIGKILL, with peers that die":                 {0, true, false, false, (*gatewayCluster).kill},
		"by SIGTERM, with peers that die":                 {0, true, false, false, (*gatewayCluster).stop},
		"by SIGKILL, with peers that die and an operator": {5, true, true, false, (*gatewayCluster).kill},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if story.times == 0 && os.Getenv("E2E_KILLS") == "" && !big {
				t.Skip("told with E2E_KILLS or E2E_BIG only: it is long, and the others have all that it is made of")
			}
			story.times = max(story.times, 5)
			endsUnderLoad(t, newGatewayCluster, setting(t, "E2E_KILLS", story.times), story.failures, story.operate, story.inParts, story.end)
		})
	}
}

func endsUnderLoad(t *testing.T, newCluster func(*testing.T, ...string) *gatewayCluster, times int, failures, operate, inParts bool, end func(*gatewayCluster)) {
	underLoad{newCluster, times, failures, operate, inParts, func(c *gatewayCluster, s *simulation, r *rand.Rand, i int) {
		if slow := len(buildArguments) > 0; c.standby != nil && (i%2 == 0 || slow) { // a take-over takes 7 s, and who asks waits for 18: for two of them
			c.awaitThere()
			s.awaitAnswered()
		}
		awaitMoment(r, s.history)
		end(c)
		<-time.After(time.Duration(r.IntN(300)) * time.Millisecond) // nobody is there for a while
		if c.standby != nil {
			c.follow()
		} else {
			c.start()
		}
	}}.tell(t)
}

// underLoad is a story of a cluster with peers that are busy, to which something happens so many times.
type underLoad struct {
	newCluster                 func(*testing.T, ...string) *gatewayCluster
	times                      int
	failures, operate, inParts bool
	happen                     func(c *gatewayCluster, s *simulation, r *rand.Rand, i int)
}

// tell tells the story and judges it.
func (u underLoad) tell(t *testing.T) *gatewayCluster {
	t.Helper()
	c, entries := u.play(t)
	for _, f := range []faults{checkPublishers(entries), checkEvents(entries, false), checkNothingLost(entries)} {
		f.report(t)
	}
	if !u.failures {
		checkUndisturbed(entries).report(t)
		entries = withoutUnaccepted(entries)
	}
	if !u.failures || !u.inParts {
		checkEncodings(entries).report(t)
	}
	return c
}

// play tells the story until all is over.
func (u underLoad) play(t *testing.T) (*gatewayCluster, []simEntry) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var c *gatewayCluster
	var dials atomic.Uint64
	s := newSimulation(t, seed, 1<<40, func() string { return c.gateways[dials.Add(1)%3].Addr })
	s.failures, s.private, s.think = u.failures, true, 30*time.Millisecond
	app := s.newApplication()
	app.verifies = true
	c = u.newCluster(t, "KEY_VERIFICATION_URL="+app.server.URL+"/verify", "EVENT_CALLBACK_URL="+app.server.URL+"/event")
	for range 3 {
		c.addGateway(u.inParts)
	}
	c.awaitLinked()
	const servers = 5
	publishers := max(1, setting(t, "E2E_LIVES", 100)/2/servers) // each has some 2 lives a second, with the time that it waits
	for i := range 4 {
		capacity := -1
		if u.operate {
			capacity = publishers + i // all different, and at times too few
		}
		s.addEncoder(capacity)
	}
	c.p.AwaitReport("the encoders", func(r clustertest.Report) bool { return len(r.Encoders) == 4 })
	for i := range servers {
		s.addServer([]string{"rtmp", "wss"}[i%2], publishers)
	}
	c.p.AwaitServers(servers)

	closed := &closedStreams{ids: map[string]bool{}}
	if u.operate {
		for range 2 {
			r := s.rand()
			s.workers.Go(func() { s.operateThrough(r, c.gateways[0].Addr, closed) })
		}
	}
	lived := func() (lives int) {
		for _, e := range s.history.snapshot() {
			if e.what == simAccepted {
				lives++
			}
		}
		return lives
	}
	began, r, times := time.Now(), s.rand(), 0
	for ; times < u.times || times < 4*u.times && lived() < 5*times; times++ { // more where a slow machine has lived little meanwhile
		u.happen(c, s, r, times)
	}
	c.awaitThere()
	took := time.Since(began)
	lives := lived()
	app.well.Store(true)
	s.calmDown()
	if u.operate {
		c.gateways[0].UndrainAll()
		s.awaitKilled(closed)
	}
	s.awaitAgreement(c.gateways[0].Daemon)
	s.leave()
	c.awaitIdle()

	entries := s.history.snapshot()
	t.Logf("%d times in %v; %d lives until then, %.0f/s; %d entries", times, took, lives, float64(lives)/took.Seconds(), len(entries))
	if lives < 5*u.times {
		t.Error("there was no load")
	}
	return c, entries
}

// Gateways end under load, and others take their place. Their peers dial another one at once, as long as the one that they were at
// does not count as gone. At times the coordinator ends with them.
func TestGatewaysEndUnderLoad(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var c *gatewayCluster
	var addresses [3]atomic.Value
	var dials atomic.Uint64
	s := newSimulation(t, seed, 1<<40, func() string { return addresses[dials.Add(1)%3].Load().(string) })
	s.private, s.think = true, 30*time.Millisecond
	app := s.newApplication()
	app.verifies = true
	c = newGatewayCluster(t, "KEY_VERIFICATION_URL="+app.server.URL+"/verify", "EVENT_CALLBACK_URL="+app.server.URL+"/event")
	for i := range addresses {
		addresses[i].Store(c.addGateway(false).Addr)
	}
	c.awaitLinked()
	for range 4 {
		s.addEncoder(-1)
	}
	for i := range 4 {
		s.addServer([]string{"rtmp", "wss"}[i%2], 5)
	}
	c.p.AwaitServers(4)
	r := s.rand()
	times := setting(t, "E2E_KILLS", 4)
	for n := range times {
		awaitMoment(r, s.history)
		i := r.IntN(len(c.gateways))
		dying, signal := c.gateways[i], []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[n%2]
		dying.Signal(signal)
		if n%4 > 1 {
			c.kill()
			c.start()
		}
		<-dying.Ended
		c.gateways = append(c.gateways[:i], c.gateways[i+1:]...)
		addresses[i].Store(c.addGateway(false).Addr)
		for i, g := range c.gateways {
			addresses[i].Store(g.Addr)
		}
	}
	app.well.Store(true)
	s.calmDown()
	c.awaitThere()
	s.awaitAgreement(c.gateways[0].Daemon)
	s.leave()
	c.awaitIdle()
	entries := s.history.snapshot()
	for _, f := range []faults{checkPublishers(entries), checkEncodings(entries), checkEvents(entries, false), checkNothingLost(entries)} {
		f.report(t)
	}
	t.Logf("%d times; %d entries", times, len(entries))
}

// withoutUnaccepted leaves out encodings for publishers who were never accepted: that they are to stop may be under way while the
// encoding for the same request, asked again, begins. Without failures the ID of an encoding is that of its publisher, unless the
// start was not passed on and is made anew.
func withoutUnaccepted(entries []simEntry) (rest []simEntry) {
	accepted := map[string]bool{}
	for _, e := range entries {
		accepted[e.stream] = accepted[e.stream] || e.what == simAccepted
	}
	for _, e := range entries {
		if accepted[e.stream] || e.what != simStarted && e.what != simStopped {
			rest = append(rest, e)
		}
	}
	return rest
}

// killInParts is a kill that some links feel first: what has been said on others, in the same transition even, has arrived.
func killInParts(c *gatewayCluster) {
	stalled := clustertest.Flow{Stalled: true}
	for _, g := range c.gateways {
		switch rand.IntN(4) {
		case 0:
			g.link.Set(stalled, clustertest.Flow{})
		case 1:
			g.link.Set(clustertest.Flow{}, stalled)
		case 2:
			g.link.Set(clustertest.Flow{}, clustertest.Flow{ResetAfter: 1 + rand.IntN(300)})
		}
	}
	<-time.After(time.Duration(rand.IntN(200)) * time.Millisecond) // DONE leaves after 50 ms
	c.kill()
	for _, g := range c.gateways {
		g.link.Reset()
		g.link.Set(clustertest.Flow{}, clustertest.Flow{})
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

// closedStreams are those whose close was answered with 200.
type closedStreams struct {
	mu  sync.Mutex
	ids map[string]bool // guarded by mu
}

// operateThrough closes streams, drains and undrains through a gateway. Requests that are under way when the coordinator ends fail.
func (s *simulation) operateThrough(r *rand.Rand, addr string, closed *closedStreams) {
	client := http.Client{Timeout: clustertest.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(method, path string, into any, header ...string) bool {
		req, err := http.NewRequest(method, "http://"+addr+path, nil)
		if err != nil {
			s.t.Error(err)
			return false
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := client.Do(req)
		if err != nil {
			s.t.Error(err)
			return false
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusBadGateway && res.StatusCode != http.StatusServiceUnavailable && res.StatusCode != http.StatusNotFound {
			s.t.Errorf("%s: %d", path, res.StatusCode)
		}
		return res.StatusCode == http.StatusOK && json.NewDecoder(res.Body).Decode(into) == nil
	}
	for s.pause(r, s.busy) {
		var report clustertest.Report
		if !ask("GET", "/commands/report", &report) {
			continue
		}
		session := ""
		var encoder clustertest.Encoder
		if n := len(report.Encoders); n > 0 {
			encoder = report.Encoders[r.IntN(n)]
			session = strconv.FormatUint(encoder.ID, 10)
		}
		switch r.IntN(6) {
		case 0, 1:
			if n := len(report.ActiveStreams); n > 0 {
				st := report.ActiveStreams[r.IntN(n)]
				isMoved := func(other clustertest.ActiveStream) bool {
					return other.Channel == st.Channel && other.StreamID != st.StreamID
				}
				// One that has been moved since the report has another ID, and a close that names the old one means nobody.
				if ask("POST", "/commands/close", &struct{}{}, "x-streaming-channel", st.Channel, "x-streaming-id", st.StreamID) &&
					ask("GET", "/commands/report", &report) && !slices.ContainsFunc(report.ActiveStreams, isMoved) {
					closed.mu.Lock()
					closed.ids[st.StreamID] = true
					closed.mu.Unlock()
				}
			}
		case 2:
			for _, known := range s.encoders {
				for _, name := range known.connections() {
					if known.capacity == encoder.Capacity {
						s.history.note(simEntry{what: simMoving, who: name})
					}
				}
			}
			ask("POST", "/commands/drain", &struct{}{}, "x-session-id", session, "x-drain-move", "true")
		default:
			ask("POST", "/commands/undrain", &struct{}{}, "x-session-id", session)
		}
	}
}

// awaitKilled waits until nobody is live whose close was answered with 200. The ID of a publisher is that of the first encoding.
func (s *simulation) awaitKilled(closed *closedStreams) {
	s.t.Helper()
	closed.mu.Lock()
	defer closed.mu.Unlock()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); ; <-tick.C {
		live := ""
		for _, p := range s.servers {
			p.mu.Lock()
			for _, pub := range p.live {
				if closed.ids[pub.id] {
					live = pub.channel + " " + pub.id
				}
			}
			p.mu.Unlock()
		}
		if live == "" {
			s.t.Logf("%d streams were closed", len(closed.ids))
			return
		}
		if time.Now().After(deadline) {
			s.t.Errorf("%s is live, though its close was answered with 200", live)
			return
		}
	}
}
