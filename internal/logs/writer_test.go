package logs

// Standard error that nobody reads, or that is gone. With the real binary: e2e/logpipe_test.go.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

// stuckWriter takes nothing until it is released.
type stuckWriter struct {
	released chan struct{}
	*clustertest.Log
}

func newStuckWriter() *stuckWriter { return &stuckWriter{make(chan struct{}), clustertest.NewLog()} }

func (s *stuckWriter) Write(p []byte) (int, error) {
	<-s.released
	return s.Log.Write(p)
}

func TestLogThatNobodyReadsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				out := newStuckWriter()
				w := NewWriter(out, format == "json")
				log := New(w, format == "json", false).With("session", 7).WithGroup("peer")
				padding := strings.Repeat("x", 1000)
				logLine := func(n int) { log.Info("line", "n", n, "padding", padding) }
				start := time.Now()
				logLine(0)
				synctest.Wait() // it is on its way out, and stuck there
				const lines = 3 * maxWaitingLog / 1000
				for n := 1; n < lines; n++ {
					logLine(n)
				}
				if took := time.Since(start); took > 0 {
					t.Errorf("writing took %v", took)
				}
				if held := len(w.waiting); held > maxWaitingLog || held < maxWaitingLog-2000 {
					t.Errorf("%d bytes wait", held)
				}
				log.Info("one for which there would be room")
				dropped := int(w.dropped.Load())
				close(out.released)
				synctest.Wait()
				if !strings.Contains(out.String(), "log lines dropped") {
					t.Error("that lines were dropped is only said with the next one")
				}
				logLine(lines)
				w.Close()

				var told, n, got int
				for line := range strings.Lines(out.String()) {
					record := readRecord(t, line)
					switch record["msg"] {
					case "line":
						if record["session"] != "7" || record["peer.padding"] != padding {
							t.Fatalf("not a whole line: %s", line)
						}
						if record["peer.n"] != fmt.Sprint(n) {
							t.Fatalf("line %s where %d is due", record["peer.n"], n)
						}
						n++
						got++
					default:
						if told > 0 || !strings.HasPrefix(record["msg"], "log lines dropped") || record["level"] != "WARN" {
							t.Fatalf("unexpected: %s", line)
						}
						fmt.Sscan(record["lines"], &told)
						n += told - 1 // but for the one without a number
					}
				}
				if told != dropped || dropped < lines/2 {
					t.Errorf("%d lines are said to be dropped, %d are", told, dropped)
				}
				if got+told != lines+2 {
					t.Errorf("%d lines got through and %d were dropped of %d", got, told, lines+2)
				}
			})
		})
	}
}

// readRecord reads a line of either form; members of a group have its name before theirs.
func readRecord(t *testing.T, line string) map[string]string {
	t.Helper()
	record := map[string]string{}
	if !strings.HasPrefix(line, "{") {
		for _, name := range []string{"level", "session", "peer.n", "peer.padding", "lines"} {
			record[name] = clustertest.Attribute(line, name)
		}
		_, rest, _ := strings.Cut(line, " msg=")
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			record["msg"], _, _ = strings.Cut(quoted, `"`)
		} else {
			record["msg"], _, _ = strings.Cut(rest, " ")
		}
		return record
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(line), &object); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	for name, value := range object {
		if group, ok := value.(map[string]any); ok {
			for member, value := range group {
				record[name+"."+member] = fmt.Sprint(value)
			}
		} else {
			record[name] = fmt.Sprint(value)
		}
	}
	return record
}

func TestLinesOfManyStayWholeAndInOrder(t *testing.T) {
	t.Parallel()
	out := clustertest.NewLog()
	w := NewWriter(out, false)
	const writers, lines = 20, 500
	var writing sync.WaitGroup
	for id := range writers {
		writing.Go(func() {
			for n := range lines {
				fmt.Fprintf(w, "%d %d %s\n", id, n, strings.Repeat("x", n))
			}
		})
	}
	writing.Wait()
	w.Close()
	next := map[int]int{}
	for line := range strings.Lines(out.String()) {
		var id, n int
		var padding string
		fmt.Sscan(line, &id, &n, &padding)
		if n != next[id] || len(padding) != n {
			t.Fatalf("writer %d is at line %d, got %q", id, next[id], line)
		}
		next[id]++
	}
	for id := range writers {
		if next[id] != lines {
			t.Errorf("%d lines of writer %d", next[id], id)
		}
	}
}

// brittleWriter takes no more bytes than it has room for.
type brittleWriter struct {
	mu   sync.Mutex
	text bytes.Buffer
	room int
}

func (b *brittleWriter) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(p), b.room)
	b.room -= n
	b.text.Write(p[:n])
	if n < len(p) {
		return n, errors.New("no room")
	}
	return n, nil
}

