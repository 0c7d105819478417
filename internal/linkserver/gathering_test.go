package linkserver

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"
)

func known(ids ...string) func(*rig, *Config) {
	return func(_ *rig, cfg *Config) { cfg.Known = ids }
}

func TestNothingIsGatheredWhereNobodyIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.wantGathered(true)
	})
}

func TestNewStoreWaits3Seconds(t *testing.T) {
	t.Parallel()
	storeIsNew := func(_ *rig, cfg *Config) { cfg.StoreIsNew = true }
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, storeIsNew)
		time.Sleep(3*time.Second - time.Nanosecond)
		r.wantGathered(false)
		time.Sleep(time.Nanosecond)
		r.wantGathered(true)
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, storeIsNew)
		a, _ := r.welcomed(hello("a", nil))
		b, _ := r.welcomed(hello("b", nil))
		a.ping()
		b.ping()
		a.send(synced)
		time.Sleep(4 * time.Second)
		r.wantGathered(false)
		late, _ := r.welcomed(hello("late", nil))
		b.send(synced)
		r.wantGathered(false)
		late.conn.Close()
		time.Sleep(10*time.Second - time.Nanosecond)
		r.wantGathered(false)
		time.Sleep(time.Nanosecond)
		r.wantGathered(true)
	})
}

// A gateway that can't be written to a new store, as on a full disk, has nothing that is waited for, and is not to blame.
func TestGatewayThatCannotBeWrittenIsNeitherAwaitedNorLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig, cfg *Config) {
			cfg.StoreIsNew = true
			r.durable = make(chan struct{})
		})
		for range 5 { // no gateway waits for longer than 10 s
			r.link(hello("a", nil))
			time.Sleep(9 * time.Second)
			r.wantGathered(true)
		}
		r.want()
		g := r.link(hello("a", nil))
		synctest.Wait()
		close(r.durable)
		if f := g.next(); f.Kind != link.KindWelcome {
			t.Errorf("the answer is %v", f.Kind)
		}
		g.ping()
		time.Sleep(time.Minute)
		r.want()
	})
}

func TestGatheringWaitsForAllThatAreKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, known("a", "b", "c", "d"))
		time.Sleep(5 * time.Second)
		a, _ := r.welcomed(hello("a", earlier))
		a.ping()
		b, _ := r.welcomed(hello("b", earlier))
		b.ping()
		c, _ := r.welcomed(hello("c", earlier))
		c.ping()
		other, _ := r.welcomed(hello("new", nil)) // it keeps nothing
		other.ping()
		a.send(attach(1), synced)
		time.Sleep(5 * time.Second)
		r.want("a attach 1 HLS", "d lost: it has not linked within 10 s of the start")
		b.send(byeFrame)
		r.want("b lost: it has left: stopping")
		time.Sleep(24 * time.Second)
		r.wantGathered(false)
		c.send(synced)
		r.wantGathered(true)
		time.Sleep(time.Minute)
		r.want()
	})
}

func TestSyncedHasToFollowHelloWithin30Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, known("a"))
		time.Sleep(9 * time.Second)
		a, _ := r.welcomed(hello("a", earlier))
		a.ping()
		time.Sleep(20 * time.Second)
		a.conn.Close() // another link gives no more time
		time.Sleep(5 * time.Second)
		again, _ := r.welcomed(hello("a", resumes(0)))
		again.ping()
		time.Sleep(5*time.Second - time.Nanosecond)
		r.want("a absent", "a present")
		r.wantGathered(false)
		time.Sleep(time.Nanosecond)
		r.want("a lost: it has not sent all that it keeps within 30 s")
		r.wantGathered(true)
		if again.isOpen() {
			t.Error("the link is open")
		}
	})
}

// These tests count in KiB, and have room for 256.
const unit = 1 << 10

// bulk is n messages from number on, that take a unit each, in frames of their own.
func bulk(session uint64, number uint64, n int) (frames []link.Frame) {
	for i := range n {
		frames = append(frames, message(session, number+uint64(i), string(make([]byte, unit-messageOverhead))))
	}
	return frames
}

// counts is a server with room for 256 units. Its Handler counts them.
func counts(t *testing.T, ids ...string) (r *rig, units *int) {
	units = new(int)
	r = newRig(t, func(r *rig, cfg *Config) {
		cfg.Known = ids
		r.onMessage = func(_ *Gateway, _ uint64, m link.Message) {
			r.recorder.mu.Lock()
			defer r.recorder.mu.Unlock()
			*units += (len(m.Text) + messageOverhead) / unit
		}
	})
	if r.gathering.room != 256<<20 {
		t.Errorf("there is room for %d bytes", r.gathering.room)
	}
	r.gathering.room = 256 * unit
	return r, units
}

