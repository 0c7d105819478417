package clustertest

import (
	"time"
	"unsafe"
)

// ClockReading is what time.Now returns at the true time when the wall clock is so far ahead of it. Package time has no
// function for that, and in a bubble no monotonic clock, so the reading is put together here as package time does it.
func ClockReading(at time.Time, ahead time.Duration) time.Time {
	const (
		hasMonotonic   = 1 << 63
		nanosecondBits = 30
		since1885      = 2_682_288_000 // of 1970, in seconds
	)
	wall := at.Add(ahead)
	var reading time.Time
	inside := (*struct {
		wall      uint64
		monotonic int64
		location  *time.Location
	})(unsafe.Pointer(&reading))
	inside.wall = hasMonotonic | uint64(wall.Unix()+since1885)<<nanosecondBits | uint64(wall.Nanosecond())
	inside.monotonic = at.UnixNano()
	return reading
}
