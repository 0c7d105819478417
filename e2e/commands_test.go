package e2e

// The commands API: every row of its table, who may use it, and what wrong requests get.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestWelcomeNamesProgramAndVersion(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN=t0ken")
	if status, body := d.Call("GET", "/"); status != 200 || body != "coordinator "+version+"\n" {
		t.Errorf("%d %q", status, body)
	}
}

func TestReportOfAnEmptyClusterHasEmptyLists(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	res, body := d.Request("GET", "/commands/report")
	if want := `"activeStreams":[],"streamingServers":[],"encoders":[]`; !strings.Contains(body, want) {
		t.Errorf("report %s, want %s in it", body, want)
	}
	wantJSONHeaders(t, res)
}

func wantJSONHeaders(t *testing.T, res *http.Response) {
	t.Helper()
	if got := res.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	if got := res.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
}

func TestReportShowsStreamsServersAndEncodersByTheirIDs(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	rtmp := d.DialPeer("rtmp", "x-external-ip", "10.0.0.1")
	first := d.AwaitServers(1).StreamingServers[0].ID
	wss := d.DialPeer("wss", "x-external-ip", "2001:db8::1", "x-custom-port", "8443", "x-ssl-use", "true")
	second := d.AwaitServers(2).StreamingServers[1].ID
	limited, limitedID := d.Register(4)
	b := clustertest.Publish(rtmp, limited, "b")
	unlimited, unlimitedID := d.Register(-1)
	a := clustertest.Publish(wss, unlimited, "a")
	closing := clustertest.Publish(rtmp, unlimited, "closing")
	rtmp.End("closing", closing)
	unlimited.Expect("ENCODE-STOP", "Stream-ID", closing)

	_, body := d.Call("GET", "/commands/report")
	var report struct{ ActiveStreams, StreamingServers, Encoders []map[string]any }
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	num := func(id uint64) float64 { return float64(id) }
	for list, test := range map[string]struct{ got, want []map[string]any }{
		"activeStreams": {report.ActiveStreams, []map[string]any{ // a closing stream is none, and still holds its slot
			{"channel": "a", "streamId": a, "streamServer": num(second), "encoder": num(unlimitedID)},
			{"channel": "b", "streamId": b, "streamServer": num(first), "encoder": num(limitedID)},
		}},
		"streamingServers": {report.StreamingServers, []map[string]any{
			{"id": num(first), "ip": "10.0.0.1", "port": 1935.0, "ssl": false, "serverType": "RTMP"},
			{"id": num(second), "ip": "2001:db8::1", "port": 8443.0, "ssl": true, "serverType": "WS"},
		}},
		"encoders": {report.Encoders, []map[string]any{
			{"id": num(limitedID), "capacity": 4.0, "load": 1.0},
			{"id": num(unlimitedID), "capacity": -1.0, "load": 2.0},
		}},
	} {
		addedFields := cmpopts.IgnoreMapEntries(func(name string, _ any) bool { return test.want[0][name] == nil })
		inAnyOrder := cmpopts.SortSlices(func(x, y map[string]any) bool {
			return fmt.Sprint(x["channel"], x["id"]) < fmt.Sprint(y["channel"], y["id"])
		})
		if diff := cmp.Diff(test.want, test.got, addedFields, inAnyOrder); diff != "" {
			t.Errorf("%s (-want +got):\n%s", list, diff)
		}
	}
	for _, id := range []uint64{first, second, limitedID, unlimitedID} {
		if id == 0 || id >= 1<<53 {
			t.Errorf("id %d is not a number that JSON's readers can hold", id)
		}
	}
}

func TestIDsOfALaterProcessAreNewOnes(t *testing.T) {
	t.Parallel()
	before := startDaemon(t)
	_, old := before.Register(1)
	if err := before.Stop(); err != nil {
		t.Fatal(err)
	}
	after := startDaemon(t)
	if _, id := after.Register(1); id <= old {
		t.Errorf("id %d after %d", id, old)
	}
}

