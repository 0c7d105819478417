// Package members has an unordered set that takes little memory: a coordinator has 100,000 publications and streams in such sets.
package members

// Set is an unordered set stored as a slice; each item keeps its own index, so removal is O(1) (swap with the last). It
// takes a third of the memory of a map, and the garbage collector goes through it in order: docs/performance.md.
type Set[M Member] []M

// Member can be in one set of its kind at a time.
type Member interface {
	comparable
	Index() *uint32 // in the set
}

func (s *Set[M]) Add(m M) {
	*m.Index() = uint32(len(*s))
	*s = append(*s, m)
}

func (s Set[M]) Has(m M) bool {
	i := int(*m.Index())
	return i < len(s) && s[i] == m
}

// Remove removes an item, if it is in the set.
func (s *Set[M]) Remove(m M) {
	if !s.Has(m) {
		return
	}
	end := len(*s) - 1
	last := (*s)[end]
	*last.Index() = *m.Index()
	(*s)[*m.Index()] = last
	clear((*s)[end:])
	*s = (*s)[:end]
}
