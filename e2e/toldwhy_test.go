package e2e

// What the application hears of publishers, and why things ended, over deaths of the coordinator.

import (
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

// toldWhy are the events of an application in short, those of each channel in order, repeats left out.
func toldWhy(events []http.Header) map[string][]string {
	told, seen := map[string][]string{}, map[string]bool{}
	for _, h := range events {
		if seen[h.Get("x-event-id")] {
			continue
		}
		seen[h.Get("x-event-id")] = true
		words := []string{h.Get("x-event-type"), h.Get("x-stream-type"), h.Get("x-reason"), h.Get("x-close-reason"), h.Get("x-passthrough")}
		if h.Get("x-duration") != "" {
			words = append(words, "with its duration")
		}
		channel := h.Get("x-streaming-channel")
		told[channel] = append(told[channel], strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " "))
	}
	return told
}

// passthrough has an application give each publisher words that come back.
func passthrough(app *clustertest.Application) {
	app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-passthrough", `of "`+r.Header.Get("x-streaming-channel")+`"`)
	})
}

// awaitToldWhy waits for these events, and no others.
func awaitToldWhy(t *testing.T, app *clustertest.Application, want map[string][]string) {
	t.Helper()
	for timeout := time.After(clustertest.Patience); ; {
		_, events, changed := app.Snapshot()
		diff := cmp.Diff(want, toldWhy(events))
		if diff == "" {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("told (-want +got):\n%s", diff)
		}
	}
}

// A publisher's end is one line in the log, and its reason is the x-close-reason of the streams that end with it.
func TestLogSaysWhyAPublisherEnded(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, _ := d.Join("rtmp")
	lost, _ := d.Join("rtmp")
	encoder, _ := d.Register(-1)
	ids := map[string]string{}
	for channel, at := range map[string]*clustertest.Peer{"ended": server, "app": server, "operator": server, "failed": server, "lost": lost} {
		ids[channel] = clustertest.Publish(at, encoder, channel)
	}
	killed := func(channel string) {
		t.Helper()
		if kill := server.Expect("STREAM-KILL"); kill.Get("Stream-Channel") != channel {
			t.Fatalf("%v, want that of %s", kill, channel)
		}
		server.End(channel, ids[channel])
	}
	server.End("ended", ids["ended"])
	d.MustCall("/commands/close", "x-streaming-channel", "app", "x-streaming-id", "*")
	killed("app")
	d.MustCall("/commands/close", "x-streaming-channel", "operator", "x-streaming-id", "*", "x-requested-by", "dashboard")
	killed("operator")
	encoder.Closed("failed", ids["failed"])
	killed("failed")
	lost.Conn.Close()
	for channel, reason := range map[string]string{
		"ended": "publisher-ended", "app": "closed-by-application", "operator": "closed-by-operator", "failed": "encoder-failed", "lost": "server-lost",
	} {
		line := d.Logs.Await(t, `"publisher ended"`, "channel="+channel+" ")
		if !strings.Contains(line, "stream="+ids[channel]+" ") || !strings.HasSuffix(line, " reason="+reason+"\n") {
			t.Errorf("%s: %swant stream %s and reason %s", channel, line, ids[channel], reason)
		}
	}
}

