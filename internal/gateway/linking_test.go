package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/link"

	"github.com/gorilla/websocket"
)

// linked starts a gateway and lets it link.
func linked(t *testing.T) (*rig, *coordinator, *testLink) {
	t.Helper()
	r := newRig(t, "c1")
	c := r.coordinator("c1")
	l := c.await()
	l.welcome("t1")
	l.next(link.KindSynced)
	return r, c, l
}

func TestGatewayThatStopsSaysByeBeforeItClosesSockets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _, l := linked(t)
		p := r.connect("hls")
		l.attach()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			r.stop()
		}()
		bye := l.next(link.KindBye)
		var why link.Reason
		l.read1(bye, &why)
		if why.Text == "" || bye.Number == 0 {
			t.Errorf("%+v %d", why, bye.Number)
		}
		synctest.Wait()
		select {
		case <-p.In:
			t.Error("the socket is closed before the coordinator has heard of it")
		default:
		}
		l.cut()
		var closed *websocket.CloseError
		if err := p.AwaitGone(); !errors.As(err, &closed) || closed.Code != websocket.CloseGoingAway {
			t.Error(err)
		}
		<-stopped
		if took := time.Since(r.start); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A coordinator that hangs holds up no stop for long.
func TestStopWaitsForNoCoordinator(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _, l := linked(t)
		l.quiet()
		began := time.Now()
		r.g.Stop()
		if took := time.Since(began); took > goodbyeWithin {
			t.Errorf("it took %v", took)
		}
		l.next(link.KindBye)
		r.g.mu.Lock()
		defer r.g.mu.Unlock()
		r.g.stopping = false // for the cleanup, which stops it again
	})
}

func TestByeOfTheCoordinatorEndsTheLinkOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, c, l := linked(t)
		p := r.connect("hls")
		session, _ := l.attach()
		l.send(link.KindBye, 0, &link.Reason{Text: "stopping for an update"})
		l.ended()
		r.logs.Await(t, "link to the coordinator has ended", "stopping for an update")
		l = c.await()
		if l.hello.Received != 1 || l.hello.Term != "t1" {
			t.Errorf("%+v", l.hello)
		}
		l.welcome("t2")
		if again, _ := l.attach(); again != session {
			t.Error("the session is another one")
		}
		l.next(link.KindSynced)
		l.say(session, 0, "ENCODE-STOP\n")
		p.Expect("ENCODE-STOP")
	})
}

func TestCoordinatorThatSaysNothingIsSilentAfter10Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, c, l := linked(t)
		began := time.Now()
		for range 20 { // it is never silent for 10 s
			r.wait(9 * time.Second)
			l.write(link.With(link.KindAck, 0, &link.Count{}))
		}
		l.quiet()
		if l.acks < 55 || l.acks > 60 {
			t.Errorf("%d pings in 3 minutes", l.acks)
		}
		last := time.Now()
		l.ended()
		if got := time.Since(last); got != silenceLimit {
			t.Errorf("the link ends after %v", got)
		}
		r.logs.Await(t, "link to the coordinator has ended", "has said nothing for 10 s")
		if c.await().hello.Term != "t1" || time.Since(began) > 200*time.Second {
			t.Error("it does not link again")
		}
	})
}

// Each direction by itself.
func TestLinkThatIsStalledOneWayIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, flows := range map[string][2]clustertest.Flow{
		"to the coordinator": {{Stalled: true}, {}},
		"to the gateway":     {{}, {Stalled: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, c, l := linked(t)
				proxy := r.faultProxy()
				r.at("c1", proxy.Wrap(c.pipes.Connect))
				l.cut()
				l = c.await()
				l.write(l.welcomeFrame(link.Welcome{Store: "store", Term: "t1", Received: 1, ControlSame: true}))
				l.keepAlive()
				p := r.connect("hls")
				session, _ := l.attach()
				proxy.Set(flows[0], flows[1])
				stalled := time.Now()
				sendText(t, p, "STREAM-AVAILABLE\nn:1\n")
				l.write(link.With(link.KindAck, 0, &link.Count{Number: 2}))
				r.wantState("it is linked", func(s State) bool { return s.Linked })
				for r.g.State().Linked {
					r.wait(time.Second)
				}
				if took := time.Since(stalled); took < 9*time.Second || took > 25*time.Second {
					t.Errorf("the link is given up after %v", took)
				}
				proxy.Reset()
				proxy.Set(clustertest.Flow{}, clustertest.Flow{})
				l = c.await()
				l.write(l.welcomeFrame(link.Welcome{Store: "store", Term: "t1", Received: 2, ControlSame: true}))
				if s, m := l.message(); s != session || m.Number != 1 || m.Age < 9000 {
					t.Errorf("%d %+v", s, m)
				}
			})
		})
	}
}

