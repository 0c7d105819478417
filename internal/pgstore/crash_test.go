package pgstore

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"coordinator/internal/outbox"
	"coordinator/internal/pgtest"
)

// application takes events, not all at the first try, and checks their order.
type application struct {
	t *testing.T

	mu    sync.Mutex
	taken map[string]bool
	last  map[string]uint64 // by stream: seq of the last one taken
}

func (a *application) send(_ context.Context, ev outbox.Event) (int, http.Header, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if rand.IntN(40) == 0 {
		return 503, nil, nil
	}
	if ev.Seq > a.last[ev.StreamID]+1 {
		a.t.Errorf("event %d of stream %s came after event %d", ev.Seq, ev.StreamID, a.last[ev.StreamID])
	}
	a.last[ev.StreamID] = max(a.last[ev.StreamID], ev.Seq)
	a.taken[ev.ID()] = true
	return 200, nil, nil
}

func (a *application) hasTaken(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.taken[id]
}

// What was durable reaches the application in order, through crashes of the database and one leader after the other.
func TestNoCrashOfTheDatabaseLosesOrReordersEvents(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	url := server.NewDatabase(t)
	app := &application{t: t, taken: map[string]bool{}, last: map[string]uint64{}}
	const streams, perTerm = 20, 40
	var mu sync.Mutex
	durable := map[string]bool{}
	seqs := [streams]uint64{}
	for term := range 4 {
		d := open(t, url)
		s := d.Store(lead(t, d, fmt.Sprint("leader", term)), notDeposed(t))
		o, c, err := outbox.OpenShared(s, app.send, func(outbox.Attempt) {}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		o.Start()
		if term == 0 {
			<-o.Change(outbox.AddGateway("g")) // or announced streams are closed at the next start
		}
		for i := range perTerm {
			stream := rand.IntN(streams)
			seqs[stream]++
			ev := event(uint64(stream)+1, uint32(seqs[stream]-1), fmt.Sprint("s", stream), seqs[stream])
			if tail := c.Tails[ev.Queue]; term > 0 && ev.Position < tail {
				t.Fatalf("queue %d goes on at %d, and the database has come to %d", ev.Queue, ev.Position, tail)
			}
			o.AppendPart(ev)
			o.End(outbox.Mark{Durable: func() {
				mu.Lock()
				defer mu.Unlock()
				durable[ev.ID()] = true
			}})
			if i == perTerm/2 {
				server.Crash()
				server.Start(t)
			}
			<-time.After(rand.N(4 * time.Millisecond))
		}
		if err := finishSoon(o); err != nil {
			t.Errorf("term %d: %v", term, err)
		}
	}
	d := open(t, url)
	o, _, err := outbox.OpenShared(d.Store(lead(t, d, "last"), notDeposed(t)), app.send, func(outbox.Attempt) {}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	o.Start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := o.Finish(ctx); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(durable) != 4*perTerm {
		t.Errorf("%d of %d events are durable", len(durable), 4*perTerm)
	}
	for id := range durable {
		if !app.hasTaken(id) {
			t.Errorf("%s was durable and never taken", id)
		}
	}
}

// finishSoon ends an outbox with what it could not deliver, once all of it is written.
func finishSoon(o *outbox.Outbox) error {
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	return o.Finish(ctx)
}
