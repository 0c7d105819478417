package linkserver

import (
	"testing"
	"testing/synctest"

	"coordinator/internal/link"
)

// heardBy makes a coordinator of epoch 5 that notes which higher ones it hears of.
func heardBy(t *testing.T, heard *[]uint64) *rig {
	t.Helper()
	return newRig(t, func(_ *rig, cfg *Config) {
		cfg.Epoch, cfg.HigherEpoch = 5, func(epoch uint64) { *heard = append(*heard, epoch) }
	})
}

func TestHigherEpochIsHeardAndNotWelcomed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var heard []uint64
		r := heardBy(t, &heard)
		refuse := r.refused(hello("a", func(h *link.Hello) { h.Epoch = 6 }))
		if refuse.Gone || refuse.Reason != errHigherEpoch.Error() || len(heard) != 1 || heard[0] != 6 {
			t.Errorf("the answer is %+v; heard of %v", refuse, heard)
		}
		_, w := r.welcomed(hello("b", func(h *link.Hello) { h.Epoch = 5 }))
		if w.Epoch != 5 || len(heard) != 1 {
			t.Errorf("WELCOME has epoch %d; heard of %v", w.Epoch, heard)
		}
	})
}

// A gateway that leaves for another leader is not lost: what was live on it must not end.
func TestGatewayThatLeavesForAHigherEpochIsNotLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var heard []uint64
		r := heardBy(t, &heard)
		g, _ := r.welcomed(hello("a", nil))
		g.send(link.With(link.KindBye, 0, &link.Reason{Text: "another leads", Epoch: 9}))
		g.wantEnd()
		synctest.Wait()
		if len(heard) != 1 || heard[0] != 9 {
			t.Errorf("heard of %v", heard)
		}
		r.want("a absent")
	})
}

func TestDoubtIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		for _, unsure := range []bool{true, false} {
			r.SetUnsure(unsure)
			synctest.Wait()
			g.mu.Lock()
			if g.unsure != unsure {
				t.Errorf("after SetUnsure(%v) the gateway hears %v", unsure, g.unsure)
			}
			g.mu.Unlock()
		}
	})
}

// A gateway that links in a doubt hears of it at once, though no frame of its own is to be acknowledged.
func TestGatewayThatLinksHearsOfADoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.SetUnsure(true)
		g, _ := r.welcomed(hello("a", nil))
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.unsure {
			t.Error("it hears nothing")
		}
	})
}
