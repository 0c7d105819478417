package e2e

// Gateways that are killed or freeze, and what is asked while one is missing.

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/control"
)

func TestKilledGatewayTakesOnlyItsOwnPeersAlong(t *testing.T) {
	t.Parallel()
	c, app := startBehindGateways(t, 3)
	near, dying, far := c.gateways[0], c.gateways[1], c.gateways[2]
	server := near.DialPeer("rtmp", "x-custom-port", "2001")
	lost, _ := dying.Register(1)
	failed, failedTold := liveShow(t, app, server, lost, "whose-encoder-is-lost")
	lostServer := dying.DialPeer("rtmp", "x-custom-port", "2002")
	encoder, _ := far.Register(-1)
	ended, endedTold := liveShow(t, app, lostServer, encoder, "whose-server-is-lost")
	untouched, untouchedTold := liveShow(t, app, server, encoder, "untouched")

	dying.Signal(syscall.SIGKILL)
	awaitKilled(dying.Process)
	lost.AwaitGone()
	lostServer.AwaitGone()
	orders := map[string]string{}
	for range 2 {
		select {
		case m := <-encoder.In:
			orders[m.Get("Stream-Channel")] = m.Method + " " + m.Get("Stream-ID")
		case <-time.After(clustertest.Patience):
			t.Fatalf("the encoder is told only %v", orders)
		}
	}
	if orders["whose-server-is-lost"] != "ENCODE-STOP "+ended {
		t.Errorf("the encoder is told %v", orders)
	}
	method, next, _ := strings.Cut(orders["whose-encoder-is-lost"], " ")
	if method != "ENCODE-START" || next == failed {
		t.Fatalf("the encoder is told %v", orders)
	}
	encoder.Closed("whose-server-is-lost", ended)
	encoder.Available("whose-encoder-is-lost", next, "HLS-LIVE", "640x360", "live.m3u8")
	app.AwaitStream(ended, append(endedTold, "stream-closed whose-server-is-lost "+ended)...)
	app.AwaitStream(failed, append(failedTold, "stream-closed whose-encoder-is-lost "+failed)...)
	app.AwaitStream(next, "stream-available whose-encoder-is-lost "+next+" HLS-LIVE 640x360 live.m3u8")
	server.Quiet()
	endShow(app, server, encoder, "untouched", untouched, untouchedTold)
	server.End("whose-encoder-is-lost", failed)
	encoder.Expect("ENCODE-STOP", "Stream-ID", next)
	encoder.Closed("whose-encoder-is-lost", next)
	wantOneContentPerID(t, app)
	c.awaitIdle()
}

// Peers of a gateway that was killed are back at another one at once, long before theirs counts as gone.
func TestPeersOfAKilledGatewayAreTakenInAtAnother(t *testing.T) {
	t.Parallel()
	c, app := startBehindGateways(t, 2)
	near, dying := c.gateways[0], c.gateways[1]
	server := dying.DialPeer("rtmp")
	encoder, _ := dying.Register(1)
	id, told := liveShow(t, app, server, encoder, "show")
	dying.Signal(syscall.SIGKILL)
	awaitKilled(dying.Process)
	server, encoder = near.DialPeer("rtmp"), near.DialPeer("hls")
	encoder.Send("REGISTER", "Capacity", "1")
	server.End("show", id)
	c.p.AwaitLive(map[string]string{})
	encoder.Closed("show", id)
	app.AwaitStream(id, append(told, "stream-closed show "+id)...)
	nextID, nextTold := liveShow(t, app, server, encoder, "show")
	endShow(app, server, encoder, "show", nextID, nextTold)
	c.p.AwaitReport("that the old sessions are gone", func(r clustertest.Report) bool { return len(r.StreamingServers) == 1 && len(r.Encoders) == 1 })
	c.awaitIdle()
}

func TestFrozenGateway(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]struct {
		frozen    time.Duration
		restarted bool
		lost      bool
	}{
		"5 s":                       {frozen: 5 * time.Second},
		"5 s, with a restart":       {frozen: 5 * time.Second, restarted: true},
		"20 s":                      {frozen: 20 * time.Second},
		"20 s, with a restart":      {frozen: 20 * time.Second, restarted: true, lost: true},
		"60 s":                      {frozen: 60 * time.Second, lost: true},
		"60 s, with a restart":      {frozen: 60 * time.Second, restarted: true, lost: true},
		"just over 10 s, restarted": {frozen: 10100 * time.Millisecond, restarted: true, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if story.frozen > 5*time.Second && !big {
				t.Skip("takes long: E2E_BIG=1")
			}
			freeze(t, story.frozen, story.restarted, story.lost)
		})
	}
}

