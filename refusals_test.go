package main

// What the log says of those who are turned away: why, and not more often than somebody can read.

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"

	"github.com/golang-jwt/jwt/v5"
)

// refusalLog is a log of refusals, in lines.
type refusalLog struct {
	*refusals
	logs *clustertest.Log
}

func newRefusalLog() refusalLog {
	logs := clustertest.NewLog()
	return refusalLog{newRefusals(newLogger(&Config{}, logs)), logs}
}

// tell says a refusal and returns what is logged of it, without time and level.
func (l refusalLog) tell(remote, reason string) string {
	l.logs.Forget()
	l.say(slog.LevelWarn, remote, "refused", reason)
	_, line, _ := strings.Cut(strings.TrimSpace(l.logs.String()), "msg=refused ")
	return line
}

func TestRefusalsGetALineAMinuteForEachAddressAndReason(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newRefusalLog()
		for _, step := range []struct {
			wait           time.Duration
			remote, reason string
			want           string
		}{
			{0, "10.0.0.1:1000", "a", "remote=10.0.0.1 reason=a"},
			{0, "10.0.0.1:1001", "a", ""}, // another port of the same address
			{0, "10.0.0.1:1000", "b", "remote=10.0.0.1 reason=b"},
			{0, "10.0.0.2:1000", "a", "remote=10.0.0.2 reason=a"},
			{0, "[2001:db8::1]:1000", "a", "remote=2001:db8::1 reason=a"},
			{0, "", "a", "reason=a"},
			{time.Minute - 1, "10.0.0.1:1002", "a", ""},
			{1, "10.0.0.1:1003", "a", "remote=10.0.0.1 reason=a repeated=2"},
			{time.Minute, "10.0.0.1:1003", "a", "remote=10.0.0.1 reason=a"},
		} {
			time.Sleep(step.wait)
			if got := l.tell(step.remote, step.reason); got != step.want {
				t.Errorf("%s refused for %s: logged %q, want %q", step.remote, step.reason, got, step.want)
			}
		}
	})
}

func TestRefusalsRememberNoMoreThan1024Addresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newRefusalLog()
		lines := 0
		refuse := func(first, last int) {
			for i := first; i < last; i++ {
				if l.tell(fmt.Sprintf("10.0.%d.%d:1", i>>8, i&255), "a") != "" {
					lines++
				}
			}
		}
		refuse(0, 10_000)
		refuse(0, 10) // these are remembered
		if lines != 1024 || len(l.addresses) != 1024 || l.order.Len() != 1024 {
			t.Errorf("%d lines, and %d addresses are remembered", lines, len(l.addresses))
		}
		time.Sleep(time.Minute)
		if got, want := l.tell("10.0.0.0:1", "a"), "remote=10.0.0.0 reason=a repeated=1 suppressed_others=8976"; got != want {
			t.Errorf("the next line of one that is remembered is %q, want %q", got, want)
		}
		// 10.0.0.1, whose last line is the oldest now, makes room; it was refused once more than was logged.
		if got, want := l.tell("192.0.2.1:1", "a"), "remote=192.0.2.1 reason=a suppressed_others=1"; got != want {
			t.Errorf("the first line of a new one is %q, want %q", got, want)
		}
		refuse(20_000, 30_000)
		if len(l.addresses) != 1024 {
			t.Errorf("%d addresses are remembered", len(l.addresses))
		}
	})
}

// What is about the daemon itself is said, however many strangers are turned away.
func TestStrangersDoNotHideWhatIsAboutNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newRefusalLog()
		for i := range 2 * maxRefusedAddresses {
			l.tell(fmt.Sprintf("10.0.%d.%d:1", i>>8, i&255), "a")
		}
		if got, want := l.tell("", "too many open files"), `reason="too many open files" suppressed_others=1024`; got != want {
			t.Errorf("logged %q, want %q", got, want)
		}
	})
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
				for i, header := 0, append(handshake("13"), test.header...); i < len(header); i += 2 {
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
