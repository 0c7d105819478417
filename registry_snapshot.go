package main

// Copies of the registry's state for those who ask: the answers of the commands API. The lock is held for copying
// only; sorting and encoding are the caller's.

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"
)

// capacityReport is the answer to GET /commands/capacity; capacity -1 means no limit.
type capacityReport struct {
	Load         int `json:"load"`
	Capacity     int `json:"capacity"`
	EncoderCount int `json:"encoderCount"`
}

func (r *registry) capacity() capacityReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.capacityLocked()
}

func (r *registry) capacityLocked() capacityReport {
	c := capacityReport{Load: r.slots.used, Capacity: r.slots.capacity, EncoderCount: len(r.encoders)}
	if r.slots.unlimited > 0 {
		c.Capacity = -1
	}
	return c
}

// clusterReport is the answer to GET /commands/report.
type clusterReport struct {
	ActiveStreams    []streamReport  `json:"activeStreams"`
	StreamingServers []serverReport  `json:"streamingServers"`
	Encoders         []encoderReport `json:"encoders"`
	WaitingRequests  int             `json:"waitingRequests"`
}

// streamReport is a live publication under its current stream ID. Encoder is 0 while it waits for one.
type streamReport struct {
	Channel      string            `json:"channel"`
	StreamID     string            `json:"streamId"`
	StreamServer uint64            `json:"streamServer"`
	Encoder      uint64            `json:"encoder"`
	Since        time.Time         `json:"since"` // the publisher is live
	Passthrough  string            `json:"passthrough"`
	Announced    []announcedOutput `json:"announced"`

	outputs []unique.Handle[output] // what Announced is made of: describeAnnounced
}

// announcedOutput is what the application was told of an output. IndexFile and StartTime are "" if they are not known any more: a restart keeps
// only as much as fits in a memo.
type announcedOutput struct {
	StreamType string `json:"streamType"`
	Resolution string `json:"resolution"`
	IndexFile  string `json:"indexFile"`
	StartTime  string `json:"startTime"` // as x-start-time
}

func describeOutputs(outputs []unique.Handle[output], channel, streamID string) []announcedOutput {
	described := make([]announcedOutput, len(outputs))
	for i, h := range outputs {
		o := h.Value()
		described[i] = announcedOutput{o.streamType, o.resolution, indexFileOf(o.indexFile, channel, streamID), o.startTime}
	}
	return described
}

// describeAnnounced fills in Announced, which need not be done under the registry's lock.
func (s *streamReport) describeAnnounced() {
	s.Announced = describeOutputs(s.outputs, s.Channel, s.StreamID)
}

type serverReport struct {
	ID         uint64    `json:"id"`
	IP         string    `json:"ip"`
	Port       int       `json:"port"`
	SSL        bool      `json:"ssl"`
	ServerType string    `json:"serverType"`
	Since      time.Time `json:"since"`
	Streams    int       `json:"streams"`
	Draining   bool      `json:"draining"`
	Gateway    string    `json:"gateway"` // that holds its connection; "": this process does
}

type encoderReport struct {
	ID       uint64    `json:"id"`
	Address  string    `json:"address"` // of its machine, as its connection shows it
	Capacity int       `json:"capacity"`
	Load     int       `json:"load"`
	Serving  int       `json:"serving"` // the part of the load that is still needed; at 0 a drained encoder may be stopped
	Since    time.Time `json:"since"`
	Draining bool      `json:"draining"`
	Moving   bool      `json:"moving"`   // its streams are being taken to other encoders
	SetAside bool      `json:"setAside"` // because it failed streams: countFailureLocked
	Gateway  string    `json:"gateway"`  // that holds its connection; "": this process does
}

// report copies all but the active streams, which liveStreams gives.
func (r *registry) report(now time.Time) clusterReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return clusterReport{
		StreamingServers: r.serverReportsLocked(),
		Encoders:         r.encoderReportsLocked(now),
		WaitingRequests:  r.waitingCount,
	}
}

func (r *registry) serverReports() []serverReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.serverReportsLocked()
}

