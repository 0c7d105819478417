// Package channels has an index of what holds each channel, which costs the garbage collector little: a coordinator has 100,000
// publications in it.
package channels

import "hash/maphash"

// Index finds the item that holds each channel. Not a map[string]I: the garbage collector would chase two pointers per entry,
// a fifth of a collection's cost at 100,000 streams. It scans the slice of cells in order, and skips the map of numbers:
// docs/performance.md.
type Index[I Item] struct {
	hash   func(channel string) uint64
	cells  []I               // the zero value: free. An item stays where it is
	free   []uint32          // cells
	byHash map[uint64]uint32 // cells
	others map[string]uint32 // cells of channels whose hash collided; almost always empty
}

// Item is a pointer to what holds a channel.
type Item interface {
	comparable
	Channel() string // never another one
}

// NewIndex returns an empty index.
func NewIndex[I Item]() Index[I] { return newIndex[I](seededHash()) }

func newIndex[I Item](hash func(channel string) uint64) Index[I] {
	return Index[I]{hash: hash, byHash: map[uint64]uint32{}, others: map[string]uint32{}}
}

// seededHash differs from process to process, so that nobody can choose names that share one.
func seededHash() func(string) uint64 {
	seed := maphash.MakeSeed()
	return func(channel string) uint64 { return maphash.String(seed, channel) }
}

// Len is the number of items.
func (x *Index[I]) Len() int { return len(x.byHash) + len(x.others) }

// Get returns the item that holds the channel, the zero value if none does.
func (x *Index[I]) Get(channel string) (none I) {
	if cell, found := x.byHash[x.hash(channel)]; found && x.cells[cell].Channel() == channel {
		return x.cells[cell]
	}
	if cell, found := x.others[channel]; found {
		return x.cells[cell]
	}
	return none
}

// Part returns at most n cells; those that are free have the zero value. Asked for one after the other, the parts contain every
// item that stays in the index meanwhile.
func (x *Index[I]) Part(from, n int) (cells []I, more bool) {
	cells = x.cells[from:]
	return cells[:min(n, len(cells))], len(cells) > n
}

// Add takes in an item whose channel nothing holds.
func (x *Index[I]) Add(item I) {
	cell := uint32(len(x.cells))
	if last := len(x.free) - 1; last >= 0 {
		cell, x.free = x.free[last], x.free[:last]
		x.cells[cell] = item
	} else {
		x.cells = append(x.cells, item)
	}
	hash := x.hash(item.Channel())
	if _, taken := x.byHash[hash]; taken {
		x.others[item.Channel()] = cell
	} else {
		x.byHash[hash] = cell
	}
}

// Remove takes out an item, if it is in the index.
func (x *Index[I]) Remove(item I) {
	hash := x.hash(item.Channel())
	cell, found := x.byHash[hash]
	if found && x.cells[cell] == item {
		delete(x.byHash, hash)
	} else {
		cell, found = x.others[item.Channel()]
		if !found || x.cells[cell] != item {
			return
		}
		delete(x.others, item.Channel())
	}
	var free I
	x.cells[cell] = free
	x.free = append(x.free, cell)
}
