package linkserver

// The clocks of a gateway that is away, silent or slow.

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"
)

func TestSilentGatewayIsAbsentAfter10SecondsAndLostAfter30(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.send(attach(1))
		r.want("a attach 1 HLS")
		for range 5 { // any frame is life, ACK too
			time.Sleep(10*time.Second - time.Nanosecond)
			g.ack(0)
		}
		time.Sleep(10*time.Second - time.Nanosecond)
		r.want()
		time.Sleep(time.Nanosecond)
		r.want("a absent")
		if g.isOpen() {
			t.Error("the link is open")
		}
		time.Sleep(20*time.Second - time.Nanosecond)
		r.want()
		time.Sleep(time.Nanosecond)
		r.want("a lost: silent for 30 s")
	})
}

// A frame may take its time.
func TestBytesOfAFrameAreLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.sent++
		f := message(1, 1, strings.Repeat("x", 60))
		f.Number = g.sent
		b := f.Append(nil)
		raw := g.conn.NetConn()
		raw.Write([]byte{0x82, 0x80 | byte(len(b)), 0, 0, 0, 0}) // RFC 6455, 5.2
		for i := range b {
			time.Sleep(9 * time.Second)
			raw.Write(b[i : i+1])
		}
		r.want("a message 1 1 " + strings.Repeat("x", 20))
	})
}

func TestGatewayIsToldEvery3SecondsThatTheCoordinatorLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.ping()
		time.Sleep(61 * time.Second)
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.acks < 18 || g.acks > 20 {
			t.Errorf("%d ACKs in a minute", g.acks)
		}
	})
}

func TestByeEndsAGatewayAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.send(attach(1))
		r.want("a attach 1 HLS")
		r.of("a").Send(say(1, "x"), r.onAck("x"))
		g.next()
		g.send(message(1, 1, "last"), link.With(link.KindBye, 0, &link.Reason{Text: "stopping"}), message(1, 2, "none"))
		r.want("a message 1 1 last", "a lost: it has left: stopping", "acked x")
		g.wantEnd()
		if refuse := r.refused(hello("a", resumes(0))); !refuse.Gone {
			t.Errorf("REFUSE is %+v", refuse)
		}
	})
}

// It still speaks, and the coordinator can't: the link ends, and both sides may try another one.
func TestGatewayThatDoesNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.send(attach(1))
		r.want("a attach 1 HLS")
		<-g.held
		a := r.of("a")
		for range 3 {
			a.Send(say(1, strings.Repeat("x", 1000)), nil)
			synctest.Wait() // the first one is read: the test had begun to
		}
		for range 9 {
			time.Sleep(time.Second)
			g.ack(0)
		}
		r.want()
		time.Sleep(time.Second)
		r.want("a absent")
		g.held <- struct{}{}
		again, w := r.welcomed(hello("a", resumes(0)))
		if w.Received != 1 {
			t.Errorf("WELCOME is %+v", w)
		}
		for n := range 3 {
			again.wantSay(uint64(n)+1, "xxx")
		}
		r.want("a present")
	})
}

// The frames that wait are counted with what they cost beside their payload, and the last one that fits is still kept.
func TestMoreThan64MiBThatAreNotAcknowledged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.send(attach(1))
		r.want("a attach 1 HLS")
		g.conn.Close()
		r.want("a absent")
		a := r.of("a")
		const each = 1 << 20
		f := link.Frame{Kind: link.KindSay, Session: 1, Payload: make([]byte, each-frameOverhead)}
		for range 63 {
			a.Send(f, nil)
		}
		a.Send(f, r.onAck("fits"))
		r.want()
		if n := r.Gateways()[0].Unacknowledged; n != 64<<20 {
			t.Errorf("%d bytes wait", n)
		}
		a.Send(link.Frame{Kind: link.KindClose, Session: 1}, r.onAck("too much"))
		a.Send(f, r.onAck("after it"))
		r.want("a lost: more than 64 MiB are sent to it and not acknowledged", "acked fits", "acked too much", "acked after it")
		if refuse := r.refused(hello("a", resumes(0))); !refuse.Gone {
			t.Errorf("REFUSE is %+v", refuse)
		}
	})
}

func TestOverflowOfALinkedGatewayEndsItsLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.send(attach(1))
		r.want("a attach 1 HLS")
		a := r.of("a")
		for range 65 {
			a.Send(link.Frame{Kind: link.KindSay, Session: 1, Payload: make([]byte, 1<<20)}, nil)
			synctest.Wait()
		}
		r.want("a lost: more than 64 MiB are sent to it and not acknowledged")
		if g.isOpen() {
			t.Error("the link is open")
		}
	})
}

func TestKnownGatewayHas10SecondsAfterTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(_ *rig, cfg *Config) { cfg.Known = []string{"a", "b"} })
		time.Sleep(10*time.Second - time.Nanosecond)
		g, _ := r.welcomed(hello("a", earlier))
		g.ping()
		r.want()
		time.Sleep(time.Nanosecond)
		r.want("b lost: it has not linked within 10 s of the start")
		if refuse := r.refused(hello("b", earlier)); !refuse.Gone {
			t.Errorf("REFUSE is %+v", refuse)
		}
		if len(r.added) > 0 {
			t.Errorf("%q were added", r.added)
		}
	})
}

// A grace begins anew with each end of a link.
func TestLinksThatBreakAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		for range 20 {
			g.conn.Close()
			r.want("a absent")
			time.Sleep(9 * time.Second)
			g, _ = r.welcomed(hello("a", resumes(0)))
			r.want("a present")
		}
		g.conn.Close()
		time.Sleep(10 * time.Second)
		r.want("a absent", "a lost: it was not linked again within 10 s")
	})
}

// The link ends because the gateway does not read, while the coordinator has BYE and has not looked at it yet.
func TestByeThatHasComeCountsHoweverTheLinkEnds(t *testing.T) {
	t.Parallel()
	for range 10 { // by chance the end is seen first
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, func(r *rig, _ *Config) {
				r.onMessage = func(g *Gateway, _ uint64, m link.Message) {
					r.note(g, "message %d", m.Number)
					time.Sleep(15 * time.Second)
				}
			})
			g, _ := r.welcomed(hello("a", nil))
			g.send(attach(1))
			r.want("a attach 1 HLS")
			<-g.held
			for range 3 {
				r.of("a").Send(say(1, "x"), nil)
				synctest.Wait()
			}
			g.send(message(1, 1, "x"))
			g.send(link.With(link.KindBye, 0, &link.Reason{Text: "stopping"}))
			time.Sleep(16 * time.Second)
			r.want("a message 1", "a lost: it has left: stopping")
			g.held <- struct{}{}
		})
	}
}

func TestFrameThatWasNotWrittenCanNotBeAcknowledged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.send(attach(1))
		r.want("a attach 1 HLS")
		<-g.held
		for range 3 {
			r.of("a").Send(say(1, "x"), r.onAck("x"))
			synctest.Wait()
		}
		g.ack(2) // it is being written
		r.want("acked x", "acked x")
		g.ack(3)
		r.want("a absent")
		g.held <- struct{}{}
	})
}
