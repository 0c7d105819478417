package e2e

// What operators see of gateways: in reports, lists and metrics.

import (
	"fmt"
	"maps"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func (c *gatewayCluster) awaitGateways(what string, wanted func(clustertest.GatewayPage) bool) clustertest.GatewayPage {
	c.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); ; <-tick.C {
		page := clustertest.Get[clustertest.GatewayPage](c.p.Daemon, "/commands/gateways?sort=servers")
		if wanted(page) {
			return page
		}
		if time.Now().After(deadline) {
			c.Fatalf("%s: %+v", what, page)
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
	c, app := startBehindGateways(t, 2)
	a, b := c.gateways[0], c.gateways[1]
	encoder, encoderID := a.Register(4)
	server, serverID := b.Join("rtmp")
	_, directID := c.p.Join("wss")
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
		want := clustertest.Gateway{ID: g.ID, Address: "127.0.0.1", Linked: true, Version: version, StreamingServers: i, Encoders: 1 - i}
		if diff := cmp.Diff(want, g, cmpopts.IgnoreFields(clustertest.Gateway{}, "Since", "FramesIn", "FramesOut", "BytesIn", "BytesOut")); diff != "" || g.ID == "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	report := c.p.Report()
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
		if got := clustertest.Get[struct{ Matched int }](c.p.Daemon, "/commands/"+query); got.Matched != matched {
			t.Errorf("%s matches %d, want %d", query, got.Matched, matched)
		}
	}
	c.p.AwaitMetrics(gatewayMetrics(2, 0, 1, 0, 1))
	c.p.AwaitMetrics(map[string]float64{"coordinator_gathering": 0, "coordinator_gateway_unacknowledged_bytes": 0})
	if got := clustertest.Get[clustertest.Overview](c.p.Daemon, "/commands/overview").Gateways; got != (clustertest.GatewayTotals{Total: 2}) {
		t.Errorf("overview: %+v", got)
	}

	// The coordinator dies and comes back: the same sessions, the same stream.
	before := c.p.Report()
	c.kill()
	c.start()
	c.p.Logs.Await(t, "cluster is there again", "sessions=2", "streams=1", "gateways=2")
	after := c.p.Report()
	if diff := cmp.Diff(before.ActiveStreams, after.ActiveStreams); diff != "" {
		t.Errorf("streams before the crash (-) and after it (+)\n%s", diff)
	}
	if diff := cmp.Diff(before.Encoders, after.Encoders, cmpopts.EquateApproxTime(0)); diff != "" {
		t.Errorf("encoders before the crash (-) and after it (+)\n%s", diff)
	}
	c.p.AwaitMetrics(gatewayMetrics(2, 0, 1, 0, 1))

	// A gateway that is stopped takes its leave; one that dies is absent before it is given up.
	a.Signal(syscall.SIGTERM)
	a.AwaitExit(0)
	c.p.AwaitMetrics(gatewayMetrics(1, 0, 1, 0, 0))
	c.p.AwaitMetrics(map[string]float64{`coordinator_gateways_gone_total{reason="left"}`: 1, `coordinator_gateways_gone_total{reason="lost"}`: 0})
	b.Signal(syscall.SIGKILL)
	page = c.awaitGateways("the gateway is absent", func(p clustertest.GatewayPage) bool { return p.Matched == 1 && !p.Gateways[0].Linked })
	if g := page.Gateways[0]; g.ID != atB.ID || g.StreamingServers != 1 {
		t.Errorf("%+v", g)
	}
	c.p.AwaitMetrics(gatewayMetrics(0, 1, 1, 0, 0))
	if got := clustertest.Get[clustertest.Overview](c.p.Daemon, "/commands/overview").Gateways; got != (clustertest.GatewayTotals{Total: 1, Absent: 1}) {
		t.Errorf("overview: %+v", got)
	}
	c.p.AwaitMetrics(gatewayMetrics(0, 0, 0, 0, 0)) // 10 s later
	c.p.AwaitMetrics(map[string]float64{`coordinator_gateways_gone_total{reason="lost"}`: 1})
	c.p.Logs.Await(t, "streaming server disconnected", fmt.Sprint("streamServer=", serverID), `reason="its gateway is gone"`)
}

// While gateways are awaited it is said what is awaited, and commands are not answered as if nothing were live.
func TestCoordinatorThatGathersSaysSo(t *testing.T) {
	t.Parallel()
	c := newGatewayCluster(t)
	g := c.addGateway(false)
	c.awaitLinked()
	_, encoderID := g.Register(1)
	g.Signal(syscall.SIGSTOP)
	c.kill()
	c.start()
	c.p.AwaitMetrics(gatewayMetrics(0, 1, 0, 0, 0))
	c.p.AwaitMetrics(map[string]float64{"coordinator_gathering": 1, "coordinator_ready": 0})
	if status, body := c.p.Call("GET", "/readyz?verbose"); status != 503 || body != "not ready\ncoordinator has just started and waits for its gateways\n" {
		t.Errorf("%d %s", status, body)
	}
	g.Signal(syscall.SIGCONT)
	c.p.AwaitMetrics(map[string]float64{"coordinator_gathering": 0, "coordinator_ready": 1})
	if page := clustertest.Get[clustertest.EncoderPage](c.p.Daemon, "/commands/encoders?q="+fmt.Sprint(encoderID)); page.Matched != 1 {
		t.Errorf("%+v", page)
	}
}
