// Package e2e tells the daemon's stories as its users see them: the built binary, with peers over real sockets and an
// application over real HTTP. It knows nothing of the program but what it says in messages, JSON, files and its log.
package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"coordinator/internal/clustertest"

	"go.uber.org/goleak"
)

// coordinatorBinary is built once for all tests.
var coordinatorBinary string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "coordinator-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if coordinatorBinary, err = clustertest.Build(dir, buildArguments...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := m.Run()
	if leaked := goleak.Find(); status == 0 && leaked != nil {
		fmt.Fprintln(os.Stderr, leaked)
		return 1
	}
	return status
}

// between is the variable that says what stands between peers and daemon. So far nothing can.
const between = "E2E_BETWEEN"

// front returns the address that peers, application and operators dial.
func front(t testing.TB, daemon string) string {
	t.Helper()
	if what := os.Getenv(between); what != "" {
		t.Fatalf("%s=%s: nothing of that name can stand between peers and daemon", between, what)
	}
	return daemon
}

// startDaemon runs the daemon with variables given as NAME=value, over defaults that suit a test, and waits until it
// listens. It is stopped at the end of the test, and must end with status 0 then.
func startDaemon(t testing.TB, variables ...string) *clustertest.Daemon {
	t.Helper()
	env := map[string]string{"HTTP_PORT": "0", "BIND_ADDRESS": "127.0.0.1", "LOG_DEBUG": "YES"}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	dir := t.TempDir()
	if env["DATA_DIR"] == "" {
		env["DATA_DIR"] = filepath.Join(dir, "data")
	}
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	p := clustertest.Launch(t, coordinatorBinary, dir, list...)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("%v:\n%s", err, p.Logs)
		}
	})
	if env["LOG_FORMAT"] == "json" {
		var record struct{ Addr string }
		if err := json.Unmarshal([]byte(p.Logs.Await(t, `"msg":"listening"`, `"scheme":"http"`)), &record); err != nil {
			t.Fatal(err)
		}
		p.Addr = record.Addr
	} else {
		p.Addr = p.Listening("http")
	}
	p.Addr = front(t, p.Addr)
	return p.Daemon
}
