package e2e

// The real binary as a process: its environment, its signals, its exit status and what it writes.

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
)

func TestProcess(t *testing.T) {
	t.Parallel()
	binary := coordinatorBinary
	for name, story := range map[string]struct {
		tell       func(*testing.T, string)
		onlyDirect string // why; "": it is not
	}{
		"dot env fills in and the environment wins":       {dotEnvFillsIn, ofTheProcess},
		"all faults are reported before a port is opened": {faultsAreReported, ofTheProcess},
		"a taken port ends the start":                     {takenPortEndsTheStart, ofTheProcess},
		"a missing certificate ends the start":            {missingCertificateEndsTheStart, ofTheProcess},
		"SIGTERM ends it cleanly in under 10 s":           {sigtermEndsIt, ofTheProcess},
		"a stop that hangs is cut off":                    {stopThatHangsIsCutOff, ofTheProcess},
		"a second signal ends it at once":                 {secondSignalEndsIt, ofTheProcess},
		"other signals do not end it":                     {otherSignalsDoNotEndIt, ofTheProcess},
		"SIGHUP looks at the certificate now":             {hangupLooksAtTheCertificate, ofTheProcess},
		"a log that nobody reads holds up nothing":        {logThatNobodyReads, ofTheProcess},
		"a stop with a log that nobody reads is orderly":  {stopWithALogThatNobodyReads, ofTheProcess},
		"a failed start with a log that nobody reads":     {failedStartWithALogThatNobodyReads, ofTheProcess},
		"a second signal with a log that nobody reads":    {secondSignalWithALogThatNobodyReads, ofTheProcess},
		"the reader of the log is gone":                   {readerOfTheLogIsGone, ofTheProcess},
		"HTTPS beside HTTP outlives a certificate swap":   {certificateIsSwapped, ofTheProcess},
		"LOG_REQUESTS and LOG_DEBUG are honoured":         {logSwitches, ofTheProcess},
		"no secret reaches the log":                       {noSecretReachesTheLog, ofTheProcess},
		"a message of 64 MiB takes no memory":             {hugeMessageTakesNoMemory, ofTheProcess},
		"kill -9 loses no event older than 150 ms":        {killedAtRandom, ""},
		"killed between a death and the new encoder":      {killedBetweenTwoEncoders, ofDirectSockets},
		"killed in the middle of a move":                  {killedDuringAMove, ofDirectSockets},
		"proxy variables are ignored":                     {proxyVariablesAreIgnored, ofTheProcess},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if story.onlyDirect != "" {
				onlyDirect(t, story.onlyDirect)
			}
			story.tell(t, binary)
		})
	}
}

func dotEnvFillsIn(t *testing.T, binary string) {
	dir := t.TempDir()
	clustertest.WriteFile(t, filepath.Join(dir, ".env"), []byte("HTTP_PORT=nonsense\nBIND_ADDRESS=127.0.0.1\nCOMMANDS_API_AUTH=Bearer\nCOMMANDS_API_AUTH_TOKEN=from-the-file\n"))
	p := clustertest.Launch(t, binary, dir, "HTTP_PORT=0", "COMMANDS_API_AUTH_TOKEN=from-the-environment")
	p.Addr = p.Listening("http")
	for token, want := range map[string]int{"from-the-file": 401, "from-the-environment": 200} {
		if status, _ := p.Call("GET", "/commands/capacity", "Authorization", "Bearer "+token); status != want {
			t.Errorf("token %s: %d, want %d", token, status, want)
		}
	}
}

func faultsAreReported(t *testing.T, binary string) {
	taken := clustertest.TakenPort(t)
	p := clustertest.Launch(t, binary, t.TempDir(), "BIND_ADDRESS=127.0.0.1", "HTTP_PORT="+taken, "SSL_PORT=-1", "SSL_KEY=only-the-key", "LOG_DEBUG=maybe",
		"ID_MAX_LENGTH=0", "SSL_CHECK_RELOAD_SECONDS=soon", "KEY_VERIFICATION_URL=ftp://x", "EVENT_CALLBACK_AUTH=Digest", "COMMANDS_API_AUTH=Basic")
	p.AwaitExit(1)
	for _, name := range []string{"SSL_PORT", "SSL_CERT", "LOG_DEBUG", "ID_MAX_LENGTH", "SSL_CHECK_RELOAD_SECONDS", "KEY_VERIFICATION_URL",
		"EVENT_CALLBACK_AUTH", "COMMANDS_API_AUTH_USER", "COMMANDS_API_AUTH_PASSWORD"} {
		if p.Logs.Count(name+":") != 1 {
			t.Errorf("%s is not named once", name)
		}
	}
	if p.Logs.Count("HTTP_PORT") > 0 || p.Logs.Count("listening") > 0 {
		t.Error("the port was tried")
	}
	if t.Failed() {
		t.Log(p.Logs)
	}
}

