// Package e2e tells the daemon's stories as its users see them: the built binary, with peers over real sockets and an
// application over real HTTP. It knows nothing of the program but what it says in messages, JSON, files and its log.
package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"coordinator/internal/clustertest"
	"coordinator/internal/pgtest"

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
	tellAtOnce()
	if coordinatorBinary, err = clustertest.Build(dir, buildArguments...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := pgtest.Main{M: m}.Run()
	if leaked := goleak.Find(); status == 0 && leaked != nil {
		fmt.Fprintln(os.Stderr, leaked)
		return 1
	}
	return status
}

// tellAtOnce has more stories told at once than there are processors, unless -parallel says how many: they wait for most of their time.
func tellAtOnce() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	stories := 5
	if len(buildArguments) > 0 {
		stories = 4 // with the race detector there is more to do
	}
	if !given && runtime.GOMAXPROCS(0) < stories {
		_ = flag.Set("test.parallel", strconv.Itoa(stories)) // a number it takes
	}
}

// notWithRaces skips a story of what a database does, not of what goroutines do: others have the same code run beside itself.
func notWithRaces(t *testing.T) {
	t.Helper()
	if len(buildArguments) > 0 {
		t.Skip("told without the race detector: the stories of leaders run the same code")
	}
}

// startDaemon runs the daemon with variables given as NAME=value, over defaults that suit a test, and waits until it
// listens. It is stopped at the end of the test, and must end with status 0 then. With E2E_BETWEEN=gateway a gateway stands
// before it (between_test.go).
func startDaemon(t testing.TB, variables ...string) *clustertest.Daemon {
	t.Helper()
	env := map[string]string{"HTTP_PORT": "0", "BIND_ADDRESS": "127.0.0.1", "LOG_DEBUG": "YES"}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	if gatewayBetween(t) && env["COORDINATOR_URL"] == "" { // it is no gateway itself
		return startBehindGateway(t, env)
	}
	return launch(t, env).Daemon
}

// launch starts the binary with variables and waits until it listens. It has to end with status 0.
func launch(t testing.TB, env map[string]string) *clustertest.Process {
	t.Helper()
	dir := t.TempDir()
	env = maps.Clone(env)
	if env["DATA_DIR"] == "" && env["COORDINATOR_URL"] == "" {
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
	return p
}
