package e2e

// Control sockets: who is let in, and what bad input gets. Nothing a peer says is another peer's trouble.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/wire"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

const controlRefused = "control connection refused"

func TestControlTokens(t *testing.T) {
	t.Parallel()
	secret := []byte(clustertest.ControlSecret)
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	hs256 := func(claims jwt.MapClaims) string {
		return clustertest.SignToken(t, jwt.SigningMethodHS256, secret, claims)
	}
	good := clustertest.ControlToken(t, "rtmp-control")
	parts := strings.Split(good, ".")
	d := startDaemon(t, "CONTROL_SECRET="+clustertest.ControlSecret)

	for _, test := range []struct {
		name, endpoint, token string
		want                  int
	}{
		{"rtmp", "rtmp", good, 101},
		{"wss", "wss", clustertest.ControlToken(t, "wss-control"), 101},
		{"hls", "hls", clustertest.ControlToken(t, "hls-control"), 101},
		{"not yet expired", "rtmp", hs256(jwt.MapClaims{"sub": "rtmp-control", "exp": in(time.Hour), "nbf": in(-time.Hour), "iat": in(-time.Hour)}), 101},
		{"valid in 20 s, by a clock that is ahead", "rtmp", hs256(jwt.MapClaims{"sub": "rtmp-control", "nbf": in(20 * time.Second), "iat": in(20 * time.Second)}), 101},
		{"claims nobody asked for", "rtmp", hs256(jwt.MapClaims{"sub": "rtmp-control", "aud": "x", "iss": "y", "more": []int{1}}), 101},
		{"missing", "rtmp", "", 403},
		{"garbage", "rtmp", "garbage", 403},
		{"dots", "rtmp", "..", 403},
		{"garbage in three parts", "rtmp", "a.b.c", 403},
		{"no signature", "rtmp", parts[0] + "." + parts[1] + ".", 403},
		{"subject of another endpoint", "hls", good, 403},
		{"subject in another case", "rtmp", clustertest.ControlToken(t, "RTMP-control"), 403},
		{"no subject", "rtmp", hs256(jwt.MapClaims{}), 403},
		{"numeric subject", "rtmp", hs256(jwt.MapClaims{"sub": 5}), 403},
		{"list of subjects", "rtmp", hs256(jwt.MapClaims{"sub": []string{"rtmp-control"}}), 403},
		{"expired", "rtmp", hs256(jwt.MapClaims{"sub": "rtmp-control", "exp": in(-time.Minute)}), 403},
		{"expired in 1970", "rtmp", hs256(jwt.MapClaims{"sub": "rtmp-control", "exp": 0}), 403},
		{"exp is no number", "rtmp", hs256(jwt.MapClaims{"sub": "rtmp-control", "exp": "never"}), 403},
		{"not yet valid", "rtmp", hs256(jwt.MapClaims{"sub": "rtmp-control", "nbf": in(time.Hour)}), 403},
		{"another secret", "rtmp", clustertest.SignToken(t, jwt.SigningMethodHS256, []byte("guess"), jwt.MapClaims{"sub": "rtmp-control"}), 403},
		{"empty secret", "rtmp", clustertest.SignToken(t, jwt.SigningMethodHS256, []byte{}, jwt.MapClaims{"sub": "rtmp-control"}), 403},
		{"HS384", "rtmp", clustertest.SignToken(t, jwt.SigningMethodHS384, secret, jwt.MapClaims{"sub": "rtmp-control"}), 403},
		{"HS512", "rtmp", clustertest.SignToken(t, jwt.SigningMethodHS512, secret, jwt.MapClaims{"sub": "rtmp-control"}), 403},
		{"alg none", "rtmp", clustertest.SignToken(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": "rtmp-control"}), 403},
		{"alg none with a signature", "rtmp", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "." + parts[2], 403},
		{"5 KiB, else good", "rtmp", hs256(jwt.MapClaims{"sub": "rtmp-control", "pad": strings.Repeat("x", 5<<10)}), 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var header []string
			if test.token != "" {
				header = []string{"x-control-auth-token", test.token}
			}
			_, res, err := clustertest.Dial(t, "ws://"+d.Addr+"/ws/control/"+test.endpoint, nil, header...)
			if res == nil {
				t.Fatal(err)
			}
			if res.StatusCode != test.want {
				t.Fatalf("status %d, want %d", res.StatusCode, test.want)
			}
			if test.want == 403 {
				wantJSONError(t, res)
			}
		})
	}
}

// With a secret a page in a browser can't get in: it can't send the token's header. Without one its Origin is all that
// tells it from a peer.
func TestOriginCountsOnlyWithoutASecret(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		secret string
		want   int
	}{"with a secret": {clustertest.ControlSecret, 101}, "without": {"", 403}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDaemon(t, "CONTROL_SECRET="+test.secret)
			_, res, err := clustertest.Dial(t, "ws://"+d.Addr+"/ws/control/rtmp", nil, "x-control-auth-token", clustertest.ControlToken(t, "rtmp-control"),
				"Origin", "https://peer.example") // of a peer behind a proxy that rewrites Host, or of a foreign page
			if res == nil || res.StatusCode != test.want {
				t.Fatalf("%v %v, want status %d", res, err, test.want)
			}
			if test.want == 403 {
				d.Logs.Await(t, controlRefused, "header Origin names another host")
			}
		})
	}
}

