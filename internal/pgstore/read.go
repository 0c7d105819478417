package pgstore

// Undelivered events are read in the order of their queues: after a take-over there may be a million of them. So whoever reads one
// brings along those that are next.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"coordinator/internal/outbox"

	"github.com/jackc/pgx/v5"
)

const (
	readAtOnce = 256
	maxAhead   = 4096 // events in memory that nobody has asked for
)

var errOver = errors.New("the term of this coordinator is over")

// place is that of an event.
type place struct {
	queue    uint64
	position uint32
}

// readAhead has the bodies of events that were read and not asked for yet. They never change.
type readAhead struct {
	mu     sync.Mutex // held while the database is asked: whoever waits will find the answer here
	bodies map[place][]byte
	err    error     // why the database could not be read last
	failed time.Time // when
}

// Read implements outbox.Store.
func (s *Store) Read(queue uint64, position uint32) (outbox.Event, error) {
	began := time.Now()
	s.ahead.mu.Lock()
	defer s.ahead.mu.Unlock()
	if s.ahead.failed.After(began) { // while this one waited: it need not wait for another failure
		return outbox.Event{}, s.ahead.err
	}
	at := place{queue, position}
	if s.ahead.bodies[at] == nil {
		if err := s.readLocked(at); err != nil {
			s.ahead.err, s.ahead.failed = err, time.Now()
			return outbox.Event{}, err
		}
	}
	body := s.ahead.bodies[at]
	delete(s.ahead.bodies, at)
	if body == nil {
		var err error
		if body, err = s.readWhereItIsWritten(at); err != nil {
			s.ahead.err, s.ahead.failed = err, time.Now()
			return outbox.Event{}, err
		}
	}
	if body == nil {
		if ev, kept := s.recent.event(at); kept {
			s.behind.Store(true)
			return ev, nil
		}
		return outbox.Event{}, fmt.Errorf("%w: event %d of queue %d is not in the database", outbox.ErrUnreadable, position, queue)
	}
	return outbox.DecodeEvent(body)
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

// readLocked reads the events from a place on.
func (s *Store) readLocked(from place) error {
	if len(s.ahead.bodies) > maxAhead || s.ahead.bodies == nil {
		s.ahead.bodies = map[place][]byte{}
	}
	if s.over.Load() {
		return errOver
	}
	err := s.d.reading.use(context.Background(), func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT queue, position, body FROM coordinator_event WHERE (queue, position) >= ($1, $2) ORDER BY queue, position LIMIT $3",
			int64(from.queue), int64(from.position), int64(readAtOnce))
		if err != nil {
			return err
		}
		var at place
		var body []byte
		_, err = pgx.ForEachRow(rows, []any{&at.queue, &at.position, &body}, func() error {
			s.ahead.bodies[at] = append([]byte{}, body...)
			return nil
		})
		return err
	})
	if err == nil && s.over.Load() {
		return errOver // what is missing may be what the next leader has delivered
	}
	return err
}
