package e2e

// A random cluster on one coordinator over real sockets, with an application that fails at times, judged by its history.
// The number of steps and the seed can be set: go test -run TestRandomCluster ./e2e -steps 200000 -seed 7

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

var (
	simSteps = flag.Int("steps", 20_000, "steps of the random cluster, over all its tests")
	simSeed  = flag.Uint64("seed", 0, "seed of the random cluster; 0: from the clock")
)

func TestRandomCluster(t *testing.T) {
	t.Parallel()
	seed := *simSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for i, failover := range []string{"YES", "NO"} {
		for j, wait := range []string{"0", "1"} {
			takeover := []string{"YES", "NO"}[(i+j)%2]
			t.Run(fmt.Sprintf("failover=%s,wait=%s,takeover=%s", failover, wait, takeover), func(t *testing.T) {
				t.Parallel()
				randomCluster(t, seed+uint64(2*i+j), *simSteps/4, "ENCODER_FAILOVER="+failover, "ENCODER_WAIT_SECONDS="+wait, "PUBLISH_TAKEOVER="+takeover)
			})
		}
	}
}

func randomCluster(t *testing.T, seed uint64, steps int, variables ...string) {
	t.Logf("seed %d", seed)
	var d *clustertest.Daemon
	s := newSimulation(t, seed, steps, func() string { return d.Addr })
	app := s.newApplication()
	d = startDaemon(t, append(variables, "LOG_DEBUG=NO", "LOG_REQUESTS=NO", "KEY_VERIFICATION_URL="+app.server.URL+"/verify", "EVENT_CALLBACK_URL="+app.server.URL+"/event")...)
	for _, endpoint := range []string{"rtmp", "rtmp", "rtmp", "rtmp", "rtmp", "wss", "wss"} {
		s.addServer(endpoint, 5)
	}
	for i := range 5 {
		s.addEncoder(5 + i)
	}
	for range 3 {
		r := s.rand()
		s.workers.Go(func() { s.operate(r, d) })
	}

	select {
	case <-s.busy.Done():
	case <-time.After(10 * clustertest.Patience):
		t.Fatalf("only %d of %d steps are done", s.steps.Load(), steps)
	}
	app.well.Store(true)
	d.UndrainAll()
	s.awaitAgreement(d)
	s.leave()
	d.AwaitReport("an idle cluster", func(r clustertest.Report) bool {
		return len(r.ActiveStreams) == 0 && r.WaitingRequests == 0 && !slices.ContainsFunc(r.Encoders, func(e clustertest.Encoder) bool { return e.Load > 0 })
	})
	d.AwaitOverview("all delivered", func(o clustertest.Overview) bool {
		return o.Events.Pending == 0 && o.Streams == clustertest.StreamTotals{} && o.Slots.Used == 0
	})
	s.end()

	entries := s.history.snapshot()
	for _, f := range []faults{checkPublishers(entries), checkEncodings(entries), checkEvents(entries, true), checkNothingLost(entries)} {
		f.report(t)
	}
	f, failovers, moves := checkSuccession(entries)
	f.report(t)
	count := map[simDeed]int{}
	for _, e := range entries {
		count[e.what]++
	}
	takeovers := d.Logs.Count("takes over the channel")
	if wanted := slices.Contains(variables, "PUBLISH_TAKEOVER=YES"); wanted != (takeovers > 0) {
		t.Errorf("%d takeovers, and they are allowed: %v", takeovers, wanted)
	}
	t.Logf("%d failovers, %d moves and %d takeovers were told; %v", failovers, moves, takeovers, count)
}

// operate closes streams, drains and undrains as an operator and an application might.
func (s *simulation) operate(r *rand.Rand, d *clustertest.Daemon) {
	for s.pause(r, s.busy) {
		report := d.Report()
		s.step()
		switch r.IntN(6) {
		case 0, 1:
			if n := len(report.ActiveStreams); n > 0 {
				st := report.ActiveStreams[r.IntN(n)]
				id := []string{st.StreamID, st.StreamID, "*", "other"}[r.IntN(4)]
				d.Call("POST", "/commands/close", "x-streaming-channel", st.Channel, "x-streaming-id", id)
			}
		case 2:
			if n := len(report.Encoders); n > 0 {
				e := report.Encoders[r.IntN(n)]
				for _, known := range s.encoders {
					for _, name := range known.connections() {
						if known.capacity == e.Capacity {
							s.history.note(simEntry{what: simMoving, who: name})
						}
					}
				}
				d.Command("drain", e.ID, "x-drain-move", "true")
			}
		case 3:
			if n := len(report.Encoders); n > 0 {
				d.Command("drain", report.Encoders[r.IntN(n)].ID)
			}
		case 4:
			if n := len(report.StreamingServers); n > 0 {
				d.Command("drain", report.StreamingServers[r.IntN(n)].ID)
			}
		case 5:
			d.UndrainAll()
		}
	}
}

// view is who is live, on which side of the sockets it is seen.
type view struct {
	Channels  []string
	Encodings []string
}

// awaitAgreement waits, in a calm cluster, until the coordinator and its peers see the same publishers and encodings:
// one live encoding for each publisher, and a slot for each encoding.
func (s *simulation) awaitAgreement(d *clustertest.Daemon) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*clustertest.Patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		peers, coordinator, encodings := s.view(), view{}, map[string]int{}
		for _, row := range d.AllRows() {
			if row.State == "live" {
				encodings[row.Channel]++
			}
			if row.State != "waiting" && row.State != "ending" {
				coordinator.Encodings = append(coordinator.Encodings, row.StreamID)
			}
		}
		for channel, n := range encodings {
			if n != 1 {
				s.t.Errorf("%s has %d live encodings", channel, n)
			}
			coordinator.Channels = append(coordinator.Channels, channel)
		}
		coordinator.sort()
		diff := cmp.Diff(peers, coordinator)
		if diff == "" && cmp.Diff(peers, s.view()) == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Errorf("who is live (-peers +coordinator):\n%s", diff)
			return
		}
	}
}

// view is what the peers see.
func (s *simulation) view() (v view) {
	for _, p := range s.servers {
		p.mu.Lock()
		for channel := range p.live {
			v.Channels = append(v.Channels, channel)
		}
		p.mu.Unlock()
	}
	for _, e := range s.encoders {
		e.mu.Lock()
		for id, task := range e.tasks {
			if task.wire == e.wire { // the coordinator knows nothing of earlier ones
				v.Encodings = append(v.Encodings, id)
			}
		}
		e.mu.Unlock()
	}
	v.sort()
	return v
}

func (v *view) sort() {
	slices.Sort(v.Channels)
	slices.Sort(v.Encodings)
}
