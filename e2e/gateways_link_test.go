package e2e

// Links between gateways and a coordinator that lives: cut, stalled, flapping. And a coordinator that is the wrong one.

import (
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

func TestFaultsOfLinksLoseNothing(t *testing.T) {
	t.Parallel()
	stalled := clustertest.Flow{Stalled: true}
	stall := func(up, down clustertest.Flow) func(*clustertest.FaultProxy, *rand.Rand) {
		return func(link *clustertest.FaultProxy, r *rand.Rand) {
			link.Set(up, down)
			<-time.After(time.Duration(500+r.IntN(1500)) * time.Millisecond)
			link.Set(clustertest.Flow{}, clustertest.Flow{})
		}
	}
	cut := func(link *clustertest.FaultProxy, _ *rand.Rand) { link.Reset() }
	cutInAFrame := func(link *clustertest.FaultProxy, r *rand.Rand) {
		flows := [2]clustertest.Flow{}
		flows[r.IntN(2)].ResetAfter = 1 + r.IntN(200)
		link.Set(flows[0], flows[1])
		<-time.After(50 * time.Millisecond)
		link.Set(clustertest.Flow{}, clustertest.Flow{})
	}
	flap := func(link *clustertest.FaultProxy, r *rand.Rand) {
		for range 10 {
			link.Reset()
			<-time.After(time.Duration(r.IntN(200)) * time.Millisecond)
		}
	}
	for name, fault := range map[string]func(*clustertest.FaultProxy, *rand.Rand){
		"cut":                        cut,
		"cut in a frame":             cutInAFrame,
		"stalled to the coordinator": stall(stalled, clustertest.Flow{}),
		"stalled to the gateway":     stall(clustertest.Flow{}, stalled),
		"stalled both ways":          stall(stalled, stalled),
		"flapping":                   flap,
		"slow and in pieces":         stall(clustertest.Flow{Slice: 50, Latency: time.Millisecond}, clustertest.Flow{Slice: 50, Latency: time.Millisecond}),
		"answers go nowhere, and cut": func(link *clustertest.FaultProxy, r *rand.Rand) {
			stall(clustertest.Flow{}, clustertest.Flow{Blackhole: true})(link, r)
			link.Reset()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			linksFail(t, 4, fault)
		})
	}
	for name, flows := range map[string][2]clustertest.Flow{
		"silent to the coordinator": {stalled, {}}, "silent to the gateway": {{}, stalled}, "silent both ways": {stalled, stalled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !big {
				t.Skip("takes a minute: E2E_BIG=1")
			}
			linksFail(t, 3, func(link *clustertest.FaultProxy, r *rand.Rand) {
				link.Set(flows[0], flows[1])
				<-time.After(time.Duration(11+r.IntN(4)) * time.Second) // both sides take it for dead
				link.Set(clustertest.Flow{}, clustertest.Flow{})
			})
		})
	}
}

// linksFail has links fail in turn, under load.
func linksFail(t *testing.T, times int, fault func(*clustertest.FaultProxy, *rand.Rand)) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var c *gatewayCluster
	var dials atomic.Uint64
	s := newSimulation(t, seed, 1<<40, func() string { return c.gateways[dials.Add(1)%2].Addr })
	s.failures, s.private, s.think = false, true, 30*time.Millisecond
	app := s.newApplication()
	app.verifies = true
	c = newGatewayCluster(t, "KEY_VERIFICATION_URL="+app.server.URL+"/verify", "EVENT_CALLBACK_URL="+app.server.URL+"/event")
	for range 2 {
		c.addGateway(true)
	}
	c.awaitLinked()
	for range 3 {
		s.addEncoder(-1)
	}
	c.p.AwaitReport("the encoders", func(r clustertest.Report) bool { return len(r.Encoders) == 3 })
	for _, endpoint := range []string{"rtmp", "wss", "rtmp"} {
		s.addServer(endpoint, 3)
	}
	c.p.AwaitServers(3)
	r := s.rand()
	for n := range times {
		<-time.After(time.Duration(r.IntN(300)) * time.Millisecond)
		fault(c.gateways[n%2].link, r)
	}
	app.well.Store(true)
	s.calmDown()
	s.awaitAgreement(c.p.Daemon)
	s.leave()
	c.awaitIdle()
	entries := s.history.snapshot()
	for _, f := range []faults{checkUndisturbed(entries), checkPublishers(entries), checkEncodings(entries), checkEvents(entries, true), checkNothingLost(entries)} {
		f.report(t)
	}
	links := 0.0
	for _, g := range c.gateways {
		links += g.Scrape()["gateway_links_total"]
	}
	t.Logf("%d entries, %v links", len(entries), links)
}

func TestWrongCoordinatorIsNotFollowed(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	c := newGatewayCluster(t, app.Variables()...)
	other := clustertest.Serve(t, coordinatorBinary, app.Variables("DATA_DIR="+filepath.Join(t.TempDir(), "other"), "GATEWAY_SECRET="+gatewaySecret)...)
	g := c.addGateway(false, "COORDINATOR_URL=http://"+c.p.Addr+",http://"+other.Addr)
	c.awaitLinked()
	server := g.DialPeer("rtmp")
	encoder, _ := g.Register(1)
	id, told := liveShow(t, app, server, encoder, "show")
	c.awaitDone()
	c.kill()
	other.Logs.Await(t, "level=ERROR", "gateway link refused", "another store")
	g.Logs.Await(t, "level=ERROR", "http://"+other.Addr, "another store (DATA_DIR or DATABASE_URL)")
	g.AwaitMetrics(map[string]float64{`gateway_sockets{type="rtmp"}`: 1, `gateway_sockets{type="hls"}`: 1, "gateway_link_up": 0})
	c.start()
	c.awaitThere()
	if report := other.Report(); len(report.StreamingServers) > 0 || len(report.Encoders) > 0 {
		t.Errorf("the other one has sessions: %+v", report)
	}
	endShow(app, server, encoder, "show", id, told)
	c.awaitIdle()
}

// Without its own coordinator, a gateway follows another one after 30 s, as a new gateway: its sockets close.
func TestWrongCoordinatorIsFollowedOnceTheOwnStaysAway(t *testing.T) {
	t.Parallel()
	if !big {
		t.Skip("takes 30 s: E2E_BIG=1")
	}
	app := clustertest.NewApplication(t)
	c := newGatewayCluster(t, app.Variables()...)
	other := clustertest.Serve(t, coordinatorBinary, app.Variables("DATA_DIR="+filepath.Join(t.TempDir(), "other"), "GATEWAY_SECRET="+gatewaySecret)...)
	g := c.addGateway(false, "COORDINATOR_URL=http://"+c.p.Addr+",http://"+other.Addr)
	c.awaitLinked()
	server := g.DialPeer("rtmp")
	encoder, _ := g.Register(1)
	id, told := liveShow(t, app, server, encoder, "show")
	began := time.Now()
	c.p.Signal(syscall.SIGKILL)
	awaitKilled(c.p)
	for { // longer than a peer is usually waited for
		if _, open := <-server.In; !open {
			break
		}
	}
	if took := time.Since(began); took < 29*time.Second || took > 40*time.Second {
		t.Errorf("followed after %v", took)
	}
	encoder.AwaitGone()
	g.Logs.Await(t, "level=ERROR", "is followed", "sockets_closed=2")
	again := g.DialPeer("rtmp")
	other.AwaitServers(1)
	again.Quiet()
	c.start()
	app.AwaitStream(id, append(told, "stream-closed show "+id)...)
}
