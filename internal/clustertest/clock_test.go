package clustertest

import (
	"testing"
	"time"
)

func TestClockReadingsAreThoseOfPackageTime(t *testing.T) {
	t.Parallel()
	true1 := time.Now()
	true2 := true1.Add(5 * time.Second)
	first, second := ClockReading(true1, 0), ClockReading(true2, -time.Hour)
	if !first.Round(0).Equal(true1) || second.Sub(first) != 5*time.Second || second.Round(0).Sub(first.Round(0)) != 5*time.Second-time.Hour {
		t.Errorf("package time has changed: %v is read as %v and, an hour back, %v later", true1, first, second.Sub(first))
	}
}
