package main

// The part of the commands API that is for the operator: the cluster in one look, lists to search and page through,
// and maintenance.

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"coordinator/internal/buildinfo"
	"coordinator/internal/control"
	"coordinator/internal/history"
	"coordinator/internal/httpjson"
	"coordinator/internal/paging"
	"coordinator/internal/timeline"
)

// overviewReport is the answer to GET /commands/overview.
type overviewReport struct {
	Version          string         `json:"version"`
	Now              time.Time      `json:"now"`
	StartedAt        time.Time      `json:"startedAt"`
	Epoch            uint64         `json:"epoch"` // of the term; 0 without a database
	Streams          streamTotals   `json:"streams"`
	Slots            slotTotals     `json:"slots"`
	Encoders         encoderTotals  `json:"encoders"`
	StreamingServers serverTotals   `json:"streamingServers"`
	Gateways         gatewayTotals  `json:"gateways"`
	WaitingRequests  int            `json:"waitingRequests"` // publish requests that wait for a slot
	Events           eventTotals    `json:"events"`
	KeyVerifications history.Rates  `json:"keyVerifications"`
	Ready            bool           `json:"ready"`
	NotReady         []string       `json:"notReady"` // reasons
	History          history.Report `json:"history"`
}

// streamTotals counts live publishers without an encoder as waiting, or as ending if they were told to, not as live.
type streamTotals struct {
	Live    int `json:"live"`
	Closing int `json:"closing"`
	Waiting int `json:"waiting"`
	Ending  int `json:"ending"`
}

type slotTotals struct {
	Used     int `json:"used"`
	Capacity int `json:"capacity"` // -1: no limit
}

type encoderTotals struct {
	Total    int `json:"total"`
	Draining int `json:"draining"`
	SetAside int `json:"setAside"`
}

type serverTotals struct {
	RTMP     int `json:"rtmp"`
	WS       int `json:"ws"`
	Draining int `json:"draining"`
}

type gatewayTotals struct {
	Total  int `json:"total"`
	Absent int `json:"absent"`
}

type eventTotals struct {
	Pending       int     `json:"pending"`
	OldestSeconds float64 `json:"oldestSeconds"`
}

func (a *commands) overview(w http.ResponseWriter, _ *http.Request) {
	c := a.coordinator
	s := c.state()
	httpjson.Write(w, http.StatusOK, overviewReport{
		Version:          buildinfo.Version(),
		Now:              time.Now().UTC(),
		StartedAt:        c.startedAt.UTC(),
		Epoch:            c.mandate.Epoch(),
		Streams:          streamTotals{s.hasEncoder, s.closing, s.waiting, s.ending},
		Slots:            slotTotals{s.slots.Load, s.slots.Capacity},
		Encoders:         encoderTotals{s.slots.EncoderCount, s.encoders[encoderDraining], s.encoders[encoderSetAside]},
		StreamingServers: serverTotals{s.rtmpServers, s.wsServers, s.drainingServers},
		Gateways:         gatewayTotals{s.gateways.linked + s.gateways.absent, s.gateways.absent},
		WaitingRequests:  s.waitingRequests,
		Events:           eventTotals{s.eventsPending, s.oldestEvent.Seconds()},
		KeyVerifications: c.history.KeyVerifications(),
		Ready:            len(s.notReady) == 0,
		NotReady:         append([]string{}, s.notReady...),
		History:          c.history.Report(),
	})
}

// streams answers with a page of streams. A stream that begins to close while the page is made may be missing from it.
func (a *commands) streams(w http.ResponseWriter, r *http.Request) {
	streams := streamList()
	q, ok := pageAsked(streams, w, r)
	if !ok {
		return
	}
	p := streams.Pager(q)
	a.coordinator.registry.streamRows(p.Add)
	report := streams.Report(p.Page())
	for i := range report.Rows {
		report.Rows[i].describeAnnounced()
	}
	httpjson.Write(w, http.StatusOK, report)
}

func (a *commands) encoders(w http.ResponseWriter, r *http.Request) {
	servePage(w, r, encoderList(), func() []encoderReport { return a.coordinator.registry.encoderReports(time.Now()) })
}

func (a *commands) servers(w http.ResponseWriter, r *http.Request) {
	servePage(w, r, serverList(), a.coordinator.registry.serverReports)
}

// gatewayReport is a gateway that is linked, or that is waited for.
type gatewayReport struct {
	ID                  string    `json:"id"`
	Address             string    `json:"address"` // that its link comes from, or its last one; "": it was not linked since the start
	Linked              bool      `json:"linked"`
	Since               time.Time `json:"since"` // when it was linked, or when it became absent
	Version             string    `json:"version"`
	StreamingServers    int       `json:"streamingServers"` // whose connections it holds
	Encoders            int       `json:"encoders"`
	UnacknowledgedBytes int       `json:"unacknowledgedBytes"` // of what was said to it
	FramesIn            uint64    `json:"framesIn"`            // since the start, as the three below
	FramesOut           uint64    `json:"framesOut"`
	BytesIn             uint64    `json:"bytesIn"`
	BytesOut            uint64    `json:"bytesOut"`
}