func TestCloseAnswers200AlsoWhenThereIsNothingToClose(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	for _, id := range []string{"*", "ABC-123_x"} {
		res, body := d.Request("POST", "/commands/close", "X-Streaming-Channel", "nobody", "X-STREAMING-ID", id)
		if res.StatusCode != 200 || body != "{}\n" {
			t.Errorf("%d %s", res.StatusCode, body)
		}
		wantJSONHeaders(t, res)
	}
}

func TestCloseRefusesWhatCannotBeAStreamAndSaysWhy(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "ID_MAX_LENGTH=8")
	for _, test := range []struct {
		name   string
		header []string
		reason string // is a part of
	}{
		{"no headers", nil, "x-streaming-channel"},
		{"no channel", []string{"x-streaming-id", "*"}, "x-streaming-channel"},
		{"no id", []string{"x-streaming-channel", "chan"}, "x-streaming-id"},
		{"empty channel", []string{"x-streaming-channel", "", "x-streaming-id", "*"}, "x-streaming-channel"},
		{"empty id", []string{"x-streaming-channel", "chan", "x-streaming-id", ""}, "x-streaming-id"},
		{"two channels", []string{"x-streaming-channel", "a", "x-streaming-channel", "b", "x-streaming-id", "*"}, "x-streaming-channel"},
		{"two ids", []string{"x-streaming-channel", "a", "x-streaming-id", "*", "x-streaming-id", "*"}, "x-streaming-id"},
		{"channel of other characters", []string{"x-streaming-channel", "a/b", "x-streaming-id", "*"}, "channel"},
		{"channel too long", []string{"x-streaming-channel", "123456789", "x-streaming-id", "*"}, "channel"},
		{"star for a channel", []string{"x-streaming-channel", "*", "x-streaming-id", "*"}, "channel"},
		{"id of other characters", []string{"x-streaming-channel", "chan", "x-streaming-id", "**"}, "stream ID"},
		{"id too long", []string{"x-streaming-channel", "chan", "x-streaming-id", strings.Repeat("x", 129)}, "stream ID"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			res, body := d.Request("POST", "/commands/close", test.header...)
			wantRefusal(t, res, body, 400, test.reason)
		})
	}
}

func wantRefusal(t *testing.T, res *http.Response, body string, status int, reason string) {
	t.Helper()
	var answer map[string]string
	err := json.Unmarshal([]byte(body), &answer)
	if res.StatusCode != status || err != nil || len(answer) != 2 || answer["code"] == "" || !strings.Contains(answer["error"], reason) {
		t.Errorf("%d %s, want %d with an error that says %q", res.StatusCode, body, status, reason)
	}
	wantJSONHeaders(t, res)
}

func TestUnknownPathsAndWrongMethodsAreRefused(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	for _, test := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/nothing", 404, ""},
		{"GET", "/commands", 404, ""},
		{"GET", "/commands/", 404, ""},
		{"GET", "/commands/capacity/", 404, ""},
		{"POST", "/Commands/Close", 404, ""},
		{"OPTIONS", "/nothing", 404, ""},
		{"OPTIONS", "/commands/capacity/", 404, ""},
		{"GET", "/ws/control/other", 404, ""},
		{"POST", "/", 405, "GET, HEAD, OPTIONS"},
		{"POST", "/commands/capacity", 405, "GET, HEAD, OPTIONS"},
		{"DELETE", "/commands/report", 405, "GET, HEAD, OPTIONS"},
		{"GET", "/commands/close", 405, "OPTIONS, POST"},
		{"HEAD", "/commands/close", 405, "OPTIONS, POST"},
		{"PUT", "/commands/close", 405, "OPTIONS, POST"},
		{"POST", "/ws/control/hls", 405, "GET, HEAD, OPTIONS"},
		{"BREW", "/commands/capacity", 405, "GET, HEAD, OPTIONS"},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			t.Parallel()
			res, body := d.Request(test.method, test.path)
			if got := res.Header.Get("Allow"); got != test.allow {
				t.Errorf("Allow %q, want %q", got, test.allow)
			}
			if test.method == "HEAD" {
				body = `{"error":"left out","code":"left_out"}` // an answer to HEAD has no body
			}
			wantRefusal(t, res, body, test.status, "")
		})
	}
	if res, body := d.Request("HEAD", "/commands/capacity"); res.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %d %q", res.StatusCode, body)
	}
}

