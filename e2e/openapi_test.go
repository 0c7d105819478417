package e2e

// Holds api/openapi.yaml against the running daemon, both ways: whatever it serves, answers and sends is documented, and
// whatever is documented happens here.

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"coordinator/internal/apidoc"
	"coordinator/internal/clustertest"

	"github.com/golang-jwt/jwt/v5"
)

func TestDaemonIsAsTheAPIDocumentSays(t *testing.T) {
	t.Parallel()
	doc := apidoc.Read(t, "../api/openapi.yaml")
	checkOpenDaemon(doc)
	checkMethods(doc)
	checkAuthorization(doc, "Basic", "COMMANDS_API_AUTH_USER=u", "COMMANDS_API_AUTH_PASSWORD=p")
	checkAuthorization(doc, "Bearer", "COMMANDS_API_AUTH_TOKEN=p")
	checkControlSockets(doc)
	led := apidoc.Caller{Daemon: clustertest.Serve(t, coordinatorBinary, "GATEWAY_SECRET="+gatewaySecret).Daemon, Doc: doc} // no gateway passes this on
	led.Ask(200, "GET", "/leader", "X-Leader-Nonce", "bm9ib2R5IGtub3dz")
	res, body := led.Request("POST", "/leader")
	doc.Operation("paths", "/leader", "GET").Answered(res, body)
	doc.Unseen(func(status string) bool { return status != "503" }) // another test sees those
}

// checkOpenDaemon asks a daemon with streams in all states that come without waiting.
func checkOpenDaemon(doc *apidoc.Document) {
	app := clustertest.NewApplication(doc.T)
	a := apidoc.Caller{Daemon: startDaemon(doc.T, app.Variables("ENCODER_WAIT_SECONDS=15")...), Doc: doc}
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
		a.Ask(200, "GET", path)
	}
	a.Ask(200, "GET", "/metrics", "Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	checkLists(a)
	for _, query := range []string{"channel=live", "stream=" + id, "kind=event&sort=-at", "channel=live&kind=started&limit=1", "channel=nobody"} {
		a.Ask(200, "GET", "/commands/timeline?"+query)
	}
	for _, query := range []string{"channel=a&channel=b", "channel=live&limit=0", "channel=live&sort=channel", "kind=nothing"} {
		a.Ask(400, "GET", "/commands/timeline?"+query)
	}
	for _, query := range []string{"", "channel=", "channel=live&after=foreign"} {
		a.Ask(-400, "GET", "/commands/timeline?"+query)
	}
	checkFile(a, "/dashboard")
	for _, file := range []string{"index.html", "app.js", "style.css"} {
		checkFile(a, "/dashboard/"+file)
	}
	a.Ask(404, "GET", "/dashboard/nothing")

	session := fmt.Sprint(encoderID)
	a.Ask(200, "POST", "/commands/drain", "x-session-id", session)
	a.Ask(200, "POST", "/commands/drain", "x-session-id", session, "x-drain-move", "true")
	a.Ask(400, "POST", "/commands/drain", "x-session-id", session, "x-drain-move", "yes")
	a.Ask(200, "GET", "/commands/report")
	a.Ask(200, "POST", "/commands/undrain", "x-session-id", session)
	for _, path := range []string{"/commands/drain", "/commands/undrain"} {
		a.Ask(400, "POST", path)
		a.Ask(400, "POST", path, "x-session-id", "-1")
		a.Ask(400, "POST", path, "x-session-id", session, "x-session-id", session)
		a.Ask(404, "POST", path, "x-session-id", "1")
	}
	a.Ask(200, "POST", "/commands/close", "x-streaming-channel", "live", "x-streaming-id", id)
	a.Ask(200, "POST", "/commands/close", "x-streaming-channel", strings.Repeat("c", 128), "x-streaming-id", "*")
	a.Ask(400, "POST", "/commands/close")
	a.Ask(400, "POST", "/commands/close", "x-streaming-channel", "live")
	a.Ask(400, "POST", "/commands/close", "x-streaming-channel", "li ve", "x-streaming-id", "*")
	a.Ask(400, "POST", "/commands/close", "x-streaming-channel", strings.Repeat("c", 129), "x-streaming-id", "*")
	a.Ask(400, "POST", "/commands/close", "x-streaming-channel", "live", "x-streaming-id", "**")
	a.Ask(400, "POST", "/commands/close", "x-streaming-channel", "live", "x-streaming-id", strings.Repeat("i", 129))

	checkUndelivered(a, app, id)

	res, body := a.Request("GET", "/nothing")
	if err := doc.At("/components/responses/NotFound").Holds(res, body); err != nil || res.StatusCode != 404 {
		doc.T.Errorf("a path that is not listed: %d %v", res.StatusCode, err)
	}
}

