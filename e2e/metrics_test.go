package e2e

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/gorilla/websocket"
)

func streamsMetric(state string) string { return `coordinator_streams{state="` + state + `"}` }

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
	slotsUsed     = "coordinator_encoder_slots_used"
	slotsCapacity = "coordinator_encoder_slots_capacity"
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
	d.AwaitMetrics(wanted)

	values := d.Scrape()
	prefixes := []string{`coordinator_build_info{commit="unknown",date="unknown",go_version="go`, "go_goroutines", "go_memstats_heap_alloc_bytes"}
	if runtime.GOOS == "linux" { // elsewhere it depends on how the program was built
		prefixes = append(prefixes, "process_open_fds", "process_resident_memory_bytes")
	}
	for _, prefix := range prefixes {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(values)), func(sample string) bool { return strings.HasPrefix(sample, prefix) }) {
			t.Errorf("no %s", prefix)
		}
	}
	if _, there := values["coordinator_tls_certificate_not_after_timestamp_seconds"]; there {
		t.Error("a certificate is shown where there is none")
	}
}

func TestMetricsFollowAStream(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	server, _ := d.Join("rtmp")
	d.Join("wss")
	encoder, _ := d.Register(1)
	d.AwaitMetrics(map[string]float64{rtmpServers: 1, wsServers: 1, encodersMetric("ready"): 1, slotsCapacity: 1, messagesMetric("in", "REGISTER"): 1})

	id := clustertest.Publish(server, encoder, "chan")
	d.AwaitMetrics(map[string]float64{
		streamsMetric("live"): 1, slotsUsed: 1, encodersMetric("ready"): 0, encodersMetric("full"): 1, publishesMetric("accepted"): 1,
		messagesMetric("in", "PUBLISH-REQUEST"): 1, messagesMetric("out", "PUBLISH-ACCEPT"): 1, messagesMetric("out", "ENCODE-START"): 1,
		"coordinator_key_verification_duration_seconds_count":             1,
		`coordinator_key_verification_duration_seconds_bucket{le="+Inf"}`: 1,
	})

	encoder.Available("chan", id, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	d.AwaitMetrics(map[string]float64{
		messagesMetric("in", "STREAM-AVAILABLE"): 1, `coordinator_event_attempts_total{result="delivered"}`: 1,
		"coordinator_event_delivery_duration_seconds_count": 1, eventsPending: 0, oldestPending: 0,
	})

	d.MustCall("/commands/close", "x-streaming-channel", "chan", "x-streaming-id", "*")
	server.Expect("STREAM-KILL")
	clustertest.EndPublish(server, encoder, "chan", id)
	d.AwaitMetrics(map[string]float64{
		streamsMetric("live"): 0, streamsMetric("closing"): 1, slotsUsed: 1, messagesMetric("out", "STREAM-KILL"): 1,
		messagesMetric("in", "PUBLISH-END"): 1, messagesMetric("out", "ENCODE-STOP"): 1,
	})

	encoder.Closed("chan", id)
	d.AwaitMetrics(map[string]float64{
		streamsMetric("closing"): 0, slotsUsed: 0, encodersMetric("ready"): 1, messagesMetric("in", "STREAM-CLOSED"): 1,
		`coordinator_event_attempts_total{result="delivered"}`: 2,
	})

	encoder.Send("REGISTER", "Capacity", "-1")
	d.AwaitMetrics(map[string]float64{slotsCapacity: math.Inf(1), messagesMetric("in", "REGISTER"): 2})
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
	server, id := d.Join("rtmp")
	encoder, _ := d.Register(1)
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
	d.MustCall("/commands/drain", "x-session-id", fmt.Sprint(id))
	deny("second", "key")
	d.AwaitMetrics(map[string]float64{
		publishesMetric("accepted"): 1, publishesMetric("busy"): 1, publishesMetric("no_encoder"): 1, publishesMetric("denied_key"): 2,
		publishesMetric("application_error"): 3, publishesMetric("malformed"): 3, publishesMetric("draining"): 1, publishesMetric("other"): 0,
		messagesMetric("out", "PUBLISH-DENY"): 11,
	})
}

func TestLostPeersAreCountedByReason(t *testing.T) {
	t.Parallel()
	onlyDirect(t, countedAtGateway)
	d := startDaemon(t)
	closing, _ := d.Join("rtmp")
	closing.Conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(clustertest.Patience))
	lost, _ := d.Join("wss")
	lost.Conn.NetConn().Close()
	tooBig, _ := d.Register(1)
	tooBig.SendRaw(websocket.TextMessage, strings.Repeat("x", 64<<10+1))
	d.AwaitMetrics(map[string]float64{
		disconnectsMetric("closed"): 1, disconnectsMetric("lost"): 1, disconnectsMetric("too_big"): 1, rtmpServers: 0, wsServers: 0, encodersMetric("ready"): 0,
	})
}

