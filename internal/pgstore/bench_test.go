package pgstore

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"coordinator/internal/outbox"
	"coordinator/internal/pgtest"
)

// BenchmarkLoad is what a take-over reads of 1,000,000 events and 100,000 announced streams.
func BenchmarkLoad(b *testing.B) {
	url := pgtest.URL(b)
	d := open(b, url)
	s := d.Store(lead(b, d, "a"), notDeposed(b))
	pgtest.Exec(b, url, `
		INSERT INTO coordinator_event SELECT 1 + i / 10, i % 10, 1700000000000 + i, decode(repeat('00', 150), 'hex') FROM generate_series(0, 999999) AS i;
		INSERT INTO coordinator_announced (stream, queue, channel, previous, last_seq, tail) SELECT 'stream' || i, i, 'channel' || i, '', 10, 10 FROM generate_series(1, 100000) AS i;
		INSERT INTO coordinator_progress SELECT i, 100 FROM generate_series(1, 100000) AS i`)
	for b.Loop() {
		var events, streams int
		err := s.Load(func(_ uint64, r outbox.QueueRecord) {
			events += int(r.Tail - r.Head)
			streams += len(r.Announced)
		})
		if err != nil || events != 1_000_000 || streams != 100_000 {
			b.Fatal(events, streams, err)
		}
		if c, err := s.Cluster(); err != nil || len(c.Applied) != 100_000 {
			b.Fatal(len(c.Applied), err)
		}
	}
}

// BenchmarkCommit is what lives cost the database: a stream is announced in one group, ends in the next, and its events are delivered
// in the one after that. CPU-µs/life is that of the process of PostgreSQL that commits, which /proc counts in steps of 10 ms.
func BenchmarkCommit(b *testing.B) {
	for _, lives := range []int{5, 10, 20} {
		b.Run(fmt.Sprint(lives, " lives"), func(b *testing.B) {
			d := open(b, pgtest.URL(b))
			s := d.Store(lead(b, d, "a"), notDeposed(b))
			group := func(n int) (g outbox.Group) {
				for i := range lives {
					queue := uint64(1e15 + n*lives + i)
					begun := event(queue, 0, fmt.Sprint("stream-", queue), 1)
					begun.Session, begun.Message = uint64(i%2+1), queue
					g.Appended = append(g.Appended, begun)
					g.Appended = append(g.Appended, closed(queue-uint64(lives), 1, fmt.Sprint("stream-", queue-uint64(lives)), 2))
					g.Delivered = append(g.Delivered, outbox.DeliveredUpTo{Queue: queue - uint64(2*lives), Head: 2})
				}
				return g
			}
			commit(b, s, group(0))
			pid := s.claimed.PgConn().PID()
			before, n := cpuTicks(b, pid), 0
			for b.Loop() {
				n++
				commit(b, s, group(n))
			}
			b.ReportMetric(float64(cpuTicks(b, pid)-before)*10_000/float64(n*lives), "CPU-µs/life")
		})
	}
}

// cpuTicks is how long a process has computed, in hundredths of a second.
func cpuTicks(b *testing.B, pid uint32) (ticks int) {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skip("without /proc nobody says what a process has computed: ", err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, field := range fields[11:13] { // utime and stime, see proc_pid_stat(5)
		n, _ := strconv.Atoi(field)
		ticks += n
	}
	return ticks
}
