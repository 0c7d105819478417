package main

// Holds api/openapi.yaml against the running daemon, both ways: whatever it serves, answers and sends is documented, and
// whatever is documented happens here.

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"coordinator/internal/clustertest"
	"coordinator/internal/control"
	"coordinator/internal/history"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

func TestAPIDocumentIsWellFormed(t *testing.T) {
	t.Parallel()
	doc := readAPIDocument(t)
	doc.operations(func(_, _, _ string, op part) { op.wellFormedOperation() })
	hooks, _ := part{doc, "", doc.root}.children("webhooks")
	for _, name := range hooks {
		doc.operation("webhooks", name, "POST").wellFormedOperation()
	}
	if got := doc.at("/info").text("version"); got != version {
		t.Errorf("the document is that of version %s", got)
	}
}

func TestAPIDocumentHasTheRoutesOfTheTable(t *testing.T) {
	t.Parallel()
	_, cfg, api, control := apiRooms(t)
	var routes, documented []string
	for pattern, handlers := range urlTable(cfg, api, control) {
		for method := range handlers {
			routes = append(routes, method+" "+strings.TrimSuffix(pattern, "{$}"))
		}
	}
	readAPIDocument(t).operations(func(name, _, _ string, _ part) { documented = append(documented, name) })
	slices.Sort(routes)
	slices.Sort(documented)
	if diff := cmp.Diff(routes, documented); diff != "" {
		t.Errorf("routes of the table (-) and of the document (+):\n%s", diff)
	}
}

