package main

// Holds the pages of docs/ against the program.

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

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
		"all connections":     {"less " + thousands(door.OtherFiles), thousands(2*door.ReservedVisitors) + " at least"},
		"control connections": {"less " + thousands(door.ReservedVisitors)},
		"other connections, and those that are not yet control connections": {thousands(door.MaxVisitors)},
		"a request":                                        {kib(door.MaxHeaderBytes + goHeaderSlop), fmt.Sprint(door.MaxHeaderLines, " lines"), seconds(door.RequestWithin) + " after its first byte"},
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
