package timeline

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// all returns the entries that are asked for, the first one first.
func all(t *Timeline, q Query) (entries []Entry) {
	t.Each(q, func(part []Entry) { entries = append(entries, part...) })
	slices.Reverse(entries)
	return entries
}

func entry(channel, stream string, n int) Entry {
	return Entry{At: time.Unix(int64(n), 0).UTC(), Kind: Ended, Code: PublisherEnded, Channel: channel, Stream: stream, Server: uint64(n)}
}

func servers(entries []Entry) (list []uint64) {
	for i := range entries {
		list = append(list, entries[i].Server)
	}
	return list
}

func TestEntriesAreFoundByChannelStreamAndKind(t *testing.T) {
	t.Parallel()
	line := New()
	line.Add(entry("a", "a1", 1))
	line.Add(entry("b", "b1", 2))
	line.Add(entry("a", "", 3))
	line.Add(entry("a", "a2", 4))
	denied := entry("a", "", 5)
	denied.Kind = Denied
	line.Add(denied)
	line.Add(entry("", "", 6))
	for q, want := range map[Query][]uint64{
		{Channel: "a"}:               {1, 3, 4, 5},
		{Channel: "b"}:               {2},
		{Channel: "c"}:               nil,
		{Stream: "a1"}:               {1},
		{Stream: "a"}:                nil,
		{Channel: "a", Kind: Denied}: {5},
		{Channel: "b", Stream: "a1"}: nil,
		{Channel: "a", Stream: "a2"}: {4},
		{Kind: Denied}:               {5},
		{Kind: Ended}:                {1, 2, 3, 4, 6},
	} {
		if got := servers(all(line, q)); !slices.Equal(got, want) {
			t.Errorf("%+v: %v, want %v", q, got, want)
		}
	}
}

func TestEntriesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 123).UTC()
	line := New()
	given := []Entry{
		{At: at, Kind: Asked, Code: Done, Channel: "c", Server: 1 << 52, Address: "10.0.0.7:1935", Text: "2001:db8::1"},
		{At: at, Kind: Verified, Code: DeniedKey, Channel: "c", Status: 403, Tries: 3, Took: 1234 * time.Millisecond},
		{At: at, Kind: Denied, Code: NoEncoder, Channel: "c", Used: 8, Capacity: 8, Encoders: 2, Text: "no encoder has a free slot"},
		{At: at, Kind: Denied, Code: Busy, Channel: "c", Since: at.Add(-time.Hour), Address: "h:1"},
		{At: at, Kind: Started, Code: "pack", Channel: "c", Stream: "s", Encoder: 7, Address: "e", Used: 3, Capacity: -1, Encoders: 4},
		{At: at, Kind: Event, Code: Refused, Channel: "c", Stream: "s", Status: 204, Tries: 1, Event: 12, Took: time.Second, Text: "HLS-LIVE 1x1"},
	}
	for _, e := range given {
		line.Add(e)
	}
	for i := range given {
		given[i].Number, given[i].Order = uint64(i+1), at.UnixNano()
	}
	if diff := cmp.Diff(given, all(line, Query{Channel: "c"})); diff != "" {
		t.Error("(-given +found)\n", diff)
	}
}

// The last entries are there, whatever came before them.
func TestTheOldestIsForgottenFirst(t *testing.T) {
	t.Parallel()
	line := New()
	const given = Entries + Entries/2
	for n := range given {
		line.Add(entry(fmt.Sprint("channel-", n%1000), fmt.Sprint("stream-", n), n))
	}
	if got := len(all(line, Query{Kind: Ended})); got != Entries {
		t.Errorf("%d entries, want %d", got, Entries)
	}
	for _, n := range []int{given - Entries, given - 1} {
		if got := servers(all(line, Query{Stream: fmt.Sprint("stream-", n)})); !slices.Equal(got, []uint64{uint64(n)}) {
			t.Errorf("entry %d: %v", n, got)
		}
	}
	if got := all(line, Query{Stream: fmt.Sprint("stream-", given-Entries-1)}); got != nil {
		t.Errorf("the one before the oldest is still there: %v", got)
	}
	var want []uint64
	for n := given - Entries; n < given; n++ {
		if n%1000 == 7 {
			want = append(want, uint64(n))
		}
	}
	if got := servers(all(line, Query{Channel: "channel-7"})); !slices.Equal(got, want) {
		t.Errorf("a channel has %d entries from %v, want %d from %v", len(got), got[:1], len(want), want[:1])
	}
}

