package pgstore

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"coordinator/internal/outbox"
	"coordinator/internal/pgtest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// fileStore is the store on disk that the one in the database has to be like.
func fileStore(t *testing.T) outbox.Store {
	t.Helper()
	dir := t.TempDir()
	send := func(context.Context, outbox.Event) (int, http.Header, error) { return 503, nil, nil }
	o, _, err := outbox.OpenCluster(dir, send, func(outbox.Attempt) {}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	expired, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Finish(expired); err != nil {
		t.Fatal(err)
	}
	f, err := outbox.OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// whole is all that a store says of itself.
type whole struct {
	Queues  map[uint64]outbox.QueueRecord
	Events  map[string]outbox.Event
	Cluster outbox.Cluster
	Scanned []string // places of events whose records hold a text
}

func wholeOf(t *testing.T, s outbox.Store, text string) whole {
	t.Helper()
	w := whole{Queues: map[uint64]outbox.QueueRecord{}, Events: map[string]outbox.Event{}}
	last := uint64(0)
	err := s.Load(func(number uint64, r outbox.QueueRecord) {
		if number <= last {
			t.Errorf("queue %d comes after queue %d", number, last)
		}
		last = number
		if r.Head == r.Tail {
			r.HeadAt = time.Time{} // of no event
		}
		slices.SortFunc(r.Announced, func(a, b outbox.AnnouncedStream) int { return strings.Compare(a.StreamID, b.StreamID) })
		w.Queues[number] = r
	})
	if err != nil {
		t.Fatal(err)
	}
	for number, r := range w.Queues {
		for position := r.Head; position < r.Tail; position++ {
			ev, err := s.Read(number, position)
			if err != nil {
				t.Fatalf("%d/%d of %+v: %v", number, position, r, err)
			}
			w.Events[fmt.Sprint(number, "/", position)] = ev
		}
	}
	w.Scanned = scanned(t, s, w, text)
	if w.Cluster, err = s.Cluster(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(w.Cluster.Gateways)
	return w
}

// scanned walks through a store in steps of any size. What a step finds is what Read finds there.
func scanned(t *testing.T, s outbox.Store, w whole, text string) (places []string) {
	t.Helper()
	for from, more := (outbox.Place{}), true; more; {
		var found []outbox.Event
		var err error
		look := 1 + rand.IntN(40)
		if found, from, more, err = s.Scan(from, text, look); err != nil || len(found) > look {
			t.Fatalf("%d found of %d: %v", len(found), look, err)
		}
		for _, ev := range found {
			at := fmt.Sprint(ev.Queue, "/", ev.Position)
			places = append(places, at)
			if !strings.Contains(string(outbox.EncodeEvent(&ev)), text) {
				t.Errorf("%s does not hold %q", at, text)
			}
			ev.Queue, ev.Position = 0, 0
			if diff := cmp.Diff(w.Events[at], ev, cmpopts.IgnoreUnexported(outbox.Event{})); diff != "" {
				t.Errorf("%s: %s", at, diff)
			}
		}
	}
	if text == "" && len(places) != len(w.Events) {
		t.Errorf("%d of %d events were found", len(places), len(w.Events))
	}
	return places
}

// history makes groups as an outbox does.
type history struct {
	queues  map[uint64]*pastQueue
	next    uint64
	applied map[uint64]uint64
}

type pastQueue struct {
	tail, durable, head uint32
	streams             map[string]uint64 // that are announced: last seq
	accepted            string            // publisher without an end
	last                string
	begun               int
	at                  int64
}

func (h *history) group() (g outbox.Group) {
	for range rand.IntN(6) {
		if len(h.queues) == 0 || rand.IntN(6) == 0 {
			h.next++
			h.queues[h.next] = &pastQueue{streams: map[string]uint64{}, at: 1e12}
		}
		for number, q := range h.queues { // any
			g.Appended = append(g.Appended, h.event(number, q))
			break
		}
	}
	for number, q := range h.queues {
		if q.head < q.durable && rand.IntN(3) == 0 {
			q.head += 1 + rand.Uint32N(q.durable-q.head)
			g.Delivered = append(g.Delivered, outbox.DeliveredUpTo{Queue: number, Head: q.head})
		}
	}
	for _, q := range h.queues {
		q.durable = q.tail
	}
	for range rand.IntN(3) {
		gateway, session := fmt.Sprint("g", rand.IntN(4)), rand.Uint64N(5)
		g.Changes = append(g.Changes, []outbox.Change{
			outbox.AddGateway(gateway), outbox.RemoveGateway(gateway), outbox.ForgetSession(session), outbox.UseNumbers(h.next << 20),
		}[rand.IntN(4)])
	}
	return g
}

func (h *history) event(number uint64, q *pastQueue) outbox.Event {
	q.at += rand.Int64N(1000)
	ev := outbox.Event{Queue: number, Position: q.tail, Channel: fmt.Sprint("channel ä", number), Passthrough: fmt.Sprint("p", number), At: time.UnixMilli(q.at)}
	q.tail++
	switch {
	case ev.Position == 0 && rand.IntN(2) == 0:
		q.accepted = fmt.Sprint("stream", number, ".1")
		q.begun = rand.IntN(2) // 1: the first stream never announces anything
		ev.Type, ev.StreamID = outbox.PublishAccepted, q.accepted
		return ev
	case q.accepted != "" && rand.IntN(4) == 0:
		ev.Type, ev.StreamID, ev.Reason = outbox.PublishFailed, q.accepted, "no_encoder"
		q.accepted = ""
		return ev
	case rand.IntN(8) == 0:
		ev.Type, ev.StreamID, ev.Reason = outbox.StreamInterrupted, fmt.Sprint("stream", number, ".", 1+rand.IntN(3)), "encoder_lost"
		return ev
	case ev.Position == 0 && rand.IntN(8) == 0:
		ev.Type, ev.StreamID = outbox.PublishRefused, fmt.Sprint("nobody", number)
		return ev
	}
	for stream, seq := range q.streams {
		ev.StreamID, ev.Seq = stream, seq+1
	}
	switch {
	case ev.StreamID == "" || rand.IntN(5) == 0: // another stream of the publication begins
		q.begun++
		ev.StreamID, ev.Seq, ev.Previous = fmt.Sprint("stream", number, ".", q.begun), 1, q.last
		q.last = ev.StreamID
		q.streams[ev.StreamID] = 1
	case rand.IntN(3) == 0:
		ev.Type, ev.Reason, ev.Duration = outbox.StreamClosed, "moved", time.Duration(rand.IntN(3)-1)*time.Second
		delete(q.streams, ev.StreamID)
	default:
		q.streams[ev.StreamID] = ev.Seq
	}
	if ev.Type != outbox.StreamClosed {
		ev.Fulfills, q.accepted = q.accepted, ""
		ev.StreamType, ev.Resolution, ev.IndexFile, ev.StartTime = "HLS-LIVE", "1x1", strings.Repeat("i\x00", rand.IntN(3)*800), "0"
	}
	if rand.IntN(2) == 0 {
		ev.Session = rand.Uint64N(5)
		h.applied[ev.Session]++
		ev.Message = h.applied[ev.Session]
	}
	return ev
}

// The store in the database holds the same as that on disk, whatever an outbox commits, and however often.
func TestStoreIsLikeTheOneOnDisk(t *testing.T) {
	t.Parallel()
	d := open(t, pgtest.URL(t))
	disk, database := fileStore(t), d.Store(lead(t, d, "a"), notDeposed(t))
	named, err := disk.Cluster()
	if err != nil {
		t.Fatal(err)
	}
	commit(t, database, outbox.Group{Changes: []outbox.Change{{Kind: outbox.StoreNamed, ID: named.StoreID}}})
	h := history{queues: map[uint64]*pastQueue{}, applied: map[uint64]uint64{}}
	for round := range 150 {
		g := h.group()
		for range 1 + rand.IntN(2) {
			for _, s := range []outbox.Store{disk, database} {
				if left, err := s.Commit(g); err != nil || len(left.Appended)+len(left.Changes)+len(left.Delivered) > 0 {
					t.Fatal(left, err)
				}
			}
		}
		text := []string{"", "channel ä", "stream1.", "i\x00i\x00", "nobody"}[rand.IntN(5)]
		diff := cmp.Diff(wholeOf(t, disk, text), wholeOf(t, database, text), cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(outbox.Event{}), cmpopts.IgnoreFields(outbox.Event{}, "Fulfills"))
		if diff != "" {
			t.Fatalf("after group %d, %+v: on disk (-), in the database (+)\n%s", round, g, diff)
		}
	}
}
