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
	c := &connection{config: d.committing.config, limit: loadLimit}
	defer c.close()
	err = c.use(context.Background(), func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			var store string
			if err := tx.QueryRow(ctx, "SELECT store FROM coordinator_format FOR UPDATE").Scan(&store); err != nil {
				return err
			}
			switch store {
			case f.Content.StoreID:
				return nil
			case "":
				events, err = takeIn(ctx, tx, epoch, f)
				return err
			}
			return errHasStore
		})
	})
	return events, err
}

func takeIn(ctx context.Context, tx pgx.Tx, epoch uint64, f *outbox.File) (events int, err error) {
	g := outbox.Group{Changes: []outbox.Change{{Kind: outbox.StoreNamed, ID: f.Content.StoreID}, outbox.UseNumbers(f.Content.Numbers)}}
	for _, id := range f.Content.Gateways {
		g.Changes = append(g.Changes, outbox.AddGateway(id))
	}
	write := func() error {
		_, err := tx.Exec(ctx, commitSQL, arguments(epoch, g)...)
		g = outbox.Group{}
		return err
	}
	var announced []outbox.Change
	err = f.Each(func(ev outbox.Event) error {
		events++
		if g.Appended = append(g.Appended, ev); len(g.Appended) < groupOf {
			return nil
		}
		return write()
	}, func(a outbox.Announced) error {
		announced = append(announced, outbox.KnowStream(a))
		return nil
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
	g.Changes = announced
	if err := write(); err != nil {
		return 0, err
	}
	for session, applied := range f.Content.Applied {
		if _, err := tx.Exec(ctx, "INSERT INTO coordinator_progress VALUES ($1, $2)", int64(session), int64(applied)); err != nil {
			return 0, err
		}
	}
	return events, nil
}
