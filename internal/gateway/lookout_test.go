package gateway

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"
)

// The one that has taken over may be far away, and the deposed one near and quick to say that it leads.
func TestHigherEpochIsFollowedHoweverLongItsAnswerTakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		old, next := r.replica("c1", 3), r.replica("c2", 0, func(p *replica) { p.slow = time.Second })
		first := old.follows("t3", 3)
		first.next(link.KindSynced)
		next.lead(4)
		began := time.Now()
		next.follows("t4", 4).next(link.KindSynced)
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("it follows after %v", took)
		}
		r.wait(time.Second)
		r.wantState("it has not gone back", func(s State) bool { return s.Linked && s.Links == 2 })
	})
}

// A coordinator that does not answer must not make the others heard less often.
func TestSilentCoordinatorHoldsUpNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2", "c3")
		old, next := r.replica("c1", 3), r.replica("c2", 0)
		r.at("c3", nil)
		first := old.follows("t3", 3)
		first.next(link.KindSynced)
		for range 5 {
			first.write(link.With(link.KindAck, 0, &link.Count{Unsure: true}))
			r.wait(700 * time.Millisecond)
		}
		next.lead(4)
		began := time.Now()
		next.await()
		if took := time.Since(began); took > lookRoundUnsure+leaveWithin+othersAnswer {
			t.Errorf("it follows after %v", took)
		}
	})
}

// One that takes links and says nothing, because it is frozen or was asked too early, must not keep the gateway from the leader.
func TestCoordinatorThatDoesNotWelcomeIsLeftForTheLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		mute, next := r.replica("c1", 3), r.replica("c2", 0)
		mute.await()
		next.lead(4)
		began := time.Now()
		next.follows("t4", 4)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it follows after %v", took)
		}
		r.wait(time.Second)
		r.wantState("it is linked", func(s State) bool { return s.Linked && s.Links == 1 })
	})
}

// While there is no link, requests wait for the next leader: the one that was linked may stand by, and knows nothing any more.
func TestRequestsWaitForTheNextLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		old, next := r.replica("c1", 3), r.replica("c2", 0)
		first := old.follows("t3", 3)
		first.next(link.KindSynced)
		if answer, _ := r.ask("GET /commands/capacity HTTP/1.1\n"); answer == nil || old.requests() != 1 {
			t.Fatal(answer)
		}
		old.lead(0)
		first.cut()
		r.wait(time.Second)
		go func() {
			<-time.After(4 * time.Second)
			next.lead(4)
			next.follows("t4", 4)
		}()
		began := time.Now()
		answer, body := r.ask("POST /commands/close HTTP/1.1\nContent-Length: 0\n")
		if answer == nil || old.requests() != 1 || next.requests() != 1 {
			t.Errorf("%v %s: the old leader is asked %d times, the new one %d", answer, body, old.requests(), next.requests())
		}
		if took := time.Since(began); took < 4*time.Second || took > 6*time.Second {
			t.Errorf("answered after %v", took)
		}
	})
}

// A new leader that is gone before the gateway has linked with it is looked for, and what it said forbids nothing.
func TestLeaderThatWasLeftForMayComeLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		old, next := r.replica("c1", 3), r.replica("c2", 0)
		old.follows("t3", 3).next(link.KindSynced)
		next.lead(4)
		next.await().cut()
		next.lead(0)
		again := old.follows("t3", 3)
		again.liveFor(r, 30*time.Second)
		r.wantState("the old one is obeyed for as long as nobody else is there", func(s State) bool { return s.Linked && s.Links == 2 })
		next.lead(4)
		next.follows("t4", 4)
		r.wait(time.Second)
		r.wantState("the new one is followed", func(s State) bool { return s.Linked && s.Links == 3 })
	})
}

// Epochs of another cluster say nothing, though it has the same secret: else one wrong URL would depose the leader again and again.
func TestLeaderOfAnotherStoreIsNotFollowedForItsEpoch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		right, wrong := r.replica("c1", 3), r.replica("c2", 0, func(p *replica) { p.store = "of another cluster" })
		first := right.follows("t3", 3)
		first.next(link.KindSynced)
		peer := r.connect("hls")
		first.next(link.KindAttach)
		wrong.lead(100)
		first.liveFor(r, 30*time.Second)
		r.wantState("the link stays", func(s State) bool { return s.Linked && s.Links == 1 })
		first.quiet()
		first.cut()
		again := right.follows("t3", 3)
		if again.liveFor(r, 10*time.Second); len(wrong.links) > 0 {
			t.Error("the other one was asked first")
		}
		peer.Quiet()
	})
}

