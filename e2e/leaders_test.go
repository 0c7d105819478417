package e2e

// Two coordinators that share PostgreSQL, behind gateways: the one that leads ends, and the other one takes its place.
// More of it: E2E_KILLS=50 E2E_LIVES=500 go test -run TestLeadersEndUnderLoad ./e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/pgtest"
)

// newReplicatedCluster starts two coordinators, of which one leads. It has no gateways yet. Whoever ends the leader calls follow.
func newReplicatedCluster(t *testing.T, variables ...string) *gatewayCluster {
	t.Helper()
	return newClusterOn(t, pgtest.URL(t), variables...)
}

// newClusterOn is newReplicatedCluster with a database of the test's choice.
func newClusterOn(t *testing.T, database string, variables ...string) *gatewayCluster {
	t.Helper()
	onlyDirect(t, hasGateways)
	ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	c := &gatewayCluster{T: t, ip: ip, data: filepath.Join(quickDirectory(t), "data"), port: "0", variables: variables}
	c.database = database
	c.p = c.launch("0")
	c.awaitLeader(c.p)
	c.standby = c.launch("0")
	return c
}

// launch starts a coordinator, which listens when launch returns. Its way to the database can be cut.
func (c *gatewayCluster) launch(port string) *clustertest.Process {
	c.Helper()
	before := c.port
	c.port = port
	defer func() { c.port = before }()
	way := clustertest.NewFaultProxy(c.T)
	c.ways = append(c.ways, way)
	database := pgtest.Through(c.T, c.database, func(target string) string { return way.InFrontOf(c.T, target) })
	p := clustertest.Launch(c.T, coordinatorBinary, c.TempDir(), c.coordinatorVariables("DATABASE_URL="+database)...)
	p.Addr = p.Listening("http")
	c.logsOf("coordinator at "+p.Addr, p)
	return p
}

// awaitLeader waits until a coordinator leads.
func (c *gatewayCluster) awaitLeader(p *clustertest.Process) {
	c.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * clustertest.Patience); ; <-tick.C {
		if status, _ := p.Call("GET", "/leader"); status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("the coordinator at %s does not lead", p.Addr)
		}
	}
}

// follow is for a leader that has ended: a new coordinator starts in its place, and it or the other one leads.
func (c *gatewayCluster) follow() {
	c.Helper()
	_, port, _ := strings.Cut(c.p.Addr, ":")
	both := []*clustertest.Process{c.standby, c.launch(port)}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * clustertest.Patience); ; <-tick.C {
		for i, p := range both {
			if status, _ := p.Call("GET", "/leader"); status == http.StatusOK {
				c.p, c.standby = p, both[1-i]
				return
			}
		}
		if time.Now().After(deadline) {
			c.Fatal("none of the two coordinators leads")
		}
	}
}

func TestLeadersEndUnderLoad(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]struct {
		times             int
		failures, operate bool
		end               func(*gatewayCluster)
	}{
		"by SIGKILL": {4, false, false, (*gatewayCluster).kill},
		"by SIGTERM": {6, false, false, (*gatewayCluster).stop},
		"by SIGKILL, with peers that die and an operator": {3, true, true, (*gatewayCluster).kill},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endsUnderLoad(t, newReplicatedCluster, setting(t, "E2E_KILLS", story.times), story.failures, story.operate, false, story.end)
		})
	}
}

