package pgstore

// A connection that makes itself anew. Plain connections and single statements, so that a pooler in transaction mode can stand in
// between.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	dialLimit = 2 * time.Second

	tableMissing  = "42P01" // undefined_table
	notAllowed    = "42501" // insufficient_privilege
	wrongPassword = "28P01"
	notAuthorized = "28000"
	noDatabase    = "3D000"
	readOnly      = "25006" // of an old primary
	diskFull      = "53100"
	goingDown     = "57P" // class: shut down, crashed, starting up
	fenced        = "CO001"
)

// connection serves one caller at a time.
type connection struct {
	// set once
	config *pgx.ConnConfig
	limit  time.Duration                                // of a use, with the dialling
	ready  func(ctx context.Context, c *pgx.Conn) error // called for each new connection; nil: it is ready as it is

	mu   sync.Mutex
	conn *pgx.Conn // guarded by mu; nil: none
}

// use calls f with a connection. After an error that may be the connection's fault the next use makes another one.
func (c *connection) use(ctx context.Context, f func(ctx context.Context, conn *pgx.Conn) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	if c.conn == nil || c.conn.IsClosed() {
		if err := c.dialLocked(ctx); err != nil {
			return plainly(err)
		}
	}
	err := f(ctx, c.conn)
	if isOfTheConnection(err) {
		c.closeLocked()
	}
	return plainly(err)
}

func (c *connection) dialLocked(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, c.config)
	if err != nil {
		return err
	}
	c.conn = conn
	if c.ready != nil {
		if err := c.ready(ctx, conn); err != nil {
			c.closeLocked()
			return err
		}
	}
	return nil
}

func (c *connection) closeLocked() {
	if c.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.conn.Close(ctx) // it is of no use
		c.conn = nil
	}
}

func (c *connection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked()
}

// isOfTheConnection tells whether an error may be another one at another server.
func isOfTheConnection(err error) bool {
	var answer *pgconn.PgError
	switch {
	case err == nil || errors.Is(err, pgx.ErrNoRows):
		return false
	case errors.As(err, &answer):
		return answer.Code == readOnly || strings.HasPrefix(answer.Code, goingDown) || strings.HasPrefix(answer.Code, "08")
	}
	return true
}

// sqlError is an answer of the database in words of our own.
type sqlError struct {
	words string
	err   error
}

func (e sqlError) Error() string { return e.words + ": " + e.err.Error() }
func (e sqlError) Unwrap() error { return e.err }

// plainly says what is wrong, and what to do. No error of pgx has the password.
func plainly(err error) error {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		var connecting *pgconn.ConnectError
		if errors.As(err, &connecting) {
			return fmt.Errorf("the database can't be reached: %w", err)
		}
		return err
	}
	for code, words := range map[string]string{
		notAllowed:    "the user of DATABASE_URL lacks rights: have the owner run what coordinator -schema prints, and grant SELECT, INSERT, UPDATE and DELETE on the tables",
		wrongPassword: "the database refuses the password of DATABASE_URL",
		notAuthorized: "the database refuses the user of DATABASE_URL, or wants TLS (sslmode=require)",
		noDatabase:    "there is no such database",
		diskFull:      "the disk of the database is full",
		readOnly:      "this database can only be read: it is a standby, or an old primary",
	} {
		if answer.Code == code {
			return sqlError{words, err}
		}
	}
	return err
}
