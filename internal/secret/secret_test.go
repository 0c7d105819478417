package secret

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const hidden = "hunter2"

func TestSecretRevealsItsValueAndEmptyStaysEmpty(t *testing.T) {
	t.Parallel()
	if got := Secret(hidden).Reveal(); got != hidden {
		t.Errorf("Reveal gives %q", got)
	}
	if got := Secret(hidden).GoString() + Secret(hidden).String(); got != "******" {
		t.Errorf("GoString and String give %q", got)
	}
	empty := Secret("")
	if got := fmt.Sprintf("%v%s%#v", empty, empty, empty) + empty.LogValue().String(); got != "" {
		t.Errorf("an empty secret prints as %q", got)
	}
	if encoded, err := json.Marshal(empty); err != nil || string(encoded) != `""` {
		t.Errorf("an empty secret is encoded as %s, error %v", encoded, err)
	}
}

func TestFileHoldsASecretAndWhatStandsAroundItIsDropped(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("x", maxFileBytes)
	for content, want := range map[string]string{
		hidden:                                hidden,
		" " + hidden + " " + hidden + " \r\n": hidden + " " + hidden,
		byteOrderMark + " " + hidden + "\r\n": hidden,
		longest:                               longest,
	} {
		got, err := ReadFile(write(t, content))
		if err != nil {
			t.Errorf("%.20q: %v", content, err)
		} else if got.Reveal() != want {
			t.Errorf("%.20q: %d bytes are read, %.20q", content, len(got), got.Reveal())
		}
	}
}

func TestFileThatCannotBeUsedIsAnErrorThatShowsNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), hidden)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"):       "names a file that cannot be read: no such file or directory",
		dir:                              "names a file that cannot be read: not a regular file, but a directory",
		"-----BEGIN\n" + hidden + "\x00": "names a file that cannot be read: invalid argument",
		write(t, ""):                     "names an empty file",
		write(t, " \n\t\n"):              "names an empty file",
		write(t, byteOrderMark+"\n"):     "names an empty file",
		write(t, strings.Repeat("x", maxFileBytes)+"\n"): "names a file of more than 64 KiB",
	} {
		if got, err := ReadFile(path); got != "" || err == nil || err.Error() != want {
			t.Errorf("%q: %d bytes and %v, want %s", path, len(got), err, want)
		}
	}
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), hidden)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
