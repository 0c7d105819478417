// Package lease decides which one of several coordinators leads. They share a row of a database, which counts: the epoch grows by one
// with each leader, the beat with each sign of life of the one that leads. Nobody compares times of two machines.
//
// A leader is sure to lead for 5 s from before it sent the last renewal that succeeded. Another one takes over when it has seen the
// same epoch and beat for 6 s. So no two are sure at the same time, whatever is delayed or lost in between. What a leader writes is
// fenced by its epoch (internal/pgstore).
package lease

import "context"

// Row is what the database says of the leader. Holder is random for each process; "" is nobody: the last one has resigned, or none has
// led yet.
type Row struct {
	Epoch, Beat uint64
	Holder      string
}

// Table is the row in the database. Each method is one statement. An error says nothing about whether it was carried out.
type Table interface {
	Look(ctx context.Context) (Row, error)

	// Renew adds one to the beat, if the row has this epoch and this holder: held says so.
	Renew(ctx context.Context, epoch uint64, holder string) (held bool, err error)

	// TakeOver puts the holder into the row if it still is as seen. The new epoch is one above the higher one of seen.Epoch and above,
	// and from then on nobody can write with a lower one.
	TakeOver(ctx context.Context, seen Row, above uint64, holder string) (epoch uint64, won bool, err error)

	// Resign empties the holder, if the row has this epoch and this holder.
	Resign(ctx context.Context, epoch uint64, holder string) error
}
