package dotenv

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hidden stands in every value that no fault may show.
const hidden = "hunter2"

func TestDotEnvFillsInWhatTheEnvironmentLeavesOut(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), ".env")
	write(t, path, "HTTP_PORT=8080\nSSL_PORT=8443\n# note\nCONTROL_SECRET='pa$$ #1'\nDATA_DIR=other")
	getenv, names, err := Fill(path, func(name string) (string, bool) {
		value, ok := map[string]string{"HTTP_PORT": "9090", "DATA_DIR": ""}[name]
		return value, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"HTTP_PORT":      "9090", // the environment wins
		"DATA_DIR":       "",     // also when it is set to nothing
		"SSL_PORT":       "8443",
		"CONTROL_SECRET": "pa$$ #1",
		"BIND_ADDRESS":   "",
	} {
		if got := getenv(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if diff := cmp.Diff([]string{"CONTROL_SECRET", "DATA_DIR", "HTTP_PORT", "SSL_PORT"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestDotEnvMayBeMissing(t *testing.T) {
	t.Parallel()
	getenv, _, err := Fill(filepath.Join(t.TempDir(), ".env"), func(name string) (string, bool) { return name + " of the environment", true })
	if err != nil {
		t.Fatal(err)
	}
	if got := getenv("A"); got != "A of the environment" {
		t.Errorf("got %q", got)
	}
}

func TestDotEnvFaultNamesThePathAndNotTheContents(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i, contents := range []string{
		"KEY " + hidden + "\nA=b\n",
		"A-B=" + hidden + "\n",
		"A='" + hidden + "\n",
		"A=b\n" + hidden,
		"=" + hidden,
	} {
		path := filepath.Join(dir, fmt.Sprint(i, ".env"))
		write(t, path, contents)
		wantFault(t, path)
	}
	wantFault(t, dir) // a directory cannot be read as a file
}

// What godotenv would cut or change is refused, with the number of its line.
func TestDotEnvLineOfTwoMeaningsIsAFault(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		`A="%s\""`, `A="%s\\"`, `A="a\\$%s"`, `A="C:\dir%s"`, `A="%s" y`, `A="%s"#c`, `A="%s`, `A='%s`, `A='x'%s=z`, `A='%s\'b'`, `A='x' 'y'%s`,
		`A B=%s`, `1A=%s`, `A-B=%s`, `A: %s`, `A%s`, `=%s`, "A=%s\xff", "A\xff=%s", "A=%s\u00a0", "A=\u00a0%s", "A=a\r%s", "A= #%s", "A=%s\u0085b", "A=b # c # %s",
		"A='x\n%s'", "A=\"x\n%s\"", "A=b\nA=%s",
		`A='%s\'`, "A='%s\\'\nB='c'", "A='%s\\' # the peers'", "COORDINATOR_DOLLAR=%s", "export =%s", "# a\rA=%s", "A='x' # c\rB=%s",
	} {
		path := filepath.Join(t.TempDir(), ".env")
		line = strings.Replace(line, "%s", hidden, 1)
		write(t, path, "# note\nX=y\n"+line+"\n")
		_, _, err := Fill(path, func(string) (string, bool) { return "", false })
		if err == nil || !strings.Contains(err.Error(), path+", line ") || strings.Contains(err.Error(), hidden) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// meaningOf reads a value between double quotes.
func meaningOf(quoted string) string {
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n", `\r`, "\r", `\$`, "$").Replace(quoted[1 : len(quoted)-1])
}

// Every value of a few characters that matter: it is taken for what it says, or refused.
func TestDotEnvValueIsWhatItSaysOrAFault(t *testing.T) {
	t.Parallel()
	const alphabet = "an\\\"'$# "
	accepted := 0
	check := func(text, want string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), ".env")
		write(t, path, "A="+text+"\nB='c' # it's \"\n")
		file, err := read(path)
		if err != nil {
			return
		}
		accepted++
		if got := strings.ReplaceAll(file["A"], dollarMark, "$"); got != want || file["B"] != "c" || len(file) != 2 {
			t.Errorf("%q becomes %q, want %q; all: %q", text, got, want, file)
		}
	}
	var values func(prefix string, left int)
	values = func(prefix string, left int) {
		if !strings.Contains(regexp.MustCompile(`\\.`).ReplaceAllString(prefix, ""), `"`) {
			check(`"`+prefix+`"`, meaningOf(`"`+prefix+`"`))
		}
		if !strings.Contains(prefix, "'") {
			check("'"+prefix+"'", prefix)
		}
		if bare := strings.Trim(prefix, " "); bare != "" && !strings.ContainsAny(bare, `#$\`) && !strings.ContainsAny(bare[:1], `'"`) {
			check(prefix, bare)
		}
		for _, c := range alphabet {
			if left > 0 {
				values(prefix+string(c), left-1)
			}
		}
	}
	values("", 4)
	if accepted < 4000 {
		t.Errorf("only %d values were accepted", accepted)
	}
}

func write(t *testing.T, path, contents string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(contents), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantFault(t *testing.T, path string) {
	t.Helper()
	_, _, err := Fill(path, func(string) (string, bool) { return "", false })
	switch {
	case err == nil:
		t.Errorf("%s is accepted", path)
	case !strings.Contains(err.Error(), path), strings.Contains(err.Error(), hidden):
		t.Errorf("%s: %v", path, err)
	}
}

// getenvWith reads a .env file of that content beside an environment.
func getenvWith(t *testing.T, content string, environ map[string]string) func(string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), ".env")
	write(t, path, content)
	getenv, _, err := Fill(path, func(name string) (string, bool) {
		value, ok := environ[name]
		return value, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	return getenv
}

func TestDotEnvFillsInNamesFromTheFileAndFromTheEnvironment(t *testing.T) {
	t.Parallel()
	environ := map[string]string{"HOST": "env.example", "RAW": "a$HOST${HOST}\\$", "BOTH": "environment", "EMPTY": ""}
	const above = "ABOVE=above\nBOTH=file\nA1_=digits\n"
	for value, want := range map[string]string{
		"$ABOVE":               "above",
		"${ABOVE}":             "above",
		"x$ABOVE.y":            "xabove.y",
		"x${ABOVE}y":           "xabovey",
		"{$ABOVE}":             "{above}", // the library would eat the brace
		"$A1_-${A1_}":          "digits-digits",
		"$ABOVE$HOST":          "aboveenv.example",
		"http://$HOST/$BELOW":  "http://env.example/below",
		"$BOTH":                "environment",
		"$EMPTY":               "",
		"$RAW":                 "a$HOST${HOST}\\$",
		"$INDIRECT":            "<above>",
		`"$ABOVE"`:             "above",
		`"a b ${HOST} #"`:      "a b env.example #",
		`"$ABOVE\n$HOST"`:      "above\nenv.example",
		`'$ABOVE'`:             "$ABOVE",
		`'${ABOVE}\$HOST$'`:    `${ABOVE}\$HOST$`,
		`'$UPER5ECRET'`:        "$UPER5ECRET",
		`\$UPER5ECRET`:         "$UPER5ECRET",
		`"\$UPER5ECRET"`:       "$UPER5ECRET",
		`\${ABOVE}`:            "${ABOVE}",
		`a\$$ABOVE`:            "a$above",
		"$":                    "$",
		"a$":                   "a$",
		"$$":                   "$$",
		"pa$$word":             "pa$$word",
		"$lower":               "$lower",
		"$(ABOVE)":             "$(ABOVE)",
		"$ABOVE # $UPER5ECRET": "above",
		"$ABOVE#$HOST":         "above#env.example",
	} {
		getenv := getenvWith(t, above+"INDIRECT=<$ABOVE>\nCONTROL_SECRET="+value+"\nBELOW=below\n", environ)
		if got := getenv("CONTROL_SECRET"); got != want {
			t.Errorf("%s becomes %q, want %q", value, got, want)
		}
	}
}

func TestValueWithANameThatIsSetNowhereDangles(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		"$HUNTER2", "${HUNTER2}", `"pa$HUNTER2"`, "pa$5ecret", "$Hunter2", "$HOST$HUNTER2", "$INDIRECT", "$CONTROL_SECRET", "$LOOP", "$$HUNTER2", "{$HUNTER2}",
		"${lower}", "${}", "${HOST", "${HOST:-hunter2}", "pa$HOSTile", `"${HOST:-x}"`,
	} {
		content := "CONTROL_SECRET=" + value + "\nINDIRECT=x$HUNTER2\nLOOP=$POOL\nPOOL=$LOOP\nHOST=h\n"
		if got := getenvWith(t, content, nil)("CONTROL_SECRET"); got != Dangling {
			t.Errorf("%s becomes %q", value, got)
		}
	}
}

func TestByteOrderMarkIsDropped(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"", "# a note\n", "\r\n"} {
		if got := getenvWith(t, byteOrderMark+first+"HTTP_PORT=8080\n", nil)("HTTP_PORT"); got != "8080" {
			t.Errorf("%q: HTTP_PORT is %q", first, got)
		}
	}
}