// apiRooms are what stands behind the routes, without a socket.
func apiRooms(t *testing.T) (*slog.Logger, *Config, *commands, *control.Sockets) {
	t.Helper()
	cfg, err := loadConfig(settings{}.get)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	d, err := newDaemon(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	d.control.Max = 0
	return log, cfg, &commands{d.coordinator}, d.control
}

func TestAPIDocumentNamesTheColumnsAndLimitsOfLists(t *testing.T) {
	t.Parallel()
	doc := readAPIDocument(t)
	for path, columns := range map[string][]string{
		"/commands/streams":  slices.Collect(maps.Keys(streamList().columns)),
		"/commands/encoders": slices.Collect(maps.Keys(encoderList().columns)),
		"/commands/servers":  slices.Collect(maps.Keys(serverList().columns)),
	} {
		want := map[string]bool{}
		for _, column := range columns {
			want[column], want["-"+column] = true, true
		}
		got := map[string]bool{}
		for _, parameter := range doc.operation("paths", path, "GET").parameters() {
			schema := parameter.child("schema")
			switch parameter.text("name") {
			case "sort":
				for _, column := range schema.value["enum"].([]any) {
					got[column.(string)] = true
				}
			case "limit":
				if schema.value["default"] != defaultPage || schema.value["maximum"] != longestPage {
					t.Errorf("limit is documented as %v", schema.value)
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: sort (-code +document)\n%s", path, diff)
		}
	}
}

// apiCaller asks a daemon and holds the answers against the document.
type apiCaller struct {
	*clustertest.Daemon
	doc *apiDocument
}

// ask makes a request, which must be answered with the status. One that the document allows is not answered with 400,
// and one that it does not allow with nothing else, but for what a schema can't say: status 400 then has a minus sign.
func (a apiCaller) ask(status int, method, target string, header ...string) {
	a.T.Helper()
	res, body := a.Request(method, target, header...)
	a.judge(status, res, body, method, target, header)
}

// upgrade asks for a control socket.
func (a apiCaller) upgrade(status int, path string, header ...string) {
	a.T.Helper()
	p, res, err := clustertest.Dial(a.T, "ws://"+a.Addr+path, nil, header...)
	if res == nil {
		a.T.Fatal(err)
	}
	body := ""
	if p != nil {
		p.Conn.Close()
	} else if text, err := io.ReadAll(res.Body); err == nil {
		body = string(text)
	}
	a.judge(status, res, body, "GET", path, append(header, handshake("13")...))
}

func handshake(version string) []string {
	return []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", version, "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}
}

func (a apiCaller) judge(status int, res *http.Response, body, method, target string, header []string) {
	a.T.Helper()
	path, rawQuery, _ := strings.Cut(target, "?")
	documented := path
	if strings.HasPrefix(path, "/dashboard/") {
		documented = "/dashboard/{file}"
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		a.T.Fatal(err)
	}
	sent := http.Header{}
	for i := 0; i < len(header); i += 2 {
		sent.Add(header[i], header[i+1])
	}
	op := a.doc.operation("paths", documented, method)
	misfit := op.fits(query, sent)
	what := fmt.Sprintf("%s %s %q", method, target, header)
	switch {
	case res.StatusCode != max(status, -status):
		a.T.Errorf("%s: answered with %d: %s", what, res.StatusCode, body)
	case status == 400 && misfit == nil:
		a.T.Errorf("%s is refused, but the document allows it: %s", what, body)
	case 200 <= status && status < 400 && misfit != nil:
		a.T.Errorf("%s is done, but the document does not allow it: %v", what, misfit)
	}
	op.answered(res, body)
}

func TestDaemonIsAsTheAPIDocumentSays(t *testing.T) {
	t.Parallel()
	doc := readAPIDocument(t)
	checkOpenDaemon(doc)
	checkMethods(doc)
	checkAuthorization(doc, "Basic", "COMMANDS_API_AUTH_USER=u", "COMMANDS_API_AUTH_PASSWORD=p")
	checkAuthorization(doc, "Bearer", "COMMANDS_API_AUTH_TOKEN=p")
	checkControlSockets(doc)
	checkUnavailable(doc)
	doc.unseen()
}

// checkOpenDaemon asks a daemon with streams in all states that come without waiting.
func checkOpenDaemon(doc *apiDocument) {
	app := clustertest.NewApplication(doc.t)
	a := apiCaller{startDaemon(doc.t, app.Variables("ENCODER_WAIT_SECONDS=15")...), doc}
	encoder, encoderID := a.Register(3)
	server, waiting := a.DialPeer("rtmp"), a.DialPeer("wss", "x-external-ip", "media.example", "x-ssl-use", "true")
	id := clustertest.Publish(server, encoder, "live")
	encoder.Available("live", id, "HLS-LIVE", "1280x720-30", "live/index.m3u8")
	app.AwaitEvents(1)
	closing := clustertest.Publish(server, encoder, "closing")
	encoder.Available("closing", closing, "HLS-VOD", "ORIGINAL", "closing/index.m3u8")
	app.AwaitEvents(2)
	server.End("closing", closing)
	encoder.Expect("ENCODE-STOP")
	clustertest.Publish(waiting, encoder, "third")
	waiting.Request("fourth", "key")
	a.AwaitReport("a waiting publisher", func(r clustertest.Report) bool { return r.WaitingRequests == 1 })

	for _, path := range []string{"/", "/livez", "/readyz", "/readyz?verbose", "/metrics", "/metrics?name[]=coordinator_ready&name[]=coordinator_streams",
		"/commands/capacity", "/commands/report", "/commands/overview", "/commands/streams?q=clos&limit=1&sort=-since", "/commands/streams?after="} {
		a.ask(200, "GET", path)
	}
	a.ask(200, "GET", "/metrics", "Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	a.checkLists()
	a.checkFile("/dashboard")
	for _, file := range []string{"index.html", "app.js", "style.css"} {
		a.checkFile("/dashboard/" + file)
	}
	a.ask(404, "GET", "/dashboard/nothing")

	session := fmt.Sprint(encoderID)
	a.ask(200, "POST", "/commands/drain", "x-session-id", session)
	a.ask(200, "POST", "/commands/drain", "x-session-id", session, "x-drain-move", "true")
	a.ask(400, "POST", "/commands/drain", "x-session-id", session, "x-drain-move", "yes")
	a.ask(200, "GET", "/commands/report")
	a.ask(200, "POST", "/commands/undrain", "x-session-id", session)
	for _, path := range []string{"/commands/drain", "/commands/undrain"} {
		a.ask(400, "POST", path)
		a.ask(400, "POST", path, "x-session-id", "-1")
		a.ask(400, "POST", path, "x-session-id", session, "x-session-id", session)
		a.ask(404, "POST", path, "x-session-id", "1")
	}
	a.ask(200, "POST", "/commands/close", "x-streaming-channel", "live", "x-streaming-id", id)
	a.ask(200, "POST", "/commands/close", "x-streaming-channel", strings.Repeat("c", 128), "x-streaming-id", "*")
	a.ask(400, "POST", "/commands/close")
	a.ask(400, "POST", "/commands/close", "x-streaming-channel", "live")
	a.ask(400, "POST", "/commands/close", "x-streaming-channel", "li ve", "x-streaming-id", "*")
	a.ask(400, "POST", "/commands/close", "x-streaming-channel", strings.Repeat("c", 129), "x-streaming-id", "*")
	a.ask(400, "POST", "/commands/close", "x-streaming-channel", "live", "x-streaming-id", "**")
	a.ask(400, "POST", "/commands/close", "x-streaming-channel", "live", "x-streaming-id", strings.Repeat("i", 129))

	res, body := a.Request("GET", "/nothing")
	if err := doc.at("/components/responses/NotFound").holds(res, body); err != nil || res.StatusCode != 404 {
		doc.t.Errorf("a path that is not listed: %d %v", res.StatusCode, err)
	}
}

func (a apiCaller) checkLists() {
	a.T.Helper()
	for _, path := range []string{"/commands/streams", "/commands/encoders", "/commands/servers"} {
		for _, parameter := range a.doc.operation("paths", path, "GET").parameters() {
			if parameter.text("name") == "sort" {
				for _, column := range parameter.child("schema").value["enum"].([]any) {
					a.ask(200, "GET", path+"?limit=500&sort="+column.(string))
				}
			}
		}
		for _, query := range []string{"sort=nothing", "limit=0", "limit=501", "limit=-1", "limit=1.5", "after=%25", "q=a&q=b"} {
			a.ask(400, "GET", path+"?"+query)
		}
		a.ask(-400, "GET", path+"?after=foreign")
	}
}

// checkFile asks for a file in all the ways that HTTP has (RFC 9110, 13 and 14).
func (a apiCaller) checkFile(path string) {
	a.T.Helper()
	res, _ := a.Request("GET", path)
	a.ask(200, "GET", path)
	a.ask(206, "GET", path, "Range", "bytes=0-9")
	a.ask(206, "GET", path, "Range", "bytes=0-1,4-5")
	a.ask(304, "GET", path, "If-None-Match", res.Header.Get("ETag"))
	a.ask(412, "GET", path, "If-Match", `"another"`)
	a.ask(416, "GET", path, "Range", "bytes=99999999-")
}

// sample is a request target of a documented path.
func sample(path string) string {
	switch path {
	case "/dashboard/{file}":
		return "/dashboard/app.js"
	case "/readyz":
		return "/readyz?verbose" // without it, it is for everybody
	}
	return path
}

// checkMethods asks each path in all ways: HEAD is answered as GET, OPTIONS of every path alike, and what is not documented
// with 405.
func checkMethods(doc *apiDocument) {
	d := startDaemon(doc.t)
	doc.operations(func(name, method, path string, op part) {
		for _, other := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			if other == method {
				continue
			}
			res, body := d.Request(other, sample(path))
			if other == "OPTIONS" {
				if err := doc.at("/components/responses/Options").holds(res, body); err != nil || res.StatusCode != 204 {
					doc.t.Errorf("OPTIONS %s: %d %v", path, res.StatusCode, err)
				}
				continue
			}
			if other == "HEAD" && method == "GET" {
				if get, _ := d.Request("GET", sample(path)); res.StatusCode != get.StatusCode || body != "" {
					doc.t.Errorf("HEAD %s: %d %q, and GET %d", path, res.StatusCode, body, get.StatusCode)
				}
			} else if res.StatusCode != 405 {
				doc.t.Errorf("%s: %s is answered with %d", name, other, res.StatusCode)
			}
			op.answered(res, body)
		}
	})
}

// checkAuthorization asks a daemon with COMMANDS_API_AUTH for all that is documented, without and with credentials.
func checkAuthorization(doc *apiDocument, scheme string, variables ...string) {
	d := startDaemon(doc.t, append(variables, "COMMANDS_API_AUTH="+scheme)...)
	credentials := map[string]string{"Basic": "Basic dTpw", "Bearer": "Bearer p"}[scheme]
	doc.operations(func(name, method, path string, op part) {
		res, body := d.Request(method, sample(path))
		op.answered(res, body)
		if protected := op.security()[strings.ToLower(scheme)]; protected != (res.StatusCode == 401) {
			doc.t.Errorf("%s %s without credentials: %d", scheme, name, res.StatusCode)
		}
		if challenge := res.Header.Get("WWW-Authenticate"); res.StatusCode == 401 && !strings.HasPrefix(challenge, scheme+" ") {
			doc.t.Errorf("%s %s: challenge %q", scheme, name, challenge)
		}
		res, body = d.Request(method, sample(path), "Authorization", credentials)
		op.answered(res, body)
		if res.StatusCode == 401 {
			doc.t.Errorf("%s %s with credentials: %s", scheme, name, body)
		}
	})
	for _, path := range []string{"/readyz", "/livez", "/"} {
		apiCaller{d, doc}.ask(200, "GET", path)
	}
}

func checkControlSockets(doc *apiDocument) {
	open := apiCaller{startDaemon(doc.t), doc}
	secured := apiCaller{startDaemon(doc.t, "CONTROL_SECRET="+clustertest.ControlSecret), doc}
	for path, subject := range map[string]string{
		"/ws/control/rtmp": "rtmp-control", "/ws/control/wss": "wss-control", "/ws/control/hls": "hls-control",
	} {
		open.ask(400, "GET", path)
		open.ask(400, "GET", path, handshake("12")...)
		open.upgrade(101, path)
		open.upgrade(403, path, "Origin", "http://elsewhere.example")
		token := clustertest.SignToken(doc.t, jwt.SigningMethodHS256, []byte(clustertest.ControlSecret), jwt.MapClaims{"sub": subject})
		secured.upgrade(101, path, "x-control-auth-token", token)
		secured.upgrade(403, path)
		secured.upgrade(403, path, "x-control-auth-token", clustertest.SignToken(doc.t, jwt.SigningMethodHS256, []byte(clustertest.ControlSecret), jwt.MapClaims{"sub": "x"}))
		if path == "/ws/control/hls" {
			continue
		}
		for _, good := range []string{"media.example", "10.0.0.1", "2001:db8::1", "[2001:db8::1]"} {
			open.upgrade(101, path, "x-external-ip", good, "x-custom-port", "65535", "x-ssl-use", "True")
		}
		for _, bad := range []string{"a b", "a/b", "user@host", "10.0.0.1:99", "[]", "[::1", strings.Repeat("a.", 127) + "a"} {
			open.upgrade(400, path, "x-external-ip", bad)
		}
		for _, bad := range []string{"0", "65536", "http"} {
			open.upgrade(400, path, "x-custom-port", bad)
		}
	}
}

// checkUnavailable asks a coordinator that is stopping, has no room for a control socket, and has a past.
func checkUnavailable(doc *apiDocument) {
	log, cfg, api, control := apiRooms(doc.t)
	api.coordinator.stop()
	for range history.Step {
		api.coordinator.history.Record(history.Reading{})
	}
	server := httptest.NewServer(newRoutes(cfg, log, api, control))
	defer server.Close()
	a := apiCaller{&clustertest.Daemon{T: doc.t, Addr: strings.TrimPrefix(server.URL, "http://")}, doc}
	a.ask(503, "GET", "/readyz")
	a.ask(503, "GET", "/readyz?verbose")
	a.ask(200, "GET", "/commands/overview")
	for _, path := range []string{"/ws/control/rtmp", "/ws/control/wss", "/ws/control/hls"} {
		a.upgrade(503, path)
	}
}
