package gateway

import (
	"encoding/json"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"
	"coordinator/internal/secret"
)

// replica is one of several coordinators. It says whether it leads, and the test plays it through its links.
type replica struct {
	*coordinator
	mu       sync.Mutex
	epoch    uint64 // 0: it stands by
	store    string
	key      secret.Secret
	asked    int
	replay   string        // a proof that was given to another question
	slow     time.Duration // until it answers who leads
	passedOn int           // requests of others
}

func (r *rig) replica(host string, epoch uint64, more ...func(*replica)) *replica {
	p := &replica{coordinator: r.newCoordinator(), epoch: epoch, store: "store", key: testSecret}
	p.other = p.answer
	for _, set := range more {
		set(p)
	}
	r.at(host, p.pipes.Connect)
	return p
}

func (p *replica) lead(epoch uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch = epoch
}

func (p *replica) answer(w http.ResponseWriter, r *http.Request) {
	select {
	case <-time.After(p.delay(r)):
	case <-r.Context().Done():
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.URL.Path != link.LeaderPath {
		p.passedOn++
		w.WriteHeader(http.StatusTeapot)
		return
	}
	p.asked++
	if p.epoch == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	said := link.Leader{Leader: true, Epoch: p.epoch, Store: p.store}
	proof := link.LeaderProof(p.key, r.Header.Get(link.LeaderNonceHeader), said)
	if p.replay != "" {
		proof = p.replay
	}
	w.Header().Set(link.LeaderProofHeader, proof)
	json.NewEncoder(w).Encode(said)
}

func (p *replica) delay(r *http.Request) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.URL.Path != link.LeaderPath {
		return 0
	}
	return p.slow
}

func (p *replica) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passedOn
}

func (p *replica) questions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// follows waits for a link and welcomes it.
func (p *replica) follows(term string, epoch uint64) *testLink {
	p.t.Helper()
	l := p.await()
	l.write(l.welcomeFrame(link.Welcome{Store: "store", Term: term, Epoch: epoch, ControlSame: true}))
	return l
}

// liveFor lets time pass in which the coordinator shows that it lives.
func (l *testLink) liveFor(r *rig, d time.Duration) {
	for range d / time.Second {
		l.write(link.With(link.KindAck, 0, &link.Count{}))
		r.wait(time.Second)
	}
}

func TestGatewayLinksWithTheOneThatLeads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		r.replica("c1", 0)
		leader := r.replica("c2", 3)
		l := leader.follows("t3", 3)
		l.next(link.KindSynced)
		l.liveFor(r, time.Minute)
		r.wantState("the link stays", func(s State) bool { return s.Linked && s.Links == 1 })
		if n := leader.questions(); n < 28 || n > 33 {
			t.Errorf("the leader is asked %d times in a minute", n)
		}
		if r.logs.Count("level=WARN") > 0 {
			t.Errorf("a coordinator that stands by is no trouble:\n%s", r.logs)
		}
	})
}

// The old leader may be alive and know nothing of it yet.
func TestGatewayLeavesForAHigherEpoch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		old, next := r.replica("c1", 3), r.replica("c2", 0)
		first := old.follows("t3", 3)
		first.next(link.KindSynced)
		peer := r.connect("hls")
		session, _ := first.attach()
		next.lead(4)
		began := time.Now()
		second := next.await()
		if took := time.Since(began); took > lookRound+leaveWithin+askEvery {
			t.Errorf("it follows after %v", took)
		}
		var bye link.Reason
		first.read1(first.next(link.KindBye), &bye)
		if bye.Epoch != 4 {
			t.Errorf("it says BYE for epoch %d", bye.Epoch)
		}
		if second.hello.Epoch != 3 || second.hello.Term != "t3" {
			t.Errorf("HELLO is %+v", second.hello)
		}
		first.trySay(session, "ENCODE-STOP\nStream-ID:of-the-old-one\n\n")
		second.write(second.welcomeFrame(link.Welcome{Store: "store", Term: "t4", Epoch: 4, ControlSame: true}))
		second.next(link.KindAttach)
		second.next(link.KindSynced)
		first.trySay(session, "ENCODE-STOP\nStream-ID:of-the-old-one\n\n")
		second.say(session, 0, "ENCODE-STOP\nStream-ID:of-the-new-one\n\n")
		peer.Expect("ENCODE-STOP", "Stream-ID", "of-the-new-one")
		peer.Quiet()
	})
}

