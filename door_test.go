package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"
)

// guardedServer is an HTTP server behind a door for max visitors; the handler of /slow waits for release.
func guardedServer(t *testing.T, max int) (addr string, slow, release chan struct{}) {
	d := newDoor(func() int { return max })
	slow, release = make(chan struct{}), make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		slow <- struct{}{}
		<-release
	})
	server := httptest.NewUnstartedServer(d.serving(mux))
	d.guard(server.Config)
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	return server.Listener.Addr().String(), slow, release
}

// knock opens a connection and sends something.
func knock(t *testing.T, addr, sent string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte(sent)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// awaitStatus reads the answer to a request.
func awaitStatus(t *testing.T, conn net.Conn, want int) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != want {
		t.Fatalf("answer %v, %v; want %d", res, err, want)
	}
}

func awaitClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("connection is open: %d bytes, %v", n, err)
	}
}

const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func TestDoorDismissesWhoHasWaitedLongest(t *testing.T) {
	t.Parallel()
	addr, slow, release := guardedServer(t, 3)
	served := knock(t, addr, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-slow
	first := knock(t, addr, request)
	awaitStatus(t, first, 200)
	second := knock(t, addr, request)
	awaitStatus(t, second, 200)
	third := knock(t, addr, request) // one too many
	awaitStatus(t, third, 200)
	awaitClosed(t, first)
	release <- struct{}{}
	awaitStatus(t, served, 200)
}

// One visitor in the middle of its headers has to go, too: it may be there to stay.
func TestDoorDismissesSlowLoris(t *testing.T) {
	t.Parallel()
	addr, _, _ := guardedServer(t, 1)
	loris := knock(t, addr, "GET / HTTP/1.1\r\nHost:")
	awaitStatus(t, knock(t, addr, request), 200)
	awaitClosed(t, loris)
}

// 5,000 idle strangers, as many again that send their headers byte by byte: the commands API answers in under 100 ms.
func TestCrowdAtTheDoorLeavesTheCommandsAPIQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 5,000 connections")
	}
	d := startDaemon(t, "LOG_DEBUG=NO", "LOG_REQUESTS=NO")
	const strangers = 5000
	if maxSockets() < 2*strangers {
		t.Skip("the system allows too few open files for 5,000 connections on both sides")
	}
	conns := make([]net.Conn, strangers)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	var wg sync.WaitGroup
	for part := range 10 {
		wg.Go(func() {
			for i := part; i < strangers; i += 10 {
				c, err := net.Dial("tcp", d.addr)
				if err != nil {
					t.Error(err)
					return
				}
				conns[i] = c
				if i%2 == 0 {
					fmt.Fprint(c, "GET /commands/capacity HTTP/1.1\r\nX-Slow: ")
				}
			}
		})
	}
	wg.Wait()
	best := time.Hour
	for range 5 { // the machine may be slow at times, the daemon not
		start := time.Now()
		if status, _ := d.call("GET", "/commands/capacity"); status != 200 {
			t.Fatal("status", status)
		}
		best = min(best, time.Since(start))
	}
	if best > 100*time.Millisecond {
		t.Errorf("the quickest of five answers took %v", best)
	}
}