func TestRefusedTokenOpensNothing(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "CONTROL_SECRET="+clustertest.ControlSecret)
	forged := clustertest.SignToken(t, jwt.SigningMethodHS256, []byte("guess"), jwt.MapClaims{"sub": "rtmp-control"})
	if _, res, err := clustertest.Dial(t, "ws://"+d.Addr+"/ws/control/rtmp", nil, "x-control-auth-token", forged); err == nil || res == nil || res.StatusCode != 403 {
		t.Fatalf("forged token: %v %v", res, err)
	}
	d.Logs.Await(t, "control connection refused", "path=/ws/control/rtmp")
	if report := d.Report(); len(report.StreamingServers) != 0 {
		t.Errorf("report: %+v", report)
	}
	if strings.Contains(d.Logs.String(), forged) {
		t.Error("the token is in the log")
	}
}

func TestWithoutASecretNoTokenIsLookedAt(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	d.Logs.Await(t, "CONTROL_SECRET is not set")
	d.DialPeer("rtmp", "x-control-auth-token", "garbage")
	d.DialPeer("wss", "x-control-auth-token", strings.Repeat("x", 5<<10))
	d.DialPeer("hls")
	d.AwaitServers(2)
}

func TestUpgradeThatCannotBeIsRefusedWithAReason(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	upgrade := clustertest.Handshake("13")
	without := func(name string) (header []string) {
		for i := 0; i < len(upgrade); i += 2 {
			if upgrade[i] != name {
				header = append(header, upgrade[i], upgrade[i+1])
			}
		}
		return header
	}
	for _, test := range []struct {
		name   string
		method string
		header []string
		want   int
	}{
		{"no WebSocket headers", "GET", nil, 400},
		{"no Connection", "GET", without("Connection"), 400},
		{"no Upgrade", "GET", without("Upgrade"), 400},
		{"no version", "GET", without("Sec-WebSocket-Version"), 400},
		{"no key", "GET", without("Sec-WebSocket-Key"), 400},
		{"bad key", "GET", append(without("Sec-WebSocket-Key"), "Sec-WebSocket-Key", "short"), 400},
		{"POST", "POST", upgrade, 405},
		{"foreign Origin", "GET", append(upgrade[:8:8], "Origin", "https://evil.example.org"), 403},
		{"Origin null", "GET", append(upgrade[:8:8], "Origin", "null"), 403},
		{"external address is no address", "GET", append(upgrade[:8:8], "x-external-ip", "10.0.0.1/evil"), 400},
		{"external address with a port", "GET", append(upgrade[:8:8], "x-external-ip", "10.0.0.1:99"), 400},
		{"external address with a user", "GET", append(upgrade[:8:8], "x-external-ip", "user@host"), 400},
		{"external address with a zone", "GET", append(upgrade[:8:8], "x-external-ip", "fe80::1%eth0"), 400},
		{"external address of brackets", "GET", append(upgrade[:8:8], "x-external-ip", "[]"), 400},
		{"external address half in brackets", "GET", append(upgrade[:8:8], "x-external-ip", "[::1"), 400},
		{"external address too long", "GET", append(upgrade[:8:8], "x-external-ip", strings.Repeat("a.", 127)), 400},
		{"port 0", "GET", append(upgrade[:8:8], "x-custom-port", "0"), 400},
		{"port 65536", "GET", append(upgrade[:8:8], "x-custom-port", "65536"), 400},
		{"port -1", "GET", append(upgrade[:8:8], "x-custom-port", "-1"), 400},
		{"port +80", "GET", append(upgrade[:8:8], "x-custom-port", "+80"), 400},
		{"port is no number", "GET", append(upgrade[:8:8], "x-custom-port", "http"), 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			res, body := d.Request(test.method, "/ws/control/rtmp", test.header...)
			if res.StatusCode != test.want {
				t.Fatalf("status %d %s, want %d", res.StatusCode, body, test.want)
			}
			if spoken := res.Header.Get("Sec-WebSocket-Version"); test.name == "no version" && spoken != "13" {
				t.Errorf("the answer names version %q as the one to speak", spoken)
			}
			res.Body = io.NopCloser(strings.NewReader(body))
			wantJSONError(t, res)
		})
	}
}

