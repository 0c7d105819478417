package main

// What must hold when something hangs or is too much: a streaming server's channels, a value, a path.

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"

	"github.com/gorilla/websocket"
)

func TestAnnouncementThatCouldNeverBeToldIsNone(t *testing.T) {
	t.Parallel()
	whole := announcement{streamType: "HLS-LIVE", resolution: "640x360", indexFile: "a.m3u8", startTime: "1.5"}
	for name, test := range map[string]struct {
		change func(*announcement)
		want   bool
	}{
		"whole":                  {func(*announcement) {}, true},
		"no start time":          {func(e *announcement) { e.startTime = "" }, true},
		"longest index file":     {func(e *announcement) { e.indexFile = strings.Repeat("a", longestIndexFile) }, true},
		"too long an index file": {func(e *announcement) { e.indexFile = strings.Repeat("a", longestIndexFile+1) }, false},
		"too long when encoded":  {func(e *announcement) { e.indexFile = strings.Repeat("\x01", longestIndexFile/2) }, false},
		"too long a resolution":  {func(e *announcement) { e.resolution = strings.Repeat("1", longestDetail+1) }, false},
		"too long a start time":  {func(e *announcement) { e.startTime = strings.Repeat("1", longestDetail+1) }, false},
		"no index file":          {func(e *announcement) { e.indexFile = "" }, false},
		"no resolution":          {func(e *announcement) { e.resolution = "" }, false},
		"unknown type":           {func(e *announcement) { e.streamType = "HLS" }, false},
	} {
		e := whole
		test.change(&e)
		if got := e.complete(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// One streaming server whose channels all hang at the application leaves the others their turns.
func TestChannelsOfOneServerThatHangLeaveOthersTheirTurn(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("x-streaming-channel"), "hangs") {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})
	d := startDaemon(t, app.Variables("LOG_DEBUG=NO")...)
	encoder, _ := d.Register(-1)
	greedy, modest := d.DialPeer("rtmp"), d.DialPeer("rtmp")
	for i := range maxVerifyRequests + 100 {
		greedy.Send("PUBLISH-REQUEST", "Request-ID", fmt.Sprint(i), "Stream-Channel", fmt.Sprintf("hangs%d", i), "Stream-Key", "k")
	}
	app.AwaitKeys(maxServerVerifications)
	began := time.Now()
	clustertest.Publish(modest, encoder, "good")
	if took := time.Since(began); took > answerTimeout/2 {
		t.Errorf("the other server's publisher waited %v", took)
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

// 5,000 publications that avoid the one encoder with room cost a transition no more than looking at each.
func TestManyWhoAvoidAnEncoderCostLittle(t *testing.T) {
	t.Parallel()
	lastID := 0
	now := time.Now()
	r := newRegistry(1, now, func() string { lastID++; return fmt.Sprint("s", lastID) }, nowhere{}, limits{failover: true, encoderWait: time.Hour})
	s := r.joinServer(nowhere{}, serverInfo{kind: kindRTMP}, now)
	e, _ := r.joinEncoder(nowhere{}, "10.0.0.1", -1, now)
	const publishers = 5000
	for i := range publishers {
		if _, err := r.claim(s, claimRequest{id: "r", channel: fmt.Sprint("c", i), answerBy: now.Add(time.Minute)}, now); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	for i := range publishers {
		id := fmt.Sprint("s", i+1)
		channel := fmt.Sprint("c", i)
		r.announce(e, channel, id, announcement{streamType: "HLS-LIVE", resolution: "1x1"}, now)
		r.finish(e, channel, id, now)
	}
	if r.waiting.Len() != publishers {
		t.Fatalf("%d wait", r.waiting.Len())
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("%d failures took %v", publishers, took)
	}
	t.Log(publishers, "failures took", time.Since(began))
}

// Closing a TLS connection politely would wait 5 s more for a peer that takes nothing.
func TestTLSPeerThatDoesNotReadIsCutWithin10Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		authority := httptest.NewUnstartedServer(nil) // for its certificate
		authority.Listener.Close()
		authority.Listener = clustertest.NewPipes()
		authority.StartTLS()
		defer authority.Close()
		listener := clustertest.NewPipes()
		server := &http.Server{Handler: http.HandlerFunc(n.control.ServeRTMP)}
		served := make(chan error, 1)
		go func() {
			served <- server.Serve(tls.NewListener(listener, &tls.Config{Certificates: authority.TLS.Certificates}))
		}()
		defer func() { server.Close(); <-served }()

		socket, err := listener.Connect()
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		secure := tls.Client(socket, &tls.Config{InsecureSkipVerify: true})
		dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return secure, nil }}
		deaf, _, err := dialer.Dial("ws://x/", http.Header{"X-External-Ip": {"10.0.0.1"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := deaf.WriteMessage(websocket.TextMessage, []byte("PUBLISH-REQUEST\nRequest-ID:1\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		socket.SetWriteDeadline(time.Now().Add(time.Millisecond))
		if _, err := socket.Write([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the connection is not closed: %v", err)
		}
		n.logs.Await(t, "streaming server disconnected", "does not read")
	})
}
