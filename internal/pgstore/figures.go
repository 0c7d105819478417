package pgstore

// What an operator measures of the database.

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const figuresLimit = 2 * time.Second

// Figures tell how well the database cleans up behind the coordinator.
type Figures struct {
	DeadRows       int64         // of the coordinator's tables, as the statistics say
	OldestSnapshot time.Duration // age, of a transaction that reads or has written; rows that have died since are not removed. Only of sessions that the user may look into (pg_read_all_stats: all)
}

// Figures asks the database, for 2 s at most.
func (d *Database) Figures(ctx context.Context) (f Figures, err error) {
	ctx, cancel := context.WithTimeout(ctx, figuresLimit)
	defer cancel()
	var milliseconds int64
	err = d.reading.use(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT
				(SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables
					WHERE relid IN (SELECT to_regclass('coordinator_' || t) FROM unnest(ARRAY['event', 'announced', 'progress', 'leader', 'fence', 'gateway', 'numbers']) AS t)),
				(SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)) * 1000, 0)::bigint FROM pg_stat_activity
					WHERE datname = current_database() AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid())`).Scan(&f.DeadRows, &milliseconds)
	})
	f.OldestSnapshot = time.Duration(milliseconds) * time.Millisecond
	return f, err
}
