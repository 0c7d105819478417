package door

// What the log says of connections that come to nothing before there is a request.

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/logs"
)

// refused cuts address and reason out of the one line that the log has of a message.
func (f *fakeDoor) refused(what string) string {
	f.t.Helper()
	synctest.Wait()
	if n := f.logs.Count(what); n != 1 {
		f.t.Errorf("%d lines of %q, want 1:\n%s", n, what, f.logs)
	}
	_, line, _ := strings.Cut(f.logs.String(), what+`" `)
	line, _, _ = strings.Cut(line, "\n")
	return line
}

func TestFailedTLSHandshakesSayWhy(t *testing.T) {
	t.Parallel()
	pair := clustertest.NewPair(t, 1)
	expired := clustertest.NewPairValid(t, 1, time.Time{}, time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)) // the time of a bubble is 2000
	as := func(config *tls.Config) func(net.Conn) error {
		return func(conn net.Conn) error { return tls.Client(conn, config).Handshake() }
	}
	say := func(text string) func(net.Conn) error {
		return func(conn net.Conn) error {
			go io.Copy(io.Discard, conn)
			_, err := io.WriteString(conn, text)
			return err
		}
	}
	stay := func(text string) func(net.Conn) error {
		return func(conn net.Conn) error {
			io.WriteString(conn, text)
			_, err := io.Copy(io.Discard, conn)
			return err
		}
	}
	deaf := func(conn net.Conn) error {
		near, far := net.Pipe()
		go tls.Client(near, &tls.Config{InsecureSkipVerify: true}).Handshake()
		hello := make([]byte, 4096)
		n, err := far.Read(hello)
		conn.Write(hello[:n])
		<-time.After(11 * time.Second)
		far.Close()
		return err
	}
	const hello = "\x16\x03\x01\x00\x10" // of 16 bytes
	for name, test := range map[string]struct {
		pair   *clustertest.Pair
		client func(net.Conn) error
		want   string // "": nothing is logged
	}{
		"nothing is said":      {pair, stay(""), "not finished within 10 s"},
		"half a hello":         {pair, stay(hello + "s3cret"), "not finished within 10 s"},
		"nothing is read":      {pair, deaf, "not finished within 10 s"},
		"closed at once":       {pair, net.Conn.Close, ""}, // the health check of a load balancer
		"closed in its middle": {pair, func(conn net.Conn) error { io.WriteString(conn, hello); return conn.Close() }, "client closed the connection"},
		"plain HTTP":           {pair, say("GET /s3cret HTTP/1.1\r\n\r\n"), "client spoke plain HTTP on the HTTPS port"},
		"a websocket":          {pair, say("GET /ws/control/rtmp HTTP/1.1\r\nUpgrade: s3cret\r\n"), "client spoke plain HTTP on the HTTPS port"},
		"another protocol":     {pair, say("\x03s3cret"), "client does not speak TLS"},
		"TLS 1.1":              {pair, as(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}), "client offers only versions before TLS 1.2"},
		"another cipher":       {pair, as(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}), "no cipher suite in common: does the client support the kind of key in SSL_KEY?"},
		"an unknown signer":    {pair, as(&tls.Config{ServerName: "localhost"}), "client rejects the certificate"},
		"it has expired":       {expired, as(&tls.Config{ServerName: "localhost"}), "client rejects the certificate"},
		"an alert":             {pair, say("\x15\x03\x01\x00\x02\x02\x28"), "client aborted the handshake with a TLS alert"},
		"an OpenSSL client": {pair, func(conn net.Conn) error {
			return as(&tls.Config{ServerName: "localhost"})(&alertInTheClear{Conn: conn})
		}, "client aborted the handshake, probably because it rejects the certificate"},
		"an alert of expiry":  {pair, say("\x15\x03\x01\x00\x02\x02\x2d"), "client rejects the certificate: it has expired"},
		"an alert of trust":   {pair, say("\x15\x03\x01\x00\x02\x02\x30"), "client rejects the certificate: it does not know who signed it"},
		"an alert of version": {pair, say("\x15\x03\x01\x00\x02\x02\x46"), "client does not support TLS 1.2 or 1.3"},
		"nonsense as a hello": {pair, say("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), "TLS protocol error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeDoor(t, serverConfig(t, test.pair))
				for range 2 {
					conn := f.open()
					test.client(conn)
					synctest.Wait()
					conn.Close()
				}
				if test.want == "" {
					synctest.Wait()
					if text := f.logs.String(); text != "" {
						t.Errorf("logged %s", text)
					}
					return
				}
				if got, want := f.refused("TLS handshake failed"), `remote=10.0.0.1 reason="`+test.want+`"`; got != want {
					t.Errorf("logged %s, want %s", got, want)
				}
				if f.logs.Count("s3cret") > 0 {
					t.Errorf("what was sent is in the log:\n%s", f.logs)
				}
			})
		})
	}
}

// alertInTheClear is how OpenSSL refuses a certificate: after its hello comes an alert as if there were no keys yet.
type alertInTheClear struct {
	net.Conn
	saidHello bool
}