// Names as long as can be cost entries, not memory; names as short as can be cost no more than all entries.
func TestMemoryIsBoundedWhateverChannelsAreCalled(t *testing.T) {
	for name, size := range map[string]int{"none": 0, "short": 8, "usual": 60, "longest": longestName} {
		before := heap()
		line := New()
		long := strings.Repeat("x", size)
		const given = Entries + Entries/4
		for n := range given {
			e := entry(fmt.Sprint(n, long), fmt.Sprint(n, long), n)
			e.Text, e.Address = long, long
			line.Add(e)
		}
		if got := heap() - before; got > MaxBytes {
			t.Errorf("%s: %d bytes, want %d at most", name, got, MaxBytes)
		}
		entries := all(line, Query{})
		if got := entries[len(entries)-1].Server; got != given-1 {
			t.Errorf("%s: the last entry is %d", name, got)
		}
		if size <= 60 && len(entries) < Entries/2 || size == 8 && len(entries) != Entries {
			t.Errorf("%s: only %d entries are left", name, len(entries))
		}
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// An event that the application does not take for hours has one entry, the last one.
func TestLaterTryOfAnEventChangesTheEntryOfTheTryBefore(t *testing.T) {
	t.Parallel()
	line := New()
	try := func(event, tries, status int) {
		line.Add(Entry{Kind: Event, Status: status, Channel: "c", Stream: "s", Event: event, Tries: tries})
	}
	try(1, 1, 200)
	try(2, 1, 403)
	line.Add(Entry{Kind: Event, Status: 403, Channel: "c", Stream: "other", Event: 2, Tries: 1})
	for tries := 2; tries <= 100; tries++ {
		try(2, tries, 0)
	}
	list := func() (list []string) {
		for _, e := range all(line, Query{Channel: "c"}) {
			list = append(list, fmt.Sprint(e.Stream, " ", e.Event, " ", e.Code, " ", e.Tries))
		}
		return list
	}
	if diff := cmp.Diff([]string{"s 1 taken 1", "s 2 no_answer 100", "other 2 refused 1"}, list()); diff != "" {
		t.Error("(-want +got)\n", diff)
	}
	try(2, 101, 200)
	try(0, 2, 200) // its first try is forgotten
	if diff := cmp.Diff([]string{"s 1 taken 1", "s 2 taken 101", "other 2 refused 1", "s 0 taken 2"}, list()); diff != "" {
		t.Error("(-want +got)\n", diff)
	}
}

// A model that keeps all entries says what is found, with names of all lengths: these fill the memory before there are too many entries.
func TestTimelineFindsWhatAModelFinds(t *testing.T) {
	t.Parallel()
	for seed, steps := range []int{0, 1, 300, 20_000} {
		random := rand.New(rand.NewPCG(uint64(seed), 0))
		line := New()
		var given []Entry
		for n := range steps {
			size := random.IntN(8)
			if random.IntN(2) == 0 {
				size = random.IntN(longestName)
			}
			e := entry(fmt.Sprint("c", random.IntN(100)), strings.Repeat("s", size), n)
			e.Code = strings.Repeat("c", random.IntN(2))
			line.Add(e)
			given = append(given, e)
		}
		kept := all(line, Query{})
		if len(kept) > Entries || len(kept) < min(steps, 5_000) || len(kept) == 20_000 {
			t.Fatalf("%d of %d entries", len(kept), steps)
		}
		given = given[len(given)-len(kept):]
		if !slices.Equal(servers(kept), servers(given)) {
			t.Fatalf("of %d entries others are kept than the last ones", steps)
		}
		for c := range 10 {
			channel, want := fmt.Sprint("c", c), []uint64(nil)
			for _, e := range given {
				if e.Channel == channel {
					want = append(want, e.Server)
				}
			}
			if got := servers(all(line, Query{Channel: channel})); !slices.Equal(got, want) {
				t.Fatalf("%s of %d entries: %v, want %v", channel, steps, got, want)
			}
		}
	}
}

func TestManyMayUseATimelineAtOnce(t *testing.T) {
	t.Parallel()
	line := New()
	var writers, readers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for n := range 10_000 {
				line.Add(entry(fmt.Sprint("channel-", w), fmt.Sprint("stream-", w, "-", n), n))
			}
		})
	}
	stop := make(chan struct{})
	readers.Go(func() {
		for {
			for _, e := range all(line, Query{Channel: "channel-2"}) {
				if e.Channel != "channel-2" || e.Stream != fmt.Sprint("stream-2-", e.Server) {
					t.Errorf("entry of another one: %+v", e)
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	writers.Wait()
	close(stop)
	readers.Wait()
	if got := all(line, Query{Channel: "channel-3"}); len(got) == 0 || got[len(got)-1].Server != 9_999 {
		t.Errorf("%d entries", len(got))
	}
}

func BenchmarkAdd(b *testing.B) {
	line := New()
	e := entry("a-channel-of-some-length", "K2X2CZHGSFB37HGFFURGQATOXQ", 1)
	e.Address = "10.0.0.7:1935"
	b.ReportAllocs()
	for b.Loop() {
		line.Add(e)
	}
}

// Of each event the last try is there, once, although entries of tries before it are forgotten meanwhile.
func TestTriesOfManyEventsAmongOtherEntries(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 7))
	line := New()
	type event struct {
		stream string
		number int
	}
	tries := map[event]int{}
	long := strings.Repeat("x", longestText)
	for n := range Entries {
		other := entry("c", fmt.Sprint("other", n), n)
		other.Text = long
		line.Add(other)
		of := event{fmt.Sprint("s", random.IntN(300)), random.IntN(3)}
		tries[of]++
		line.Add(Entry{Kind: Event, Channel: "c", Stream: of.stream, Status: 503, Tries: tries[of], Event: of.number})
	}
	seen := map[event]bool{}
	for _, e := range all(line, Query{Kind: Event}) {
		of := event{e.Stream, e.Event}
		if seen[of] || e.Tries != tries[of] {
			t.Fatalf("%v: try %d (seen: %v), want one entry with try %d", of, e.Tries, seen[of], tries[of])
		}
		seen[of] = true
	}
	if others := len(all(line, Query{Kind: Ended})); others > Entries/2 || len(seen) < 100 {
		t.Errorf("%d entries and %d events are kept", others, len(seen))
	}
}

// Whoever follows a timeline, and has read up to an entry of an earlier process, sees those of the next one.
func TestOrderGoesOnWithTheNextProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var orders []int64
		for range 3 {
			line := New()
			time.Sleep(time.Hour)
			line.Add(Entry{At: time.Now(), Kind: Ended})
			orders = append(orders, all(line, Query{})[0].Order)
			time.Sleep(time.Second)
		}
		if !slices.IsSorted(orders) || orders[0] == orders[2] {
			t.Error(orders)
		}
	})
}

