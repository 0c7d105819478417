package main

// Holds the pages of docs/ against the program.

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"coordinator/internal/appclient"
	"coordinator/internal/buildinfo"
	"coordinator/internal/clustertest"
	"coordinator/internal/control"
	"coordinator/internal/door"
	"coordinator/internal/lease"
	"coordinator/internal/link"
	"coordinator/internal/outbox"
	"coordinator/internal/pgstore"

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
	m.exposeBuild(buildinfo.Info{})
	m.exposeLease(func() lease.Status { return lease.Status{} })
	m.newCommits()
	m.exposeFigures(func(context.Context) (pgstore.Figures, error) { return pgstore.Figures{}, nil })
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
func TestEachErrorCodeIsExplained(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	operate := read("docs/operate.md")
	codes := regexp.MustCompile(`Code = "([a-z_]+)"`).FindAllStringSubmatch(read("internal/httpjson/httpjson.go"), -1)
	listed := regexp.MustCompile(`[a-z_]+`).FindAllString(regexp.MustCompile(`(?s)code:\n.*?enum: \[(.*?)\]`).FindStringSubmatch(read("api/openapi.yaml"))[1], -1)
	if len(codes) == 0 || len(listed) != len(codes) {
		t.Errorf("%d codes, %d in the API document", len(codes), len(listed))
	}
	for _, code := range codes {
		if !strings.Contains(operate, "`"+code[1]+"`") || !slices.Contains(listed, code[1]) {
			t.Errorf("%s is not explained", code[1])
		}
	}
}

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
		"a connection to the application":                  {seconds(appclient.IdleTimeout), fmt.Sprintf("%d minutes", (appclient.PoolLife+3*appclient.AnswerTimeout)/time.Minute)},
		"an answer of the application":                     {seconds(appclient.AnswerTimeout), kib(appclient.MaxReplyBodyBytes)},
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

// TestGatewaysPageQuotesEachLogLine holds the tables of log lines against the code, both ways.
func TestGatewaysPageQuotesEachLogLine(t *testing.T) {
	t.Parallel()
	page := clustertest.ReadText(t, "docs/gateways.md")
	_, tables, _ := strings.Cut(page, "\n## What the log says\n")
	quoted := map[string]bool{}
	for i, part := range strings.Split(tables, "`") {
		if i%2 == 1 {
			quoted[part] = true
		}
	}
	files, err := filepath.Glob("internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{} // that a line may hold
	for _, file := range slices.Concat(files, []string{"gateways.go", "gatewaydaemon.go", "config.go"}) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ours := strings.HasPrefix(file, "internal/gateway/") || strings.HasPrefix(file, "internal/linkserver/") || strings.HasPrefix(file, "gateway")
		ast.Inspect(parsed, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					all[text] = true
				}
			}
			call, ok := n.(*ast.CallExpr)
			if !ok || !ours {
				return true
			}
			selector, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Info", "Warn", "Error", "Log", "say"}, selector.Sel.Name) {
				return true
			}
			if of, _ := selector.X.(*ast.Ident); of != nil && of.Name == "httpjson" {
				return true // an answer
			}
			for _, argument := range call.Args {
				literal, ok := argument.(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING {
					continue
				}
				if text, _ := strconv.Unquote(literal.Value); !quoted[text] {
					t.Errorf("docs/gateways.md does not quote %q of %s", text, file)
				}
				break // the first one is the message
			}
			return true
		})
	}
	for text := range quoted {
		known := all[text] || strings.Contains(text, "token's signature is wrong") || !strings.Contains(text, " ")
		for _, other := range []string{"connect: connection refused", "i/o timeout", "coordinator says:", "coordinator refuses:", "same_term=true"} {
			known = known || text == other
		}
		if status, hint, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(status, "coordinator answered with status ") {
			known = all[": "+hint]
		}
		if !known {
			t.Errorf("docs/gateways.md quotes %q, which the program never says", text)
		}
	}
	for _, text := range reasonsOf(t, "internal/linkserver/*.go", "internal/gateway/linking.go", "internal/gateway/active.go", "internal/gateway/keeper.go", "gateways.go") {
		if !quoted[text] {
			t.Errorf("docs/gateways.md does not name the reason %q", text)
		}
	}
}

// reasonsOf are the texts of errors that files declare, but for those that nobody sees.
func reasonsOf(t *testing.T, patterns ...string) (texts []string) {
	t.Helper()
	unseen := []string{"coordinator is stopping", "the gateway is lost", "its gateway is gone", "this gateway begins anew"}
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			for _, match := range regexp.MustCompile(`errors\.New\("([^"]+)"\)`).FindAllStringSubmatch(clustertest.ReadText(t, file), -1) {
				if !slices.Contains(unseen, match[1]) && !strings.HasSuffix(file, "_test.go") {
					texts = append(texts, match[1])
				}
			}
		}
	}
	return texts
}