// The store that the live streams belong to is waited for, whoever else leads; then the other one is followed as by a new gateway.
func TestLeaderOfAnotherStoreIsFollowedAfter30Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		right := r.replica("c1", 3)
		first := right.follows("t3", 3)
		first.next(link.KindSynced)
		r.connect("hls")
		wrong := r.replica("c2", 100, func(p *replica) { p.store = "other" })
		right.lead(0)
		first.cut()
		began := time.Now()
		for {
			l := wrong.await()
			l.write(l.welcomeFrame(link.Welcome{Store: "other", Term: "t", Epoch: 100, ControlSame: true}))
			r.wait(100 * time.Millisecond)
			if r.g.State().Linked {
				if l.hello.Store != "" || l.hello.Epoch != 0 {
					t.Errorf("HELLO is %+v", l.hello)
				}
				break
			}
		}
		if took := time.Since(began); took < otherStoreAfter || took > otherStoreAfter+5*time.Second {
			t.Errorf("followed after %v", took)
		}
	})
}

// Whatever coordinators say of themselves, and however often they change it: there is one link, it is not begun anew without a
// reason, and it ends at the highest epoch.
func TestLeadersThatChangeAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2", "c3")
		all := []*replica{r.replica("c1", 1), r.replica("c2", 0), r.replica("c3", 0)}
		var mu sync.Mutex
		var welcomed []uint64
		last := func() (epoch uint64) {
			mu.Lock()
			defer mu.Unlock()
			return welcomed[len(welcomed)-1]
		}
		done := make(chan struct{})
		for _, p := range all {
			p.wg.Go(func() {
				for {
					select {
					case l := <-p.links:
						f, open := <-l.in
						if !open {
							continue
						}
						l.read1(f, &l.hello)
						p.mu.Lock()
						epoch := p.epoch
						p.mu.Unlock()
						if epoch < l.hello.Epoch { // as a linkserver
							l.cut()
							continue
						}
						mu.Lock()
						if n := len(welcomed); n > 0 && welcomed[n-1] > epoch {
							t.Errorf("epoch %d after %v", epoch, welcomed)
						}
						welcomed = append(welcomed, epoch)
						mu.Unlock()
						l.write(l.welcomeFrame(link.Welcome{Store: "store", Term: string(rune('a' + epoch)), Epoch: epoch, ControlSame: true}))
						l.keepAlive()
					case <-done:
						return
					}
				}
			})
		}
		r.wait(time.Second)
		for epoch := uint64(2); epoch < 42; epoch++ { // leaders that do not know that they are deposed say so, too
			all[epoch%3].lead(epoch)
			if epoch%5 == 0 {
				all[(epoch+1)%3].lead(0)
			}
			r.wait(700 * time.Millisecond)
		}
		all[0].lead(41) // says so, and is not to be believed more than the other
		r.wait(5 * time.Second)
		r.wantState("it has followed", func(s State) bool { return s.Linked && s.Links <= 20 })
		if epoch := last(); epoch != 41 {
			t.Errorf("it is linked with epoch %d", epoch)
		}
		before := r.g.State().Links
		r.wait(time.Minute)
		r.wantState("it stays", func(s State) bool { return s.Linked && s.Links == before })
		close(done)
	})
}

func TestReadyOnlyWithALeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		a, _ := r.replica("c1", 0), r.replica("c2", 0)
		r.wait(5 * time.Second)
		if r.g.Ready() {
			t.Error("ready, and all coordinators stand by")
		}
		a.lead(1)
		l := a.follows("t1", 1)
		l.next(link.KindSynced)
		synctest.Wait()
		if !r.g.Ready() {
			t.Error("not ready with a leader")
		}
		a.lead(0)
		l.cut()
		if r.wait(readyWithin); !r.g.Ready() {
			t.Error("not ready 20 s after the leader has answered")
		}
		if r.wait(time.Second); r.g.Ready() {
			t.Error("ready long after")
		}
	})
}

// Between BYE and the end of the link the old leader may still say something.
func TestWhatALeaderSaysAfterItWasLeftIsNotObeyed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		old, next := r.replica("c1", 3), r.replica("c2", 0)
		first := old.follows("t3", 3)
		first.next(link.KindSynced)
		peer := r.connect("hls")
		session, _ := first.attach()
		first.say(session, 0, "ENCODE-STOP\nStream-ID:before\n\n")
		peer.Expect("ENCODE-STOP", "Stream-ID", "before")
		next.lead(4)
		first.next(link.KindBye)
		first.trySay(session, "ENCODE-STOP\nStream-ID:after\n\n")
		if synctest.Wait(); len(peer.In) > 0 {
			t.Error("the peer hears of it")
		}
		second := next.follows("t4", 4)
		second.next(link.KindAttach)
		second.next(link.KindSynced)
		second.say(session, 0, "ENCODE-STOP\nStream-ID:of-the-new-one\n\n")
		peer.Expect("ENCODE-STOP", "Stream-ID", "of-the-new-one")
	})
}
