package main

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
	placed := map[string]int{}
	for line := range strings.Lines(string(text)) {
		rooms, _, isRow := strings.Cut(strings.TrimPrefix(line, "| `"), " | ")
		if !isRow || !strings.HasPrefix(line, "| `") {
			continue
		}
		for i, pattern := range strings.Split(rooms, "`") {
			if i%2 == 1 || !strings.HasSuffix(pattern, ".go") {
				continue // what stands between two names, or a directory
			}
			found := false
			for _, file := range files {
				if ok, _ := path.Match(pattern, file); ok {
					placed[file]++
					found = true
				}
			}
			if !found {
				t.Errorf("CONTRIBUTING.md has a room %s, and there is no such file", pattern)
			}
		}
	}
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") && placed[file] != 1 {
			t.Errorf("%s stands in %d rows of the rooms in CONTRIBUTING.md, want 1", file, placed[file])
		}
	}
}
