package main

// A day in the life of a cluster, in fake time: peers that beat, publish, fail, go and come back. What the daemon holds
// at its end is what it held after the first hour.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/control"
	"coordinator/internal/timeline"
)

const (
	soakServers, soakEncoders = 3, 3
	soakPublishEvery          = 5 * time.Minute // by each server
	soakEncoderSlots          = 8
)

// soakCluster is a daemon, its peers and an application that keeps nothing of what it was told but the sums.
type soakCluster struct {
	*fakeNet

	mu sync.Mutex
	// guarded by mu
	lastSeq               map[string]int // of streams that are not closed
	opened, closed, moved int
	asked, accepted       int
	faults                []string
}

func newSoakCluster(t *testing.T) *soakCluster {
	listener := clustertest.NewPipes()
	c := &soakCluster{lastSeq: map[string]int{}}
	app := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(c.serveEvent)}}
	app.Start()
	t.Cleanup(app.Close)
	c.fakeNet = newFakeNet(t, "EVENT_CALLBACK_URL=http://application/event", "LOG_REQUESTS=NO")
	c.reaches(listener.Connect)
	ctx, stop := context.WithCancel(context.Background())
	var clocks sync.WaitGroup
	clocks.Go(func() { c.coordinator.keepTime(ctx) })
	clocks.Go(func() { c.coordinator.history.Run(ctx) })
	t.Cleanup(func() {
		stop()
		clocks.Wait()
	})
	return c
}

