package main

import "hash/maphash"

// channelIndex finds the publication that holds each channel, with an encoder or without. Not a map[string]*publication: the
// garbage collector would chase two pointers per entry, a fifth of a collection's cost at 100,000 streams. It scans the slice
// of cells in order, and skips the map of numbers: docs/performance.md.
type channelIndex struct {
	hash   func(channel string) uint64
	cells  []*publication    // nil: free. A publication stays where it is
	free   []uint32          // cells
	byHash map[uint64]uint32 // cells
	others map[string]uint32 // cells of channels whose hash collided; almost always empty
}

func newChannelIndex(hash func(channel string) uint64) channelIndex {
	return channelIndex{hash: hash, byHash: map[uint64]uint32{}, others: map[string]uint32{}}
}

// seededHash differs from process to process, so that nobody can choose names that share one.
func seededHash() func(string) uint64 {
	seed := maphash.MakeSeed()
	return func(channel string) uint64 { return maphash.String(seed, channel) }
}

func (x *channelIndex) len() int { return len(x.byHash) + len(x.others) }

// get returns the channel's publication, nil if it has none.
func (x *channelIndex) get(channel string) *publication {
	if cell, found := x.byHash[x.hash(channel)]; found && x.cells[cell].channel == channel {
		return x.cells[cell]
	}
	if cell, found := x.others[channel]; found {
		return x.cells[cell]
	}
	return nil
}

// part returns at most n cells. Asked for one after the other, the parts contain every publication that stays live
// meanwhile.
func (x *channelIndex) part(from, n int) (cells []*publication, more bool) {
	cells = x.cells[from:]
	return cells[:min(n, len(cells))], len(cells) > n
}

// add takes in a publication whose channel has none.
func (x *channelIndex) add(p *publication) {
	cell := uint32(len(x.cells))
	if last := len(x.free) - 1; last >= 0 {
		cell, x.free = x.free[last], x.free[:last]
		x.cells[cell] = p
	} else {
		x.cells = append(x.cells, p)
	}
	hash := x.hash(p.channel)
	if _, taken := x.byHash[hash]; taken {
		x.others[p.channel] = cell
	} else {
		x.byHash[hash] = cell
	}
}

// remove takes out a publication, if it is in the index.
func (x *channelIndex) remove(p *publication) {
	hash := x.hash(p.channel)
	cell, found := x.byHash[hash]
	if found && x.cells[cell] == p {
		delete(x.byHash, hash)
	} else {
		cell, found = x.others[p.channel]
		if !found || x.cells[cell] != p {
			return
		}
		delete(x.others, p.channel)
	}
	x.cells[cell] = nil
	x.free = append(x.free, cell)
}