// An old leader that wakes up and takes itself for the leader has the secret, and says WELCOME in its own term or in another one.
func TestLowerEpochIsNeverObeyed(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]link.Welcome{
		"the old term":                 {Term: "t3", Epoch: 3},
		"a new term in the old epoch":  {Term: "t3b", Epoch: 3},
		"no epoch":                     {Term: "t0", Epoch: 0},
		"the term of the higher epoch": {Term: "t4", Epoch: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "c1", "c2")
				old, next := r.replica("c1", 3), r.replica("c2", 0)
				first := old.follows("t3", 3)
				first.next(link.KindSynced)
				peer := r.connect("hls")
				session, _ := first.attach()
				next.lead(4)
				second := next.follows("t4", 4)
				second.next(link.KindAttach)
				second.next(link.KindSynced)
				next.lead(0)
				second.cut()
				again.Store, again.ControlSame = "store", true
				for range 10 {
					l := old.await()
					if l.hello.Epoch != 4 {
						t.Errorf("HELLO says that epoch %d is the highest", l.hello.Epoch)
					}
					l.write(l.welcomeFrame(again))
					l.say(session, 0, "ENCODE-STOP\nStream-ID:of-the-old-one\n\n")
					l.ended()
					r.wantState("it is not obeyed", func(s State) bool { return !s.Linked && s.Links == 2 })
				}
				peer.Quiet()
				r.logs.Await(t, "no link to the coordinator", errEpoch.Error())
				old.lead(0)
				next.lead(5)
				next.follows("t5", 5).next(link.KindAttach)
				r.wantState("the next leader is", func(s State) bool { return s.Linked })
			})
		})
	}
}

func TestUnprovenLeadersCountForNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2", "c3")
		leader := r.replica("c1", 3)
		impostor := r.replica("c2", 1e9, func(p *replica) { p.key = "of somebody else, who does not know the right one" })
		repeater := r.replica("c3", 1e9, func(p *replica) {
			p.replay = link.LeaderProof(testSecret, "bm9uY2Ugb2Ygb2xk", link.Leader{Epoch: 1e9, Store: "store"})
		})
		l := leader.follows("t3", 3)
		l.next(link.KindSynced)
		l.liveFor(r, time.Minute)
		r.wantState("the link stays", func(s State) bool { return s.Linked && s.Links == 1 })
		if len(impostor.links)+len(repeater.links) > 0 {
			t.Error("it dials one that has not proved that it leads")
		}
		r.logs.Await(t, "level=ERROR", "has not proved", "c2")
	})
}

func TestCoordinatorInDoubtHasOthersAskedMoreOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		old, other := r.replica("c1", 3), r.replica("c2", 0)
		first := old.follows("t3", 3)
		first.next(link.KindSynced)
		before := other.questions()
		for range 10 {
			first.write(link.With(link.KindAck, 0, &link.Count{Unsure: true}))
			r.wait(time.Second)
		}
		if n := other.questions() - before; n < 19 || n > 23 {
			t.Errorf("the other one is asked %d times in 10 s", n)
		}
		r.wantState("it stays", func(s State) bool { return s.Linked && s.Links == 1 })
		first.write(link.With(link.KindAck, 0, &link.Count{}))
		r.wait(lookRound)
		before = other.questions()
		first.liveFor(r, 10*time.Second)
		if n := other.questions() - before; n > 6 {
			t.Errorf("the other one is asked %d times in 10 s without a doubt", n)
		}
	})
}

func TestCoordinatorThatDoesNotKnowTheQuestionIsDialled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		r.coordinator("c1").await().welcome("t1")
		r.wait(time.Second)
		r.wantState("it is linked", func(s State) bool { return s.Linked })
	})
}

func TestNobodyLeads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		a, b := r.replica("c1", 0), r.replica("c2", 0)
		r.wait(30 * time.Second)
		if len(a.links)+len(b.links) > 0 {
			t.Error("one that stands by is dialled")
		}
		if n := r.logs.Count("no coordinator leads"); n != 1 {
			t.Errorf("said %d times:\n%s", n, r.logs)
		}
		began := time.Now()
		b.lead(1)
		b.await()
		if took := time.Since(began); took > askEvery+100*time.Millisecond {
			t.Errorf("linked after %v", took)
		}
	})
}
