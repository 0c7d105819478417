package main

// What stands behind the commands and beside them: the report, how streams are sorted and found, probes of a coordinator
// that stops.

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestReportIsWhatTheLibraryWouldWrite(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := registryWith(t, 2500) // in parts
	s := r.joinServer(attachment{}, nowhere{}, serverInfo{kind: kindWS, ip: "2001:db8::1", port: 8443, ssl: true}, now)
	s2 := r.joinServer(attachment{}, nowhere{}, serverInfo{kind: kindRTMP, ip: "odd.example", port: 1}, now)
	if _, _, err := r.drain(s.id, false, now); err != nil {
		t.Fatal(err)
	}
	odd := claimRequest{channel: "odd", key: "k", passthrough: `"quoted" \ <b>&</b>`}
	if _, err := r.claim(s2, odd, now); err != nil {
		t.Fatal(err)
	}
	st := r.channels.Get("odd").current
	for _, index := range []string{"hls/odd/" + st.id + "/live.m3u8", "hls/odd/\x02/ü\n.m3u8", "\x00"} {
		r.announce(st.encoder, "odd", st.id, announcement{streamType: "HLS-VOD", resolution: "1x1", indexFile: index, startTime: "12.5"}, now)
	}
	answer := httptest.NewRecorder()
	(&commands{&coordinator{registry: r}}).report(answer, nil)
	var report clusterReport
	if err := json.Unmarshal(answer.Body.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(again)+"\n", answer.Body.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := wholeReport(r, now)
	sameTime := cmp.Comparer(func(x, y time.Time) bool { return x.Equal(y) })
	byChannel := cmpopts.SortSlices(func(x, y streamReport) bool { return x.Channel < y.Channel })
	byID := cmpopts.SortSlices(func(x, y serverReport) bool { return x.ID < y.ID })
	encodersByID := cmpopts.SortSlices(func(x, y encoderReport) bool { return x.ID < y.ID })
	if diff := cmp.Diff(want, report, cmpopts.IgnoreUnexported(streamReport{}), sameTime, byChannel, byID, encodersByID); diff != "" || len(report.ActiveStreams) != 2501 {
		t.Errorf("%d streams (-want +got):\n%s", len(report.ActiveStreams), diff)
	}
}

func TestListOfStreamsIsSortedByEachColumnAndSearched(t *testing.T) {
	t.Parallel()
	at := func(hours int) time.Time { return time.Unix(1_700_000_000, 0).Add(time.Duration(hours) * time.Hour) }
	rows := []streamRow{
		{streamReport{Channel: "c", StreamID: "s0", Encoder: 9, StreamServer: 30, Since: at(0)}, "live"},
		{streamReport{Channel: "a", StreamID: "s1", Encoder: 10, StreamServer: 4, Since: at(-2)}, "live"},
		{streamReport{Channel: "b", StreamID: "s2", Encoder: 1, StreamServer: 30, Since: at(-2)}, "closing"},
		{streamReport{Channel: "a", StreamID: "s3", Encoder: 0, StreamServer: 200, Since: at(0)}, "live"},
		{streamReport{Channel: "d", StreamID: "s4", Encoder: 0, StreamServer: 5, Since: at(4)}, "live"},
	}
	streams := streamList()
	sorted := map[string]bool{}
	for query, want := range map[string]string{
		"":              "s1 s3 s2 s0 s4",
		"sort=channel":  "s1 s3 s2 s0 s4",
		"sort=-channel": "s4 s0 s2 s3 s1",
		"sort=encoder":  "s3 s4 s2 s0 s1",
		"sort=-encoder": "s1 s0 s2 s4 s3",
		"sort=server":   "s1 s4 s0 s2 s3",
		"sort=since":    "s1 s2 s0 s3 s4",
		"sort=state":    "s2 s0 s1 s3 s4",
		"q=b":           "s2",
		"q=s4":          "s4",
		"q=10":          "s1",
		"q=30":          "s2 s0",
		"q=20":          "", // numbers are found as a whole
	} {
		q, err := streams.Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		page, matched, _ := streams.Page(rows, q)
		var got []string
		for _, row := range page {
			got = append(got, row.StreamID)
		}
		if strings.Join(got, " ") != want || matched != len(got) {
			t.Errorf("%q: %v, %d matched, want %s", query, got, matched, want)
		}
		if column, found := strings.CutPrefix(query, "sort="); found {
			sorted[strings.TrimPrefix(column, "-")] = true
		}
	}
	for column := range streams.Columns {
		if !sorted[column] {
			t.Errorf("no case is sorted by %s", column)
		}
	}
}

func TestStoppingCoordinatorIsAliveAndNotReady(t *testing.T) {
	t.Parallel()
	log, cfg, api, sockets := apiRooms(t)
	routes := newRoutes(cfg, log, api, sockets, nil)
	api.coordinator.stop()
	for path, want := range map[string]string{
		"/livez":          "200 ok\n",
		"/readyz":         "503 not ready\n",
		"/readyz?verbose": "503 not ready\ncoordinator is stopping\n",
	} {
		reply := httptest.NewRecorder()
		routes.ServeHTTP(reply, httptest.NewRequest("GET", path, nil))
		if got := reply.Result().Status[:4] + reply.Body.String(); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
