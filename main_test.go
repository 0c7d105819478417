package main

// The stories of the daemon, each a test of the whole of it.

import (
	"net/http"
	"strings"
	"testing"

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
	id := accept.get("Stream-ID")
	start := encoder.expect("ENCODE-START")
	wantStart := []argument{
		{"Stream-Channel", "chan"}, {"Stream-ID", id}, {"Stream-Source-Type", "RTMP"},
		{"Stream-Source-URI", "rtmp://10.1.2.3:1935/chan/s3cret"}, {"Resolutions", "1280x720-30~2500,640x360,ORIGINAL"},
		{"Record", "True"}, {"Previews", "256x144,3"},
	}
	if diff := cmp.Diff(wantStart, start.args, cmp.AllowUnexported(argument{})); diff != "" {
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
