package logs

// Standard error that never blocks. Whoever reads the log may be slow, stuck or gone; the work goes on. Lines wait
// in a bounded buffer for the one goroutine that writes them. With the buffer full, lines are dropped and counted, and
// the next line that gets through says how many.

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxWaitingLog = 4 << 20     // bytes, some 30,000 lines; as much again may be on its way out
	keptLogBuffer = 64 << 10    // a larger buffer is given back once it is written
	pipeAtomic    = 4 << 10     // bytes that a pipe takes as one piece, whoever else writes to it (PIPE_BUF of Linux)
	finishLog     = time.Second // how long Close waits for the reader
)

// Writer takes whole lines. Any number of goroutines may write to it.
type Writer struct {
	// set once
	out  io.Writer
	work chan struct{} // there is something to do; capacity 1
	done chan struct{} // closed when the writing goroutine has ended

	dropped atomic.Uint64 // lines, since the start

	mu sync.Mutex
	// guarded by mu
	waiting []byte // whole lines
	missed  int    // lines dropped since: in the log they belong behind those in waiting
	closed  bool

	// owned by the writing goroutine
	unreported int  // dropped lines that the log does not tell of yet
	torn       bool // out took only a part of a line
	notice     bytes.Buffer
	noticeLog  *slog.Logger // writes to notice
}

// NewWriter starts the writing goroutine, which ends with Close. json is the form of the lines.
func NewWriter(out io.Writer, json bool) *Writer {
	w := &Writer{out: out, work: make(chan struct{}, 1), done: make(chan struct{})}
	w.noticeLog = New(&w.notice, json, false)
	go w.run()
	return w
}

// Write takes one or more whole lines. It never waits and never fails.
func (w *Writer) Write(lines []byte) (int, error) {
	w.queue(lines)
	w.wake()
	return len(lines), nil
}

// Close writes what is waiting, for finishLog at most. Lines that come later are lost. It is called once.
func (w *Writer) Close() {
	w.end()
	w.wake()
	select {
	case <-w.done:
	case <-time.After(finishLog): // a write that nobody takes can't be called off; it ends with the process
	}
}

func (w *Writer) queue(lines []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
	case w.missed > 0 || len(w.waiting)+len(lines) > maxWaitingLog: // once a line is dropped, drop the rest until the writer has caught up
		w.missed += w.drop(lines)
	default:
		w.waiting = append(w.waiting, lines...)
	}
}

func (w *Writer) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
}

func (w *Writer) wake() {
	select {
	case w.work <- struct{}{}:
	default:
	}
}

// Dropped returns how many lines were lost since the start.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// take returns all that waits, and how many lines were missed after it. spare is the next buffer.
func (w *Writer) take(spare []byte) (lines []byte, missed int, last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines, w.waiting = w.waiting, spare
	missed, w.missed = w.missed, 0
	return lines, missed, w.closed
}

// drop counts the lines that are lost.
func (w *Writer) drop(lines []byte) int {
	n := bytes.Count(lines, []byte("\n"))
	w.dropped.Add(uint64(n))
	return n
}

func (w *Writer) run() {
	defer close(w.done)
	var spare []byte
	for range w.work {
		lines, missed, last := w.take(spare)
		for rest := lines; len(rest) > 0; {
			n := firstPiece(rest)
			w.put(rest[:n])
			rest = rest[n:]
		}
		if w.unreported += missed; w.unreported > 0 {
			w.tell()
		}
		if last {
			return
		}
		if spare = lines[:0]; cap(spare) > keptLogBuffer {
			spare = nil
		}
	}
}

// firstPiece is the length of as many whole lines as are written at once: what a pipe takes as one piece, or one line.
func firstPiece(lines []byte) int {
	if len(lines) <= pipeAtomic {
		return len(lines)
	}
	end := bytes.LastIndexByte(lines[:pipeAtomic], '\n')
	if end < 0 {
		end = bytes.IndexByte(lines, '\n')
	}
	if end < 0 {
		return len(lines)
	}
	return end + 1
}

// put writes lines, and before them how many are missing there. What out does not take is dropped: its reader is gone,
// or its disk is full.
func (w *Writer) put(lines []byte) {
	written := 0
	if w.unreported == 0 || w.tell() {
		written = w.write(lines)
	}
	w.unreported += w.drop(lines[written:])
}

// tell writes the line that says how many were dropped.
func (w *Writer) tell() bool {
	w.notice.Reset()
	if w.torn {
		w.notice.WriteByte('\n')
	}
	w.noticeLog.Warn("log lines dropped: standard error was not read in time, or could not be written", "lines", w.unreported)
	if w.write(w.notice.Bytes()) < w.notice.Len() {
		return false
	}
	w.unreported = 0
	return true
}

// write returns how much out took. A pipe that another process has made non-blocking says EAGAIN while it is full: that is
// waited for, like a write that blocks.
func (w *Writer) write(lines []byte) (written int) {
	const longest = 100 * time.Millisecond
	for pause := time.Millisecond; ; pause = min(2*pause, longest) {
		n, err := w.out.Write(lines[written:])
		if written += n; n > 0 {
			w.torn = lines[written-1] != '\n'
			pause = time.Millisecond
		}
		if !errors.Is(err, syscall.EAGAIN) { // another error: there is nobody to tell
			return written
		}
		time.Sleep(pause)
	}
}
