package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

// TestDemoShowsTheWholeStory plays the demo a hundred times as fast, until each of its scenes was there.
func TestDemoShowsTheWholeStory(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	log := clustertest.NewLog()
	o, err := parseOptions([]string{"-profile=demo"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	o.dir = t.TempDir()
	ended := make(chan error, 1)
	go func() { ended <- (&demo{speed: 100, out: log}).play(ctx, o, "0") }()
	for _, part := range []string{
		"the dashboard is at http://localhost:", " is live, stream ", "is denied, wrong key", "can be played", "loses its network", " is back",
		"is drained", "back in service", "a crowd of", "no encoder has a free slot", "ends", "is over", "has a recording",
	} {
		log.Await(t, part)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if lines := strings.Count(log.String(), "\n"); log.Count("the coordinator is stopped") != 1 || lines < 20 {
		t.Errorf("%d lines:\n%s", lines, log)
	}
}
