package e2e

// The lives of streams, each story a test of the whole daemon.

import (
	"net/http"
	"strings"
	"testing"

	"coordinator/internal/clustertest"
	"coordinator/internal/wire"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestStreamLifeEndToEnd(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-record", "TRUE")
		w.Header().Set("x-previews", "256x144, 3")
		w.Header().Set("x-resolutions", "1280x720-30~2500, 640x360, bad, ORIGINAL")
	})
	d := startDaemon(t, app.Variables("KEY_VERIFICATION_AUTH=Bearer", "KEY_VERIFICATION_AUTH_TOKEN=t0ken")...)
	server := d.DialPeer("rtmp", "x-external-ip", "10.1.2.3")
	encoder, encoderID := d.Register(2)

	server.Send("publish-request", "request-id", "7", "STREAM-CHANNEL", "chan", "Stream-Key", "s3cret", "User-IP", "192.0.2.7")
	accept := server.Expect("PUBLISH-ACCEPT", "Request-ID", "7", "Stream-Channel", "chan")
	id := accept.Get("Stream-ID")
	start := encoder.Expect("ENCODE-START")
	wantStart := []wire.Argument{
		{Name: "Stream-Channel", Value: "chan"}, {Name: "Stream-ID", Value: id}, {Name: "Stream-Source-Type", Value: "RTMP"},
		{Name: "Stream-Source-URI", Value: "rtmp://10.1.2.3:1935/chan/s3cret"}, {Name: "Resolutions", Value: "1280x720-30~2500,640x360,ORIGINAL"},
		{Name: "Record", Value: "True"}, {Name: "Previews", Value: "256x144,3"},
	}
	if diff := cmp.Diff(wantStart, start.Args); diff != "" {
		t.Error("ENCODE-START (-want +got):\n", diff)
	}
	key := app.AwaitKeys(1)[0]
	for name, want := range map[string]string{"x-streaming-channel": "chan", "x-streaming-key": "s3cret", "x-user-ip": "192.0.2.7", "Authorization": "Bearer t0ken"} {
		if got := key.Get(name); got != want {
			t.Errorf("key verification: %s is %q, want %q", name, got, want)
		}
	}

	encoder.Available("chan", id, "HLS-LIVE", "1280x720-30", "hls/chan/live.m3u8")
	app.AwaitEvents(1)
	report := d.Report()
	streams := []clustertest.ActiveStream{{
		Channel: "chan", StreamID: id, StreamServer: report.StreamingServers[0].ID, Encoder: encoderID,
		Announced: []clustertest.Output{{StreamType: "HLS-LIVE", Resolution: "1280x720-30", IndexFile: "hls/chan/live.m3u8"}},
	}}
	if diff := cmp.Diff(streams, report.ActiveStreams, cmpopts.IgnoreFields(clustertest.ActiveStream{}, "Since")); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if _, body := d.Call("GET", "/commands/capacity"); strings.TrimSpace(body) != `{"load":1,"capacity":2,"encoderCount":1}` {
		t.Errorf("capacity: %s", body)
	}

	if status, _ := d.Call("POST", "/commands/close", "x-streaming-channel", "chan", "x-streaming-id", "*"); status != 200 {
		t.Errorf("close: %d", status)
	}
	server.Expect("STREAM-KILL", "Stream-Channel", "chan", "Stream-ID", id)
	server.Send("PUBLISH-END", "Stream-Channel", "chan", "Stream-ID", id)
	encoder.Expect("ENCODE-STOP", "Stream-Channel", "chan", "Stream-ID", id)
	encoder.Available("chan", id, "HLS-VOD", "1280x720-30", "hls/chan/vod.m3u8")
	encoder.Closed("chan", id)
	d.AwaitLoad(0)

	want := []string{
		"stream-available chan " + id + " HLS-LIVE 1280x720-30 hls/chan/live.m3u8",
		"stream-available chan " + id + " HLS-VOD 1280x720-30 hls/chan/vod.m3u8",
		"stream-closed chan " + id,
	}
	if diff := cmp.Diff(want, clustertest.DescribeAll(app.AwaitEvents(3))); diff != "" {
		t.Error("events (-want +got):\n", diff)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(d.Logs.String(), "s3cret") || strings.Contains(d.Logs.String(), "t0ken") {
		t.Error("a secret is in the log")
	}
}