// What takes long to arrive is no silence.
func TestLongMessageOverASlowLinkIsASignOfLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		c := r.coordinator("c1")
		proxy := r.faultProxy()
		r.at("c1", proxy.Wrap(c.pipes.Connect))
		l := c.await()
		l.welcome("t1")
		l.next(link.KindSynced)
		r.connect("hls")
		session, _ := l.attach()
		proxy.Set(clustertest.Flow{}, clustertest.Flow{PerSecond: 5000, Slice: 1000})
		l.say(session, 0, "", link.Memo{Name: "s", Value: make([]byte, 100_000)})
		r.wait(8 * time.Second)
		if took := time.Since(r.start); took < 2*silenceLimit {
			t.Errorf("it took %v only", took)
		}
		r.wantState("the link is up, and the memo is there", func(s State) bool { return s.Linked && s.Links == 1 && s.Memos == 1 })
	})
}

func TestCoordinatorIsAskedForTwiceASecondThenMoreRarely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		var first, second atomic.Int64
		refuse := func(host string, asked *atomic.Int64) {
			r.at(host, func() (net.Conn, error) {
				asked.Add(1)
				return nil, errors.New("nobody is there")
			})
		}
		refuse("c1", &first)
		refuse("c2", &second)
		r.wait(59*time.Second + askEvery/2)
		before := first.Load()
		if before < 115 || before > 120 || second.Load() != before {
			t.Errorf("in the first minute %d and %d times", first.Load(), second.Load())
		}
		r.wait(10*time.Minute + time.Second)
		if n := first.Load() - before; n < 298 || n > 304 || second.Load() != first.Load() {
			t.Errorf("%d and %d times in 11 minutes, %d in the first one", first.Load(), second.Load(), before)
		}
		if n := r.logs.Count("no link to the coordinator"); n < 18 || n > 24 {
			t.Errorf("%d lines in 11 minutes:\n%s", n, r.logs)
		}
	})
}

func TestDialThatHangsIsGivenUpAndTheNextCoordinatorIsAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		r.at("c1", nil)
		c := r.coordinator("c2")
		l := c.await()
		if took := time.Since(r.start); took > leaderAnswers+askEvery {
			t.Errorf("it is asked after %v", took)
		}
		l.welcome("t1")
		l.next(link.KindSynced)
	})
}

func TestWhoeverHasNotProvedTheSecretIsNotListenedTo(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(*testLink) link.Frame{
		"WELCOME": func(l *testLink) link.Frame { return l.welcomeFrame(link.Welcome{Store: "store", Term: "t1"}) },
		"REFUSE": func(l *testLink) link.Frame {
			return link.With(link.KindRefuse, 0, &link.Refuse{Reason: "go", Gone: true, Proof: link.MAC(l.c.secret, l.hello.Nonce)})
		},
		"no MAC": func(*testLink) link.Frame { return link.With(link.KindRefuse, 0, &link.Refuse{Gone: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "c1", "c2")
				impostor := r.coordinator("c1")
				impostor.secret = "something else, of a good length as well"
				p := r.connect("hls")
				l := impostor.await()
				id := l.hello.Gateway
				l.write(answer(l))
				l.ended()
				r.logs.Await(t, "level=ERROR", "no link to the coordinator", "http://c1:80", "proved")
				l = r.coordinator("c2").await()
				if l.hello.Gateway != id {
					t.Error("the gateway has become another one")
				}
				l.welcome("t")
				session, _ := l.attach()
				l.next(link.KindSynced)
				l.say(session, 0, "ENCODE-STOP\n")
				p.Expect("ENCODE-STOP")
				if strings.Contains(r.logs.String(), testSecret.Reveal()) {
					t.Error("the log shows the key")
				}
			})
		})
	}
}