func BenchmarkFind(b *testing.B) {
	line := New()
	for n := range 2 * Entries {
		line.Add(entry(fmt.Sprint("channel-", n), fmt.Sprint("stream-", n), n))
	}
	for b.Loop() {
		if len(all(line, Query{Channel: fmt.Sprint("channel-", Entries+1)})) != 1 {
			b.Fatal("not found")
		}
	}
}

func TestTriesOfAnEventOfNobodyAreOneEntry(t *testing.T) {
	t.Parallel()
	line := New()
	for try := 1; try <= 100; try++ {
		line.Add(Entry{At: time.Now(), Kind: Event, Channel: "c", Stream: "event", Event: EventOfNobody, Text: "publish-failed", Tries: try, Status: 503})
	}
	entries := all(line, Query{Channel: "c"})
	if len(entries) > 3 {
		t.Errorf("%d entries", len(entries))
	}
	text, err := json.Marshal(&entries[len(entries)-1])
	if err != nil || !strings.Contains(string(text), `"streamId":""`) || !strings.Contains(string(text), "publish-failed was not taken") {
		t.Errorf("%s, %v", text, err)
	}
}

func TestDiscardedEventIsNamedAsWhatItWas(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]Entry{
		"publish-accepted was":                    {Stream: "s", Event: OtherEvent, Text: "publish-accepted"},
		"publish-failed was":                      {Event: EventOfNobody, Text: "publish-failed"},
		"stream-closed was":                       {Stream: "s"},
		"stream-available (HLS-LIVE 640x360) was": {Stream: "s", Event: 3, Text: "HLS-LIVE 640x360"},
	} {
		line, shown := New(), e.Stream
		e.Kind, e.Code, e.Channel = Discarded, Done, "c"
		if e.Event == EventOfNobody {
			e.Stream = "by which tries are found"
		}
		line.Add(e)
		text, err := json.Marshal(&all(line, Query{Channel: "c"})[0])
		if err != nil || !strings.Contains(string(text), `"reason":"`+want) || !strings.Contains(string(text), `"streamId":"`+shown+`"`) {
			t.Errorf("%s, %v, want %s of stream %q", text, err, want, shown)
		}
	}
}
