package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
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

func openCluster(t *testing.T, dir string) (*Outbox, Cluster) {
	t.Helper()
	o, c, err := OpenCluster(dir, neverAnswers, unobserved, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(c.Gateways)
	return o, c
}

func closeOutbox(t *testing.T, o *Outbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // for a machine that is slow to commit
	cancel()
	if err := o.Finish(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestClusterIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o, first := openCluster(t, dir)
	if diff := cmp.Diff(Cluster{StoreID: first.StoreID, IsNew: true}, first, cmpopts.EquateEmpty()); diff != "" || first.StoreID == "" {
		t.Fatalf("of an empty store: %s", diff)
	}
	o.Start()
	<-o.Change(AddGateway("g1"), AddGateway("g2"), UseNumbers(1<<21))
	ev := availableEvent("s", 1)
	durable := make(chan struct{})
	o.AppendPart(ev)
	o.End(Mark{Session: 7, Message: 3, Durable: func() { close(durable) }})
	<-durable
	o.Append(availableEvent("s", 2))
	<-o.Change(RemoveGateway("g2"))
	closeOutbox(t, o)

	o, again := openCluster(t, dir)
	want := Cluster{
		StoreID:   first.StoreID,
		Numbers:   1 << 21,
		Gateways:  []string{"g1"},
		Applied:   map[uint64]uint64{7: 3},
		Tails:     map[uint64]uint32{ev.Queue: 2},
		Announced: []Announced{{ev.Queue, AnnouncedStream{Channel: ev.Channel, StreamID: "s", LastSeq: 2}}},
	}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Error(diff)
	}
	o.Change(RemoveGateway("g1"), ForgetSession(7))
	closeOutbox(t, o)

	// Without a gateway nothing can live on.
	o, last := openCluster(t, dir)
	if diff := cmp.Diff(Cluster{StoreID: first.StoreID, Numbers: 1 << 21, Tails: map[uint64]uint32{ev.Queue: 2}}, last, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	if waiting, _ := o.Pending(); waiting != 3 {
		t.Errorf("%d events wait, want the two and a stream-closed", waiting)
	}
	closeOutbox(t, o)
}

// The last message of a session and its end may be written together.
func TestSessionThatEndsIsForgottenWithItsLastMessage(t *testing.T) {
	t.Parallel()
	store, _, err := openStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ev := availableEvent("s", 1)
	ev.Queue, ev.Session, ev.Message = 1, 7, 3
	if _, err := store.Commit(Group{Appended: []Event{ev}, Changes: []Change{ForgetSession(7)}}); err != nil {
		t.Fatal(err)
	}
	if c, err := store.Cluster(); err != nil || len(c.Applied) > 0 {
		t.Errorf("applied: %v %v", c.Applied, err)
	}
}

// Once no gateway may link any more, the application is told that its streams are closed. They must not be live again, should
// gateways be let in later: a gateway that the store does not know has to begin anew.
func TestGatewaysThatMayNotLinkAnyMoreAreForgotten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o, first := openCluster(t, dir)
	o.Start()
	<-o.Change(AddGateway("g1"), AddGateway("g2"), UseNumbers(1<<21))
	durable := make(chan struct{})
	o.AppendPart(availableEvent("s", 1))
	o.End(Mark{Session: 7, Message: 3, Durable: func() { close(durable) }})
	<-durable
	closeOutbox(t, o)

	var log strings.Builder
	direct, err := Open(dir, neverAnswers, unobserved, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if waiting, _ := direct.Pending(); waiting != 2 {
		t.Errorf("%d events wait, want one and a stream-closed", waiting)
	}
	if !strings.Contains(log.String(), "those of the last run are given up") || !strings.Contains(log.String(), "gateways=2") {
		t.Error(log.String())
	}
	closeOutbox(t, direct)

	o, again := openCluster(t, dir)
	if again.StoreID != first.StoreID || again.Numbers != 1<<21 || len(again.Gateways)+len(again.Applied)+len(again.Announced) > 0 {
		t.Errorf("%+v", again)
	}
	closeOutbox(t, o)
}

// All events of a transition are in one commit, and with them the message that they follow from.
func TestEventsOfATransitionAreCommittedTogether(t *testing.T) {
	t.Parallel()
	for range 20 {
		store := newMemoryStore()
		o, _, err := newClusterOutbox(time.Now, store, neverAnswers, unobserved, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		const messages, each = 500, 5
		for message := range uint64(messages) {
			for i := range uint64(each) {
				o.AppendPart(availableEvent("s", int(message*each+i+1)))
			}
			o.End(Mark{Session: 7, Message: message + 1})
		}
		for range rand.IntN(4) { // of up to 1,024 events each
			if err := o.writeGroup(); err != nil {
				t.Fatal(err)
			}
		}
		after, c, err := newClusterOutbox(time.Now, store.crashed(), neverAnswers, unobserved, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if events := uint64(len(store.events)); c.Applied[7] != events/each || events%each > 0 {
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
				store := &faultyStore{Store: memory}
				o, _, err := newClusterOutbox(time.Now, store, neverAnswers, unobserved, slog.New(slog.DiscardHandler))
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
				kept, _ := memory.Cluster()
				if len(kept.Gateways) != 1 {
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
	o, _ := openCluster(t, dir)
	for i := range 3000 { // more than one group
		o.Append(availableEvent(fmt.Sprint("s", i), 1))
	}
	for i := range 10 {
		o.Change(AddGateway(fmt.Sprint("g", i)))
	}
	closeOutbox(t, o)
	o, c := openCluster(t, dir)
	if len(c.Gateways) != 10 || len(c.Announced) != 3000 {
		t.Errorf("%d gateways, %d announced streams", len(c.Gateways), len(c.Announced))
	}
	closeOutbox(t, o)
}

// A transition of more events than a commit takes at other times is committed in one, too.
func TestLargeTransitionIsCommittedTogether(t *testing.T) {
	t.Parallel()
	store := newMemoryStore()
	o, _, err := newClusterOutbox(time.Now, store, neverAnswers, unobserved, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	o.Append(availableEvent("first", 1))
	const large = 3 * maxGroup
	for i := range large {
		o.AppendPart(availableEvent(fmt.Sprint("s", i), 1))
	}
	if err := o.writeGroup(); err != nil || len(store.events) != 1 {
		t.Fatalf("%d events are committed of a transition that has not ended, %v", len(store.events), err)
	}
	o.End(Mark{})
	if err := o.writeGroup(); err != nil || len(store.events) != 1+large {
		t.Fatalf("%d events are committed, %v", len(store.events), err)
	}
	closeOutbox(t, o)
}
