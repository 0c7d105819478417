package house

// The documents, by themselves: their length, their links, and the example that they show.

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"coordinator/internal/clustertest"
)

func TestDocumentsShowTheExampleApplicationAsItIs(t *testing.T) {
	t.Parallel()
	page, example := clustertest.ReadText(t, "docs/application.md"), clustertest.ReadText(t, "examples/application.py")
	_, shown, found := strings.Cut(page, "```python\n")
	shown, _, _ = strings.Cut(shown, "```\n")
	if !found || !strings.Contains(shown, "x-event-id") || !strings.Contains(example, shown) {
		t.Errorf("docs/application.md shows what is not in examples/application.py:\n%s", shown)
	}
}

func TestReadmeIsShort(t *testing.T) {
	t.Parallel()
	const most = 10 << 10
	if size := len(clustertest.ReadText(t, "README.md")); size > most {
		t.Errorf("README.md has %d bytes, want at most %d: what is not needed at first belongs to docs/", size, most)
	}
}

// TestLinksLeadSomewhere goes through the links of all documents to files and headings of this repository.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, "README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
	link := regexp.MustCompile(`\]\(([^)]+)\)|(?:src|srcset)="([^"]+)"`)
	found := 0
	for _, page := range pages {
		for _, match := range link.FindAllStringSubmatch(clustertest.ReadText(t, page), -1) {
			target := match[1] + match[2]
			if strings.Contains(target, "://") {
				continue
			}
			found++
			file, anchor, _ := strings.Cut(target, "#")
			if path := filepath.Join(filepath.Dir(page), file); file != "" {
				if _, err := os.Stat(path); err != nil {
					t.Errorf("%s links to %s: %v", page, target, err)
					continue
				}
				file = path
			} else {
				file = page
			}
			if anchor != "" && !slices.Contains(anchors(clustertest.ReadText(t, file)), anchor) {
				t.Errorf("%s links to %s: there is no such heading", page, target)
			}
		}
	}
	if found < 20 {
		t.Errorf("%d links were found: this test looks in the wrong place", found)
	}
}

// anchors are those that GitHub gives to the headings of a page.
func anchors(page string) (list []string) {
	for line := range strings.Lines(page) {
		heading := strings.TrimLeft(line, "#")
		if heading == line || !strings.HasPrefix(heading, " ") {
			continue
		}
		list = append(list, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(heading)))
	}
	return list
}
