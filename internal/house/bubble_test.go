package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"
)

// A test that sleeps by the real clock is slow on a good day and fails on a bad one. In a bubble of testing/synctest a
// sleep takes no time, and ends when all that could happen has happened.
func TestTestsSleepInBubblesOnly(t *testing.T) {
	t.Parallel()
	var names []string
	for _, pattern := range []string{"*_test.go", "*/*_test.go", "*/*/*_test.go", "loadtest/*.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	set, inBubbles := token.NewFileSet(), 0
	for _, name := range names {
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		bubbles := callsOf(file, "synctest", "Test")
		for _, sleep := range callsOf(file, "time", "Sleep") {
			inside := false
			for _, bubble := range bubbles {
				inside = inside || bubble.Pos() < sleep.Pos() && sleep.End() <= bubble.End()
			}
			if !inside {
				t.Errorf("%s: time.Sleep outside of synctest.Test: await the event", set.Position(sleep.Pos()))
			} else {
				inBubbles++
			}
		}
	}
	if inBubbles == 0 {
		t.Error("no sleep was found: this test looks in the wrong place")
	}
}

func callsOf(file *ast.File, pkg, function string) (calls []*ast.CallExpr) {
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if selector, ok := call.Fun.(*ast.SelectorExpr); ok && selector.Sel.Name == function {
			if ident, ok := selector.X.(*ast.Ident); ok && ident.Name == pkg {
				calls = append(calls, call)
			}
		}
		return true
	})
	return calls
}