func (b *brittleWriter) repair(room int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.room = room
}

func TestLinesThatCannotBeWrittenAreCountedAndTheNextOneStartsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := &brittleWriter{room: 10}
		w := NewWriter(out, false)
		for n := range 5 { // the third is torn, the next two are refused
			fmt.Fprintf(w, "%d..\n", n)
			synctest.Wait()
		}
		out.repair(1 << 20)
		io.WriteString(w, "5..\n6..\n")
		w.Close()
		lines := strings.Split(strings.TrimSpace(out.text.String()), "\n")
		if len(lines) != 6 {
			t.Fatalf("got %q", lines)
		}
		told := clustertest.Attribute(lines[3], "lines")
		lines[3] = "notice"
		if diff := cmp.Diff([]string{"0..", "1..", "2.", "notice", "5..", "6.."}, lines); diff != "" {
			t.Error(diff)
		}
		if told != "3" || w.dropped.Load() != 3 {
			t.Errorf("%q lines are said to be dropped, %d are counted, want 3", told, w.dropped.Load())
		}
	})
}

// Standard error may be shared: whoever makes it non-blocking makes it so for all.
func TestFullPipeThatDoesNotBlockLosesNoLine(t *testing.T) {
	t.Parallel()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	out := os.NewFile(write.Fd(), "pipe") // blocking: Fd makes it so
	defer runtime.KeepAlive(write)
	if err := syscall.SetNonblock(int(write.Fd()), true); err != nil {
		t.Fatal(err)
	}
	room, err := out.Write(make([]byte, 1<<20))
	if !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("a full pipe says %v", err)
	}
	w := NewWriter(out, false)
	const lines = 5000
	var want strings.Builder
	for n := range lines {
		fmt.Fprintf(w, "line %d of some length\n", n)
		fmt.Fprintf(&want, "line %d of some length\n", n)
	}
	got := make(chan string)
	go func() {
		filled, _ := io.CopyN(io.Discard, read, int64(room))
		text := make([]byte, want.Len())
		n, _ := io.ReadFull(read, text)
		got <- fmt.Sprint(filled) + string(text[:n])
	}()
	if text := <-got; text != fmt.Sprint(room)+want.String() || w.dropped.Load() != 0 {
		t.Errorf("%d lines were dropped, and these %d bytes came: %.200q", w.dropped.Load(), len(text), text)
	}
	w.Close()
}

func TestEndOfTheLogWaitsForAReaderButNotForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stuck := newStuckWriter()
		w := NewWriter(stuck, false)
		io.WriteString(w, "last words\n")
		start := time.Now()
		w.Close()
		if took := time.Since(start); took != finishLog {
			t.Errorf("a reader that reads nothing is waited for %v, want %v", took, finishLog)
		}
		io.WriteString(w, "too late\n")
		close(stuck.released)
		synctest.Wait()
		if got := stuck.String(); got != "last words\n" {
			t.Errorf("got %q", got)
		}

		slow := newStuckWriter()
		w = NewWriter(slow, false)
		io.WriteString(w, "last words\n")
		start = time.Now()
		time.AfterFunc(finishLog/2, func() { close(slow.released) })
		w.Close()
		if took := time.Since(start); took != finishLog/2 || slow.String() != "last words\n" {
			t.Errorf("got %q after %v", slow, took)
		}
	})
}

func TestLogGivesItsMemoryBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := newStuckWriter()
		w := NewWriter(out, false)
		defer w.Close()
		line := strings.Repeat("x", 999) + "\n"
		for range maxWaitingLog / len(line) {
			io.WriteString(w, line)
		}
		close(out.released)
		synctest.Wait()
		for range 2 { // both buffers have been swapped
			io.WriteString(w, line)
			synctest.Wait()
		}
		if held := cap(w.waiting); held > keptLogBuffer {
			t.Errorf("%d bytes are kept", held)
		}
	})
}

// Others can write to the same pipe: what a pipe takes at once stays whole.
func TestLinesAreWrittenInPiecesThatAPipeTakesWhole(t *testing.T) {
	t.Parallel()
	short, long := strings.Repeat("s", 99)+"\n", strings.Repeat("l", 2*pipeAtomic)+"\n"
	for rest := strings.Repeat(short, 100) + long + strings.Repeat(short, 100); rest != ""; {
		n := firstPiece([]byte(rest))
		piece := rest[:n]
		if n == 0 || piece[n-1] != '\n' || n > pipeAtomic && piece != long {
			t.Fatalf("a piece of %d bytes: %.10q...", n, piece)
		}
		rest = rest[n:]
	}
}
