package lease

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock goes on while the machine is suspended, as Go's own clock does not (clock_gettime(2), CLOCK_BOOTTIME).
func Clock() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err) // every Linux since 2.6.39 has it
	}
	return time.Duration(now.Nano())
}
