// Package paging cuts lists into pages: search, sort, and a cursor that says after which row the next page begins. Nothing
// is kept between two pages: the cursor holds the sort key of the last row, its identity included, so that rows that stay
// are seen exactly once while others come and go. Pure: rows are copies.
package paging

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// How many rows a page has at most.
const (
	DefaultLimit = 50  // if the request says nothing
	MaxLimit     = 500 // whatever the request says
)

var (
	errBadQuery  = errors.New("query can't be read, or names a parameter twice")
	errBadLimit  = errors.New("limit must be a whole number from 1 to 500")
	errBadSort   = errors.New("sort must be one of the list's columns, with - before it for descending order")
	errBadCursor = errors.New("after must be the cursor of the page before, of the same list and sort")
)

// Key is what rows are sorted by: the value of a column, which is a number or a text, then the row's identity, which is
// one or the other, too.
type Key struct {
	Number int64  `json:"n,omitempty"`
	Text   string `json:"t,omitempty"`
	ID     uint64 `json:"i,omitempty"`
	Name   string `json:"m,omitempty"`
}

func (k Key) compare(other Key) int {
	return cmp.Or(cmp.Compare(k.Number, other.Number), strings.Compare(k.Text, other.Text), cmp.Compare(k.ID, other.ID), strings.Compare(k.Name, other.Name))
}

// List is a kind of rows that can be paged.
type List[T any] struct {
	Name        string // of the rows in JSON
	DefaultSort string
	Columns     map[string]func(*T) Key           // the sort key of a row, without its identity
	Identify    func(*T) (id uint64, name string) // one of them is enough, if no two rows have the same
	Matches     func(*T, string) bool             // whether a search finds the row
}

// Query says which page is asked for.
type Query struct {
	search     string
	sort       string // as given: with - if descending
	column     string
	descending bool
	limit      int
	after      *Key // nil: from the start
}

// cursor is what a client gets to hand back.
type cursor struct {
	List string `json:"l"`
	Sort string `json:"s"`
	Key
}

func (c cursor) encode() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // numbers and strings only
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// Parse reads the query of a request: q, sort, limit and after. Its errors say what is wrong with it, and may be shown to
// whoever asked.
func (l *List[T]) Parse(rawQuery string) (Query, error) {
	values, err := parseOnce(rawQuery)
	if err != nil {
		return Query{}, err
	}
	q := Query{search: values.Get("q"), sort: cmp.Or(values.Get("sort"), l.DefaultSort)}
	q.column, q.descending = strings.CutPrefix(q.sort, "-")
	if l.Columns[q.column] == nil {
		return Query{}, errBadSort
	}
	q.limit, q.after, err = parsePage(values, l.Name, q.sort)
	return q, err
}

// parseOnce reads a query that names no parameter twice.
func parseOnce(rawQuery string) (url.Values, error) {
	values, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, errBadQuery
	}
	for _, given := range values {
		if len(given) > 1 {
			return nil, errBadQuery
		}
	}
	return values, nil
}

// parsePage reads limit and after.
func parsePage(values url.Values, list, sort string) (limit int, after *Key, err error) {
	limit = DefaultLimit
	if given := values.Get("limit"); given != "" {
		limit, err = strconv.Atoi(given)
		if err != nil || limit < 1 || limit > MaxLimit {
			return 0, nil, errBadLimit
		}
	}
	if given := values.Get("after"); given != "" {
		c, ok := decode(given, list, sort)
		if !ok {
			return 0, nil, errBadCursor
		}
		after = &c.Key
	}
	return limit, after, nil
}

// decode takes exactly what encode gives for the list and the sort.
func decode(after, list, sort string) (c cursor, ok bool) {
	text, err := base64.RawURLEncoding.DecodeString(after)
	if err != nil || json.Unmarshal(text, &c) != nil {
		return cursor{}, false
	}
	return c, c.List == list && c.Sort == sort && c.encode() == after
}

