package house

// Holds CONTRIBUTING.md against the files that there are.

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

func TestContributingHasARoomForEveryFile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	packages, err := filepath.Glob("internal/*")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int{}
	for line := range strings.Lines(string(text)) {
		rooms, _, isRow := strings.Cut(strings.TrimPrefix(line, "| `"), " | ")
		if !isRow || !strings.HasPrefix(line, "| `") {
			continue
		}
		for i, pattern := range strings.Split(rooms, "`") {
			if i%2 == 1 {
				continue // what stands between two names
			}
			found := false
			for _, file := range append(files, packages...) {
				if ok, _ := path.Match(strings.TrimSuffix(pattern, "/"), file); ok {
					rows[file]++
					found = true
				}
			}
			if !found && strings.HasSuffix(pattern, ".go") {
				t.Errorf("CONTRIBUTING.md has a room %s, and there is no such file", pattern)
			}
		}
	}
	for _, file := range append(files, packages...) {
		if !strings.HasSuffix(file, "_test.go") && rows[file] != 1 {
			t.Errorf("%s stands in %d rows of the rooms in CONTRIBUTING.md, want 1", file, rows[file])
		}
	}
}
