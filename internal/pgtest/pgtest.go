// Package pgtest starts PostgreSQL for tests: one server for a test binary, reached by a Unix socket in a directory of its own, and a
// database for each test. Without /usr/lib/postgresql tests are skipped, but for CI=true, where they fail.
package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"coordinator/internal/pgserver"

	"github.com/jackc/pgx/v5"
)

const startLimit = 30 * time.Second

// Server is a PostgreSQL that runs, or is stopped for a while.
type Server struct{ *pgserver.Server }

var (
	shared     *Server
	sharedOnce sync.Once
	databases  atomic.Int64
)

// Main is for TestMain: it runs the tests, and stops the server if one of them has started it.
type Main struct{ M interface{ Run() int } }

func (m Main) Run() int {
	code := m.M.Run()
	if shared != nil {
		_ = shared.Remove()
	}
	return code
}

// URL is that of a new database at the server that tests share.
func URL(t testing.TB) string {
	t.Helper()
	Needed(t)
	sharedOnce.Do(func() {
		s := newServer(t)
		s.Start(t)
		shared = s
	})
	if shared == nil {
		t.Fatal("PostgreSQL has not started")
	}
	return shared.NewDatabase(t)
}

// New is a server of a test's own, which may stop it, kill it and fill its disk.
func New(t testing.TB, settings ...string) *Server {
	t.Helper()
	Needed(t)
	s := newServer(t)
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	s.Start(t, settings...)
	return s
}

// Needed skips a test where PostgreSQL is not installed, but for CI=true, where it fails.
func Needed(t testing.TB) {
	t.Helper()
	if err := pgserver.Installed(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func newServer(t testing.TB) *Server {
	t.Helper()
	s, err := pgserver.New()
	if err != nil {
		t.Fatal(err)
	}
	return &Server{s}
}

// Start begins to run, and returns when the server answers. settings are NAME=value.
func (s *Server) Start(t testing.TB, settings ...string) {
	t.Helper()
	if err := s.Server.Start(context.Background(), settings...); err != nil {
		t.Fatal(err)
	}
}

// NewDatabase makes a database, and returns its URL.
func (s *Server) NewDatabase(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", databases.Add(1))
	Exec(t, s.URL("postgres"), "CREATE DATABASE "+name)
	return s.URL(name)
}

// Name is that of the database with this URL.
func Name(database string) string {
	u, err := url.Parse(database)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(u.Path, "/")
}

// Exec runs SQL at a database.
func Exec(t testing.TB, url, sql string) {
	t.Helper()
	connected(t, url, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

// Number is the one number that a query gives.
func Number(t testing.TB, url, sql string) (n int) {
	t.Helper()
	connected(t, url, func(ctx context.Context, conn *pgx.Conn) error { return conn.QueryRow(ctx, sql).Scan(&n) })
	return n
}

func connected(t testing.TB, url string, use func(context.Context, *pgx.Conn) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := use(ctx, conn); err != nil {
		t.Fatal(err)
	}
}

// Through is the URL of a database through a proxy, which inFrontOf puts before the server's socket.
func Through(t testing.TB, database string, inFrontOf func(socket string) (address string)) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = inFrontOf(filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432"))
	u.RawQuery = "sslmode=disable"
	return u.String()
}
