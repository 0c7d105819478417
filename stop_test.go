package main

// A stop that something holds up, told by the real binary. Part of TestProcess.

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A log that nobody reads holds up whoever writes to it. The stop goes on without them.
func stopThatHangsIsCutOff(t *testing.T, binary string) {
	log, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary)
	cmd.Dir, cmd.Env, cmd.Stderr = t.TempDir(), []string{"HTTP_PORT=0", "BIND_ADDRESS=127.0.0.1"}, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stderr.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	defer func() {
		cmd.Process.Kill()
		<-ended
	}()
	addr := ""
	for lines := bufio.NewScanner(log); addr == "" && lines.Scan(); {
		if strings.Contains(lines.Text(), "msg=listening") {
			addr = attribute(lines.Text(), "addr")
		}
	}
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	for n := 0; err == nil; n++ {
		if n == 10_000 {
			t.Fatal("a full log holds up nobody: this test shows nothing")
		}
		var answer *http.Response
		if answer, err = client.Get("http://" + addr + "/" + strings.Repeat("x", 1000)); err == nil {
			answer.Body.Close()
		}
	}
	start := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("does not end")
	}
	if took, status := time.Since(start), cmd.ProcessState.ExitCode(); took > 10*time.Second || status != 1 {
		t.Errorf("exit status %d after %v", status, took)
	}
}
