package pgstore

// Events that are not in memory are read together: while the database is asked for some, the next ones gather. After a take-over, or
// while the application is slow, there may be a million of them.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"coordinator/internal/outbox"

	"github.com/jackc/pgx/v5"
)

const readAtOnce = 256 // as many as the outbox sends at a time

var errOver = errors.New("the term of this coordinator is over")

// place is that of an event.
type place struct {
	queue    uint64
	position uint32
}

// reads are those of events that somebody waits for.
type reads struct {
	turn sync.Mutex // held while the database is asked: whoever waits for it may find the answer when it comes

	mu      sync.Mutex
	waiting []*read // guarded by mu
}

type read struct {
	at place

	// written under turn
	done bool
	body []byte // nil: it is not there
	err  error
}

func (r *reads) add(at place) *read {
	one := &read{at: at}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, one)
	return one
}

// take returns up to limit of those that wait.
func (r *reads) take(limit int) []*read {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(limit, len(r.waiting))
	taken := r.waiting[:n:n]
	r.waiting = r.waiting[n:]
	return taken
}

// fail has all that wait fail: they need not wait for another failure.
func (r *reads) fail(err error) {
	for _, one := range r.take(math.MaxInt) {
		one.done, one.err = true, err
	}
}

// Read implements outbox.Store.
func (s *Store) Read(queue uint64, position uint32) (outbox.Event, error) {
	one := s.reads.add(place{queue, position})
	s.reads.turn.Lock()
	defer s.reads.turn.Unlock()
	for !one.done {
		s.readTogether(s.reads.take(readAtOnce))
	}
	if one.err == nil && one.body == nil {
		if one.body, one.err = s.readWhereItIsWritten(one.at); one.err != nil {
			s.reads.fail(one.err)
		}
	}
	switch {
	case one.err != nil:
		return outbox.Event{}, one.err
	case one.body != nil:
		return outbox.DecodeEvent(one.body)
	}
	if ev, kept := s.recent.event(one.at); kept {
		s.behind.Store(true)
		return ev, nil
	}
	return outbox.Event{}, fmt.Errorf("%w: event %d of queue %d is not in the database", outbox.ErrUnreadable, position, queue)
}

// readTogether asks the database, under turn.
func (s *Store) readTogether(batch []*read) {
	bodies, err := s.bodies(batch)
	for i, one := range batch {
		one.done, one.err = true, err
		if err == nil {
			one.body = bodies[i]
		}
	}
	if err != nil {
		s.reads.fail(err)
	}
}

// Scan implements outbox.Store. The database itself looks for the text: it sends only events that hold it, and the one after all that it
// has looked at.
func (s *Store) Scan(from outbox.Place, text string, look int) (found []outbox.Event, next outbox.Place, more bool, err error) {
	if s.over.Load() {
		return nil, from, false, errOver
	}
	err = s.d.reading.use(context.Background(), func(ctx context.Context, conn *pgx.Conn) error {
		found, more = nil, false
		rows, err := conn.Query(ctx, `
			SELECT queue, position, body, n FROM (
				SELECT queue, position, body, row_number() OVER (ORDER BY queue, position) AS n
				FROM coordinator_event WHERE (queue, position) >= ($1, $2) ORDER BY queue, position LIMIT $3
			) AS looked WHERE n = $3 OR position($4::bytea IN body) > 0 ORDER BY queue, position`,
			int64(from.Queue), int64(from.Position), int64(look)+1, []byte(text))
		if err != nil {
			return err
		}
		var at outbox.Place
		var body []byte
		var n int
		_, err = pgx.ForEachRow(rows, []any{&at.Queue, &at.Position, &body, &n}, func() error {
			if n > look {
				next, more = at, true
				return nil
			}
			ev, err := outbox.DecodeEvent(body)
			if err != nil {
				return fmt.Errorf("%w: event %d of queue %d", err, at.Position, at.Queue)
			}
			ev.Queue, ev.Position = at.Queue, at.Position
			found = append(found, ev)
			return nil
		})
		return err
	})
	if err != nil {
		return nil, from, false, err
	}
	return found, next, more, nil
}

// readWhereItIsWritten is for an event that was not found: before it counts as lost, whoever commits has to miss it, too. The connection for
// reading may be at a primary that was replaced and can still be read, or another leader may have delivered the event.
func (s *Store) readWhereItIsWritten(at place) (body []byte, err error) {
	err = s.d.committing.use(context.Background(), func(ctx context.Context, conn *pgx.Conn) error {
		var epoch int64
		var isReadOnly bool
		err := conn.QueryRow(ctx, `SELECT f.epoch, current_setting('transaction_read_only') = 'on',
			(SELECT body FROM coordinator_event WHERE queue = $1 AND position = $2) FROM coordinator_fence f WHERE f.one`,
			int64(at.queue), int64(at.position)).Scan(&epoch, &isReadOnly, &body)
		switch {
		case err != nil:
			return err
		case isReadOnly:
			return errReadOnly
		case epoch != int64(s.epoch):
			return errFenced
		}
		return nil
	})
	if err == nil && body != nil {
		s.d.reading.leave()
	}
	if err == nil && s.over.Load() {
		return nil, errOver
	}
	return body, err
}

// readSQL looks for each event by itself: see coordinator_commit in schema.sql.
const readSQL = `SELECT i, body FROM generate_subscripts($1, 1) AS i,
	LATERAL (SELECT body FROM coordinator_event WHERE queue BETWEEN ($1)[i] AND ($1)[i] AND position = ($2)[i] LIMIT 1) AS e`

// bodies returns those of a batch; nil for one that is not there.
func (s *Store) bodies(batch []*read) ([][]byte, error) {
	if s.over.Load() {
		return nil, errOver
	}
	queues, positions := make([]int64, len(batch)), make([]int64, len(batch))
	for i, one := range batch {
		queues[i], positions[i] = int64(one.at.queue), int64(one.at.position)
	}
	var bodies [][]byte
	err := s.d.reading.use(context.Background(), func(ctx context.Context, conn *pgx.Conn) error {
		bodies = make([][]byte, len(batch))
		values, types, err := inBinary(conn.TypeMap(), []any{queues, positions})
		if err != nil {
			return err
		}
		rows := conn.PgConn().ExecParams(ctx, readSQL, values, types, []int16{pgx.BinaryFormatCode}, []int16{pgx.BinaryFormatCode})
		for rows.NextRow() {
			row := rows.Values()
			bodies[binary.BigEndian.Uint32(row[0])-1] = append([]byte{}, row[1]...) // an integer in PostgreSQL's binary format, counted from 1
		}
		_, err = rows.Close()
		return err
	})
	if err == nil && s.over.Load() {
		return nil, errOver // what is missing may be what the next leader has delivered
	}
	return bodies, err
}
