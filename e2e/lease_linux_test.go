package e2e

import (
	"os"
	"syscall"
	"testing"
)

// leaseOf takes a lease of a file, which closing it gives back, and returns whether nobody waits for that yet.
func leaseOf(t *testing.T, file *os.File) (isHeld func() bool) {
	t.Helper()
	const setLease, getLease = 1024, 1025
	lease := func(command, kind int) int {
		kept, _, errno := syscall.Syscall(syscall.SYS_FCNTL, file.Fd(), uintptr(command), uintptr(kind))
		if errno != 0 {
			t.Skip("no leases here: ", errno)
		}
		return int(kept)
	}
	lease(setLease, syscall.F_WRLCK)
	return func() bool { return lease(getLease, 0) == syscall.F_WRLCK }
}
