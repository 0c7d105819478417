package main

// Many peers at once on one registry, each with a goroutine of its own as in the daemon, for the race detector. What
// they are told is appended to a mailbox, as a connection's send queue is.

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/outbox"

	"github.com/google/go-cmp/cmp"
)

type order struct {
	method, channel, streamID string
	session                   uint64 // of a probe
}

type mailbox struct {
	mu     sync.Mutex
	orders []order
}

func (b *mailbox) put(o order) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orders = append(b.orders, o)
}

func (b *mailbox) take() []order {
	b.mu.Lock()
	defer b.mu.Unlock()
	orders := b.orders
	b.orders = nil
	return orders
}

func (b *mailbox) accept(to requestRef, channel, streamID string, _ uint64) {
	b.put(order{method: "accept", channel: channel, streamID: streamID})
}
func (b *mailbox) deny(requestRef, string) {}
func (b *mailbox) keepsUp() bool           { return true }
func (b *mailbox) probe(session uint64)    { b.put(order{method: "probe", session: session}) }
func (b *mailbox) kill(channel, streamID string) {
	b.put(order{method: "kill", channel: channel, streamID: streamID})
}
func (b *mailbox) start(job encodeJob) {
	b.put(order{method: "start", channel: job.channel, streamID: job.streamID})
}
func (b *mailbox) stop(channel, streamID string) {
	b.put(order{method: "stop", channel: channel, streamID: streamID})
}

// streamHistories is the event log. The registry's lock guards it; a test reads it at the end.
type streamHistories struct {
	announced atomic.Int64 // streams

	lastSeq map[string]uint64
	closed  map[string]bool
	judge   toldJudge
	faults  []string
}

func (*streamHistories) End(outbox.Mark) {}

func (h *streamHistories) AppendPart(ev outbox.Event) {
	if fault := h.judge.take(ev); fault != "" {
		h.faults = append(h.faults, shortEvent(ev)+": "+fault)
	}
	if ev.Type != outbox.StreamAvailable && ev.Type != outbox.StreamClosed {
		return
	}
	if h.closed[ev.StreamID] || ev.Seq != h.lastSeq[ev.StreamID]+1 {
		h.faults = append(h.faults, fmt.Sprintf("%+v after %d, closed %v", ev, h.lastSeq[ev.StreamID], h.closed[ev.StreamID]))
	}
	if ev.Seq == 1 {
		h.announced.Add(1)
	}
	h.lastSeq[ev.StreamID] = ev.Seq
	h.closed[ev.StreamID] = ev.Type == outbox.StreamClosed
}

// crowd is a registry under fire. Its clock goes on by a few milliseconds with each look at it.
type crowd struct {
	r         *registry
	histories *streamHistories
	deadline  time.Time
	clock     atomic.Int64
}

const crowdStreams = 2000

// goesOn tells whether there is more to do: until crowdStreams were announced.
func (c *crowd) goesOn() bool {
	return c.histories.announced.Load() < crowdStreams && time.Now().Before(c.deadline)
}

// now lets the others have their turn, too: on few processors a life would be over before anybody has answered.
func (c *crowd) now() time.Time {
	runtime.Gosched()
	return time.UnixMilli(1_700_000_000_000 + c.clock.Add(3))
}

func (c *crowd) serverLives() {
	for life := 0; c.goesOn(); life++ {
		box := &mailbox{}
		s := c.r.joinServer(attachment{}, box, serverInfo{kind: []serverKind{kindRTMP, kindWS}[life%2]}, c.now())
		publishers := map[string]string{}
		for range 60 {
			channel := fmt.Sprint("c", rand.IntN(30))
			c.r.claim(s, claimRequest{requestRef: requestRef{id: "r"}, channel: channel, answerBy: c.now().Add(time.Second)}, c.now())
			for _, o := range box.take() {
				switch {
				case o.method == "accept":
					publishers[o.channel] = o.streamID
				case o.method == "probe":
					c.r.probeAnswered(o.session, c.now())
				case rand.IntN(4) > 0: // one in four kills gets lost
					c.r.end(s, o.channel, o.streamID, c.now())
				}
			}
			for channel, id := range publishers {
				if rand.IntN(3) == 0 {
					c.r.end(s, channel, id, c.now())
					delete(publishers, channel)
				}
			}
		}
		c.r.leaveServer(s, c.now())
	}
}

func (c *crowd) encoderLives() {
	for c.goesOn() {
		box := &mailbox{}
		e, _ := c.r.joinEncoder(attachment{}, box, "10.0.0.1", rand.IntN(12)-1, c.now())
		jobs := map[string]order{}
		for i := range 60 {
			for _, o := range box.take() {
				if o.method == "probe" {
					c.r.probeAnswered(o.session, c.now())
				} else {
					jobs[o.streamID] = o
				}
			}
			for id, o := range jobs {
				c.r.announce(e, o.channel, id, announcement{streamType: "HLS-LIVE", resolution: "ORIGINAL"}, c.now())
				if o.method == "stop" || rand.IntN(20) == 0 {
					c.r.streamClosed(e, o.channel, id, c.now(), c.now())
					delete(jobs, id)
				}
			}
			if i%20 == 19 {
				c.r.resize(e, rand.IntN(12)-1, c.now())
			}
		}
		c.r.leaveEncoder(e, c.now())
	}
}