func TestPublishersHaveOneEndAfterACrash(t *testing.T) {
	t.Parallel()
	onlyDirect(t, "peers lose their sockets with the coordinator")
	app := clustertest.NewApplication(t)
	passthrough(app)
	variables := app.Variables("EVENT_CALLBACK_EXTRA=YES", "HTTP_PORT=0", "BIND_ADDRESS=127.0.0.1", "DATA_DIR="+t.TempDir())
	p := clustertest.Serve(t, coordinatorBinary, variables...)
	server, _ := p.Join("rtmp")
	encoder, _ := p.Register(-1)
	live := clustertest.Publish(server, encoder, "live")
	encoder.Available("live", live, "HLS-LIVE", "1x1", "i")
	starts := clustertest.Publish(server, encoder, "starts")
	over := clustertest.Publish(server, encoder, "over")
	encoder.Closed("over", over)
	server.Expect("STREAM-KILL")
	server.End("over", over)
	app.AwaitEvents(5)
	p.Signal(syscall.SIGKILL)
	awaitKilled(p)
	p = clustertest.Serve(t, coordinatorBinary, variables...)
	awaitToldWhy(t, app, map[string][]string{
		"live":   {`publish-accepted of "live"`, `stream-available HLS-LIVE of "live"`, `stream-closed coordinator-lost of "live"`},
		"starts": {`publish-accepted of "starts"`, `publish-failed coordinator_lost of "starts"`},
		"over":   {`publish-accepted of "over"`, `publish-failed source_failed of "over"`},
	})
	if !app.Has(starts, 2) {
		t.Error("publish-accepted and publish-failed have different stream IDs")
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestPublishersHaveOneEndAfterAStop(t *testing.T) {
	t.Parallel()
	onlyDirect(t, "peers lose their sockets with the coordinator")
	app := clustertest.NewApplication(t)
	passthrough(app)
	p := clustertest.Serve(t, coordinatorBinary, app.Variables("EVENT_CALLBACK_EXTRA=YES", "HTTP_PORT=0", "BIND_ADDRESS=127.0.0.1", "DATA_DIR="+t.TempDir())...)
	server, _ := p.Join("rtmp")
	encoder, _ := p.Register(-1)
	encoder.Available("live", clustertest.Publish(server, encoder, "live"), "HLS-LIVE", "1x1", "i")
	clustertest.Publish(server, encoder, "starts")
	app.AwaitEvents(3)
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	awaitToldWhy(t, app, map[string][]string{
		"live":   {`publish-accepted of "live"`, `stream-available HLS-LIVE of "live"`, `stream-closed coordinator-stopped of "live" with its duration`},
		"starts": {`publish-accepted of "starts"`, `publish-failed coordinator_stopped of "starts"`},
	})
}

// What the application said, what was announced and who was accepted is known to the next coordinator.
func TestSnapshotAndReasonsOutliveTheCoordinator(t *testing.T) {
	t.Parallel()
	c, app := startBehindGateways(t, 2, "EVENT_CALLBACK_EXTRA=YES")
	passthrough(app)
	server := c.gateways[0].DialPeer("rtmp")
	encoder, _ := c.gateways[1].Register(-1)
	live := clustertest.Publish(server, encoder, "live")
	index := "hls/live/" + live + "/1280x720-30/live.m3u8"
	encoder.Available("live", live, "HLS-LIVE", "1280x720-30", index)
	starts := clustertest.Publish(server, encoder, "starts")
	app.AwaitEvents(3)
	before := c.p.Report().ActiveStreams
	for range 2 {
		c.kill()
		c.start()
		after := c.p.Report().ActiveStreams
		slices.SortFunc(before, clustertest.ByChannel)
		slices.SortFunc(after, clustertest.ByChannel)
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("report (-before +after):\n%s", diff)
		}
	}
	if first := before[0]; first.Passthrough != `of "live"` || len(first.Announced) != 1 || first.Announced[0].IndexFile != index {
		t.Errorf("reported as %+v", first)
	}
	c.p.MustCall("/commands/close", "x-streaming-channel", "live", "x-streaming-id", "*", "x-requested-by", "dashboard")
	server.Expect("STREAM-KILL", "Stream-Channel", "live")
	c.awaitDone()
	c.kill() // the next one learns of the reason from the memos
	server.End("live", live)
	server.End("starts", starts)
	c.start()
	for range 2 {
		m := encoder.Expect("ENCODE-STOP")
		encoder.Closed(m.Get("Stream-Channel"), m.Get("Stream-ID"))
	}
	awaitToldWhy(t, app, map[string][]string{
		"live":   {`publish-accepted of "live"`, `stream-available HLS-LIVE of "live"`, `stream-closed closed-by-operator of "live" with its duration`},
		"starts": {`publish-accepted of "starts"`, `publish-failed publisher_ended of "starts"`},
	})
	wantOneContentPerID(t, app)
}

// An application that refuses types that it does not know is out of trouble when they are switched off.
func TestExtraEventsThatWaitAreDroppedWhenSwitchedOff(t *testing.T) {
	t.Parallel()
	onlyDirect(t, "the coordinator is started again")
	app := clustertest.NewApplication(t)
	app.AnswerEvents(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("x-event-type"), "stream-") {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	variables := app.Variables("HTTP_PORT=0", "BIND_ADDRESS=127.0.0.1", "DATA_DIR="+t.TempDir())
	p := clustertest.Serve(t, coordinatorBinary, append(variables, "EVENT_CALLBACK_EXTRA=YES")...)
	server, _ := p.Join("rtmp")
	encoder, _ := p.Register(-1)
	encoder.Available("live", clustertest.Publish(server, encoder, "live"), "HLS-LIVE", "1x1", "i")
	clustertest.Publish(server, encoder, "starts")
	awaitUndelivered(p.Daemon, 3) // on disk
	p.Signal(syscall.SIGKILL)
	awaitKilled(p)
	p = clustertest.Serve(t, coordinatorBinary, variables...)
	awaitToldWhy(t, app, map[string][]string{"live": {"stream-available HLS-LIVE", "stream-closed coordinator-lost"}})
	p.AwaitMetrics(map[string]float64{"coordinator_events_pending": 0})
	p.Logs.Await(t, "EVENT_CALLBACK_EXTRA is off", "publish-failed", "starts")
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}
