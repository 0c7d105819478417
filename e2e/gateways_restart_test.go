package e2e

// The coordinator ends and starts again behind gateways: what single streams, and those who ask, see of it.

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

// liveShow makes a channel live and announces it.
func liveShow(t *testing.T, app *clustertest.Application, server, encoder *clustertest.Peer, channel string) (id string, told []string) {
	t.Helper()
	id = clustertest.Publish(server, encoder, channel)
	encoder.Available(channel, id, "HLS-LIVE", "640x360", "live.m3u8")
	told = []string{"stream-available " + channel + " " + id + " HLS-LIVE 640x360 live.m3u8"}
	app.AwaitStream(id, told...)
	return id, told
}

// endShow ends a publisher; nobody has been told anything since. told is what the application was told of the stream.
func endShow(app *clustertest.Application, server, encoder *clustertest.Peer, channel, id string, told []string) {
	server.End(channel, id)
	encoder.Expect("ENCODE-STOP", "Stream-Channel", channel, "Stream-ID", id)
	encoder.Available(channel, id, "HLS-VOD", "640x360", "vod.m3u8")
	encoder.Closed(channel, id)
	app.AwaitStream(id, append(told, "stream-available "+channel+" "+id+" HLS-VOD 640x360 vod.m3u8", "stream-closed "+channel+" "+id)...)
}

// wantOneContentPerID holds that an event that was told again was the same.
func wantOneContentPerID(t *testing.T, app *clustertest.Application) {
	t.Helper()
	_, events, _ := app.Snapshot()
	contents := map[string]string{}
	for _, h := range events {
		id, content := h.Get("x-event-id"), contentOf(h)
		if before, known := contents[id]; known && before != content {
			t.Errorf("event %s is told as\n%s\nand as\n%s", id, before, content)
		}
		contents[id] = content
	}
}

// within fails a test that took much longer than it should: the machine of a test may be busy.
func within(t *testing.T, took, should time.Duration, what string) {
	t.Helper()
	t.Logf("%s: %v", what, took)
	if took > 5*should {
		t.Errorf("%s took %v, should take %v", what, took, should)
	}
}

func TestRestartBehindGatewaysGoesUnnoticed(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*gatewayCluster){"SIGTERM": (*gatewayCluster).stop, "SIGKILL": (*gatewayCluster).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, app := startBehindGateways(t, 2)
			near, far := c.gateways[0], c.gateways[1]
			server := near.DialPeer("rtmp")
			encoder, _ := far.Register(-1)
			id, told := liveShow(t, app, server, encoder, "show")
			before := c.p.Report()
			for n := range 3 {
				end(c)
				c.start()
				began := time.Now()
				channel := fmt.Sprint("late-", n)
				server.Request(channel, "key")
				lateID := server.Expect("PUBLISH-ACCEPT", "Stream-Channel", channel).Get("Stream-ID")
				within(t, time.Since(began), time.Second, "from the start to the accept")
				encoder.Expect("ENCODE-START", "Stream-Channel", channel, "Stream-ID", lateID)
				encoder.Available(channel, lateID, "HLS-LIVE", "1x1", "late")
				endShow(app, server, encoder, channel, lateID, []string{"stream-available " + channel + " " + lateID + " HLS-LIVE 1x1 late"})
				if live := c.p.Report().Live(); len(live) != 1 || live["show"] != id {
					t.Errorf("live: %v", live)
				}
			}
			app.AwaitStream(id, told...)
			after := c.p.Report()
			if s, was := after.StreamingServers[0], before.StreamingServers[0]; len(after.StreamingServers) != 1 || s.ID != was.ID || !s.Since.Equal(was.Since) {
				t.Errorf("streaming server %+v, was %+v", s, was)
			}
			if e, was := after.Encoders[0], before.Encoders[0]; len(after.Encoders) != 1 || e.ID != was.ID || e.Load != 1 || !e.Since.Equal(was.Since) {
				t.Errorf("encoder %+v, was %+v", e, was)
			}
			endShow(app, server, encoder, "show", id, told)
			wantOneContentPerID(t, app)
			c.awaitIdle()
		})
	}
}

