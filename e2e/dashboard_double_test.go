package e2e

// A stand-in for the daemon's commands API behind the dashboard, for what real peers can't show in a test: a hundred
// thousand streams, an hour of history, faults, and values that no honest peer sends. The page itself, with the headers
// that protect it, is that of a running daemon.

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

type clusterDouble struct {
	url string

	mu sync.Mutex
	// guarded by mu
	overview clustertest.Overview
	streams  []clustertest.StreamRow
	encoders []clustertest.Encoder
	servers  []clustertest.Server
	gateways []clustertest.Gateway
	entries  []clustertest.Entry
	events   []clustertest.EventRow
	fault    http.HandlerFunc // answers everything of the commands API, if set
	hold     chan struct{}    // answers wait until it is closed, if set
	asked    int
}

// newClusterDouble serves the page and the JSON of a small, busy cluster.
func newClusterDouble(t testing.TB) *clusterDouble {
	onlyDirect(t, ofADouble)
	d := startDaemon(t)
	c := &clusterDouble{}
	c.fill(time.Now())
	c.overview.Version = clustertest.Get[clustertest.Overview](d, "/commands/overview").Version
	page := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: d.Addr})
	page.Transport = &http.Transport{DisableKeepAlives: true}
	mux := http.NewServeMux()
	mux.Handle("GET /dashboard", page)
	mux.Handle("GET /dashboard/{file}", page)
	mux.HandleFunc("GET /commands/overview", c.answer(func(*http.Request) any {
		c.overview.Now = time.Now()
		return c.overview
	}))
	mux.HandleFunc("GET /commands/streams", c.answer(func(r *http.Request) any { return pageOfStreams(c.streams, r.URL.Query()) }))
	mux.HandleFunc("GET /commands/encoders", c.answer(func(r *http.Request) any {
		found := find(c.encoders, r, func(e clustertest.Encoder) string { return e.Address })
		return clustertest.EncoderPage{Encoders: found, Matched: len(found)}
	}))
	mux.HandleFunc("GET /commands/servers", c.answer(func(r *http.Request) any {
		found := find(c.servers, r, func(s clustertest.Server) string { return s.IP })
		return clustertest.ServerPage{Servers: found, Matched: len(found)}
	}))
	mux.HandleFunc("GET /commands/events", c.answer(func(*http.Request) any {
		return clustertest.EventPage{Events: append([]clustertest.EventRow{}, c.events...)}
	}))
	mux.HandleFunc("GET /commands/gateways", c.answer(func(r *http.Request) any {
		found := find(c.gateways, r, func(g clustertest.Gateway) string { return g.ID })
		return clustertest.GatewayPage{Gateways: found, Matched: len(found)}
	}))
	mux.HandleFunc("GET /commands/timeline", c.answer(func(*http.Request) any { return clustertest.EntryPage{Entries: c.entries, Matched: len(c.entries)} }))
	mux.HandleFunc("POST /commands/", c.answer(func(*http.Request) any { return struct{}{} }))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *clusterDouble) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *clusterDouble) askedFor() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

func (c *clusterDouble) holding() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hold
}

