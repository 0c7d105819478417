package main

// A bad network, between the daemon and its peers and between the daemon and the application.

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"

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
				proxied := n.reading(n.dialThrough(proxy.wrap(n.Connect), lost))
				server, encoder := proxied, proxied
				if lost == "rtmp" {
					encoder = n.register()
				} else {
					server = n.dialPeer("wss")
					proxied.Send("REGISTER", "Capacity", "-1")
					synctest.Wait()
				}
				id := clustertest.Publish(server, encoder, "show")
				n.wait(15 * time.Second)
				server.Send("HEARTBEAT")
				encoder.Send("HEARTBEAT")
				synctest.Wait()

				proxy.set(flow{blackhole: true}, flow{blackhole: true})
				for range 5 {
					n.wait(10 * time.Second)
					server.Send("HEARTBEAT")
					encoder.Send("HEARTBEAT")
				}
				proxied.Conn.Close()
				n.wait(10*time.Second - 1)
				n.wantConnected(1, 1, 1)
				n.wait(1)
				if lost == "rtmp" {
					n.wantConnected(0, 1, 0)
					n.logs.Await(t, "streaming server disconnected", "silent for 60 s")
					encoder.Expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", id)
				} else {
					n.logs.Await(t, "encoder disconnected", "silent for 60 s")
					n.wantConnected(1, 0, 0)
					server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", id)
				}
			})
		})
	}
}

func TestReaderThatStallsIsCutWithin10SecondsThoughItSpeaks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, proxy := newFakeNet(t), newFaultProxy(t)
		stalled := n.reading(n.dialThrough(proxy.wrap(n.Connect), "rtmp"))
		server, encoder := n.dialPeer("rtmp"), n.register()
		proxy.set(flow{}, flow{stalled: true})
		asked := time.Now()
		for time.Since(asked) < 10*time.Second {
			if stalled.SendRaw(1, "PUBLISH-REQUEST\nRequest-ID:1\n") != nil {
				break
			}
			n.wait(100 * time.Millisecond)
		}
		if took := time.Since(asked); took < 8*time.Second || took >= 10*time.Second {
			t.Errorf("cut after %v", took)
		}
		n.wantConnected(1, 1, 0)
		n.logs.Await(t, "streaming server disconnected", "does not read")
		clustertest.Publish(server, encoder, "show")
	})
}

// proxiedDaemon is a daemon that reaches the application through one proxy and is reached through another.
func proxiedDaemon(t *testing.T) (d *clustertest.Daemon, app *clustertest.Application, toApp, toDaemon *faultProxy) {
	app, toApp, toDaemon = clustertest.NewApplication(t), newFaultProxy(t), newFaultProxy(t)
	target, err := url.Parse(app.Server.URL)
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + toApp.inFrontOf(t, target.Host)
	d = startDaemon(t, "KEY_VERIFICATION_URL="+base+"/verify", "EVENT_CALLBACK_URL="+base+"/event")
	direct := d.Addr
	d.Addr = toDaemon.inFrontOf(t, direct)
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
			server := d.DialPeer("rtmp")
			encoder, _ := d.Register(2)
			clustertest.TellLife(t, app, server, encoder, "show")
		})
	}
}

func TestResetInTheMiddleOfAMessageLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	d, app, _, _ := proxiedDaemon(t)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(-1)
	for _, at := range []int{1, 2, 6, 7, 20, 60} {
		proxy := newFaultProxy(t)
		through := &clustertest.Daemon{T: t, Addr: proxy.inFrontOf(t, d.Addr), Logs: d.Logs}
		unlucky := through.DialPeer("rtmp")
		d.AwaitServers(2)
		proxy.set(flow{resetAfter: at}, flow{})
		unlucky.Request(fmt.Sprint("reset-", at), "key")
		unlucky.AwaitGone()
		d.AwaitServers(1)
	}
	d.AwaitLive(map[string]string{})
	clustertest.TellLife(t, app, server, encoder, "show")
	d.AwaitLoad(0)
}

