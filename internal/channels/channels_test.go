package channels

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

type holder struct{ channel string }

func (h *holder) Channel() string { return h.channel }

// With few hashes nearly all channels share theirs with others, which must cost nobody a channel.
func TestChannelsAreFoundWhateverTheirHashes(t *testing.T) {
	t.Parallel()
	for _, hashes := range []uint64{1, 3, 1000} {
		t.Run(fmt.Sprint(hashes), func(t *testing.T) {
			t.Parallel()
			hash := seededHash()
			random := rand.New(rand.NewPCG(hashes, 2))
			x := newIndex[*holder](func(channel string) uint64 { return hash(channel) % hashes })
			live := map[string]*holder{}
			for step := range 5000 {
				channel := fmt.Sprint("channel-", random.IntN(40))
				if p := live[channel]; p != nil {
					x.Remove(p)
					delete(live, channel)
				} else {
					p := &holder{channel}
					x.Add(p)
					live[channel] = p
				}
				for i := range 40 {
					channel := fmt.Sprint("channel-", i)
					if got := x.Get(channel); got != live[channel] {
						t.Fatalf("step %d: %s is %p, want %p", step, channel, got, live[channel])
					}
				}
				if x.Len() != len(live) || len(x.cells) > 40 || len(x.cells)-len(x.free) != len(live) {
					t.Fatalf("step %d: %d channels in %d slots, %d free; want %d", step, x.Len(), len(x.cells), len(x.free), len(live))
				}
			}
		})
	}
}

func TestPartsHaveEveryItemThatStays(t *testing.T) {
	t.Parallel()
	x := NewIndex[*holder]()
	var stay, leave []*holder
	for i := range 100 {
		p := &holder{fmt.Sprint(i)}
		x.Add(p)
		if i%3 == 0 {
			leave = append(leave, p)
		} else {
			stay = append(stay, p)
		}
	}
	var seen []*holder
	for from, more := 0, true; more; from += 7 {
		var part []*holder
		part, more = x.Part(from, 7)
		seen = append(seen, part...)
		for range 3 {
			if len(leave) > 0 {
				x.Remove(leave[0])
				leave = leave[1:]
			}
		}
		x.Add(&holder{fmt.Sprint("new-", from)})
	}
	for _, p := range stay {
		if first := slices.Index(seen, p); first < 0 || slices.Contains(seen[first+1:], p) {
			t.Errorf("%s is there %v, or twice", p.channel, first >= 0)
		}
	}
}