// checkUndelivered has events of the stream "live" undelivered, and gives one up.
func checkUndelivered(a apidoc.Caller, app *clustertest.Application, id string) {
	a.T.Helper()
	app.AnswerEvents(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "200")
		w.WriteHeader(http.StatusTeapot)
	})
	encoder, _ := a.Register(9)
	encoder.Expect("ENCODE-START", "Stream-Channel", "fourth") // which has waited for it
	server := a.DialPeer("rtmp")
	stuck := clustertest.Publish(server, encoder, "stuck")
	encoder.Available("stuck", stuck, "HLS-LIVE", "1280x720-30", "stuck/index.m3u8")
	clustertest.EndPublish(server, encoder, "stuck", stuck)
	encoder.Closed("stuck", stuck)
	first := awaitEvents(a.Daemon, "?channel=stuck", func(p clustertest.EventPage) bool {
		return len(p.Events) == 2 && p.Events[0].State == "waiting"
	}).Events[0]
	a.Ask(200, "GET", "/commands/events?channel=stuck")
	a.Ask(200, "GET", "/commands/events?limit=1")
	for _, query := range []string{"limit=0", "limit=501", "channel=a&channel=b", "channel=%20", "after=%25"} {
		a.Ask(400, "GET", "/commands/events?"+query)
	}
	a.Ask(-400, "GET", "/commands/events?after=foreign")
	a.Ask(200, "POST", "/commands/events/retry", "x-streaming-channel", "stuck")
	a.Ask(200, "POST", "/commands/events/retry", "x-streaming-channel", "*")
	a.Ask(400, "POST", "/commands/events/retry")
	a.Ask(400, "POST", "/commands/events/retry", "x-streaming-channel", "stu ck")
	a.Ask(400, "POST", "/commands/events/discard")
	a.Ask(404, "POST", "/commands/events/discard", "x-event-id", id+"-1")
	a.Ask(409, "POST", "/commands/events/discard", "x-event-id", stuck+"-closed")
	awaitEvents(a.Daemon, "?channel=stuck", func(p clustertest.EventPage) bool {
		return p.Events[0].State == "waiting" && p.Events[0].Tries > first.Tries
	})
	a.Ask(200, "POST", "/commands/events/discard", "x-event-id", first.ID)
}

func checkLists(a apidoc.Caller) {
	a.T.Helper()
	for _, path := range []string{"/commands/streams", "/commands/encoders", "/commands/servers", "/commands/gateways"} {
		for _, parameter := range a.Doc.Operation("paths", path, "GET").Parameters() {
			if parameter.Text("name") == "sort" {
				for _, column := range parameter.Child("schema").Value["enum"].([]any) {
					a.Ask(200, "GET", path+"?limit=500&sort="+column.(string))
				}
			}
		}
		for _, query := range []string{"sort=nothing", "limit=0", "limit=501", "limit=-1", "limit=1.5", "after=%25", "q=a&q=b"} {
			a.Ask(400, "GET", path+"?"+query)
		}
		a.Ask(-400, "GET", path+"?after=foreign")
	}
}

