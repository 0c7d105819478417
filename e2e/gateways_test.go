package e2e

// A coordinator behind gateways: what the stories of gateways_*_test.go have in common. The coordinator can be killed and
// started again; it keeps its directory, and its address, which its gateways know.

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/control"
)

// big is set by who wants the stories that take minutes, too.
var big = os.Getenv("E2E_BIG") != ""

// setting is a number from the environment.
func setting(t *testing.T, name string, usual int) int {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		return usual
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is no number above 0", name, value)
	}
	return n
}

// gatewayCluster is a coordinator and its gateways.
type gatewayCluster struct {
	*testing.T
	p        *clustertest.Process      // the coordinator that runs and leads, or did last
	standby  *clustertest.Process      // the other one; nil: there is none
	database string                    // of the two
	ways     []*clustertest.FaultProxy // to it, of each process
	gateways []*gatewayProcess

	// set once
	ip        string
	data      string
	variables []string
	port      string // of the first start, kept by later ones
}

// gatewayProcess is a gateway. Its link goes through a proxy if it was asked for.
type gatewayProcess struct {
	*clustertest.Process
	link *clustertest.FaultProxy
}

// newGatewayCluster starts a coordinator that has no gateways yet.
func newGatewayCluster(t *testing.T, variables ...string) *gatewayCluster {
	t.Helper()
	onlyDirect(t, hasGateways)
	// No connection that somebody else opens can take a port of an address that is the test's own, while nobody listens there.
	ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	c := &gatewayCluster{T: t, ip: ip, data: filepath.Join(quickDirectory(t), "data"), variables: variables, port: "0"}
	c.start()
	_, c.port, _ = strings.Cut(c.p.Addr, ":")
	return c
}

// startBehindGateways starts a coordinator that takes events to an application, and gateways that are linked to it.
func startBehindGateways(t *testing.T, gateways int, variables ...string) (*gatewayCluster, *clustertest.Application) {
	t.Helper()
	app := clustertest.NewApplication(t)
	c := newGatewayCluster(t, append(app.Variables(), variables...)...)
	for range gateways {
		c.addGateway(false)
	}
	c.awaitLinked()
	return c, app
}

// start starts the coordinator. It listens when start returns.
func (c *gatewayCluster) start(more ...string) {
	c.Helper()
	c.p = clustertest.Launch(c.T, coordinatorBinary, c.TempDir(), c.coordinatorVariables(more...)...)
	c.p.Addr = c.p.Listening("http")
	c.logsOf("coordinator", c.p)
}

func (c *gatewayCluster) coordinatorVariables(more ...string) []string {
	return append(append([]string{"HTTP_PORT=" + c.port, "SSL_PORT=0", "BIND_ADDRESS=" + c.ip, "LOG_REQUESTS=NO", "DATA_DIR=" + c.data,
		"GATEWAY_SECRET=" + gatewaySecret}, c.variables...), more...)
}

// addGateway starts a gateway, whose link goes through a proxy if the test wants to do something to it.
func (c *gatewayCluster) addGateway(proxied bool, more ...string) *gatewayProcess {
	c.Helper()
	target := c.p.Addr
	if c.standby != nil {
		target += ",http://" + c.standby.Addr
	}
	g := &gatewayProcess{}
	if proxied {
		g.link = clustertest.NewFaultProxy(c.T)
		target = g.link.InFrontOf(c.T, target)
	}
	g.Process = clustertest.Serve(c.T, coordinatorBinary, append([]string{"COORDINATOR_URL=http://" + target, "GATEWAY_SECRET=" + gatewaySecret}, more...)...)
	c.gateways = append(c.gateways, g)
	c.logsOf(fmt.Sprint("gateway ", len(c.gateways)-1), g.Process)
	return g
}

// logsOf shows the end of a log if the test fails.
func (c *gatewayCluster) logsOf(who string, p *clustertest.Process) {
	c.Cleanup(func() {
		if text := p.Logs.String(); c.Failed() {
			c.Logf("%s (process %d):\n%s", who, p.Cmd.Process.Pid, text[max(0, len(text)-16<<10):])
		}
	})
}

// awaitLinked waits until all gateways are linked and the cluster is there.
func (c *gatewayCluster) awaitLinked() {
	c.Helper()
	for _, g := range c.gateways {
		g.AwaitMetrics(map[string]float64{"gateway_link_up": 1})
	}
	c.awaitThere()
}

// awaitThere waits until the coordinator has gathered what its gateways hold.
func (c *gatewayCluster) awaitThere() {
	c.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * clustertest.Patience); ; <-tick.C {
		status, body := c.p.Call("GET", "/readyz")
		if status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("not ready: %d %s", status, body)
		}
	}
}

// awaitDone waits until the coordinator is done with all that peers have said.
func (c *gatewayCluster) awaitDone() {
	c.Helper()
	for _, g := range c.gateways {
		g.AwaitMetrics(map[string]float64{"gateway_kept_messages": 0})
	}
}

// kill is kill -9 of the coordinator.
func (c *gatewayCluster) kill() {
	c.Helper()
	c.p.Signal(syscall.SIGKILL)
	awaitKilled(c.p)
}

// stop is SIGTERM, after which the coordinator must end as it should.
func (c *gatewayCluster) stop() {
	c.Helper()
	c.p.Signal(syscall.SIGTERM)
	c.p.AwaitExit(0)
}

// awaitIdle waits until nobody publishes, no slot is taken and all events are told.
func (c *gatewayCluster) awaitIdle() {
	c.Helper()
	c.gateways[0].AwaitOverview("that all is over", func(o clustertest.Overview) bool {
		return o.Events.Pending == 0 && o.Slots.Used == 0 && o.Streams == clustertest.StreamTotals{}
	})
	if status, body := c.gateways[0].Call("GET", "/commands/capacity"); status != http.StatusOK || !strings.HasPrefix(body, `{"load":0,`) {
		c.Errorf("capacity: %d %s", status, body)
	}
}

// beatUntil has peers say that they live, until then.
func beatUntil(then <-chan time.Time, peers ...*clustertest.Peer) {
	beat := time.NewTicker(control.HeartbeatEvery)
	defer beat.Stop()
	for {
		for _, p := range peers {
			p.Send("HEARTBEAT")
		}
		select {
		case <-beat.C:
		case <-then:
			return
		}
	}
}