func TestNoMoreThan256MiBAreTakenInWhileGathering(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, units := counts(t, "a", "b")
		a, _ := r.welcomed(hello("a", earlier))
		b, _ := r.welcomed(hello("b", earlier))
		b.ping()
		a.send(attach(1))
		for n := range uint64(25) {
			a.send(bulk(1, n*10+1, 10)...)
		}
		sending := make(chan struct{})
		go func() { // it is not read any more
			defer close(sending)
			a.send(append(append(bulk(1, 251, 10), link.With(link.KindGone, 1, &link.Gone{Number: 261})), synced)...)
		}()
		time.Sleep(29 * time.Second)
		r.want("a attach 1 HLS")
		if *units != 256 {
			t.Errorf("%d units are taken in", *units)
		}
		if !a.isOpen() {
			t.Fatal("the link of a was closed")
		}
		r.wantGathered(false)
		b.send(attach(1), synced)
		r.want("b attach 1 HLS", "a gone 1 261")
		<-sending
		r.wantGathered(true)
		if *units != 260 {
			t.Errorf("%d units are taken in", *units)
		}
		a.send(bulk(2, 1, 10)...)
		r.want()
		if *units != 270 {
			t.Errorf("%d units are taken in", *units)
		}
	})
}

func TestClockOfSyncedStandsStillWhileALinkIsNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _ := counts(t, "a", "b")
		a, _ := r.welcomed(hello("a", earlier))
		for n := range uint64(16) {
			a.send(bulk(1, n*16+1, 16)...)
		}
		time.Sleep(9 * time.Second)
		b, _ := r.welcomed(hello("b", earlier)) // until 39
		b.ping()
		a.send(message(1, 257, "x")) // not read at 9, of 30
		a.ack(0)
		time.Sleep(28 * time.Second) // 37
		r.want()
		a.conn.Close() // found when the coordinator says something; the clock goes on
		time.Sleep(time.Second)
		again, w := r.welcomed(hello("a", resumes(0)))
		again.ping()
		if w.Received != 256 {
			t.Errorf("%d frames were received", w.Received)
		}
		r.want("a absent", "a present")
		b.send(synced) // 38
		time.Sleep(18 * time.Second)
		r.want()
		r.wantGathered(false)
		time.Sleep(4 * time.Second)
		r.want("a lost: it has not sent all that it keeps within 30 s")
		r.wantGathered(true)
	})
}

// Both keep more than there is room for: none will ever say SYNCED, and no time makes that better.
func TestGatheringIsOverWhenAllThatAreAwaitedAreHeldBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, units := counts(t, "a", "b")
		a, _ := r.welcomed(hello("a", earlier))
		b, _ := r.welcomed(hello("b", earlier))
		a.ping()
		b.ping()
		a.send(attach(1))
		for n := range uint64(16) {
			a.send(bulk(1, n*8+1, 8)...)
			b.send(bulk(1, n*8+1, 8)...)
		}
		synctest.Wait()
		a.send(bulk(1, 129, 1)...)
		time.Sleep(20 * time.Second)
		r.wantGathered(false) // b may still say SYNCED
		b.send(bulk(1, 129, 1)...)
		r.wantGathered(true)
		a.send(synced)
		b.send(synced)
		r.want("a attach 1 HLS")
		if *units != 258 {
			t.Errorf("%d units are taken in", *units)
		}
	})
}

func TestListOfGateways(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, known("b", "c"))
		start := time.Now()
		time.Sleep(time.Second)
		b, _ := r.welcomed(hello("b", earlier))
		r.welcomed(hello("a", nil))
		frames := []link.Frame{attach(1), synced}
		b.send(frames...)
		bytesIn := uint64(len(frames[0].Append(frames[1].Append(nil))))
		r.want("b attach 1 HLS")
		r.of("b").Send(say(1, "x"), nil)
		b.next()
		time.Sleep(time.Second)
		b.conn.Close()
		r.want("b absent")
		list := r.Gateways()
		ids := []string{}
		for _, s := range list {
			ids = append(ids, s.ID)
		}
		if !slices.Equal(ids, []string{"a", "b", "c"}) {
			t.Fatalf("gateways: %q", ids)
		}
		if s := list[0]; !s.Linked || s.Version != "0.9" || s.Protocol != 1 || s.Remote == "" || !s.Since.Equal(start.Add(time.Second)) {
			t.Errorf("a: %+v", s)
		}
		if s := list[1]; s.Linked || s.Remote == "" || !s.Since.Equal(start.Add(2*time.Second)) || s.FramesIn != 2 || s.FramesOut < 2 || s.BytesIn != bytesIn || s.BytesOut < 15 || s.Unacknowledged == 0 {
			t.Errorf("b: %+v", s)
		}
		if s := list[2]; s.Linked || s.Remote != "" || !s.Since.Equal(start) {
			t.Errorf("c: %+v", s)
		}
	})
}