func wantJSONError(t *testing.T, res *http.Response) {
	t.Helper()
	var answer struct{ Error string }
	err := json.NewDecoder(res.Body).Decode(&answer)
	if err != nil || answer.Error == "" || res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("no JSON error: %q %v", answer.Error, err)
	}
}

func TestCompressionIsNotNegotiated(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	dialer := &websocket.Dialer{HandshakeTimeout: clustertest.Patience, EnableCompression: true}
	_, res, err := clustertest.Dial(t, "ws://"+d.Addr+"/ws/control/rtmp", dialer)
	if err != nil {
		t.Fatal(err)
	}
	if extensions := res.Header.Values("Sec-WebSocket-Extensions"); len(extensions) != 0 {
		t.Errorf("extensions %q", extensions)
	}
}

func TestMessageOfExactly64KiBPassesAndOneByteMoreCloses(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	message := func(size int) string {
		head := "PUBLISH-REQUEST\nRequest-ID:fits\nStream-Channel:!\n\n"
		return head + strings.Repeat("x", size-len(head))
	}
	if err := server.SendRaw(websocket.TextMessage, message(65536)); err != nil {
		t.Fatal(err)
	}
	server.Expect("PUBLISH-DENY", "Request-ID", "fits")
	if err := server.SendRaw(websocket.TextMessage, message(65537)); err != nil {
		t.Fatal(err)
	}
	if err := server.AwaitGone(); !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
		t.Errorf("closed with %v, want status 1009", err)
	}
	d.Logs.Await(t, "streaming server disconnected", "64 KiB")
	d.AwaitServers(0)
}

func TestHugeMessageIsRefusedByItsFirstFrame(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	if err := clustertest.SendHugeFrame(server.Conn, 1<<40); err != nil { // announced, not sent
		t.Fatal(err)
	}
	if err := server.AwaitGone(); !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
		t.Errorf("closed with %v, want status 1009", err)
	}
}

func TestPeerThatSentTooMuchLearnsWhyItIsCut(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	const size = 8 << 20 // more than is read before the message is refused
	if err := clustertest.SendHugeFrame(server.Conn, size); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Conn.NetConn().Write(make([]byte, size)); err != nil {
		t.Error(err)
	}
	if err := server.AwaitGone(); !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
		t.Errorf("closed with %v, want status 1009", err)
	}
}