func TestGatewayThatIsGoneClosesItsSocketsAndComesBackAsAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, c, l := linked(t)
		p := r.connect("hls")
		l.attach()
		l.cut()
		l = c.await()
		// The answer of a peer to its close frame is on its way for ever.
		proxy := r.faultProxy()
		slow := r.connectOver(proxy.Wrap(r.pipes.Connect), "hls")
		proxy.Set(clustertest.Flow{Blackhole: true}, clustertest.Flow{})
		id, told := l.hello.Gateway, time.Now()
		l.write(link.With(link.KindRefuse, 0, &link.Refuse{Reason: "it was away for too long", Gone: true, Proof: link.MAC(testSecret, l.hello.Nonce)}))
		p.AwaitGone()
		r.logs.Await(t, "level=ERROR", "took this gateway for gone", "it was away for too long", "sockets_closed=2")
		l = c.await()
		if took := time.Since(told); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("it is back after %v: its sockets are to be closed first", took)
		}
		slow.Conn.Close()
		if l.hello.Gateway == id || l.hello.Term != "" || l.hello.Store != "" {
			t.Errorf("%+v", l.hello)
		}
		l.welcome("t1")
		l.next(link.KindSynced) // no session before it
		r.connect("hls")
		if session, _ := l.attach(); session != 1 {
			t.Errorf("session %d", session)
		}
	})
}

func TestAnotherStoreIsFollowedOnlyWhenTheKnownOneStaysAway(t *testing.T) {
	t.Parallel()
	for _, how := range []link.Kind{link.KindWelcome, link.KindRefuse} {
		t.Run(how.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "c1", "c2")
				c, other := r.coordinator("c1"), r.coordinator("c2")
				l := c.await()
				l.welcome("t1")
				l.next(link.KindSynced)
				p := r.connect("hls")
				l.attach()
				l.cut()
				r.away("c1")
				id, lost := l.hello.Gateway, time.Now()
				for {
					l = other.await()
					if l.hello.Gateway != id {
						break
					}
					if time.Since(lost) < otherStoreAfter {
						r.wantState("the socket stays", func(s State) bool { return s.Sessions == 1 && !s.Linked })
					}
					if how == link.KindWelcome {
						l.write(l.welcomeFrame(link.Welcome{Store: "another", Term: "t9"}))
					} else {
						l.write(link.With(link.KindRefuse, 0, &link.Refuse{Reason: "another store", Store: "another", Proof: link.MAC(testSecret, l.hello.Nonce)}))
					}
				}
				if took := time.Since(lost); took < otherStoreAfter || took > otherStoreAfter+6*time.Second {
					t.Errorf("it is followed after %v", took)
				}
				p.AwaitGone()
				r.logs.Await(t, "level=ERROR", "another store", "known=store", "found=another", "sockets_closed=1")
				if l.hello.Store != "" || l.hello.Term != "" {
					t.Errorf("%+v", l.hello)
				}
				l.write(l.welcomeFrame(link.Welcome{Store: "another", Term: "t9", ControlSame: true}))
				l.next(link.KindSynced)
			})
		})
	}
}

func TestGatewayWithoutSessionsFollowsAnotherStoreAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, c, l := linked(t)
		id := l.hello.Gateway
		l.cut()
		l = c.await()
		l.write(l.welcomeFrame(link.Welcome{Store: "another", Term: "t2"}))
		began := time.Now()
		l = c.await()
		if l.hello.Gateway == id || l.hello.Store != "" || time.Since(began) > time.Second {
			t.Errorf("%+v after %v", l.hello, time.Since(began))
		}
	})
}

func TestCoordinatorsThatCannotBeLinkedWith(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer func(*testLink) link.Frame
		said   string
	}{
		"refused": {func(l *testLink) link.Frame {
			return link.With(link.KindRefuse, 0, &link.Refuse{Reason: "CONTROL_SECRET is missing", Proof: link.MAC(testSecret, l.hello.Nonce)})
		}, "coordinator refuses: CONTROL_SECRET is missing"},
		"protocol": {func(l *testLink) link.Frame {
			return link.With(link.KindWelcome, 0, &link.Welcome{Store: "s", Term: "t", Protocol: link.Protocol + 1, Proof: link.MAC(testSecret, l.hello.Nonce)})
		}, "protocol"},
		"an older epoch": {func(l *testLink) link.Frame {
			return l.welcomeFrame(link.Welcome{Store: "store", Term: "t0", Epoch: 4})
		}, "no longer leads"},
		"a term without a name": {func(l *testLink) link.Frame { return l.welcomeFrame(link.Welcome{Store: "store"}) }, "neither WELCOME nor REFUSE"},
		"something else":        {func(*testLink) link.Frame { return link.Frame{Kind: link.KindSynced} }, "neither WELCOME nor REFUSE"},
		"frames never sent": {func(l *testLink) link.Frame {
			return l.welcomeFrame(link.Welcome{Store: "store", Term: "t1", Epoch: 5, Received: 99})
		}, "never sent"},
		"damaged": {func(*testLink) link.Frame { return link.Frame{Kind: link.KindWelcome, Payload: []byte{0xff}} }, "WELCOME: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "c1")
				c := r.coordinator("c1")
				l := c.await()
				l.write(l.welcomeFrame(link.Welcome{Store: "store", Term: "t1", Epoch: 5, ControlSame: true}))
				l.next(link.KindSynced)
				p := r.connect("hls")
				l.attach()
				l.cut()
				l = c.await()
				l.write(test.answer(l))
				l.ended()
				r.logs.Await(t, "no link to the coordinator", test.said)
				l = c.await()
				l.write(l.welcomeFrame(link.Welcome{Store: "store", Term: "t2", Epoch: 5, ControlSame: true}))
				session, _ := l.attach()
				l.next(link.KindSynced)
				l.say(session, 0, "ENCODE-STOP\n")
				p.Expect("ENCODE-STOP")
			})
		})
	}
}