// A leader that is frozen for longer than it takes to be deposed stands by when it wakes up, and nothing that it says reaches a peer.
func TestFrozenLeaderStandsByWhenItWakesUp(t *testing.T) {
	t.Parallel()
	for _, atLeast := range []time.Duration{0, 12 * time.Second, 30 * time.Second, 90 * time.Second} {
		t.Run(fmt.Sprint("for ", atLeast), func(t *testing.T) {
			t.Parallel()
			if atLeast > 0 && !big {
				t.Skip("takes long: E2E_BIG=1")
			}
			app := clustertest.NewApplication(t)
			c := newReplicatedCluster(t, app.Variables()...)
			for range 2 {
				c.addGateway(false)
			}
			c.awaitLinked()
			server := c.gateways[0].DialPeer("rtmp")
			encoder, _ := c.gateways[1].Register(4)
			id, told := liveShow(t, app, server, encoder, "show")
			c.awaitDone()
			frozen := c.p
			frozen.Signal(syscall.SIGSTOP)
			defer frozen.Signal(syscall.SIGCONT)
			began := time.Now()
			server.Request("meanwhile", "key")
			c.p, c.standby = c.standby, frozen
			c.awaitLeader(c.p)
			started := encoder.Expect("ENCODE-START", "Stream-Channel", "meanwhile")
			t.Logf("accepted after %v", time.Since(began))
			server.Expect("PUBLISH-ACCEPT", "Stream-Channel", "meanwhile")
			beatUntil(time.After(time.Until(began.Add(atLeast))), server, encoder)
			frozen.Signal(syscall.SIGCONT)
			frozen.Logs.Await(t, "has lost the lead")
			if status, body := frozen.Call("GET", "/commands/report"); status != http.StatusServiceUnavailable || !strings.Contains(body, "standby") {
				t.Errorf("the old leader answers %d %s", status, body)
			}
			server.Quiet()
			if len(encoder.In) > 0 {
				t.Error("the old leader has told the encoder something")
			}
			server.End("meanwhile", started.Get("Stream-ID"))
			encoder.Expect("ENCODE-STOP", "Stream-ID", started.Get("Stream-ID"))
			encoder.Closed("meanwhile", started.Get("Stream-ID"))
			endShow(app, server, encoder, "show", id, told)
			wantOneContentPerID(t, app)
			c.awaitIdle()
			c.p.Signal(syscall.SIGTERM) // and back
			c.p.AwaitExit(0)
			c.awaitLeader(frozen)
		})
	}
}

// One that is frozen for a moment goes on leading.
func TestLeaderThatIsFrozenForAMomentGoesOn(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	c := newReplicatedCluster(t, app.Variables()...)
	c.addGateway(false)
	c.awaitLinked()
	server := c.gateways[0].DialPeer("rtmp")
	encoder, _ := c.gateways[0].Register(4)
	id, told := liveShow(t, app, server, encoder, "show")
	c.p.Signal(syscall.SIGSTOP)
	<-time.After(3 * time.Second)
	c.p.Signal(syscall.SIGCONT)
	endShow(app, server, encoder, "show", id, told)
	id, told = liveShow(t, app, server, encoder, "another")
	endShow(app, server, encoder, "another", id, told)
	if status, _ := c.p.Call("GET", "/leader"); status != http.StatusOK {
		t.Errorf("/leader: %d", status)
	}
	if status, _ := c.standby.Call("GET", "/leader"); status != http.StatusServiceUnavailable {
		t.Errorf("/leader of the other one: %d", status)
	}
	wantOneContentPerID(t, app)
	c.awaitIdle()
}

