package pgstore

// The outbox of one term.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync/atomic"
	"time"

	"coordinator/internal/outbox"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var errFenced = errors.New("another coordinator leads: this one writes nothing any more")

// Store is the outbox.Store of a term.
type Store struct {
	// set once
	d       *Database
	epoch   uint64
	deposed func(epoch uint64)

	fenced atomic.Bool
	over   atomic.Bool // the outbox is closed
	reads  reads
	recent recent
	behind atomic.Bool // the database may have lost what was committed lately

	// of whoever commits: one at a time
	claimed  *pgx.Conn
	writer   int64
	limit    time.Duration     // of a commit with all that was committed lately; it grows while there is no answer
	progress map[uint64]uint64 // by session: the row that this store has written, and no other is higher
}

// Store is for the term with this epoch. deposed is told of the higher one, if the database knows of it.
func (d *Database) Store(epoch uint64, deposed func(epoch uint64)) *Store {
	return &Store{d: d, epoch: epoch, deposed: deposed, limit: commitLimit, progress: map[uint64]uint64{}}
}

// Load implements outbox.Store.
func (s *Store) Load(each func(number uint64, record outbox.QueueRecord)) error {
	return s.load(func(ctx context.Context, conn *pgx.Conn) error {
		records := map[uint64]outbox.QueueRecord{}
		var order []uint64
		var queue, tail uint64
		var first, last, at int64
		rows, err := conn.Query(ctx, "SELECT queue, min(position), max(position), min(at) FROM coordinator_event GROUP BY queue ORDER BY queue")
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, []any{&queue, &first, &last, &at}, func() error {
			records[queue] = outbox.QueueRecord{Head: uint32(first), Tail: uint32(last) + 1, HeadAt: time.UnixMilli(at)}
			order = append(order, queue)
			return nil
		})
		if err != nil {
			return err
		}
		var a outbox.AnnouncedStream
		rows, err = conn.Query(ctx, "SELECT queue, channel, stream, previous, passthrough, last_seq, tail FROM coordinator_announced ORDER BY queue, stream")
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, []any{&queue, &a.Channel, &a.StreamID, &a.Previous, &a.Passthrough, &a.LastSeq, &tail}, func() error {
			r, known := records[queue]
			if !known {
				order = append(order, queue)
			}
			hasEvents := r.Head < r.Tail
			if r.Tail = max(r.Tail, uint32(tail)); !hasEvents {
				r.Head = r.Tail
			}
			r.Announced = append(r.Announced, a)
			records[queue] = r
			return nil
		})
		if err != nil {
			return err
		}
		for _, queue := range sorted(order) {
			each(queue, records[queue])
		}
		return nil
	})
}

func (s *Store) load(f func(ctx context.Context, conn *pgx.Conn) error) error {
	c := newConnection(s.d.reading.config, loadLimit, nil) // a large one takes its time
	defer c.close()
	return c.use(context.Background(), f)
}

// Cluster implements outbox.Store.
func (s *Store) Cluster() (c outbox.Cluster, err error) {
	c.Applied = map[uint64]uint64{}
	err = s.load(func(ctx context.Context, conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, "SELECT f.store, n.last FROM coordinator_format f, coordinator_numbers n").Scan(&c.StoreID, &c.Numbers); err != nil {
			return err
		}
		rows, err := conn.Query(ctx, "SELECT id FROM coordinator_gateway ORDER BY id")
		if err != nil {
			return err
		}
		if c.Gateways, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return err
		}
		if rows, err = conn.Query(ctx, "SELECT session, max(applied) FROM coordinator_progress GROUP BY session"); err != nil {
			return err
		}
		var session, applied uint64
		_, err = pgx.ForEachRow(rows, []any{&session, &applied}, func() error {
			c.Applied[session] = applied
			return nil
		})
		return err
	})
	return c, err
}

// Commit implements outbox.Store: all of a group is written, or nothing that is known of. On a full disk only what makes room is.
func (s *Store) Commit(g outbox.Group) (left outbox.Group, err error) {
	if err = s.write(g, true); codeOf(err) == diskFull && len(g.Delivered) > 0 && s.write(outbox.Group{Delivered: g.Delivered}, false) == nil {
		g.Delivered = nil
	}
	switch {
	case err == nil:
		return outbox.Group{}, nil
	case errors.Is(err, errFenced):
		return g, err
	}
	return g, fmt.Errorf("commit to the database: %w", err)
}

