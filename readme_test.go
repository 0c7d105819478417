package main

// Holds the README against the code and the example.

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadmeListsEveryVariableOnce(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| name | default | meaning |\n|---|---|---|\n")
	var listed []string
	for line := range strings.Lines(table) {
		name, ok := strings.CutPrefix(line, "| `")
		if !ok {
			break
		}
		name, _, _ = strings.Cut(name, "`")
		listed = append(listed, name)
	}
	slices.Sort(listed)
	if diff := cmp.Diff(configNames(), listed); diff != "" {
		t.Errorf("variables of the code (-) and of the README (+):\n%s", diff)
	}
}

func TestReadmeShowsTheExampleApplicationAsItIs(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("examples/application.py")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```python\n"+string(example)+"```\n") {
		t.Error("the README shows another application than examples/application.py")
	}
}

func TestReadmeWalkShowsWhatANewDaemonAnswers(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
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
		if _, got := d.call(method, path, header...); got != lines[i+1]+"\n" {
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