func TestStatusInPlaceOfALinkSaysWhatToLookAt(t *testing.T) {
	t.Parallel()
	for status, hint := range map[int]string{
		http.StatusForbidden: "clocks", http.StatusNotFound: "is GATEWAY_SECRET set at the coordinator", http.StatusServiceUnavailable: "takes no links now", http.StatusOK: "status 200",
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, "c1")
			pipes := clustertest.NewPipes()
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })}
			go server.Serve(pipes)
			defer server.Close()
			r.at("c1", pipes.Connect)
			r.logs.Await(t, "no link to the coordinator", hint)
			r.stop()
		})
	}
}

func TestDifferentControlSecretsAreWarnedOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		l := r.coordinator("c1").await()
		l.write(l.welcomeFrame(link.Welcome{Store: "s", Term: "t"}))
		l.next(link.KindSynced)
		r.logs.Await(t, "level=WARN", "another CONTROL_SECRET")
	})
}

// Frames are acknowledged soon, and those that come twice count once.
func TestFramesAreAcknowledgedWithin100Milliseconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _, l := linked(t)
		p := r.connect("hls")
		session, _ := l.attach()
		for range 3 {
			l.say(session, 0, "ENCODE-STOP\n")
			p.Expect("ENCODE-STOP")
		}
		l.sent = 1
		l.say(session, 0, "AGAIN\n")
		r.wait(2 * ackEvery)
		l.quiet()
		if l.acked != 3 || len(p.In) > 0 {
			t.Errorf("%d is acknowledged; the peer heard %d more", l.acked, len(p.In))
		}
		l.sent = 4
		l.say(session, 0, "AFTER A GAP\n")
		l.ended()
		r.logs.Await(t, "link to the coordinator has ended", "a frame is missing")
	})
}

func TestReadyWhenACoordinatorHasAnsweredLately(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		r.wait(time.Second)
		if r.g.Ready() {
			t.Error("without a coordinator")
		}
		l := r.coordinator("c1").await()
		l.welcome("t")
		l.next(link.KindSynced)
		l.keepAlive()
		r.wait(time.Minute)
		if !r.g.Ready() {
			t.Error("with a coordinator")
		}
		r.away("c1")
		l.cut()
		r.wait(17 * time.Second)
		if !r.g.Ready() {
			t.Error("soon after")
		}
		r.wait(4 * time.Second)
		if r.g.Ready() {
			t.Error("20 s after")
		}
	})
}

// A link that ends as soon as it is made does not fill the log.
func TestLinksThatEndAgainAndAgainDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		c := r.coordinator("c1")
		for r.wait(0); time.Since(r.start) < 5*time.Minute; {
			l := c.await()
			l.welcome("t1")
			l.cut()
		}
		info := strings.Count(r.logs.String(), "level=INFO msg=\"linked to the coordinator\"")
		warned := strings.Count(r.logs.String(), "links end again and again")
		if info < 40 || info > 60 || warned < 4 || warned > 6 {
			t.Errorf("%d lines, %d warnings", info, warned)
		}
	})
}

// What fails again and again for the same reason gets a line a minute, whatever port it was dialled from.
func TestTroublesOfTheNetworkDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		u := r.g.URLs[0]
		tr := troubles{g: r.g, said: map[string]string{}}
		for port := range 30 { // a minute
			tr.failed(u, fmt.Errorf("hello: %w", &net.OpError{
				Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 40000 + port}, Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 80},
				Err: os.ErrDeadlineExceeded,
			}))
			time.Sleep(2 * time.Second)
		}
		if n := strings.Count(r.logs.String(), `reason="hello: read tcp 10.0.0.2:80: i/o timeout"`); n != 1 {
			t.Errorf("%d lines:\n%s", n, r.logs)
		}
	})
}
