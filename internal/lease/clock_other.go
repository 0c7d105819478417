//go:build !linux

package lease

import "time"

var began = time.Now()

// Clock is Go's own clock, which may stand still while the machine is suspended.
func Clock() time.Duration { return time.Since(began) }
