package pgstore

// The first start with a database takes over what the coordinator has kept in its directory.

import (
	"context"
	"errors"
	"fmt"

	"coordinator/internal/outbox"

	"github.com/jackc/pgx/v5"
)

const groupOf = 1024 // events in one statement

var errHasStore = errors.New("the database has an outbox of its own, and that of DATA_DIR is another one: what DATA_DIR holds is not delivered; start a coordinator without DATABASE_URL on it until it is empty, then remove outbox.db")

// TakeIn writes all of a file in one transaction, if nothing is in the database yet. It may be repeated: what was taken in before is not
// taken in again. It returns how many events it has written.
func (d *Database) TakeIn(epoch uint64, f *outbox.File) (events int, err error) {
	c := newConnection(d.committing.config, loadLimit, nil)
	defer c.close()
	err = c.use(context.Background(), func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if err := limitWaits(ctx, tx); err != nil {
				return err
			}
			var store string
			if err := tx.QueryRow(ctx, "SELECT store FROM coordinator_format FOR UPDATE").Scan(&store); err != nil {
				return err
			}
			switch store {
			case f.Content.StoreID:
				return nil
			case "":
				events, err = d.takeIn(ctx, tx, epoch, f)
				return err
			}
			return errHasStore
		})
	})
	return events, err
}

// limitWaits has the database give up the transaction of a process that was frozen: it holds the fence, and nobody could take over.
func limitWaits(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = '5s'")
	return err
}

func (d *Database) takeIn(ctx context.Context, tx pgx.Tx, epoch uint64, f *outbox.File) (events int, err error) {
	g := outbox.Group{Changes: []outbox.Change{{Kind: outbox.StoreNamed, ID: f.Content.StoreID}, outbox.UseNumbers(f.Content.Numbers)}}
	for _, id := range f.Content.Gateways {
		g.Changes = append(g.Changes, outbox.AddGateway(id))
	}
	writer, err := d.claim(ctx, tx, epoch)
	if err != nil {
		return 0, err
	}
	write := func() error {
		_, err := tx.Exec(ctx, commitSQL, arguments(epoch, writer, g, nil)...)
		g = outbox.Group{}
		return err
	}
	var streams, channels, previous, passthrough []string
	var queues, lastSeqs, tails []int64
	err = f.Each(func(ev outbox.Event) error {
		events++
		if g.Appended = append(g.Appended, ev); len(g.Appended) < groupOf {
			return nil
		}
		return write()
	}, func(a outbox.Announced, tail uint32) {
		streams, channels = append(streams, a.StreamID), append(channels, a.Channel)
		previous, passthrough = append(previous, a.Previous), append(passthrough, a.Passthrough)
		queues, lastSeqs, tails = append(queues, int64(a.Queue)), append(lastSeqs, int64(a.LastSeq)), append(tails, int64(tail))
	})
	if err != nil {
		return 0, fmt.Errorf("take over the outbox of DATA_DIR: %w", err)
	}
	if err := write(); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM coordinator_announced"); err != nil { // the file knows which of them are announced
		return 0, err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO coordinator_announced (stream, queue, channel, previous, passthrough, last_seq, tail)
		SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])`,
		streams, queues, channels, previous, passthrough, lastSeqs, tails)
	if err != nil {
		return 0, err
	}
	var sessions, applied []int64
	for session, message := range f.Content.Applied {
		sessions, applied = append(sessions, int64(session)), append(applied, int64(message))
	}
	_, err = tx.Exec(ctx, "INSERT INTO coordinator_progress (session, applied) SELECT * FROM unnest($1::bigint[], $2::bigint[])", sessions, applied)
	return events, err
}
