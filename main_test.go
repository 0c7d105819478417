package main

// The lives of streams, each story a test of the whole daemon.

import (
	"net/http"
	"strings"
	"testing"

	"coordinator/internal/wire"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStreamLifeEndToEnd(t *testing.T) {
	t.Parallel()
	app := newApplication(t)
	app.answerKeys(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-record", "TRUE")
		w.Header().Set("x-previews", "256x144, 3")
		w.Header().Set("x-resolutions", "1280x720-30~2500, 640x360, bad, ORIGINAL")
	})
	d := startDaemon(t, app.variables("KEY_VERIFICATION_AUTH=Bearer", "KEY_VERIFICATION_AUTH_TOKEN=t0ken")...)
	server := d.dialPeer("rtmp", "x-external-ip", "10.1.2.3")
	encoder, encoderID := d.register(2)

	server.send("publish-request", "request-id", "7", "STREAM-CHANNEL", "chan", "Stream-Key", "s3cret", "User-IP", "192.0.2.7")
	accept := server.expect("PUBLISH-ACCEPT", "Request-ID", "7", "Stream-Channel", "chan")
	id := accept.Get("Stream-ID")
	start := encoder.expect("ENCODE-START")
	wantStart := []wire.Argument{
		{Name: "Stream-Channel", Value: "chan"}, {Name: "Stream-ID", Value: id}, {Name: "Stream-Source-Type", Value: "RTMP"},
		{Name: "Stream-Source-URI", Value: "rtmp://10.1.2.3:1935/chan/s3cret"}, {Name: "Resolutions", Value: "1280x720-30~2500,640x360,ORIGINAL"},
		{Name: "Record", Value: "True"}, {Name: "Previews", Value: "256x144,3"},
	}
	if diff := cmp.Diff(wantStart, start.Args); diff != "" {
		t.Error("ENCODE-START (-want +got):\n", diff)
	}
	key := app.awaitKeys(1)[0]
	for name, want := range map[string]string{"x-streaming-channel": "chan", "x-streaming-key": "s3cret", "x-user-ip": "192.0.2.7", "Authorization": "Bearer t0ken"} {
		if got := key.Get(name); got != want {
			t.Errorf("key verification: %s is %q, want %q", name, got, want)
		}
	}

	encoder.available("chan", id, "HLS-LIVE", "1280x720-30", "hls/chan/live.m3u8")
	app.awaitEvents(1)
	report := d.report()
	if len(report.ActiveStreams) != 1 || report.ActiveStreams[0] != (streamReport{"chan", id, report.StreamingServers[0].ID, encoderID}) {
		t.Errorf("report: %+v", report)
	}
	if _, body := d.call("GET", "/commands/capacity"); strings.TrimSpace(body) != `{"load":1,"capacity":2,"encoderCount":1}` {
		t.Errorf("capacity: %s", body)
	}

	if status, _ := d.call("POST", "/commands/close", "x-streaming-channel", "chan", "x-streaming-id", "*"); status != 200 {
		t.Errorf("close: %d", status)
	}
	server.expect("STREAM-KILL", "Stream-Channel", "chan", "Stream-ID", id)
	server.send("PUBLISH-END", "Stream-Channel", "chan", "Stream-ID", id)
	encoder.expect("ENCODE-STOP", "Stream-Channel", "chan", "Stream-ID", id)
	encoder.available("chan", id, "HLS-VOD", "1280x720-30", "hls/chan/vod.m3u8")
	encoder.closed("chan", id)
	d.awaitLoad(0)

	want := []string{
		"stream-available chan " + id + " HLS-LIVE 1280x720-30 hls/chan/live.m3u8",
		"stream-available chan " + id + " HLS-VOD 1280x720-30 hls/chan/vod.m3u8",
		"stream-closed chan " + id,
	}
	if diff := cmp.Diff(want, describeAll(app.awaitEvents(3))); diff != "" {
		t.Error("events (-want +got):\n", diff)
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(d.logs.String(), "s3cret") || strings.Contains(d.logs.String(), "t0ken") {
		t.Error("a secret is in the log")
	}
}

func TestChannelIsFreeAtPublishEndWhileTheOldEncodingFinishes(t *testing.T) {
	t.Parallel()
	app := newApplication(t)
	d := startDaemon(t, app.variables()...)
	server := d.dialPeer("rtmp")
	encoder, _ := d.register(2)

	first := publish(server, encoder, "show")
	encoder.available("show", first, "HLS-LIVE", "640x360-30", "first/live.m3u8")
	server.end("show", first)
	encoder.expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", first)
	second := publish(server, encoder, "show")
	d.awaitLoad(2)

	encoder.available("show", second, "HLS-LIVE", "640x360-30", "second/live.m3u8")
	encoder.available("show", first, "HLS-VOD", "640x360-30", "first/vod.m3u8")
	encoder.closed("show", first)
	d.awaitLoad(1)
	d.awaitLive(map[string]string{"show": second})
	server.quiet() // the late end of the first stream is no reason to kill the second

	server.end("show", second)
	encoder.expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", second)
	encoder.closed("show", second)
	d.awaitLoad(0)
	wantEvents(t, app, map[string][]string{
		first: {
			"stream-available show " + first + " HLS-LIVE 640x360-30 first/live.m3u8",
			"stream-available show " + first + " HLS-VOD 640x360-30 first/vod.m3u8",
			"stream-closed show " + first,
		},
		second: {
			"stream-available show " + second + " HLS-LIVE 640x360-30 second/live.m3u8",
			"stream-closed show " + second,
		},
	})
}

func TestStreamThatNobodyWasToldOfEndsWithoutAnEvent(t *testing.T) {
	t.Parallel()
	app := newApplication(t)
	d := startDaemon(t, app.variables()...)
	server := d.dialPeer("rtmp")
	encoder, _ := d.register(-1)

	silent := publish(server, encoder, "silent")
	encoder.closed("silent", silent)
	server.expect("STREAM-KILL", "Stream-Channel", "silent", "Stream-ID", silent)
	told := publish(server, encoder, "told")
	encoder.available("told", told, "IMG-PREVIEW", "256x144", "told/previews.json")
	encoder.closed("told", told)
	server.expect("STREAM-KILL", "Stream-Channel", "told", "Stream-ID", told)
	wantEvents(t, app, map[string][]string{told: {
		"stream-available told " + told + " IMG-PREVIEW 256x144 told/previews.json",
		"stream-closed told " + told,
	}})
}

func TestEncoderThatFailsAStreamFreesChannelAndSlot(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.dialPeer("rtmp")
	encoder, _ := d.register(1)

	id := publish(server, encoder, "bad-source")
	encoder.send("STREAM-CLOSED", "Stream-Channel", "bad-source", "Stream-ID", id, "Error-Code", "SOURCE", "Error-Message", "cannot be opened")
	server.expect("STREAM-KILL", "Stream-Channel", "bad-source", "Stream-ID", id)
	d.logs.await(t, "encoder reports a failed stream", "code=SOURCE", `message="cannot be opened"`)
	server.end("bad-source", id) // as peers do after a STREAM-KILL
	publish(server, encoder, "bad-source")
	d.awaitLoad(1)
}

func TestDeathOfAnEncoderKillsItsPublishersAndFreesChannels(t *testing.T) {
	t.Parallel()
	app := newApplication(t)
	d := startDaemon(t, app.variables()...)
	server := d.dialPeer("rtmp")
	dying, _ := d.register(2)
	live := publish(server, dying, "live")
	closing := publish(server, dying, "closing")
	dying.available("live", live, "HLS-LIVE", "640x360", "live.m3u8")
	dying.available("closing", closing, "HLS-LIVE", "640x360", "closing.m3u8")
	app.awaitEvents(2)
	server.end("closing", closing)
	dying.expect("ENCODE-STOP", "Stream-ID", closing)

	dying.conn.Close()
	server.expect("STREAM-KILL", "Stream-Channel", "live", "Stream-ID", live)
	server.end("live", live)
	server.quiet() // the publisher of the other one had ended
	d.awaitReport("no encoder", func(r clusterReport) bool { return len(r.Encoders) == 0 && len(r.ActiveStreams) == 0 })
	if _, body := d.call("GET", "/commands/capacity"); strings.TrimSpace(body) != `{"load":0,"capacity":0,"encoderCount":0}` {
		t.Errorf("capacity: %s", body)
	}
	wantEvents(t, app, map[string][]string{
		live:    {"stream-available live " + live + " HLS-LIVE 640x360 live.m3u8", "stream-closed live " + live},
		closing: {"stream-available closing " + closing + " HLS-LIVE 640x360 closing.m3u8", "stream-closed closing " + closing},
	})

	fresh, _ := d.register(1)
	fresh.closed("live", live) // what encoders say of their old tasks on a new connection
	d.logs.await(t, "not the sender's own", "method=STREAM-CLOSED", "stream="+live)
	publish(server, fresh, "live")
	d.awaitLoad(1)
}

func TestDeathOfAStreamingServerStopsItsEncodings(t *testing.T) {
	t.Parallel()
	app := newApplication(t)
	d := startDaemon(t, app.variables()...)
	dying, other := d.dialPeer("rtmp"), d.dialPeer("wss")
	encoder, _ := d.register(-1)
	first, second := publish(dying, encoder, "first"), publish(dying, encoder, "second")
	untouched := publish(other, encoder, "untouched")
	encoder.available("first", first, "HLS-LIVE", "640x360", "live.m3u8")
	app.awaitEvents(1)

	dying.conn.Close()
	stopped := map[string]string{}
	for range 2 {
		m := encoder.expect("ENCODE-STOP")
		stopped[m.Get("Stream-Channel")] = m.Get("Stream-ID")
	}
	if diff := cmp.Diff(map[string]string{"first": first, "second": second}, stopped); diff != "" {
		t.Error("ENCODE-STOP (-want +got):\n", diff)
	}
	d.awaitLive(map[string]string{"untouched": untouched})
	d.awaitLoad(3) // the encoder is still at work

	encoder.available("first", first, "HLS-VOD", "640x360", "vod.m3u8")
	if got := len(app.awaitEvents(2)); got != 2 {
		t.Errorf("%d events before the encoder is done, want 2", got)
	}
	encoder.closed("first", first)
	encoder.closed("second", second)
	d.awaitLoad(1)
	wantEvents(t, app, map[string][]string{first: {
		"stream-available first " + first + " HLS-LIVE 640x360 live.m3u8",
		"stream-available first " + first + " HLS-VOD 640x360 vod.m3u8",
		"stream-closed first " + first,
	}})

	back := d.dialPeer("rtmp")
	back.end("untouched", untouched) // not its own
	back.end("first", first)         // its own once, over the connection it lost
	d.logs.awaitLines(t, 2, "method=PUBLISH-END")
	publish(back, encoder, "first")
	other.quiet()
}

func TestMessagesAboutForeignStreamsChangeNothing(t *testing.T) {
	t.Parallel()
	app := newApplication(t)
	d := startDaemon(t, app.variables()...)
	server, strangeServer := d.dialPeer("rtmp"), d.dialPeer("rtmp", "x-custom-port", "1936")
	strangeEncoder, _ := d.register(0)
	encoder, _ := d.register(1) // from the same machine, but the later one: the other can't have taken its place
	id := publish(server, encoder, "mine")

	strangeServer.end("mine", id)
	strangeServer.end("mine", "*")
	server.end("mine", "other-id")
	server.end("mine", "")
	server.end("other", id)
	strangeEncoder.available("mine", id, "HLS-LIVE", "640x360", "forged.m3u8")
	strangeEncoder.closed("mine", id)
	encoder.available("other", id, "HLS-LIVE", "640x360", "forged.m3u8")
	encoder.available("mine", "other-id", "HLS-LIVE", "640x360", "forged.m3u8")
	encoder.closed("other", id)
	encoder.closed("mine", "other-id")
	encoder.closed("mine", "")
	d.logs.awaitLines(t, 12, "not the sender's own")

	d.awaitLive(map[string]string{"mine": id})
	d.awaitLoad(1)
	server.quiet()
	encoder.available("mine", id, "HLS-LIVE", "640x360", "genuine.m3u8")
	encoder.closed("mine", id)
	server.expect("STREAM-KILL", "Stream-ID", id)
	encoder.available("mine", id, "HLS-VOD", "640x360", "too-late.m3u8")
	encoder.closed("mine", id)
	d.logs.awaitLines(t, 14, "not the sender's own")
	server.end("mine", id)
	wantEvents(t, app, map[string][]string{id: {
		"stream-available mine " + id + " HLS-LIVE 640x360 genuine.m3u8",
		"stream-closed mine " + id,
	}})
}

func TestCloseCommandKillsOnlyTheStreamItNames(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.dialPeer("rtmp")
	encoder, _ := d.register(-1)
	id := publish(server, encoder, "show")
	other := publish(server, encoder, "other")
	closeStream := func(channel, id string) {
		t.Helper()
		if status, body := d.call("POST", "/commands/close", "x-streaming-channel", channel, "x-streaming-id", id); status != 200 {
			t.Fatalf("close %s %s: %d %s", channel, id, status, body)
		}
	}
	closeStream("show", "another-id")
	closeStream("show", other)
	closeStream("nothing-live", "*")
	server.quiet()
	closeStream("show", id)
	server.expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", id)
	closeStream("other", "*")
	server.expect("STREAM-KILL", "Stream-Channel", "other", "Stream-ID", other)
	d.awaitLive(map[string]string{"show": id, "other": other}) // until their server says that they ended
}

// wantEvents compares the events of each stream in their order; between streams there is none.
func wantEvents(t *testing.T, app *application, want map[string][]string) {
	t.Helper()
	count := 0
	for _, list := range want {
		count += len(list)
	}
	got := map[string][]string{}
	for _, h := range app.awaitEvents(count) {
		id := h.Get("x-streaming-id")
		got[id] = append(got[id], describe(h))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("events (-want +got):\n", diff)
	}
}
