package pgstore

import (
	_ "embed" // for format1.sql
	"fmt"
	"testing"
	"time"

	"coordinator/internal/outbox"
	"coordinator/internal/pgtest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// format1 is the schema of that format, as its version made it.
//
//go:embed testdata/format1.sql
var format1 string

// commit1 is a commit as that version made it: by epoch 1 and writer 1.
const commit1 = `SELECT coordinator_commit(%d, 1, '{1,1,1}', '{0,1,2}', '{5,5,5}', ARRAY['\x%x', '\x%x', '\x%x']::bytea[],
	'{one}', '{1}', '{channel}', '{zero}', '{1}', '{3}', '{1}', '{zero}', '{3}', '{}', '{}', '{}', '{}', '{}', '{g}', '{}', '{}', 7, 'name')`

func TestFormat1IsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	pgtest.Exec(t, url, format1)
	pgtest.Exec(t, url, "UPDATE coordinator_fence SET epoch = 1, writer = 1; UPDATE coordinator_leader SET epoch = 1")
	// 0 or 1 for stream-closed, time, sequence number, then channel, stream, previous, type, resolution, index file and start time, each behind its length
	available := []byte("\x00\x0a\x01\x07channel\x04zero\x00\x08HLS-LIVE\x031x1\x01i\x00")
	closed := []byte("\x01\x0a\x02\x07channel\x04zero\x00\x00\x00\x00\x00")
	next := []byte("\x00\x0a\x01\x07channel\x03one\x04zero\x08HLS-LIVE\x031x1\x01i\x00")
	pgtest.Exec(t, url, fmt.Sprintf(commit1, 1, available, closed, next))

	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	if version := pgtest.Number(t, url, "SELECT version FROM coordinator_format"); version != formatVersion {
		t.Errorf("the database has format %d", version)
	}
	at := time.UnixMilli(5)
	event := func(ty outbox.Type, stream, previous string, seq uint64) outbox.Event {
		ev := outbox.Event{Type: ty, Channel: "channel", StreamID: stream, Previous: previous, Seq: seq, Duration: outbox.UnknownDuration, At: at}
		if ty == outbox.StreamAvailable {
			ev.StreamType, ev.Resolution, ev.IndexFile = "HLS-LIVE", "1x1", "i"
		}
		return ev
	}
	want := whole{
		Queues: map[uint64]outbox.QueueRecord{1: {Tail: 3, HeadAt: at, Announced: []outbox.AnnouncedStream{{Channel: "channel", StreamID: "one", Previous: "zero", LastSeq: 1}}}},
		Events: map[string]outbox.Event{
			"1/0": event(outbox.StreamAvailable, "zero", "", 1), "1/1": event(outbox.StreamClosed, "zero", "", 2), "1/2": event(outbox.StreamAvailable, "one", "zero", 1),
		},
		Cluster: outbox.Cluster{StoreID: "name", Numbers: 7, Gateways: []string{"g"}},
		Scanned: []string{"1/0", "1/1", "1/2"},
	}
	if diff := cmp.Diff(want, wholeOf(t, s, ""), cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(outbox.Event{})); diff != "" {
		t.Error(diff)
	}
	commit(t, s, outbox.Group{Appended: []outbox.Event{event(outbox.StreamClosed, "one", "", 2)}})

	// A leader of the version before that has not noticed yet is fenced as ever, and its function is still there.
	err := pgtest.TryExec(url, fmt.Sprintf(commit1, 1, available, closed, next))
	if codeOf(err) != fenced {
		t.Errorf("a commit of the version before ends with %v", err)
	}
}
