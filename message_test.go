package main

// The wire format of control messages, in both directions.

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var compareMessages = cmp.AllowUnexported(message{}, argument{})

func TestMessageIsReadAsPeersWriteIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text string
		want       message
	}{
		{"method alone", "HEARTBEAT", message{method: "HEARTBEAT"}},
		{"method and line break", "HEARTBEAT\n", message{method: "HEARTBEAT"}},
		{"method in lower case", "heartbeat\r\n\r\n", message{method: "HEARTBEAT"}},
		{"no blank after the colon", "REGISTER\nCapacity:5\n", message{"REGISTER", []argument{{"Capacity", "5"}}}},
		{"blanks and carriage returns", " register \r\n Capacity \t:  5 \r\n", message{"REGISTER", []argument{{"Capacity", "5"}}}},
		{"no last line break", "A\nb:c", message{"A", []argument{{"b", "c"}}}},
		{"colons in a value", "A\nURI: rtmp://[::1]:1935/c/k", message{"A", []argument{{"URI", "rtmp://[::1]:1935/c/k"}}}},
		{"empty value", "A\nb:\nc: \n", message{"A", []argument{{"b", ""}, {"c", ""}}}},
		{"empty name", "A\n:b\n", message{"A", []argument{{"", "b"}}}},
		{"line without a colon", "A\nnonsense\nb:c\n", message{"A", []argument{{"b", "c"}}}},
		{"body", "A\nb:c\n\nd:e\n", message{"A", []argument{{"b", "c"}}}},
		{"body after a carriage return", "A\nb:c\r\n\r\nd:e\n", message{"A", []argument{{"b", "c"}}}},
		{"body at once", "A\n\nb:c\n", message{method: "A"}},
		{"other letters", "A\nname: añb 日本\n", message{"A", []argument{{"name", "añb 日本"}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseMessage([]byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, compareMessages); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMessageThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		"": errNoMethod, "\n": errNoMethod, " \r\nA\n": errNoMethod, "\nA\n": errNoMethod,
		"A\xff": errNotUTF8, "A\nb:\xc3\x28": errNotUTF8, "A\n\n\xed\xa0\x80": errNotUTF8,
	} {
		if got, err := parseMessage([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%q: %v %v, want %v", text, got, err, want)
		}
	}
}

func TestArgumentIsFoundInAnyCaseAndTheLastOneCounts(t *testing.T) {
	t.Parallel()
	m, err := parseMessage([]byte("A\nStream-ID: 1\nSTREAM-id: 2\nStream-Channel: c\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Stream-ID": "2", "stream-id": "2", "STREAM-CHANNEL": "c", "Stream": "", "": ""} {
		if got := m.get(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}

func TestArgumentsBeyondTheLimitAreNotKept(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("A\n")
	for i := range 2 * maxArguments {
		fmt.Fprintf(&text, "n%d: v\n", i)
	}
	m, err := parseMessage([]byte(text.String()))
	if err != nil || len(m.args) != maxArguments {
		t.Errorf("%d arguments kept, %v; want %d", len(m.args), err, maxArguments)
	}
}

func TestMessageIsWrittenInOneForm(t *testing.T) {
	t.Parallel()
	for want, m := range map[string]message{
		"HEARTBEAT\n":      {method: "HEARTBEAT"},
		"A\nB:c\nD:\n":     {"A", []argument{{"B", "c"}, {"D", ""}}},
		"A\nB:cDE: f\n":    {"A", []argument{{"B", "c\r\nD\x00E: f"}}},
		"A\nB:xy z\n":      {"A", []argument{{"B", "x\x7f\u0085\x1by\t z"}}},
		"A\nB:x\n":         {"A", []argument{{"B", " \x01\t x\x02 "}}},
		"A\nB:añ\u2028日\n": {"A", []argument{{"B", "añ\u2028日"}}},
	} {
		if got := string(m.format()); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// FuzzParseMessage: what is read can be written and read again without a change.
func FuzzParseMessage(f *testing.F) {
	for _, seed := range []string{"", "HEARTBEAT", "REGISTER\nCapacity:5\n", "A\r\nb : c\r\n\r\nbody", "A\n:\n::\n", "\xff", "A\nb:\rc\x00d\n", "ß\nſ:K\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMessage(data)
		if err != nil {
			return
		}
		if m.method == "" || len(m.args) > maxArguments {
			t.Fatalf("%q with %d arguments", m.method, len(m.args))
		}
		again, err := parseMessage(m.format())
		for i, a := range m.args { // white space that control characters had covered does not count either
			m.args[i].value = strings.TrimSpace(withoutControls(a.value))
		}
		if diff := cmp.Diff(m, again, compareMessages); err != nil || diff != "" {
			t.Errorf("%q is read differently the second time: %v\n%s", data, err, diff)
		}
	})
}

// FuzzWrittenValue: no value, whatever it holds, can end its line or hide a control character in it.
func FuzzWrittenValue(f *testing.F) {
	for _, seed := range []string{"", "plain", "a\nStream-ID: *", "a\r\n\r\nbody", "\x00", "\u0085\u2028", "\xff\xfe", "日本"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		wire := string(message{"METHOD", []argument{{"First", value}, {"Last", "z"}}}.format())
		lines := strings.Split(wire, "\n")
		if len(lines) != 4 || lines[0] != "METHOD" || lines[2] != "Last:z" || lines[3] != "" {
			t.Fatalf("%q wrote %q", value, wire)
		}
		if strings.ContainsFunc(lines[1], unicode.IsControl) {
			t.Errorf("%q wrote a control character: %q", value, wire)
		}
		if lines[1] != "First:"+strings.TrimSpace(lines[1][len("First:"):]) {
			t.Errorf("%q wrote white space around the value: %q", value, wire)
		}
		if !strings.ContainsFunc(value, unicode.IsControl) && lines[1] != "First:"+strings.TrimSpace(value) {
			t.Errorf("%q was changed to %q", value, lines[1])
		}
		if !utf8.ValidString(value) {
			return // peers' values are UTF-8: the parser sees to it
		}
		if m, err := parseMessage([]byte(wire)); err != nil || m.get("First") != strings.TrimSpace(withoutControls(value)) || m.get("Last") != "z" {
			t.Errorf("%q was read as %v %v", value, m, err)
		}
	})
}
