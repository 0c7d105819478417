// Package pgserver starts a PostgreSQL server of one's own, for tests (internal/pgtest) and for the load tool. It is reached by a Unix
// socket in a temporary directory, which holds all that it has.
package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	startLimit = 30 * time.Second
	clockTicks = 100 // a second: USER_HZ of all of Linux
)

// ErrNotInstalled says what to install.
var ErrNotInstalled = errors.New("PostgreSQL is not installed (/usr/lib/postgresql/*/bin): apt-get install postgresql")

// Server is a PostgreSQL that runs, or is stopped for a while.
type Server struct {
	// set once
	bin, dir string
	as       *syscall.SysProcAttr // PostgreSQL does not run as root

	process *exec.Cmd
	ended   chan struct{}
}

// New makes the directory of a server, which does not run yet. Whoever calls it calls Remove.
func New() (*Server, error) {
	s, err := NewEmpty("")
	if err != nil {
		return nil, err
	}
	if err := s.Init(); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

// NewEmpty is New for a server that gets its data from elsewhere. Its directory is in parent, "" for that of temporary files.
func NewEmpty(parent string) (*Server, error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, "pg") // short: the path of a socket has at most 107 bytes
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: dir}
	if s.as, err = Unprivileged(dir); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

// Init makes the data of a server that has none.
func (s *Server) Init() error {
	return s.Run("initdb", "-D", s.Data(), "-U", "coordinator", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
}

// Installed is nil, or says what is missing.
func Installed() error {
	_, err := find()
	return err
}

// find returns where the newest version's programs are.
func find() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", ErrNotInstalled
	}
	version := func(bin string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
		return n
	}
	return slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }), nil
}

// Unprivileged gives root's directory to nobody, and says how to run as nobody. It is nil for others.
func Unprivileged(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}

// Dir holds all that the server has.
func (s *Server) Dir() string { return s.dir }

// Data is its data directory.
func (s *Server) Data() string { return filepath.Join(s.dir, "data") }

// Owner is who the server runs as, as Unprivileged says.
func (s *Server) Owner() *syscall.SysProcAttr { return s.as }

func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.SysProcAttr, cmd.Dir, cmd.Env = s.as, s.dir, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	return cmd
}

// Run runs one of PostgreSQL's programs to its end.
func (s *Server) Run(program string, args ...string) error {
	if out, err := s.command(program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return nil
}

// Start begins to run, and returns when the server answers. settings are NAME=value. After an error it does not run.
func (s *Server) Start(ctx context.Context, settings ...string) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-D", s.Data(), "-k", s.dir, "-c", "listen_addresses=", "-c", "max_connections=200"}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	process := s.command("postgres", args...)
	process.Stdout, process.Stderr = log, log
	if err := process.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	s.process, s.ended = process, ended
	go func() {
		defer close(ended)
		_ = process.Wait()
	}()
	if err := s.AwaitUp(ctx); err != nil {
		s.Stop()
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w\n%s", err, text)
	}
	return nil
}

// AwaitUp waits until the server answers. It fails if that has ended.
func (s *Server) AwaitUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.ended:
			return errors.New("PostgreSQL has ended")
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// HasEnded tells whether the server has ended, be it by itself.
func (s *Server) HasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// Stop ends the server as a fast shutdown does. It may be started again.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Crash ends it at once: what was committed is recovered at the next start.
func (s *Server) Crash() { s.end(syscall.SIGQUIT) }

func (s *Server) end(signal os.Signal) {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(signal)
	<-s.ended
}

// CPU is the user and system time that all processes of the server have used, in steps of 10 ms. It is 0 where there is no /proc.
func (s *Server) CPU() (used time.Duration) {
	processes, _ := filepath.Glob("/proc/[0-9]*/stat")
	pid := s.process.Process.Pid
	for _, name := range processes {
		stat, err := os.ReadFile(name) // proc_pid_stat(5)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := bytes.Cut(stat, []byte(") ")) // what is before may hold anything
		fields := strings.Fields(string(rest))
		if len(fields) < 15 {
			continue
		}
		times := fields[11:13]
		switch {
		case filepath.Base(filepath.Dir(name)) == strconv.Itoa(pid):
			times = fields[11:15] // with those that have ended
		case fields[1] != strconv.Itoa(pid):
			continue
		}
		for _, ticks := range times {
			n, _ := strconv.ParseInt(ticks, 10, 64)
			used += time.Duration(n) * time.Second / clockTicks
		}
	}
	return used
}

// Remove stops the server and removes all that it has.
func (s *Server) Remove() error {
	s.Stop()
	return os.RemoveAll(s.dir)
}

// URL is that of a database of this server.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("coordinator"), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}
	return u.String()
}
