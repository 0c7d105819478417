package house

// The program and its tests work on macOS, too: what only Linux has stands in files for Linux, or does without.

import (
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// portable are uses of what only Linux has that do without, and how. The go vet of .ci/run sees names that another system does not have.
func portable() map[string]string {
	return map[string]string{
		"e2e/kill_test.go":                "/dev/shm: else a temporary directory",
		"internal/outbox/disk_test.go":    "/dev/shm: else a temporary directory",
		"internal/pgtest/pgtest.go":       "/dev/shm: else a temporary directory",
		"internal/pgserver/pgserver.go":   "/proc: else 0",
		"internal/pgstore/bench_test.go":  "/proc: else skipped",
		"internal/outbox/scale_test.go":   "/proc: else skipped",
		"internal/clustertest/process.go": "/proc: else skipped",
		"loadtest/child.go":               "/proc: else 0",
		"e2e/moves_test.go":               "127.0.0.2: only searched for",
		"loadtest/delivery_test.go":       "127.8.8.8: only parsed",
	}
}

// linuxOnly are files that only Linux has, addresses that lo has only there, and names of sockets that are in no file system.
var linuxOnly = regexp.MustCompile(`^(/proc|/dev/shm)(/|$)|^/sys/|(^|//)127\.(0\.0\.([02-9]|1\d)|0\.[1-9]|[1-9])|^@[a-z]+-`)

func TestNothingNeedsLinuxWithoutSayingSo(t *testing.T) {
	t.Parallel()
	set, found := token.NewFileSet(), map[string]bool{}
	eachGoFile(t, func(name string) {
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_linux.go") || strings.HasSuffix(name, "_linux_test.go") || hasConstraint(file, "linux") || strings.HasPrefix(name, "internal/house/") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.IfStmt: // if runtime.GOOS == "linux" {
				return !asksForSystem(n.Cond)
			case *ast.BasicLit:
				text, err := strconv.Unquote(n.Value)
				if n.Kind != token.STRING || err != nil || !linuxOnly.MatchString(text) {
					return true
				}
				found[name] = true
				if portable()[name] == "" {
					t.Errorf("%s: only Linux has %q", set.Position(n.Pos()), text)
				}
			}
			return true
		})
	})
	for name := range portable() {
		if !found[name] {
			t.Errorf("%s uses nothing that only Linux has any more", name)
		}
	}
}

func hasConstraint(file *ast.File, tag string) bool {
	for _, group := range file.Comments {
		for _, comment := range group.List {
			if expression, err := constraint.Parse(comment.Text); err == nil {
				return expression.Eval(func(t string) bool { return t == tag }) && !expression.Eval(func(string) bool { return false })
			}
		}
	}
	return false
}

func asksForSystem(condition ast.Expr) (asks bool) {
	ast.Inspect(condition, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		asks = asks || ok && selector.Sel.Name == "GOOS"
		return true
	})
	return asks
}

// eachGoFile calls do with the path of each Go file of the repository.
func eachGoFile(t *testing.T, do func(name string)) {
	t.Helper()
	files := 0
	eachFile(t, func(name string) {
		if strings.HasSuffix(name, ".go") {
			do(name)
			files++
		}
	})
	if files < 100 {
		t.Errorf("%d files were found: this test looks in the wrong place", files)
	}
}

func eachFile(t *testing.T, do func(name string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (path == ".git" || entry.Name() == "node_modules"):
			return filepath.SkipDir
		case !entry.IsDir():
			do(filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Many file systems of macOS take two names that differ in case for one.
func TestNoTwoFilesDifferInCaseOnly(t *testing.T) {
	t.Parallel()
	names := map[string]string{}
	eachFile(t, func(name string) {
		if other := names[strings.ToLower(name)]; other != "" {
			t.Errorf("%s and %s are one file on many disks", name, other)
		}
		names[strings.ToLower(name)] = name
	})
}