func TestChannelIsFreeAtPublishEndWhileTheOldEncodingFinishes(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(2)

	first := clustertest.Publish(server, encoder, "show")
	encoder.Available("show", first, "HLS-LIVE", "640x360-30", "first/live.m3u8")
	server.End("show", first)
	encoder.Expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", first)
	second := clustertest.Publish(server, encoder, "show")
	d.AwaitLoad(2)

	encoder.Available("show", second, "HLS-LIVE", "640x360-30", "second/live.m3u8")
	encoder.Available("show", first, "HLS-VOD", "640x360-30", "first/vod.m3u8")
	encoder.Closed("show", first)
	d.AwaitLoad(1)
	d.AwaitLive(map[string]string{"show": second})
	server.Quiet() // the late end of the first stream is no reason to kill the second

	server.End("show", second)
	encoder.Expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", second)
	encoder.Closed("show", second)
	d.AwaitLoad(0)
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
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(-1)

	silent := clustertest.Publish(server, encoder, "silent")
	encoder.Closed("silent", silent)
	server.Expect("STREAM-KILL", "Stream-Channel", "silent", "Stream-ID", silent)
	told := clustertest.Publish(server, encoder, "told")
	encoder.Available("told", told, "IMG-PREVIEW", "256x144", "told/previews.json")
	encoder.Closed("told", told)
	server.Expect("STREAM-KILL", "Stream-Channel", "told", "Stream-ID", told)
	wantEvents(t, app, map[string][]string{told: {
		"stream-available told " + told + " IMG-PREVIEW 256x144 told/previews.json",
		"stream-closed told " + told,
	}})
}

func TestEncoderThatFailsAStreamFreesChannelAndSlot(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(1)

	id := clustertest.Publish(server, encoder, "bad-source")
	encoder.Send("STREAM-CLOSED", "Stream-Channel", "bad-source", "Stream-ID", id, "Error-Code", "SOURCE", "Error-Message", "cannot be opened")
	server.Expect("STREAM-KILL", "Stream-Channel", "bad-source", "Stream-ID", id)
	d.Logs.Await(t, "encoder reports a failed stream", "code=SOURCE", `message="cannot be opened"`)
	server.End("bad-source", id) // as peers do after a STREAM-KILL
	clustertest.Publish(server, encoder, "bad-source")
	d.AwaitLoad(1)
}

func TestDeathOfAnEncoderKillsItsPublishersAndFreesChannels(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	server := d.DialPeer("rtmp")
	dying, _ := d.Register(2)
	live := clustertest.Publish(server, dying, "live")
	closing := clustertest.Publish(server, dying, "closing")
	dying.Available("live", live, "HLS-LIVE", "640x360", "live.m3u8")
	dying.Available("closing", closing, "HLS-LIVE", "640x360", "closing.m3u8")
	app.AwaitEvents(2)
	server.End("closing", closing)
	dying.Expect("ENCODE-STOP", "Stream-ID", closing)

	dying.Conn.Close()
	server.Expect("STREAM-KILL", "Stream-Channel", "live", "Stream-ID", live)
	server.End("live", live)
	server.Quiet() // the publisher of the other one had ended
	d.AwaitReport("no encoder", func(r clustertest.Report) bool { return len(r.Encoders) == 0 && len(r.ActiveStreams) == 0 })
	if _, body := d.Call("GET", "/commands/capacity"); strings.TrimSpace(body) != `{"load":0,"capacity":0,"encoderCount":0}` {
		t.Errorf("capacity: %s", body)
	}
	wantEvents(t, app, map[string][]string{
		live:    {"stream-available live " + live + " HLS-LIVE 640x360 live.m3u8", "stream-closed live " + live},
		closing: {"stream-available closing " + closing + " HLS-LIVE 640x360 closing.m3u8", "stream-closed closing " + closing},
	})

	fresh, _ := d.Register(1)
	fresh.Closed("live", live) // what encoders say of their old tasks on a new connection
	d.Logs.Await(t, "not the sender's own", "method=STREAM-CLOSED", "stream="+live)
	clustertest.Publish(server, fresh, "live")
	d.AwaitLoad(1)
}

func TestDeathOfAStreamingServerStopsItsEncodings(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	dying, other := d.DialPeer("rtmp"), d.DialPeer("wss")
	encoder, _ := d.Register(-1)
	first, second := clustertest.Publish(dying, encoder, "first"), clustertest.Publish(dying, encoder, "second")
	untouched := clustertest.Publish(other, encoder, "untouched")
	encoder.Available("first", first, "HLS-LIVE", "640x360", "live.m3u8")
	app.AwaitEvents(1)

	dying.Conn.Close()
	stopped := map[string]string{}
	for range 2 {
		m := encoder.Expect("ENCODE-STOP")
		stopped[m.Get("Stream-Channel")] = m.Get("Stream-ID")
	}
	if diff := cmp.Diff(map[string]string{"first": first, "second": second}, stopped); diff != "" {
		t.Error("ENCODE-STOP (-want +got):\n", diff)
	}
	d.AwaitLive(map[string]string{"untouched": untouched})
	d.AwaitLoad(3) // the encoder is still at work

	encoder.Available("first", first, "HLS-VOD", "640x360", "vod.m3u8")
	if got := len(app.AwaitEvents(2)); got != 2 {
		t.Errorf("%d events before the encoder is done, want 2", got)
	}
	encoder.Closed("first", first)
	encoder.Closed("second", second)
	d.AwaitLoad(1)
	wantEvents(t, app, map[string][]string{first: {
		"stream-available first " + first + " HLS-LIVE 640x360 live.m3u8",
		"stream-available first " + first + " HLS-VOD 640x360 vod.m3u8",
		"stream-closed first " + first,
	}})

	back := d.DialPeer("rtmp")
	back.End("untouched", untouched) // not its own
	back.End("first", first)         // its own once, over the connection it lost
	d.Logs.AwaitLines(t, 2, "method=PUBLISH-END")
	clustertest.Publish(back, encoder, "first")
	other.Quiet()
}