func (g *gatewayReport) state() string {
	if g.Linked {
		return "linked"
	}
	return "absent"
}

func (a *commands) gateways(w http.ResponseWriter, r *http.Request) {
	servePage(w, r, gatewayList(), a.gatewayReports)
}

func (a *commands) gatewayReports() []gatewayReport {
	held := a.coordinator.registry.heldBy()
	var list []gatewayReport
	for _, g := range a.coordinator.links() {
		row := gatewayReport{
			ID:                  g.ID,
			Address:             control.AddressOf(g.Remote),
			Linked:              g.Linked,
			Since:               g.Since,
			Version:             g.Version,
			UnacknowledgedBytes: g.Unacknowledged,
			FramesIn:            g.FramesIn,
			FramesOut:           g.FramesOut,
			BytesIn:             g.BytesIn,
			BytesOut:            g.BytesOut,
		}
		if h := held[g.ID]; h != nil {
			row.StreamingServers, row.Encoders = h.rtmpServers+h.wsServers, h.encoders
		}
		list = append(list, row)
	}
	return list
}

// servePage answers with the page of a list that the request asks for.
func servePage[T any](w http.ResponseWriter, r *http.Request, list paging.List[T], rows func() []T) {
	q, ok := pageAsked(list, w, r)
	if !ok {
		return
	}
	httpjson.Write(w, http.StatusOK, list.Report(list.Page(rows(), q)))
}

// pageAsked answers with 400 what can't be read.
func pageAsked[T any](l paging.List[T], w http.ResponseWriter, r *http.Request) (paging.Query, bool) {
	q, err := l.Parse(r.URL.RawQuery)
	if err != nil {
		httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedQuery, err.Error())
	}
	return q, err == nil
}

func streamList() paging.List[streamRow] {
	return paging.List[streamRow]{
		Name:        "streams",
		DefaultSort: "channel",
		Columns: map[string]func(*streamRow) paging.Key{
			"channel": func(row *streamRow) paging.Key { return paging.Key{Text: row.Channel} },
			"since":   func(row *streamRow) paging.Key { return paging.Key{Number: row.Since.UnixNano()} },
			"state":   func(row *streamRow) paging.Key { return paging.Key{Text: row.State} },
			"encoder": func(row *streamRow) paging.Key { return paging.Key{Number: int64(row.Encoder)} },
			"server":  func(row *streamRow) paging.Key { return paging.Key{Number: int64(row.StreamServer)} },
		},
		Identify: func(row *streamRow) (uint64, string) { return 0, row.StreamID },
		Matches:  (*streamRow).matches,
	}
}

func encoderList() paging.List[encoderReport] {
	return paging.List[encoderReport]{
		Name:        "encoders",
		DefaultSort: "id",
		Columns: map[string]func(*encoderReport) paging.Key{
			"id":      func(*encoderReport) paging.Key { return paging.Key{} },
			"since":   func(e *encoderReport) paging.Key { return paging.Key{Number: e.Since.UnixNano()} },
			"load":    func(e *encoderReport) paging.Key { return paging.Key{Number: int64(e.Load)} },
			"address": func(e *encoderReport) paging.Key { return paging.Key{Text: e.Address} },
			"serving": func(e *encoderReport) paging.Key { return paging.Key{Number: int64(e.Serving)} },
			"capacity": func(e *encoderReport) paging.Key {
				if e.Capacity < 0 {
					return paging.Key{Number: math.MaxInt64}
				}
				return paging.Key{Number: int64(e.Capacity)}
			},
			"state":   func(e *encoderReport) paging.Key { return paging.Key{Text: e.state()} },
			"gateway": func(e *encoderReport) paging.Key { return paging.Key{Text: e.Gateway} },
		},
		Identify: func(e *encoderReport) (uint64, string) { return e.ID, "" },
		Matches: func(e *encoderReport, q string) bool {
			return strings.Contains(strconv.FormatUint(e.ID, 10), q) || strings.Contains(e.Address, q) || strings.Contains(e.state(), q) ||
				e.Gateway != "" && e.Gateway == q
		},
	}
}