func TestUnknownMethodsAreOther(t *testing.T) {
	t.Parallel()
	onlyDirect(t, countedAtGateway)
	d := startDaemon(t)
	peer, id := d.Join("rtmp")
	peer.Send("HEARTBEAT")
	peer.Send("heartbeat")
	peer.Send("ERROR", "Error-Code", "1")
	d.Logs.Await(t, "peer reports an error", fmt.Sprint("streamServer=", id), "remote=127.0.0.1:")
	peer.Send("SOMETHING-NEW")
	peer.Send("PUBLISH-ACCEPT") // ours, not a peer's
	d.AwaitMetrics(map[string]float64{messagesMetric("in", "HEARTBEAT"): 2, messagesMetric("in", "ERROR"): 1, messagesMetric("in", "other"): 2})
	for sample := range d.Scrape() {
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
	server, _ := d.Join("rtmp")
	encoder, _ := d.Register(1)
	id := clustertest.Publish(server, encoder, "chan")
	encoder.Available("chan", id, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	encoder.Available("chan", id, "HLS-LIVE", "640x360", "live.m3u8")
	d.AwaitMetrics(map[string]float64{eventsPending: 2, `coordinator_event_attempts_total{result="delivered"}`: 0})
	d.AwaitMetric(`coordinator_event_attempts_total{result="refused"}`)
	d.AwaitMetric(oldestPending)
	values := d.Scrape()
	if age := values[oldestPending]; age > clustertest.Patience.Seconds() {
		t.Errorf("the oldest is %v s old", age)
	}
	overview := clustertest.Get[clustertest.Overview](d, "/commands/overview")
	if overview.Events.Pending != 2 || overview.Events.OldestSeconds < values[oldestPending] {
		t.Errorf("%+v after %v s", overview.Events, values[oldestPending])
	}

	app.AnswerEvents(nil)
	d.AwaitMetrics(map[string]float64{eventsPending: 0, oldestPending: 0, `coordinator_event_attempts_total{result="delivered"}`: 2})
	app.AnswerEvents(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	encoder.Closed("chan", id)
	d.AwaitMetric(`coordinator_event_attempts_total{result="unanswered"}`)
	app.AnswerEvents(nil)
}

func TestMetricsShowMaintenanceAndMoves(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, _ := d.Join("rtmp")
	first, id := d.Register(-1)
	before := clustertest.Publish(server, first, "chan")
	first.Available("chan", before, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	second, _ := d.Register(-1)
	d.MustCall("/commands/drain", "x-session-id", fmt.Sprint(id), "x-drain-move", "true")
	d.AwaitMetrics(map[string]float64{encodersMetric("draining"): 1, encodersMetric("ready"): 1, "coordinator_stream_moves_total": 0})
	after := second.Expect("ENCODE-START").Get("Stream-ID")
	second.Available("chan", after, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	first.Expect("ENCODE-STOP")
	d.AwaitMetrics(map[string]float64{"coordinator_stream_moves_total": 1, streamsMetric("live"): 1, streamsMetric("closing"): 1})
	d.MustCall("/commands/undrain", "x-session-id", fmt.Sprint(id))
	d.AwaitMetrics(map[string]float64{encodersMetric("draining"): 0, encodersMetric("ready"): 2})
}

func TestMetricsShowAnEncoderThatIsSetAside(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, _ := d.Join("rtmp")
	encoder, _ := d.Register(-1)
	for i := range 3 {
		channel := fmt.Sprint("chan", i)
		encoder.Closed(channel, clustertest.Publish(server, encoder, channel))
		server.Expect("STREAM-KILL", "Stream-Channel", channel)
	}
	d.AwaitMetrics(map[string]float64{encodersMetric("set_aside"): 1, encodersMetric("ready"): 0})
	if got := clustertest.Get[clustertest.Overview](d, "/commands/overview").Encoders; got != (clustertest.EncoderTotals{Total: 1, SetAside: 1}) {
		t.Errorf("%+v", got)
	}
}

func TestMetricsShowWhenTheCertificateExpires(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pair := clustertest.NewPair(t, 1)
	pair.Write(t, dir)
	d := startDaemon(t, "SSL_PORT=0", "SSL_CERT="+filepath.Join(dir, "tls.crt"), "SSL_KEY="+filepath.Join(dir, "tls.key"))
	d.AwaitMetrics(map[string]float64{"coordinator_tls_certificate_not_after_timestamp_seconds": float64(pair.NotAfter.Unix())})
}

func TestNoLabelHoldsWhatAPeerHasChosen(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	server, serverID := d.Join("rtmp", "x-external-ip", "198.51.100.7")
	encoder, encoderID := d.Register(3)
	server.Send("PUBLISH-REQUEST", "Request-ID", "theRequest", "Stream-Channel", "theChannel", "Stream-Key", "theKey", "User-IP", "192.0.2.44")
	id := server.Expect("PUBLISH-ACCEPT").Get("Stream-ID")
	encoder.Expect("ENCODE-START")
	encoder.Available("theChannel", id, "HLS-LIVE", "1234x567", "theIndex.m3u8")
	encoder.Send("theMethod", "theArgument", "theValue")
	encoder.Send("ERROR", "Error-Code", "theCode", "Error-Message", "theMessage")
	app.AwaitEvents(1)
	clustertest.EndPublish(server, encoder, "theChannel", id)
	encoder.Send("STREAM-CLOSED", "Stream-Channel", "theChannel", "Stream-ID", id, "Error-Code", "theCode", "Error-Message", "theMessage")
	app.AwaitEvents(2)
	server.Send("PUBLISH-REQUEST", "Request-ID", "theRequest", "Stream-Channel", "the bad channel", "Stream-Key", "theKey")
	server.Expect("PUBLISH-DENY")

	for sample, value := range d.Scrape() {
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