func TestMessagesAboutForeignStreamsChangeNothing(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	server, strangeServer := d.DialPeer("rtmp"), d.DialPeer("rtmp", "x-custom-port", "1936")
	strangeEncoder, _ := d.Register(0)
	encoder, _ := d.Register(1) // from the same machine, but the later one: the other can't have taken its place
	id := clustertest.Publish(server, encoder, "mine")

	strangeServer.End("mine", id)
	strangeServer.End("mine", "*")
	server.End("mine", "other-id")
	server.End("mine", "")
	server.End("other", id)
	strangeEncoder.Available("mine", id, "HLS-LIVE", "640x360", "forged.m3u8")
	strangeEncoder.Closed("mine", id)
	encoder.Available("other", id, "HLS-LIVE", "640x360", "forged.m3u8")
	encoder.Available("mine", "other-id", "HLS-LIVE", "640x360", "forged.m3u8")
	encoder.Closed("other", id)
	encoder.Closed("mine", "other-id")
	encoder.Closed("mine", "")
	d.Logs.AwaitLines(t, 12, "not the sender's own")

	d.AwaitLive(map[string]string{"mine": id})
	d.AwaitLoad(1)
	server.Quiet()
	encoder.Available("mine", id, "HLS-LIVE", "640x360", "genuine.m3u8")
	encoder.Closed("mine", id)
	server.Expect("STREAM-KILL", "Stream-ID", id)
	encoder.Available("mine", id, "HLS-VOD", "640x360", "too-late.m3u8")
	encoder.Closed("mine", id)
	d.Logs.AwaitLines(t, 14, "not the sender's own")
	server.End("mine", id)
	wantEvents(t, app, map[string][]string{id: {
		"stream-available mine " + id + " HLS-LIVE 640x360 genuine.m3u8",
		"stream-closed mine " + id,
	}})
}

func TestCloseCommandKillsOnlyTheStreamItNames(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(-1)
	id := clustertest.Publish(server, encoder, "show")
	other := clustertest.Publish(server, encoder, "other")
	closeStream := func(channel, id string) {
		t.Helper()
		if status, body := d.Call("POST", "/commands/close", "x-streaming-channel", channel, "x-streaming-id", id); status != 200 {
			t.Fatalf("close %s %s: %d %s", channel, id, status, body)
		}
	}
	closeStream("show", "another-id")
	closeStream("show", other)
	closeStream("nothing-live", "*")
	server.Quiet()
	closeStream("show", id)
	server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", id)
	closeStream("other", "*")
	server.Expect("STREAM-KILL", "Stream-Channel", "other", "Stream-ID", other)
	d.AwaitLive(map[string]string{"show": id, "other": other}) // until their server says that they ended
}

// wantEvents compares the events of each stream in their order; between streams there is none.
func wantEvents(t *testing.T, app *clustertest.Application, want map[string][]string) {
	t.Helper()
	count := 0
	for _, list := range want {
		count += len(list)
	}
	got := map[string][]string{}
	for _, h := range app.AwaitEvents(count) {
		id := h.Get("x-streaming-id")
		got[id] = append(got[id], clustertest.Describe(h))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("events (-want +got):\n", diff)
	}
}

func TestRequestsToTheApplicationSayWhoAsks(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	said := make(chan []string, 2)
	answer := func(_ http.ResponseWriter, r *http.Request) { said <- r.Header["User-Agent"] }
	app.AnswerKeys(answer)
	app.AnswerEvents(answer)
	d := startDaemon(t, app.Variables()...)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(1)
	id := clustertest.Publish(server, encoder, "show")
	encoder.Available("show", id, "HLS-LIVE", "ORIGINAL", "live")
	for _, kind := range []string{"verification", "event"} {
		if got := <-said; len(got) != 1 || got[0] != "coordinator/"+version {
			t.Errorf("%s: the user agent is %q", kind, got)
		}
	}
}
