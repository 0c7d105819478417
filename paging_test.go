package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"testing"
	"time"

	"coordinator/internal/outbox"

	"github.com/google/go-cmp/cmp"
)

// walk follows the cursors from the first page to the last and returns the stream IDs in their order.
func walk(t *testing.T, rows []streamRow, query url.Values) (ids []string) {
	t.Helper()
	streams := streamList()
	for pages := 0; ; pages++ {
		q, err := streams.parse(query.Encode())
		if err != nil {
			t.Fatal(err)
		}
		page, _, after := streams.page(rows, q)
		for _, row := range page {
			ids = append(ids, row.StreamID)
		}
		if after == "" {
			return ids
		}
		if len(page) != q.limit || pages > len(rows) {
			t.Fatalf("page %d has %d rows and is not the last", pages, len(page))
		}
		query.Set("after", after)
	}
}

func rowsNamed(channels ...string) (rows []streamRow) {
	for i, channel := range channels {
		rows = append(rows, streamRow{Channel: channel, StreamID: fmt.Sprint("s", i), State: "live"})
	}
	return rows
}

func TestPagesFollowTheSortAndItsReverse(t *testing.T) {
	t.Parallel()
	rows := rowsNamed("c", "a", "b", "a", "d") // s0 ... s4
	rows[0].Encoder, rows[1].Encoder, rows[2].Encoder = 9, 10, 1
	rows[2].State = "closing"
	now := time.Now()
	for i := range rows {
		rows[i].Since = now.Add(time.Duration(i*i-3*i) * time.Hour) // 0 -2 -2 0 4
	}
	for sort, want := range map[string]string{
		"":         "s1 s3 s2 s0 s4",
		"channel":  "s1 s3 s2 s0 s4",
		"-channel": "s4 s0 s2 s3 s1",
		"encoder":  "s3 s4 s2 s0 s1",
		"-encoder": "s1 s0 s2 s4 s3",
		"since":    "s1 s2 s0 s3 s4",
		"state":    "s2 s0 s1 s3 s4",
	} {
		for limit := 1; limit <= 6; limit++ {
			got := strings.Join(walk(t, rows, url.Values{"sort": {sort}, "limit": {fmt.Sprint(limit)}}), " ")
			if got != want {
				t.Errorf("sort %q, pages of %d: %s, want %s", sort, limit, got, want)
			}
		}
	}
}

func TestPagesOfManyRowsKeepTheBest(t *testing.T) {
	t.Parallel()
	var rows []streamRow
	var want []string
	for i := range 1009 {
		n := i * 503 % 1009 // all numbers below 1009, out of order
		rows = append(rows, streamRow{Channel: fmt.Sprintf("c%04d", n), StreamID: fmt.Sprint(n)})
		want = append(want, fmt.Sprint(i))
	}
	for _, limit := range []string{"1", "7", "50", "500"} {
		if diff := cmp.Diff(want, walk(t, rows, url.Values{"limit": {limit}})); diff != "" {
			t.Errorf("pages of %s (-want +got):\n%s", limit, diff)
		}
	}
}

func TestSearchCountsAllThatMatch(t *testing.T) {
	t.Parallel()
	streams := streamList()
	q, err := streams.parse("q=sport&limit=1")
	if err != nil {
		t.Fatal(err)
	}
	page, matched, after := streams.page(rowsNamed("news", "sport-2", "sport-1"), q)
	if matched != 2 || len(page) != 1 || page[0].Channel != "sport-1" || after == "" {
		t.Errorf("%d matched, page %v, after %q", matched, page, after)
	}
}

func TestQueriesThatCannotBeReadAreNamed(t *testing.T) {
	t.Parallel()
	streams := streamList()
	own := cursor{"streams", "channel", sortKey{Text: "a", Name: "s"}}.encode()
	encode := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for query, want := range map[string]error{
		"limit=0":                       errBadLimit,
		"limit=-1":                      errBadLimit,
		"limit=501":                     errBadLimit,
		"limit=x":                       errBadLimit,
		"limit=9999999999999999999999":  errBadLimit,
		"limit=1&limit=2":               errBadQuery,
		"q=%zz":                         errBadQuery,
		"sort=nonsense":                 errBadSort,
		"sort=--channel":                errBadSort,
		"sort=-":                        errBadSort,
		"sort=load":                     errBadSort,
		"after=nonsense!":               errBadCursor,
		"after=" + own + "&sort=-since": errBadCursor,
		"after=" + own + "x":            errBadCursor,
		"after=" + own[:len(own)-2]:     errBadCursor,
		"after=" + encode(`{}`):         errBadCursor,
		"after=" + encode(`null`):       errBadCursor,
		"after=" + encode(`{"l":"streams","s":"channel","t":"a","m":"s","x":1}`): errBadCursor,
		"after=" + encode(`{"l":"streams","s":"channel","t":7}`):                 errBadCursor,
		"after=" + cursor{"encoders", "channel", sortKey{ID: 1}}.encode():        errBadCursor,
		"after=" + own:                nil,
		"q=&sort=&limit=&after=":      nil,
		"limit=500&sort=-since&q=a+b": nil,
	} {
		if _, err := streams.parse(query); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", query, err, want)
		}
	}
}

