package pgtest

// Servers with little room.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Volume mounts a small file system for what the server is to keep there. It is unmounted with the server. Where nothing can be mounted the
// test is skipped, but for root with CI=true.
func (s *Server) Volume(t testing.TB, megabytes int) (dir string) {
	t.Helper()
	dir = filepath.Join(s.Dir(), fmt.Sprint("volume", len(s.volumes)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("size=%dM,mode=700", megabytes)
	if s.Owner() != nil {
		options += fmt.Sprintf(",uid=%d,gid=%d", s.Owner().Credential.Uid, s.Owner().Credential.Gid)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" && os.Getuid() == 0 {
			t.Fatal(err, string(out))
		}
		t.Skipf("cannot mount a small volume here: %v %s", err, out)
	}
	s.volumes = append(s.volumes, dir)
	return dir
}

func (s *Server) unmount(t testing.TB) {
	t.Helper()
	for _, dir := range s.volumes {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	}
}

// NewDatabaseOn makes a database whose tables are on a volume.
func (s *Server) NewDatabaseOn(t testing.TB, volume string) string {
	t.Helper()
	name := fmt.Sprintf("test%d", databases.Add(1))
	Exec(t, s.URL("postgres"), fmt.Sprintf("CREATE TABLESPACE %s LOCATION '%s'", name, volume))
	Exec(t, s.URL("postgres"), fmt.Sprintf("CREATE DATABASE %s TABLESPACE %s", name, name))
	return s.URL(name)
}

// MoveLog has a server that is stopped keep its write-ahead log on a volume.
func (s *Server) MoveLog(t testing.TB, volume string) {
	t.Helper()
	from := filepath.Join(s.Data(), "pg_wal")
	if out, err := exec.Command("sh", "-c", fmt.Sprintf("cp -a %s/. %s/ && rm -r %s", from, volume, from)).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	if err := os.Symlink(volume, from); err != nil {
		t.Fatal(err)
	}
}
