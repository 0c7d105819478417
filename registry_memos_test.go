package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"coordinator/internal/link"
	"coordinator/internal/memo"
	"coordinator/internal/tagged"

	gocmp "github.com/google/go-cmp/cmp"
)

// memosKept is what a gateway keeps of a session.
type memosKept map[string]string

func (k memosKept) keep(name string, value []byte) {
	if value == nil {
		delete(k, name)
	} else {
		k[name] = string(value)
	}
}

func (k memosKept) keepDurable(name string, value []byte) { k.keep(name, value) }

func (memosKept) isApplied() bool { return false }

// memosOf are all memos of all sessions that gateways hold.
func memosOf(r *registry) map[uint64]memosKept {
	all := map[uint64]memosKept{}
	write := func(session uint64, name string, m tagged.Message) { all[session].keep(name, tagged.Append(nil, m)) }
	servers, encoders := r.export()
	for _, s := range servers {
		all[s.id] = memosKept{}
		write(s.id, link.SessionMemo, &s.memo)
		for _, p := range s.publications {
			write(s.id, fmt.Sprint(link.PublicationMemo, p.Number), &p)
		}
	}
	for _, e := range encoders {
		all[e.id] = memosKept{}
		write(e.id, link.SessionMemo, &e.memo)
		for _, st := range e.streams {
			write(e.id, link.StreamMemo+st.ID, &st.Stream)
			if st.told.LastSeq > 0 {
				write(e.id, link.ToldMemo+st.ID, &st.told)
			}
		}
	}
	return all
}

// After each transition, what gateways were told is what there is to be kept.
func TestGatewaysLearnOfEachChange(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for seed := range uint64(20) {
		for _, rules := range []limits{{failover: true, encoderWait: time.Minute, startTimeout: 30 * time.Second}, {}} {
			m := newClusterModel(t, rules, rand.New(rand.NewPCG(seed, 1)))
			kept := map[uint64]memosKept{}
			for range 600 {
				m.run(1)
				want := memosOf(m.r)
				for id := range want {
					if kept[id] == nil { // It has just joined, and is at a gateway only since. Memos of others may name that.
						kept = map[uint64]memosKept{}
						for id, memos := range want {
							kept[id] = maps.Clone(memos)
							m.keepAt(id, kept[id])
						}
						break
					}
				}
				maps.DeleteFunc(kept, func(id uint64, _ memosKept) bool { return want[id] == nil })
				if diff := gocmp.Diff(readable(want), readable(kept)); diff != "" {
					t.Fatalf("seed %d, %+v: memos (-there are +kept):\n%s", seed, rules, diff)
				}
				for _, memos := range kept {
					for name := range memos {
						seen[name[:1]]++
					}
				}
			}
		}
	}
	if len(seen) != 4 {
		t.Errorf("memos of these kinds were kept: %v", seen)
	}
}

// keepAt has the memos of a session kept.
func (m *clusterModel) keepAt(id uint64, k memosKept) {
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	if s := m.r.servers[id]; s != nil {
		s.keeper = k
	}
	if e := m.r.encoders[id]; e != nil {
		e.keeper = k
	}
}

func readable(all map[uint64]memosKept) map[uint64]map[string]any {
	list := map[uint64]map[string]any{}
	for id, memos := range all {
		list[id] = map[string]any{}
		for name, value := range memos {
			var m tagged.Message
			switch name[:1] {
			case link.SessionMemo:
				m = &memo.Session{}
			case link.PublicationMemo:
				m = &memo.Publication{}
			case link.StreamMemo:
				m = &memo.Stream{}
			default:
				m = &memo.Told{}
			}
			if tagged.Parse([]byte(value), m) != nil {
				list[id][name] = "unreadable"
				continue
			}
			list[id][name] = m
		}
	}
	return list
}