func TestGarbageIsIgnoredWithADebugLine(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(1)
	id := clustertest.Publish(server, encoder, "show")
	garbage := []string{
		"", "\n", "\n\n\n", " \r\n", "\x00", ":", "NOTHING", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "{\"method\":\"REGISTER\"}",
		"\xff\xfe", "PUBLISH-END\nStream-Channel:\xc3\x28", "PUBLISH-END", "PUBLISH-END\nStream-Channel", "PUBLISH-END\n:::\n",
		"STREAM-CLOSED\nStream-Channel:show", "STREAM-AVAILABLE\nStream-Channel:show\nStream-ID:" + id + "\nStream-Type:NONSENSE\nResolution:1x1\nIndex-file:x",
		strings.Repeat("A", 60000), strings.Repeat("A:b\n", 15000), "ERROR\nError-Code:\x1b[31m\nError-Message:line\rline",
	}
	for _, p := range []*clustertest.Peer{server, encoder} {
		for _, text := range garbage {
			if err := p.SendRaw(websocket.TextMessage, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.SendRaw(websocket.BinaryMessage, "STREAM-CLOSED\nStream-Channel:show\nStream-ID:"+id+"\n"); err != nil {
			t.Fatal(err)
		}
		if err := p.SendRaw(websocket.BinaryMessage, "PUBLISH-END\nStream-Channel:show\nStream-ID:"+id+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	d.Logs.AwaitLines(t, 4, "message is binary")
	d.Logs.Await(t, "message ignored", "not UTF-8")
	d.Logs.Await(t, "message ignored", "no method")
	d.Logs.Await(t, "unknown method ignored", "method=NOTHING")
	d.AwaitLive(map[string]string{"show": id})
	d.AwaitLoad(1)
	server.Quiet()
	server.End("show", id)
	encoder.Expect("ENCODE-STOP", "Stream-ID", id) // and nothing before it
}

func TestPeersSayOnlyWhatTheirKindMaySay(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(1)
	id := clustertest.Publish(server, encoder, "show")

	server.Send("REGISTER", "Capacity", "8")
	server.Closed("show", id)
	server.Available("show", id, "HLS-LIVE", "1x1", "x")
	encoder.Request("other", "key")
	encoder.End("show", id)
	for _, method := range []string{"REGISTER", "STREAM-CLOSED", "STREAM-AVAILABLE", "PUBLISH-REQUEST", "PUBLISH-END"} {
		d.Logs.Await(t, "unknown method ignored", "method="+method)
	}
	unregistered := d.DialPeer("hls")
	unregistered.Closed("show", id)
	d.Logs.AwaitLines(t, 2, "method=STREAM-CLOSED")

	d.AwaitLive(map[string]string{"show": id})
	if report := d.Report(); len(report.Encoders) != 1 || report.Encoders[0].Load != 1 {
		t.Errorf("encoders %+v", report.Encoders)
	}
	server.Quiet()
}

func TestValuesThatAreEchoedCannotAddLines(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	server.Send("PUBLISH-REQUEST", "Request-ID", "a\rStream-ID:b\x00c\x7fd\u0085e\x1b", "Stream-Channel", "no\tchannel")
	got := server.Expect("PUBLISH-DENY")
	want := []wire.Argument{{Name: "Request-ID", Value: "aStream-ID:bcde"}, {Name: "Stream-Channel", Value: "nochannel"}}
	if diff := cmp.Diff(want, got.Args); diff != "" {
		t.Error(diff)
	}
}

func TestPeerThatDoesNotReadIsCutWhileOthersGoOn(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(-1)
	dialer := websocket.Dialer{HandshakeTimeout: clustertest.Patience, NetDial: func(network, addr string) (net.Conn, error) {
		conn, err := net.Dial(network, addr)
		if err == nil {
			// Not smaller than a few segments: a system may then drop what comes in with the acknowledgements in it, and
			// what this peer says never arrives.
			err = conn.(*net.TCPConn).SetReadBuffer(256 << 10)
		}
		return conn, err
	}}
	deaf, _, err := dialer.Dial("ws://"+d.Addr+"/ws/control/rtmp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()

	request := []byte("PUBLISH-REQUEST\nRequest-ID:" + strings.Repeat("x", 60000)) // each is answered with a denial as long
	deaf.SetWriteDeadline(time.Now().Add(clustertest.Patience))
	for i := 0; err == nil; i++ {
		if err = deaf.WriteMessage(websocket.TextMessage, request); i%50 == 0 {
			channel := fmt.Sprint("meanwhile-", i)
			clustertest.Publish(server, encoder, channel)
		}
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("the deaf peer is still connected")
	}
	line := d.Logs.Await(t, "streaming server disconnected")
	if !strings.Contains(line, "the peer reads too slowly") && !strings.Contains(line, "the peer does not read") {
		t.Error(line)
	}
	clustertest.Publish(server, encoder, "afterwards")
}

func TestAbsurdNumberOfHeadersIsRefused(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	conn, err := net.Dial("tcp", d.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(clustertest.Patience))
	go func() { // the answer comes before all of it is read
		conn.Write([]byte("GET /ws/control/rtmp HTTP/1.1\r\nHost: x\r\n"))
		conn.Write(bytes.Repeat([]byte("X-Pad: "+strings.Repeat("x", 1000)+"\r\n"), 64))
	}()
	status := make([]byte, len("HTTP/1.1 431"))
	if _, err := io.ReadFull(conn, status); err != nil || string(status) != "HTTP/1.1 431" {
		t.Errorf("answer %q %v, want 431", status, err)
	}
}

// What somebody who has to find a peer's fault sees, at the default level.
func TestRefusedControlConnectionsSayWhy(t *testing.T) {
	t.Parallel()
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	signed := func(claims jwt.MapClaims) string {
		return clustertest.SignToken(t, jwt.SigningMethodHS256, []byte(clustertest.ControlSecret), claims)
	}
	good := clustertest.ControlToken(t, "rtmp-control")
	const token = "x-control-auth-token"
	for _, test := range []struct {
		reason string
		method string
		header []string // beside those of a good handshake; a second value takes the place of the first
		status int
	}{
		{"no token: CONTROL_SECRET is not set on the peer", "GET", nil, 403},
		{"token is longer than 4 KiB", "GET", []string{token, strings.Repeat("x", 5<<10)}, 403},
		{"token is malformed", "GET", []string{token, "gar.bage.s3cret"}, 403},
		{"token is malformed", "GET", []string{token, signed(jwt.MapClaims{"sub": "rtmp-control", "exp": "s3cret"})}, 403},
		{"token's algorithm is not HS256", "GET", []string{token, clustertest.SignToken(t, jwt.SigningMethodHS512, []byte(clustertest.ControlSecret), jwt.MapClaims{"sub": "rtmp-control"})}, 403},
		{"token's algorithm is not HS256", "GET", []string{token, clustertest.SignToken(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": "rtmp-control"})}, 403},
		{"token's signature is wrong: the peer has another CONTROL_SECRET", "GET", []string{token, clustertest.SignToken(t, jwt.SigningMethodHS256, []byte("s3cret"), jwt.MapClaims{"sub": "rtmp-control"})}, 403},
		{"token has expired: is a clock wrong?", "GET", []string{token, signed(jwt.MapClaims{"sub": "rtmp-control", "exp": in(-time.Minute)})}, 403},
		{"token is not valid yet: is a clock wrong?", "GET", []string{token, signed(jwt.MapClaims{"sub": "rtmp-control", "nbf": in(time.Hour)})}, 403},
		{"token is for another endpoint: its subject is not rtmp-control", "GET", []string{token, signed(jwt.MapClaims{"sub": "s3cret"})}, 403},
		{"x-external-ip is not an IP address or host name", "GET", []string{token, good, "x-external-ip", "10.0.0.1/s3cret"}, 400},
		{"x-custom-port is not a valid port", "GET", []string{token, good, "x-custom-port", "s3cret"}, 400},
		{"the client is not using the websocket protocol: 'upgrade' token not found in 'Connection' header", "GET", []string{token, good, "Connection", "s3cret"}, 400},
		{"the client is not using the websocket protocol: 'websocket' token not found in 'Upgrade' header", "GET", []string{token, good, "Upgrade", "s3cret"}, 400},
		{"unsupported version: 13 not found in 'Sec-Websocket-Version' header", "GET", []string{token, good, "Sec-WebSocket-Version", "12"}, 400},
		{"the client is not using the websocket protocol: request method is not GET", "HEAD", []string{token, good}, 405},
		{"method is not GET", "POST", []string{token, good}, 405},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			d := startDaemon(t, "LOG_DEBUG=NO", "CONTROL_SECRET="+clustertest.ControlSecret)
			for range 3 {
				h := http.Header{}
				for i, header := 0, append(clustertest.Handshake("13"), test.header...); i < len(header); i += 2 {
					h.Set(header[i], header[i+1])
				}
				var sent []string
				for name := range h {
					sent = append(sent, name, h.Get(name))
				}
				res, body := d.Request(test.method, "/ws/control/rtmp", sent...)
				if res.StatusCode != test.status {
					t.Fatalf("status %d %s, want %d", res.StatusCode, body, test.status)
				}
				if want := `{"error":"control token refused","code":"token_refused"}` + "\n"; test.status == 403 && body != want {
					t.Errorf("the answer tells more than it should: %q", body)
				}
			}
			reason := test.reason
			if strings.ContainsAny(reason, " ") {
				reason = strconv.Quote(reason)
			}
			line := d.Logs.Await(t, controlRefused)
			if want := "level=WARN msg=\"" + controlRefused + "\" remote=127.0.0.1 reason=" + reason + " path=/ws/control/rtmp\n"; !strings.HasSuffix(line, want) {
				t.Errorf("logged %q, want %q", line, want)
			}
			if d.Stop(); d.Logs.Count(controlRefused) != 1 || d.Logs.Count("s3cret") > 0 {
				t.Errorf("want one line, without anything that was sent:\n%s", d.Logs)
			}
		})
	}
}
