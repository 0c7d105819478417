package linkserver

// After a start the gateways that were known come back with their sessions and what their peers have said meanwhile, and
// nothing can be decided before all of it is there.

import (
	"sync"
	"time"
)

const (
	// gatherNew is how long a coordinator with a new store waits for gateways that it can't know of.
	gatherNew = 3 * time.Second

	// maxGathered bounds the messages that are taken in meanwhile, in bytes of their text with what else each takes in memory.
	maxGathered     = 256 << 20
	messageOverhead = 200
)

type gathering struct {
	over chan struct{} // closed when it is
	room int           // maxGathered, but in tests

	mu sync.Mutex
	// guarded by mu
	ended bool
	early bool // the store is new, and gatherNew not over
	timer *time.Timer
	owing map[*Gateway]bool // who are to say SYNCED; true: the next message is above the bound
	taken int
}

func newGathering(storeIsNew bool) *gathering {
	return &gathering{over: make(chan struct{}), room: maxGathered, early: storeIsNew, owing: map[*Gateway]bool{}}
}

// begin is called when those that are known are awaited.
func (t *gathering) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.early {
		t.timer = time.AfterFunc(gatherNew, t.lateEnough)
	}
	t.lookLocked()
}

func (t *gathering) lateEnough() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.early = false
	t.lookLocked()
}

// stop leaves it as it is.
func (t *gathering) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
	}
}

// await has the end wait for a gateway.
func (t *gathering) await(g *Gateway) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.owing[g] = false
	}
}

// complete says that nothing more is to come from a gateway: it has said SYNCED or is lost.
func (t *gathering) complete(g *Gateway) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.owing, g)
	t.lookLocked()
}

// awaits tells whether the end waits for a gateway.
func (t *gathering) awaits(g *Gateway) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, owing := t.owing[g]
	return owing && !t.ended
}

// takes tells whether a message of a gateway may be taken in now. If not, the gateway is held back until it is over, or until
// letGo.
func (t *gathering) takes(g *Gateway, bytes int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended && t.taken+bytes > t.room {
		if _, owing := t.owing[g]; owing {
			t.owing[g] = true
			t.lookLocked()
		}
		if !t.ended {
			return false
		}
	}
	t.taken += bytes
	return true
}

// letGo says that a gateway that was held back is not linked any more.
func (t *gathering) letGo(g *Gateway) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, owing := t.owing[g]; owing {
		t.owing[g] = false
	}
}

// lookLocked ends it when nobody is waited for. If all that are waited for are held back, waiting for longer gives nothing,
// for what was taken in is kept until the end: their sessions are attached, since these come first, and their other messages
// count as if they were said now.
func (t *gathering) lookLocked() {
	if t.ended || t.early {
		return
	}
	for _, held := range t.owing {
		if !held {
			return
		}
	}
	t.ended = true
	close(t.over)
}
