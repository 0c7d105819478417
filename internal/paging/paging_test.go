package paging

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// row is a stream in a list.
type row struct {
	Channel, ID, State string
	Encoder            int64
	Since              time.Time
}

func list() List[row] {
	return List[row]{
		Name:        "streams",
		DefaultSort: "channel",
		Columns: map[string]func(*row) Key{
			"channel": func(r *row) Key { return Key{Text: r.Channel} },
			"since":   func(r *row) Key { return Key{Number: r.Since.UnixNano()} },
			"state":   func(r *row) Key { return Key{Text: r.State} },
			"encoder": func(r *row) Key { return Key{Number: r.Encoder} },
		},
		Identify: func(r *row) (uint64, string) { return 0, r.ID },
		Matches:  func(r *row, q string) bool { return strings.Contains(r.Channel, q) },
	}
}

// walk follows the cursors from the first page to the last and returns the IDs in their order.
func walk(t *testing.T, rows []row, query url.Values) (ids []string) {
	t.Helper()
	streams := list()
	for pages := 0; ; pages++ {
		q, err := streams.Parse(query.Encode())
		if err != nil {
			t.Fatal(err)
		}
		page, _, after := streams.Page(rows, q)
		for _, r := range page {
			ids = append(ids, r.ID)
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

func rowsNamed(channels ...string) (rows []row) {
	for i, channel := range channels {
		rows = append(rows, row{Channel: channel, ID: fmt.Sprint("s", i), State: "live"})
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
	var rows []row
	var want []string
	for i := range 1009 {
		n := i * 503 % 1009 // all numbers below 1009, out of order
		rows = append(rows, row{Channel: fmt.Sprintf("c%04d", n), ID: fmt.Sprint(n)})
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
	streams := list()
	q, err := streams.Parse("q=sport&limit=1")
	if err != nil {
		t.Fatal(err)
	}
	page, matched, after := streams.Page(rowsNamed("news", "sport-2", "sport-1"), q)
	if matched != 2 || len(page) != 1 || page[0].Channel != "sport-1" || after == "" {
		t.Errorf("%d matched, page %v, after %q", matched, page, after)
	}
}

func TestQueriesThatCannotBeReadAreNamed(t *testing.T) {
	t.Parallel()
	streams := list()
	own := cursor{"streams", "channel", Key{Text: "a", Name: "s"}}.encode()
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
		"after=" + cursor{"encoders", "channel", Key{ID: 1}}.encode():            errBadCursor,
		"after=" + own:                nil,
		"q=&sort=&limit=&after=":      nil,
		"limit=500&sort=-since&q=a+b": nil,
	} {
		if _, err := streams.Parse(query); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", query, err, want)
		}
	}
}

func TestStoredListGoesOnWhereItsPageEnded(t *testing.T) {
	t.Parallel()
	events := Stored{Name: "events"}
	q, err := events.Parse("channel=c&limit=7&after=" + events.After(Key{ID: 1 << 60, Number: 3}))
	if err != nil || q.Limit != 7 || q.From != (Key{ID: 1 << 60, Number: 3}) || q.Values.Get("channel") != "c" {
		t.Errorf("%+v %v", q, err)
	}
	if q, err = events.Parse(""); err != nil || q.Limit != DefaultLimit || q.From != (Key{}) {
		t.Errorf("of nothing: %+v %v", q, err)
	}
	for query, want := range map[string]error{
		"limit=0":             errBadLimit,
		"limit=501":           errBadLimit,
		"channel=a&channel=b": errBadQuery,
		"after=nonsense":      errBadCursor,
		"after=" + cursor{List: "streams", Key: Key{ID: 1}}.encode():            errBadCursor,
		"after=" + cursor{List: "events", Sort: "id", Key: Key{ID: 1}}.encode(): errBadCursor,
	} {
		if _, err := events.Parse(query); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", query, err, want)
		}
	}
}

func FuzzQueryOfAList(f *testing.F) {
	f.Add("q=a&sort=-since&limit=7&after=" + cursor{"streams", "-since", Key{Number: 1, Name: "s1"}}.encode())
	f.Add("after=" + cursor{"streams", "channel", Key{Text: "c", Name: "s1"}}.encode())
	f.Add("sort=%2dstate;limit=0")
	rows := rowsNamed("c", "a", "b")
	f.Fuzz(func(t *testing.T, query string) {
		streams := list()
		q, err := streams.Parse(query)
		if err != nil {
			return
		}
		page, matched, after := streams.Page(rows, q)
		if len(page) > q.limit || len(page) > matched || matched > len(rows) {
			t.Fatalf("%d rows of %d matched, limit %d", len(page), matched, q.limit)
		}
		if _, ok := decode(after, streams.Name, q.sort); after != "" && !ok {
			t.Fatalf("own cursor %q is refused", after)
		}
	})
}
