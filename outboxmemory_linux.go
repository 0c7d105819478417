package main

import (
	"os"
	"syscall"
	"time"
)

// release gives the touched pages of a large outbox back to the system; they stay in its page cache. Only the goroutine
// that commits may call it, between transactions, for it alone moves the mapping; reads may go on meanwhile, since
// dropping pages of a shared file mapping loses nothing.
func (o *outbox) release() {
	o.released = time.Now()
	stat, err := os.Stat(o.db.Path())
	if err != nil || stat.Size() < releaseAbove {
		return
	}
	// It is a hint: an error changes nothing but the memory in use.
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, o.db.Info().Data, uintptr(stat.Size()), syscall.MADV_DONTNEED)
}
