package e2e

// The timeline: why a publisher was denied, who ended one, what became of a stream and its events.

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

// awaitEntries polls the timeline until the entries that are asked for are as wanted: kind, code and a part of the reason of each,
// as "kind code reason".
func awaitEntries(d *clustertest.Daemon, query string, want ...string) []clustertest.Entry {
	d.T.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); ; <-tick.C {
		entries := clustertest.Get[clustertest.EntryPage](d, "/commands/timeline?"+query).Entries
		if areEntries(entries, want) {
			return entries
		}
		if time.Now().After(deadline) {
			var got []string
			for _, e := range entries {
				got = append(got, fmt.Sprint(e.Kind, " ", e.Code, " ", e.Reason))
			}
			d.T.Fatalf("entries of %s (-want +got):\n%s", query, cmp.Diff(want, got))
		}
	}
}

func areEntries(entries []clustertest.Entry, want []string) bool {
	return slices.EqualFunc(entries, want, func(e clustertest.Entry, want string) bool {
		head, reason, _ := strings.Cut(want, ": ")
		return head == e.Kind+" "+e.Code && strings.Contains(e.Reason, reason)
	})
}

func TestTimelineSaysWhyAPublisherIsDenied(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	server, serverID := d.Join("rtmp", "x-external-ip", "10.0.0.7")
	deny := func(channel string) {
		t.Helper()
		server.Request(channel, "a-secret-key")
		server.ExpectDenied(channel)
	}
	deny("early")
	got := awaitEntries(d, "channel=early",
		"asked done: a publisher at 10.0.0.1 asked to publish on streaming server 10.0.0.7:1935",
		"verified allowed: the application answered 200 after",
		"denied no_encoder: no encoder was in service")
	for _, e := range got {
		if e.Channel != "early" || e.Kind != "verified" && e.StreamServer != serverID || time.Since(e.At) > clustertest.Patience {
			t.Errorf("%+v", e)
		}
	}

	encoder, _ := d.Register(1)
	id := clustertest.Publish(server, encoder, "live")
	deny("full")
	awaitEntries(d, "channel=full&kind=denied", "denied no_encoder: no encoder had a free slot: 1 of 1 slots taken on 1 encoder")
	deny("live")
	awaitEntries(d, "channel=live&kind=denied", "denied busy: channel is live on streaming server 10.0.0.7:1935 since 20")
	deny("mal/formed")
	awaitEntries(d, "channel="+url.QueryEscape("(malformed)"), "denied malformed: channel, key or request ID is malformed")
	for status, want := range map[int]string{
		204: "denied denied_key: the application answered 204: only 200 counts",
		302: "denied denied_key: the application answered 302: only 200 counts, and redirects are not followed",
		403: "denied denied_key: the application answered 403",
		503: "denied application_error: the application answered 503: an error of its own, not the key's",
	} {
		app.AnswerKeys(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		channel := fmt.Sprint("status-", status)
		deny(channel)
		if got := awaitEntries(d, "kind=denied&channel="+channel, want); got[0].Status != status {
			t.Errorf("%+v", got)
		}
	}
	newest := clustertest.Get[clustertest.EntryPage](d, "/commands/timeline?kind=denied&sort=-at&limit=1")
	if newest.Matched != 8 || newest.After == "" || !strings.HasPrefix(newest.Entries[0].Channel, "status-") {
		t.Errorf("%+v", newest)
	}
	if _, body := d.Call("GET", "/commands/timeline?stream="+id+"&kind=accepted"); !strings.Contains(body, `"channel":"live"`) {
		t.Errorf("asked by the stream: %s", body)
	}
	wantNoSecret(d, "a-secret-key")
}

// wantNoSecret looks through all that the timeline has.
func wantNoSecret(d *clustertest.Daemon, secrets ...string) {
	d.T.Helper()
	for _, kind := range []string{"asked", "verified", "denied", "accepted", "started", "announced", "moved", "killed", "ended", "closed", "event"} {
		_, body := d.Call("GET", "/commands/timeline?limit=500&kind="+kind)
		for _, secret := range secrets {
			if strings.Contains(body, secret) {
				d.T.Errorf("%s is in the timeline: %s", secret, body)
			}
		}
	}
}

func TestTimelineSaysWhichEncoderWasChosen(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables("PLACEMENT=pack")...)
	server := d.DialPeer("rtmp")
	d.Register(0)
	encoder, encoderID := d.Register(1)
	d.Register(1)
	clustertest.Publish(server, encoder, "ch")
	awaitEntries(d, "channel=ch", "asked done", "verified allowed", "accepted done: publisher accepted",
		fmt.Sprintf("started pack: encoder %d at 127.0.0.1 was told to start: of 2 that could take it, PLACEMENT chose this one (the most slots taken); 1 of its 1 slots are taken now", encoderID))
}

