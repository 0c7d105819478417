package main

import (
	"fmt"
	"testing"
	"time"

	"coordinator/internal/wire"

	"github.com/google/go-cmp/cmp"
)

func TestEventsOfAStreamAreJudged(t *testing.T) {
	t.Parallel()
	type event struct {
		number int
		id     string
	}
	for _, c := range []struct {
		story  string
		events []event
		want   []verdict
		lost   int
	}{
		{"all arrive in order", []event{{1, "a"}, {2, "b"}, {3, "c"}}, []verdict{fresh, fresh, fresh}, 0},
		{"the first is lost", []event{{2, "b"}, {3, "c"}}, []verdict{fresh, fresh}, 1},
		{"the last is lost", []event{{1, "a"}, {2, "b"}}, []verdict{fresh, fresh}, 1},
		{"all are lost", nil, nil, 3},
		{"one is repeated", []event{{1, "a"}, {1, "a"}, {2, "b"}, {3, "c"}}, []verdict{fresh, repeated, fresh, fresh}, 0},
		{"one is repeated late", []event{{1, "a"}, {2, "b"}, {3, "c"}, {1, "a"}}, []verdict{fresh, fresh, fresh, repeated}, 0},
		{"two are swapped", []event{{2, "b"}, {1, "a"}, {3, "c"}}, []verdict{fresh, outOfOrder, fresh}, 0},
		{"the end comes first", []event{{3, "c"}, {1, "a"}, {2, "b"}}, []verdict{fresh, outOfOrder, outOfOrder}, 0},
		{"two have one ID: the application drops the second", []event{{1, "a"}, {2, "a"}, {3, "c"}}, []verdict{fresh, repeated, fresh}, 1},
		{"one comes again under another ID", []event{{1, "a"}, {1, "b"}, {2, "c"}, {3, "d"}}, []verdict{fresh, unexpected, fresh, fresh}, 0},
		{"one has no ID", []event{{1, ""}, {2, "b"}, {3, "c"}}, []verdict{unexpected, fresh, fresh}, 1},
		{"one was never told", []event{{4, "d"}, {0, "e"}}, []verdict{unexpected, unexpected}, 3},
	} {
		t.Run(c.story, func(t *testing.T) {
			d := newDelivery(3)
			d.told = 3
			var got []verdict
			for _, e := range c.events {
				got = append(got, d.arrive(e.number, e.id))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("verdicts (-want +got):\n%s", diff)
			}
			if d.lost() != c.lost {
				t.Errorf("%d lost, want %d", d.lost(), c.lost)
			}
			if d.complete() != (c.lost == 0) {
				t.Errorf("complete is %v with %d lost", d.complete(), c.lost)
			}
		})
	}
}

func TestEventsThatNobodyHasToldAreUnexpected(t *testing.T) {
	t.Parallel()
	d := newDelivery(3)
	d.told = 2
	if got := d.arrive(3, "c"); got != unexpected || d.complete() {
		t.Errorf("verdict %v of an end that the encoder has not told", got)
	}
	d.told = 3
	if got := d.arrive(3, "c"); got != fresh {
		t.Errorf("verdict %v of an end that the encoder has told", got)
	}
}

func TestPercentilesAreOfWhatWasRecorded(t *testing.T) {
	t.Parallel()
	timing := newTiming()
	for ms := range 1000 {
		timing.record(time.Duration(ms+1) * time.Millisecond)
	}
	got := timing.percentiles()
	within(t, "p50", got.P50, 500)
	within(t, "p99", got.P99, 990)
	within(t, "p99.9", got.P999, 999)
	within(t, "max", got.Max, 1000)

	timing.reset()
	timing.record(time.Hour) // more than the range holds: it counts as the longest
	within(t, "max of an hour", timing.percentiles().Max, 600_000)
}

// within allows for the three significant digits of a histogram.
func within(t *testing.T, what string, got, want float64) {
	t.Helper()
	if got < want*0.998 || got > want*1.002 {
		t.Errorf("%s is %v ms, want %v", what, got, want)
	}
}

func TestEachFaultIsReported(t *testing.T) {
	t.Parallel()
	for _, r := range []result{
		{Lost: 1}, {OutOfOrder: 1}, {Unexpected: 1}, {Unfinished: 1}, {Denied: 1}, {Killed: 1}, {Disconnected: 1},
	} {
		if n := len(newReport("life", []result{{}, r}).Faults); n != 1 {
			t.Errorf("%d faults reported of %+v", n, r)
		}
	}
	if faults := newReport("life", []result{{Repeated: 1}}).Faults; len(faults) != 0 {
		t.Errorf("a repeated event counts as a fault: %q", faults)
	}
}

func TestMessagesAreWrittenAndRead(t *testing.T) {
	t.Parallel()
	message := wire.Append(nil, "ENCODE-STOP", "Stream-Channel", "c", "Stream-ID", "i")
	if want := "ENCODE-STOP\nStream-Channel:c\nStream-ID:i\n"; string(message) != want {
		t.Fatalf("wrote %q, want %q", message, want)
	}
	other := []byte("ENCODE-STOP\nstream-id:i\nSTREAM-CHANNEL :x\nno colon\nStream-Channel:c\n")
	for _, m := range [][]byte{message, other} {
		got := fmt.Sprint(wire.Method(m), " ", wire.Value(m, "Stream-Channel"), " ", wire.Value(m, "Stream-ID"), " ", wire.Value(m, "Record"))
		if got != "ENCODE-STOP c i " {
			t.Errorf("read %q of %q", got, m)
		}
	}
}

func TestOnlyThisMachineIsLoaded(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:80", "[::1]:80", "localhost:80", "127.8.8.8:1"} {
		if err := loopbackOnly(addr); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, addr := range []string{"192.0.2.1:80", "example.org:80", "[2001:db8::1]:80", "0.0.0.0:80", ":80", "127.0.0.1", ""} {
		if loopbackOnly(addr) == nil {
			t.Errorf("%q is let through", addr)
		}
	}
}
