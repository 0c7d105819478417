package pgstore

// A connection that makes itself anew. Plain connections and single statements, so that a pooler in transaction mode can stand in
// between.

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// dialLimit is for all hosts of DATABASE_URL together: one that is dead must leave time for the next, and for a statement within
// what the lease allows.
const dialLimit = 1500 * time.Millisecond

// connection serves one caller at a time.
type connection struct {
	// set once
	config *pgx.ConnConfig
	limit  time.Duration                                // of a use, with the wait for its turn and the dialling
	ready  func(ctx context.Context, c *pgx.Conn) error // called for each new connection; nil: it is ready as it is

	turn chan struct{} // holds one while the connection is in use
	conn *pgx.Conn     // of whoever has the turn; nil: there is none
	left atomic.Bool   // the next use makes another one
}

func newConnection(config *pgx.ConnConfig, limit time.Duration, ready func(context.Context, *pgx.Conn) error) *connection {
	return &connection{config: config, limit: limit, ready: ready, turn: make(chan struct{}, 1)}
}

// use calls f with a connection, and again with another one if that was lost since the last use: f has to be a statement that may be
// repeated. After an error that may be the connection's fault the next use makes another one.
func (c *connection) use(ctx context.Context, f func(ctx context.Context, conn *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for the connection to the database: %w", ctx.Err())
	}
	defer func() { <-c.turn }()
	if c.left.Swap(false) {
		c.hangUp()
	}
	isOld := c.conn != nil && !c.conn.IsClosed()
	err := c.try(ctx, f)
	if isOld && isOfTheConnection(err) && ctx.Err() == nil {
		err = c.try(ctx, f)
	}
	return plainly(err)
}

func (c *connection) try(ctx context.Context, f func(ctx context.Context, conn *pgx.Conn) error) error {
	if c.conn == nil || c.conn.IsClosed() {
		if err := c.dial(ctx); err != nil {
			return err
		}
	}
	err := f(ctx, c.conn)
	if isOfTheConnection(err) {
		c.hangUp()
	}
	return err
}

func (c *connection) dial(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, c.config)
	if err != nil {
		return err
	}
	c.conn = conn
	if c.ready != nil {
		if err := c.ready(ctx, conn); err != nil {
			c.hangUp()
			return err
		}
	}
	return nil
}

func (c *connection) hangUp() {
	if c.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.conn.Close(ctx) // it is of no use
		c.conn = nil
	}
}

// leave is for a connection that may be to a server that was replaced. It waits for nobody.
func (c *connection) leave() {
	c.left.Store(true)
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
		if c.left.Swap(false) {
			c.hangUp()
		}
	default:
	}
}

// close waits for the use that is under way.
func (c *connection) close() {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.hangUp()
}

// hostsOf is how many addresses a connection may be made to.
func hostsOf(config *pgx.ConnConfig) int {
	hosts := map[string]bool{fmt.Sprint(config.Host, config.Port): true}
	for _, fallback := range config.Fallbacks {
		hosts[fmt.Sprint(fallback.Host, fallback.Port)] = true
	}
	return len(hosts)
}
