package house

// Where secrets may be compared.

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// Constant time by construction: a secret is compared in one function, over digests of one length, or by the JWT
// library's HMAC. Elsewhere only its being set is asked for.
func TestSecretsAreComparedInOnePlace(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	inside, err2 := filepath.Glob("internal/*/*.go")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	reveals := 0
	for _, name := range append(files, inside...) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && isReveal(call) {
				reveals++
			}
			if compared, ok := n.(*ast.BinaryExpr); ok && (compared.Op == token.EQL || compared.Op == token.NEQ) {
				ast.Inspect(compared, func(n ast.Node) bool {
					call, ok := n.(*ast.CallExpr)
					if ok && isReveal(call) {
						t.Errorf("%s: a secret is compared", set.Position(call.Pos()))
					}
					return !ok || !isSameSecret(call)
				})
			}
			return true
		})
	}
	if reveals == 0 {
		t.Error("no secret is used anywhere: this test looks for the wrong name")
	}
}

func isReveal(call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	return ok && selector.Sel.Name == "Reveal"
}

func isSameSecret(call *ast.CallExpr) bool {
	name, ok := call.Fun.(*ast.Ident)
	return ok && name.Name == "sameSecret"
}
