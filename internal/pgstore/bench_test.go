package pgstore

import (
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