func TestPublisherWhoAsksWhileNobodyIsThereIsAccepted(t *testing.T) {
	t.Parallel()
	c, app := startBehindGateways(t, 1)
	server := c.gateways[0].DialPeer("wss")
	encoder, _ := c.gateways[0].Register(-1)
	c.awaitDone()
	c.kill()
	server.Request("show", "key")
	server.Request("bad", "!")
	c.gateways[0].AwaitMetrics(map[string]float64{"gateway_kept_messages": 2})
	c.start()
	got := []string{server.Expect("PUBLISH-DENY").Get("Stream-Channel")}
	m := server.Expect("PUBLISH-ACCEPT", "Stream-Channel", "show")
	if got[0] != "bad" {
		t.Errorf("denied %q", got)
	}
	id := m.Get("Stream-ID")
	encoder.Expect("ENCODE-START", "Stream-ID", id)
	encoder.Available("show", id, "HLS-LIVE", "1x1", "live")
	endShow(app, server, encoder, "show", id, []string{"stream-available show " + id + " HLS-LIVE 1x1 live"})
	c.awaitIdle()
}

// Who has come while nobody was there is at its gateway like all others, and outlives the next end as well.
func TestPeersThatComeWhileNobodyIsThereOutliveTheNextEnd(t *testing.T) {
	t.Parallel()
	c, app := startBehindGateways(t, 2)
	c.kill()
	server, encoder := c.gateways[0].DialPeer("rtmp"), c.gateways[1].DialPeer("hls")
	encoder.Send("REGISTER", "Capacity", "3")
	c.gateways[1].AwaitMetrics(map[string]float64{"gateway_kept_messages": 1})
	c.start()
	c.awaitThere()
	id, told := liveShow(t, app, server, encoder, "show")
	before := c.p.Report()
	c.kill()
	c.start()
	c.awaitThere()
	if after := c.p.Report(); len(after.Encoders) != 1 || after.Encoders[0].ID != before.Encoders[0].ID || after.Encoders[0].Load != 1 {
		t.Errorf("encoders: %+v, were %+v", after.Encoders, before.Encoders)
	}
	endShow(app, server, encoder, "show", id, told)
	c.awaitIdle()
}

func TestStreamOfADirectEncoderGoesOnAtAnotherAfterARestart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*gatewayCluster){"SIGTERM": (*gatewayCluster).stop, "SIGKILL": (*gatewayCluster).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, app := startBehindGateways(t, 1)
			server := c.gateways[0].DialPeer("rtmp")
			direct, _ := c.p.Register(-1)
			id, told := liveShow(t, app, server, direct, "show")
			other, _ := c.gateways[0].Register(-1)
			end(c)
			direct.AwaitGone()
			c.start()
			next := other.Expect("ENCODE-START", "Stream-Channel", "show").Get("Stream-ID")
			if next == id {
				t.Error("the encoding has the ID of the one that was lost")
			}
			other.Available("show", next, "HLS-LIVE", "640x360", "live.m3u8")
			app.AwaitStream(id, append(told, "stream-closed show "+id)...)
			app.AwaitStream(next, "stream-available show "+next+" HLS-LIVE 640x360 live.m3u8")
			server.End("show", id)
			other.Expect("ENCODE-STOP", "Stream-ID", next)
			other.Closed("show", next)
			wantStory(t, app, append(told, "stream-closed show "+id, "stream-available show "+next+" HLS-LIVE 640x360 live.m3u8", "stream-closed show "+next)...)
			c.awaitIdle()
		})
	}
}

