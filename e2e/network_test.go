package e2e

// A bad network, between the daemon and its peers and between the daemon and the application.

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

// proxiedDaemon is a daemon that reaches the application through one proxy and is reached through another.
func proxiedDaemon(t *testing.T) (d *clustertest.Daemon, app *clustertest.Application, toApp, toDaemon *clustertest.FaultProxy) {
	app, toApp, toDaemon = clustertest.NewApplication(t), clustertest.NewFaultProxy(t), clustertest.NewFaultProxy(t)
	target, err := url.Parse(app.Server.URL)
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + toApp.InFrontOf(t, target.Host)
	d = startDaemon(t, "KEY_VERIFICATION_URL="+base+"/verify", "EVENT_CALLBACK_URL="+base+"/event")
	direct := d.Addr
	d.Addr = toDaemon.InFrontOf(t, direct)
	return d, app, toApp, toDaemon
}

func TestBytesMayComeInAnyPiecesAndSlowly(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]clustertest.Flow{
		"byte by byte":     {Slice: 1},
		"late":             {Latency: 30 * time.Millisecond},
		"late and sliced":  {Latency: time.Millisecond, Slice: 7},
		"at 50 KiB/s":      {PerSecond: 50 << 10},
		"sliced, 20 KiB/s": {PerSecond: 20 << 10, Slice: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, app, toApp, toDaemon := proxiedDaemon(t)
			toApp.Set(f, f)
			toDaemon.Set(f, f)
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
		proxy := clustertest.NewFaultProxy(t)
		through := &clustertest.Daemon{T: t, Addr: proxy.InFrontOf(t, d.Addr), Logs: d.Logs}
		unlucky := through.DialPeer("rtmp")
		d.AwaitServers(2)
		proxy.Set(clustertest.Flow{ResetAfter: at}, clustertest.Flow{})
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
	proxy := clustertest.NewFaultProxy(t)
	through := &clustertest.Daemon{T: t, Addr: proxy.InFrontOf(t, d.Addr), Logs: d.Logs}
	unlucky, _ := through.Register(-1)
	proxy.Set(clustertest.Flow{}, clustertest.Flow{ResetAfter: 30})
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
				toApp.Reset() // whatever is under way: a request, an answer, nothing
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
	toApp.Set(clustertest.Flow{}, clustertest.Flow{ResetAfter: 9}) // of "HTTP/1.1 200 OK"
	encoder.Available("show", id, "HLS-LIVE", "640x360", "live")
	app.AwaitEvents(2) // so the answer to the first was lost
	toApp.Set(clustertest.Flow{}, clustertest.Flow{})
	encoder.Closed("show", id)
	app.AwaitStream(id, "stream-available show "+id+" HLS-LIVE 640x360 live", "stream-closed show "+id)
	events := app.AwaitEvents(3)
	if diff := cmp.Diff(events[0], events[1]); diff != "" {
		t.Error("the repeat is another event (-first +again):\n", diff)
	}
}
