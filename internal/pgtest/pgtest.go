// Package pgtest starts PostgreSQL for tests: one server for a test binary, reached by a Unix socket in a directory of its own, and a
// database for each test. Without /usr/lib/postgresql tests are skipped, but for CI=true, where they fail.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
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
type Server struct {
	*pgserver.Server

	settings []string // of the last start
	volumes  []string // mounted
}

var (
	shared     *Server
	sharedOnce sync.Once
	databases  atomic.Int64

	fresh     *Server // has data that initdb has made, for all others to copy
	freshOnce sync.Once
)

// Main is for TestMain: it runs the tests, and stops the server if one of them has started it.
type Main struct{ M interface{ Run() int } }

func (m Main) Run() int {
	code := m.M.Run()
	for _, s := range []*Server{shared, fresh} {
		if s != nil {
			_ = s.Remove()
		}
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
	s.removeAtTheEnd(t)
	s.Start(t, settings...)
	return s
}

func (s *Server) removeAtTheEnd(t testing.TB) {
	t.Cleanup(func() {
		s.Stop()
		s.unmount(t)
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
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
	freshOnce.Do(func() {
		s := newDirectory(t)
		if err := s.Init(); err != nil {
			t.Fatal(errors.Join(err, s.Remove()))
		}
		fresh = s
	})
	if fresh == nil {
		t.Fatal("initdb has failed")
	}
	s := newDirectory(t)
	if out, err := exec.Command("cp", "-a", fresh.Data(), s.Data()).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	return s
}

// newDirectory makes a server that has no data yet, in memory if that is possible: it may crash, but the machine does not.
func newDirectory(t testing.TB) *Server {
	t.Helper()
	s, err := pgserver.NewEmpty("/dev/shm")
	if err != nil {
		s, err = pgserver.NewEmpty("")
	}
	if err != nil {
		t.Fatal(err)
	}
	return &Server{Server: s}
}

// Start begins to run, and returns when the server answers. settings are NAME=value; without any they are those of the last start.
func (s *Server) Start(t testing.TB, settings ...string) {
	t.Helper()
	if len(settings) > 0 {
		s.settings = settings
	}
	if err := s.Server.Start(context.Background(), append([]string{"fsync=off"}, s.settings...)...); err != nil {
		t.Fatal(err)
	}
}

// Backends are the processes that serve coordinators. A server that recovers is waited for.
func (s *Server) Backends(t testing.TB) (pids []int) {
	t.Helper()
	ask := func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		rows, err := conn.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE application_name = 'coordinator'")
		if err != nil {
			return err
		}
		pids, err = pgx.CollectRows(rows, pgx.RowTo[int])
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	for err := ask(ctx); err != nil; err = ask(ctx) {
		if err := s.AwaitUp(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return pids
}

// AwaitLeft waits until no coordinator has a connection. One that asks whether it may write, and leaves, has one for a moment.
func (s *Server) AwaitLeft(t testing.TB) {
	t.Helper()
	timeout := time.After(startLimit)
	for left := s.Backends(t); len(left) > 0; left = s.Backends(t) {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-timeout:
			t.Fatalf("%d connections of coordinators are kept", len(left))
		}
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

// TryExec is Exec for what may fail.
func TryExec(url, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
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

// Through is the URL of a database through a proxy, which inFrontOf puts before each of its hosts: the address of one, or its socket.
func Through(t testing.TB, database string, inFrontOf func(target string) (address string)) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	targets := strings.Split(u.Host, ",")
	if dirs := query.Get("host"); dirs != "" {
		targets = nil
		for _, dir := range strings.Split(dirs, ",") {
			targets = append(targets, filepath.Join(dir, ".s.PGSQL.5432"))
		}
		query.Del("host")
		query.Set("sslmode", "disable")
	}
	for i, target := range targets {
		targets[i] = inFrontOf(target)
	}
	u.Host, u.RawQuery = strings.Join(targets, ","), query.Encode()
	return u.String()
}