// checkFile asks for a file in all the ways that HTTP has (RFC 9110, 13 and 14).
func checkFile(a apidoc.Caller, path string) {
	a.T.Helper()
	res, _ := a.Request("GET", path)
	a.Ask(200, "GET", path)
	a.Ask(206, "GET", path, "Range", "bytes=0-9")
	a.Ask(206, "GET", path, "Range", "bytes=0-1,4-5")
	a.Ask(304, "GET", path, "If-None-Match", res.Header.Get("ETag"))
	a.Ask(412, "GET", path, "If-Match", `"another"`)
	a.Ask(416, "GET", path, "Range", "bytes=99999999-")
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
func checkMethods(doc *apidoc.Document) {
	d := startDaemon(doc.T)
	doc.Operations(func(name, method, path string, op apidoc.Part) {
		if path == "/leader" && gatewayBetween(doc.T) {
			return // no gateway passes it on
		}
		for _, other := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			if other == method {
				continue
			}
			res, body := d.Request(other, sample(path))
			if other == "OPTIONS" {
				if err := doc.At("/components/responses/Options").Holds(res, body); err != nil || res.StatusCode != 204 {
					doc.T.Errorf("OPTIONS %s: %d %v", path, res.StatusCode, err)
				}
				continue
			}
			if other == "HEAD" && method == "GET" {
				if get, _ := d.Request("GET", sample(path)); res.StatusCode != get.StatusCode || body != "" {
					doc.T.Errorf("HEAD %s: %d %q, and GET %d", path, res.StatusCode, body, get.StatusCode)
				}
			} else if res.StatusCode != 405 {
				doc.T.Errorf("%s: %s is answered with %d", name, other, res.StatusCode)
			}
			op.Answered(res, body)
		}
	})
}

// checkAuthorization asks a daemon with COMMANDS_API_AUTH for all that is documented, without and with credentials.
func checkAuthorization(doc *apidoc.Document, scheme string, variables ...string) {
	d := startDaemon(doc.T, append(variables, "COMMANDS_API_AUTH="+scheme)...)
	credentials := map[string]string{"Basic": "Basic dTpw", "Bearer": "Bearer p"}[scheme]
	doc.Operations(func(name, method, path string, op apidoc.Part) {
		if path == "/leader" && gatewayBetween(doc.T) {
			return // no gateway passes it on
		}
		res, body := d.Request(method, sample(path))
		op.Answered(res, body)
		if protected := op.Security()[strings.ToLower(scheme)]; protected != (res.StatusCode == 401) {
			doc.T.Errorf("%s %s without credentials: %d", scheme, name, res.StatusCode)
		}
		if challenge := res.Header.Get("WWW-Authenticate"); res.StatusCode == 401 && !strings.HasPrefix(challenge, scheme+" ") {
			doc.T.Errorf("%s %s: challenge %q", scheme, name, challenge)
		}
		res, body = d.Request(method, sample(path), "Authorization", credentials)
		op.Answered(res, body)
		if res.StatusCode == 401 {
			doc.T.Errorf("%s %s with credentials: %s", scheme, name, body)
		}
	})
	for _, path := range []string{"/readyz", "/livez", "/"} {
		apidoc.Caller{Daemon: d, Doc: doc}.Ask(200, "GET", path)
	}
}

func checkControlSockets(doc *apidoc.Document) {
	open := apidoc.Caller{Daemon: startDaemon(doc.T), Doc: doc}
	secured := apidoc.Caller{Daemon: startDaemon(doc.T, "CONTROL_SECRET="+clustertest.ControlSecret), Doc: doc}
	for path, subject := range map[string]string{
		"/ws/control/rtmp": "rtmp-control", "/ws/control/wss": "wss-control", "/ws/control/hls": "hls-control",
	} {
		open.Ask(400, "GET", path)
		open.Ask(400, "GET", path, clustertest.Handshake("12")...)
		open.Upgrade(101, path)
		open.Upgrade(403, path, "Origin", "http://elsewhere.example")
		token := clustertest.SignToken(doc.T, jwt.SigningMethodHS256, []byte(clustertest.ControlSecret), jwt.MapClaims{"sub": subject})
		secured.Upgrade(101, path, "x-control-auth-token", token)
		secured.Upgrade(403, path)
		secured.Upgrade(403, path, "x-control-auth-token", clustertest.SignToken(doc.T, jwt.SigningMethodHS256, []byte(clustertest.ControlSecret), jwt.MapClaims{"sub": "x"}))
		if path == "/ws/control/hls" {
			continue
		}
		for _, good := range []string{"media.example", "10.0.0.1", "2001:db8::1", "[2001:db8::1]"} {
			open.Upgrade(101, path, "x-external-ip", good, "x-custom-port", "65535", "x-ssl-use", "True")
		}
		for _, bad := range []string{"a b", "a/b", "user@host", "10.0.0.1:99", "[]", "[::1", strings.Repeat("a.", 127) + "a"} {
			open.Upgrade(400, path, "x-external-ip", bad)
		}
		for _, bad := range []string{"0", "65536", "http"} {
			open.Upgrade(400, path, "x-custom-port", bad)
		}
	}
}
