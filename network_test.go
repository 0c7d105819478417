package main

// A bad network, between the daemon and its peers and between the daemon and the application.

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A half-open connection: the peer goes on, as it believes, but nothing of it arrives any more, not even its end.
func TestHalfOpenPeerIsDroppedAfter60SecondsAndItsStreamsEnd(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"rtmp", "hls"} {
		t.Run(lost, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n, proxy := newFakeNet(t), newFaultProxy(t)
				proxied := n.reading(n.dialThrough(proxy.wrap(n.connect), lost))
				server, encoder := proxied, proxied
				if lost == "rtmp" {
					encoder = n.register()
				} else {
					server = n.dialPeer("wss")
					proxied.send("REGISTER", "Capacity", "-1")
					synctest.Wait()
				}
				id := publish(server, encoder, "show")
				n.wait(15 * time.Second)
				server.send("HEARTBEAT")
				encoder.send("HEARTBEAT")
				synctest.Wait()

				proxy.set(flow{blackhole: true}, flow{blackhole: true})
				for range 5 {
					n.wait(10 * time.Second)
					server.send("HEARTBEAT")
					encoder.send("HEARTBEAT")
				}
				proxied.conn.Close()
				n.wait(10*time.Second - 1)
				n.wantConnected(1, 1, 1)
				n.wait(1)
				if lost == "rtmp" {
					n.wantConnected(0, 1, 0)
					n.logs.await(t, "streaming server disconnected", "silent for 60 s")
					encoder.expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", id)
				} else {
					n.logs.await(t, "encoder disconnected", "silent for 60 s")
					n.wantConnected(1, 0, 0)
					server.expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", id)
				}
			})
		})
	}
}

func TestReaderThatStallsIsCutWithin10SecondsThoughItSpeaks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, proxy := newFakeNet(t), newFaultProxy(t)
		stalled := n.reading(n.dialThrough(proxy.wrap(n.connect), "rtmp"))
		server, encoder := n.dialPeer("rtmp"), n.register()
		proxy.set(flow{}, flow{stalled: true})
		asked := time.Now()
		for time.Since(asked) < 10*time.Second {
			if stalled.sendRaw(1, "PUBLISH-REQUEST\nRequest-ID:1\n") != nil {
				break
			}
			n.wait(100 * time.Millisecond)
		}
		if took := time.Since(asked); took < 8*time.Second || took >= 10*time.Second {
			t.Errorf("cut after %v", took)
		}
		n.wantConnected(1, 1, 0)
		n.logs.await(t, "streaming server disconnected", "does not read")
		publish(server, encoder, "show")
	})
}

// tellLife plays a stream's whole life and waits for its events.
func tellLife(t *testing.T, app *application, server, encoder *testPeer, channel string) {
	t.Helper()
	id := publish(server, encoder, channel)
	encoder.available(channel, id, "HLS-LIVE", "640x360", "live.m3u8")
	server.end(channel, id)
	encoder.expect("ENCODE-STOP", "Stream-ID", id)
	encoder.available(channel, id, "HLS-VOD", "640x360", "vod.m3u8")
	encoder.closed(channel, id)
	app.awaitStream(id,
		"stream-available "+channel+" "+id+" HLS-LIVE 640x360 live.m3u8",
		"stream-available "+channel+" "+id+" HLS-VOD 640x360 vod.m3u8",
		"stream-closed "+channel+" "+id)
}

// awaitStream waits for the events of one stream, which are exactly the wanted ones, repeats apart.
func (a *application) awaitStream(id string, want ...string) {
	a.t.Helper()
	timeout := time.After(patience)
	for {
		_, events, changed := a.snapshot()
		var got []string
		seen := map[string]bool{}
		for _, h := range events {
			if event := h.Get("x-event-id"); h.Get("x-streaming-id") == id && !seen[event] {
				seen[event] = true
				got = append(got, describe(h))
			}
		}
		if len(got) > len(want) || strings.Join(got, "\n") != strings.Join(want[:len(got)], "\n") {
			a.t.Fatalf("events of the stream:\n%q, want\n%q", got, want)
		}
		if len(got) == len(want) {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			a.t.Fatalf("events of the stream:\n%q, want\n%q", got, want)
		}
	}
}

// proxiedDaemon is a daemon that reaches the application through one proxy and is reached through another.
func proxiedDaemon(t *testing.T) (d *testDaemon, app *application, toApp, toDaemon *faultProxy) {
	app, toApp, toDaemon = newApplication(t), newFaultProxy(t), newFaultProxy(t)
	target, err := url.Parse(app.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + toApp.inFrontOf(t, target.Host)
	d = startDaemon(t, "KEY_VERIFICATION_URL="+base+"/verify", "EVENT_CALLBACK_URL="+base+"/event")
	direct := d.addr
	d.addr = toDaemon.inFrontOf(t, direct)
	return d, app, toApp, toDaemon
}

func TestBytesMayComeInAnyPiecesAndSlowly(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]flow{
		"byte by byte":     {slice: 1},
		"late":             {latency: 30 * time.Millisecond},
		"late and sliced":  {latency: time.Millisecond, slice: 7},
		"at 50 KiB/s":      {perSecond: 50 << 10},
		"sliced, 20 KiB/s": {perSecond: 20 << 10, slice: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, app, toApp, toDaemon := proxiedDaemon(t)
			toApp.set(f, f)
			toDaemon.set(f, f)
			server := d.dialPeer("rtmp")
			encoder, _ := d.register(2)
			tellLife(t, app, server, encoder, "show")
		})
	}
}

func TestResetInTheMiddleOfAMessageLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	d, app, _, _ := proxiedDaemon(t)
	server := d.dialPeer("rtmp")
	encoder, _ := d.register(-1)
	for _, at := range []int{1, 2, 6, 7, 20, 60} {
		proxy := newFaultProxy(t)
		through := &testDaemon{t: t, addr: proxy.inFrontOf(t, d.addr), logs: d.logs}
		unlucky := through.dialPeer("rtmp")
		d.awaitServers(2)
		proxy.set(flow{resetAfter: at}, flow{})
		unlucky.request(fmt.Sprint("reset-", at), "key")
		unlucky.awaitGone()
		d.awaitServers(1)
	}
	d.awaitLive(map[string]string{})
	tellLife(t, app, server, encoder, "show")
	d.awaitLoad(0)
}

func TestResetInTheMiddleOfAnOrderFreesTheSlotAndTheChannel(t *testing.T) {
	t.Parallel()
	d, app, _, _ := proxiedDaemon(t)
	server := d.dialPeer("wss")
	proxy := newFaultProxy(t)
	through := &testDaemon{t: t, addr: proxy.inFrontOf(t, d.addr), logs: d.logs}
	unlucky, _ := through.register(-1)
	proxy.set(flow{}, flow{resetAfter: 30})
	server.request("show", "key")
	id := server.expect("PUBLISH-ACCEPT").Get("Stream-ID")
	server.expect("STREAM-KILL", "Stream-ID", id)
	server.end("show", id)
	unlucky.awaitGone()
	encoder, _ := d.register(-1)
	tellLife(t, app, server, encoder, "show")
	d.awaitLoad(0)
}

func TestApplicationBehindResetsGetsEverythingInOrder(t *testing.T) {
	t.Parallel()
	d, app, toApp, _ := proxiedDaemon(t)
	server := d.dialPeer("rtmp")
	encoder, _ := d.register(-1)
	const streams = 10
	ids := map[string][]string{}
	for i := range streams {
		channel := fmt.Sprint("show-", i)
		id := publish(server, encoder, channel)
		for part := range 5 {
			index := fmt.Sprint(part)
			encoder.available(channel, id, "HLS-LIVE", "640x360", index)
			ids[id] = append(ids[id], "stream-available "+channel+" "+id+" HLS-LIVE 640x360 "+index)
			if (i+part)%7 == 0 {
				toApp.reset() // whatever is under way: a request, an answer, nothing
			}
		}
		encoder.closed(channel, id)
		server.expect("STREAM-KILL", "Stream-ID", id)
		ids[id] = append(ids[id], "stream-closed "+channel+" "+id)
	}
	for id, want := range ids {
		app.awaitStream(id, want...)
	}
}

func TestEventWhoseAnswerIsLostIsRepeatedUnchanged(t *testing.T) {
	t.Parallel()
	d, app, toApp, _ := proxiedDaemon(t)
	server := d.dialPeer("rtmp")
	encoder, _ := d.register(-1)
	id := publish(server, encoder, "show")
	toApp.set(flow{}, flow{resetAfter: 9}) // of "HTTP/1.1 200 OK"
	encoder.available("show", id, "HLS-LIVE", "640x360", "live")
	app.awaitEvents(2) // so the answer to the first was lost
	toApp.set(flow{}, flow{})
	encoder.closed("show", id)
	app.awaitStream(id, "stream-available show "+id+" HLS-LIVE 640x360 live", "stream-closed show "+id)
	events := app.awaitEvents(3)
	if diff := cmp.Diff(events[0], events[1]); diff != "" {
		t.Error("the repeat is another event (-first +again):\n", diff)
	}
}

// reaches makes the daemon reach an application in the same bubble.
func (n *fakeNet) reaches(connect func() (net.Conn, error)) {
	dial := func(context.Context, string, string) (net.Conn, error) { return connect() }
	if n.verifier.client != nil {
		n.verifier.client.transport.DialContext = dial
	}
	if n.events.client != nil {
		n.events.client.transport.DialContext = dial
		n.events.Start()
	}
}

// fakeApplication are the variables of an application that is reached with reaches.
func fakeApplication() []string {
	return []string{"KEY_VERIFICATION_URL=http://application/verify", "EVENT_CALLBACK_URL=http://application/event"}
}

func TestApplicationBehindABlackholeRecoversEventsAndVerifications(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener := newPipeListener()
		app, proxy := newApplicationOn(t, listener), newFaultProxy(t)
		n := newFakeNet(t, fakeApplication()...)
		n.reaches(proxy.wrap(listener.connect))
		server, encoder := n.dialPeer("rtmp"), n.register()
		beat := func() { server.send("HEARTBEAT"); encoder.send("HEARTBEAT") }
		id := publish(server, encoder, "show")
		encoder.available("show", id, "HLS-LIVE", "640x360", "live")
		synctest.Wait()

		proxy.set(flow{blackhole: true}, flow{blackhole: true})
		encoder.available("show", id, "HLS-VOD", "640x360", "vod")
		for round := range 3 {
			server.request(fmt.Sprint("other-", round), "key")
			n.wait(16 * time.Second)
			server.expectDenied(fmt.Sprint("other-", round))
			beat()
		}
		n.wantConnected(1, 1, 1)
		proxy.set(flow{}, flow{})
		healed := time.Now()
		encoder.closed("show", id)
		server.expect("STREAM-KILL", "Stream-ID", id)
		beat()
		app.awaitStream(id, "stream-available show "+id+" HLS-LIVE 640x360 live",
			"stream-available show "+id+" HLS-VOD 640x360 vod", "stream-closed show "+id)
		if took := time.Since(healed); took > answerTimeout+30*time.Second {
			t.Errorf("events came %v after the network", took)
		}
		beat()
		publish(server, encoder, "again")
	})
}
