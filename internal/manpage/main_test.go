package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMain has the tests run at the root of the repository, as go generate does.
func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestPageIsThatOfTheProgramAndItsDocument(t *testing.T) {
	t.Parallel()
	want, err := current()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is stale, run go generate (-want +got):\n%s", pageFile, diff)
	}
}

func TestPageIsWellFormed(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("mandoc")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("mandoc is missing: install Debian's package mandoc")
	} else if err != nil {
		t.Skip("mandoc is not installed: the manual page stays unchecked")
	}
	if out, err := exec.CommandContext(t.Context(), path, "-T", "lint", "-W", "warning", pageFile).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestMarkdownBecomesMacros(t *testing.T) {
	t.Parallel()
	const usage = "Usage: x\n\nIt runs; and so on.\n\n  -a     do a\n  -b it  do it\n"
	const document = "# Configuration\n\nFirst `a-b`,\nsee [this](that.md).\n\n- one\n  - two \\\n    more\n- three:\n\n  ```sh\n  .x 'y'\n  ```\n\n" +
		"| name | default | meaning |\n|---|---|---|\n| `A_B` | `1` | what |\n| `C` |  | other |\n\n## Another\n\nLast.\n"
	got, err := render(usage, document)
	if err != nil {
		t.Fatal(err)
	}
	got = strings.TrimSuffix(strings.TrimPrefix(got, head), tail)
	want := `It runs.
.SH OPTIONS
At most one.
.TP
\fB\-a\fR
Do a.
.TP
\fB\-b\ it\fR
Do it.
.SH ENVIRONMENT
First \fBa\-b\fR, see this.
.IP \(bu 2
one
.RS
.IP \(bu 2
two \e more
.RE
.IP \(bu 2
three:
.PP
.RS
.EX
\&.x \(aqy\(aq
.EE
.RE
.TP
\fBA_B\fR
What. Default: \fB1\fR.
.TP
\fBC\fR
Other.
.SH ANOTHER
Last.
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, faulty := range []string{"", "# Other\n\ntext", "# Configuration\n\n### deep\n", "# Configuration\n\n| a | b |\n"} {
		if _, err := render(usage, faulty); err == nil {
			t.Errorf("%q is no fault", faulty)
		}
	}
	if _, err := render("Usage: x\n", document); err == nil {
		t.Error("a usage without flags is no fault")
	}
}
