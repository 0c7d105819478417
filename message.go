package main

// The wire format of control messages: a method, then `Name:value` lines, ended by an empty line.
// Pure: no I/O and no knowledge of what the methods mean.
//
// Reading is lenient, because peers write `Name:value` or `Name: value`. Writing is strict: there are peers that take
// everything after the colon as the value, spaces included.

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// usualArguments is room for those of the protocol's messages.
const usualArguments = 6

// maxArguments bounds what one message can make the parser keep; the protocol's largest message has eight.
const maxArguments = 32

var (
	errNotUTF8  = errors.New("message is not UTF-8")
	errNoMethod = errors.New("message has no method")
)

type argument struct{ name, value string }

// message is one control message. Arguments keep the order in which they are written.
type message struct {
	method string
	args   []argument
}

// parseMessage reads one message of at most the size that the caller let through the socket.
// Errors: errNotUTF8, errNoMethod. Lines without a colon, the body and arguments beyond maxArguments are ignored.
func parseMessage(data []byte) (message, error) {
	if !utf8.Valid(data) {
		return message{}, errNotUTF8
	}
	method, rest, _ := strings.Cut(string(data), "\n")
	m := message{method: strings.ToUpper(strings.TrimSpace(method))}
	if m.method == "" {
		return message{}, errNoMethod
	}
	for rest != "" && len(m.args) < maxArguments {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if strings.TrimSpace(line) == "" {
			break
		}
		if name, value, found := strings.Cut(line, ":"); found {
			if m.args == nil {
				m.args = make([]argument, 0, usualArguments)
			}
			m.args = append(m.args, argument{strings.TrimSpace(name), strings.TrimSpace(value)})
		}
	}
	return m, nil
}

// get returns the value of an argument, "" if it is missing. Of a repeated one the last counts.
func (m message) get(name string) string {
	for i := len(m.args) - 1; i >= 0; i-- {
		if strings.EqualFold(m.args[i].name, name) {
			return m.args[i].value
		}
	}
	return ""
}

// format writes the canonical form: the arguments in their order, no white space around the colon, each line ended by LF.
// Control characters inside values are left out, so that no value can end its line, and so is white space around them.
func (m message) format() []byte {
	size := len(m.method) + 1
	for _, a := range m.args {
		size += len(a.name) + len(a.value) + len(":\n")
	}
	out := make([]byte, 0, size)
	out = append(out, m.method...)
	out = append(out, '\n')
	for _, a := range m.args {
		out = append(out, a.name...)
		out = append(out, ':')
		out = append(out, strings.TrimSpace(withoutControls(a.value))...)
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