// Stored is a list that a store pages through in its one order. It has no sort, and nobody knows how many rows a search finds.
type Stored struct {
	Name string // of the rows in JSON
}

// StoredQuery says which page of a Stored is asked for.
type StoredQuery struct {
	Limit  int
	From   Key        // the first row of the page; the zero Key: from the start
	Values url.Values // all parameters, each once
}

// Parse reads limit and after. Its errors may be shown to whoever asked.
func (s Stored) Parse(rawQuery string) (q StoredQuery, err error) {
	if q.Values, err = parseOnce(rawQuery); err != nil {
		return StoredQuery{}, err
	}
	limit, after, err := parsePage(q.Values, s.Name, "")
	if q.Limit = limit; after != nil {
		q.From = *after
	}
	return q, err
}

// After makes the cursor of the page that begins with a row.
func (s Stored) After(next Key) string { return cursor{List: s.Name, Key: next}.encode() }

// Pager picks the rows of one page out of all rows, which it is given in parts. It keeps no more than some pages of them.
type Pager[T any] struct {
	list    *List[T]
	query   Query
	best    []candidate[T]
	full    bool // the last row of a page is known to stand no further back than best[limit]
	matched int
}

type candidate[T any] struct {
	Key
	row T
}

// Pager makes a page of rows that come in parts.
func (l *List[T]) Pager(q Query) *Pager[T] {
	return &Pager[T]{list: l, query: q, best: make([]candidate[T], 0, 4*(q.limit+1))}
}

// Page makes a page of rows that are there at once, and returns what Pager.Page does.
func (l *List[T]) Page(rows []T, q Query) (page []T, matched int, after string) {
	p := l.Pager(q)
	p.Add(rows)
	return p.Page()
}

func (p *Pager[T]) order(a, b Key) int {
	if p.query.descending {
		return b.compare(a)
	}
	return a.compare(b)
}

func (p *Pager[T]) sort() {
	slices.SortFunc(p.best, func(a, b candidate[T]) int { return p.order(a.Key, b.Key) })
}

// Add takes in some more rows, which it does not keep.
func (p *Pager[T]) Add(rows []T) {
	column, last := p.list.Columns[p.query.column], p.query.limit // one more than a page tells whether there is another
	for i := range rows {
		row := &rows[i]
		if !p.list.Matches(row, p.query.search) {
			continue
		}
		p.matched++
		key := column(row)
		key.ID, key.Name = p.list.Identify(row)
		if p.query.after != nil && p.order(key, *p.query.after) <= 0 || p.full && p.order(key, p.best[last].Key) > 0 {
			continue
		}
		p.best = append(p.best, candidate[T]{key, *row})
		if len(p.best) == cap(p.best) {
			p.sort()
			p.best, p.full = p.best[:last+1], true
		}
	}
}

// Page returns the rows of the page, how many rows the search matches in all, and the cursor of the next page, "" if
// there is none.
func (p *Pager[T]) Page() (page []T, matched int, after string) {
	p.sort()
	best, limit := p.best, p.query.limit
	if len(best) > limit {
		best = best[:limit]
		after = cursor{p.list.Name, p.query.sort, best[limit-1].Key}.encode()
	}
	page = make([]T, len(best))
	for i := range best {
		page[i] = best[i].row
	}
	return page, p.matched, after
}

// Report is the answer to a request for a page, in JSON.
type Report[T any] struct {
	Rows    []T
	list    string
	matched int
	after   string
}

// Report makes the answer of what Page returns.
func (l *List[T]) Report(page []T, matched int, after string) Report[T] {
	return Report[T]{page, l.Name, matched, after}
}

func (p Report[T]) MarshalJSON() ([]byte, error) {
	rows, err := json.Marshal(p.Rows)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{%q:%s,"matched":%d,"after":%q}`, p.list, rows, p.matched, p.after), nil
}
