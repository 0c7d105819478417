package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

// Nobody writes to the pipe, so whoever opens it waits for ever.
func TestPipeInPlaceOfAFileIsAFaultAndHoldsUpNoStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clustertest.NewPair(t, 1).Write(t, dir)
	in := func(name string) string { return filepath.Join(dir, name) }
	pipe := in("outbox.db")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink("outbox.db", in("link"))); err != nil {
		t.Fatal(err)
	}
	certificate, key := "SSL_CERT="+in("tls.crt"), "SSL_KEY="+in("tls.key")
	for name, test := range map[string]struct {
		dotEnv  string
		environ []string
		fault   string
	}{
		".env":          {pipe, nil, "read settings: open " + pipe + ": not a regular file, but a pipe"},
		"a secret":      {"", []string{"CONTROL_SECRET_FILE=" + pipe}, "CONTROL_SECRET_FILE: names a file that cannot be read: not a regular file, but a pipe"},
		"a link to it":  {"", []string{"CONTROL_SECRET_FILE=" + in("link")}, "CONTROL_SECRET_FILE: names a file that cannot be read: not a regular file, but a pipe"},
		"SSL_CERT":      {"", []string{"SSL_CERT=" + pipe, key}, "certificate file: open " + pipe + ": not a regular file, but a pipe"},
		"SSL_KEY":       {"", []string{certificate, "SSL_KEY=" + pipe}, "key file: open " + pipe + ": not a regular file, but a pipe"},
		"DATA_DIR":      {"", []string{"DATA_DIR=" + pipe, "EVENT_CALLBACK_URL=http://127.0.0.1:1"}, pipe + ": not a directory"},
		"in DATA_DIR":   {"", []string{"DATA_DIR=" + dir, "EVENT_CALLBACK_URL=http://127.0.0.1:1"}, "open " + pipe + ": not a regular file, but a pipe"},
		"a device":      {"", []string{"CONTROL_SECRET_FILE=/dev/zero"}, "CONTROL_SECRET_FILE: names a file that cannot be read: not a regular file, but a device"},
		"no key at all": {"", []string{certificate, "SSL_KEY=" + os.DevNull}, "key file: open " + os.DevNull + ": not a regular file, but a device"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), clustertest.Patience) // should it run after all
			defer cancel()
			var diagnostics strings.Builder
			i := invocation{environ: append(test.environ, "HTTP_PORT=0", "SSL_PORT=0", "BIND_ADDRESS=127.0.0.1"), dotEnv: test.dotEnv, stderr: &diagnostics}
			ended := make(chan int, 1)
			go func() { ended <- i.execute(ctx) }()
			select {
			case status := <-ended:
				if status != 1 || !strings.Contains(diagnostics.String(), test.fault+"\n") {
					t.Errorf("status %d: %s", status, &diagnostics)
				}
			case <-time.After(clustertest.Patience):
				t.Fatal("it waits")
			}
		})
	}
}
