package main

import (
	"syscall"

	"go.etcd.io/bbolt"
)

// release gives the touched pages of a large outbox back to the system; they stay in its page cache, and dropping pages
// of a shared file mapping loses nothing. It needs an open transaction, which keeps bbolt from unmapping what is in use
// by others, and drops only the part of the mapping that this transaction began with: the file may be longer than the
// mapping, and what follows the mapping may be other memory of the process.
func (o *outbox) release(tx *bbolt.Tx) {
	if tx.Size() >= releaseAbove {
		// It is a hint: an error changes nothing but the memory in use.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, tx.DB().Info().Data, uintptr(tx.Size()), syscall.MADV_DONTNEED)
	}
}
