package main

// The database of a profile that needs one: of a PostgreSQL server of its own, or one made at the server of -database. Both are gone
// at the end.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"coordinator/internal/pgserver"

	"github.com/jackc/pgx/v5"
)

const dropLimit = 30 * time.Second

type database struct {
	url    string
	server *pgserver.Server // nil: it is not ours
	close  func() error
}

// cpu is what the server has used, 0 if it is not ours.
func (d *database) cpu() time.Duration {
	if d.server == nil {
		return 0
	}
	return d.server.CPU()
}

func (o *options) openDatabase(ctx context.Context) (*database, error) {
	if o.database != "" {
		return newDatabase(ctx, o.database)
	}
	server, err := pgserver.New()
	if errors.Is(err, pgserver.ErrNotInstalled) {
		return nil, fmt.Errorf("%w, or give the URL of a server with -database", err)
	}
	if err != nil {
		return nil, err
	}
	if err := server.Start(ctx); err != nil {
		return nil, errors.Join(err, server.Remove())
	}
	return &database{server.URL("postgres"), server, server.Remove}, nil
}

// newDatabase makes a database at the server of another one, which it leaves alone.
func newDatabase(ctx context.Context, at string) (*database, error) {
	u, err := databaseURL(at)
	if err != nil {
		return nil, err
	}
	name := "coordinator_drill_" + strings.ToLower(rand.Text())
	if err := execute(ctx, at, "CREATE DATABASE "+name); err != nil {
		return nil, fmt.Errorf("making a database at the server of -database: %w", err)
	}
	u.Path = "/" + name
	return &database{u.String(), nil, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), dropLimit)
		defer cancel()
		return execute(ctx, at, "DROP DATABASE "+name+" WITH (FORCE)")
	}}, nil
}

func databaseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text) // the error quotes the text, and with it a password
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.Query().Has("dbname") {
		return nil, errors.New("-database must be a URL: postgres://user:password@host/database")
	}
	return u, nil
}

func execute(ctx context.Context, database, sql string) error {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}
