package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestOverviewIsTheClusterInOneLook(t *testing.T) {
	t.Parallel()
	began := time.Now()
	d := startDaemon(t)
	server, _ := d.Join("rtmp")
	d.Join("wss")
	_, drained := d.Join("wss")
	encoder, _ := d.Register(5)
	_, resting := d.Register(3)
	d.MustCall("/commands/drain", "x-session-id", fmt.Sprint(drained))
	d.MustCall("/commands/drain", "x-session-id", fmt.Sprint(resting))
	clustertest.Publish(server, encoder, "one")
	clustertest.Publish(server, encoder, "two")
	clustertest.EndPublish(server, encoder, "two", publishedID(d, "two"))

	got := clustertest.Get[clustertest.Overview](d, "/commands/overview")
	if got.StartedAt.Before(began) || got.Now.Before(got.StartedAt) {
		t.Errorf("started at %v, now %v", got.StartedAt, got.Now)
	}
	want := clustertest.Overview{
		Version:          got.Version,
		Now:              got.Now,
		StartedAt:        got.StartedAt,
		Streams:          clustertest.StreamTotals{Live: 1, Closing: 1},
		Slots:            clustertest.SlotTotals{Used: 2, Capacity: 8},
		Encoders:         clustertest.EncoderTotals{Total: 2, Draining: 1},
		StreamingServers: clustertest.ServerTotals{RTMP: 1, WS: 2, Draining: 1},
		Ready:            true,
		NotReady:         []string{},
		History:          clustertest.History{StepSeconds: 10, Load: []int{}, Capacity: []int{}, Publishes: []int64{}, Denials: []int64{}, EventsPending: []int{}},
	}
	if gatewayBetween(t) {
		want.Gateways.Total = 1
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("(-want +got):\n", diff)
	}
}

// publishedID is the stream ID of a live channel.
func publishedID(d *clustertest.Daemon, channel string) string {
	d.T.Helper()
	for _, s := range d.Report().ActiveStreams {
		if s.Channel == channel {
			return s.StreamID
		}
	}
	d.T.Fatalf("%s is not live", channel)
	return ""
}

func TestOverviewShowsWhoWaitsForAnEncoder(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "ENCODER_WAIT_SECONDS=10")
	server, _ := d.Join("rtmp")
	encoder, _ := d.Register(-1)
	id := clustertest.Publish(server, encoder, "moving")
	encoder.Available("moving", id, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	encoder.Conn.Close()
	d.AwaitReport("no encoder", func(r clustertest.Report) bool { return len(r.Encoders) == 0 })
	server.Send("PUBLISH-REQUEST", "Request-ID", "1", "Stream-Channel", "new", "Stream-Key", "key")
	d.AwaitReport("the waiting request", func(r clustertest.Report) bool { return r.WaitingRequests == 1 })

	got := clustertest.Get[clustertest.Overview](d, "/commands/overview")
	if got.Streams != (clustertest.StreamTotals{Waiting: 1}) || got.WaitingRequests != 1 || got.Slots != (clustertest.SlotTotals{}) {
		t.Errorf("%+v", got)
	}
	rows := clustertest.Get[clustertest.StreamPage](d, "/commands/streams?q=moving").Streams
	if len(rows) != 1 || rows[0].State != "waiting" || rows[0].Encoder != 0 {
		t.Errorf("%+v", rows)
	}
}

