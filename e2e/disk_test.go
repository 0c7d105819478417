package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

// TestKillsOnAFullDiskLeaveNoStreamOpen: a volume of 4 MiB fills up while the application is away, others fill what is left,
// and the daemon is killed at random. When all is well again every stream that the application knows is closed, its events
// came in order, and publishers are admitted.
func TestKillsOnAFullDiskLeaveNoStreamOpen(t *testing.T) {
	t.Parallel()
	onlyDirect(t, ofTheProcess)
	volume := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", volume).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" && os.Getuid() == 0 {
			t.Fatal(err, string(out))
		}
		t.Skipf("cannot mount a small volume here: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", volume).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	others := filepath.Join(volume, "others")
	app := clustertest.NewApplication(t)
	var away atomic.Bool
	app.AnswerEvents(func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	start := func() *clustertest.Process {
		return clustertest.Serve(t, coordinatorBinary, app.Variables("DATA_DIR="+filepath.Join(volume, "data"), "LOG_REQUESTS=NO")...)
	}
	for round := range 8 {
		away.Store(round%2 == 0)
		if round%4 == 3 {
			fill(t, others)
		} else if err := os.Remove(others); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		p := start()
		end := time.Now().Add(300*time.Millisecond + rand.N(time.Second))
		publishMany(p, round, func() bool {
			if round%4 != 2 {
				return time.Now().After(end)
			}
			status, _ := p.Call("GET", "/readyz")
			return status == http.StatusServiceUnavailable // the disk is full
		})
		if rand.IntN(3) > 0 {
			p.Signal(syscall.SIGKILL)
		} else {
			p.Signal(syscall.SIGTERM)
		}
		<-p.Ended
		if p.Logs.Count("damaged") > 0 {
			t.Errorf("the outbox counts as damaged:\n%s", p.Logs)
		}
	}
	away.Store(false)
	_ = os.Remove(others) // it may not be there
	p := start()
	p.AwaitMetrics(map[string]float64{"coordinator_events_pending": 0, "coordinator_ready": 1})
	_, events, _ := app.Snapshot()
	highest, closed := map[string]int{}, map[string]bool{}
	for _, h := range events {
		id := h.Get("x-streaming-id")
		if h.Get("x-event-type") == "stream-closed" {
			closed[id] = true
			continue
		}
		seq, err := strconv.Atoi(strings.TrimPrefix(h.Get("x-event-id"), id+"-"))
		if err != nil || seq > highest[id]+1 || closed[id] && seq > highest[id] {
			t.Errorf("%s came after number %d, closed %v (%v)", h.Get("x-event-id"), highest[id], closed[id], err)
		}
		highest[id] = max(seq, highest[id])
	}
	for id := range highest {
		if !closed[id] {
			t.Errorf("stream %s stays open", id)
		}
	}
	t.Logf("%d streams, %d events", len(highest), len(events))
}

// fill writes a file until the volume is full.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
}

// publishMany has one publisher after the other begin, of whom half stay, with many outputs each.
func publishMany(p *clustertest.Process, round int, ended func() bool) {
	p.T.Helper()
	server := p.DialPeer("rtmp")
	encoder, _ := p.Register(-1)
	go encoder.Attend()
	began := time.Now()
	for n := 0; !ended(); n++ {
		if time.Since(began) > 2*clustertest.Patience {
			p.T.Fatal("the disk is never full")
		}
		channel := fmt.Sprintf("round-%d-%d", round, n)
		server.Request(channel, "key")
		m, open := <-server.In
		if !open {
			p.T.Fatalf("connection gone: %v", server.Gone)
		}
		if m.Method != "PUBLISH-ACCEPT" {
			continue
		}
		id := m.Get("Stream-ID")
		for output := range 30 {
			encoder.Available(channel, id, "HLS-LIVE", fmt.Sprintf("%dx1", output+1), strings.Repeat("i", 800))
		}
		if n%2 == 0 {
			server.End(channel, id)
		}
	}
}
