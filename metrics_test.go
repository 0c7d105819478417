package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/gorilla/websocket"
)

// scrape returns the value of each sample, by its name with labels as they are written.
func (d *testDaemon) scrape() map[string]float64 {
	d.t.Helper()
	status, body := d.call("GET", "/metrics")
	if status != 200 {
		d.t.Fatalf("metrics: %d %s", status, body)
	}
	return samples(d.t, body)
}

func samples(t testing.TB, exposition string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for line := range strings.Lines(exposition) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndex(line, " ")
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatalf("sample %q: %v", line, err)
		}
		values[line[:i]] = value
	}
	return values
}

// awaitMetrics scrapes until all samples are as wanted. A sample that is missing is never as wanted.
func (d *testDaemon) awaitMetrics(wanted map[string]float64) {
	d.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); ; <-tick.C {
		values := d.scrape()
		var wrong []string
		for sample, want := range wanted {
			if got, there := values[sample]; !there || got != want {
				wrong = append(wrong, fmt.Sprintf("%s is %v (there: %v), want %v", sample, got, there, want))
			}
		}
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatal(strings.Join(wrong, "\n"))
		}
	}
}

// awaitMetric scrapes until a sample is above 0.
func (d *testDaemon) awaitMetric(sample string) {
	d.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); d.scrape()[sample] <= 0; <-tick.C {
		if time.Now().After(deadline) {
			d.t.Fatalf("%s stays at 0", sample)
		}
	}
}

func streamsMetric(state string) string  { return `coordinator_streams{state="` + state + `"}` }
func encodersMetric(state string) string { return `coordinator_encoders{state="` + state + `"}` }
func publishesMetric(result string) string {
	return `coordinator_publish_requests_total{result="` + result + `"}`
}
func messagesMetric(direction, method string) string {
	return `coordinator_control_messages_total{direction="` + direction + `",method="` + method + `"}`
}
func disconnectsMetric(reason string) string {
	return `coordinator_peer_disconnects_total{reason="` + reason + `"}`
}

const (
	slotsUsed     = `coordinator_encoder_slots{kind="used"}`
	slotsCapacity = `coordinator_encoder_slots{kind="capacity"}`
	rtmpServers   = `coordinator_streaming_servers{type="rtmp"}`
	wsServers     = `coordinator_streaming_servers{type="ws"}`
	eventsPending = `coordinator_events_pending`
	oldestPending = `coordinator_event_oldest_pending_seconds`
)

func TestMetricsOfAnIdleDaemonAreAllThere(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	wanted := map[string]float64{
		slotsUsed: 0, slotsCapacity: 0, rtmpServers: 0, wsServers: 0, eventsPending: 0, oldestPending: 0,
		"coordinator_publish_requests_waiting":                              0,
		"coordinator_stream_moves_total":                                    0,
		"coordinator_ready":                                                 1,
		"coordinator_key_verification_duration_seconds_count":               0,
		"coordinator_event_delivery_duration_seconds_count":                 0,
		`coordinator_event_attempts_total{result="delivered"}`:              0,
		`coordinator_event_attempts_total{result="refused"}`:                0,
		`coordinator_event_attempts_total{result="unanswered"}`:             0,
		`coordinator_control_messages_total{direction="in",method="other"}`: 0,
	}
	for _, state := range []string{"live", "closing", "waiting"} {
		wanted[streamsMetric(state)] = 0
	}
	for _, state := range []string{"ready", "full", "draining", "set_aside"} {
		wanted[encodersMetric(state)] = 0
	}
	for _, result := range []string{"accepted", "denied_key", "application_error", "no_answer", "busy", "no_encoder", "malformed", "stopping"} {
		wanted[publishesMetric(result)] = 0
	}
	for _, reason := range []string{"closed", "lost", "silent", "slow", "queue_full", "too_big", "stopping"} {
		wanted[disconnectsMetric(reason)] = 0
	}
	d.awaitMetrics(wanted)

	values := d.scrape()
	for _, prefix := range []string{`coordinator_build_info{go_version="go`, "go_goroutines", "go_memstats_heap_alloc_bytes", "process_open_fds", "process_resident_memory_bytes"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(values)), func(sample string) bool { return strings.HasPrefix(sample, prefix) }) {
			t.Errorf("no %s", prefix)
		}
	}
	if _, there := values["coordinator_tls_certificate_not_after_seconds"]; there {
		t.Error("a certificate is shown where there is none")
	}
}