func FuzzQueryOfAList(f *testing.F) {
	f.Add("q=a&sort=-since&limit=7&after=" + cursor{"streams", "-since", sortKey{Number: 1, Name: "s1"}}.encode())
	f.Add("after=" + cursor{"streams", "channel", sortKey{Text: "c", Name: "s1"}}.encode())
	f.Add("sort=%2dstate;limit=0")
	rows := rowsNamed("c", "a", "b")
	f.Fuzz(func(t *testing.T, query string) {
		streams := streamList()
		q, err := streams.parse(query)
		if err != nil {
			return
		}
		page, matched, after := streams.page(rows, q)
		if len(page) > q.limit || len(page) > matched || matched > len(rows) {
			t.Fatalf("%d rows of %d matched, limit %d", len(page), matched, q.limit)
		}
		if _, ok := streams.decode(after, q.sort); after != "" && !ok {
			t.Fatalf("own cursor %q is refused", after)
		}
	})
}

// nowhere takes what a registry says to peers and application.
type nowhere struct{}

func (nowhere) probe(uint64)                              {}
func (nowhere) keepsUp() bool                             { return true }
func (nowhere) accept(requestRef, string, string, uint64) {}
func (nowhere) deny(requestRef, string)                   {}
func (nowhere) kill(_, _ string)                          {}
func (nowhere) start(encodeJob)                           {}
func (nowhere) stop(_, _ string)                          {}
func (nowhere) End(outbox.Mark)                           {}

func (nowhere) AppendPart(outbox.Event) {}

// registryWith has so many live streams on 20 servers and 100 encoders, each with four outputs.
func registryWith(tb testing.TB, streams int) *registry {
	tb.Helper()
	lastID := 0
	now := time.Now()
	r := newRegistry(1, now, func() string { lastID++; return fmt.Sprintf("stream-%08d", lastID) }, nowhere{}, limits{})
	for i := range 100 {
		r.joinEncoder(attachment{}, nowhere{}, fmt.Sprint("10.0.0.", i), -1, now)
	}
	var servers []*server
	for range 20 {
		servers = append(servers, r.joinServer(attachment{}, nowhere{}, serverInfo{kind: kindRTMP, ip: "10.0.0.1", port: 1935}, now))
	}
	for i := range streams {
		channel := fmt.Sprintf("channel-%08d", i*7919%streams)
		if _, err := r.claim(servers[i%20], claimRequest{requestRef: requestRef{id: "1"}, channel: channel, key: "key-" + channel}, now.Add(time.Duration(i))); err != nil {
			tb.Fatal(err)
		}
		st := r.channels.get(channel).current
		for _, resolution := range []string{"ORIGINAL", "1280x720", "640x360", "320x180"} {
			r.announce(st.encoder, channel, st.id, announcement{streamType: "HLS-LIVE", resolution: resolution}, now)
		}
	}
	return r
}

// BenchmarkPageOf100000 is a page of the dashboard: the copy, a part at a time under the registry's lock, then search
// and sort.
func BenchmarkPageOf100000(b *testing.B) {
	r := registryWith(b, 100_000)
	streams := streamList()
	b.Run("longest time under the lock", func(b *testing.B) {
		var rows []streamRow
		for b.Loop() {
			rows, _ = r.appendRows(rows[:0], 0, math.MaxUint64)
		}
	})
	b.Run("copy", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.streamRows(func([]streamRow) {})
		}
	})
	for _, query := range []string{"", "sort=-since&limit=500", "q=0042", "after=" + cursor{"streams", "channel", sortKey{Text: "channel-00050000"}}.encode()} {
		q, err := streams.parse(query)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("?"+query, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rows := streams.pager(q)
				r.streamRows(rows.add)
				rows.page()
			}
		})
	}
	b.Run("totals", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.totals(time.Now())
		}
	})
}
