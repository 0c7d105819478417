package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// neverAnswers is an application that never answers.
func neverAnswers(ctx context.Context, _ Event) (int, http.Header, error) {
	<-ctx.Done()
	return 0, nil, ctx.Err()
}

// openCluster opens a directory, and returns a channel of what becomes applied.
func openCluster(t *testing.T, dir string) (*Outbox, Cluster, chan [2]uint64) {
	t.Helper()
	applied := make(chan [2]uint64, 100)
	o, c, err := OpenCluster(dir, neverAnswers, unobserved, func(session, message uint64) { applied <- [2]uint64{session, message} }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(c.Gateways)
	return o, c, applied
}

func closeOutbox(t *testing.T, o *Outbox) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := o.Finish(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestClusterIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o, first, applied := openCluster(t, dir)
	if diff := cmp.Diff(Cluster{StoreID: first.StoreID}, first, cmpopts.EquateEmpty()); diff != "" || first.StoreID == "" {
		t.Fatalf("of an empty store: %s", diff)
	}
	o.Start()
	<-o.Change(AddGateway("g1"), AddGateway("g2"), UseNumbers(1<<21))
	ev := availableEvent("s", 1)
	ev.Session, ev.Message = 7, 3
	o.Append(ev)
	if got := <-applied; got != [2]uint64{7, 3} {
		t.Errorf("applied: %v", got)
	}
	o.Append(availableEvent("s", 2))
	<-o.Change(RemoveGateway("g2"))
	closeOutbox(t, o)

	o, again, _ := openCluster(t, dir)
	want := Cluster{
		StoreID:   first.StoreID,
		Numbers:   1 << 21,
		Gateways:  []string{"g1"},
		Applied:   map[uint64]uint64{7: 3},
		Tails:     map[uint64]uint32{ev.Queue: 2},
		Announced: []Announced{{Queue: ev.Queue, Channel: ev.Channel, StreamID: "s", LastSeq: 2}},
	}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Error(diff)
	}
	o.Change(RemoveGateway("g1"), ForgetSession(7))
	closeOutbox(t, o)

	// Without a gateway nothing can live on.
	o, last, _ := openCluster(t, dir)
	if diff := cmp.Diff(Cluster{StoreID: first.StoreID, Numbers: 1 << 21, Tails: map[uint64]uint32{ev.Queue: 2}}, last, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	if waiting, _ := o.Pending(); waiting != 3 {
		t.Errorf("%d events wait, want the two and a stream-closed", waiting)
	}
	closeOutbox(t, o)
}

// A message counts as applied with the last of its events, never before: whatever of them a crash leaves, what is replayed
// adds the rest.
func TestMessageIsAppliedWithItsLastEvent(t *testing.T) {
	t.Parallel()
	for range 20 {
		store := newMemoryStore()
		o, _, err := newClusterOutbox(time.Now, store, neverAnswers, unobserved, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		const messages, each = 500, 5
		for message := range uint64(messages) {
			for i := range uint64(each) {
				ev := availableEvent("s", int(message*each+i+1))
				if i == each-1 {
					ev.Session, ev.Message = 7, message+1
				}
				o.Append(ev)
			}
		}
		for range rand.IntN(4) { // of up to 1,024 events each
			if err := o.writeGroup(); err != nil {
				t.Fatal(err)
			}
		}
		after, c, err := newClusterOutbox(time.Now, store.crashed(), neverAnswers, unobserved, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if events := uint64(len(store.events)); c.Applied[7] != events/each {
			t.Errorf("%d events are kept, %d messages are applied", events, c.Applied[7])
		}
		closeOutbox(t, o)
		closeOutbox(t, after)
	}
}

func TestChangeIsDurableOnlyWhenItsCommitHasSucceeded(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*faultyStore, func() error){
		"before": func(s *faultyStore, f func() error) { s.beforeCommit = f },
		"after":  func(s *faultyStore, f func() error) { s.afterCommit = f },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				memory := newMemoryStore()
				faults := 0
				store := &faultyStore{eventStore: memory}
				o, _, err := newClusterOutbox(time.Now, store, neverAnswers, unobserved, nil, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				fail(store, func() error {
					if faults++; faults <= 3 {
						return errors.New("no")
					}
					return nil
				})
				o.Start()
				began := time.Now()
				durable := o.Change(AddGateway("g"))
				o.Append(availableEvent("s", 1))
				<-durable
				if faults != 4 || time.Since(began) < 3*commitRetry {
					t.Errorf("durable after %d commits and %v", faults, time.Since(began))
				}
				kept, _ := memory.cluster()
				if len(readCluster(kept).Gateways) != 1 {
					t.Errorf("kept: %v", kept)
				}
				if len(memory.events) != 1 {
					t.Errorf("%d events", len(memory.events))
				}
				closeOutbox(t, o)
			})
		})
	}
}

func TestChangesAndManyEventsAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o, _, _ := openCluster(t, dir)
	for i := range 3000 { // more than one group
		o.Append(availableEvent(fmt.Sprint("s", i), 1))
	}
	for i := range 10 {
		o.Change(AddGateway(fmt.Sprint("g", i)))
	}
	closeOutbox(t, o)
	o, c, _ := openCluster(t, dir)
	if len(c.Gateways) != 10 || len(c.Announced) != 3000 {
		t.Errorf("%d gateways, %d announced streams", len(c.Gateways), len(c.Announced))
	}
	closeOutbox(t, o)
}
