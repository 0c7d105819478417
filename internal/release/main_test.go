package release

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"coordinator/internal/clustertest"

	"go.yaml.in/yaml/v3"
)

// program is built once for all tests, as a release is, but with packedVersion.
var program string

const packedVersion = "1.1.0"

// TestMain has the tests run at the root of the repository.
func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "coordinator-release")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chdir("../..")
	}
	if err == nil {
		program = filepath.Join(dir, "coordinator")
		build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w -X coordinator/internal/buildinfo.version="+packedVersion, "-o", program, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// need finds a program that a test can't do without. It may be missing, but not where CI=true.
func need(t *testing.T, name, from string) (path string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: %s", name, from)
	} else if err != nil {
		t.Skipf("%s is not installed (%s)", name, from)
	}
	return path
}

// output runs a program, which must succeed.
func output(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(clustertest.ReadText(t, file)), into); err != nil {
		t.Fatal(file, err)
	}
}
