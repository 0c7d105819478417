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
