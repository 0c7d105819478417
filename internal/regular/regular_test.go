package regular

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

func TestWhatIsNotARegularFileIsRefusedAndNothingWaits(t *testing.T) {
	t.Parallel()
	dir := clustertest.ShortDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	socket, err := net.Listen("unix", in("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := errors.Join(syscall.Mkfifo(in("fifo"), 0o600), os.Symlink("fifo", in("link")), os.Mkdir(in("directory"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]string{
		in("fifo"): "a pipe", in("link"): "a pipe", in("directory"): "a directory", in("socket"): "a socket", os.DevNull: "a device",
	} {
		refused := make(chan error, 1)
		go func() {
			_, err := ReadFile(path)
			refused <- err
		}()
		select {
		case err := <-refused:
			if !errors.Is(err, ErrNotRegular) || !strings.HasSuffix(err.Error(), path+": not a regular file, but "+kind) {
				t.Errorf("%s: %v", path, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: waits", path)
		}
	}
}

// As Kubernetes mounts a secret.
func TestRegularFilesAreReadThroughLinks(t *testing.T) {
	t.Parallel()
	dir := clustertest.ShortDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.Mkdir(in("..2000"), 0o700), os.WriteFile(in("..2000/key"), []byte("content"), 0o600),
		os.Symlink("..2000", in("..data")), os.Symlink("..data/key", in("key")))
	if err != nil {
		t.Fatal(err)
	}
	if content, err := ReadFile(in("key")); err != nil || string(content) != "content" {
		t.Errorf("%q %v", content, err)
	}
	if _, err := ReadFile(in("none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