// write commits a group as a whole. A statement that got no answer may be on its way still, and be run at any time: before another
// connection commits anything, it sees to it that no earlier one does. With all of it a new connection commits again what was committed
// lately.
func (s *Store) write(g outbox.Group, all bool) error {
	if s.fenced.Load() {
		return errFenced
	}
	began := time.Now()
	err := s.d.committing.use(context.Background(), func(ctx context.Context, conn *pgx.Conn) error {
		if conn != s.claimed {
			if err := s.claim(ctx, conn); err != nil {
				return err
			}
		}
		again := all && s.behind.Swap(false)
		written := g
		if again {
			written = s.recent.before(g)
			clear(s.progress) // of rows that may be lost, or may not
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), s.limit)
			defer cancel()
		}
		err := s.exec(ctx, conn, written)
		switch {
		case !again:
		case err == nil:
			s.limit = commitLimit
		default:
			s.behind.Store(true)
			if ctx.Err() != nil {
				s.limit = min(2*s.limit, loadLimit) // it is as large the next time: a slow database would never get through
			}
		}
		return err
	})
	s.d.observe(time.Since(began), err)
	if err == nil {
		s.recent.add(g, time.Now())
		s.noteProgress(g)
	}
	var answer *pgconn.PgError
	switch errors.As(err, &answer); {
	case answer == nil:
	case answer.Code == overtaken:
		s.claimed = nil
	case answer.Code == fenced:
		leading, _ := strconv.ParseUint(answer.Detail, 10, 64)
		return s.isFenced(leading)
	}
	return err
}

func (s *Store) noteProgress(g outbox.Group) {
	maps.Copy(s.progress, appliedBy(g))
	for _, change := range g.Changes {
		if change.Kind == outbox.SessionForgotten {
			delete(s.progress, change.Number)
		}
	}
}

func (s *Store) exec(ctx context.Context, conn *pgx.Conn, g outbox.Group) error {
	values, types, err := inBinary(conn.TypeMap(), arguments(s.epoch, s.writer, g, s.progress))
	if err != nil {
		return err
	}
	return conn.PgConn().ExecParams(ctx, commitSQL, values, types, []int16{pgx.BinaryFormatCode}, nil).Read().Err
}

// claim makes conn the only one that may commit.
func (s *Store) claim(ctx context.Context, conn *pgx.Conn) error {
	writer, err := s.d.claim(ctx, conn, s.epoch)
	if errors.Is(err, errFenced) {
		return s.isFenced(0)
	}
	if err == nil {
		s.claimed, s.writer = conn, writer
		s.behind.Store(true)
		s.d.reading.leave() // whoever reads looks anew, too, where the database is
	}
	return err
}

// claim gives the number that whoever commits from now on has to show. It waits for a commit that is under way. A database that has lost a
// take-over may have given its epoch to another coordinator since: so the leader's name counts, too.
func (d *Database) claim(ctx context.Context, conn interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, epoch uint64) (writer int64, err error) {
	err = conn.QueryRow(ctx, `UPDATE coordinator_fence SET writer = writer + 1
		WHERE one AND epoch = $1 AND EXISTS (SELECT FROM coordinator_leader WHERE one AND epoch = $1 AND holder = $2) RETURNING writer`,
		int64(epoch), *d.holder.Load()).Scan(&writer)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, errFenced
	}
	return writer, err
}

// isFenced notes that another coordinator leads, with this epoch if it is a higher one.
func (s *Store) isFenced(leading uint64) error {
	if !s.fenced.Swap(true) {
		s.deposed(max(leading, s.epoch+1))
	}
	return errFenced
}

// Trouble implements outbox.Store: a commit that fails says so itself.
func (s *Store) Trouble() error {
	if s.fenced.Load() {
		return errFenced
	}
	return nil
}

// Close implements outbox.Store. The database outlives a term; what another leader does with it is nothing to this one any more.
func (s *Store) Close() error {
	s.over.Store(true)
	return nil
}
