package main

// Control messages as peers read and write them: values are taken as they stand. Pure, and without a copy where one message
// passes after the other.

import "bytes"

// appendMessage appends one message. arguments is name, value, name, value ...
func appendMessage(out []byte, method string, arguments ...string) []byte {
	out = append(out, method...)
	out = append(out, '\n')
	for i := 0; i < len(arguments); i += 2 {
		out = append(out, arguments[i]...)
		out = append(out, ':')
		out = append(out, arguments[i+1]...)
		out = append(out, '\n')
	}
	return out
}

// methodOf returns the first line.
func methodOf(message []byte) string {
	line, _, _ := bytes.Cut(message, []byte{'\n'})
	return string(line)
}

// argumentOf returns the value of an argument, "" if it is missing.
func argumentOf(message []byte, name string) string {
	_, rest, _ := bytes.Cut(message, []byte{'\n'})
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
