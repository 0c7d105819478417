package wire

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

func TestMessageIsReadAsPeersWriteIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text string
		want       Message
	}{
		{"method alone", "HEARTBEAT", Message{Method: "HEARTBEAT"}},
		{"method and line break", "HEARTBEAT\n", Message{Method: "HEARTBEAT"}},
		{"method in lower case", "heartbeat\r\n\r\n", Message{Method: "HEARTBEAT"}},
		{"no blank after the colon", "REGISTER\nCapacity:5\n", Message{"REGISTER", []Argument{{"Capacity", "5"}}}},
		{"blanks and carriage returns", " register \r\n Capacity \t:  5 \r\n", Message{"REGISTER", []Argument{{"Capacity", "5"}}}},
		{"no last line break", "A\nb:c", Message{"A", []Argument{{"b", "c"}}}},
		{"colons in a value", "A\nURI: rtmp://[::1]:1935/c/k", Message{"A", []Argument{{"URI", "rtmp://[::1]:1935/c/k"}}}},
		{"empty value", "A\nb:\nc: \n", Message{"A", []Argument{{"b", ""}, {"c", ""}}}},
		{"empty name", "A\n:b\n", Message{"A", []Argument{{"", "b"}}}},
		{"line without a colon", "A\nnonsense\nb:c\n", Message{"A", []Argument{{"b", "c"}}}},
		{"body", "A\nb:c\n\nd:e\n", Message{"A", []Argument{{"b", "c"}}}},
		{"body after a carriage return", "A\nb:c\r\n\r\nd:e\n", Message{"A", []Argument{{"b", "c"}}}},
		{"body at once", "A\n\nb:c\n", Message{Method: "A"}},
		{"other letters", "A\nname: añb 日本\n", Message{"A", []Argument{{"name", "añb 日本"}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse([]byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMessageThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		"": ErrNoMethod, "\n": ErrNoMethod, " \r\nA\n": ErrNoMethod, "\nA\n": ErrNoMethod,
		"A\xff": ErrNotUTF8, "A\nb:\xc3\x28": ErrNotUTF8, "A\n\n\xed\xa0\x80": ErrNotUTF8,
	} {
		if got, err := Parse([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%q: %v %v, want %v", text, got, err, want)
		}
	}
}

func TestArgumentIsFoundInAnyCaseAndTheLastOneCounts(t *testing.T) {
	t.Parallel()
	m, err := Parse([]byte("A\nStream-ID: 1\nSTREAM-id: 2\nStream-Channel: c\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Stream-ID": "2", "stream-id": "2", "STREAM-CHANNEL": "c", "Stream": "", "": ""} {
		if got := m.Get(name); got != want {
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
	m, err := Parse([]byte(text.String()))
	if err != nil || len(m.Args) != maxArguments {
		t.Errorf("%d arguments kept, %v; want %d", len(m.Args), err, maxArguments)
	}
}

func TestMessageIsWrittenInOneForm(t *testing.T) {
	t.Parallel()
	for want, m := range map[string]Message{
		"HEARTBEAT\n":      {Method: "HEARTBEAT"},
		"A\nB:c\nD:\n":     {"A", []Argument{{"B", "c"}, {"D", ""}}},
		"A\nB:cDE: f\n":    {"A", []Argument{{"B", "c\r\nD\x00E: f"}}},
		"A\nB:xy z\n":      {"A", []Argument{{"B", "x\x7f\u0085\x1by\t z"}}},
		"A\nB:x\n":         {"A", []Argument{{"B", " \x01\t x\x02 "}}},
		"A\nB:añ\u2028日\n": {"A", []Argument{{"B", "añ\u2028日"}}},
	} {
		if got := written(m); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func written(m Message) string {
	arguments := make([]string, 0, 2*len(m.Args))
	for _, a := range m.Args {
		arguments = append(arguments, a.Name, a.Value)
	}
	return string(Append(nil, m.Method, arguments...))
}

// FuzzParse: what is read can be written and read again without a change.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "HEARTBEAT", "REGISTER\nCapacity:5\n", "A\r\nb : c\r\n\r\nbody", "A\n:\n::\n", "\xff", "A\nb:\rc\x00d\n", "ß\nſ:K\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			return
		}
		if m.Method == "" || len(m.Args) > maxArguments {
			t.Fatalf("%q with %d arguments", m.Method, len(m.Args))
		}
		again, err := Parse([]byte(written(m)))
		for i, a := range m.Args { // white space that control characters had covered does not count either
			m.Args[i].Value = strings.TrimSpace(withoutControls(a.Value))
		}
		if diff := cmp.Diff(m, again); err != nil || diff != "" {
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
		text := string(Append(nil, "METHOD", "First", value, "Last", "z"))
		lines := strings.Split(text, "\n")
		if len(lines) != 4 || lines[0] != "METHOD" || lines[2] != "Last:z" || lines[3] != "" {
			t.Fatalf("%q wrote %q", value, text)
		}
		if strings.ContainsFunc(lines[1], unicode.IsControl) {
			t.Errorf("%q wrote a control character: %q", value, text)
		}
		if lines[1] != "First:"+strings.TrimSpace(lines[1][len("First:"):]) {
			t.Errorf("%q wrote white space around the value: %q", value, text)
		}
		if !strings.ContainsFunc(value, unicode.IsControl) && lines[1] != "First:"+strings.TrimSpace(value) {
			t.Errorf("%q was changed to %q", value, lines[1])
		}
		if !utf8.ValidString(value) {
			return // peers' values are UTF-8: the parser sees to it
		}
		if m, err := Parse([]byte(text)); err != nil || m.Get("First") != strings.TrimSpace(withoutControls(value)) || m.Get("Last") != "z" {
			t.Errorf("%q was read as %v %v", value, m, err)
		}
	})
}

// TestMethodAndValueReadAsParseStrictDoes: the readings for programs that play a peer agree.
func TestMethodAndValueReadAsParseStrictDoes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"HEARTBEAT\n", "A\nB: c \nStream-ID:x\n", "A\nB:c:d\nno colon\nE:\n"} {
		m := ParseStrict([]byte(text))
		if got := Method([]byte(text)); got != m.Method {
			t.Errorf("%q: method %q, want %q", text, got, m.Method)
		}
		for _, a := range m.Args {
			if got := Value([]byte(text), strings.ToLower(a.Name)); got != a.Value {
				t.Errorf("%q: %s is %q, want %q", text, a.Name, got, a.Value)
			}
		}
		if got := Value([]byte(text), "missing"); got != "" {
			t.Errorf("%q: %q for what is missing", text, got)
		}
	}
	if m := ParseStrict([]byte("A\nRequest-ID: 7\n")); m.Get("Request-ID") != " 7" {
		t.Errorf("strict reading trimmed %q", m.Get("Request-ID"))
	}
}