// freeze stops a gateway with a streaming server and an encoder, each of which has a stream with one at another gateway.
func freeze(t *testing.T, frozen time.Duration, restarted, lost bool) {
	c, app := startBehindGateways(t, 2)
	near, cold := c.gateways[0], c.gateways[1]
	servers := []*clustertest.Peer{near.DialPeer("rtmp", "x-custom-port", "2000"), cold.DialPeer("rtmp", "x-custom-port", "2001")}
	coldEncoder, _ := cold.Register(2)
	var ids [3]string
	var told [3][]string
	ids[0], told[0] = liveShow(t, app, servers[0], coldEncoder, "show-0")
	ids[2], told[2] = liveShow(t, app, servers[1], coldEncoder, "show-2")
	nearEncoder, _ := near.Register(3)
	ids[1], told[1] = liveShow(t, app, servers[1], nearEncoder, "show-1")

	cold.Signal(syscall.SIGSTOP)
	defer cold.Signal(syscall.SIGCONT)
	thaw := time.After(frozen)
	coldEncoder.Available("show-0", ids[0], "HLS-LIVE", "1x1", "meanwhile")
	nearEncoder.Available("show-1", ids[1], "HLS-LIVE", "1x1", "meanwhile")
	meanwhile := func(i int) string {
		return fmt.Sprintf("stream-available show-%d %s HLS-LIVE 1x1 meanwhile", i, ids[i])
	}
	told[1] = append(told[1], meanwhile(1))
	if restarted {
		c.kill()
		c.start()
	} else {
		app.AwaitStream(ids[1], told[1]...)
	}
	beatUntil(thaw, servers[0], nearEncoder)
	cold.Signal(syscall.SIGCONT)
	if !lost {
		told[0] = append(told[0], meanwhile(0))
		for i, encoder := range []*clustertest.Peer{coldEncoder, nearEncoder, coldEncoder} {
			app.AwaitStream(ids[i], told[i]...)
			endShow(app, servers[min(i, 1)], encoder, fmt.Sprint("show-", i), ids[i], told[i])
		}
		wantOneContentPerID(t, app)
		c.awaitIdle()
		return
	}

	// It is refused, and all its sockets close. The stream of the publisher elsewhere goes on at another encoder.
	servers[1].AwaitGone()
	coldEncoder.AwaitGone()
	gone := []string{"level=ERROR", "took this gateway for gone"}
	if frozen < control.SilenceLimit { // else its peers count as silent, too
		gone = append(gone, "sockets_closed=2")
	}
	cold.Logs.Await(t, gone...)
	orders := map[string]string{}
	for range 2 {
		m := <-nearEncoder.In
		orders[m.Get("Stream-Channel")] = m.Method + " " + m.Get("Stream-ID")
	}
	next, started := strings.CutPrefix(orders["show-0"], "ENCODE-START ")
	if !started || orders["show-1"] != "ENCODE-STOP "+ids[1] {
		t.Fatalf("the encoder is told %v", orders)
	}
	nearEncoder.Closed("show-1", ids[1])
	nearEncoder.Available("show-0", next, "HLS-LIVE", "640x360", "live.m3u8")
	for i := range 3 {
		app.AwaitStream(ids[i], append(told[i], fmt.Sprintf("stream-closed show-%d %s", i, ids[i]))...)
	}
	app.AwaitStream(next, "stream-available show-0 "+next+" HLS-LIVE 640x360 live.m3u8")
	servers[0].Quiet()
	again := cold.DialPeer("rtmp", "x-custom-port", "2001")
	againID, againTold := liveShow(t, app, again, nearEncoder, "show-1")
	endShow(app, again, nearEncoder, "show-1", againID, againTold)
	servers[0].End("show-0", ids[0])
	nearEncoder.Expect("ENCODE-STOP", "Stream-ID", next)
	nearEncoder.Closed("show-0", next)
	wantOneContentPerID(t, app)
	c.awaitIdle()
}

