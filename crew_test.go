package main

import (
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCrewRunsTasksSideBySide(t *testing.T) {
	t.Parallel()
	c := newCrew()
	meet := make(chan struct{})
	c.run(func() { meet <- struct{}{} })
	c.run(func() { <-meet }) // neither ends without the other
	c.wait()
}

func TestCrewUsesAGoroutineAgainAndLetsItGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew()
		seen := map[string]bool{}
		for range 100 {
			c.run(func() {
				name, _, _ := strings.Cut(goroutineStack(), "[")
				seen[name] = true
			})
			synctest.Wait()
		}
		if len(seen) != 1 {
			t.Errorf("100 tasks, one after the other, took %d goroutines", len(seen))
		}
		time.Sleep(2 * lingering)
		c.run(func() {
			name, _, _ := strings.Cut(goroutineStack(), "[")
			if seen[name] {
				t.Error("an idle goroutine is still there")
			}
		})
		c.wait()
	})
}

func goroutineStack() string {
	stack := make([]byte, 64)
	return string(stack[:runtime.Stack(stack, false)])
}
