// Package wire is the format of the messages on a control connection: a method, then Name:value lines, ended by an
// empty line. It knows nothing of what the methods mean, and does no I/O.
//
// Parse is lenient, because peers write "Name:value" or "Name: value". Append is strict: there are peers that take
// everything after the colon as the value, spaces included. ParseStrict, Method and Value read as those do; they are
// for programs that play a peer.
package wire

import (
	"bytes"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxArguments     = 32 // that Parse keeps; the protocol's largest message has eight
	typicalArguments = 6
)

// Errors of Parse.
var (
	ErrNotUTF8  = errors.New("message is not UTF-8")
	ErrNoMethod = errors.New("message has no method")
)

// Argument is one line of a message.
type Argument struct{ Name, Value string }

// Message is one control message. Arguments are in the order in which they were written.
type Message struct {
	Method string // in upper case
	Args   []Argument
}

// Parse reads one message. It copies data once, so the caller limits its size. Lines without a colon, the body and
// arguments after the 32nd are ignored. Errors: ErrNotUTF8, ErrNoMethod.
func Parse(data []byte) (Message, error) {
	if !utf8.Valid(data) {
		return Message{}, ErrNotUTF8
	}
	method, rest, _ := strings.Cut(string(data), "\n")
	m := Message{Method: strings.ToUpper(strings.TrimSpace(method))}
	if m.Method == "" {
		return Message{}, ErrNoMethod
	}
	for rest != "" && len(m.Args) < maxArguments {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if strings.TrimSpace(line) == "" {
			break
		}
		if name, value, found := strings.Cut(line, ":"); found {
			if m.Args == nil {
				m.Args = make([]Argument, 0, typicalArguments)
			}
			m.Args = append(m.Args, Argument{strings.TrimSpace(name), strings.TrimSpace(value)})
		}
	}
	return m, nil
}

// Get returns the value of an argument whose name is given in any case, "" if it is missing. Of a repeated one the last
// counts.
func (m Message) Get(name string) string {
	for i := len(m.Args) - 1; i >= 0; i-- {
		if strings.EqualFold(m.Args[i].Name, name) {
			return m.Args[i].Value
		}
	}
	return ""
}

// Append appends a message to out in its canonical form: the arguments (name, value, name, value ...) in the given order,
// no white space around the colon, each line ended by LF. Control characters in values are left out, so that no value can
// end its line, and so is white space around values. Method and names are written as they are.
func Append(out []byte, method string, arguments ...string) []byte {
	size := len(method) + 1
	for _, s := range arguments {
		size += len(s) + 1
	}
	if cap(out)-len(out) < size {
		out = append(make([]byte, 0, len(out)+size), out...)
	}
	out = append(out, method...)
	out = append(out, '\n')
	for i := 0; i < len(arguments); i += 2 {
		out = append(out, arguments[i]...)
		out = append(out, ':')
		out = append(out, strings.TrimSpace(withoutControls(arguments[i+1]))...)
		out = append(out, '\n')
	}
	return out
}

func withoutControls(s string) string {
	if strings.IndexFunc(s, unicode.IsControl) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
}

// ParseStrict reads a message as the strictest of today's peers does: a value is all that follows the first colon of its
// line.
func ParseStrict(data []byte) Message {
	method, rest, _ := strings.Cut(string(data), "\n")
	m := Message{Method: method}
	for line := range strings.SplitSeq(strings.TrimSuffix(rest, "\n"), "\n") {
		if name, value, found := strings.Cut(line, ":"); found {
			m.Args = append(m.Args, Argument{name, value})
		}
	}
	return m
}

// Method returns the method of a message as ParseStrict does, without parsing the rest.
func Method(data []byte) string {
	line, _, _ := bytes.Cut(data, []byte{'\n'})
	return string(line)
}

// Value returns the value of an argument as ParseStrict does, "" if it is missing, without parsing the rest. The first one
// of that name counts.
func Value(data []byte, name string) string {
	_, rest, _ := bytes.Cut(data, []byte{'\n'})
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte{'\n'})
		found, value, _ := bytes.Cut(line, []byte{':'})
		if len(found) == len(name) && bytes.EqualFold(found, []byte(name)) {
			return string(value)
		}
	}
	return ""
}
