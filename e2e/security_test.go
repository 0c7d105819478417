package e2e

// What SECURITY.md promises and no other test shows.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"coordinator/internal/clustertest"

	"github.com/gorilla/websocket"
)

// forgery is a value that tries to be a line of its own, and to command the terminal that shows it.
const forgery = "x\r\ntime=" + clustertest.ForgedTime + "T00:00:00Z level=ERROR msg=forged\n{\"time\":\"" + clustertest.ForgedTime + "\",\"msg\":\"forged\"}\n\x1b[2J\x1b]0;t\x07\x00\x7f\u009b31m\u0085\u2028\u202e\u200b\xff\U000e0041"

func TestNobodyForgesALineOfTheLog(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			app := clustertest.NewApplication(t)
			app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				odd := "forged \u009b31m\u202e\u0085"
				if r.Header.Get("x-streaming-channel") == "broken" {
					odd = strings.NewReplacer("\r", "", "\n", "").Replace(forgery) // no client reads that
				}
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nx-resolutions: %s\r\nx-previews: %s\r\nx-record: %s\r\nContent-Length: 0\r\n\r\n", odd, odd, odd)
			})
			d := startDaemon(t, app.Variables("LOG_FORMAT="+format)...)
			server := d.DialPeer("rtmp")
			encoder := d.DialPeer("hls")
			for _, p := range []*clustertest.Peer{server, encoder} {
				for _, method := range []string{"PUBLISH-REQUEST", "PUBLISH-END", "REGISTER", "STREAM-AVAILABLE", "STREAM-CLOSED", "ERROR", "\x1b[2J", forgery} {
					sayForged(t, p, method)
				}
			}
			encoder.Send("REGISTER", "Capacity", "1")
			d.Logs.Await(t, "encoder registered")
			server.Request("broken", "key")
			server.Request("show", "key")
			id := server.ExpectEventually("PUBLISH-ACCEPT").Get("Stream-ID")
			encoder.Send("STREAM-CLOSED", "Stream-Channel", "show", "Stream-ID", id, "Error-Code", oneLine(forgery), "Error-Message", oneLine(forgery))
			server.ExpectEventually("STREAM-KILL")
			for _, path := range []string{"/%0d%0a%1b%5b2J%c2%9b%e2%80%ae%ff", "/commands/close?%0a", "/commands/streams?q=%0a%1b%c2%9b&after=%0a"} {
				d.Call("GET", path, "x-control-auth-token", "\u009b31m")
			}
			d.SendRawRequest("GET /\x1b[2J\u009b HTTP/1.1\r\nHost: x\r\nX-\x1b: y\r\n\r\n")
			d.SendRawRequest("G\x1bT / HTTP/1.1\r\nHost: \x1b\r\n\r\n")
			d.SendRawRequest("GET / HTTP/1.1\r\nHost: \u009b31m\r\n\r\n")
			d.Call("POST", "/commands/close", "x-streaming-channel", "show\u009b31m", "x-streaming-id", "\u202e")
			d.Stop()
			text := d.Logs.String()
			if format == "text" {
				clustertest.WantOwnLines(t, text)
			} else {
				wantOwnJSONLines(t, text)
			}
			if strings.Count(text, "forged") < 10 {
				t.Errorf("the log shows nothing of what was said:\n%s", text)
			}
		})
	}
}

func oneLine(s string) string { return strings.NewReplacer("\n", "\r", "\xff", "").Replace(s) }

// sayForged puts the forgery into every argument that any method has.
func sayForged(t *testing.T, p *clustertest.Peer, method string) {
	t.Helper()
	value := oneLine(forgery)
	var text strings.Builder
	text.WriteString(strings.ToValidUTF8(method, "") + "\n")
	for _, name := range clustertest.ArgumentNames() {
		text.WriteString(name + ":" + value + "\n")
	}
	for kind, body := range map[int]string{websocket.TextMessage: text.String(), websocket.BinaryMessage: forgery} {
		if err := p.SendRaw(kind, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.SendRaw(websocket.TextMessage, forgery); err != nil { // not UTF-8
		t.Fatal(err)
	}
	if method == "STREAM-AVAILABLE" { // complete, about a stream that is not there
		p.Send(method, "Stream-Channel", value, "Stream-ID", value, "Stream-Type", "HLS-LIVE", "Resolution", value, "Index-file", value)
	}
}

func TestRequestInTheWrongPlaceIsLoggedWithoutItsPath(t *testing.T) {
	t.Parallel()
	const key, unknown = "s3cret-key", "(unknown)"
	d := startDaemon(t, "LOG_DEBUG=YES")
	ask := func(method, target, path string) {
		t.Helper()
		d.SendRawRequest(method + " " + target + " HTTP/1.1\r\nHost: " + key + "\r\nConnection: close\r\nUser-Agent: " + key + "\r\n\r\n")
		if method == key {
			method = unknown
		}
		line := d.Logs.Await(t, "msg=request method="+method+" path="+path+" status=")
		if !strings.HasPrefix(clustertest.Attribute(line, "remote"), "127.0.0.1:") {
			t.Errorf("%s %s: no address in %s", method, target, line)
		}
		if d.Logs.Count(key) > 0 {
			t.Errorf("%s %s: the key is in the log: %s", method, target, d.Logs)
		}
		d.Logs.Forget()
	}
	for _, target := range []string{
		"/live/" + key, "/" + key, "/show/" + key + "?token=" + key, "//" + key, "/commands/" + key, "/commands/close/" + key, "/livez/" + key,
		"/ws/control/rtmp/" + key, "/ws/control/" + key, "/dashboard/" + key, "/dashboard/" + key + ".js", "/dashboard/../" + key, "/dashboard/a/" + key,
		"/dashboard/%2e%2e%2f" + key, "/dashboard/" + key + "%2fapp.js", "/dashboard/index.html/" + key, "/%2e/" + key, "/commands/../" + key,
		"/live//" + key, "http://" + key + "/" + key, "/" + strings.Repeat(key, 1000), "/dashboard/", "/commands%2Fclose", "/LIVEZ",
	} {
		for _, method := range []string{"GET", "POST", "OPTIONS", key} {
			ask(method, target, unknown)
		}
	}
	ask("CONNECT", key+":80", unknown)
	for target, path := range map[string]string{
		"/": "/", "/?" + key: "/", "/livez": "/livez", "/commands/close?" + key: "/commands/close", "/commands/%63lose": "/commands/close",
		"/dashboard": "/dashboard", "/dashboard/app.js": "/dashboard/app.js", "/ws/control/rtmp": "/ws/control/rtmp",
	} {
		ask("GET", target, path)
		ask(key, target, path)
	}
	d.Stop()
	if d.Logs.Count(key) > 0 {
		t.Errorf("the key is in the log: %s", d.Logs)
	}
}

func wantOwnJSONLines(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		var record struct{ Time, Level, Msg string }
		if err := json.Unmarshal([]byte(line), &record); err != nil || record.Level == "" || record.Msg == "forged" || strings.HasPrefix(record.Time, clustertest.ForgedTime) {
			t.Errorf("a line of the log is not the daemon's own: %q %v", line, err)
		}
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("a line of the log holds what does not print: %q", line)
		}
	}
}
