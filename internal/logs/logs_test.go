package logs

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

func TestLogTextIsCutAt256Bytes(t *testing.T) {
	t.Parallel()
	exact := strings.Repeat("a", 256)
	if got := Loggable(exact); got != exact {
		t.Errorf("256 bytes became %d", len(got))
	}
	if got := Loggable(exact + "b"); got != exact+"…" {
		t.Errorf("257 bytes became %q", got)
	}
}

func TestJSONLinesStayTheSameRecords(t *testing.T) {
	t.Parallel()
	var escaped, plain bytes.Buffer
	line := []byte(`{"a":"é\n","b":"` + "\u009b\u202e\U000e0041\x7f" + `"}` + "\n")
	if n, err := (printableJSON{&escaped}).Write(line); n != len(line) || err != nil {
		t.Errorf("wrote %d of %d bytes, %v", n, len(line), err)
	}
	plain.Write(line)
	var want, got map[string]string
	if err := json.Unmarshal(plain.Bytes(), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(escaped.Bytes(), &got); err != nil || got["a"] != want["a"] || got["b"] != want["b"] {
		t.Errorf("%s became %s, %v", line, &escaped, err)
	}
	if strings.ContainsFunc(strings.TrimSpace(escaped.String()), func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%q", &escaped)
	}
}
