package e2e

// Gateways beside their coordinator, as processes: what operators see of them, and that streams outlive the coordinator.

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const secretOfGateways = "GATEWAY_SECRET=gateways share this key, it is long"

// operatedCluster is a coordinator, and gateways that link to it.
type operatedCluster struct {
	t         *testing.T
	variables []string // of the coordinator
	*clustertest.Process
}

func newOperatedCluster(t *testing.T, variables ...string) *operatedCluster {
	c := &operatedCluster{t: t, variables: append(variables, secretOfGateways, "DATA_DIR="+t.TempDir(), "LOG_DEBUG=YES")}
	c.start("HTTP_PORT=0")
	return c
}

func (c *operatedCluster) start(port string) {
	c.Process = clustertest.Serve(c.t, coordinatorBinary, append(slices.Clone(c.variables), port)...)
}

// startAgain starts a coordinator in the place of the one that has ended.
func (c *operatedCluster) startAgain() {
	c.t.Helper()
	<-c.Ended
	_, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.start("HTTP_PORT=" + port)
}

func (c *operatedCluster) gateway() *clustertest.Process {
	c.t.Helper()
	g := clustertest.Serve(c.t, coordinatorBinary, secretOfGateways, "COORDINATOR_URL=http://"+c.Addr, "LOG_DEBUG=YES")
	g.Logs.Await(c.t, "linked to the coordinator")
	return g
}

func (c *operatedCluster) awaitGateways(what string, wanted func(clustertest.GatewayPage) bool) clustertest.GatewayPage {
	c.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); ; <-tick.C {
		page := clustertest.Get[clustertest.GatewayPage](c.Daemon, "/commands/gateways?sort=servers")
		if wanted(page) {
			return page
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: %+v", what, page)
		}
	}
}

func gatewayMetrics(linked, absent, rtmp, ws, hls float64) map[string]float64 {
	return map[string]float64{
		`coordinator_gateways{state="linked"}`: linked, `coordinator_gateways{state="absent"}`: absent,
		`coordinator_gateway_sessions{type="rtmp"}`: rtmp, `coordinator_gateway_sessions{type="ws"}`: ws, `coordinator_gateway_sessions{type="hls"}`: hls,
	}
}

func TestOperatorsSeeWhichGatewayHoldsWhat(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	c := newOperatedCluster(t, app.Variables()...)
	a, b := c.gateway(), c.gateway()
	encoder, encoderID := a.Register(4)
	server, serverID := b.Join("rtmp")
	_, directID := c.Join("wss")
	id := clustertest.Publish(server, encoder, "sport")
	encoder.Available("sport", id, "HLS-LIVE", "1280x720-30", "live.m3u8")
	app.AwaitEvents(1)

	page := c.awaitGateways("what was said is acknowledged", func(p clustertest.GatewayPage) bool {
		return p.Matched == 2 && p.Gateways[0].UnacknowledgedBytes+p.Gateways[1].UnacknowledgedBytes == 0
	})
	atA, atB := page.Gateways[0], page.Gateways[1] // by the number of their servers
	for i, g := range page.Gateways {
		if age := time.Since(g.Since); age < 0 || age > clustertest.Patience || g.FramesIn < 2 || g.FramesOut < 2 || g.BytesIn < g.FramesIn || g.BytesOut < g.FramesOut {
			t.Errorf("%+v", g)
		}
		want := clustertest.Gateway{ID: g.ID, Address: "127.0.0.1", Linked: true, Version: "0.1.0", StreamingServers: i, Encoders: 1 - i}
		if diff := cmp.Diff(want, g, cmpopts.IgnoreFields(clustertest.Gateway{}, "Since", "FramesIn", "FramesOut", "BytesIn", "BytesOut")); diff != "" || g.ID == "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	report := c.Report()
	at := map[uint64]string{report.Encoders[0].ID: report.Encoders[0].Gateway}
	for _, s := range report.StreamingServers {
		at[s.ID] = s.Gateway
	}
	want := map[uint64]string{encoderID: atA.ID, serverID: atB.ID, directID: ""}
	if !maps.Equal(want, at) {
		t.Errorf("sessions are at %v, want %v", at, want)
	}
	for query, matched := range map[string]int{
		"encoders?q=" + atA.ID: 1, "encoders?q=" + atB.ID: 0, "servers?q=" + atA.ID: 0, "servers?sort=-gateway&q=" + atB.ID: 1,
		"gateways?q=" + atB.ID: 1, "gateways?q=linked": 2, "gateways?q=absent": 0,
	} {
		if got := clustertest.Get[struct{ Matched int }](c.Daemon, "/commands/"+query); got.Matched != matched {
			t.Errorf("%s matches %d, want %d", query, got.Matched, matched)
		}
	}
	c.AwaitMetrics(gatewayMetrics(2, 0, 1, 0, 1))
	c.AwaitMetrics(map[string]float64{"coordinator_gathering": 0, "coordinator_gateway_unacknowledged_bytes": 0})
	if got := clustertest.Get[clustertest.Overview](c.Daemon, "/commands/overview").Gateways; got != (clustertest.GatewayTotals{Total: 2}) {
		t.Errorf("overview: %+v", got)
	}

	// The coordinator dies and comes back: the same sessions, the same stream.
	before := c.Report()
	c.Signal(syscall.SIGKILL)
	c.startAgain()
	c.Logs.Await(t, "cluster is there again", "sessions=2", "streams=1", "gateways=2")
	after := c.Report()
	if diff := cmp.Diff(before.ActiveStreams, after.ActiveStreams); diff != "" {
		t.Errorf("streams before the crash (-) and after it (+)\n%s", diff)
	}
	if diff := cmp.Diff(before.Encoders, after.Encoders, cmpopts.EquateApproxTime(0)); diff != "" {
		t.Errorf("encoders before the crash (-) and after it (+)\n%s", diff)
	}
	c.AwaitMetrics(gatewayMetrics(2, 0, 1, 0, 1))

	// A gateway that is stopped takes its leave; one that dies is absent before it is given up.
	a.Signal(syscall.SIGTERM)
	a.AwaitExit(0)
	c.AwaitMetrics(gatewayMetrics(1, 0, 1, 0, 0))
	c.AwaitMetrics(map[string]float64{`coordinator_gateways_gone_total{reason="left"}`: 1, `coordinator_gateways_gone_total{reason="lost"}`: 0})
	b.Signal(syscall.SIGKILL)
	page = c.awaitGateways("the gateway is absent", func(p clustertest.GatewayPage) bool { return p.Matched == 1 && !p.Gateways[0].Linked })
	if g := page.Gateways[0]; g.ID != atB.ID || g.StreamingServers != 1 {
		t.Errorf("%+v", g)
	}
	c.AwaitMetrics(gatewayMetrics(0, 1, 1, 0, 0))
	if got := clustertest.Get[clustertest.Overview](c.Daemon, "/commands/overview").Gateways; got != (clustertest.GatewayTotals{Total: 1, Absent: 1}) {
		t.Errorf("overview: %+v", got)
	}
	c.AwaitMetrics(gatewayMetrics(0, 0, 0, 0, 0)) // 10 s later
	c.AwaitMetrics(map[string]float64{`coordinator_gateways_gone_total{reason="lost"}`: 1})
}

// While gateways are awaited it is said what is awaited, and commands are not answered as if nothing were live.
func TestCoordinatorThatGathersSaysSo(t *testing.T) {
	t.Parallel()
	c := newOperatedCluster(t)
	g := c.gateway()
	_, encoderID := g.Register(1)
	g.Signal(syscall.SIGSTOP)
	c.Signal(syscall.SIGKILL)
	c.startAgain()
	c.AwaitMetrics(gatewayMetrics(0, 1, 0, 0, 0))
	c.AwaitMetrics(map[string]float64{"coordinator_gathering": 1, "coordinator_ready": 0})
	if status, body := c.Call("GET", "/readyz?verbose"); status != 503 || body != "not ready\ncoordinator has just started and waits for its gateways\n" {
		t.Errorf("%d %s", status, body)
	}
	g.Signal(syscall.SIGCONT)
	c.AwaitMetrics(map[string]float64{"coordinator_gathering": 0, "coordinator_ready": 1})
	if page := clustertest.Get[clustertest.EncoderPage](c.Daemon, "/commands/encoders?q="+fmt.Sprint(encoderID)); page.Matched != 1 {
		t.Errorf("%+v", page)
	}
}
