package main

// A stand-in for the daemon behind the dashboard, for what real peers can't show in a test: a hundred thousand streams,
// an hour of history, faults, and values that no honest peer sends. It pages with the daemon's own lists.

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"coordinator/internal/httpjson"
)

type clusterDouble struct {
	url string

	mu sync.Mutex
	// guarded by mu
	overview overviewReport
	streams  []streamRow
	encoders []encoderReport
	servers  []serverReport
	fault    http.HandlerFunc // answers everything of the commands API, if set
	hold     chan struct{}    // answers wait until it is closed, if set
	asked    int
}

// newClusterDouble serves the page and the JSON of a small, busy cluster.
func newClusterDouble(t testing.TB) *clusterDouble {
	c := &clusterDouble{}
	c.fill(time.Now())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dashboard", newDashboard())
	mux.HandleFunc("GET /dashboard/{file}", newDashboard())
	mux.HandleFunc("GET /commands/overview", c.answer(func() any {
		c.overview.Now = time.Now()
		return c.overview
	}))
	mux.HandleFunc("GET /commands/streams", answerList(c, "streams", streamList(), func() []streamRow { return c.streams }))
	mux.HandleFunc("GET /commands/encoders", answerList(c, "encoders", encoderList(), func() []encoderReport { return c.encoders }))
	mux.HandleFunc("GET /commands/servers", answerList(c, "servers", serverList(), func() []serverReport { return c.servers }))
	mux.HandleFunc("POST /commands/", c.answer(func() any { return struct{}{} }))
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

func (c *clusterDouble) answer(value func() any) http.HandlerFunc {
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
			return
		}
		httpjson.Write(w, http.StatusOK, value())
	}
}

func answerList[T any](c *clusterDouble, name string, list listing[T], rows func() []T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, ok := list.query(w, r)
		if !ok {
			return
		}
		c.answer(func() any {
			page, matched, after := list.page(rows(), q)
			return map[string]any{name: page, "matched": matched, "after": after}
		})(w, r)
	}
}

// fill makes up an evening: load that climbs, a burst of denials, a delay in the delivery of events.
func (c *clusterDouble) fill(now time.Time) {
	const firstID = 1_795_375_000_000_000
	for i := range 6 {
		c.servers = append(c.servers, serverReport{
			ID: firstID + uint64(i), IP: fmt.Sprintf("10.20.1.%d", 11+i), Port: 1935, SSL: i%2 == 1, ServerType: "RTMP",
			Since: now.Add(-time.Duration(70+i) * time.Hour),
		})
	}
	for i := range 2 {
		c.servers = append(c.servers, serverReport{
			ID: firstID + 10 + uint64(i), IP: fmt.Sprintf("10.20.2.%d", 11+i), Port: 443, SSL: true, ServerType: "WS",
			Since: now.Add(-time.Duration(50+i) * time.Hour),
		})
	}
	for i := range 12 {
		c.encoders = append(c.encoders, encoderReport{ID: firstID + 100 + uint64(i), Address: fmt.Sprintf("10.20.3.%d", 11+i), Capacity: 24, Since: now.Add(-time.Duration(40*(i+1)) * time.Minute * 7)})
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
		row := streamRow{
			Channel: first[i%13] + "-" + second[(i/13+i)%15], StreamID: madeUpStreamID(i),
			State: "live", StreamServer: s.ID, Encoder: e.ID, Since: now.Add(-time.Duration(i*i*7+95) * time.Second),
			Announced: []string{"HLS-LIVE 1920x1080-30", "HLS-LIVE 1280x720-30", "HLS-LIVE 854x480-30", "IMG-PREVIEW 256x144"},
		}
		switch {
		case i%41 == 7:
			row.State, row.Announced = "closing", append(row.Announced, "HLS-VOD 1920x1080-30")
		case i == 33:
			row.State, row.Announced = "starting", nil
		case i%3 == 1:
			row.Announced = []string{"HLS-LIVE 1280x720-30", "HLS-LIVE 640x360-30"}
		}
		e.Load++
		e.Serving++
		s.Streams++
		c.streams = append(c.streams, row)
	}
	history := historyReport{StepSeconds: historyStep}
	for i := range historyPoints {
		x := float64(i)
		load := 128 + 59*x/historyPoints + 9*math.Sin(x/31) + 3*math.Sin(x/7.3)
		history.Load = append(history.Load, int(load))
		history.Capacity = append(history.Capacity, 288-24*boolToInt(i > 90 && i < 140))
		history.Publishes = append(history.Publishes, int64(max(0, 3.2+math.Sin(x/23)+1.9*math.Sin(x*1.7)+math.Sin(x*0.31))))
		history.Denials = append(history.Denials, int64(max(0, 5*math.Exp(-math.Pow((x-250)/9, 2))+0.7*math.Sin(x*2.3))))
		history.EventsPending = append(history.EventsPending, int(max(0, 46*math.Exp(-math.Pow((x-150)/16, 2))+2*math.Sin(x/3)+1)))
	}
	history.Load[historyPoints-1], history.EventsPending[historyPoints-1] = 187, 3
	c.overview = overviewReport{
		Version: version, StartedAt: now.Add(-76*time.Hour - 12*time.Minute),
		Streams: streamTotals{182, 5, 0, 0}, Slots: slotTotals{187, 288}, Encoders: encoderTotals{12, 1, 1},
		StreamingServers: serverTotals{6, 2, 0}, Events: eventTotals{3, 0.4}, KeyVerifications: rates{0.6, 0.1},
		Ready: true, NotReady: []string{}, History: history,
	}
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// madeUpStreamID looks like those of crypto/rand.Text.
func madeUpStreamID(i int) string {
	sum := sha256.Sum256(fmt.Append(nil, i))
	return base32.StdEncoding.EncodeToString(sum[:])[:26]
}
