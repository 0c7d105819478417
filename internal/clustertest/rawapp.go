package clustertest

// Applications that do not speak as they should, for clients alone.

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// StartHTTPApp serves an application over HTTP and returns its URL.
func StartHTTPApp(t testing.TB, handler http.HandlerFunc) string {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// StartRawApp serves an application that reads one request of each connection and then does what it likes with it.
func StartRawApp(t testing.TB, handle func(conn *net.TCPConn)) string {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			handlers.Go(func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					handle(conn)
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		handlers.Wait()
	})
	return "http://" + listener.Addr().String()
}

// WriteEndlessly writes a text again and again until the client has gone.
func WriteEndlessly(conn net.Conn, text string) {
	for {
		if _, err := io.WriteString(conn, text); err != nil {
			return
		}
	}
}

// AwaitGone waits until the client has closed the connection.
func AwaitGone(conn net.Conn) {
	_, _ = io.Copy(io.Discard, conn)
}

// PipeApp makes a client reach an application inside a synctest bubble. The application answers each request with the
// text that answer returns, or keeps silent if that is empty.
func PipeApp(t testing.TB, client interface{ Close() }, transport *http.Transport, answer func(*http.Request) string) {
	var app sync.WaitGroup
	t.Cleanup(func() {
		client.Close()
		app.Wait()
	})
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		app.Go(func() {
			defer far.Close()
			requests := bufio.NewReader(far)
			for {
				request, err := http.ReadRequest(requests)
				if err != nil {
					return
				}
				if text := answer(request); text != "" {
					_, _ = io.WriteString(far, text)
				}
			}
		})
		return near, nil
	}
}