// answer answers with a value, or with 400 if that is nil.
func (c *clusterDouble) answer(value func(*http.Request) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c.change(func() { c.asked++ })
		if hold := c.holding(); hold != nil {
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.fault != nil {
			c.fault(w, r)
		} else if v := value(r); v != nil {
			writeJSON(w, http.StatusOK, v)
		} else {
			writeError(w, http.StatusBadRequest, "bad query")
		}
	}
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

func writeError(w http.ResponseWriter, status int, reason string) {
	writeJSON(w, status, map[string]string{"error": reason, "code": "malformed_header"})
}

// find searches a list that is no longer than a page.
func find[T any](rows []T, r *http.Request, text func(T) string) []T {
	found := []T{}
	for _, row := range rows {
		if strings.Contains(text(row), r.URL.Query().Get("q")) {
			found = append(found, row)
		}
	}
	return found
}

// pageOfStreams pages with the number of the rows before as its cursor. It is nil for a query that it can't read.
func pageOfStreams(rows []clustertest.StreamRow, query url.Values) any {
	column, descending := strings.CutPrefix(cmp.Or(query.Get("sort"), "channel"), "-")
	order := map[string]func(a, b clustertest.StreamRow) int{
		"channel": func(a, b clustertest.StreamRow) int { return strings.Compare(a.Channel, b.Channel) },
		"since":   func(a, b clustertest.StreamRow) int { return a.Since.Compare(b.Since) },
	}[column]
	limit, err := strconv.Atoi(query.Get("limit"))
	before, err2 := strconv.Atoi(cmp.Or(query.Get("after"), "0"))
	if order == nil || err != nil || err2 != nil {
		return nil
	}
	found := slices.DeleteFunc(slices.Clone(rows), func(row clustertest.StreamRow) bool { return !strings.Contains(row.Channel, query.Get("q")) })
	slices.SortStableFunc(found, func(a, b clustertest.StreamRow) int {
		if descending {
			return order(b, a)
		}
		return order(a, b)
	})
	begin, end := min(before, len(found)), min(before+limit, len(found))
	page := clustertest.StreamPage{Streams: append([]clustertest.StreamRow{}, found[begin:end]...), Matched: len(found)}
	if end < len(found) {
		page.After = strconv.Itoa(end)
	}
	return page
}

// fill makes up an evening: load that climbs, a burst of denials, a delay in the delivery of events.
func (c *clusterDouble) fill(now time.Time) {
	const firstID = 1_795_375_000_000_000
	for i := range 4 {
		c.entries = append(c.entries, clustertest.Entry{
			ID: uint64(9 - i), At: now.Add(-time.Duration(i*i) * time.Hour), Kind: "denied", Code: "no_encoder", Channel: fmt.Sprint("evening-show-of-the-season-", i),
			Reason: "no encoder had a free slot: 8 of 8 slots taken on 2 encoders", StreamServer: firstID,
		})
	}
	for i := range 6 {
		c.servers = append(c.servers, clustertest.Server{
			ID: firstID + uint64(i), IP: fmt.Sprintf("10.20.1.%d", 11+i), Port: 1935, SSL: i%2 == 1, ServerType: "RTMP",
			Since: now.Add(-time.Duration(70+i) * time.Hour),
		})
	}
	for i := range 2 {
		c.servers = append(c.servers, clustertest.Server{
			ID: firstID + 10 + uint64(i), IP: fmt.Sprintf("10.20.2.%d", 11+i), Port: 443, SSL: true, ServerType: "WS",
			Since: now.Add(-time.Duration(50+i) * time.Hour),
		})
	}
	for i := range 12 {
		c.encoders = append(c.encoders, clustertest.Encoder{ID: firstID + 100 + uint64(i), Address: fmt.Sprintf("10.20.3.%d", 11+i), Capacity: 24, Since: now.Add(-time.Duration(40*(i+1)) * time.Minute * 7)})
	}
	c.encoders[3].Draining, c.encoders[3].Moving = true, true
	c.encoders[7].SetAside = true
	first := []string{"harbour", "summit", "newsroom", "orchard", "matchday", "studio", "lecture", "parliament", "reef", "skatepark", "kitchen", "observatory", "choir"}
	second := []string{"cam", "live", "main", "two", "stage", "evening", "north", "roof", "backup", "hall", "late", "early", "west", "open", "talk"}
	for i := range 187 {
		e := &c.encoders[[]int{0, 8, 2, 11, 5, 1, 9, 4, 10, 6}[(i+i/13)%10]]
		if i%31 == 5 {
			e = &c.encoders[3]
		}
		s := &c.servers[(i*5)%8]
		row := clustertest.StreamRow{
			Channel: first[i%13] + "-" + second[(i/13+i)%15], StreamID: madeUpStreamID(i),
			State: "live", StreamServer: s.ID, Encoder: e.ID, Since: now.Add(-time.Duration(i*i*7+95) * time.Second),
			Announced: madeUpOutputs("HLS-LIVE 1920x1080-30", "HLS-LIVE 1280x720-30", "HLS-LIVE 854x480-30", "IMG-PREVIEW 256x144"),
		}
		switch {
		case i%41 == 7:
			row.State, row.Announced = "closing", append(row.Announced, madeUpOutputs("HLS-VOD 1920x1080-30")...)
		case i == 33:
			row.State, row.Announced = "starting", nil
		case i%3 == 1:
			row.Announced = madeUpOutputs("HLS-LIVE 1280x720-30", "HLS-LIVE 640x360-30")
		}
		e.Load++
		e.Serving++
		s.Streams++
		c.streams = append(c.streams, row)
	}
	for i, state := range []string{"waiting", "queued", "sending", "due"} {
		row := c.streams[10*i]
		event := clustertest.EventRow{
			ID: row.StreamID + "-1", Channel: row.Channel, StreamID: row.StreamID, Type: "stream-available", StreamType: "HLS-LIVE",
			Resolution: "1280x720-30", Since: now.Add(-time.Duration(17*i+2) * time.Minute), State: state, Tries: 7 * i, LastAnswer: "connection closed without an answer",
		}
		if i == 0 {
			event.NextTry = now.Add(time.Minute).UTC().Format(time.RFC3339)
		}
		if i == 1 {
			event.ID, event.Type, event.StreamType, event.Resolution, event.LastAnswer = row.StreamID+"-closed", "stream-closed", "", "", ""
		}
		c.events = append(c.events, event)
	}
	const points = 360
	history := clustertest.History{StepSeconds: 10}
	for i := range points {
		x := float64(i)
		load := 128 + 59*x/points + 9*math.Sin(x/31) + 3*math.Sin(x/7.3)
		history.Load = append(history.Load, int(load))
		history.Capacity = append(history.Capacity, 288-24*boolToInt(i > 90 && i < 140))
		history.Publishes = append(history.Publishes, int64(max(0, 3.2+math.Sin(x/23)+1.9*math.Sin(x*1.7)+math.Sin(x*0.31))))
		history.Denials = append(history.Denials, int64(max(0, 5*math.Exp(-math.Pow((x-250)/9, 2))+0.7*math.Sin(x*2.3))))
		history.EventsPending = append(history.EventsPending, int(max(0, 46*math.Exp(-math.Pow((x-150)/16, 2))+2*math.Sin(x/3)+1)))
	}
	history.Load[points-1], history.EventsPending[points-1] = 187, 3
	c.overview = clustertest.Overview{
		StartedAt: now.Add(-76*time.Hour - 12*time.Minute),
		Streams:   clustertest.StreamTotals{Live: 182, Closing: 5}, Slots: clustertest.SlotTotals{Used: 187, Capacity: 288}, Encoders: clustertest.EncoderTotals{Total: 12, Draining: 1, SetAside: 1},
		StreamingServers: clustertest.ServerTotals{RTMP: 6, WS: 2}, Events: clustertest.EventTotals{Pending: 3, OldestSeconds: 0.4}, KeyVerifications: clustertest.Rates{PerSecond: 0.6, RefusedPerSecond: 0.1},
		Ready: true, NotReady: []string{}, History: history,
	}
}

// addGateways has three gateways hold all connections, one of which is absent.
func (c *clusterDouble) addGateways() {
	now := time.Now()
	for i := range 3 {
		c.gateways = append(c.gateways, clustertest.Gateway{
			ID: madeUpStreamID(-1 - i), Address: fmt.Sprintf("10.20.0.%d", 21+i), Linked: i != 2, Since: now.Add(-time.Duration(50-20*i) * time.Hour), Version: "0.1.0",
			FramesIn: 81_204 >> i, FramesOut: 96_377 >> i, BytesIn: 9_120_311 >> i, BytesOut: 14_809_207 >> i,
		})
	}
	c.gateways[2].Since, c.gateways[2].UnacknowledgedBytes = now.Add(-4*time.Second), 1536
	for i := range c.servers {
		g := &c.gateways[i%3]
		c.servers[i].Gateway = g.ID
		g.StreamingServers++
	}
	for i := range c.encoders {
		g := &c.gateways[i%3]
		c.encoders[i].Gateway = g.ID
		g.Encoders++
	}
	c.overview.Gateways = clustertest.GatewayTotals{Total: 3, Absent: 1}
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// madeUpStreamID looks like those of crypto/rand.Text.
func madeUpOutputs(outputs ...string) (list []clustertest.Output) {
	for _, text := range outputs {
		kind, resolution, _ := strings.Cut(text, " ")
		list = append(list, clustertest.Output{StreamType: kind, Resolution: resolution, IndexFile: "hls/" + resolution + "/live.m3u8"})
	}
	return list
}

func madeUpStreamID(i int) string {
	sum := sha256.Sum256(fmt.Append(nil, i))
	return base32.StdEncoding.EncodeToString(sum[:])[:26]
}
