package main

import "testing"

func TestHeapHasRoomUnderLoadAndIsKeptTightInQuiet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ liveMiB, quiet, busy int }{
		{0, 400, 400}, {8, 400, 400}, {9, 200, 400}, {20, 100, 400}, {32, 100, 400}, {40, 50, 400}, {65, 50, 200}, {256, 50, 100}, {4096, 50, 100},
	} {
		live := uint64(test.liveMiB) << 20
		if quiet, busy := gcPercent(live, false), gcPercent(live, true); quiet != test.quiet || busy != test.busy {
			t.Errorf("%d MiB live: %d in quiet, %d under load; want %d, %d", test.liveMiB, quiet, busy, test.quiet, test.busy)
		}
	}
}
