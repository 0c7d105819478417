package e2e

// Connections of strangers: a crowd of them, and more than the process may open.

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/door"
)

// As many strangers as the door lets in, each idle after a request: little memory, a quick answer for whoever comes, and
// none of them forgotten. One more, and the first has to go.
func TestCrowdAtTheDoorLeavesTheCommandsAPIQuick(t *testing.T) {
	onlyDirect(t, ofTheProcess)
	if testing.Short() {
		t.Skip("opens 16,384 connections")
	}
	const (
		crowd = 16_384
		first = 10 // of them may have to go
	)
	if door.MaxSockets() < crowd+100 {
		t.Skipf("needs a limit of %d open files (ulimit -n)", crowd+100+door.OtherFiles)
	}
	p := clustertest.Serve(t, coordinatorBinary, "LOG_REQUESTS=NO")
	before := p.PeakMemory()
	conns := make([]*clustertest.Visit, crowd)
	for i := range first {
		conns[i] = clustertest.OpenVisit(t, p.Addr)
		conns[i].Ask()
	}
	var opening sync.WaitGroup
	const parts = 16
	for part := range parts {
		opening.Go(func() {
			for i := first + part; i < len(conns) && !t.Failed(); i += parts {
				conns[i] = clustertest.OpenVisit(t, p.Addr)
				conns[i].Ask()
			}
		})
	}
	opening.Wait()
	if t.Failed() {
		return
	}
	grown := p.PeakMemory() - before
	most := 300 << 20
	if len(buildArguments) > 0 { // the race detector multiplies it
		most *= 5
	}
	if t.Logf("%d idle connections cost %d MiB at most", len(conns), grown>>20); grown > most {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	best := time.Hour
	for range 5 { // the machine may be slow at times, the daemon not
		start := time.Now()
		if status, _ := p.Call("GET", "/commands/capacity"); status != 200 {
			t.Fatal("status", status)
		}
		best = min(best, time.Since(start))
	}
	if best > 100*time.Millisecond {
		t.Errorf("the quickest of five answers took %v", best)
	}
	conns[0].AwaitClosed()
	for _, c := range conns[first:] {
		c.Ask()
	}
}

// withFiles is the binary with a limit of open files.
func withFiles(t *testing.T, limit int) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "limited")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nulimit -n %d && exec %q\n", limit, coordinatorBinary), 0o700); err != nil {
		t.Fatal(err)
	}
	return script
}

func TestNoMoreConnectionsThanFiles(t *testing.T) {
	onlyDirect(t, ofTheProcess)
	t.Parallel()
	const room = 600
	p := clustertest.Serve(t, withFiles(t, door.OtherFiles+room), "LOG_REQUESTS=NO")
	var conns []*clustertest.Visit
	for range room + 1 {
		conns = append(conns, clustertest.OpenVisit(t, p.Addr))
		conns[len(conns)-1].Ask()
	}
	conns[0].AwaitClosed()
	for _, c := range conns[1:] {
		c.Ask()
	}
}

func TestTooManyOpenFilesAreLogged(t *testing.T) {
	onlyDirect(t, ofTheProcess)
	t.Parallel()
	p := clustertest.Serve(t, withFiles(t, 50), "LOG_REQUESTS=NO")
	var conns []*clustertest.Visit
	for range 100 {
		conns = append(conns, clustertest.OpenVisit(t, p.Addr))
	}
	p.Logs.Await(t, "connections cannot be accepted", "too many open files", "LimitNOFILE")
	for _, c := range conns {
		c.Close()
	}
	clustertest.OpenVisit(t, p.Addr).Ask()
	if n := p.Logs.Count("connections cannot be accepted"); n != 1 {
		t.Errorf("%d lines of it:\n%s", n, p.Logs)
	}
}
