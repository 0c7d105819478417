package main

import "testing"

func TestHeapIsKeptTightWhenItIsLarge(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 400, 8 << 20: 400, 9 << 20: 200, 20 << 20: 100, 32 << 20: 100, 40 << 20: 50, 4 << 30: 50} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d MiB live: %d, want %d", live>>20, got, want)
		}
	}
}
