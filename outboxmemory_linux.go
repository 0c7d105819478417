package main

import (
	"syscall"

	"go.etcd.io/bbolt"
)

// release gives the touched pages of a large outbox back to the system; they stay in its page cache. It is done inside a
// read transaction, which keeps bbolt from moving its mapping meanwhile, and only for the part that the transaction says
// is in use: the file may be longer than the mapping. Others may go on reading, since dropping pages of a shared file
// mapping loses nothing.
func (o *outbox) release() {
	o.touched.Store(0)
	// It is a hint: an error changes nothing but the memory in use.
	_ = o.db.View(func(tx *bbolt.Tx) error {
		if tx.Size() >= releaseAbove {
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, o.db.Info().Data, uintptr(tx.Size()), syscall.MADV_DONTNEED)
		}
		return nil
	})
}