func (c *soakCluster) serveEvent(w http.ResponseWriter, r *http.Request) {
	if rand.IntN(20) == 0 {
		w.WriteHeader(503)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	stream, id := r.Header.Get("x-streaming-id"), r.Header.Get("x-event-id")
	seq, known := c.lastSeq[stream]
	want := stream + "-" + strconv.Itoa(seq+1)
	if r.Header.Get("x-event-type") == "stream-closed" {
		want = stream + "-closed"
	}
	if id != want {
		c.faults = append(c.faults, fmt.Sprintf("%s came, it was the turn of %s", id, want))
	}
	if !known {
		c.opened++
	}
	c.lastSeq[stream] = seq + 1
	if r.Header.Get("x-event-type") == "stream-closed" {
		delete(c.lastSeq, stream)
		c.closed++
		if r.Header.Get("x-previous-streaming-id") != "" {
			c.moved++
		}
	}
}

// connected runs a peer over one connection after the other, each for some hours, until stop is closed.
func (c *soakCluster) connected(endpoint string, stop chan struct{}, hours int, serve func(p *clustertest.Peer, retired <-chan time.Time)) {
	for {
		conn, err := openControl(c.Connect, endpoint, 1935) // as twins, which probe each other
		if err != nil {
			c.t.Error(err)
			return
		}
		p := c.reading(conn)
		serve(p, time.After(time.Duration(hours)*time.Hour+rand.N(time.Hour)))
		conn.Close()
		p.AwaitGone()
		select {
		case <-stop:
			return
		case <-time.After(10 * time.Second):
		}
	}
}

// streamingServer publishes, and ends each publication after some minutes or when it is told to.
func (c *soakCluster) streamingServer(name string, stop chan struct{}) {
	requests := 0
	c.connected("rtmp", stop, 3, func(p *clustertest.Peer, retired <-chan time.Time) {
		beat, publish := time.NewTicker(control.HeartbeatEvery), time.NewTicker(soakPublishEvery)
		defer beat.Stop()
		defer publish.Stop()
		type live struct {
			channel string
			until   time.Time
		}
		streams := map[string]live{}
		for {
			select {
			case <-beat.C:
				p.Send("HEARTBEAT")
				for id, l := range streams {
					if time.Now().After(l.until) {
						delete(streams, id)
						p.End(l.channel, id)
					}
				}
			case <-publish.C:
				requests++
				c.count(&c.asked)
				p.Request(fmt.Sprintf("%s-%d", name, requests), "key")
			case m := <-p.In:
				id, channel := m.Get("Stream-ID"), m.Get("Stream-Channel")
				switch m.Method {
				case "PUBLISH-ACCEPT":
					c.count(&c.accepted)
					streams[id] = live{channel, time.Now().Add(rand.N(10 * time.Minute))}
				case "STREAM-KILL":
					delete(streams, id)
					p.End(channel, id)
				}
			case <-retired:
				return
			case <-stop:
				return
			}
		}
	})
}

// encoder does what it is told; at times a source cannot be opened.
func (c *soakCluster) encoder(stop chan struct{}) {
	c.connected("hls", stop, 4, func(p *clustertest.Peer, retired <-chan time.Time) {
		p.Send("REGISTER", "Capacity", strconv.Itoa(soakEncoderSlots))
		beat := time.NewTicker(control.HeartbeatEvery)
		defer beat.Stop()
		for {
			select {
			case <-beat.C:
				p.Send("HEARTBEAT")
			case m := <-p.In:
				id, channel := m.Get("Stream-ID"), m.Get("Stream-Channel")
				switch {
				case m.Method == "ENCODE-START" && rand.IntN(30) == 0:
					p.Closed(channel, id)
				case m.Method == "ENCODE-START":
					p.Available(channel, id, "HLS-LIVE", "640x360", channel+"/live.m3u8")
				case m.Method == "ENCODE-STOP":
					p.Available(channel, id, "HLS-VOD", "640x360", channel+"/vod.m3u8")
					p.Closed(channel, id)
				}
			case <-retired:
				return
			case <-stop:
				return
			}
		}
	})
}

func (c *soakCluster) count(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

// live lets the cluster live for a while and then go, servers first.
func (c *soakCluster) live(d time.Duration) {
	stopServers, stopEncoders := make(chan struct{}), make(chan struct{})
	var servers, encoders sync.WaitGroup
	for range soakEncoders {
		encoders.Go(func() { c.encoder(stopEncoders) })
	}
	for i := range soakServers {
		name := fmt.Sprintf("%d-%d", time.Now().Unix(), i)
		servers.Go(func() { c.streamingServer(name, stopServers) })
	}
	c.wait(d)
	close(stopServers)
	servers.Wait()
	c.wait(time.Minute)
	close(stopEncoders)
	encoders.Wait()
	c.wait(10 * time.Minute) // the longest idle connection, the last retries
}

// wantAtRest holds that nothing is left of what was.
func (c *soakCluster) wantAtRest() {
	c.t.Helper()
	c.wantConnected(0, 0, 0)
	state := c.coordinator.state()
	if state.slots.Load != 0 || state.closing != 0 || state.eventsPending != 0 {
		c.t.Errorf("at rest: %+v", state)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opened != c.closed || len(c.lastSeq) != 0 {
		c.t.Errorf("%d streams were announced, %d closed; open are %v", c.opened, c.closed, c.lastSeq)
	}
	if len(c.faults) > 0 {
		c.t.Error(strings.Join(c.faults, "\n"))
	}
}

// Not parallel, because it measures the memory of the process.
func TestADayLeavesTheDaemonAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSoakCluster(t)
		for range timeline.Entries { // it has a bound of its own: from here on it takes all of it
			c.coordinator.timeline.Add(timeline.Entry{Text: strings.Repeat("x", 512)})
		}
		c.live(time.Hour)
		c.wantAtRest()
		c.logs.Forget()
		before := measured()
		c.live(23 * time.Hour)
		c.wantAtRest()
		c.logs.Forget()
		wantNoGrowth(t, before, 0, 256<<10)
		t.Logf("%d publish requests, %d accepted, %d streams, %d of them at another encoder", c.asked, c.accepted, c.closed, c.moved)
		if c.accepted < 24*int(time.Hour/soakPublishEvery)*soakServers*8/10 || c.moved == 0 {
			t.Error("too little has happened")
		}
	})
}
