package house

// The rule of the house that a compiler can't hold inside one package: which file may use which.

import (
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layers is the house from top to bottom. A layer has groups of files; a file may use its own group and the layers
// below. What stands in the last layer knows nothing of the rest: the registry among it, which is one room of several
// files.
func layers() [][][]string {
	registry, err := filepath.Glob("registry*.go")
	if err != nil {
		panic(err) // a malformed pattern
	}
	registry = slices.DeleteFunc(registry, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	return [][][]string{
		{{"main.go", "cli.go"}},
		{{"standby.go"}},
		{{"daemon.go", "gatewaydaemon.go"}},
		{{"term.go"}},
		{{"routes.go", "gatewayroutes.go"}},
		{{"operator.go", "events.go"}},
		{{"gateways.go", "gatewaysession.go", "passing.go"}},
		{{"peers.go"}},
		{{"commands.go"}},
		{{"coordinator.go", "figures.go", "notices.go"}},
		{{"keyverify.go"}, {"callbacks.go"}, {"metrics.go", "gatewaymetrics.go", "databasemetrics.go"}},
		{
			registry,
			{"config.go"}, {"tls.go"}, {"mandate.go"},
		},
	}
}

func TestFilesUseOnlyWhatIsBelowThem(t *testing.T) {
	t.Parallel()
	type position struct{ layer, group int }
	positions := map[string]position{}
	for l, layer := range layers() {
		for g, group := range layer {
			for _, file := range group {
				positions[file] = position{l, g}
			}
		}
	}
	uses := fileUses(t)
	for file, used := range uses {
		here, known := positions[file]
		if !known {
			t.Errorf("%s stands nowhere in layers", file)
			continue
		}
		for other, names := range used {
			if there := positions[other]; there != here && there.layer <= here.layer {
				t.Errorf("%s must not use %s, but does: %s", file, other, strings.Join(slices.Sorted(maps.Keys(names)), ", "))
			}
		}
	}
	for file := range positions {
		if uses[file] == nil {
			t.Errorf("layers name %s, which does not exist", file)
		}
	}
}

// fileUses maps each file of the program to the files whose declarations it uses, and those to the names used.
func fileUses(t *testing.T) map[string]map[string]map[string]bool {
	t.Helper()
	listed := goList(t, "-f", "{{range .GoFiles}}{{.}} {{end}}", ".")
	set := token.NewFileSet()
	var files []*ast.File
	uses := map[string]map[string]map[string]bool{}
	for _, name := range strings.Fields(listed) {
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		uses[name] = map[string]map[string]bool{}
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: importer.ForCompiler(set, "gc", exportData(t))}
	program, err := config.Check("main", set, files, info)
	if err != nil {
		t.Fatal(err)
	}
	for ident, object := range info.Uses {
		if object.Pkg() != program {
			continue
		}
		file := filepath.Base(set.Position(ident.Pos()).Filename)
		if home := filepath.Base(set.Position(object.Pos()).Filename); home != file {
			if uses[file][home] == nil {
				uses[file][home] = map[string]bool{}
			}
			uses[file][home][object.Name()] = true
		}
	}
	return uses
}

// exportData finds what the go command has compiled of the packages that the program imports.
func exportData(t *testing.T) importer.Lookup {
	t.Helper()
	exports := map[string]string{}
	for line := range strings.Lines(goList(t, "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", ".")) {
		if path, file, _ := strings.Cut(strings.TrimSpace(line), " "); file != "" {
			exports[path] = file
		}
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A number of seconds since 1970 has no monotonic reading: whoever keeps a deadline or an age in one waits for as long as
// the clock was set back.
func TestTimesAreKeptAsNumbersOnlyWhereTheyAreNoDeadlines(t *testing.T) {
	t.Parallel()
	allowed := map[string]string{
		"coordinator.go":                "identities that no later process gives again",
		"registry_lives.go":             "shown",
		"metrics.go":                    "shown",
		"operator.go":                   "order of lists",
		"notices.go":                    "shown",
		"registry_snapshot.go":          "shown",
		"registry_restore.go":           "in memos of an earlier process: told as a duration",
		"gateways.go":                   "shown",
		"internal/gateway/peers.go":     "shown",
		"internal/clustertest/clock.go": "readings of a clock that was set, for tests",
		"internal/timeline/record.go":   "shown",
		"internal/timeline/timeline.go": "shown",
		"internal/outbox/record.go":     "on disk",
		"internal/pgstore/group.go":     "in the database",
		"internal/pgstore/store.go":     "in the database",
		"internal/token/claims.go":      "dates that peers sign, of their wall clocks",
	}
	names, err := filepath.Glob("*.go")
	inside, err2 := filepath.Glob("internal/*/*.go")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	set, found := token.NewFileSet(), map[string]bool{}
	for _, name := range append(names, inside...) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			selector, ok := n.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Unix", "UnixMilli", "UnixMicro", "UnixNano"}, selector.Sel.Name) {
				return true
			}
			found[name] = true
			if allowed[name] == "" {
				t.Errorf("%s: %s loses the monotonic reading", set.Position(selector.Pos()), selector.Sel.Name)
			}
			return true
		})
	}
	for name := range allowed {
		if !found[name] {
			t.Errorf("%s keeps no time as a number any more", name)
		}
	}
}
