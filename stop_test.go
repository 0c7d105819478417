package main

// A stop that something holds up, told by the real binary. Part of TestProcess.

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A file that does not answer, as on a network disk that is gone, holds up whoever reads it. The stop goes on without.
func stopThatHangsIsCutOff(t *testing.T, binary string) {
	dir := t.TempDir()
	newTestPair(t, 1).write(t, dir)
	p := launch(t, binary, dir, "HTTP_PORT=0", "SSL_PORT=0", "BIND_ADDRESS=127.0.0.1", "SSL_CERT=tls.crt", "SSL_KEY=tls.key")
	p.listening("https")
	stuck := filepath.Join(dir, "stuck")
	if err := syscall.Mkfifo(stuck, 0o600); err != nil {
		t.Fatal(err)
	}
	rename(t, stuck, filepath.Join(dir, "tls.crt"))
	p.signal(syscall.SIGHUP)
	end, err := os.OpenFile(filepath.Join(dir, "tls.crt"), os.O_WRONLY, 0) // waits until somebody reads
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	start := time.Now()
	p.signal(syscall.SIGTERM)
	p.awaitExit(1)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}