// A leader that the database can't be reached from is followed by the other one, and no stream ends. From nobody: the same one goes on.
func TestLeaderIsCutOffFromTheDatabase(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]struct {
		fromAll bool
		atLeast time.Duration
	}{
		"from the leader only":                {false, 0},
		"from the leader only, for 30 s":      {false, 30 * time.Second},
		"from the leader only, for 5 minutes": {false, 5 * time.Minute},
		"from all":                            {true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if cut.atLeast > 0 && !big {
				t.Skip("takes long: E2E_BIG=1")
			}
			app := clustertest.NewApplication(t)
			c := newReplicatedCluster(t, app.Variables()...)
			for range 2 {
				c.addGateway(false)
			}
			c.awaitLinked()
			server, old := c.gateways[0].DialPeer("rtmp"), c.p
			encoder, _ := c.gateways[1].Register(4)
			id, told := liveShow(t, app, server, encoder, "show")
			c.awaitDone()
			c.ways[0].Set(clustertest.Flow{Stalled: true}, clustertest.Flow{Stalled: true})
			if cut.fromAll {
				c.ways[1].Set(clustertest.Flow{Stalled: true}, clustertest.Flow{Stalled: true})
			}
			began := time.Now()
			old.Logs.Await(t, "no longer sure that it leads")
			server.Request("meanwhile", "key")
			if cut.fromAll {
				encoder.Available("show", id, "HLS-LIVE", "1x1", "meanwhile")
				if status, _ := c.gateways[0].Call("GET", "/commands/report"); status != http.StatusOK {
					t.Errorf("commands are answered with %d", status)
				}
				if len(encoder.In) > 0 {
					t.Error("a publisher is let in")
				}
				for i := range c.ways {
					c.ways[i].Set(clustertest.Flow{}, clustertest.Flow{})
				}
				told = append(told, "stream-available show "+id+" HLS-LIVE 1x1 meanwhile")
				app.AwaitStream(id, told...)
			} else {
				c.p, c.standby = c.standby, old
				c.awaitLeader(c.p)
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("the other one leads after %v", took)
				}
			}
			started := encoder.Expect("ENCODE-START", "Stream-Channel", "meanwhile")
			server.Expect("PUBLISH-ACCEPT", "Stream-Channel", "meanwhile")
			server.End("meanwhile", started.Get("Stream-ID"))
			encoder.Expect("ENCODE-STOP", "Stream-ID", started.Get("Stream-ID"))
			encoder.Closed("meanwhile", started.Get("Stream-ID"))
			if !cut.fromAll {
				old.Logs.Await(t, "has lost the lead")
				beatUntil(time.After(time.Until(began.Add(cut.atLeast))), server, encoder)
				c.ways[0].Set(clustertest.Flow{}, clustertest.Flow{})
			} else if status, _ := old.Call("GET", "/leader"); status != http.StatusOK {
				t.Error("another one leads")
			}
			endShow(app, server, encoder, "show", id, told)
			wantOneContentPerID(t, app)
			c.awaitIdle()
		})
	}
}

// The metric and the probe agree where there is no term, too.
func TestCoordinatorIsReadyIfItCouldTakeNewStreamsOrTakeOver(t *testing.T) {
	t.Parallel()
	onlyDirect(t, ofTheProcess)
	ready := func(p *clustertest.Process, wanted float64, status int, why string) {
		t.Helper()
		p.AwaitMetrics(map[string]float64{"coordinator_ready": wanted})
		if got, body := p.Call("GET", "/readyz?verbose"); got != status || !strings.Contains(body, why) {
			t.Errorf("%d %s", got, body)
		}
	}
	t.Run("without a database", func(t *testing.T) {
		t.Parallel()
		p := launch(t, map[string]string{"HTTP_PORT": "0", "BIND_ADDRESS": "127.0.0.1", "DATABASE_URL": "postgres://c@127.0.0.1:1/c"})
		ready(p, 0, http.StatusServiceUnavailable, "the database has not answered within the last 20 s")
	})
	t.Run("a leader that can't read", func(t *testing.T) {
		t.Parallel()
		c := newReplicatedCluster(t)
		ready(c.standby, 1, http.StatusOK, "ready")
		pgtest.Exec(t, c.database, "ALTER TABLE coordinator_event RENAME TO away")
		c.stop()
		c.standby.Logs.Await(t, "this coordinator leads, but can't read what the database holds")
		ready(c.standby, 0, http.StatusServiceUnavailable, "this coordinator leads, but has not read what the database holds")
		pgtest.Exec(t, c.database, "ALTER TABLE away RENAME TO coordinator_event")
		ready(c.standby, 1, http.StatusOK, "ready")
	})
}

