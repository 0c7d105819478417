package clustertest

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// logBuffer is the stderr of a daemon.
type Log struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed at the next write
}

func NewLog() *Log { return &Log{changed: make(chan struct{})} }

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	return l.text.Write(p)
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