// The health checks of some proxies are no more than OPTIONS, and know no credentials.
func TestOptionsOfAKnownPathIsAnsweredToAnybody(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN=t", "CONTROL_SECRET="+clustertest.ControlSecret)
	const get, post = "GET, HEAD, OPTIONS", "OPTIONS, POST"
	for request, allow := range map[string]string{
		"OPTIONS / HTTP/1.0\r\n\r\n":                            get, // HAProxy's bare "option httpchk"
		"OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n":                 get,
		"OPTIONS /livez HTTP/1.1\r\nHost: x\r\n\r\n":            get,
		"OPTIONS /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n":   get,
		"OPTIONS /metrics HTTP/1.1\r\nHost: x\r\n\r\n":          get,
		"OPTIONS /commands/report HTTP/1.1\r\nHost: x\r\n\r\n":  get,
		"OPTIONS /commands/close HTTP/1.1\r\nHost: x\r\n\r\n":   post,
		"OPTIONS /dashboard HTTP/1.1\r\nHost: x\r\n\r\n":        get,
		"OPTIONS /dashboard/app.js HTTP/1.1\r\nHost: x\r\n\r\n": get,
		"OPTIONS /ws/control/rtmp HTTP/1.1\r\nHost: x\r\n\r\n":  get,
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n":                 "GET, HEAD, OPTIONS, POST",
		"OPTIONS /commands/close HTTP/1.1\r\nHost: x\r\nOrigin: https://elsewhere.example\r\nAccess-Control-Request-Method: POST\r\n\r\n": post,
	} {
		t.Run(request, func(t *testing.T) {
			conn, err := net.Dial("tcp", d.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(clustertest.Patience))
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != 204 || res.Header.Get("Allow") != allow {
				t.Errorf("%d, Allow %q, want 204, %q", res.StatusCode, res.Header.Get("Allow"), allow)
			}
			for name := range res.Header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("the answer has %s, and lets pages of others in", name)
				}
			}
		})
	}
	if d.Stop(); d.Logs.Count(controlRefused) > 0 {
		t.Errorf("a health check counts as a refused peer:\n%s", d.Logs)
	}
}

func TestCommandsAuthorization(t *testing.T) {
	t.Parallel()
	basicMode := []string{"COMMANDS_API_AUTH=bAsIc", "COMMANDS_API_AUTH_USER=admin", "COMMANDS_API_AUTH_PASSWORD=p:ss wörd"}
	bearerMode := []string{"COMMANDS_API_AUTH=BEARER", "COMMANDS_API_AUTH_TOKEN=t0ken"}
	for _, mode := range []struct {
		name      string
		variables []string
		challenge string
		good, bad []string // values of Authorization; "" is no header
	}{
		{"open", nil, "", []string{"", "Basic nonsense", "Bearer nonsense"}, nil},
		{
			"Basic", basicMode, `Basic realm="coordinator", charset="UTF-8"`,
			[]string{clustertest.Basic("admin:p:ss wörd"), strings.Replace(clustertest.Basic("admin:p:ss wörd"), "Basic", "bASIC", 1)},
			[]string{"", "Basic", "Basic ", "Basic !!!", clustertest.Basic(""), clustertest.Basic(":"), clustertest.Basic("admin"), clustertest.Basic("admin:"), clustertest.Basic("admin:p"), clustertest.Basic("admin:p:ss wörd "), clustertest.Basic("Admin:p:ss wörd"), clustertest.Basic(":p:ss wörd"), "Bearer p:ss wörd", "p:ss wörd"},
		},
		{
			"Bearer", bearerMode, `Bearer realm="coordinator"`,
			[]string{"Bearer t0ken", "bearer t0ken", "BEARER  t0ken"},
			[]string{"", "Bearer", "Bearer ", "Bearer t0ke", "Bearer t0kenn", "Bearer T0KEN", "Bearer t0ken x", "Bearer\tt0ken", "Token t0ken", "t0ken", clustertest.Basic("t0ken:"), clustertest.Basic(":t0ken")},
		},
	} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			d := startDaemon(t, mode.variables...)
			for _, command := range []struct{ method, path string }{{"GET", "/commands/capacity"}, {"GET", "/commands/report"}, {"POST", "/commands/close"}} {
				ask := func(value string) (*http.Response, string) {
					header := []string{"x-streaming-channel", "chan", "x-streaming-id", "*"}
					if value != "" {
						header = append(header, "Authorization", value)
					}
					return d.Request(command.method, command.path, header...)
				}
				for _, value := range mode.good {
					if res, body := ask(value); res.StatusCode != 200 {
						t.Errorf("%s with %q: %d %s", command.path, value, res.StatusCode, body)
					}
				}
				for _, value := range mode.bad {
					res, body := ask(value)
					wantRefusal(t, res, body, 401, "authorization")
					if got := res.Header.Get("WWW-Authenticate"); got != mode.challenge {
						t.Errorf("WWW-Authenticate %q, want %q", got, mode.challenge)
					}
				}
			}
			if open := mode.name == "open"; open != (d.Logs.Count("COMMANDS_API_AUTH is not set") == 1) {
				t.Errorf("warning of an open API: %v", !open)
			}
		})
	}
}

