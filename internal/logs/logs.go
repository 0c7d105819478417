// Package logs writes the log: one line for each record, in which nobody can forge anything; a writer that waits for no
// reader; and lines about strangers, of which nobody can cause many.
package logs

// The log: one line for each record, and nothing in it that a terminal or a reader of lines would take for more than
// text. Both handlers of log/slog escape line breaks and the ASCII controls; the text handler escapes every other
// character that does not print, too, and here the JSON lines get the same.

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// New returns a log that writes lines to w, as JSON or as text, with debug lines or without.
func New(w io.Writer, json, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: level}
	if json {
		return slog.New(slog.NewJSONHandler(printableJSON{w}, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// printableJSON writes JSON lines with every character escaped that does not print: C1 controls, which begin escape
// sequences like ESC does, and those that turn the direction of writing. They stand in strings only (RFC 8259, 7).
type printableJSON struct{ w io.Writer }

func (p printableJSON) Write(line []byte) (int, error) {
	if isPlain(line) {
		return p.w.Write(line)
	}
	var out strings.Builder
	for _, r := range string(line) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	if _, err := io.WriteString(p.w, out.String()); err != nil {
		return 0, err
	}
	return len(line), nil
}

// isPlain tells whether all is printable ASCII, as nearly every line is.
func isPlain(line []byte) bool {
	for _, b := range line {
		if b >= utf8.RuneSelf || b == 0x7f {
			return false
		}
	}
	return true
}

// Loggable makes text from a peer safe to log: it is cut to 256 bytes, and what follows "://" is masked, because encoders
// quote source URIs, which contain stream keys.
func Loggable(text string) string {
	const longest = 256
	if len(text) > longest {
		text = text[:longest] + "…"
	}
	for from := 0; ; {
		i := strings.Index(text[from:], "://")
		if i < 0 {
			return text
		}
		start := from + i + len("://")
		end := start + len(text[start:])
		if j := strings.IndexAny(text[start:], " \t\r\n\"'"); j >= 0 {
			end = start + j
		}
		text = text[:start] + "***" + text[end:]
		from = start + len("***")
	}
}
