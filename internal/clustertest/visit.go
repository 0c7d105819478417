package clustertest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

// PlainRequest is a request that every daemon answers.
const PlainRequest = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// Visit is a client's connection.
type Visit struct {
	net.Conn
	T testing.TB
}

// OpenVisit connects. Its connection is reset at the end, which leaves nothing behind in the system.
func OpenVisit(t testing.TB, addr string) *Visit {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return &Visit{T: t}
	}
	conn.(*net.TCPConn).SetLinger(0)
	t.Cleanup(func() { conn.Close() })
	return &Visit{conn, t}
}

// Ask makes a request, which must be answered.
func (v *Visit) Ask() {
	if v.Conn == nil {
		return
	}
	v.SetDeadline(time.Now().Add(Patience))
	if _, err := io.WriteString(v, PlainRequest); err != nil {
		v.T.Error(err)
		return
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(v, 512), nil)
	if err != nil {
		v.T.Error(err)
		return
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
		v.T.Errorf("status %d, %v", res.StatusCode, err)
	}
}

// AwaitClosed fails the test if the connection is not closed, or something comes.
func (v *Visit) AwaitClosed() {
	v.T.Helper()
	v.SetReadDeadline(time.Now().Add(Patience))
	if n, err := v.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		v.T.Fatalf("connection is open: %d bytes, %v", n, err)
	}
}

// Knock opens a connection and sends something.
func Knock(t testing.TB, addr, sent string) *Visit {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, sent); err != nil {
		t.Fatal(err)
	}
	return &Visit{conn, t}
}
