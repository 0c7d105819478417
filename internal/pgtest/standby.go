package pgtest

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Standby is a server that follows this one, from what it holds now on. It is not synchronous unless this one's settings say so.
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	b := newDirectory(t)
	b.removeAtTheEnd(t)
	if err := b.Run("pg_basebackup", "-h", s.Dir(), "-U", "coordinator", "-D", b.Data(), "-R", "-X", "stream", "-c", "fast", "--no-sync"); err != nil {
		t.Fatal(err)
	}
	b.Start(t)
	return b
}

// Promote makes a standby a primary. It returns when it takes writes.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	Exec(t, s.URL("postgres"), "SELECT pg_promote(true, 30)")
}

// Demote is for a primary that was replaced: it comes back as one that follows nobody and can only be read, as a standby can.
func (s *Server) Demote(t testing.TB) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.Data(), "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.Start(t, "primary_conninfo=", "hot_standby=on")
}

// At is the URL of another server's database with this name here, as on its standby.
func (s *Server) At(database string) string { return s.URL(Name(database)) }

// Either is the URL of a database that several servers have, of which one can be written to.
func Either(t testing.TB, databases ...string) string {
	t.Helper()
	var either *url.URL
	for _, database := range databases {
		u, err := url.Parse(database)
		if err != nil {
			t.Fatal(err)
		}
		if either == nil {
			either = u
			continue
		}
		query := either.Query()
		query.Set("host", query.Get("host")+","+u.Query().Get("host"))
		either.RawQuery = query.Encode()
	}
	return either.String()
}

// CutOff has a standby take over nothing more: what is committed from now on it will not have.
func (s *Server) CutOff(t testing.TB) {
	t.Helper()
	s.Set(t, "primary_conninfo", "")
	for Number(t, s.URL("postgres"), "SELECT count(*) FROM pg_stat_wal_receiver") > 0 {
		<-time.After(5 * time.Millisecond)
	}
}

// AwaitFollowed waits until the standby of a server has all that is committed now.
func (s *Server) AwaitFollowed(t testing.TB) {
	t.Helper()
	for Number(t, s.URL("postgres"), "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()") == 0 {
		<-time.After(5 * time.Millisecond)
	}
}