func TestStreamListTellsWhereAStreamIs(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, serverID := d.Join("rtmp")
	encoder, encoderID := d.Register(-1)
	id := clustertest.Publish(server, encoder, "sport")
	clustertest.Publish(server, encoder, "news")
	encoder.Available("sport", id, "HLS-LIVE", "1280x720-30", "live.m3u8")
	encoder.Available("sport", id, "IMG-PREVIEW", "256x144", "p.json")
	d.Logs.Await(t, "stream available", "IMG-PREVIEW")

	page := clustertest.Get[clustertest.StreamPage](d, "/commands/streams?q=port")
	if len(page.Streams) != 1 || page.Matched != 1 || page.After != "" {
		t.Fatalf("%+v", page)
	}
	got := page.Streams[0]
	if age := time.Since(got.Since); age < 0 || age > clustertest.Patience {
		t.Errorf("live for %v", age)
	}
	got.Since = time.Time{}
	want := clustertest.StreamRow{
		Channel: "sport", StreamID: id, State: "live", StreamServer: serverID, Encoder: encoderID,
		Announced: []clustertest.Output{{StreamType: "HLS-LIVE", Resolution: "1280x720-30", IndexFile: "live.m3u8"}, {StreamType: "IMG-PREVIEW", Resolution: "256x144", IndexFile: "p.json"}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(clustertest.StreamRow{})); diff != "" {
		t.Error("(-want +got):\n", diff)
	}
	if byID := clustertest.Get[clustertest.StreamPage](d, "/commands/streams?q="+id); byID.Matched != 1 {
		t.Errorf("search for the stream ID matches %d", byID.Matched)
	}
	if _, body := d.Call("GET", "/commands/streams?q=nobody"); strings.TrimSpace(body) != `{"streams":[],"matched":0,"after":""}` {
		t.Errorf("search for nobody: %s", body)
	}
}

func TestPagingWalksStreamsWhileOthersComeAndGo(t *testing.T) {
	t.Parallel()
	const staying, passing = 1000, 100
	d := startDaemon(t, "LOG_REQUESTS=NO", "LOG_DEBUG=NO")
	server, _ := d.Join("rtmp")
	encoder, _ := d.Register(-1)
	var want []string
	var coming []string // IDs of streams that will go
	for i := range staying {
		want = append(want, clustertest.Publish(server, encoder, fmt.Sprintf("c%04d", i)))
		if i%(staying/passing) == 0 {
			coming = append(coming, clustertest.Publish(server, encoder, fmt.Sprintf("c%04d-passing", i)))
		}
	}
	slices.Sort(want)
	replace := func(round int) { // one stream goes, in some part of the list; another comes in the same place
		channel := fmt.Sprintf("c%04d-passing", round*37%passing*(staying/passing))
		id := publishedID(d, channel)
		clustertest.EndPublish(server, encoder, channel, id)
		encoder.Closed(channel, id)
		coming = append(coming, clustertest.Publish(server, encoder, channel))
	}
	for _, sort := range []string{"channel", "-channel", "since", "-since", "state", "server"} {
		var got []string
		after := ""
		for round := 0; ; round++ {
			page := clustertest.Get[clustertest.StreamPage](d, "/commands/streams?limit=37&sort="+sort+"&after="+after)
			for _, row := range page.Streams {
				if !slices.Contains(coming, row.StreamID) {
					got = append(got, row.StreamID)
				}
			}
			if after = page.After; after == "" {
				break
			}
			replace(round)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("sort %s (-want +got):\n%s", sort, diff)
		}
	}
}

func TestEncoderAndServerLists(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, rtmp := d.Join("rtmp", "x-external-ip", "10.1.1.2")
	_, ws := d.Join("wss", "x-external-ip", "10.1.1.1")
	unlimited, free := d.Register(-1)
	_, full := d.Register(0)
	_, small := d.Register(2)
	clustertest.Publish(server, unlimited, "chan")
	d.MustCall("/commands/drain", "x-session-id", fmt.Sprint(small))

	for sort, want := range map[string][]uint64{
		"": {free, full, small}, "-id": {small, full, free}, "since": {free, full, small}, "-load": {free, small, full},
		"capacity": {full, small, free}, "state": {small, full, free},
	} {
		var got []uint64
		for _, e := range clustertest.Get[clustertest.EncoderPage](d, "/commands/encoders?sort="+sort).Encoders {
			got = append(got, e.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("encoders by %q (-want +got):\n%s", sort, diff)
		}
	}
	for sort, want := range map[string][]uint64{
		"": {rtmp, ws}, "-id": {ws, rtmp}, "-since": {ws, rtmp}, "ip": {ws, rtmp}, "streams": {ws, rtmp}, "-type": {ws, rtmp},
	} {
		var got []uint64
		for _, s := range clustertest.Get[clustertest.ServerPage](d, "/commands/servers?sort="+sort).Servers {
			got = append(got, s.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("servers by %q (-want +got):\n%s", sort, diff)
		}
	}
	if page := clustertest.Get[clustertest.EncoderPage](d, fmt.Sprint("/commands/encoders?q=", small)); page.Matched != 1 || !page.Encoders[0].Draining {
		t.Errorf("%+v", page)
	}
	if page := clustertest.Get[clustertest.ServerPage](d, "/commands/servers?q=10.1.1.2"); page.Matched != 1 || page.Servers[0].Streams != 1 {
		t.Errorf("%+v", page)
	}
	first := clustertest.Get[clustertest.ServerPage](d, "/commands/servers?limit=1")
	second := clustertest.Get[clustertest.ServerPage](d, "/commands/servers?limit=1&after="+first.After)
	if first.Servers[0].ID != rtmp || second.Servers[0].ID != ws || second.After != "" || first.Matched != 2 {
		t.Errorf("%+v, then %+v", first, second)
	}
}

func TestListsRefuseWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	d.Join("rtmp")
	d.Join("rtmp")
	foreign := clustertest.Get[clustertest.ServerPage](d, "/commands/servers?limit=1").After
	if foreign == "" {
		t.Fatal("no cursor")
	}
	for _, path := range []string{
		"/commands/streams?limit=-1", "/commands/streams?limit=0", "/commands/streams?limit=501", "/commands/streams?sort=nonsense",
		"/commands/streams?after=" + foreign, "/commands/encoders?after=" + foreign, "/commands/servers?sort=ip&after=" + foreign,
		"/commands/streams?after=" + url.QueryEscape("'; drop"), "/commands/encoders?limit=-1", "/commands/encoders?sort=channel",
		"/commands/servers?limit=501", "/commands/servers?sort=load", "/commands/servers?q=%zz",
	} {
		status, body := d.Call("GET", path)
		var refusal struct{ Error string }
		if err := json.Unmarshal([]byte(body), &refusal); err != nil || status != 400 || refusal.Error == "" {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestDrainNeedsASessionOfTheReport(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	_, id := d.Join("rtmp")
	for _, c := range []struct {
		want   int
		header []string
	}{
		{404, []string{"x-session-id", "0"}},
		{404, []string{"x-session-id", fmt.Sprint(id + 1)}},
		{404, []string{"x-session-id", "18446744073709551615"}},
		{400, []string{"x-session-id", "18446744073709551616"}},
		{400, []string{"x-session-id", "-1"}},
		{400, []string{"x-session-id", "+1"}},
		{400, []string{"x-session-id", "1.0"}},
		{400, []string{"x-session-id", fmt.Sprintf("%#x", id)}},
		{400, []string{"x-session-id", "*"}},
		{400, []string{"x-session-id", ""}},
		{400, []string{"x-session-id", fmt.Sprint(id), "x-session-id", fmt.Sprint(id)}},
		{400, nil},
	} {
		for _, path := range []string{"/commands/drain", "/commands/undrain"} {
			if status, body := d.Call("POST", path, c.header...); status != c.want {
				t.Errorf("%s %q: %d %s, want %d", path, c.header, status, body, c.want)
			}
		}
	}
	for _, move := range []string{"yes", "", "TRUE"} {
		if status, _ := d.Call("POST", "/commands/drain", "x-session-id", fmt.Sprint(id), "x-drain-move", move); status != 400 {
			t.Errorf("x-drain-move %q: %d", move, status)
		}
	}
	if d.Report().StreamingServers[0].Draining {
		t.Error("a refused drain had an effect")
	}
}

func TestDrainedServerGetsNoNewPublisher(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, id := d.Join("rtmp")
	encoder, _ := d.Register(-1)
	kept := clustertest.Publish(server, encoder, "kept")
	d.MustCall("/commands/drain", "x-session-id", fmt.Sprint(id))

	server.Send("PUBLISH-REQUEST", "Request-ID", "1", "Stream-Channel", "new", "Stream-Key", "key")
	server.Expect("PUBLISH-DENY", "Request-ID", "1", "Stream-Channel", "new")
	report := d.Report()
	if !report.StreamingServers[0].Draining || len(report.ActiveStreams) != 1 || report.ActiveStreams[0].StreamID != kept {
		t.Errorf("%+v", report)
	}

	d.MustCall("/commands/undrain", "x-session-id", fmt.Sprint(id))
	clustertest.Publish(server, encoder, "new")
}

func TestDrainedEncoderGetsNoNewStreamAndKeepsItsOwn(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, _ := d.Join("rtmp")
	first, id := d.Register(-1)
	kept := clustertest.Publish(server, first, "kept")
	d.MustCall("/commands/drain", "x-session-id", fmt.Sprint(id))

	server.Send("PUBLISH-REQUEST", "Request-ID", "1", "Stream-Channel", "new", "Stream-Key", "key")
	server.Expect("PUBLISH-DENY", "Request-ID", "1", "Stream-Channel", "new")
	second, _ := d.Register(1)
	clustertest.Publish(server, second, "other")
	clustertest.EndPublish(server, first, "kept", kept)
	first.Closed("kept", kept)
	d.AwaitLoad(1)

	d.MustCall("/commands/undrain", "x-session-id", fmt.Sprint(id))
	clustertest.Publish(server, first, "new")
}

func TestDrainWithMoveEmptiesTheEncoder(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, _ := d.Join("rtmp")
	first, id := d.Register(-1)
	before := clustertest.Publish(server, first, "chan")
	first.Available("chan", before, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	second, _ := d.Register(-1)
	d.MustCall("/commands/drain", "x-session-id", fmt.Sprint(id), "x-drain-move", "true")
	if e := clustertest.Get[clustertest.EncoderPage](d, fmt.Sprint("/commands/encoders?q=", id)).Encoders[0]; !e.Moving || !e.Draining {
		t.Errorf("%+v", e)
	}
	after := second.Expect("ENCODE-START", "Stream-Channel", "chan").Get("Stream-ID")
	second.Available("chan", after, "HLS-LIVE", "ORIGINAL", "live.m3u8")
	first.Expect("ENCODE-STOP", "Stream-Channel", "chan", "Stream-ID", before)
	server.Quiet()
}

func TestDrainedEncoderThatDisconnectsIsGone(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	encoder, id := d.Register(4)
	d.MustCall("/commands/drain", "x-session-id", fmt.Sprint(id))
	encoder.Conn.Close()
	d.AwaitReport("no encoder", func(r clustertest.Report) bool { return len(r.Encoders) == 0 })
	for _, path := range []string{"/commands/drain", "/commands/undrain"} {
		if status, _ := d.Call("POST", path, "x-session-id", fmt.Sprint(id)); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if got := clustertest.Get[clustertest.Overview](d, "/commands/overview"); got.Encoders != (clustertest.EncoderTotals{}) || got.Slots != (clustertest.SlotTotals{}) {
		t.Errorf("%+v", got)
	}
}

func TestOperatorsPathsAreProtected(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN=t0ken")
	for path, method := range map[string]string{
		"/metrics": "GET", "/commands/overview": "GET", "/commands/streams": "GET", "/commands/encoders": "GET", "/commands/servers": "GET",
		"/commands/drain": "POST", "/commands/undrain": "POST",
	} {
		for _, authorization := range []string{"", "Bearer wrong", "Basic dDBrZW46dDBrZW4="} {
			res, body := d.Request(method, path, "Authorization", authorization, "x-session-id", "1")
			if res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") == "" || strings.Contains(body, "coordinator_") {
				t.Errorf("%s with %q: %d %s", path, authorization, res.StatusCode, body)
			}
		}
		want := 200
		if method == "POST" {
			want = 404
		}
		if status, _ := d.Call(method, path, "Authorization", "Bearer t0ken", "x-session-id", "1"); status != want {
			t.Errorf("%s with the token: %d, want %d", path, status, want)
		}
		other := map[string]string{"GET": "POST", "POST": "GET"}[method]
		if res, _ := d.Request(other, path, "Authorization", "Bearer t0ken"); res.StatusCode != 405 || !strings.Contains(res.Header.Get("Allow"), method) {
			t.Errorf("%s %s: %d, Allow %q", other, path, res.StatusCode, res.Header.Get("Allow"))
		}
	}
}
