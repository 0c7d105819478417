package e2e

// Holds what the daemon sends to the application, and what it reads of the answers, against the webhooks of
// api/openapi.yaml.

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"coordinator/internal/apidoc"
	"coordinator/internal/clustertest"
)

// TestRequestsToTheApplicationAreAsTheAPIDocumentSays has a stream with all kinds of announcements lose two encoders, go on at a third
// one, and end; beside it a publisher finds no room, and another one fails.
func TestRequestsToTheApplicationAreAsTheAPIDocumentSays(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables("KEY_VERIFICATION_AUTH=Bearer", "KEY_VERIFICATION_AUTH_TOKEN=token",
		"EVENT_CALLBACK_EXTRA=YES", "EVENT_CALLBACK_AUTH=Basic", "EVENT_CALLBACK_AUTH_USER=u", "EVENT_CALLBACK_PASSWORD=p")...)
	doc := apidoc.Read(t, "../api/openapi.yaml")
	answer := doc.Operation("webhooks", "keyVerification", "POST").Child("responses").Child("200").Child("headers")
	app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-streaming-key") != "key" {
			w.WriteHeader(http.StatusCreated)
			return
		}
		for name := range answer.Value {
			w.Header().Set(name, answer.Child(name).Text("example"))
		}
	})
	first, _ := d.Register(1)
	server := d.DialPeer("rtmp")
	server.Request("ch", "wrong")
	server.ExpectDenied("ch")
	server.Request("ch", "key")
	id := server.Expect("PUBLISH-ACCEPT").Get("Stream-ID")
	first.Expect("ENCODE-START", "Resolutions", "ORIGINAL,1280x720-30~2500,640x360", "Record", "True", "Previews", "256x144,3")
	first.Available("ch", id, "HLS-LIVE", "1280x720-30", "hls/ch/\u00fc\x01/live.m3u8")
	first.Available("ch", id, "IMG-PREVIEW", "256x144", "img/ch/index.json")
	app.AwaitEvents(3)
	second, _ := d.Register(1)
	first.Conn.Close()
	successor := second.Expect("ENCODE-START").Get("Stream-ID")
	second.Send("STREAM-AVAILABLE", "Stream-Channel", "ch", "Stream-ID", successor, "Stream-Type", "HLS-VOD",
		"Resolution", "ORIGINAL", "Index-file", "vod/ch/index.m3u8", "Start-Time", "1.5")
	app.AwaitEvents(6)
	third, _ := d.Register(1)
	second.Conn.Close()
	last := third.Expect("ENCODE-START").Get("Stream-ID")
	third.Available("ch", last, "HLS-LIVE", "1280x720-30", "hls/ch/live.m3u8")
	server.Request("nobody", "key")
	server.ExpectDenied("nobody")
	app.AwaitEvents(10)
	var refused http.Header
	app.AnswerEvents(func(w http.ResponseWriter, r *http.Request) { // called by one request at a time: one stream is left
		if refused == nil {
			refused = r.Header.Clone()
			w.WriteHeader(http.StatusAccepted)
		}
	})
	server.End("ch", id)
	third.Expect("ENCODE-STOP")
	third.Closed("ch", last)
	events := app.AwaitEvents(11)
	if !maps.EqualFunc(refused, events[10], slices.Equal) {
		t.Errorf("sent %v, and then %v", refused, events[10])
	}
	server.Request("fails", "key")
	failing := server.Expect("PUBLISH-ACCEPT").Get("Stream-ID")
	third.Expect("ENCODE-START")
	third.Closed("fails", failing)
	server.Expect("STREAM-KILL")
	server.End("fails", failing)
	events = app.AwaitEvents(13)

	for _, header := range app.AwaitKeys(4) {
		wantWebhook(doc, "keyVerification", "Bearer token", header)
	}
	for _, header := range events {
		name := map[string]string{
			"stream-available": "streamAvailable", "stream-closed": "streamClosed", "publish-accepted": "publishAccepted",
			"stream-interrupted": "streamInterrupted", "publish-failed": "publishFailed",
		}[header.Get("x-event-type")]
		if got := header.Get("x-passthrough"); got != "tenant=7" {
			t.Errorf("%s: x-passthrough is %q", name, got)
		}
		wantWebhook(doc, name, "Basic dTpw", header)
	}
	hooks, all := doc.Root().Children("webhooks")
	for _, name := range hooks {
		op := all.Child(name).Child("post")
		for _, parameter := range op.Parameters() {
			if name := http.CanonicalHeaderKey(parameter.Text("name")); !doc.Seen(op.Pointer, name) {
				t.Errorf("documented, but never sent: %s %s", op.Pointer, name)
			}
		}
	}
}

// wantWebhook holds all headers of a request against the document.
func wantWebhook(doc *apidoc.Document, name, authorization string, header http.Header) {
	doc.T.Helper()
	if err := doc.Operation("webhooks", name, "POST").Fits(nil, header); err != nil {
		doc.T.Errorf("%s: %v: %v", name, err, header)
	}
	if got := header.Get("Authorization"); got != authorization {
		doc.T.Errorf("%s: Authorization is %q", name, got)
	}
	if got := header.Get("Content-Length"); got != "0" {
		doc.T.Errorf("%s: Content-Length is %q", name, got)
	}
	for other := range header {
		if !strings.HasPrefix(other, "X-") && !slices.Contains([]string{"Authorization", "Content-Length", "User-Agent"}, other) {
			doc.T.Errorf("%s: header %s is not documented", name, other)
		}
	}
}
