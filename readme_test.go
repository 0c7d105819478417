package main

// Holds the README against the code and the example.

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

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

func TestReadmeListsEveryMetricWithItsLabels(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "| `coordinator_"); ok {
			name, row, _ := strings.Cut(rest, "`")
			rows["coordinator_"+name] = row
		}
	}
	m := newMetrics(func() clusterState { return clusterState{} })
	m.exposeBuild("")
	m.exposeCertificate(time.Now)
	m.exposeLog(func() uint64 { return 0 })
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var exposed []string
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "coordinator_") {
			continue
		}
		exposed = append(exposed, family.GetName())
		row := rows[family.GetName()]
		for _, metric := range family.Metric {
			for _, label := range metric.Label {
				if !strings.Contains(row, "`"+label.GetName()+"`") {
					t.Errorf("the README does not know label %s of %s", label.GetName(), family.GetName())
				}
				named := label.GetName() != "method" && family.GetName() != "coordinator_build_info"
				if named && !strings.Contains(row, "`"+label.GetValue()+"`") {
					t.Errorf("the README does not know %s %s of %s", label.GetName(), label.GetValue(), family.GetName())
				}
			}
		}
	}
	if diff := cmp.Diff(exposed, slices.Sorted(maps.Keys(rows))); diff != "" {
		t.Errorf("metrics of the code (-) and of the README (+):\n%s", diff)
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
