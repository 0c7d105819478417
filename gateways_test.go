package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhatEncodersHaveSaidIsReplayedInItsOrder(t *testing.T) {
	t.Parallel()
	session := func(isEncoder bool, said ...int) *gatewaySession { // milliseconds
		s := &gatewaySession{isEncoder: isEncoder}
		for _, ms := range said {
			s.kept = append(s.kept, keptMessage{number: uint64(len(s.kept) + 1), said: time.UnixMilli(int64(ms))})
		}
		return s
	}
	sessions := []*gatewaySession{session(true, 20, 40, 39, 60), session(false, 50), session(true, 10, 40, 70), session(false, 5)}
	place := map[*gatewaySession]int{}
	for i, s := range sessions {
		place[s] = i
	}
	type said struct{ Session, Number int }
	var got []said
	for _, m := range inOrderSaid(sessions) {
		got = append(got, said{place[m.session], int(m.number)})
	}
	want := []said{{1, 1}, {3, 1}, {2, 1}, {0, 1}, {0, 2}, {0, 3}, {2, 2}, {0, 4}, {2, 3}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
