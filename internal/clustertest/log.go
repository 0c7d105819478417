package clustertest

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// Log is the standard error of a daemon.
type Log struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed at the next write
	next    *Log          // takes what is written, too
}

func NewLog() *Log { return &Log{changed: make(chan struct{})} }

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	if l.next != nil {
		_, _ = l.next.Write(p) // never fails
	}
	return l.text.Write(p)
}

// AlsoTo writes what the log holds, and what comes, to another one as well.
func (l *Log) AlsoTo(other *Log) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = other.Write(l.text.Bytes()) // never fails
	l.next = other
}

// Lines returns a writer that passes on whole lines, so that several processes can have one log.
func (l *Log) Lines() io.Writer { return &lines{log: l} }

type lines struct {
	log  *Log
	rest []byte // a line that has no end yet
}

func (w *lines) Write(p []byte) (int, error) {
	end := bytes.LastIndexByte(p, '\n') + 1
	if end > 0 {
		_, _ = w.log.Write(append(w.rest, p[:end]...)) // never fails
		w.rest = nil
	}
	w.rest = append(w.rest, p[end:]...)
	return len(p), nil
}

// Forget empties the log.
func (l *Log) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = bytes.Buffer{}
}

func (l *Log) Snapshot() (string, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String(), l.changed
}

func (l *Log) String() string {
	text, _ := l.Snapshot()
	return text
}

func (l *Log) Count(part string) int { return strings.Count(l.String(), part) }

// Await returns the first line that holds all parts.
func (l *Log) Await(t testing.TB, parts ...string) string {
	t.Helper()
	timeout := time.After(Patience)
	for {
		text, changed := l.Snapshot()
		for line := range strings.Lines(text) {
			if holdsAll(line, parts) {
				return line
			}
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no log line with %q in:\n%s", parts, text)
		}
	}
}

// AwaitLines waits until at least n lines hold the part.
func (l *Log) AwaitLines(t testing.TB, n int, part string) {
	t.Helper()
	timeout := time.After(Patience)
	for {
		text, changed := l.Snapshot()
		if strings.Count(text, part) >= n {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("fewer than %d lines with %q in:\n%s", n, part, text)
		}
	}
}

func holdsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// Attribute cuts the value of name=value out of a log line.
func Attribute(line, name string) string {
	_, rest, _ := strings.Cut(line, " "+name+"=")
	value, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return strings.Trim(value, `"`)
}