func TestGatewaysPageHasTheLimitsOfTheProgram(t *testing.T) {
	t.Parallel()
	page := clustertest.ReadText(t, "docs/gateways.md")
	space := regexp.MustCompile(`[ \t]+`)
	for row, declared := range map[string]string{
		"| a publish request without an answer | 18 s |":                    "internal/gateway/keeper.go: answerWithin = 18 * time.Second",
		"| a command without a coordinator | 10 s; 256 wait":                "internal/gateway/forward.go: forwardWithin = 10 * time.Second; maxForwarded = 256",
		"that does not link after a start | 10 s |":                         "internal/linkserver/attend.go: graceClosed = 10 * time.Second",
		"| a gateway that is silent | 10 s, then absent; 30 s, then gone |": "internal/linkserver/attend.go: graceSilent = 30 * time.Second",
		"| 4 MiB for a peer |":                                              "internal/gateway/keeper.go: maxKept = 4 << 20",
		"| the same of all peers | 256 MiB |":                               "internal/gateway/keeper.go: maxKeptInAll = 256 << 20",
		"| what is sent and not acknowledged | 64 MiB on each link |":       "internal/linkserver/gateway.go: maxUnacknowledged = 64 << 20",
		"while it gathers | 256 MiB |":                                      "internal/linkserver/gathering.go: maxGathered = 256 << 20",
		"With a new `DATA_DIR` it takes 3 s":                                "internal/linkserver/gathering.go: gatherNew = 3 * time.Second",
		"| gateways | 1,024 | refused |":                                    "internal/linkserver/server.go: maxGateways = 1024",
		"| another store | 30 s |":                                          "internal/gateway/linking.go: otherStoreAfter = 30 * time.Second",
		"turns 503 after 20 s":                                              "internal/gateway/gateway.go: readyWithin = 20 * time.Second",
	} {
		if !strings.Contains(page, row) {
			t.Errorf("docs/gateways.md does not say %q", row)
		}
		file, values, _ := strings.Cut(declared, ": ")
		source := space.ReplaceAllString(clustertest.ReadText(t, file), " ")
		for value := range strings.SplitSeq(values, "; ") {
			if !strings.Contains(source, value) {
				t.Errorf("docs/gateways.md says %q, and %s no longer %s", row, file, value)
			}
		}
	}
}

func TestUpgradingPageHasTheNumbersOfTheProgram(t *testing.T) {
	t.Parallel()
	page := clustertest.ReadText(t, "docs/upgrading.md")
	constant := func(file, name string) string {
		t.Helper()
		match := regexp.MustCompile(`(?m)^\s*` + name + `\s*=\s*(\d+)(?:\s*//.*)?$`).FindStringSubmatch(clustertest.ReadText(t, file))
		if match == nil {
			t.Fatalf("%s has no constant %s", file, name)
		}
		return match[1]
	}
	outboxFormat, tables := constant("internal/outbox/storefile.go", "outboxVersion"), constant("internal/pgstore/database.go", "formatVersion")
	for _, text := range []string{
		"| `outbox.db` in `DATA_DIR` | format " + outboxFormat + " |",
		"`its format has version N, this program reads versions 1 to " + outboxFormat + "`",
		fmt.Sprintf("| links between gateways and coordinators | protocol %d, oldest %d |", link.Protocol, link.Oldest),
		"| tables in PostgreSQL | format " + tables + " |",
		"`the database has format N, and this version knows up to " + tables + ": update this coordinator`",
	} {
		if !strings.Contains(page, text) {
			t.Errorf("docs/upgrading.md does not say %q", text)
		}
	}
	if sql := clustertest.ReadText(t, "internal/pgstore/schema.sql"); !strings.Contains(sql, "INTO coordinator_format AS f (version) VALUES ("+tables+")") {
		t.Errorf("schema.sql makes tables of another format than %s", tables)
	}
	// What the page quotes is what the program says.
	for file, quoted := range map[string]string{
		"internal/outbox/storefile.go": "its format has version %d, this program reads versions 1 to %d",
		"internal/linkserver/hello.go": "no protocol that both sides speak: is one of them much older?",
		"internal/pgstore/database.go": "the database has format %d, and this version knows up to %d: update this coordinator",
	} {
		if !strings.Contains(clustertest.ReadText(t, file), quoted) {
			t.Errorf("%s no longer says %q", file, quoted)
		}
	}
}