func TestMetricsFollowAStream(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	server, _ := d.join("rtmp")
	d.join("wss")
	encoder, _ := d.register(1)
	d.awaitMetrics(map[string]float64{rtmpServers: 1, wsServers: 1, encodersMetric("ready"): 1, slotsCapacity: 1, messagesMetric("in", "REGISTER"): 1})

	id := clustertest.Publish(server, encoder, "chan")
	d.awaitMetrics(map[string]float64{
		streamsMetric("live"): 1, slotsUsed: 1, encodersMetric("ready"): 0, encodersMetric("full"): 1, publishesMetric("accepted"): 1,
		messagesMetric("in", "PUBLISH-REQUEST"): 1, messagesMetric("out", "PUBLISH-ACCEPT"): 1, messagesMetric("out", "ENCODE-START"): 1,
		"coordinator_key_verification_duration_seconds_count":             1,
		`coordinator_key_verification_duration_seconds_bucket{le="+Inf"}`: 1,
	})

	encoder.Available("chan", id, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	d.awaitMetrics(map[string]float64{
		messagesMetric("in", "STREAM-AVAILABLE"): 1, `coordinator_event_attempts_total{result="delivered"}`: 1,
		"coordinator_event_delivery_duration_seconds_count": 1, eventsPending: 0, oldestPending: 0,
	})

	d.mustCall("/commands/close", "x-streaming-channel", "chan", "x-streaming-id", "*")
	server.Expect("STREAM-KILL")
	endPublish(server, encoder, "chan", id)
	d.awaitMetrics(map[string]float64{
		streamsMetric("live"): 0, streamsMetric("closing"): 1, slotsUsed: 1, messagesMetric("out", "STREAM-KILL"): 1,
		messagesMetric("in", "PUBLISH-END"): 1, messagesMetric("out", "ENCODE-STOP"): 1,
	})

	encoder.Closed("chan", id)
	d.awaitMetrics(map[string]float64{
		streamsMetric("closing"): 0, slotsUsed: 0, encodersMetric("ready"): 1, messagesMetric("in", "STREAM-CLOSED"): 1,
		`coordinator_event_attempts_total{result="delivered"}`: 2,
	})

	encoder.Send("REGISTER", "Capacity", "-1")
	d.awaitMetrics(map[string]float64{slotsCapacity: -1, messagesMetric("in", "REGISTER"): 2})
}

func TestPublishRequestsAreCountedByTheirResult(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("x-streaming-key") {
		case "wrong":
			w.WriteHeader(http.StatusForbidden)
		case "fails":
			w.WriteHeader(http.StatusBadGateway)
		case "limited":
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	d := startDaemon(t, app.Variables()...)
	server, id := d.join("rtmp")
	encoder, _ := d.register(1)
	clustertest.Publish(server, encoder, "first")
	deny := func(channel, key string) {
		server.Send("PUBLISH-REQUEST", "Request-ID", "1", "Stream-Channel", channel, "Stream-Key", key)
		server.Expect("PUBLISH-DENY")
	}
	deny("first", "key")
	deny("second", "key")
	deny("second", "wrong")
	deny("second", "wrong")
	deny("second", "fails")
	deny("second", "fails")
	deny("second", "limited")
	deny("../second", "key")
	deny("second", "k e y")
	deny("", "key")
	d.mustCall("/commands/drain", "x-session-id", fmt.Sprint(id))
	deny("second", "key")
	d.awaitMetrics(map[string]float64{
		publishesMetric("accepted"): 1, publishesMetric("busy"): 1, publishesMetric("no_encoder"): 1, publishesMetric("denied_key"): 2,
		publishesMetric("application_error"): 3, publishesMetric("malformed"): 3, publishesMetric("draining"): 1, publishesMetric("other"): 0,
		messagesMetric("out", "PUBLISH-DENY"): 11,
	})
}

func TestReasonsHaveLabels(t *testing.T) {
	t.Parallel()
	for reason, want := range map[error]string{
		errNoAnswer: "no_answer",
		fmt.Errorf("%w: status 403", errKeyDenied):        "denied_key",
		fmt.Errorf("%w: status 503", errApplicationError): "application_error",
		errWaitedInVain:             "no_encoder",
		errStopping:                 "stopping",
		errNotKept:                  "events_not_kept",
		errTooMany:                  "too_many",
		errPeerGone:                 "peer_gone",
		context.Canceled:            "peer_gone",
		fmt.Errorf("something new"): "other",
	} {
		if got := publishResult(reason); got != want {
			t.Errorf("publish: %v is %s, want %s", reason, got, want)
		}
	}
	for reason, want := range map[error]string{errPeerSilent: "silent", errPeerSlow: "slow", errQueueFull: "queue_full", errNoAnswer: "other"} {
		if got := disconnectReason(reason); got != want {
			t.Errorf("disconnect: %v is %s, want %s", reason, got, want)
		}
	}
}

func TestLostPeersAreCountedByReason(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	closing, _ := d.join("rtmp")
	closing.Conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(clustertest.Patience))
	lost, _ := d.join("wss")
	lost.Conn.NetConn().Close()
	tooBig, _ := d.register(1)
	tooBig.SendRaw(websocket.TextMessage, strings.Repeat("x", maxMessageBytes+1))
	d.awaitMetrics(map[string]float64{
		disconnectsMetric("closed"): 1, disconnectsMetric("lost"): 1, disconnectsMetric("too_big"): 1, rtmpServers: 0, wsServers: 0, encodersMetric("ready"): 0,
	})
}

func TestUnknownMethodsAreOther(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	peer, _ := d.join("rtmp")
	peer.Send("HEARTBEAT")
	peer.Send("heartbeat")
	peer.Send("ERROR", "Error-Code", "1")
	peer.Send("SOMETHING-NEW")
	peer.Send("PUBLISH-ACCEPT") // ours, not a peer's
	d.awaitMetrics(map[string]float64{messagesMetric("in", "HEARTBEAT"): 2, messagesMetric("in", "ERROR"): 1, messagesMetric("in", "other"): 2})
	for sample := range d.scrape() {
		if strings.Contains(sample, "SOMETHING-NEW") {
			t.Error(sample)
		}
	}
}

func TestMetricsShowEventsThatAreNotTaken(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	app.AnswerEvents(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	d := startDaemon(t, app.Variables()...)
	server, _ := d.join("rtmp")
	encoder, _ := d.register(1)
	id := clustertest.Publish(server, encoder, "chan")
	encoder.Available("chan", id, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	encoder.Available("chan", id, "HLS-LIVE", "640x360", "live.m3u8")
	d.awaitMetrics(map[string]float64{eventsPending: 2, `coordinator_event_attempts_total{result="delivered"}`: 0})
	d.awaitMetric(`coordinator_event_attempts_total{result="refused"}`)
	d.awaitMetric(oldestPending)
	values := d.scrape()
	if age := values[oldestPending]; age > clustertest.Patience.Seconds() {
		t.Errorf("the oldest is %v s old", age)
	}
	overview := get[overviewReport](d, "/commands/overview")
	if overview.Events.Pending != 2 || overview.Events.OldestSeconds < values[oldestPending] {
		t.Errorf("%+v after %v s", overview.Events, values[oldestPending])
	}

	app.AnswerEvents(nil)
	d.awaitMetrics(map[string]float64{eventsPending: 0, oldestPending: 0, `coordinator_event_attempts_total{result="delivered"}`: 2})
	app.AnswerEvents(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	encoder.Closed("chan", id)
	d.awaitMetric(`coordinator_event_attempts_total{result="unanswered"}`)
	app.AnswerEvents(nil)
}

func TestMetricsShowMaintenanceAndMoves(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, _ := d.join("rtmp")
	first, id := d.register(-1)
	before := clustertest.Publish(server, first, "chan")
	first.Available("chan", before, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	second, _ := d.register(-1)
	d.mustCall("/commands/drain", "x-session-id", fmt.Sprint(id), "x-drain-move", "true")
	d.awaitMetrics(map[string]float64{encodersMetric("draining"): 1, encodersMetric("ready"): 1, "coordinator_stream_moves_total": 0})
	after := second.Expect("ENCODE-START").Get("Stream-ID")
	second.Available("chan", after, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	first.Expect("ENCODE-STOP")
	d.awaitMetrics(map[string]float64{"coordinator_stream_moves_total": 1, streamsMetric("live"): 1, streamsMetric("closing"): 1})
	d.mustCall("/commands/undrain", "x-session-id", fmt.Sprint(id))
	d.awaitMetrics(map[string]float64{encodersMetric("draining"): 0, encodersMetric("ready"): 2})
}

func TestMetricsShowAnEncoderThatIsSetAside(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, _ := d.join("rtmp")
	encoder, _ := d.register(-1)
	for i := range failuresInARow {
		channel := fmt.Sprint("chan", i)
		encoder.Closed(channel, clustertest.Publish(server, encoder, channel))
		server.Expect("STREAM-KILL", "Stream-Channel", channel)
	}
	d.awaitMetrics(map[string]float64{encodersMetric("set_aside"): 1, encodersMetric("ready"): 0})
	if got := get[overviewReport](d, "/commands/overview").Encoders; got != (encoderTotals{Total: 1, SetAside: 1}) {
		t.Errorf("%+v", got)
	}
}

func TestMetricsShowWhenTheCertificateExpires(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pair := newTestPair(t, 1)
	pair.write(t, dir)
	d := startDaemon(t, "SSL_PORT=0", "SSL_CERT="+filepath.Join(dir, "tls.crt"), "SSL_KEY="+filepath.Join(dir, "tls.key"))
	d.awaitMetrics(map[string]float64{"coordinator_tls_certificate_not_after_seconds": float64(pair.notAfter.Unix())})
}

func TestNoLabelHoldsWhatAPeerHasChosen(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	server, serverID := d.join("rtmp", "x-external-ip", "198.51.100.7")
	encoder, encoderID := d.register(3)
	server.Send("PUBLISH-REQUEST", "Request-ID", "theRequest", "Stream-Channel", "theChannel", "Stream-Key", "theKey", "User-IP", "192.0.2.44")
	id := server.Expect("PUBLISH-ACCEPT").Get("Stream-ID")
	encoder.Expect("ENCODE-START")
	encoder.Available("theChannel", id, "HLS-LIVE", "1234x567", "theIndex.m3u8")
	encoder.Send("theMethod", "theArgument", "theValue")
	encoder.Send("ERROR", "Error-Code", "theCode", "Error-Message", "theMessage")
	app.AwaitEvents(1)
	endPublish(server, encoder, "theChannel", id)
	encoder.Send("STREAM-CLOSED", "Stream-Channel", "theChannel", "Stream-ID", id, "Error-Code", "theCode", "Error-Message", "theMessage")
	app.AwaitEvents(2)
	server.Send("PUBLISH-REQUEST", "Request-ID", "theRequest", "Stream-Channel", "the bad channel", "Stream-Key", "theKey")
	server.Expect("PUBLISH-DENY")

	for sample, value := range d.scrape() {
		for _, private := range []string{"theRequest", "theChannel", "theKey", id, "198.51.100.7", "192.0.2.44", "1234x567", "theIndex", "theMethod", "theMETHOD",
			"THEMETHOD", "theArgument", "theValue", "theCode", "theMessage", "bad channel", fmt.Sprint(serverID), fmt.Sprint(encoderID), "127.0.0.1"} {
			if strings.Contains(sample, private) {
				t.Errorf("%s shows %s", sample, private)
			}
		}
		if value == float64(serverID) || value == float64(encoderID) {
			t.Errorf("%s is an identity", sample)
		}
	}
}
