package main

// Lists in pages: search, sort, and a cursor that says after which row the next page begins. Nothing is kept between
// two pages: the cursor holds the sort key of the last row, its identity included, so that rows that stay are seen exactly
// once while others come and go, but for a stream that goes over to closing while a page is made: that page may lack it.
// Pure: rows are copies.

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

const (
	defaultPage = 50
	longestPage = 500
)

var (
	errBadQuery  = errors.New("query can't be read, or names a parameter twice")
	errBadLimit  = errors.New("limit must be a whole number from 1 to 500")
	errBadSort   = errors.New("sort must be one of the list's columns, with - before it to turn it round")
	errBadCursor = errors.New("after must be the cursor of the page before, of the same list and sort")
)

// sortKey is what rows are sorted by: the value of a column, which is a number or a text, then the row's identity, which is
// one or the other, too.
type sortKey struct {
	Number int64  `json:"n,omitempty"`
	Text   string `json:"t,omitempty"`
	ID     uint64 `json:"i,omitempty"`
	Name   string `json:"m,omitempty"`
}

func (k sortKey) compare(other sortKey) int {
	return cmp.Or(cmp.Compare(k.Number, other.Number), strings.Compare(k.Text, other.Text), cmp.Compare(k.ID, other.ID), strings.Compare(k.Name, other.Name))
}

// listing is a kind of rows that can be paged.
type listing[T any] struct {
	name        string
	defaultSort string
	columns     map[string]func(*T) sortKey // the sort key of a row, without its identity
	identify    func(*T) (id uint64, name string)
	matches     func(*T, string) bool // whether a search finds the row
}

// pageQuery is what page is asked for.
type pageQuery struct {
	search     string
	sort       string // as given: with - if descending
	column     string
	descending bool
	limit      int
	after      *sortKey // nil: from the start
}

// cursor is what a client gets to hand back.
type cursor struct {
	List string `json:"l"`
	Sort string `json:"s"`
	sortKey
}

func (c cursor) encode() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // numbers and strings only
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// parse reads the query of a request. Errors: errBadQuery, errBadLimit, errBadSort, errBadCursor.
func (l *listing[T]) parse(rawQuery string) (pageQuery, error) {
	values, err := url.ParseQuery(rawQuery)
	if err != nil {
		return pageQuery{}, errBadQuery
	}
	for _, given := range values {
		if len(given) > 1 {
			return pageQuery{}, errBadQuery
		}
	}
	q := pageQuery{search: values.Get("q"), sort: cmp.Or(values.Get("sort"), l.defaultSort), limit: defaultPage}
	q.column, q.descending = strings.CutPrefix(q.sort, "-")
	if l.columns[q.column] == nil {
		return pageQuery{}, errBadSort
	}
	if limit := values.Get("limit"); limit != "" {
		q.limit, err = strconv.Atoi(limit)
		if err != nil || q.limit < 1 || q.limit > longestPage {
			return pageQuery{}, errBadLimit
		}
	}
	if after := values.Get("after"); after != "" {
		c, ok := l.decode(after, q.sort)
		if !ok {
			return pageQuery{}, errBadCursor
		}
		q.after = &c.sortKey
	}
	return q, nil
}

// decode takes exactly what encode gives for the list and the sort.
func (l *listing[T]) decode(after, sort string) (c cursor, ok bool) {
	text, err := base64.RawURLEncoding.DecodeString(after)
	if err != nil || json.Unmarshal(text, &c) != nil {
		return cursor{}, false
	}
	return c, c.List == l.name && c.Sort == sort && c.encode() == after
}

// pager picks the rows of one page out of all rows, which it is given in parts. It keeps no more than some pages of them.
type pager[T any] struct {
	list    *listing[T]
	query   pageQuery
	best    []candidate[T]
	full    bool // the last row of a page is known to stand no further back than best[limit]
	matched int
}

type candidate[T any] struct {
	sortKey
	row T
}

func (l *listing[T]) pager(q pageQuery) *pager[T] {
	return &pager[T]{list: l, query: q, best: make([]candidate[T], 0, 4*(q.limit+1))}
}

// page is a page of rows that are there at once.
func (l *listing[T]) page(rows []T, q pageQuery) (page []T, matched int, after string) {
	p := l.pager(q)
	p.add(rows)
	return p.page()
}

func (p *pager[T]) order(a, b sortKey) int {
	if p.query.descending {
		return b.compare(a)
	}
	return a.compare(b)
}

func (p *pager[T]) sort() {
	slices.SortFunc(p.best, func(a, b candidate[T]) int { return p.order(a.sortKey, b.sortKey) })
}

func (p *pager[T]) add(rows []T) {
	column, last := p.list.columns[p.query.column], p.query.limit // one more than a page tells whether there is another
	for i := range rows {
		row := &rows[i]
		if !p.list.matches(row, p.query.search) {
			continue
		}
		p.matched++
		key := column(row)
		key.ID, key.Name = p.list.identify(row)
		if p.query.after != nil && p.order(key, *p.query.after) <= 0 || p.full && p.order(key, p.best[last].sortKey) > 0 {
			continue
		}
		p.best = append(p.best, candidate[T]{key, *row})
		if len(p.best) == cap(p.best) {
			p.sort()
			p.best, p.full = p.best[:last+1], true
		}
	}
}

// page returns the rows of the page, how many rows the search matches in all, and the cursor of the next page, "" if
// there is none.
func (p *pager[T]) page() (page []T, matched int, after string) {
	p.sort()
	best, limit := p.best, p.query.limit
	if len(best) > limit {
		best = best[:limit]
		after = cursor{p.list.name, p.query.sort, best[limit-1].sortKey}.encode()
	}
	page = make([]T, len(best))
	for i := range best {
		page[i] = best[i].row
	}
	return page, p.matched, after
}

// pageReport is the answer to a request for a page.
type pageReport[T any] struct {
	list    string // names the rows in JSON
	rows    []T
	matched int
	after   string
}

func (l *listing[T]) report(page []T, matched int, after string) pageReport[T] {
	return pageReport[T]{l.name, page, matched, after}
}

func (p pageReport[T]) MarshalJSON() ([]byte, error) {
	rows, err := json.Marshal(p.rows)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{%q:%s,"matched":%d,"after":%q}`, p.list, rows, p.matched, p.after), nil
}
