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

// A file that does not answer, as on a network disk that is gone, holds up whoever opens it. The stop goes on without. A
// file that somebody has a lease of does not answer either, until they have given it back (fcntl(2), F_SETLEASE).
func stopThatHangsIsCutOff(t *testing.T, binary string) {
	dir := t.TempDir()
	clustertest.NewPair(t, 1).Write(t, dir)
	p := clustertest.Launch(t, binary, dir, "HTTP_PORT=0", "SSL_PORT=0", "BIND_ADDRESS=127.0.0.1", "SSL_CERT=tls.crt", "SSL_KEY=tls.key")
	p.Listening("https")
	stuck, err := os.Create(filepath.Join(dir, "stuck"))
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close() // gives the lease back
	isHeld := leaseOf(t, stuck)
	clustertest.Rename(t, stuck.Name(), filepath.Join(dir, "tls.crt"))
	p.Signal(syscall.SIGHUP)
	for deadline := time.Now().Add(clustertest.Patience); isHeld(); { // until somebody waits for it
		if time.Now().After(deadline) {
			t.Fatal("nobody opens the file")
		}
	}
	start := time.Now()
	p.Signal(syscall.SIGTERM)
	p.AwaitExit(1)
	p.Logs.Await(t, "coordinator: ended by force: the stop was not done after 9.5s", "DATA_DIR, SSL_CERT and SSL_KEY")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}
