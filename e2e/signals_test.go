package e2e

// What signals do to the real binary. Part of TestProcess.

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

// underParentThatIgnores returns a program that starts the binary as a shell does that ignores signals (nohup, or a
// script that runs it in the background): what is ignored is handed down.
func underParentThatIgnores(t *testing.T, binary, signals string) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "parent")
	if err := os.WriteFile(script, []byte(fmt.Sprintf("#!/bin/sh\ntrap '' %s\nexec '%s' \"$@\"\n", signals, binary)), 0o700); err != nil {
		t.Fatal(err)
	}
	return script
}

func secondSignalEndsIt(t *testing.T, binary string) {
	for name, program := range map[string]string{"": binary, "SIGINT is ignored by the parent": underParentThatIgnores(t, binary, "INT TERM")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := busyProcess(t, program)
			p.Signal(syscall.SIGINT)
			p.Logs.Await(t, "stopping")
			start := time.Now()
			p.Signal(syscall.SIGINT)
			p.AwaitExit(128 + int(syscall.SIGINT))
			p.Logs.Await(t, "coordinator: ended by force: there was a second signal (interrupt) before the stop was done", "DATA_DIR")
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func otherSignalsDoNotEndIt(t *testing.T, binary string) {
	for name, program := range map[string]string{"": binary, "SIGHUP is ignored by the parent": underParentThatIgnores(t, binary, "HUP PIPE")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := clustertest.Serve(t, program)
			server := p.DialPeer("rtmp")
			encoder, _ := p.Register(-1)
			for n, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
				syscall.SIGALRM, syscall.SIGHUP, syscall.SIGXFSZ} {
				p.Signal(s)
				clustertest.Publish(server, encoder, fmt.Sprint("chan-", n))
			}
			p.Signal(syscall.SIGTERM)
			p.AwaitExit(0)
		})
	}
}

// The directory is replaced behind a link: nothing changes in a directory that is watched, and no check is due.
func hangupLooksAtTheCertificate(t *testing.T, binary string) {
	for name, program := range map[string]string{"": binary, "SIGHUP is ignored by the parent": underParentThatIgnores(t, binary, "HUP")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for n, name := range []string{"old", "new"} {
				if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
					t.Fatal(err)
				}
				clustertest.NewPair(t, int64(n+1)).Write(t, filepath.Join(dir, name))
			}
			clustertest.Link(t, "old", filepath.Join(dir, "live"))
			p := clustertest.Launch(t, program, dir, "HTTP_PORT=0", "SSL_PORT=0", "BIND_ADDRESS=127.0.0.1",
				"SSL_CERT=live/tls.crt", "SSL_KEY=live/tls.key", "SSL_CHECK_RELOAD_SECONDS=86400")
			s := &clustertest.TLSClient{T: t, Address: p.Listening("https"), Log: p.Logs}
			s.WantServed(1)
			p.Signal(syscall.SIGHUP)
			p.Logs.AwaitLines(t, 1, "certificate files loaded") // whoever asks is told
			clustertest.Link(t, "new", filepath.Join(dir, "next"))
			clustertest.Rename(t, filepath.Join(dir, "next"), filepath.Join(dir, "live"))
			s.WantServed(1)
			p.Signal(syscall.SIGHUP)
			p.Logs.AwaitLines(t, 2, "certificate files loaded")
			s.WantServed(2)
			if err := os.Remove(filepath.Join(dir, "live")); err != nil {
				t.Fatal(err)
			}
			p.Signal(syscall.SIGHUP)
			p.Logs.AwaitLines(t, 1, "certificate files cannot be used")
			p.Signal(syscall.SIGHUP)
			p.Logs.AwaitLines(t, 2, "certificate files cannot be used")
			s.WantServed(2)
		})
	}
}
