package main

// The daemon in-process on port 0, with peers over real WebSockets and an application over real HTTP.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

type testDaemon struct {
	t    testing.TB
	addr string // host:port of plain HTTP
	logs *clustertest.Log
	stop func() error // as SIGTERM does; later calls return what the first did
}

// startDaemon runs the daemon with variables given as NAME=value, over defaults that suit a test.
func startDaemon(t testing.TB, variables ...string) *testDaemon {
	t.Helper()
	env := map[string]string{"HTTP_PORT": "0", "BIND_ADDRESS": "127.0.0.1", "DATA_DIR": t.TempDir(), "LOG_DEBUG": "YES"}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &testDaemon{t: t, logs: clustertest.NewLog()}
	ended := make(chan struct{})
	var result error
	stderr := newLogWriter(d.logs, env["LOG_FORMAT"] == "json")
	go func() {
		defer close(ended)
		defer stderr.close()
		if result = run(ctx, func(name string) string { return env[name] }, stderr, nil); result != nil {
			fmt.Fprintln(stderr, "run failed:", result)
		}
	}()
	d.stop = func() error {
		cancel()
		<-ended
		return result
	}
	t.Cleanup(func() { d.stop() })
	if env["LOG_FORMAT"] == "json" {
		var record struct{ Addr string }
		if err := json.Unmarshal([]byte(d.logs.Await(t, `"msg":"listening"`, `"scheme":"http"`)), &record); err != nil {
			t.Fatal(err)
		}
		d.addr = record.Addr
	} else {
		d.addr = clustertest.Attribute(d.logs.Await(t, "msg=listening", "scheme=http "), "addr")
	}
	return d
}

// call makes a request of the commands API and returns status and body. header is name, value, name, value ...
func (d *testDaemon) call(method, path string, header ...string) (int, string) {
	d.t.Helper()
	res, body := d.request(method, path, header...)
	return res.StatusCode, body
}

func (d *testDaemon) request(method, path string, header ...string) (*http.Response, string) {
	d.t.Helper()
	req, err := http.NewRequest(method, "http://"+d.addr+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	req.Close = true
	client := http.Client{
		Timeout:       clustertest.Patience,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return res, string(body)
}

func (d *testDaemon) report() clusterReport {
	d.t.Helper()
	status, body := d.call("GET", "/commands/report")
	var report clusterReport
	if err := json.Unmarshal([]byte(body), &report); err != nil || status != 200 {
		d.t.Fatalf("report: %d %s %v", status, body, err)
	}
	return report
}

// awaitReport polls the report until it is as wanted.
func (d *testDaemon) awaitReport(what string, wanted func(clusterReport) bool) clusterReport {
	d.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); ; <-tick.C {
		report := d.report()
		if wanted(report) {
			return report
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("report never showed %s: %+v", what, report)
		}
	}
}

// awaitLoad waits until so many slots are taken.
func (d *testDaemon) awaitLoad(load int) {
	d.t.Helper()
	d.awaitReport(fmt.Sprintf("load %d", load), func(r clusterReport) bool {
		sum := 0
		for _, e := range r.Encoders {
			sum += e.Load
		}
		return sum == load
	})
}

// awaitServers waits until so many streaming servers are connected.
func (d *testDaemon) awaitServers(n int) clusterReport {
	d.t.Helper()
	return d.awaitReport(fmt.Sprintf("%d streaming servers", n), func(r clusterReport) bool { return len(r.StreamingServers) == n })
}

// awaitLive waits until the live streams are as given, channel by channel.
func (d *testDaemon) awaitLive(want map[string]string) {
	d.t.Helper()
	d.awaitReport(fmt.Sprintf("live streams %v", want), func(r clusterReport) bool { return maps.Equal(want, r.live()) })
}

// live maps channels to their stream IDs.
func (r clusterReport) live() map[string]string {
	live := map[string]string{}
	for _, s := range r.ActiveStreams {
		live[s.Channel] = s.StreamID
	}
	return live
}

// dialPeer connects to a control endpoint: rtmp, wss or hls. header is name, value, name, value ...
func (d *testDaemon) dialPeer(endpoint string, header ...string) *clustertest.Peer {
	d.t.Helper()
	p, res, err := clustertest.Dial(d.t, "ws://"+d.addr+"/ws/control/"+endpoint, nil, header...)
	if err != nil {
		d.t.Fatalf("dial %s: %v (%v)", endpoint, err, res)
	}
	return p
}

// register connects an encoder and waits until it is in the report.
func (d *testDaemon) register(capacity int) (*clustertest.Peer, uint64) {
	d.t.Helper()
	known := map[uint64]bool{}
	for _, e := range d.report().Encoders {
		known[e.ID] = true
	}
	p := d.dialPeer("hls")
	p.Send("REGISTER", "Capacity", fmt.Sprint(capacity))
	var id uint64
	d.awaitReport("the new encoder", func(r clusterReport) bool {
		for _, e := range r.Encoders {
			if !known[e.ID] {
				id = e.ID
			}
		}
		return id != 0
	})
	return p, id
}
