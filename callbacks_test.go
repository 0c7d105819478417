package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/outbox"

	"github.com/google/go-cmp/cmp"
)

func TestEventsWithoutAnApplicationAreDropped(t *testing.T) {
	t.Parallel()
	c, err := newCallbacks(&Config{DataDir: "/nonexistent"}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.Start()
	c.Append(outbox.Event{StreamID: "s", Seq: 1})
	if pending, _ := c.Pending(); pending != 0 || c.Err() != nil {
		t.Errorf("%d pending, %v", pending, c.Err())
	}
	if err := c.Finish(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEachEventSaysWhatTheContractAsksFor(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 13, 4, 5, 678_900_000, time.FixedZone("", 3600))
	got := eventHeader(outbox.Event{
		Channel: "c", StreamID: "s", Previous: "r", Seq: 12, At: at,
		StreamType: "HLS-VOD", Resolution: "ORIGINAL", IndexFile: "a\nb", StartTime: "3.5",
	})
	want := http.Header{
		"X-Streaming-Channel": {"c"}, "X-Streaming-Id": {"s"}, "X-Event-Id": {"s-12"}, "X-Event-Type": {"stream-available"},
		"X-Event-Time": {"2026-03-01T12:04:05.678Z"}, "X-Previous-Streaming-Id": {"r"}, "X-Stream-Type": {"HLS-VOD"},
		"X-Resolution": {"ORIGINAL"}, "X-Index-File": {"a%0Ab"}, "X-Start-Time": {"3.5"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = eventHeader(outbox.Event{Channel: "c", StreamID: "s", Seq: 13, Type: outbox.StreamClosed, At: at})
	want = http.Header{
		"X-Streaming-Channel": {"c"}, "X-Streaming-Id": {"s"}, "X-Event-Id": {"s-closed"}, "X-Event-Type": {"stream-closed"},
		"X-Event-Time": {"2026-03-01T12:04:05.678Z"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPublicationsAreNumberedBehindThoseOnDiskWhateverTheClockSays(t *testing.T) {
	t.Parallel()
	cfg, log := &Config{DataDir: t.TempDir(), EventCallbackURL: "http://127.0.0.1:1"}, slog.New(slog.DiscardHandler)
	for _, later := range []bool{false, true} {
		d, err := newDaemon(cfg, log)
		if err != nil {
			t.Fatal(err)
		}
		if next := d.coordinator.registry.lastNumber + 1; later && next != 1<<52+1 {
			t.Errorf("the next publication has number %d", next)
		}
		d.events.Append(outbox.Event{Queue: 1 << 52, Channel: "kept", StreamID: "kept", Seq: 1, At: time.Now()}) // in the year 2112
		if err := d.stop(0); err != nil {
			t.Error(err)
		}
	}
}

func TestTenThousandEventsOpenNoMoreConnectionsThanAreInFlight(t *testing.T) {
	t.Parallel()
	var opened, inFlight, most atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		defer inFlight.Add(-1)
		now := inFlight.Add(1)
		for before := most.Load(); now > before && !most.CompareAndSwap(before, now); before = most.Load() {
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	const events = 10_000
	var delivered, others atomic.Int64
	done := make(chan struct{})
	observe := func(a outbox.Attempt) {
		if sendResult(a.Status, a.Err) != "delivered" || a.Took <= 0 {
			others.Add(1)
		} else if delivered.Add(1) == events {
			close(done)
		}
	}
	c, err := newCallbacks(&Config{DataDir: t.TempDir(), EventCallbackURL: Secret(server.URL)}, observe, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.Start()
	for i := range events {
		seq, stream := i/1000, i%1000
		ev := outbox.Event{Queue: uint64(stream), Position: uint32(seq), Channel: "c", StreamID: fmt.Sprint("s", stream), Seq: uint64(seq + 1), At: time.Now()}
		if seq == events/1000-1 {
			ev.Type = outbox.StreamClosed
		}
		c.Append(ev)
	}
	<-done
	if err := c.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	if opened.Load() > 2*outbox.MaxInFlight || most.Load() > outbox.MaxInFlight { // the slack is for overloaded machines: see TestPostReusesConnections
		t.Errorf("%d connections were opened, at most %d requests were in flight", opened.Load(), most.Load())
	}
	if others.Load() != 0 {
		t.Errorf("%d tries did not deliver", others.Load())
	}
}

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

// doubtful is the mandate of a leader that is not sure until the channel is closed.
type doubtful struct {
	alwaysLeads
	sure chan struct{}
}

func (d doubtful) AwaitValid(ctx context.Context) error {
	select {
	case <-d.sure:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestNoEventIsSentInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		d := doubtful{sure: make(chan struct{})}
		c := &callbacks{}
		send := c.sender(&Config{EventCallbackURL: "http://127.0.0.1:1/"}, d) // nobody is there
		defer c.client.Close()
		ended := make(chan error)
		go func() {
			_, _, err := send(t.Context(), outbox.Event{StreamID: "s"})
			asked.Add(1)
			ended <- err
		}()
		synctest.Wait()
		if asked.Load() > 0 {
			t.Error("the application is asked")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := send(ctx, outbox.Event{}); !errors.Is(err, context.Canceled) {
			t.Errorf("at the end of the term: %v", err)
		}
		close(d.sure)
		if err := <-ended; err == nil {
			t.Error("it was never sent")
		}
	})
}
