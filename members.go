package main

// Sets whose members hold the links to each other. Of 100,000 members each costs 16 bytes and is found in the order in
// which they came, which is mostly that of memory; a map's random order makes the collector, and whoever goes through all,
// wait for memory at each one: docs/performance.md.

// links are what a type holds to be a member of one set.
type links[T any] struct{ next, before *T }

type member[T any] interface {
	*T
	linked() *links[T]
}

// members is a set. Its owner guards it. The zero value is empty.
type members[T any, M member[T]] struct {
	last *T
	n    int
}

// add takes in m, which must be in no set of this kind.
func (s *members[T, M]) add(m M) {
	m.linked().before = s.last
	if s.last != nil {
		M(s.last).linked().next = m
	}
	s.last = m
	s.n++
}

// remove takes out m, which must be in the set.
func (s *members[T, M]) remove(m M) {
	l := m.linked()
	if l.next != nil {
		M(l.next).linked().before = l.before
	} else {
		s.last = l.before
	}
	if l.before != nil {
		M(l.before).linked().next = l.next
	}
	*l = links[T]{}
	s.n--
}

// all goes from the last that came to the first. Who is shown may be removed meanwhile, others may not.
func (s *members[T, M]) all(yield func(M) bool) {
	for m := s.last; m != nil; {
		before := M(m).linked().before
		if !yield(m) {
			return
		}
		m = before
	}
}
