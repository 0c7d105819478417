// Package secret has values that must not be seen, and reads them from files.
package secret

import (
	"fmt"
	"log/slog"
)

// Secret is a value that must not be seen. It prints as "***" with every verb of fmt,
// in slog and in JSON; an empty one stays empty. fmt cannot reach the methods of an
// unexported field: a struct with such a Secret needs a Format of its own before
// it may be printed.
type Secret string

// Reveal returns the value itself, for use and not for display.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

func (s Secret) GoString() string             { return s.String() }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(s.String()) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Format covers the verbs that String does not: %d would show the value.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }
