package main

// The daemon in-process on port 0, with peers over real WebSockets and an application over real HTTP.

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"coordinator/internal/clustertest"
	"coordinator/internal/logs"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startDaemon runs the daemon with variables given as NAME=value, over defaults that suit a test.
func startDaemon(t testing.TB, variables ...string) *clustertest.Daemon {
	t.Helper()
	env := map[string]string{"HTTP_PORT": "0", "BIND_ADDRESS": "127.0.0.1", "DATA_DIR": t.TempDir(), "LOG_DEBUG": "YES"}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &clustertest.Daemon{T: t, Logs: clustertest.NewLog()}
	ended := make(chan struct{})
	var result error
	stderr := logs.NewWriter(d.Logs, env["LOG_FORMAT"] == "json")
	go func() {
		defer close(ended)
		defer stderr.Close()
		if result = run(ctx, func(name string) string { return env[name] }, stderr, nil); result != nil {
			fmt.Fprintln(stderr, "run failed:", result)
		}
	}()
	d.Stop = func() error {
		cancel()
		<-ended
		return result
	}
	t.Cleanup(func() { d.Stop() })
	if env["LOG_FORMAT"] == "json" {
		var record struct{ Addr string }
		if err := json.Unmarshal([]byte(d.Logs.Await(t, `"msg":"listening"`, `"scheme":"http"`)), &record); err != nil {
			t.Fatal(err)
		}
		d.Addr = record.Addr
	} else {
		d.Addr = clustertest.Attribute(d.Logs.Await(t, "msg=listening", "scheme=http "), "addr")
	}
	return d
}
