package pgstore

import (
	_ "embed" // for format1.sql
	"fmt"
	"strings"
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

	// A coordinator of the version before whose connection was open then can't take over.
	err := pgtest.TryExec(url, "UPDATE coordinator_leader SET epoch = epoch + 1, beat = beat + 1, holder = 'old' WHERE one")
	if err == nil || !strings.Contains(err.Error(), "the database has format 2, which this coordinator does not know: update this coordinator") {
		t.Errorf("a coordinator that does not know the format takes over: %v", err)
	}
	if err := pgtest.TryExec(url, "UPDATE coordinator_leader SET beat = beat + 1 WHERE one"); err != nil {
		t.Errorf("a renewal: %v", err)
	}

	// A leader of the version before that has not noticed yet is fenced as ever, and its function is still there.
	err = pgtest.TryExec(url, fmt.Sprintf(commit1, 1, available, closed, next))
	if codeOf(err) != fenced {
		t.Errorf("a commit of the version before ends with %v", err)
	}
}

func TestUserWithoutRightsIsToldWhyFormat1Stays(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	pgtest.Exec(t, url, format1)
	pgtest.Exec(t, url, "CREATE ROLE mere_user LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO mere_user")
	_, err := open(t, strings.Replace(url, "coordinator@", "mere_user@", 1)).Look(t.Context())
	if err == nil || !strings.Contains(err.Error(), "lacks rights") || !strings.Contains(err.Error(), "format 1") {
		t.Errorf("a user who may not change tables is told: %v", err)
	}
}

func TestStreamThatIsKnownAgainFulfillsItsAccept(t *testing.T) {
	t.Parallel()
	d := open(t, pgtest.URL(t))
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	commit(t, s, outbox.Group{Appended: []outbox.Event{{Type: outbox.PublishAccepted, Queue: 7, Channel: "c", StreamID: "first", At: time.UnixMilli(5)}}})
	known := outbox.Announced{Queue: 7, AnnouncedStream: outbox.AnnouncedStream{Channel: "c", StreamID: "second", LastSeq: 3}}
	commit(t, s, outbox.Group{Changes: []outbox.Change{outbox.KnowStream(known, "first")}})
	if got := contentsOf(t, s).Queues[7].Announced; len(got) != 1 || got[0].StreamID != "second" {
		t.Errorf("announced: %+v", got)
	}
}