func (c *alertInTheClear) Write(p []byte) (int, error) {
	if c.saidHello {
		return c.Conn.Write([]byte("\x15\x03\x03\x00\x02\x02\x30"))
	}
	c.saidHello = true
	return c.Conn.Write(p)
}

func TestPlainHTTPToTheHTTPSPortIsAnsweredWithAWord(t *testing.T) {
	t.Parallel()
	pair := clustertest.NewPair(t, 1)
	synctest.Test(t, func(t *testing.T) {
		conn := newFakeDoor(t, serverConfig(t, pair)).open()
		io.WriteString(conn, "GET /")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != 400 {
			t.Errorf("%v %v, want status 400", res, err)
		}
	})
}

func TestTLSToThePortForPlainHTTPSaysWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeDoor(t, nil)
		conn := f.open()
		if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake(); err == nil {
			t.Error("a handshake with plain HTTP")
		}
		conn.Close()
		if got, want := f.refused("TLS handshake failed"), `remote=10.0.0.1 reason="client spoke TLS on the HTTP port"`; got != want {
			t.Errorf("logged %s, want %s", got, want)
		}
	})
}

// failingListener fails to accept until its faults are used up.
type failingListener struct {
	clustertest.Pipes
	faults chan error
}

func (l failingListener) Accept() (net.Conn, error) {
	select {
	case err := <-l.faults:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: err}
	default:
		return l.Pipes.Accept()
	}
}

func TestConnectionsThatCannotBeAcceptedSayWhyAndAreTriedAgain(t *testing.T) {
	t.Parallel()
	for fault, want := range map[syscall.Errno]string{
		syscall.EMFILE:  "too many open files: raise the limit of this process (ulimit -n, LimitNOFILE)",
		syscall.ENFILE:  "too many open files on this machine: raise fs.file-max",
		syscall.ENOBUFS: syscall.ENOBUFS.Error(),
		syscall.EPROTO:  syscall.EPROTO.Error(), // of the network: accept(2)
		syscall.EPERM:   syscall.EPERM.Error(),  // of a firewall
	} {
		t.Run(fault.Error(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := failingListener{clustertest.NewPipes(), make(chan error, 20)}
				for range cap(l.faults) {
					l.faults <- os.NewSyscallError("accept4", fault)
				}
				f := &fakeDoor{l.Pipes, t, clustertest.NewLog()}
				server := newTestServer(http.HandlerFunc(welcome), 10, f.logs)
				served := make(chan error, 1)
				go func() { served <- server.Serve(l, nil) }()
				start := time.Now()
				(&clustertest.Visit{Conn: f.open(), T: t}).Ask()
				// 20 pauses: 5, 10, 20 ... 640 ms, then of 1 s
				if took := time.Since(start); took != 1275*time.Millisecond+12*time.Second {
					t.Errorf("served after %v", took)
				}
				if got, want := f.refused("connections cannot be accepted"), `reason="`+want+`"`; got != want {
					t.Errorf("logged %s, want %s", got, want)
				}
				server.Close()
				<-served
			})
		})
	}
}

func TestBrokenListenerEndsTheServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := failingListener{clustertest.NewPipes(), make(chan error, 1)}
		l.faults <- syscall.EINVAL
		if err := newTestServer(http.NotFoundHandler(), 10, io.Discard).Serve(l, nil); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestHandlerThatPanicsSaysWhereAndNoSecret(t *testing.T) {
	t.Parallel()
	var nothing map[string]int
	for name, test := range map[string]struct {
		panics func()
		want   string
	}{
		"with a text":         {func() { panic("s3cret") }, "panic=string"},
		"with an error":       {func() { panic(errors.New("s3cret")) }, "panic=*errors.errorString"},
		"of the runtime":      {func() { nothing["s3cret"]++ }, `panic="assignment to entry in nil map"`},
		"that is meant to be": {func() { panic(http.ErrAbortHandler) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mux := http.NewServeMux()
				mux.HandleFunc("/commands/close", func(http.ResponseWriter, *http.Request) { test.panics() })
				lines := clustertest.NewLog()
				log := logs.New(lines, false, true)
				server := NewServer(mux, func() int { return 10 }, logs.NewRefusals(log), log)
				f := &fakeDoor{clustertest.NewPipes(), t, lines}
				served := make(chan error, 1)
				go func() { served <- server.Serve(f, nil) }()
				for range 2 {
					conn := f.open()
					io.WriteString(conn, "GET /commands/close HTTP/1.1\r\nHost: x\r\nX: s3cret\r\n\r\n")
					wantGoneAfter(t, conn, 0)
				}
				if test.want != "" {
					line := f.refused("handler panicked")
					for _, part := range []string{"remote=10.0.0.1", "/commands/close", test.want, "handshake_test.go"} {
						if !strings.Contains(line, part) {
							t.Errorf("%s is missing in the line: %s", part, line)
						}
					}
				}
				synctest.Wait()
				if text := lines.String(); strings.Contains(text, "s3cret") || test.want == "" && text != "" {
					t.Errorf("logged %s", text)
				}
				server.Close()
				<-served
			})
		})
	}
}
