package main

// members is a set of items that know their place in it, in the order in which they came but for the gaps that others
// left. Beside a map it takes a third of the memory; and who goes through it, the collector above all, finds side by side
// what came into being together, while in a map each item is somewhere else: docs/performance.md.
type members[M member] []M

// member can be in one set of its kind at a time.
type member interface {
	comparable
	place() *uint32 // in the set
}

func (s *members[M]) add(m M) {
	*m.place() = uint32(len(*s))
	*s = append(*s, m)
}

// remove takes out an item, if it is in the set; the last one moves to its place.
func (s *members[M]) remove(m M) {
	end := len(*s) - 1
	if int(*m.place()) > end || (*s)[*m.place()] != m {
		return
	}
	last := (*s)[end]
	*last.place() = *m.place()
	(*s)[*m.place()] = last
	clear((*s)[end:])
	*s = (*s)[:end]
}