func takenPortEndsTheStart(t *testing.T, binary string) {
	taken := clustertest.TakenPort(t)
	p := clustertest.Launch(t, binary, t.TempDir(), "BIND_ADDRESS=127.0.0.1", "HTTP_PORT="+taken)
	p.AwaitExit(1)
	p.Logs.Await(t, "HTTP_PORT", taken, "in use")

	dir := t.TempDir()
	clustertest.NewPair(t, 1).Write(t, dir)
	p = clustertest.Launch(t, binary, dir, "BIND_ADDRESS=127.0.0.1", "HTTP_PORT=0", "SSL_PORT="+taken, "SSL_CERT=tls.crt", "SSL_KEY=tls.key")
	p.AwaitExit(1)
	p.Logs.Await(t, "SSL_PORT", taken, "in use")
}

func missingCertificateEndsTheStart(t *testing.T, binary string) {
	p := clustertest.Launch(t, binary, t.TempDir(), "BIND_ADDRESS=127.0.0.1", "HTTP_PORT=0", "SSL_PORT=0", "SSL_CERT=missing.crt", "SSL_KEY=missing.key")
	p.AwaitExit(1)
	p.Logs.Await(t, "missing.crt")
	if p.Logs.Count("listening") > 0 {
		t.Error("it listened")
	}
}

// hangingApplication takes requests and answers none of them until they are given up.
func hangingApplication(t *testing.T) *clustertest.Application {
	app := clustertest.NewApplication(t)
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-streaming-channel") == "hanging" {
			hang(w, r)
		}
	})
	app.AnswerEvents(hang)
	return app
}

// busyProcess has live peers, of whom one does not read, and requests to the application that hang.
func busyProcess(t *testing.T, binary string) (*clustertest.Process, *clustertest.Peer) {
	t.Helper()
	app := hangingApplication(t)
	p := clustertest.Serve(t, binary, app.Variables()...)
	server := p.DialPeer("rtmp")
	deaf, _, err := websocket.DefaultDialer.Dial("ws://"+p.Addr+"/ws/control/wss", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deaf.Close() })
	encoder, _ := p.Register(-1)
	id := clustertest.Publish(server, encoder, "show")
	encoder.Available("show", id, "HLS-LIVE", "1x1", "live.m3u8")
	server.Request("hanging", "key")
	app.AwaitKeys(2)
	if _, err := net.Dial("tcp", p.Addr); err != nil { // a connection on which nothing is asked
		t.Fatal(err)
	}
	return p, server
}