func TestStreamAtTheGatewayThatComesBackLastLivesOn(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	c := newGatewayCluster(t, app.Variables()...)
	for _, proxied := range []bool{false, false, true} {
		c.addGateway(proxied)
	}
	c.awaitLinked()
	var servers, encoders []*clustertest.Peer
	var ids []string
	var told [][]string
	for i, g := range c.gateways {
		server := g.DialPeer("rtmp", "x-custom-port", fmt.Sprint(2000+i))
		encoder, _ := g.Register(1)
		id, events := liveShow(t, app, server, encoder, fmt.Sprint("show-", i)) // the others have no free slot
		servers, encoders, ids, told = append(servers, server), append(encoders, encoder), append(ids, id), append(told, events)
	}
	last := c.gateways[2]
	c.kill()
	last.link.Set(clustertest.Flow{Stalled: true}, clustertest.Flow{Stalled: true})
	encoders[2].Available("show-2", ids[2], "HLS-LIVE", "1x1", "meanwhile")
	c.start()
	for _, g := range c.gateways[:2] {
		g.AwaitMetrics(map[string]float64{"gateway_links_total": 2})
	}
	if status, _ := c.p.Call("GET", "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("ready (%d) although a gateway is missing", status)
	}
	last.link.Set(clustertest.Flow{}, clustertest.Flow{})
	c.awaitThere()
	if status, _ := c.p.Call("GET", "/readyz"); status != http.StatusOK {
		t.Errorf("not ready (%d) although all are there", status)
	}
	told[2] = append(told[2], "stream-available show-2 "+ids[2]+" HLS-LIVE 1x1 meanwhile")
	for i := range 3 {
		app.AwaitStream(ids[i], told[i]...)
		endShow(app, servers[i], encoders[i], fmt.Sprint("show-", i), ids[i], told[i])
	}
	c.awaitIdle()
}

func TestWhatPeersDoWhileNobodyIsThereIsToldInOrder(t *testing.T) {
	t.Parallel()
	c, app := startBehindGateways(t, 2)
	near, far := c.gateways[0], c.gateways[1]
	leaving := near.DialPeer("rtmp", "x-custom-port", "2001")
	staying := near.DialPeer("rtmp", "x-custom-port", "2002")
	first, _ := far.Register(3)
	goneID, goneTold := liveShow(t, app, leaving, first, "of-a-server-that-leaves")
	endedID, endedTold := liveShow(t, app, staying, first, "that-ends")
	movedID, movedTold := liveShow(t, app, staying, first, "that-goes-on")
	second, _ := near.Register(3)
	lostID, lostTold := liveShow(t, app, staying, second, "of-an-encoder-that-leaves")
	c.awaitDone()
	c.kill()

	first.Available("that-ends", endedID, "HLS-LIVE", "640x360", "2")
	staying.End("that-ends", endedID)
	first.Available("that-ends", endedID, "HLS-VOD", "640x360", "vod")
	first.Closed("that-ends", endedID)
	leaving.Conn.Close()
	second.Available("of-an-encoder-that-leaves", lostID, "HLS-LIVE", "640x360", "2")
	second.Conn.Close()
	first.Available("that-goes-on", movedID, "HLS-LIVE", "640x360", "2")
	near.AwaitMetrics(map[string]float64{"gateway_kept_messages": 4, `gateway_sockets{type="rtmp"}`: 1, `gateway_sockets{type="hls"}`: 0})
	far.AwaitMetrics(map[string]float64{"gateway_kept_messages": 4})
	c.start()

	available := func(channel, id, kind, index string) string {
		return "stream-available " + channel + " " + id + " " + kind + " 640x360 " + index
	}
	app.AwaitStream(endedID, append(endedTold, available("that-ends", endedID, "HLS-LIVE", "2"), available("that-ends", endedID, "HLS-VOD", "vod"), "stream-closed that-ends "+endedID)...)
	app.AwaitStream(lostID, append(lostTold, available("of-an-encoder-that-leaves", lostID, "HLS-LIVE", "2"), "stream-closed of-an-encoder-that-leaves "+lostID)...)
	orders := []string{}
	for range 2 {
		m := <-first.In
		orders = append(orders, m.Method+" "+m.Get("Stream-Channel"))
	}
	slices.Sort(orders)
	if !slices.Equal(orders, []string{"ENCODE-START of-an-encoder-that-leaves", "ENCODE-STOP of-a-server-that-leaves"}) {
		t.Errorf("the encoder is told %q", orders)
	}
	first.Closed("of-a-server-that-leaves", goneID)
	app.AwaitStream(goneID, append(goneTold, "stream-closed of-a-server-that-leaves "+goneID)...)
	movedTold = append(movedTold, available("that-goes-on", movedID, "HLS-LIVE", "2"))
	app.AwaitStream(movedID, movedTold...)
	staying.Quiet()
	wantOneContentPerID(t, app)
}

