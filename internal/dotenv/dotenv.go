// Package dotenv fills in from a .env file what the environment leaves out. godotenv reads the file, once each line is known to
// mean what the library takes it for: it cuts and changes values that it cannot read, without a word. Names after a "$" are filled
// in here: the library does not know the environment, and takes a name that is set nowhere for an empty value, so that
// CONTROL_SECRET=$UPER5ECRET would let any peer connect.
package dotenv

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"coordinator/internal/regular"

	"github.com/joho/godotenv"
)

const (
	// Dangling stands for a value that refers to a name that is set nowhere. No environment can hold it, nor can the file.
	Dangling = "\x00"

	byteOrderMark = "\ufeff"

	// Each "$" that is not escaped is replaced with a reference to this variable. Where godotenv expands variables a mark
	// comes out; between single quotes the reference stays as it is, and becomes a "$" again.
	dollarName = "COORDINATOR_DOLLAR"
	dollar     = "${" + dollarName + "}"
	dollarMark = "\x00"
)

// Fill returns a getenv that takes from the file at path, if there is one, what lookup does not know, and the names in the
// file, sorted. A variable that lookup knows is never filled in, even if it is empty. For a value of the file that refers to a
// name that is set nowhere, getenv returns Dangling. The error names the path and shows nothing of the contents; getenv then
// knows what lookup knows.
func Fill(path string, lookup func(string) (string, bool)) (getenv func(string) string, names []string, err error) {
	file, err := read(path)
	names = slices.Sorted(maps.Keys(file))
	filled := map[string]string{}
	for _, name := range names {
		filled[name] = fillIn(name, file, lookup, nil)
	}
	return func(name string) string {
		if value, ok := lookup(name); ok {
			return value
		}
		return filled[name]
	}, names, err
}

// read returns the variables of the file, with a dollarMark wherever a name may have to be filled in.
func read(path string) (map[string]string, error) {
	content, err := regular.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read settings: %w", err)
	case bytes.Contains(content, []byte(dollarMark)):
		return nil, fmt.Errorf("read settings: %s contains a NUL byte (is it UTF-16?)", path)
	}
	text := strings.TrimPrefix(string(content), byteOrderMark)
	if err := checkLines(text); err != nil {
		return nil, fmt.Errorf("read settings: %s, %w", path, err)
	}
	marked := strings.NewReplacer(`\$`, `\$`, "$", dollar).Replace(text)
	file, err := godotenv.Unmarshal(dollarName + "=" + dollarMark + "\n" + marked)
	if err != nil { // a parse error quotes lines of the file
		return nil, fmt.Errorf("read settings: %s has a line that is not NAME=value", path)
	}
	delete(file, dollarName)
	for name, value := range file {
		file[name] = strings.ReplaceAll(value, dollar, "$")
	}
	return file, nil
}

var (
	twoComments = regexp.MustCompile(`[ \t]#.*[ \t]#`)

	lineForm = regexp.MustCompile(`^(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=([ \t]*)(.*)$`)

	// valueForm is a value that godotenv takes for what it says. Without quotes it ends at a # after white space. Between
	// double quotes \" is a quote, but not at the end, \\ a backslash, but not at the end or before a $, \n and \r are line ends.
	valueForm = regexp.MustCompile(`^(?:'(?:[^']*[^'\\])?'(?:[ \t]+#.*)?` +
		`|"(?:(?:[^"\\]|\\[nr$"]|\\\\[^"\\$])*(?:[^"\\]|\\[nr$]|\\\\[^"\\$]))?"(?:[ \t]+#.*)?` +
		`)$`)
)

// checkLines wants lines of one meaning. Its error names the line and shows nothing of it.
func checkLines(text string) error {
	lines := map[string]int{}
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		fault := func(what string) error { return fmt.Errorf("line %d: %s", number, what) }
		line = strings.Trim(strings.TrimSuffix(line, "\r"), " \t")
		switch {
		case strings.Contains(line, "\r"):
			return fault("has a carriage return that ends no line: end lines with a line feed")
		case line == "", line[0] == '#':
			continue
		}
		parts := lineForm.FindStringSubmatch(line)
		switch {
		case !utf8.ValidString(line):
			return fault("is not UTF-8")
		case parts == nil:
			return fault("is not NAME=value, with a name of letters, digits and _")
		}
		name, blank, value := parts[1], parts[2], parts[3]
		quoted := strings.HasPrefix(value, "'") || strings.HasPrefix(value, `"`)
		switch {
		case name == dollarName || name == "export":
			return fault("sets a name that cannot be set")
		case lines[name] > 0:
			return fault(fmt.Sprintf("sets the name of line %d again", lines[name]))
		case quoted && !valueForm.MatchString(value):
			return fault(`has no closing quote, text behind it, or a \ that may mean several things: put the value into 'single quotes'`)
		case !quoted && twoComments.MatchString(value): // the library takes the first for a part of the value
			return fault("has a second # after white space: put the value into 'single quotes', or the comment onto a line of its own")
		case blank != "" && strings.HasPrefix(value, "#"):
			return fault("may have a comment in place of a value: put a value that begins with # into 'single quotes'")
		case !quoted && strings.ContainsFunc(value, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }):
			return fault("has a character that does not print: put the value into 'single quotes' if it is meant")
		}
		lines[name] = number
	}
	return nil
}

// fillIn returns the value of a variable of the file with $NAME and ${NAME} filled in, from the environment or else from the
// file; Dangling if neither has one of the names. A name that refers to itself, as in PATH=$PATH:/x, is looked for in the
// environment only. Values from the environment are not expanded. outer are the variables being filled in.
func fillIn(variable string, file map[string]string, lookup func(string) (string, bool), outer []string) string {
	outer = append(outer, variable)
	parts := strings.Split(file[variable], dollarMark)
	filled := parts[0]
	for _, part := range parts[1:] {
		name, rest := cutName(part)
		if name == "" && !strings.HasPrefix(part, "{") {
			filled += "$" + part
			continue
		}
		if name == "" || !strings.HasPrefix(part, "{") && strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz") != rest {
			return Dangling // ${ without a name and }, or a name that goes on in small letters
		}
		value, ok := lookup(name)
		if _, inFile := file[name]; !ok && inFile && !slices.Contains(outer, name) {
			value, ok = fillIn(name, file, lookup, outer), true
		}
		if !ok || value == Dangling {
			return Dangling
		}
		filled += value + rest
	}
	return filled
}

// cutName takes NAME or {NAME} from the beginning of what follows a "$"; the name is "" if there is none.
func cutName(text string) (name, rest string) {
	inner, braced := strings.CutPrefix(text, "{")
	rest = strings.TrimLeft(inner, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
	name = inner[:len(inner)-len(rest)]
	if braced {
		var closed bool
		if rest, closed = strings.CutPrefix(rest, "}"); !closed {
			return "", text
		}
	}
	return name, rest
}
