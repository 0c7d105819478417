package e2e

// Many streams at once lose their encoder, and many publishers come back before the encoders do.

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

// allTold waits until n of what is counted has come.
type allTold struct {
	mu   sync.Mutex
	n    int
	last time.Time
	all  chan struct{}
}

func awaitAll(n int) *allTold { return &allTold{n: n, all: make(chan struct{})} }

func (a *allTold) one() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = time.Now()
	if a.n--; a.n == 0 {
		close(a.all)
	}
}

func (a *allTold) wait(t *testing.T, what string) time.Time {
	t.Helper()
	select {
	case <-a.all:
	case <-time.After(2 * clustertest.Patience):
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n > 0 {
		t.Fatalf("%d %s are missing", a.n, what)
	}
	return a.last
}

// work announces each stream that the encoder is given, and counts it.
func work(p *clustertest.Peer, started *allTold) {
	for m := range p.In {
		if m.Method == "ENCODE-START" {
			started.one()
			p.Tell("STREAM-AVAILABLE", "Stream-Channel", m.Get("Stream-Channel"), "Stream-ID", m.Get("Stream-ID"), "Stream-Type", "HLS-LIVE", "Resolution", "1x1", "Index-file", "live.m3u8")
		}
	}
}

func TestFiveHundredStreamsSurviveTheirEncoder(t *testing.T) {
	t.Parallel()
	const streams, others = 500, 20
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables("LOG_DEBUG=NO")...)
	server := d.DialPeer("rtmp")
	dying, _ := d.Register(streams)
	go work(dying, awaitAll(streams))
	for i := range streams {
		server.Request(fmt.Sprint("c", i), "key")
	}
	first := map[string]string{}
	for range streams {
		m := server.Expect("PUBLISH-ACCEPT")
		first[m.Get("Stream-Channel")] = m.Get("Stream-ID")
	}
	app.AwaitEvents(streams)
	again := awaitAll(streams)
	for range others {
		p, _ := d.Register(streams/others + 5)
		go work(p, again)
	}

	death := time.Now()
	dying.Conn.NetConn().Close()
	took := again.wait(t, "ENCODE-START").Sub(death)
	t.Logf("from the death of an encoder with %d streams to the last ENCODE-START: %v", streams, took)
	if took > 5*time.Second {
		t.Errorf("the last ENCODE-START took %v", took)
	}
	events := app.AwaitEvents(3 * streams)
	server.Quiet()
	d.AwaitReport("all live", func(r clustertest.Report) bool { return len(r.ActiveStreams) == streams })
	over, anew := map[string]bool{}, 0
	for _, h := range events {
		channel, previous := h.Get("x-streaming-channel"), h.Get("x-previous-streaming-id")
		switch {
		case h.Get("x-event-type") == "stream-closed":
			over[h.Get("x-streaming-id")] = true
		case previous != "":
			if anew++; previous != first[channel] || !over[previous] {
				t.Errorf("%s goes on from %s (closed %v), began as %s", channel, previous, over[previous], first[channel])
			}
		}
	}
	if anew != streams || len(over) != streams {
		t.Errorf("%d are closed, %d announced anew, want %d", len(over), anew, streams)
	}
}

func TestThousandPublishersReturnBeforeTheEncodersDo(t *testing.T) {
	t.Parallel()
	const servers, each, encoders = 10, 100, 10
	app := clustertest.NewApplication(t)
	data := t.TempDir()
	start := func() *clustertest.Daemon {
		return startDaemon(t, app.Variables("LOG_DEBUG=NO", "LOG_REQUESTS=NO", "ENCODER_WAIT_SECONDS=15", "DATA_DIR="+data)...)
	}
	publishers := func(d *clustertest.Daemon) *allTold { // on all servers at once
		answered := awaitAll(servers * each)
		for i := range servers {
			server := d.DialPeer("rtmp")
			go func() {
				for m := range server.In {
					switch m.Method {
					case "PUBLISH-ACCEPT":
						answered.one()
					case "PUBLISH-DENY":
						t.Errorf("%s is refused", m.Get("Stream-Channel"))
					}
				}
			}()
			for j := range each {
				server.Tell("PUBLISH-REQUEST", "Request-ID", fmt.Sprint(j), "Stream-Channel", fmt.Sprintf("c%d-%d", i, j), "Stream-Key", "key", "User-IP", "10.0.0.1")
			}
		}
		return answered
	}
	work := func(d *clustertest.Daemon) {
		for range encoders {
			p := d.DialPeer("hls")
			p.Tell("REGISTER", "Capacity", fmt.Sprint(servers*each/encoders))
			go work(p, awaitAll(servers*each))
		}
	}
	d := start()
	work(d)
	publishers(d).wait(t, "answers")
	app.AwaitEvents(servers * each)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}

	d = start()
	began := time.Now()
	answered := publishers(d)
	d.AwaitWaiting(servers * each)
	waiting := time.Now()
	work(d)
	last := answered.wait(t, "answers")
	t.Logf("%d publishers waited after %v; from the first encoder to the last answer: %v", servers*each, waiting.Sub(began), last.Sub(waiting))
	events := app.AwaitEvents(3 * servers * each)
	balance := map[string]int{}
	for _, h := range events {
		if h.Get("x-event-type") == "stream-closed" {
			balance[h.Get("x-streaming-channel")]--
		} else {
			balance[h.Get("x-streaming-channel")]++
		}
	}
	for channel, n := range balance {
		if n != 1 {
			t.Errorf("the application knows %d streams of %s", n, channel)
		}
	}
}