func (r *registry) serverReportsLocked() []serverReport {
	list := make([]serverReport, 0, len(r.servers))
	for _, s := range r.servers {
		list = append(list, serverReport{s.id, s.ip, s.port, s.ssl, string(s.kind), s.since, len(s.publications), s.draining, s.gateway})
	}
	return list
}

func (r *registry) encoderReports(now time.Time) []encoderReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.encoderReportsLocked(now)
}

func (r *registry) encoderReportsLocked(now time.Time) []encoderReport {
	list := make([]encoderReport, 0, len(r.encoders))
	for _, e := range r.encoders {
		_, moving := r.moving[e]
		list = append(list, encoderReport{
			ID:       e.id,
			Address:  e.address,
			Capacity: e.capacity,
			Load:     e.load(),
			Serving:  e.load() - e.retired,
			Since:    e.since,
			Draining: e.draining,
			Moving:   moving,
			SetAside: now.Before(e.setAsideUntil),
			Gateway:  e.gateway,
		})
	}
	return list
}

// rowsAtOnce bounds how long the copy of many streams holds the lock.
const rowsAtOnce = 1000

// isEndingLocked says that nothing is left of the publication but its publisher, who was told to end.
func (p *publication) isEndingLocked() bool { return p.current == nil && p.waiting == nil }

// liveStreams passes the rows of all live publications to each, rowsAtOnce at most in one call, without holding the lock then.
// So each row was right at some moment of liveStreams, but not all at the same one. each must not keep the slice: it is used
// again for the next rows.
func (r *registry) liveStreams(each func([]streamReport)) {
	rows := make([]streamReport, 0, rowsAtOnce)
	newest := r.newestPublication()
	for from, more := 0, true; more; from += rowsAtOnce {
		rows, more = r.appendStreamReports(rows[:0], from, newest)
		each(rows)
	}
}

// newestPublication is the number up to which publications are listed. Later ones are left out, or a channel that is
// published again meanwhile would be there twice.
func (r *registry) newestPublication() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastNumber
}

func (r *registry) appendStreamReports(rows []streamReport, from int, newest uint64) (_ []streamReport, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	publications, more := r.channels.Part(from, rowsAtOnce)
	for _, p := range publications {
		if p != nil && p.number <= newest && !p.isEndingLocked() {
			rows = append(rows, p.reportLocked())
		}
	}
	return rows, more
}

func (p *publication) reportLocked() streamReport {
	row := streamReport{Channel: p.channel, StreamID: p.id, StreamServer: p.server.id, Since: time.Unix(0, p.since), Passthrough: p.passthrough}
	if p.current != nil {
		row.Encoder, row.outputs = p.current.encoder.id, p.current.outputs
	}
	return row
}

// The states of an encoder, of which the first that fits counts.
const (
	encoderDraining = "draining"
	encoderSetAside = "set_aside"
	encoderFull     = "full"
	encoderReady    = "ready"
)

func (e *encoderReport) state() string {
	switch {
	case e.Draining:
		return encoderDraining
	case e.SetAside:
		return encoderSetAside
	case e.Capacity >= 0 && e.Load >= e.Capacity:
		return encoderFull
	}
	return encoderReady
}

// totals are the figures of the cluster in one look.
type totals struct {
	hasEncoder      int // publications that have an encoder
	waiting         int // publications that wait for another one
	ending          int // publications without one whose publishers were told to end
	closing         int // streams
	waitingRequests int
	slots           capacityReport
	headroom        float64        // slots, see headroomLocked
	encoders        map[string]int // by state

	rtmpServers, wsServers, drainingServers int

	atGateways heldSessions
}

// heldSessions counts the sessions that gateways hold, or one of them.
type heldSessions struct{ rtmpServers, wsServers, encoders int }

func (h *heldSessions) addServer(kind serverKind) {
	if kind == kindRTMP {
		h.rtmpServers++
	} else {
		h.wsServers++
	}
}