func serverList() paging.List[serverReport] {
	return paging.List[serverReport]{
		Name:        "servers",
		DefaultSort: "id",
		Columns: map[string]func(*serverReport) paging.Key{
			"id":      func(*serverReport) paging.Key { return paging.Key{} },
			"since":   func(s *serverReport) paging.Key { return paging.Key{Number: s.Since.UnixNano()} },
			"ip":      func(s *serverReport) paging.Key { return paging.Key{Text: s.IP} },
			"streams": func(s *serverReport) paging.Key { return paging.Key{Number: int64(s.Streams)} },
			"type":    func(s *serverReport) paging.Key { return paging.Key{Text: s.ServerType} },
			"gateway": func(s *serverReport) paging.Key { return paging.Key{Text: s.Gateway} },
		},
		Identify: func(s *serverReport) (uint64, string) { return s.ID, "" },
		Matches: func(s *serverReport, q string) bool {
			return strings.Contains(strconv.FormatUint(s.ID, 10), q) || strings.Contains(s.IP, q) || strings.Contains(s.ServerType, q) ||
				s.Gateway != "" && s.Gateway == q
		},
	}
}

func gatewayList() paging.List[gatewayReport] {
	return paging.List[gatewayReport]{
		Name:        "gateways",
		DefaultSort: "id",
		Columns: map[string]func(*gatewayReport) paging.Key{
			"id":             func(*gatewayReport) paging.Key { return paging.Key{} },
			"since":          func(g *gatewayReport) paging.Key { return paging.Key{Number: g.Since.UnixNano()} },
			"address":        func(g *gatewayReport) paging.Key { return paging.Key{Text: g.Address} },
			"state":          func(g *gatewayReport) paging.Key { return paging.Key{Text: g.state()} },
			"version":        func(g *gatewayReport) paging.Key { return paging.Key{Text: g.Version} },
			"servers":        func(g *gatewayReport) paging.Key { return paging.Key{Number: int64(g.StreamingServers)} },
			"encoders":       func(g *gatewayReport) paging.Key { return paging.Key{Number: int64(g.Encoders)} },
			"unacknowledged": func(g *gatewayReport) paging.Key { return paging.Key{Number: int64(g.UnacknowledgedBytes)} },
		},
		Identify: func(g *gatewayReport) (uint64, string) { return 0, g.ID },
		Matches: func(g *gatewayReport, q string) bool {
			return strings.Contains(g.ID, q) || strings.Contains(g.Address, q) || strings.Contains(g.state(), q)
		},
	}
}

// timeline takes what is asked for: a channel, a stream ID or a kind of entries, or several of them.
func (a *commands) timeline(w http.ResponseWriter, r *http.Request) {
	list := entryList()
	q, ok := pageAsked(list, w, r)
	if !ok {
		return
	}
	asked := r.URL.Query()
	wanted := timeline.Query{Channel: asked.Get("channel"), Stream: asked.Get("stream"), Kind: timeline.KindOf(asked.Get("kind"))}
	switch {
	case wanted.Kind == 0 && asked.Get("kind") != "":
		httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedQuery, "kind must be one of the kinds of entries")
		return
	case wanted == timeline.Query{}:
		httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedQuery, "channel, stream or kind must be given")
		return
	}
	pager := list.Pager(q)
	a.coordinator.timeline.Each(wanted, pager.Add)
	httpjson.Write(w, http.StatusOK, list.Report(pager.Page()))
}

func entryList() paging.List[timeline.Entry] {
	return paging.List[timeline.Entry]{
		Name:        "entries",
		DefaultSort: "at",
		Columns: map[string]func(*timeline.Entry) paging.Key{
			"at": func(e *timeline.Entry) paging.Key { return paging.Key{Number: e.Order} },
		},
		Identify: func(e *timeline.Entry) (uint64, string) { return e.Number, "" },
		Matches:  func(*timeline.Entry, string) bool { return true },
	}
}

// drain takes the header x-session-id, and for encoders x-drain-move: true if their streams are to go to others.
func (a *commands) drain(w http.ResponseWriter, r *http.Request) {
	move := false
	if len(r.Header.Values("x-drain-move")) > 0 {
		value, ok := requiredHeader(w, r, "x-drain-move")
		if !ok {
			return
		}
		if move = value == "true"; !move && value != "false" {
			httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedHeader, "header x-drain-move must be true or false")
			return
		}
	}
	maintain(w, r, func(id uint64) error { return a.coordinator.drain(id, move) })
}

func (a *commands) undrain(w http.ResponseWriter, r *http.Request) {
	maintain(w, r, a.coordinator.undrain)
}

// maintain does something to the streaming server or encoder that the request names.
func maintain(w http.ResponseWriter, r *http.Request, do func(id uint64) error) {
	session, ok := requiredHeader(w, r, "x-session-id")
	if !ok {
		return
	}
	id, err := strconv.ParseUint(session, 10, 64)
	if err != nil {
		httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedHeader, "header x-session-id must be an id of the report")
		return
	}
	err = do(id)
	switch {
	case errors.Is(err, errUnknownSession):
		httpjson.Error(w, http.StatusNotFound, httpjson.UnknownSession, err.Error())
	case err != nil:
		unavailable(w, httpjson.GatewayAbsent, err)
	default:
		httpjson.Write(w, http.StatusOK, struct{}{})
	}
}
