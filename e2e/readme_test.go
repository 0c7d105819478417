package e2e

// The README's walk, step by step.

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coordinator/internal/clustertest"
)

func TestReadmeWalkShowsWhatANewDaemonAnswers(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, walk, _ := strings.Cut(string(text), "```console\n")
	walk, _, _ = strings.Cut(walk, "```")
	lines := strings.Split(strings.TrimSpace(walk), "\n")
	if len(lines) < 10 {
		t.Fatalf("no walk is found: %q", lines)
	}
	d := startDaemon(t)
	for i := 0; i+1 < len(lines); i += 2 {
		method, path, header := readCurl(t, lines[i])
		if _, got := d.Call(method, path, header...); got != lines[i+1]+"\n" {
			t.Errorf("%s\nanswers %sand not  %s", lines[i], got, lines[i+1])
		}
	}
}

// readCurl takes apart a line such as: $ curl -X POST -H 'name: value' http://localhost:8080/path
func readCurl(t *testing.T, line string) (method, path string, header []string) {
	t.Helper()
	command, path, ok := strings.Cut(line, "http://localhost:8080")
	command, isCurl := strings.CutPrefix(command, "$ curl ")
	if !ok || !isCurl {
		t.Fatalf("no curl command: %s", line)
	}
	method = "GET"
	if strings.Contains(command, "-X POST ") {
		method = "POST"
	}
	for i, quoted := range strings.Split(command, "'") {
		if i%2 == 1 {
			name, value, _ := strings.Cut(quoted, ": ")
			header = append(header, name, value)
		}
	}
	return method, path, header
}

// The example of a report has each field that a report has.
func TestReadmeShowsAWholeReport(t *testing.T) {
	t.Parallel()
	_, example, _ := strings.Cut(clustertest.ReadText(t, "../README.md"), "```json\n")
	example, _, found := strings.Cut(example, "\n  ```")
	if !found {
		t.Fatal("README.md has no example of a report")
	}
	var report clustertest.Report
	if err := json.Unmarshal([]byte(example), &report); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := errors.Join(json.Unmarshal(again, &want), json.Unmarshal([]byte(example), &got)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a report (-) and the example (+):\n%s", diff)
	}
}
