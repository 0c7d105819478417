package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// secretVariables are those that can come from a file, with what else must be set for them to count.
func secretVariables() map[string]settings {
	all := map[string]settings{"CONTROL_SECRET": {}, "GATEWAY_SECRET": {}, "KEY_VERIFICATION_URL": {}, "EVENT_CALLBACK_URL": {}}
	for _, prefix := range []string{"KEY_VERIFICATION_", "EVENT_CALLBACK_", "COMMANDS_API_"} {
		auth := prefix + "AUTH"
		all[auth+"_PASSWORD"] = settings{auth: "Basic", auth + "_USER": "u"}
		all[auth+"_TOKEN"] = settings{auth: "Bearer"}
		if prefix != "COMMANDS_API_" {
			all[prefix+"PASSWORD"] = settings{auth: "Basic", auth + "_USER": "u"}
			all[auth+"_CUSTOM"] = settings{auth: "Custom"}
		}
	}
	return all
}

func (s settings) with(name, value string) settings {
	more := maps.Clone(s)
	more[name] = value
	return more
}

func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), hidden)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEverySecretCanComeFromAFile(t *testing.T) {
	t.Parallel()
	const value = "http://u:p@app/secrets-of-32-bytes"
	for name, rest := range secretVariables() {
		want, err := loadConfig(rest.with(name, value).get)
		if err != nil {
			t.Fatal(err)
		}
		got, err := loadConfig(rest.with(name+"_FILE", secretFile(t, value+" \r\n")).get)
		if err != nil {
			t.Fatal(err)
		}
		if diff := diffConfig(want, got); diff != "" {
			t.Errorf("%s from a file: %s", name, diff)
		}
		if diffConfig(defaultConfig(), got) == "" {
			t.Errorf("%s from a file changes nothing", name)
		}
	}
}

func TestNoOtherVariableComesFromAFile(t *testing.T) {
	t.Parallel()
	var want []string
	for name := range secretVariables() {
		want = append(want, name+"_FILE")
	}
	got := slices.DeleteFunc(configNames(), func(name string) bool { return !strings.HasSuffix(name, "_FILE") })
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSecretFileThatCannotBeUsedIsAFaultOfItsVariableAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), hidden)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"missing":   filepath.Join(dir, "none"),
		"directory": dir,
		"pasted":    "-----BEGIN\n" + hidden + "\x00",
		"empty":     secretFile(t, ""),
		"blank":     secretFile(t, " \n\t\n"),
		"too large": secretFile(t, strings.Repeat(hidden, maxSecretFileBytes/len(hidden)+1)),
	}
	for name, rest := range secretVariables() {
		for _, file := range files {
			wantFaults(t, rest.with(name+"_FILE", file), name+"_FILE")
		}
		wantFaults(t, rest.with(name, hidden).with(name+"_FILE", files["missing"]), name+"_FILE")
	}
}

func TestSecretFileOfTheLargestSizeIsRead(t *testing.T) {
	t.Parallel()
	value := strings.Repeat("x", maxSecretFileBytes)
	cfg, err := loadConfig(settings{"CONTROL_SECRET_FILE": secretFile(t, value)}.get)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.ControlSecret.Reveal() != value {
		t.Errorf("%d bytes are read", len(cfg.ControlSecret))
	}
}

func TestByteOrderMarkOfASecretFileIsDropped(t *testing.T) {
	t.Parallel()
	cfg, err := loadConfig(settings{"CONTROL_SECRET_FILE": secretFile(t, byteOrderMark+" "+hidden+"\r\n")}.get)
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.ControlSecret.Reveal(); got != hidden {
		t.Errorf("the secret is %q", got)
	}
	wantFaults(t, settings{"CONTROL_SECRET_FILE": secretFile(t, byteOrderMark+"\n")}, "CONTROL_SECRET_FILE")
}

func TestFaultInASecretFromAFileNamesTheVariable(t *testing.T) {
	t.Parallel()
	wantFaults(t, settings{"KEY_VERIFICATION_URL_FILE": secretFile(t, "ftp://"+hidden)}, "KEY_VERIFICATION_URL")
}

// Constant time by construction: a secret is compared in one function, over digests of one length, or by the JWT
// library's HMAC. Elsewhere only its being set is asked for.
func TestSecretsAreComparedInOnePlace(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	reveals := 0
	for _, name := range files {
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
	for _, test := range []struct {
		given, wanted string
		same          int
	}{{"", "", 1}, {"a", "a", 1}, {"a", "b", 0}, {"a", "", 0}, {"aa", "a", 0}, {"a", "aa", 0}, {strings.Repeat("a", 1<<16), "a", 0}} {
		if got := sameSecret(test.given, test.wanted); got != test.same {
			t.Errorf("%.5q and %.5q: %d", test.given, test.wanted, got)
		}
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
