package clustertest

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

type Daemon struct {
	T    testing.TB
	Addr string // host:port of plain HTTP, which peers, the application and operators dial
	Own  string // the daemon's own host:port, where something stands before it
	Logs *Log
	Stop func() error // as SIGTERM does; later calls return what the first did
}

// Call makes a request of the commands API and returns status and body. header is name, value, name, value ...
func (d *Daemon) Call(method, path string, header ...string) (int, string) {
	d.T.Helper()
	res, body := d.Request(method, path, header...)
	return res.StatusCode, body
}

func (d *Daemon) Request(method, path string, header ...string) (*http.Response, string) {
	d.T.Helper()
	req, err := http.NewRequest(method, "http://"+d.addressOf(path)+path, nil)
	if err != nil {
		d.T.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	req.Close = true
	client := http.Client{
		Timeout:       Patience,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		d.T.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		d.T.Fatal(err)
	}
	return res, string(body)
}

// addressOf is where the daemon itself answers. What stands before it has probes and metrics of its own.
func (d *Daemon) addressOf(path string) string {
	switch path, _, _ = strings.Cut(path, "?"); path {
	case "/livez", "/readyz", "/metrics":
		return d.OwnAddr()
	}
	return d.Addr
}

// OwnAddr is the daemon's own address, whatever stands before it.
func (d *Daemon) OwnAddr() string { return cmp.Or(d.Own, d.Addr) }

func (d *Daemon) Report() Report {
	d.T.Helper()
	status, body := d.Call("GET", "/commands/report")
	var report Report
	if err := json.Unmarshal([]byte(body), &report); err != nil || status != 200 {
		d.T.Fatalf("report: %d %s %v", status, body, err)
	}
	return report
}

// AwaitReport polls the report until it is as wanted.
func (d *Daemon) AwaitReport(what string, wanted func(Report) bool) Report {
	d.T.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); ; <-tick.C {
		report := d.Report()
		if wanted(report) {
			return report
		}
		if time.Now().After(deadline) {
			d.T.Fatalf("report never showed %s: %+v", what, report)
		}
	}
}

// AwaitLoad waits until so many slots are taken.
func (d *Daemon) AwaitLoad(load int) {
	d.T.Helper()
	d.AwaitReport(fmt.Sprintf("load %d", load), func(r Report) bool {
		sum := 0
		for _, e := range r.Encoders {
			sum += e.Load
		}
		return sum == load
	})
}

// AwaitServers waits until so many streaming servers are connected.
func (d *Daemon) AwaitServers(n int) Report {
	d.T.Helper()
	return d.AwaitReport(fmt.Sprintf("%d streaming servers", n), func(r Report) bool { return len(r.StreamingServers) == n })
}

// AwaitLive waits until the live streams are as given, channel by channel.
func (d *Daemon) AwaitLive(want map[string]string) {
	d.T.Helper()
	d.AwaitReport(fmt.Sprintf("live streams %v", want), func(r Report) bool { return maps.Equal(want, r.Live()) })
}

// DialPeer connects to a control endpoint: rtmp, wss or hls. header is name, value, name, value ...
func (d *Daemon) DialPeer(endpoint string, header ...string) *Peer {
	d.T.Helper()
	p, res, err := Dial(d.T, "ws://"+d.Addr+"/ws/control/"+endpoint, nil, header...)
	if err != nil {
		d.T.Fatalf("dial %s: %v (%v)", endpoint, err, res)
	}
	return p
}

// Register connects an encoder and waits until it is in the report.
func (d *Daemon) Register(capacity int) (*Peer, uint64) {
	d.T.Helper()
	known := map[uint64]bool{}
	for _, e := range d.Report().Encoders {
		known[e.ID] = true
	}
	p := d.DialPeer("hls")
	p.Send("REGISTER", "Capacity", fmt.Sprint(capacity))
	var id uint64
	d.AwaitReport("the new encoder", func(r Report) bool {
		for _, e := range r.Encoders {
			if !known[e.ID] {
				id = e.ID
			}
		}
		return id != 0
	})
	return p, id
}

func (d *Daemon) AwaitWaiting(n int) {
	d.T.Helper()
	d.AwaitReport(fmt.Sprintf("%d that wait", n), func(r Report) bool { return r.WaitingRequests == n })
}

// Get decodes the answer of a command.
func Get[T any](d *Daemon, path string) (answer T) {
	d.T.Helper()
	status, body := d.Call("GET", path)
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 200 {
		d.T.Fatalf("%s: %d %s %v", path, status, body, err)
	}
	return answer
}

// MustCall is a command that has to succeed.
func (d *Daemon) MustCall(path string, header ...string) {
	d.T.Helper()
	if status, body := d.Call("POST", path, header...); status != 200 || strings.TrimSpace(body) != "{}" {
		d.T.Fatalf("%s: %d %s", path, status, body)
	}
}

// Join connects a streaming server and returns its identity.
func (d *Daemon) Join(endpoint string, header ...string) (*Peer, uint64) {
	d.T.Helper()
	known := map[uint64]bool{}
	for _, s := range d.Report().StreamingServers {
		known[s.ID] = true
	}
	p := d.DialPeer(endpoint, header...)
	var id uint64
	d.AwaitReport("the new streaming server", func(r Report) bool {
		for _, s := range r.StreamingServers {
			if !known[s.ID] {
				id = s.ID
			}
		}
		return id != 0
	})
	return p, id
}

// EndPublish ends a publisher; its encoder has been told.
func EndPublish(server, encoder *Peer, channel, id string) {
	server.Send("PUBLISH-END", "Stream-Channel", channel, "Stream-ID", id)
	encoder.Expect("ENCODE-STOP", "Stream-Channel", channel, "Stream-ID", id)
}

// Command drains or undrains; the session may be gone by then.
func (d *Daemon) Command(name string, id uint64, header ...string) {
	d.T.Helper()
	status, body := d.Call("POST", "/commands/"+name, append(header, "x-session-id", strconv.FormatUint(id, 10))...)
	if status != http.StatusOK && status != http.StatusNotFound {
		d.T.Errorf("%s: %d %s", name, status, body)
	}
}

func (d *Daemon) UndrainAll() {
	d.T.Helper()
	report := d.Report()
	for _, e := range report.Encoders {
		if e.Draining {
			d.Command("undrain", e.ID)
		}
	}
	for _, s := range report.StreamingServers {
		if s.Draining {
			d.Command("undrain", s.ID)
		}
	}
}

// AwaitOverview polls the overview until it is as wanted.
func (d *Daemon) AwaitOverview(what string, wanted func(Overview) bool) Overview {
	d.T.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * Patience); ; <-tick.C {
		o := Get[Overview](d, "/commands/overview")
		if wanted(o) {
			return o
		}
		if time.Now().After(deadline) {
			d.T.Fatalf("overview never showed %s: %+v", what, o)
		}
	}
}

// AllRows walks through the pages of the stream list.
func (d *Daemon) AllRows() (rows []StreamRow) {
	d.T.Helper()
	for after := ""; ; {
		page := Get[StreamPage](d, "/commands/streams?limit=500&after="+url.QueryEscape(after))
		rows = append(rows, page.Streams...)
		if after = page.After; after == "" {
			return rows
		}
	}
}

// SendRawRequest sends what no client library lets through and waits for the end of the connection.
func (d *Daemon) SendRawRequest(text string) {
	d.T.Helper()
	conn, err := net.Dial("tcp", d.Addr)
	if err != nil {
		d.T.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(Patience))
	io.WriteString(conn, text)
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		d.T.Errorf("no answer to %q: %v", text, err)
	}
}
