package e2e

// A stop that something holds up, told by the real binary. Part of TestProcess.

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

// A file that does not answer, as on a network disk that is gone, holds up whoever reads it. The stop goes on without.
func stopThatHangsIsCutOff(t *testing.T, binary string) {
	dir := t.TempDir()
	clustertest.NewPair(t, 1).Write(t, dir)
	p := clustertest.Launch(t, binary, dir, "HTTP_PORT=0", "SSL_PORT=0", "BIND_ADDRESS=127.0.0.1", "SSL_CERT=tls.crt", "SSL_KEY=tls.key")
	p.Listening("https")
	stuck := filepath.Join(dir, "stuck")
	if err := syscall.Mkfifo(stuck, 0o600); err != nil {
		t.Fatal(err)
	}
	clustertest.Rename(t, stuck, filepath.Join(dir, "tls.crt"))
	p.Signal(syscall.SIGHUP)
	end, err := os.OpenFile(filepath.Join(dir, "tls.crt"), os.O_WRONLY, 0) // waits until somebody reads
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	start := time.Now()
	p.Signal(syscall.SIGTERM)
	p.AwaitExit(1)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}