// A gateway that holds much and has a thin line to the coordinator has said HELLO, but not yet all that it keeps.
func TestCommandsWaitWhileGatewaysAreAwaited(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	c := newGatewayCluster(t, app.Variables()...)
	here, slow := c.addGateway(false), c.addGateway(true)
	c.awaitLinked()
	server, encoder := here.DialPeer("rtmp", "x-custom-port", "2000"), here.DialPeer("hls")
	encoder.Send("REGISTER", "Capacity", "1")
	for i := range 100 {
		slow.DialPeer("rtmp", "x-custom-port", fmt.Sprint(3000+i), "x-external-ip", strings.Repeat("a", 50)+".example")
	}
	c.p.AwaitServers(101)
	id, told := liveShow(t, app, server, encoder, "show")
	c.kill()
	slow.link.Set(clustertest.Flow{PerSecond: 800, Slice: 400}, clustertest.Flow{})
	c.start()
	here.AwaitMetrics(map[string]float64{"gateway_links_total": 2})
	began := time.Now()
	if status, _ := c.p.Call("GET", "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("readyz: %d", status)
	}
	res, body := c.p.Request("POST", "/commands/close", "x-streaming-channel", "show", "x-streaming-id", "*")
	if took := time.Since(began); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || took < 9*time.Second {
		t.Errorf("close while gateways are awaited: %d %s after %v", res.StatusCode, body, took)
	}
	slow.link.Set(clustertest.Flow{}, clustertest.Flow{})
	c.awaitThere()
	if status, _ := c.p.Call("GET", "/readyz"); status != http.StatusOK {
		t.Errorf("readyz: %d", status)
	}
	c.p.AwaitServers(101)
	server.Quiet() // the close was not done
	endShow(app, server, encoder, "show", id, told)
	c.awaitIdle()
}

func TestGatewayThatStaysAwayIsAwaitedFor10Seconds(t *testing.T) {
	t.Parallel()
	c, app := startBehindGateways(t, 2)
	here, away := c.gateways[0], c.gateways[1]
	server := away.DialPeer("rtmp")
	encoder, _ := here.Register(1)
	id, told := liveShow(t, app, server, encoder, "show")
	c.kill()
	away.Signal(syscall.SIGKILL)
	awaitKilled(away.Process)
	began := time.Now()
	c.start()
	if status, _ := here.Call("GET", "/readyz"); status != http.StatusOK { // its own
		t.Errorf("readyz of the gateway: %d", status)
	}
	status, body := here.Call("GET", "/commands/capacity")
	if status == http.StatusServiceUnavailable { // it waits for 10 s, too
		status, body = here.Call("GET", "/commands/capacity")
	}
	if status != http.StatusOK || time.Since(began) < 9*time.Second {
		t.Errorf("capacity: %d %s after %v", status, body, time.Since(began))
	}
	encoder.Expect("ENCODE-STOP", "Stream-ID", id)
	encoder.Closed("show", id)
	app.AwaitStream(id, append(told, "stream-closed show "+id)...)
	c.awaitIdle()
}

func TestCloseAtAnAbsentGatewayIsNeverLost(t *testing.T) {
	t.Parallel()
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("restarted=", restarted), func(t *testing.T) {
			t.Parallel()
			app := clustertest.NewApplication(t)
			c := newGatewayCluster(t, app.Variables()...)
			here, away := c.addGateway(false), c.addGateway(true)
			c.awaitLinked()
			server := away.DialPeer("rtmp")
			at := here
			if restarted { // else the next coordinator would learn of the close from the encoder, which was told to stop
				at = away
			}
			encoder, _ := at.Register(1)
			id, told := liveShow(t, app, server, encoder, "show")
			c.awaitDone()
			silent := clustertest.Flow{Stalled: true}
			away.link.Set(silent, silent)
			res, body := here.Request("POST", "/commands/close", "x-streaming-channel", "show", "x-streaming-id", id)
			if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
				t.Fatalf("close at a gateway that is silent: %d %s", res.StatusCode, body)
			}
			if restarted {
				c.kill()
				away.link.Reset()
				c.start()
			}
			away.link.Set(clustertest.Flow{}, clustertest.Flow{})
			c.awaitThere()
			if restarted {
				server.Quiet() // nobody has promised that
			}
			c.p.MustCall("/commands/close", "x-streaming-channel", "show", "x-streaming-id", id)
			server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", id)
			server.End("show", id)
			encoder.Expect("ENCODE-STOP", "Stream-ID", id)
			encoder.Closed("show", id)
			app.AwaitStream(id, append(told, "stream-closed show "+id)...)
			c.awaitIdle()
		})
	}
}
