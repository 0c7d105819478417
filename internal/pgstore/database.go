// Package pgstore keeps in PostgreSQL what coordinators share: who leads (lease.Table), and the events and whatever else a leader's
// outbox keeps (outbox.Store). Whatever a leader writes is fenced by its epoch: once another one has taken over, it writes nothing.
package pgstore

import (
	"context"
	_ "embed" // for schema.sql
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"coordinator/internal/lease"
	"coordinator/internal/secret"

	"github.com/jackc/pgx/v5"
)

const (
	leaseLimit  = 2 * time.Second
	commitLimit = 4 * time.Second // below what the outbox takes for a store that hangs
	readLimit   = 5 * time.Second
	loadLimit   = time.Minute

	formatVersion = 2 // 1 is brought up to it
)

//go:embed schema.sql
var schema string

// Schema is the SQL that makes tables and functions. It can be run again.
func Schema() string { return schema }

// Database has a connection for each of its purposes, so that none of them waits for another. Its methods may be called from anywhere.
type Database struct {
	// set once
	leasing, committing, reading *connection
	observe                      func(took time.Duration, err error) // of each commit

	holder atomic.Pointer[string] // of this process, as it takes over
}

// New reads the URL and asks the database nothing yet. observe is told how each commit went. The error does not show the password.
func New(url secret.Secret, observe func(took time.Duration, err error)) (*Database, error) {
	config, err := pgx.ParseConfig(url.Reveal())
	if err != nil {
		return nil, errors.New("DATABASE_URL: can't be read as the URL of a PostgreSQL database") // the error may quote the password
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing is prepared
	config.ValidateConnect = mayWrite
	config.ConnectTimeout = dialLimit / time.Duration(hostsOf(config)) // for each
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "coordinator"
	}
	d := &Database{
		observe:    observe,
		leasing:    newConnection(config, leaseLimit, prepare),
		committing: newConnection(config, commitLimit, nil),
		reading:    newConnection(config, readLimit, nil),
	}
	d.holder.Store(new(string))
	return d, nil
}

// Close closes the connections. Nothing may be under way.
func (d *Database) Close() {
	for _, c := range []*connection{d.leasing, d.committing, d.reading} {
		c.close()
	}
}

// prepare makes what is missing in the database, also if an earlier version has made it, and refuses one that a newer version has made.
func prepare(ctx context.Context, conn *pgx.Conn) error {
	version, err := formatOf(ctx, conn)
	var failed error
	if codeOf(err) == tableMissing || err == nil && version < formatVersion {
		_, failed = conn.PgConn().Exec(ctx, schema).ReadAll()
		if version, err = formatOf(ctx, conn); err != nil && failed != nil { // else another coordinator has made them meanwhile
			err = fmt.Errorf("make the tables: %w", failed)
		}
	}
	switch {
	case err != nil:
		return err
	case version < formatVersion:
		if failed == nil {
			failed = errors.New("its tables are not those that the user of DATABASE_URL finds: look at search_path")
		}
		return fmt.Errorf("bring the database from format %d up to %d: %w", version, formatVersion, failed)
	case version > formatVersion:
		return fmt.Errorf("the database has format %d, and this version knows up to %d: update this coordinator", version, formatVersion)
	}
	return nil
}

func formatOf(ctx context.Context, conn *pgx.Conn) (version int, err error) {
	err = conn.QueryRow(ctx, "SELECT version FROM coordinator_format").Scan(&version)
	return version, err
}

// Look implements lease.Table. What can only be read has nothing to say: it is behind.
func (d *Database) Look(ctx context.Context) (row lease.Row, err error) {
	err = d.leasing.use(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var isReadOnly bool
		err := conn.QueryRow(ctx, "SELECT epoch, beat, holder, current_setting('transaction_read_only') = 'on' FROM coordinator_leader").
			Scan(&row.Epoch, &row.Beat, &row.Holder, &isReadOnly)
		if err == nil && isReadOnly {
			return errReadOnly
		}
		return err
	})
	return row, err
}

// Renew implements lease.Table.
func (d *Database) Renew(ctx context.Context, epoch uint64, holder string) (held bool, err error) {
	err = d.leasing.use(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		done, err := conn.Exec(ctx, "UPDATE coordinator_leader SET beat = beat + 1 WHERE epoch = $1 AND holder = $2", int64(epoch), holder)
		held = done.RowsAffected() == 1
		return err
	})
	return held, err
}

// durably has the transaction wait for the disk, whatever the database is set to: an epoch that was given must not be given again.
const durably = `set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)`

const takeOverSQL = `
	WITH durable AS (SELECT ` + durably + `), won AS (
		UPDATE coordinator_leader SET epoch = greatest(epoch, $1) + 1, beat = beat + 1, holder = $2, shown_format = $6, shown_epoch = greatest(epoch, $1) + 1
		WHERE one AND epoch = $3 AND beat = $4 AND holder = $5 RETURNING epoch
	)
	UPDATE coordinator_fence f SET epoch = won.epoch FROM won, durable WHERE f.one RETURNING won.epoch`

// TakeOver implements lease.Table. It waits for the commit that is under way.
func (d *Database) TakeOver(ctx context.Context, seen lease.Row, above uint64, holder string) (epoch uint64, won bool, err error) {
	d.holder.Store(&holder)
	err = d.leasing.use(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, takeOverSQL,
			int64(above), holder, int64(seen.Epoch), int64(seen.Beat), seen.Holder, formatVersion).Scan(&epoch)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		won = err == nil
		return err
	})
	return epoch, won, err
}

// Resign implements lease.Table.
func (d *Database) Resign(ctx context.Context, epoch uint64, holder string) error {
	return d.leasing.use(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "UPDATE coordinator_leader SET holder = '' WHERE epoch = $1 AND holder = $2", int64(epoch), holder)
		return err
	})
}