func sigtermEndsIt(t *testing.T, binary string) {
	p, server := busyProcess(t, binary)
	start := time.Now()
	p.Signal(syscall.SIGTERM)
	if err := server.AwaitGone(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("peer lost its connection with %v, want status 1001", err)
	}
	p.AwaitExit(0)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func certificateIsSwapped(t *testing.T, binary string) {
	dir := t.TempDir()
	clustertest.NewPair(t, 1).Write(t, dir)
	p := clustertest.Launch(t, binary, dir, "HTTP_PORT=0", "SSL_PORT=0", "BIND_ADDRESS=127.0.0.1", "SSL_CERT=tls.crt", "SSL_KEY=tls.key", "SSL_CHECK_RELOAD_SECONDS=86400")
	p.Addr = p.Listening("http")
	secure := p.Listening("https")
	dialer := &websocket.Dialer{HandshakeTimeout: clustertest.Patience, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	connect := func(endpoint string) *clustertest.Peer {
		t.Helper()
		peer, _, err := clustertest.Dial(t, "wss://"+secure+"/ws/control/"+endpoint, dialer)
		if err != nil {
			t.Fatal(err)
		}
		return peer
	}
	before, plain := connect("rtmp"), p.DialPeer("rtmp")
	s := &clustertest.TLSClient{T: t, Address: secure, Log: p.Logs}
	s.WantServed(1)

	next := clustertest.NewPair(t, 2)
	clustertest.ReplaceFile(t, filepath.Join(dir, "tls.crt"), next.Cert)
	clustertest.ReplaceFile(t, filepath.Join(dir, "tls.key"), next.Key)
	s.AwaitServed(2)
	after := connect("hls")
	after.Send("REGISTER", "Capacity", "3")
	p.AwaitReport("the encoder", func(r clustertest.Report) bool { return len(r.Encoders) == 1 })
	for i, server := range []*clustertest.Peer{before, plain, connect("wss")} {
		clustertest.Publish(server, after, fmt.Sprint("chan-", i))
	}
}

func logSwitches(t *testing.T, binary string) {
	for _, test := range []struct {
		variables       []string
		requests, debug bool
	}{
		{nil, true, false},
		{[]string{"LOG_REQUESTS=no", "LOG_DEBUG=yes"}, false, true},
		{[]string{"LOG_REQUESTS=YES", "LOG_DEBUG=NO"}, true, false},
	} {
		p := clustertest.Serve(t, binary, test.variables...)
		p.Call("GET", "/commands/capacity?private=1")
		server := p.DialPeer("rtmp")
		server.Send("NONSENSE")
		server.Quiet()
		p.Signal(syscall.SIGTERM)
		p.AwaitExit(0)
		if got := p.Logs.Count("msg=request method=GET path=/commands/capacity status=200") == 1; got != test.requests {
			t.Errorf("%v: request logged: %v", test.variables, got)
		}
		if got := p.Logs.Count("level=DEBUG") > 0; got != test.debug {
			t.Errorf("%v: debug lines: %v", test.variables, got)
		}
		if p.Logs.Count("private") > 0 {
			t.Errorf("%v: a query is in the log", test.variables)
		}
	}
}

func noSecretReachesTheLog(t *testing.T, binary string) {
	app := clustertest.NewApplication(t)
	app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-streaming-channel") == "denied" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	var refused atomic.Bool
	app.AnswerEvents(func(w http.ResponseWriter, _ *http.Request) {
		if !refused.Swap(true) {
			w.WriteHeader(http.StatusServiceUnavailable) // so that one is sent again
		}
	})
	withSecrets := func(path string) string {
		return strings.Replace(app.Server.URL, "http://", "http://url-user:s3cret-url@", 1) + path + "?token=s3cret-query"
	}
	p := clustertest.Serve(t, binary, "LOG_DEBUG=YES", "LOG_REQUESTS=YES", "CONTROL_SECRET="+clustertest.ControlSecret,
		"KEY_VERIFICATION_URL="+withSecrets("/verify"), "KEY_VERIFICATION_AUTH=Basic", "KEY_VERIFICATION_AUTH_USER=app", "KEY_VERIFICATION_PASSWORD=s3cret-verify",
		"EVENT_CALLBACK_URL="+withSecrets("/event"), "EVENT_CALLBACK_AUTH=Custom", "EVENT_CALLBACK_AUTH_CUSTOM=Key s3cret-event",
		"COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN=s3cret-command")
	dial := func(endpoint, subject string) *clustertest.Peer {
		return p.DialPeer(endpoint, "x-control-auth-token", clustertest.ControlToken(t, subject), "x-external-ip", "10.0.0.1")
	}
	server, encoder := dial("rtmp", "rtmp-control"), dial("hls", "hls-control")
	encoder.Send("REGISTER", "Capacity", "rtmp://10.0.0.1:1935/show/s3cret-key")
	encoder.Send("REGISTER", "Capacity", "-1")
	p.Logs.Await(t, "encoder registered")

	request := func(channel, key, answer string) string {
		t.Helper()
		server.Request(channel, key)
		return server.Expect(answer).Get("Stream-ID")
	}
	request("denied", "s3cret-key", "PUBLISH-DENY")
	request("show", "s3cret key of two words", "PUBLISH-DENY")
	request("rtmp://10.0.0.1/show/s3cret-key", "s3cret-key", "PUBLISH-DENY")
	id := request("show", "s3cret-key", "PUBLISH-ACCEPT")
	source := encoder.Expect("ENCODE-START").Get("Stream-Source-URI")
	request("show", "s3cret-key", "PUBLISH-DENY")
	encoder.Available("show", id, "HLS-LIVE", "1x1", "live.m3u8")
	for _, peer := range []*clustertest.Peer{server, encoder} {
		peer.Send("ERROR", "Error-Code", source, "Error-Message", "cannot open '"+source+"'")
		peer.SendRaw(websocket.TextMessage, "Stream-Key: s3cret-key\nStream-Channel: show\n")
		peer.SendRaw(websocket.TextMessage, "PUBLISH-END\nStream-Channel: "+source+"\nStream-ID: "+source+"\n")
		peer.SendRaw(websocket.TextMessage, "STREAM-CLOSED\nStream-Channel: "+source+"\nStream-ID: "+source+"\n")
		peer.SendRaw(websocket.TextMessage, "\xff s3cret-key")
	}
	encoder.Send("STREAM-AVAILABLE", "Stream-Channel", source, "Stream-ID", source)
	encoder.Send("STREAM-CLOSED", "Stream-Channel", "show", "Stream-ID", id, "Error-Code", source, "Error-Message", "Error opening input "+source+": refused")
	server.Expect("STREAM-KILL")
	server.End("show", id)
	app.AwaitEvents(2)

	forged := clustertest.SignToken(t, jwt.SigningMethodHS256, []byte("guess"), jwt.MapClaims{"sub": "s3cret-subject"})
	if _, _, err := clustertest.Dial(t, "ws://"+p.Addr+"/ws/control/rtmp", nil, "x-control-auth-token", forged); err == nil {
		t.Error("a forged token was taken")
	}
	for _, header := range [][]string{{"Authorization", "Bearer s3cret-command"}, {"Authorization", "Bearer s3cret-guess"}, {"Authorization", clustertest.Basic("s3cret-user:x")}} {
		p.Call("GET", "/commands/report?token=s3cret-query", header...)
		p.Call("POST", "/commands/close", append(header, "x-streaming-channel", "s3cret/key", "x-streaming-id", "s3cret key")...)
	}
	p.Signal(syscall.SIGTERM)
	p.AwaitExit(0)
	text := p.Logs.String()
	encoded := base64.StdEncoding.EncodeToString([]byte("app:s3cret-verify"))
	for _, secret := range []string{"s3cret", clustertest.ControlSecret, encoded, forged, source, "rtmp://10.0.0.1:1935"} {
		for line := range strings.Lines(text) {
			if strings.Contains(strings.ToLower(line), strings.ToLower(secret)) {
				t.Errorf("%s is in the log: %s", secret, line)
			}
		}
	}
}

func hugeMessageTakesNoMemory(t *testing.T, binary string) {
	p := clustertest.Serve(t, binary)
	server := p.DialPeer("rtmp")
	server.Quiet()
	before := p.PeakMemory()
	const size = 64 << 20
	for range 3 {
		peer := p.DialPeer("rtmp")
		if err := clustertest.SendHugeFrame(peer.Conn, size); err != nil {
			t.Fatal(err)
		}
		chunk := make([]byte, 1<<20)
		for range size / len(chunk) {
			if _, err := peer.Conn.NetConn().Write(chunk); err != nil {
				break // the coordinator need not take it all
			}
		}
		peer.AwaitGone()
	}
	if grown := p.PeakMemory() - before; grown > 8<<20 {
		t.Errorf("memory grew by %d KiB", grown>>10)
	}
	server.Quiet()
}

func proxyVariablesAreIgnored(t *testing.T, binary string) {
	app := clustertest.NewApplication(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the proxy was asked for %s", r.URL)
	}))
	defer proxy.Close()
	// Go's proxy rules spare loopback addresses. 0.0.0.0 is none, yet connecting to it leads there.
	base := strings.Replace(app.Server.URL, "127.0.0.1", "0.0.0.0", 1)
	variables := []string{"KEY_VERIFICATION_URL=" + base + "/verify", "EVENT_CALLBACK_URL=" + base + "/event"}
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		variables = append(variables, name+"="+proxy.URL)
	}
	p := clustertest.Serve(t, binary, variables...)
	server := p.DialPeer("rtmp")
	encoder, _ := p.Register(1)
	clustertest.TellLife(t, app, server, encoder, "show")
}

func TestCertificateOutsideItsValidityIsServedWithAWarning(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clustertest.NewPairValid(t, 1, time.Time{}, time.Now().Add(-time.Hour)).Write(t, dir)
	d := startDaemon(t, "LOG_DEBUG=NO", "SSL_PORT=0", "SSL_CERT="+filepath.Join(dir, "tls.crt"), "SSL_KEY="+filepath.Join(dir, "tls.key"))
	d.Logs.Await(t, "level=WARN", "certificate is served, but clients will refuse it", "expired at")
	s := &clustertest.TLSClient{T: t, Address: clustertest.Attribute(d.Logs.Await(t, "msg=listening", "scheme=https"), "addr"), Log: d.Logs}
	s.WantServed(1)
}
