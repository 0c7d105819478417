package main

import (
	"testing"
	"time"
)

// A side that rested for longer would give its memory back, and pay for that when it is its turn again.
func TestRoundsAreShortHoweverLongTheRun(t *testing.T) {
	t.Parallel()
	for duration, want := range map[time.Duration]int{time.Second: 6, 15 * time.Second: 6, 16 * time.Second: 7, time.Minute: 24} {
		if got := roundsOf(duration); got != want {
			t.Errorf("%v: %d rounds, want %d", duration, got, want)
		}
	}
}
