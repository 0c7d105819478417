package pgstore

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"coordinator/internal/outbox"
	"coordinator/internal/pgtest"

	"github.com/jackc/pgx/v5"
)

// The first page and the last one come at once, however many events there are: COORDINATOR_TEST_EVENTS says how many, as for the outbox.
func TestPagesOfManyEventsComeAtOnce(t *testing.T) {
	t.Parallel()
	many := 50_000
	if value := os.Getenv("COORDINATOR_TEST_EVENTS"); value != "" {
		var err error
		if many, err = strconv.Atoi(value); err != nil {
			t.Fatal(err)
		}
	}
	url := pgtest.URL(t)
	d := open(t, url)
	s := d.Store(lead(t, d, "a"), notDeposed(t))
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	ev := event(1, 0, "stream", 1)
	_, err = conn.Exec(t.Context(), "INSERT INTO coordinator_event (queue, position, at, body) SELECT i / 5, i % 5, 0, $2 FROM generate_series(5, $1 + 4) AS i", many, outbox.EncodeEvent(&ev))
	if err != nil {
		t.Fatal(err)
	}
	for what, from := range map[string]uint64{"first page": 0, "page in the middle": uint64(many / 10), "last page": uint64(many/5 - 4)} {
		best := time.Hour
		for range 5 { // a test beside this one may have the machine
			began := time.Now()
			if found, _, _, err := s.Scan(outbox.Place{Queue: from}, "", 1000); err != nil || len(found) == 0 {
				t.Errorf("%s: %d events, %v", what, len(found), err)
			}
			best = min(best, time.Since(began))
		}
		if t.Logf("%s after %v", what, best); best > 100*time.Millisecond {
			t.Errorf("%s only after %v", what, best)
		}
	}
	began, steps := time.Now(), 0
	for from, more := (outbox.Place{}), true; more; steps++ {
		var found []outbox.Event
		if found, from, more, err = s.Scan(from, "nobody", 10_000); err != nil || len(found) > 0 {
			t.Fatalf("%d events of nobody, %v", len(found), err)
		}
	}
	t.Logf("all looked through after %v", time.Since(began))
	if want := (many + 9999) / 10_000; steps != want {
		t.Errorf("%d steps, want %d", steps, want)
	}
}

// What an operator gives up is gone for the next leader, too, and what is behind it is sent.
func TestDiscardedEventIsGoneForTheNextLeader(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	send := func(_ context.Context, ev outbox.Event) (int, http.Header, error) {
		return 422, http.Header{"Retry-After": {"200"}}, nil
	}
	waiting := func(o *outbox.Outbox, ids ...string) {
		t.Helper()
		deadline := time.After(time.Minute)
		for {
			page, _, more, err := o.List(t.Context(), outbox.Place{}, "channel", 10)
			if err != nil || more {
				t.Fatal(more, err)
			}
			var got []string
			for _, u := range page {
				got = append(got, u.ID())
			}
			if slices.Equal(got, ids) && (len(page) == 0 || page[0].Standing == outbox.Waiting && page[0].LastAnswer == "status 422") {
				return
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-deadline:
				t.Fatalf("%+v", page)
			}
		}
	}
	for term, leader := range []string{"a", "b"} {
		d := open(t, url)
		o, _, err := outbox.OpenShared(d.Store(lead(t, d, leader), notDeposed(t)), send, func(outbox.Attempt) {}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		o.Start()
		discarded := 0
		if term == 0 {
			o.Append(event(7, 0, "s", 1))
			o.Append(event(7, 1, "s", 2))
			o.Append(closed(7, 2, "s", 3))
			waiting(o, "s-1", "s-2", "s-closed")
			if err := o.Discard(t.Context(), "s-closed", nil); !errors.Is(err, outbox.ErrNotFirst) {
				t.Error(err)
			}
			if err := o.Discard(t.Context(), "s-1", func(outbox.Undelivered) { discarded++ }); err != nil || discarded != 1 {
				t.Error(err, discarded)
			}
			waiting(o, "s-2", "s-closed")
		} else {
			waiting(o, "s-2", "s-closed")
			if err := o.TryNow(t.Context(), "channel"); err != nil {
				t.Error(err)
			}
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := o.Finish(over); err != nil {
			t.Error(err)
		}
	}
}