// heldBy counts the sessions of each gateway that has any.
func (r *registry) heldBy() map[string]*heldSessions {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := map[string]*heldSessions{}
	of := func(gateway string) *heldSessions {
		if held[gateway] == nil {
			held[gateway] = &heldSessions{}
		}
		return held[gateway]
	}
	for _, s := range r.servers {
		of(s.gateway).addServer(s.kind)
	}
	for _, e := range r.encoders {
		of(e.gateway).encoders++
	}
	delete(held, "") // held by this process
	return held
}

// totals costs the same with any number of streams, but for those that were told to end.
func (r *registry) totals(now time.Time) totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	waiting, ending := r.waiting.Len()-r.waitingCount, 0
	for p := range r.killed {
		if p.isEndingLocked() && !p.ousted {
			ending++
		}
	}
	t := totals{
		hasEncoder:      r.channels.Len() - waiting - ending,
		waiting:         waiting,
		ending:          ending,
		closing:         len(r.closing),
		waitingRequests: r.waitingCount,
		slots:           r.capacityLocked(),
		headroom:        r.headroomLocked(),
		encoders:        map[string]int{},
	}
	for _, e := range r.encoderReportsLocked(now) {
		t.encoders[e.state()]++
		if e.Gateway != "" {
			t.atGateways.encoders++
		}
	}
	for _, s := range r.servers {
		if s.kind == kindRTMP {
			t.rtmpServers++
		} else {
			t.wsServers++
		}
		if s.draining {
			t.drainingServers++
		}
		if s.gateway != "" {
			t.atGateways.addServer(s.kind)
		}
	}
	return t
}

// streamRow is a stream as the dashboard lists it. A publication that waits for an encoder has a row, too.
type streamRow struct {
	streamReport
	State string `json:"state"` // live, starting (a successor that has not taken over), waiting, ending, closing
}

// streamRows passes the rows of all streams to each, as liveStreams does. The closing ones come first, so a stream that begins
// to close meanwhile may be missing. Rows share the list of announcements with their streams: what is in it never changes, the
// registry only appends to it.
func (r *registry) streamRows(each func([]streamRow)) {
	rows, newest := make([]streamRow, 0, 2*rowsAtOnce), r.newestPublication()
	for part := range slices.Chunk(r.closingStreams(), rowsAtOnce) {
		rows = r.appendClosingRows(rows[:0], part)
		each(rows)
	}
	for from, more := 0, true; more; from += rowsAtOnce {
		rows, more = r.appendRows(rows[:0], from, newest)
		each(rows)
	}
}

func (r *registry) closingStreams() []*stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.AppendSeq(make([]*stream, 0, len(r.closing)), maps.Values(r.closing))
}

func (r *registry) appendClosingRows(rows []streamRow, streams []*stream) []streamRow {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, st := range streams {
		rows = append(rows, st.rowLocked("closing"))
	}
	return rows
}

func (r *registry) appendRows(rows []streamRow, from int, newest uint64) (_ []streamRow, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	publications, more := r.channels.Part(from, rowsAtOnce)
	for _, p := range publications {
		switch {
		case p == nil || p.number > newest:
			continue
		case p.waiting != nil:
			rows = append(rows, p.rowLocked("waiting"))
		case p.current != nil:
			rows = append(rows, p.current.rowLocked("live"))
		default:
			rows = append(rows, p.rowLocked("ending"))
		}
		if p.successor != nil {
			rows = append(rows, p.successor.rowLocked("starting"))
		}
	}
	return rows, more
}

// rowLocked is for a publication without a stream.
func (p *publication) rowLocked(state string) streamRow { return streamRow{p.reportLocked(), state} }

func (st *stream) rowLocked(state string) streamRow {
	row := st.pub.rowLocked(state)
	row.StreamID, row.Encoder, row.outputs = st.id, st.encoder.id, st.outputs
	return row
}

// matches tells whether a search for q finds the row: by a part of its names, or by the id of its encoder or server.
func (row *streamRow) matches(q string) bool {
	return strings.Contains(row.Channel, q) || strings.Contains(row.StreamID, q) ||
		isNumber(q, row.Encoder) || isNumber(q, row.StreamServer)
}

func isNumber(text string, n uint64) bool {
	var digits [20]byte
	return text == string(strconv.AppendUint(digits[:0], n, 10))
}
