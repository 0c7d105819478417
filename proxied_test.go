package main

// Streaming servers behind a proxy: the address that they seem to have is not theirs.

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"

	"github.com/gorilla/websocket"
)

const noAddress = "streaming server sent no x-external-ip"

// dialFrom connects a peer that comes from an address. header is name, value, name, value ...
func (n *fakeNet) dialFrom(addr, endpoint string, header ...string) *clustertest.Peer {
	n.t.Helper()
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return n.ConnectFrom(addr) }}
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	conn, _, err := dialer.Dial("ws://coordinator/ws/control/"+endpoint, h)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return n.reading(conn)
}

func TestStreamingServerUnderTheAddressOfAProxyIsWarnedOf(t *testing.T) {
	t.Parallel()
	const (
		forwarded = "through a proxy"
		shared    = "another streaming server"
		loopback  = "loopback"
	)
	for name, test := range map[string]struct {
		connect func(*fakeNet)
		after   time.Duration
		want    string // "": no warning
	}{
		"through a proxy that says so": {func(n *fakeNet) {
			n.dialFrom("10.0.0.9:1", "rtmp", "X-Forwarded-For", "10.0.0.1")
		}, 0, forwarded},
		"through one on this machine": {func(n *fakeNet) {
			n.dialFrom("127.0.0.1:1", "wss", "X-Forwarded-For", "10.0.0.1")
		}, 0, forwarded},
		"with an address of its own": {func(n *fakeNet) {
			for range 2 {
				n.dialFrom("127.0.0.1:1", "rtmp", "X-Forwarded-For", "10.0.0.1", "x-external-ip", "10.0.0.1")
				n.dialFrom("10.0.0.1:1", "rtmp")
			}
		}, 0, ""},
		"an encoder through a proxy": {func(n *fakeNet) {
			n.dialFrom("127.0.0.1:1", "hls", "X-Forwarded-For", "10.0.0.1")
		}, time.Minute, ""},
		"two through a gateway that does not say so": {func(n *fakeNet) {
			n.dialFrom("10.0.0.9:1", "rtmp")
			n.dialFrom("10.0.0.9:2", "rtmp")
		}, 10 * time.Second, shared},
		"back before its old connection is found dead": {func(n *fakeNet) {
			old := n.dialFrom("10.0.0.9:1", "rtmp")
			n.dialFrom("10.0.0.9:2", "rtmp")
			n.wait(9 * time.Second)
			old.Conn.Close()
		}, time.Second, ""},
		"two on one machine": {func(n *fakeNet) {
			n.dialFrom("10.0.0.9:1", "rtmp")
			n.dialFrom("10.0.0.9:2", "rtmp", "x-custom-port", "1936")
			n.dialFrom("10.0.0.9:3", "wss", "x-custom-port", "1935")
			n.dialFrom("10.0.0.9:4", "hls")
		}, time.Minute, ""},
		"all on this machine": {func(n *fakeNet) {
			n.dialFrom("127.0.0.1:1", "rtmp")
			n.dialFrom("[::1]:2", "wss")
			n.dialFrom("[::ffff:127.0.0.1]:3", "hls")
		}, time.Minute, ""},
		"on this machine, as it seems, and the encoder is not": {func(n *fakeNet) {
			n.dialFrom("127.0.0.1:1", "rtmp")
			n.dialFrom("10.0.0.2:1", "hls")
		}, 10 * time.Second, loopback},
		"on this machine, and a distant encoder has left": {func(n *fakeNet) {
			n.dialFrom("127.0.0.1:1", "rtmp")
			n.dialFrom("10.0.0.2:1", "hls").Conn.Close()
		}, time.Minute, ""},
		"gone before anybody looks": {func(n *fakeNet) {
			n.dialFrom("127.0.0.1:1", "rtmp").Conn.Close()
			n.dialFrom("10.0.0.2:1", "hls")
		}, time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newFakeNet(t)
				test.connect(n)
				n.wait(test.after)
				text := n.logs.String()
				if test.want == "" {
					if strings.Contains(text, noAddress) {
						t.Errorf("a warning:\n%s", text)
					}
					return
				}
				line := n.logs.Await(t, "level=WARN", noAddress)
				for _, part := range []string{test.want, "set EXTERNAL_IP", "x-external-ip", "encoders will use", " port="} {
					if !strings.Contains(line, part) {
						t.Errorf("%q is missing in the warning: %s", part, line)
					}
				}
				if n.logs.Count(noAddress) != 1 {
					t.Errorf("more than one warning:\n%s", text)
				}
			})
		})
	}
}
