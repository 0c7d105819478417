// Package pgtest starts PostgreSQL for tests: one server for a test binary, reached by a Unix socket in a directory of its own, and a
// database for each test. Without /usr/lib/postgresql tests are skipped, but for CI=true, where they fail.
package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const startLimit = 30 * time.Second

// Server is a PostgreSQL that runs, or is stopped for a while.
type Server struct {
	// set once
	bin, dir string
	as       *syscall.SysProcAttr // PostgreSQL does not run as root
	t        testing.TB

	process *exec.Cmd
	ended   chan struct{}
}

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
		shared.Stop()
		os.RemoveAll(shared.dir)
	}
	return code
}

// URL is that of a new database at the server that tests share.
func URL(t testing.TB) string {
	t.Helper()
	bin := find(t)
	sharedOnce.Do(func() {
		s := newServer(t, bin)
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
	s := newServer(t, find(t))
	s.Start(t, settings...)
	t.Cleanup(func() {
		s.Stop()
		os.RemoveAll(s.dir)
	})
	return s
}

// find returns where the newest version's programs are.
func find(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("PostgreSQL is not installed (/usr/lib/postgresql/*/bin): apt-get install postgresql")
		}
		t.Skip("PostgreSQL is not installed (/usr/lib/postgresql/*/bin)")
	}
	version := func(bin string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
		return n
	}
	return slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })
}

func newServer(t testing.TB, bin string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "pg") // short: the path of a socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{bin: bin, dir: dir, t: t, as: unprivileged(t, dir)}
	s.run(t, "initdb", "-D", s.data(), "-U", "coordinator", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	return s
}

// unprivileged gives root's directory to nobody, and says how to run as nobody. It is nil for others.
func unprivileged(t testing.TB, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) run(t testing.TB, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.SysProcAttr, cmd.Dir, cmd.Env = s.as, s.dir, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// Start begins to run, and returns when the server answers. settings are NAME=value.
func (s *Server) Start(t testing.TB, settings ...string) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	args := []string{"-D", s.data(), "-k", s.dir, "-c", "listen_addresses=", "-c", "max_connections=200"}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	s.process = exec.Command(filepath.Join(s.bin, "postgres"), args...)
	s.process.SysProcAttr, s.process.Dir, s.process.Stdout, s.process.Stderr = s.as, s.dir, log, log
	s.process.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	s.ended = ended
	go func(p *exec.Cmd) {
		defer close(ended)
		_ = p.Wait()
	}(s.process)
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.url("postgres"))
		if err == nil {
			conn.Close(ctx)
			return
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("PostgreSQL has ended: %s", text)
		case <-ctx.Done():
			t.Fatalf("PostgreSQL does not answer: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server as a fast shutdown does. It may be started again.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Crash ends it at once: what was committed is recovered at the next start.
func (s *Server) Crash() { s.end(syscall.SIGQUIT) }

func (s *Server) end(signal os.Signal) {
	_ = s.process.Process.Signal(signal)
	<-s.ended
}

func (s *Server) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("coordinator"), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}
	return u.String()
}

// NewDatabase makes a database, and returns its URL.
func (s *Server) NewDatabase(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", databases.Add(1))
	Exec(t, s.url("postgres"), "CREATE DATABASE "+name)
	return s.url(name)
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