func TestUnauthorizedCloseClosesNothing(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN=t0ken")
	server, encoder := d.DialPeer("rtmp"), d.DialPeer("hls")
	encoder.Send("REGISTER", "Capacity", "1")
	d.Logs.Await(t, "encoder registered", "remote=127.0.0.1:")
	id := clustertest.Publish(server, encoder, "chan")
	for _, header := range [][]string{{}, {"Authorization", "Bearer guess"}, {"Authorization", "Bearer guess", "Authorization", "Bearer t0ken"}} {
		if status, _ := d.Call("POST", "/commands/close", append(header, "x-streaming-channel", "chan", "x-streaming-id", "*")...); status != 401 {
			t.Errorf("with %q: %d", header, status)
		}
	}
	server.Quiet()
	if status, _ := d.Call("POST", "/commands/close", "Authorization", "Bearer t0ken", "x-streaming-channel", "chan", "x-streaming-id", "*"); status != 200 {
		t.Errorf("authorized: %d", status)
	}
	server.Expect("STREAM-KILL", "Stream-Channel", "chan", "Stream-ID", id)
}

func TestProbesAreOpenAndSayNoMoreThanTheyMust(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN=t0ken")
	for _, tt := range []struct {
		path   string
		header []string
		status int
		body   string
	}{
		{"/livez", nil, 200, "ok\n"},
		{"/livez?verbose", nil, 200, "ok\n"},
		{"/readyz", nil, 200, "ready\n"},
		{"/readyz?verbose", []string{"Authorization", "Bearer t0ken"}, 200, "ready\n"},
		{"/readyz?verbose", nil, 401, `{"error":"authorization required","code":"unauthorized"}` + "\n"},
		{"/readyz?verbose", []string{"Authorization", "Bearer other"}, 401, `{"error":"authorization required","code":"unauthorized"}` + "\n"},
	} {
		res, body := d.Request("GET", tt.path, tt.header...)
		if res.StatusCode != tt.status || body != tt.body || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %v: %d %q %v", tt.path, tt.header, res.StatusCode, body, res.Header)
		}
		if kind := res.Header.Get("Content-Type"); tt.status == 200 && kind != "text/plain; charset=utf-8" {
			t.Errorf("%s: Content-Type is %q", tt.path, kind)
		}
	}
	if status, _ := d.Call("POST", "/livez"); status != 405 {
		t.Errorf("POST /livez: %d", status)
	}
}

func TestPathThatIsNotExactIsUnknown(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	for _, path := range []string{"//commands/capacity", "/commands/./capacity", "/commands/x/../capacity", "/commands/capacity/", "/commands//capacity"} {
		res, body := d.Request("GET", path)
		if res.StatusCode != 404 || !strings.HasPrefix(body, `{"error":`) {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
}