func TestPublisherWhomNobodyAnswersIsDeniedByTheGateway(t *testing.T) {
	t.Parallel()
	if !big {
		t.Skip("takes 18 s: E2E_BIG=1")
	}
	c, app := startBehindGateways(t, 1)
	server := c.gateways[0].DialPeer("rtmp")
	encoder, _ := c.gateways[0].Register(1)
	c.kill()
	began := time.Now()
	server.Request("show", "key")
	server.ExpectDenied("show")
	if took := time.Since(began); took < 17*time.Second || took > 19500*time.Millisecond {
		t.Errorf("denied after %v", took)
	}
	c.start()
	c.awaitThere()
	server.Quiet()
	keys, _, _ := app.Snapshot()
	if len(keys) > 0 {
		t.Errorf("the application is asked for a publisher who is gone: %v", keys)
	}
	id, told := liveShow(t, app, server, encoder, "show")
	endShow(app, server, encoder, "show", id, told)
	c.awaitIdle()
}

// Ten minutes without a coordinator, as TestTenMinutesWithoutACoordinator tells it on a fake clock.
func TestTenRealMinutesWithoutACoordinator(t *testing.T) {
	t.Parallel()
	if !big {
		t.Skip("takes ten minutes: E2E_BIG=1")
	}
	c, app := startBehindGateways(t, 1)
	g := c.gateways[0]
	server, leaving := g.DialPeer("rtmp", "x-custom-port", "2001"), g.DialPeer("rtmp", "x-custom-port", "2002")
	encoder, _ := g.Register(4)
	id, told := liveShow(t, app, server, encoder, "stays")
	endedID, endedTold := liveShow(t, app, server, encoder, "ends")
	goneID, goneTold := liveShow(t, app, leaving, encoder, "leaves")
	c.awaitDone()
	c.kill()
	server.End("ends", endedID)
	leaving.Conn.Close()
	kept := map[string]float64{"gateway_kept_messages": 2}
	g.AwaitMetrics(kept)
	for minute := range 10 {
		end := time.After(time.Minute)
		server.Request(fmt.Sprint("denied-", minute), "key")
		server.ExpectDenied(fmt.Sprint("denied-", minute))
		beatUntil(end, server, encoder)
		g.AwaitMetrics(kept)
	}
	c.start()
	c.awaitThere()
	orders := []string{}
	for range 2 {
		m := <-encoder.In
		orders = append(orders, m.Method+" "+m.Get("Stream-ID"))
	}
	slices.Sort(orders)
	wanted := []string{"ENCODE-STOP " + endedID, "ENCODE-STOP " + goneID}
	slices.Sort(wanted)
	if !slices.Equal(orders, wanted) {
		t.Errorf("the encoder is told %q", orders)
	}
	encoder.Closed("ends", endedID)
	encoder.Closed("leaves", goneID)
	app.AwaitStream(endedID, append(endedTold, "stream-closed ends "+endedID)...)
	app.AwaitStream(goneID, append(goneTold, "stream-closed leaves "+goneID)...)
	server.Quiet()
	endShow(app, server, encoder, "stays", id, told)
	wantOneContentPerID(t, app)
	c.awaitIdle()
}
