package main

// members is an unordered set stored as a slice; each item keeps its own index, so removal is O(1) (swap with the last). It
// takes a third of the memory of a map, and the garbage collector goes through it in order: docs/performance.md.
type members[M member] []M

// member can be in one set of its kind at a time.
type member interface {
	comparable
	index() *uint32 // in the set
}

func (s *members[M]) add(m M) {
	*m.index() = uint32(len(*s))
	*s = append(*s, m)
}

func (s members[M]) has(m M) bool {
	i := int(*m.index())
	return i < len(s) && s[i] == m
}

// remove removes an item, if it is in the set.
func (s *members[M]) remove(m M) {
	if !s.has(m) {
		return
	}
	end := len(*s) - 1
	last := (*s)[end]
	*last.index() = *m.index()
	(*s)[*m.index()] = last
	clear((*s)[end:])
	*s = (*s)[:end]
}