func TestTimelineSaysWhoEndedAPublisher(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables("ENCODER_FAILOVER=NO")...)
	server := d.DialPeer("rtmp", "x-external-ip", "10.0.0.7")
	encoder, encoderID := d.Register(-1)
	publish := func(channel string) string {
		t.Helper()
		server.Request(channel, "a-secret-key")
		id := server.Expect("PUBLISH-ACCEPT").Get("Stream-ID")
		encoder.Expect("ENCODE-START", "Stream-Channel", channel)
		return id
	}
	kinds := func(channel string) string { return "channel=" + channel + "&kind=killed" }

	for by, header := range map[string][]string{
		"killed by_application: the application closed it, by POST /commands/close": nil,
		"killed by_operator: an operator closed it in the dashboard":                {"x-requested-by", "dashboard"},
	} {
		channel := strings.Trim(strings.Fields(by)[1], ":")
		id := publish(channel)
		d.MustCall("/commands/close", append(header, "x-streaming-channel", channel, "x-streaming-id", "*")...)
		server.Expect("STREAM-KILL", "Stream-ID", id)
		if got := awaitEntries(d, kinds(channel), by); got[0].StreamID != id {
			t.Errorf("%+v", got)
		}
		clustertest.EndPublish(server, encoder, channel, id)
		encoder.Closed(channel, id)
		awaitEntries(d, "channel="+channel, "asked done", "verified allowed", "accepted done", "started least_load: the only one that could take it", by,
			"ended publisher_ended: the streaming server said that the publisher has ended", "closed done: the encoder closed the stream")
	}

	id := publish("fails")
	encoder.Send("STREAM-CLOSED", "Stream-Channel", "fails", "Stream-ID", id, "Error-Code", "12",
		"Error-Message", "rtmp://10.0.0.7:1935/fails/a-secret-key: no video with key a-secret-key")
	server.Expect("STREAM-KILL", "Stream-ID", id)
	awaitEntries(d, "channel=fails&kind=closed", "closed encoder_failed: the encoder closed the stream by itself: 12 rtmp://*** no video with key ***")
	awaitEntries(d, kinds("fails"), "killed encoder_failed: the coordinator ended the publisher: encoder ended the stream")

	id = publish("lost")
	encoder.Available("lost", id, "HLS-LIVE", "1280x720-30", "live.m3u8")
	awaitEntries(d, "channel=lost&kind=event", "event taken: the application took stream-available (HLS-LIVE 1280x720-30) after")
	encoder.Conn.Close()
	server.Expect("STREAM-KILL", "Stream-ID", id)
	got := awaitEntries(d, "stream="+id+"&kind=closed", "closed encoder_gone: the encoder was gone, and the stream with it")
	if got[0].Encoder != encoderID {
		t.Errorf("%+v", got)
	}
	awaitEntries(d, kinds("lost"), "killed encoder_gone: the coordinator ended the publisher: encoder is gone")
	awaitEntries(d, "channel=lost&kind=announced", "announced done: the encoder announced HLS-LIVE 1280x720-30")
	server.Conn.Close()
	awaitEntries(d, "channel=lost&kind=ended", "ended server_gone: the streaming server was gone, and the publisher with it")
	wantNoSecret(d, "a-secret-key", "rtmp://10")
	if log := d.Logs.String(); strings.Contains(log, "a-secret-key") {
		t.Error("the key is in the log, in the words of the encoder")
	}
}

func TestTimelineSaysWhereAStreamHasGone(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	first, firstID := d.Register(1)
	id := clustertest.Publish(server, first, "ch")
	first.Available("ch", id, "HLS-LIVE", "1x1", "live.m3u8")
	second, secondID := d.Register(1)
	d.Command("drain", firstID, "x-drain-move", "true")
	moved := second.Expect("ENCODE-START").Get("Stream-ID")
	second.Available("ch", moved, "HLS-LIVE", "1x1", "live.m3u8")
	if got := awaitEntries(d, "channel=ch&kind=moved", "moved drained: the one before was "+id); got[0].StreamID != moved || got[0].Encoder != secondID {
		t.Errorf("%+v", got)
	}
	d.Command("undrain", firstID)
	first.Closed("ch", id)
	d.AwaitLoad(1)
	second.Conn.Close()
	first.ExpectEventually("ENCODE-START")
	awaitEntries(d, "channel=ch&kind=moved", "moved drained", "moved failover: its encoder was lost: the channel goes on under this stream ID; the one before was "+moved)
	awaitEntries(d, "channel=ch&kind=started", "started least_load", "started least_load", "started least_load")
}

// An event that is refused is one entry, however often it is sent again.
func TestTimelineSaysWhyAnEventIsNotTaken(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	refused := make(chan struct{}, 1000)
	app.AnswerEvents(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		refused <- struct{}{}
	})
	d := startDaemon(t, app.Variables()...)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(1)
	id := clustertest.Publish(server, encoder, "ch")
	encoder.Available("ch", id, "HLS-LIVE", "1280x720-30", "live.m3u8")
	for range 3 {
		<-refused
	}
	got := awaitEntries(d, "channel=ch&kind=event", "event refused: stream-available (HLS-LIVE 1280x720-30) was not taken: the application answered 204: only 200 counts")
	if got[0].StreamID != id || got[0].Status != 204 {
		t.Errorf("%+v", got)
	}
	app.AnswerEvents(nil)
	server.End("ch", id)
	encoder.Expect("ENCODE-STOP")
	encoder.Closed("ch", id)
	got = awaitEntries(d, "channel=ch&kind=event", "event taken: the application took stream-available (HLS-LIVE 1280x720-30) after", "event taken: the application took stream-closed after")
	if got[0].Tries < 4 || got[1].Tries != 1 {
		t.Errorf("%+v", got)
	}
}
