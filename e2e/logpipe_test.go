package e2e

// The log of the real binary goes to a pipe that nobody reads, or whose reader has gone. Part of TestProcess.

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/gorilla/websocket"
)

// pipedProcess writes its log to a pipe that the test reads, or does not.
type pipedProcess struct {
	*clustertest.Process
	log   *os.File
	lines *bufio.Scanner
}

// launchPiped starts the binary with the write end of a pipe as its standard error, and nothing is read of it.
func launchPiped(t *testing.T, binary string, variables ...string) *pipedProcess {
	t.Helper()
	log, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &pipedProcess{log: log, lines: bufio.NewScanner(log)}
	p.Process = clustertest.NewProcess(t, binary, t.TempDir(), variables...)
	p.Cmd.Stderr = stderr
	t.Cleanup(func() { log.Close() })
	p.Start()
	stderr.Close()
	return p
}

func servePiped(t *testing.T, binary string, variables ...string) *pipedProcess {
	t.Helper()
	p := launchPiped(t, binary, append([]string{"HTTP_PORT=0", "BIND_ADDRESS=127.0.0.1"}, variables...)...)
	p.Addr = clustertest.Attribute(p.awaitLine("msg=listening"), "addr")
	return p
}

// awaitLine reads the log up to a line with that part.
func (p *pipedProcess) awaitLine(part string) string {
	p.T.Helper()
	p.log.SetReadDeadline(time.Now().Add(clustertest.Patience))
	for p.lines.Scan() {
		if strings.Contains(p.lines.Text(), part) {
			return p.lines.Text()
		}
	}
	p.T.Fatalf("no line with %q: %v", part, p.lines.Err())
	return ""
}

// fillLog has the process log so much that pipe and buffer are full.
func (p *pipedProcess) fillLog() {
	p.T.Helper()
	chatter := p.DialPeer("rtmp")
	name := strings.Repeat("x", 256)
	for deadline := time.Now().Add(clustertest.Patience); p.droppedLines() == 0; {
		if time.Now().After(deadline) {
			p.T.Fatal("no line is dropped: this test shows nothing")
		}
		for range 1000 {
			chatter.End(name, name) // a line about a stream that is not its own
		}
	}
}

func (p *pipedProcess) droppedLines() float64 {
	p.T.Helper()
	return p.Scrape()["coordinator_log_lines_dropped_total"]
}

func logThatNobodyReads(t *testing.T, binary string) {
	app := clustertest.NewApplication(t)
	p := servePiped(t, binary, app.Variables("LOG_DEBUG=YES")...)
	p.fillLog()

	server := p.DialPeer("rtmp")
	encoder := p.DialPeer("hls")
	encoder.Send("REGISTER", "Capacity", "-1")
	p.AwaitReport("the encoder", func(r clustertest.Report) bool { return len(r.Encoders) == 1 })
	const streams = 1000
	before := p.droppedLines()
	for n := range streams {
		channel := fmt.Sprint("chan-", n)
		id := clustertest.Publish(server, encoder, channel)
		server.End(channel, id)
		encoder.Expect("ENCODE-STOP", "Stream-Channel", channel)
		encoder.Closed(channel, id)
	}
	dropped := p.droppedLines() // the lines of the last streams may still be to come
	for deadline := time.Now().Add(clustertest.Patience); dropped < before+streams; dropped = p.droppedLines() {
		if time.Now().After(deadline) {
			t.Fatalf("%v lines are dropped of those about %d streams", dropped-before, streams)
		}
	}

	notice := p.awaitLine("log lines dropped")
	var told float64
	if fmt.Sscan(clustertest.Attribute(notice, "lines"), &told); told < dropped || !strings.Contains(notice, "level=WARN") {
		t.Errorf("%v lines are dropped, and the log says: %s", dropped, notice)
	}
	p.Call("GET", "/livez")
	p.awaitLine("path=/livez")
}

func stopWithALogThatNobodyReads(t *testing.T, binary string) {
	p := servePiped(t, binary, "LOG_DEBUG=YES")
	p.fillLog()
	server := p.DialPeer("rtmp")
	server.Quiet() // the session has begun
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

// The stop is still under way at the second signal, as an event is being delivered.
func secondSignalWithALogThatNobodyReads(t *testing.T, binary string) {
	app := hangingApplication(t)
	p := servePiped(t, binary, app.Variables("LOG_DEBUG=YES")...)
	server := p.DialPeer("rtmp")
	encoder, _ := p.Register(-1)
	id := clustertest.Publish(server, encoder, "show")
	encoder.Available("show", id, "HLS-LIVE", "1x1", "live.m3u8")
	p.AwaitMetric("coordinator_events_pending")
	p.fillLog()
	p.Signal(syscall.SIGTERM)
	if err := server.AwaitGone(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("peer lost its connection with %v, want status 1001", err)
	}
	start := time.Now()
	p.Signal(syscall.SIGTERM)
	p.AwaitExit(128 + int(syscall.SIGTERM))
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

func readerOfTheLogIsGone(t *testing.T, binary string) {
	p := servePiped(t, binary)
	p.log.Close()
	server := p.DialPeer("rtmp")
	encoder, _ := p.Register(-1)
	for n := range 10 {
		clustertest.Publish(server, encoder, fmt.Sprint("chan-", n))
	}
	p.AwaitMetric("coordinator_log_lines_dropped_total")
	p.Signal(syscall.SIGTERM)
	p.AwaitExit(0)
}

// failedStartWithALogThatNobodyReads has a pipe that is full before the process begins.
func failedStartWithALogThatNobodyReads(t *testing.T, binary string) {
	log, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	defer stderr.Close()
	stderr.SetWriteDeadline(time.Now()) // what has room is written all the same
	if _, err := stderr.Write(make([]byte, 1<<20)); err == nil {
		t.Fatal("the pipe takes everything")
	}
	for _, args := range [][]string{nil, {"-check"}, {"-help"}, {"-nonsense"}} {
		p := clustertest.NewProcess(t, binary, t.TempDir(), "HTTP_PORT=x")
		p.Cmd.Args, p.Cmd.Stderr = append(p.Cmd.Args, args...), stderr
		p.Start()
		select {
		case <-p.Ended:
		case <-time.After(clustertest.Patience):
			p.Cmd.Process.Kill()
			<-p.Ended
			t.Errorf("%q: does not end", args)
		}
	}
}