// Two publishers ask for the same channel at two gateways, again and again, while leaders come and go: one of them gets it each time.
func TestChannelThatIsAskedForAtTwoGatewaysIsAcceptedOnce(t *testing.T) {
	t.Parallel()
	rounds, changes := int64(1_000), 2
	if big {
		rounds, changes = 10_000, 8
	}
	app := clustertest.NewApplication(t)
	c := newReplicatedCluster(t, app.Variables()...)
	for range 2 {
		c.addGateway(false)
	}
	c.awaitLinked()
	for _, g := range c.gateways {
		encoder, _ := g.Register(-1)
		go encoder.Attend()
	}
	var done atomic.Int64
	over := make(chan struct{})
	var lanes sync.WaitGroup
	for i := range 20 {
		first, second, channel := c.gateways[0].DialPeer("rtmp"), c.gateways[1].DialPeer("rtmp"), fmt.Sprint("channel-", i)
		lanes.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if !wantOneAccepted(t, channel, first, second) {
					return
				}
				done.Add(1)
			}
		})
	}
	for i := range changes {
		end := []func(*gatewayCluster){(*gatewayCluster).kill, (*gatewayCluster).stop}[i%2]
		share, tick := done.Load()+rounds/int64(changes), time.NewTicker(time.Millisecond)
		for deadline := time.Now().Add(time.Minute); done.Load() < share && !t.Failed() && time.Now().Before(deadline); {
			<-tick.C
		}
		tick.Stop()
		end(c)
		c.follow()
		c.awaitThere()
	}
	close(over)
	lanes.Wait()
	if n := done.Load(); n < rounds {
		t.Errorf("asked for %d times, want %d", n, rounds)
	}
	t.Logf("asked for %d times", done.Load())
	wantOneContentPerID(t, app)
	c.awaitIdle()
}

// wantOneAccepted has two publishers ask for a channel, and the one who gets it end at once.
func wantOneAccepted(t *testing.T, channel string, publishers ...*clustertest.Peer) bool {
	for _, p := range publishers {
		p.Tell("PUBLISH-REQUEST", "Request-ID", "r", "Stream-Channel", channel, "Stream-Key", "key", "User-IP", "10.0.0.1")
	}
	var accepted []string
	var owner *clustertest.Peer
	for i, p := range publishers {
		select {
		case m := <-p.In:
			switch m.Method {
			case "PUBLISH-ACCEPT":
				accepted, owner = append(accepted, m.Get("Stream-ID")), p
			case "PUBLISH-DENY":
			default:
				t.Errorf("%s: publisher %d is told %s %v", channel, i, m.Method, m.Args)
				return false
			}
		case <-time.After(2 * clustertest.Patience):
			t.Errorf("%s: publisher %d gets no answer", channel, i)
			return false
		}
	}
	if len(accepted) != 1 {
		t.Errorf("%s: accepted as %v", channel, accepted)
		return false
	}
	owner.Tell("PUBLISH-END", "Stream-Channel", channel, "Stream-ID", accepted[0])
	return true
}

// A coordinator whose DATA_DIR has the outbox of another store can't lead. It must not keep those from it that can.
func TestLeaderThatCannotTakeUpLeavesTheLeadToAnother(t *testing.T) {
	t.Parallel()
	c := newReplicatedCluster(t)
	leader, able, data := c.p, c.standby, c.data
	c.data = filepath.Join(quickDirectory(t), "other")
	c.start() // by itself: it leaves an outbox behind
	c.stop()
	unable := c.launch("0")
	c.data = data
	able.Signal(syscall.SIGSTOP)
	c.p = leader
	c.stop()
	unable.Logs.Await(t, "can't read what the database holds")
	able.Signal(syscall.SIGCONT)
	c.p, c.standby = able, unable
	c.awaitLeader(able)
	unable.Logs.Await(t, "this coordinator gives up the lead")
	c.addGateway(false)
	c.awaitLinked()
}
