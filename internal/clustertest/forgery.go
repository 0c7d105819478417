package clustertest

import (
	"strings"
	"testing"
	"unicode"
)

// ForgedTime begins the lines that no daemon has written.
const ForgedTime = "2001-01-01"

// ArgumentNames are those of all messages, and two that no message has.
func ArgumentNames() []string {
	return []string{
		"Request-ID", "Stream-Channel", "Stream-Key", "User-IP", "Stream-ID", "Capacity", "Stream-Type", "Resolution", "Index-file",
		"Start-Time", "Error-Code", "Error-Message", "", "stream-channel",
	}
}

// WantOwnLines holds each line of a text log: it begins as the daemon begins lines, and shows every character in it.
func WantOwnLines(t testing.TB, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "time=2") || strings.HasPrefix(line, "time="+ForgedTime) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("a line of the log is not the daemon's own: %q", line)
		}
	}
}
