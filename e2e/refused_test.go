package e2e

// What the log says of peers that are turned away.

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"coordinator/internal/clustertest"
)

const refused = "control connection refused"

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
				for i, header := 0, append([]string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}, test.header...); i < len(header); i += 2 {
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
				if want := `{"error":"control token refused"}` + "\n"; test.status == 403 && body != want {
					t.Errorf("the answer tells more than it should: %q", body)
				}
			}
			reason := test.reason
			if strings.ContainsAny(reason, " ") {
				reason = strconv.Quote(reason)
			}
			line := d.Logs.Await(t, refused)
			if want := "level=WARN msg=\"" + refused + "\" remote=127.0.0.1 reason=" + reason + " path=/ws/control/rtmp\n"; !strings.HasSuffix(line, want) {
				t.Errorf("logged %q, want %q", line, want)
			}
			if d.Stop(); d.Logs.Count(refused) != 1 || d.Logs.Count("s3cret") > 0 {
				t.Errorf("want one line, without anything that was sent:\n%s", d.Logs)
			}
		})
	}
}