func TestResetInTheMiddleOfAnOrderFreesTheSlotAndTheChannel(t *testing.T) {
	t.Parallel()
	d, app, _, _ := proxiedDaemon(t)
	server := d.DialPeer("wss")
	proxy := newFaultProxy(t)
	through := &clustertest.Daemon{T: t, Addr: proxy.inFrontOf(t, d.Addr), Logs: d.Logs}
	unlucky, _ := through.Register(-1)
	proxy.set(flow{}, flow{resetAfter: 30})
	server.Request("show", "key")
	id := server.Expect("PUBLISH-ACCEPT").Get("Stream-ID")
	server.Expect("STREAM-KILL", "Stream-ID", id)
	server.End("show", id)
	unlucky.AwaitGone()
	encoder, _ := d.Register(-1)
	clustertest.TellLife(t, app, server, encoder, "show")
	d.AwaitLoad(0)
}

func TestApplicationBehindResetsGetsEverythingInOrder(t *testing.T) {
	t.Parallel()
	d, app, toApp, _ := proxiedDaemon(t)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(-1)
	const streams = 10
	ids := map[string][]string{}
	for i := range streams {
		channel := fmt.Sprint("show-", i)
		id := clustertest.Publish(server, encoder, channel)
		for part := range 5 {
			index := fmt.Sprint(part)
			encoder.Available(channel, id, "HLS-LIVE", "640x360", index)
			ids[id] = append(ids[id], "stream-available "+channel+" "+id+" HLS-LIVE 640x360 "+index)
			if (i+part)%7 == 0 {
				toApp.reset() // whatever is under way: a request, an answer, nothing
			}
		}
		encoder.Closed(channel, id)
		server.Expect("STREAM-KILL", "Stream-ID", id)
		ids[id] = append(ids[id], "stream-closed "+channel+" "+id)
	}
	for id, want := range ids {
		app.AwaitStream(id, want...)
	}
}

func TestEventWhoseAnswerIsLostIsRepeatedUnchanged(t *testing.T) {
	t.Parallel()
	d, app, toApp, _ := proxiedDaemon(t)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(-1)
	id := clustertest.Publish(server, encoder, "show")
	toApp.set(flow{}, flow{resetAfter: 9}) // of "HTTP/1.1 200 OK"
	encoder.Available("show", id, "HLS-LIVE", "640x360", "live")
	app.AwaitEvents(2) // so the answer to the first was lost
	toApp.set(flow{}, flow{})
	encoder.Closed("show", id)
	app.AwaitStream(id, "stream-available show "+id+" HLS-LIVE 640x360 live", "stream-closed show "+id)
	events := app.AwaitEvents(3)
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
		listener := clustertest.NewPipes()
		app, proxy := clustertest.NewApplicationOn(t, listener), newFaultProxy(t)
		n := newFakeNet(t, fakeApplication()...)
		n.reaches(proxy.wrap(listener.Connect))
		server, encoder := n.dialPeer("rtmp"), n.register()
		beat := func() { server.Send("HEARTBEAT"); encoder.Send("HEARTBEAT") }
		id := clustertest.Publish(server, encoder, "show")
		encoder.Available("show", id, "HLS-LIVE", "640x360", "live")
		synctest.Wait()

		proxy.set(flow{blackhole: true}, flow{blackhole: true})
		encoder.Available("show", id, "HLS-VOD", "640x360", "vod")
		for round := range 3 {
			server.Request(fmt.Sprint("other-", round), "key")
			n.wait(16 * time.Second)
			server.ExpectDenied(fmt.Sprint("other-", round))
			beat()
		}
		n.wantConnected(1, 1, 1)
		proxy.set(flow{}, flow{})
		healed := time.Now()
		encoder.Closed("show", id)
		server.Expect("STREAM-KILL", "Stream-ID", id)
		beat()
		app.AwaitStream(id, "stream-available show "+id+" HLS-LIVE 640x360 live",
			"stream-available show "+id+" HLS-VOD 640x360 vod", "stream-closed show "+id)
		if took := time.Since(healed); took > answerTimeout+30*time.Second {
			t.Errorf("events came %v after the network", took)
		}
		beat()
		clustertest.Publish(server, encoder, "again")
	})
}
