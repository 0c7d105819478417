package main

import "hash/maphash"

// channelIndex finds the live publication of each channel. Not a map[string]*publication: the garbage collector would chase
// two pointers per entry, a fifth of a collection's cost at 100,000 streams. It scans the slice of slots in order, and skips
// the map of numbers: docs/performance.md.
type channelIndex struct {
	hash   func(channel string) uint64
	slots  []*publication    // nil: free. A publication stays where it is
	free   []uint32          // slots
	byHash map[uint64]uint32 // slots
	others map[string]uint32 // slots of channels whose hash collided; almost always empty
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
	if slot, found := x.byHash[x.hash(channel)]; found && x.slots[slot].channel == channel {
		return x.slots[slot]
	}
	if slot, found := x.others[channel]; found {
		return x.slots[slot]
	}
	return nil
}

// part returns at most n slots. Asked for one after the other, the parts contain every publication that stays live
// meanwhile.
func (x *channelIndex) part(from, n int) (slots []*publication, more bool) {
	slots = x.slots[from:]
	return slots[:min(n, len(slots))], len(slots) > n
}

// add takes in a publication whose channel has none.
func (x *channelIndex) add(p *publication) {
	slot := uint32(len(x.slots))
	if last := len(x.free) - 1; last >= 0 {
		slot, x.free = x.free[last], x.free[:last]
		x.slots[slot] = p
	} else {
		x.slots = append(x.slots, p)
	}
	hash := x.hash(p.channel)
	if _, taken := x.byHash[hash]; taken {
		x.others[p.channel] = slot
	} else {
		x.byHash[hash] = slot
	}
}

// remove takes out a publication, if it is in the index.
func (x *channelIndex) remove(p *publication) {
	hash := x.hash(p.channel)
	slot, found := x.byHash[hash]
	if found && x.slots[slot] == p {
		delete(x.byHash, hash)
	} else {
		slot, found = x.others[p.channel]
		if !found || x.slots[slot] != p {
			return
		}
		delete(x.others, p.channel)
	}
	x.slots[slot] = nil
	x.free = append(x.free, slot)
}