// operate is the operator and the application, and the coordinator's own clock.
func (c *crowd) operate() {
	for c.goesOn() {
		report := wholeReport(c.r, c.now())
		for _, e := range report.Encoders {
			if rand.IntN(2) == 0 {
				c.r.undrain(e.ID, c.now())
			} else {
				c.r.drain(e.ID, true, c.now())
			}
		}
		for _, s := range report.ActiveStreams {
			if rand.IntN(10) == 0 {
				c.r.kill(s.Channel, s.StreamID, errByApplication, c.now())
			}
		}
		c.r.streamRows(func(rows []streamRow) {
			for i := range rows {
				rows[i].describeAnnounced()
			}
		})
		c.r.totals(time.Now())
		c.r.capacity()
		c.r.channelIsBusy("c1")
		c.r.expire(c.now())
	}
}

func TestManyPeersAtOnce(t *testing.T) {
	t.Parallel()
	histories := &streamHistories{lastSeq: map[string]uint64{}, closed: map[string]bool{}}
	lastID := 0
	newID := func() string { lastID++; return fmt.Sprint("id", lastID) } // under the registry's lock
	c := &crowd{histories: histories, deadline: time.Now().Add(clustertest.Patience)}
	c.r = newRegistry(1, c.now(), newID, histories, limits{failover: true, encoderWait: 200 * time.Millisecond, startTimeout: 2 * time.Second, takeover: true, extraEvents: true})

	var peers sync.WaitGroup
	for range 8 {
		peers.Go(c.serverLives)
		peers.Go(c.encoderLives)
	}
	peers.Go(c.operate)
	gone := make(chan struct{})
	go func() {
		peers.Wait()
		close(gone)
	}()
	defer func() { <-gone }() // whatever fails here: no goroutine is left

	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-tick.C:
			checkInvariants(t, c.r)
		case <-gone:
			running = false
		}
	}
	c.r.expire(c.now())
	checkEmpty(t, c.r)
	if n := histories.announced.Load(); n < crowdStreams {
		t.Errorf("%d streams were announced in %v", n, clustertest.Patience)
	}
	for _, fault := range histories.faults {
		t.Error("event out of order: ", fault)
	}
	for id, closed := range histories.closed {
		if !closed {
			t.Errorf("stream %s was announced and never closed", id)
		}
	}
}

// TestStreamEndsOnlyAfterItsPublisherIsAccepted holds the race open: the encoder's failure is already waiting while
// the publisher is being accepted. Were the acceptance handed over after the lock, the kill would come first.
func TestStreamEndsOnlyAfterItsPublisherIsAccepted(t *testing.T) {
	t.Parallel()
	encoder := &hastyEncoder{failed: make(chan struct{})}
	publisher := &hesitantPublisher{killed: make(chan struct{})}
	r := newRegistry(1, time.Now(), func() string { return "id" }, publisher, limits{})
	encoder.fail = func(job encodeJob) {
		defer close(encoder.failed)
		r.streamClosed(encoder.self, job.channel, job.streamID, time.Now(), time.Now())
	}
	s := r.joinServer(attachment{}, publisher, serverInfo{}, time.Now())
	encoder.self, _ = r.joinEncoder(attachment{}, encoder, "10.0.0.1", 1, time.Now())
	if _, err := r.claim(s, claimRequest{requestRef: requestRef{id: "1"}, channel: "chan"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	<-encoder.failed
	if diff := cmp.Diff([]string{"accept", "kill"}, publisher.said); diff != "" {
		t.Error(diff)
	}
}

// hastyEncoder fails every stream at once.
type hastyEncoder struct {
	self   *encoder
	fail   func(encodeJob)
	failed chan struct{}
}

func (e *hastyEncoder) start(job encodeJob) { go e.fail(job) }

func (e *hastyEncoder) stop(_, _ string) {}

func (e *hastyEncoder) probe(uint64) {}

// hesitantPublisher gives a kill the time to come before the acceptance, if there is any way for it.
type hesitantPublisher struct {
	killed chan struct{}
	said   []string
}

func (p *hesitantPublisher) accept(requestRef, string, string, uint64) {
	select {
	case <-p.killed:
	case <-time.After(20 * time.Millisecond):
	}
	p.said = append(p.said, "accept")
}

func (p *hesitantPublisher) kill(_, _ string) {
	p.said = append(p.said, "kill")
	close(p.killed)
}

func (p *hesitantPublisher) deny(requestRef, string) {}

func (*hesitantPublisher) End(outbox.Mark) {}

func (p *hesitantPublisher) AppendPart(outbox.Event) {}

func (p *hesitantPublisher) probe(uint64) {}

func (p *hesitantPublisher) keepsUp() bool { return true }
