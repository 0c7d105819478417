package outbox

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// COORDINATOR_TEST_EVENTS sets how many events TestMemoryStaysFlatHoweverManyEventsWait lets wait: 1000000 is the figure
// to reach.
const scaleVariable = "COORDINATOR_TEST_EVENTS"

// The test starts this binary again for each shape, so that what is measured is one coordinator's memory only.
const scaleChild = "COORDINATOR_TEST_SCALE_CHILD"

func TestMemoryStaysFlatHoweverManyEventsWait(t *testing.T) {
	if streams := os.Getenv(scaleChild); streams != "" {
		playOutage(t, scaleEvents(t), mustAtoi(t, streams))
		return
	}
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	if raceDetector {
		t.Skip("the race detector takes several times the memory that is measured")
	}
	t.Parallel()
	for _, streams := range []int{10, 1000, scaleEvents(t) / 4} {
		t.Run(fmt.Sprintf("streams=%d", streams), func(t *testing.T) {
			child := exec.Command(os.Args[0], "-test.run=^TestMemoryStaysFlatHoweverManyEventsWait$", "-test.v")
			child.Env = append(os.Environ(), scaleChild+"="+strconv.Itoa(streams))
			out, err := child.CombinedOutput()
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, "_test.go") {
					t.Log(strings.TrimSpace(line))
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// playOutage lets events wait, starts anew with them, and delivers them.
func playOutage(t *testing.T, events, streams int) {
	dir := t.TempDir()
	var back atomic.Bool
	answer := func(context.Context, Event) (int, http.Header, error) {
		if !back.Load() {
			return 0, nil, errUnreachable
		}
		return 200, nil, nil
	}
	committed := make(chan struct{}, 1)
	c := started(t, &faultyStore{Store: openedStore(t, dir), afterCommit: func() error {
		poke(committed)
		return nil
	}}, answer)
	measure := startMeasuring(t)
	appendOutage(c, events, streams, committed)
	for c.inMemory() > 0 {
		<-committed
	}
	size, err := os.Stat(filepath.Join(dir, outboxFile))
	if err != nil {
		t.Fatal(err)
	}
	measure(fmt.Sprintf("%d events of %d streams appended, file %d MiB", events, streams, size.Size()>>20))
	if err := c.Finish(stopped()); err != nil {
		t.Fatal(err)
	}
	c = nil
	debug.FreeOSMemory() // a new process would start empty

	measure = startMeasuring(t)
	c = resumed(t, openedStore(t, dir), answer)
	if ready := measure("ready again"); ready > 5*time.Second {
		t.Errorf("ready only after %v", ready)
	}
	if pending, _ := c.Pending(); pending != events {
		t.Errorf("%d events pending", pending)
	}
	measure = startMeasuring(t)
	readPages(t, c)
	measure("looked through")
	back.Store(true)
	measure = startMeasuring(t)
	c.Start()
	finished(t, c)
	measure("delivered")
}

// appendOutage plays streams that come and go, 1,000 at a time.
func appendOutage(c *Outbox, events, streams int, committed <-chan struct{}) {
	const live = 1000
	perStream := events / streams
	for first := 0; first < streams; first += live {
		for seq := 1; seq <= perStream; seq++ {
			for s := first; s < min(first+live, streams); s++ {
				ev := availableEvent(fmt.Sprintf("01234567-89ab-cdef-0123-%012d", s), seq)
				if seq == perStream {
					ev.Type = StreamClosed
				}
				ev.Queue = uint64(s) // new ones behind the others, as in life
				c.Append(ev)
			}
			for c.inMemory() > 10_000 {
				<-committed
			}
		}
	}
}

// readPages reads what an operator looks at: the first page within 100 ms, the last one, and what there is of a channel that has nothing.
func readPages(t *testing.T, c *Outbox) {
	for what, read := range map[string]func() ([]Undelivered, error){
		"first page": func() ([]Undelivered, error) {
			page, _, _, err := c.List(t.Context(), Place{}, "", 50)
			return page, err
		},
		"last page": func() ([]Undelivered, error) {
			page, _, _, err := c.List(t.Context(), Place{Queue: c.lastQueue}, "", 50)
			return page, err
		},
	} {
		best := time.Hour
		for range 5 { // a test beside this one may have the machine
			began := time.Now()
			if page, err := read(); err != nil || len(page) == 0 {
				t.Errorf("%s: %d events, %v", what, len(page), err)
			}
			best = min(best, time.Since(began))
		}
		if t.Logf("%s after %v", what, best); best > 100*time.Millisecond {
			t.Errorf("%s only after %v", what, best)
		}
	}
	began := time.Now()
	if page, _, _, err := c.List(t.Context(), Place{}, "channel-of-nobody", 50); err != nil || len(page) > 0 {
		t.Errorf("of a channel that has nothing: %d events, %v", len(page), err)
	}
	t.Logf("all looked through after %v", time.Since(began))
}

// startMeasuring returns a function that reports the time and the most memory used since.
func startMeasuring(t *testing.T) func(what string) time.Duration {
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // resets VmHWM
		t.Skip("no /proc here:", err)
	}
	began := time.Now()
	return func(what string) time.Duration {
		took := time.Since(began)
		most := residentBytes(t, "VmHWM")
		t.Logf("%s in %v; resident at most %d MiB, now %d MiB, of that %d MiB not of files", what, took.Round(time.Millisecond),
			most>>20, residentBytes(t, "VmRSS")>>20, residentBytes(t, "RssAnon")>>20)
		if most > 150<<20 {
			t.Errorf("%d MiB resident", most>>20)
		}
		return took
	}
}

func (c *Outbox) inMemory() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.appended)
}

func scaleEvents(t *testing.T) int {
	if value := os.Getenv(scaleVariable); value != "" {
		return mustAtoi(t, value)
	}
	return 100_000
}

func mustAtoi(t *testing.T, value string) int {
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// residentBytes reads one line of /proc/self/status.
func residentBytes(t *testing.T, name string) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return mustAtoi(t, strings.Fields(value)[0]) << 10
		}
	}
	t.Fatal("no", name)
	return 0
}
