package main

import "testing"

func TestHeapHasRoomUnderLoadAndIsKeptTightInQuiet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ liveMiB, quiet, busy int }{
		{0, 400, 600}, {7, 400, 600}, {9, 350, 600}, {20, 150, 600}, {33, 50, 350}, {50, 50, 250}, {65, 50, 150}, {257, 50, 100}, {4096, 50, 100},
	} {
		live := uint64(test.liveMiB) << 20
		if quiet, busy := gcPercent(live, false), gcPercent(live, true); quiet != test.quiet || busy != test.busy {
			t.Errorf("%d MiB live: %d in quiet, %d under load; want %d, %d", test.liveMiB, quiet, busy, test.quiet, test.busy)
		}
	}
}
