package main

// The rules of the house that a compiler can't hold inside one package: which file may use which, and that the
// operator's manual and the configuration name the same variables.

import (
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// allowedUses says for each file whose declarations it may use: only what stands below it here. A new file needs an
// entry. The registry is one room of five files, which use one another and nothing else.
func allowedUses() map[string][]string {
	registry := []string{"registry.go", "lives.go", "placement.go", "failover.go", "snapshot.go"}
	allowed := map[string][]string{
		"main.go":        {"routes.go", "commands.go", "control.go", "coordinator.go", "keyverify.go", "callbacks.go", "tls.go", "config.go"},
		"routes.go":      {"commands.go", "control.go", "config.go"},
		"control.go":     {"peers.go", "session.go", "commands.go", "coordinator.go", "registry.go", "config.go"}, // of commands.go: how errors are written
		"commands.go":    {"coordinator.go", "snapshot.go"},
		"peers.go":       {"session.go", "message.go", "coordinator.go", "registry.go"},
		"session.go":     {"message.go", "coordinator.go"},
		"coordinator.go": append([]string{"keyverify.go", "profile.go", "callbacks.go", "config.go"}, registry...),
		"keyverify.go":   {"appclient.go", "profile.go", "config.go"},
		"callbacks.go":   {"appclient.go", "registry.go", "config.go"}, // of registry.go: what an event is
		"appclient.go":   {"config.go"},
		"tls.go":         {},
		"message.go":     {},
		"profile.go":     {},
		"config.go":      {},
	}
	for _, file := range registry {
		allowed[file] = registry
	}
	return allowed
}

func TestFilesUseOnlyWhatIsBelowThem(t *testing.T) {
	t.Parallel()
	allowed := allowedUses()
	uses := fileUses(t)
	for file, used := range uses {
		may, known := allowed[file]
		if !known {
			t.Errorf("%s has no entry in allowedUses", file)
		}
		for other, names := range used {
			if !slices.Contains(may, other) {
				t.Errorf("%s must not use %s, but does: %s", file, other, strings.Join(slices.Sorted(maps.Keys(names)), ", "))
			}
		}
	}
	for file := range allowed {
		if uses[file] == nil {
			t.Errorf("allowedUses names %s, which does not exist", file)
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
