package main

// Holds the README and the pages of docs/ against the program and the example.

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"coordinator/internal/clustertest"
	"coordinator/internal/control"
	"coordinator/internal/door"
	"coordinator/internal/outbox"

	"github.com/google/go-cmp/cmp"
)

func TestConfigurationListsEveryVariableOnce(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/configuration.md")
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
		t.Errorf("variables of the code (-) and of docs/configuration.md (+):\n%s", diff)
	}
}

func TestOperateListsEveryMetricWithItsLabels(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/operate.md")
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
					t.Errorf("docs/operate.md does not know label %s of %s", label.GetName(), family.GetName())
				}
				named := label.GetName() != "method" && family.GetName() != "coordinator_build_info"
				if named && !strings.Contains(row, "`"+label.GetValue()+"`") {
					t.Errorf("docs/operate.md does not know %s %s of %s", label.GetName(), label.GetValue(), family.GetName())
				}
			}
		}
	}
	if diff := cmp.Diff(exposed, slices.Sorted(maps.Keys(rows))); diff != "" {
		t.Errorf("metrics of the code (-) and of docs/operate.md (+):\n%s", diff)
	}
}

func TestDocumentsShowTheExampleApplicationAsItIs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/application.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("examples/application.py")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```python\n"+string(example)+"```\n") {
		t.Error("docs/application.md shows another application than examples/application.py")
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

// TestLimitsAreThoseOfTheProgram: other tests read a limit from the constant that they test, so this is the one that sees
// a limit change.
func TestLimitsAreThoseOfTheProgram(t *testing.T) {
	t.Parallel()
	page := clustertest.ReadText(t, "docs/guarantees.md")
	_, table, _ := strings.Cut(page, "\n## Limits\n")
	rows := map[string]string{}
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, " | "); len(cells) >= 3 {
			rows[strings.TrimPrefix(cells[0], "| ")] = cells[1]
		}
	}
	thousands := func(n int) string {
		if n < 1000 {
			return strconv.Itoa(n)
		}
		return fmt.Sprintf("%d,%03d", n/1000, n%1000)
	}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%d s", d/time.Second) }
	kib := func(n int) string { return fmt.Sprintf("%d KiB", n>>10) }
	const goHeaderSlop = 4 << 10 // net/http allows so much more than MaxHeaderBytes
	for what, parts := range map[string][]string{
		"all connections":     {"less " + thousands(door.OtherFiles), thousands(2*door.KeptVisitors) + " at least"},
		"control connections": {"less " + thousands(door.KeptVisitors)},
		"other connections, and those that are not yet control connections": {thousands(door.MaxVisitors)},
		"a request":                                        {kib(door.MaxHeaderBytes + goHeaderSlop), seconds(door.RequestWithin) + " after its first byte"},
		"a connection without a request":                   {seconds(door.IdleLimit)},
		"message of a peer":                                {kib(control.MaxMessageBytes)},
		"messages that a peer does not read":               {fmt.Sprintf("%d MiB", control.MaxQueuedBytes>>20), seconds(control.SendLimit)},
		"silence of a peer":                                {seconds(control.SilenceLimit), "every " + seconds(control.HeartbeatEvery)},
		"publish requests that wait for the application":   {thousands(maxPendingPublishes), thousands(maxVerifyRequests) + " are asked", thousands(maxServerVerifications) + " for one"},
		"publish requests that wait for a slot":            {thousands(maxWaitingRequests)},
		"publish requests that wait for the end of a ping": {thousands(maxHeldRequests)},
		"what an encoder announces":                        {"index file " + kib(longestIndexFile), fmt.Sprintf("%d bytes", longestDetail)},
		"event requests at a time":                         {thousands(outbox.MaxInFlight)},
		"a connection to the application":                  {seconds(idleTimeout), fmt.Sprintf("%d minutes", (poolLife+3*answerTimeout)/time.Minute)},
		"an answer of the application":                     {seconds(answerTimeout), kib(maxReplyBodyBytes)},
	} {
		row, found := rows[what]
		if !found {
			t.Errorf("docs/guarantees.md has no limit for %q", what)
		}
		delete(rows, what)
		for _, part := range parts {
			if found && !strings.Contains(row, part) {
				t.Errorf("%s: docs/guarantees.md says %q, the program %q", what, row, part)
			}
		}
	}
	delete(rows, "what")
	delete(rows, "---")
	for what := range rows {
		t.Errorf("no test holds the limit of %q", what)
	}
	for text, holds := range map[string]bool{
		"within 18 s":              answerWithin+expireEvery == 18*time.Second,
		"1, 2, 4, 8 and 16 s":      firstKillAgain == time.Second && killsAgain == 5,
		"After 30 s the publisher": killPatience == 30*time.Second,
		"within 5 s of it":         control.ProbeLimit == 5*time.Second,
	} {
		if !holds || !strings.Contains(page, text) {
			t.Errorf("docs/guarantees.md and the program differ about %q", text)
		}
	}
}
