package main

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestMembersAreASetWhateverComesAndGoes(t *testing.T) {
	t.Parallel()
	var set members[stream, *stream]
	var want []*stream // from the first that came
	for range 10_000 {
		if len(want) == 0 || rand.IntN(2) == 0 && len(want) < 8 {
			st := &stream{}
			set.add(st)
			want = append(want, st)
		} else {
			i := rand.IntN(len(want))
			set.remove(want[i])
			want = slices.Delete(want, i, i+1)
		}
		got := slices.Collect(set.all)
		slices.Reverse(got)
		if !slices.Equal(want, got) || set.n != len(want) {
			t.Fatalf("want %v, got %v, counted %d", want, got, set.n)
		}
	}
	for st := range set.all {
		set.remove(st) // who is shown may be
	}
	if set.n != 0 || set.last != nil {
		t.Errorf("%d are left", set.n)
	}
}
