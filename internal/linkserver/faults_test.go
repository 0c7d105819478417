package linkserver

// Gateways that say what they must not, or that do not agree with what the coordinator knows of them.

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/link"

	"github.com/gorilla/websocket"
)

func TestFaultyFramesEndTheLinkAndItIsResumed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := hello("a", nil)
		numbered := func(f link.Frame, number uint64) []byte {
			f.Number = number
			return f.Append(nil)
		}
		for name, test := range map[string]struct {
			b    []byte
			want error
		}{
			"gap":                     {numbered(attach(1), 2), errGap},
			"no number":               {numbered(attach(1), 0), errGap},
			"gap in an unknown kind":  {numbered(link.Frame{Kind: 200}, 2), errGap},
			"no session":              {numbered(attach(0), 1), errNoSession},
			"message without session": {numbered(message(0, 1, "x"), 1), errNoSession},
			"alive without session":   {numbered(link.Frame{Kind: link.KindAlive}, 1), errNoSession},
			"HELLO again":             {link.With(link.KindHello, 0, &h).Append(nil), errUnexpected},
			"WELCOME":                 {link.With(link.KindWelcome, 0, &link.Welcome{}).Append(nil), errUnexpected},
			"SAY":                     {numbered(say(1, "x"), 1), errUnexpected},
			"payload":                 {numbered(link.Frame{Kind: link.KindAttach, Session: 1, Payload: []byte{0x0f, 0xff}}, 1), errUnreadable},
			"ACK of nothing":          {ackOf(1).Append(nil), errNotSent},
			"ACK without end":         {link.Frame{Kind: link.KindAck, Payload: []byte{0x08, 0xff}}.Append(nil), errUnreadable},
			"cut off":                 {numbered(attach(1), 1)[:5], errUnreadable},
			"empty frame":             {[]byte{0}, errUnreadable},
			"length is cut off":       {[]byte{0xff}, errUnreadable},
			"64 MiB and a byte":       {[]byte{0x81, 0x80, 0x80, 0x20}, errTooLong},
			"4 GiB":                   {[]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, errTooLong},
			"length without end":      {[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, errTooLong},
		} {
			r := newRig(t, nil)
			g, _ := r.welcomed(hello("a", nil))
			g.conn.WriteMessage(websocket.BinaryMessage, test.b)
			g.wantEnd()
			synctest.Wait()
			r.log.Await(t, "gateway is absent", fmt.Sprintf("reason=%q", test.want.Error()), "gateway=a")
			if _, w := r.welcomed(hello("a", resumes(0))); w.Received != 0 {
				t.Errorf("%s: %d frames were received", name, w.Received)
			}
			r.recorder.mu.Lock()
			if len(r.calls) > 0 { // no session was attached, so that only Absent and Present may be told
				for _, call := range r.calls {
					if call != "a absent" && call != "a present" {
						t.Errorf("%s: %s", name, call)
					}
				}
			}
			r.recorder.mu.Unlock()
			clustertest.WantOwnLines(t, r.log.String())
		}
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.conn.WriteMessage(websocket.TextMessage, numbered(attach(1), 1))
		g.wantEnd()
		r.log.Await(t, "gateway is absent", errNotBinary.Error())
	})
}

// What came before a fault counts.
func TestFramesBeforeAFaultAreHandled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		first, second := attach(1), message(1, 1, "x")
		first.Number, second.Number = 1, 2
		g.conn.WriteMessage(websocket.BinaryMessage, append(second.Append(first.Append(nil)), 0xff))
		g.wantEnd()
		r.want("a attach 1 HLS", "a message 1 1 x", "a absent")
		if _, w := r.welcomed(hello("a", resumes(0))); w.Received != 2 {
			t.Errorf("%d frames were received", w.Received)
		}
	})
}

func TestFramesBeforeWelcomeEndTheLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig, _ *Config) { r.durable = make(chan struct{}) })
		g := r.link(hello("a", nil))
		g.send(attach(1))
		g.wantEnd()
		r.want()
	})
}

// linkedWith3 is a gateway that has got three frames, of which it has acknowledged one, and has sent two.
func linkedWith3(t *testing.T) *rig {
	r := newRig(t, nil)
	g, _ := r.welcomed(hello("a", nil))
	g.send(attach(1), message(1, 1, "x"))
	r.want("a attach 1 HLS", "a message 1 1 x")
	for i := range 3 {
		r.of("a").Send(say(1, "x"), nil)
		g.wantSay(uint64(i)+1, "x")
	}
	g.ack(1)
	synctest.Wait()
	g.conn.Close()
	r.want("a absent")
	r.of("a").Send(say(1, "it has never seen this"), r.onAck("last"))
	return r
}

func TestNumbersThatCanNotBeLoseTheGateway(t *testing.T) {
	t.Parallel()
	for received, possible := range map[uint64]bool{0: false, 1: true, 2: true, 3: true, 4: false, 1 << 60: false} {
		synctest.Test(t, func(t *testing.T) {
			r := linkedWith3(t)
			if possible {
				g, w := r.welcomed(hello("a", resumes(received)))
				if w.Received != 2 {
					t.Errorf("%d frames were received", w.Received)
				}
				for n := received; n < 4; n++ {
					if f := g.next(); f.Number != n+1 {
						t.Errorf("frame %d comes after %d", f.Number, n)
					}
				}
				r.want("a present")
				return
			}
			if refuse := r.refused(hello("a", resumes(received))); !refuse.Gone {
				t.Errorf("REFUSE is %+v", refuse)
			}
			r.want("a lost: it has received what was not sent, or not received what it has acknowledged", "acked last")
		})
	}
}

func TestGatewayThatHasForgottenTheTermIsLost(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(h *link.Hello){
		"term":           func(h *link.Hello) { h.Store = "store" },
		"store and term": nil,
		"another term":   earlier,
	} {
		synctest.Test(t, func(t *testing.T) {
			r := linkedWith3(t)
			if refuse := r.refused(hello("a", change)); !refuse.Gone {
				t.Errorf("%s: REFUSE is %+v", name, refuse)
			}
			r.want("a lost: it has forgotten what it had sent and received", "acked last")
		})
	}
}

// WELCOME was lost on its way, so that the gateway does not know the term, and nothing was attached in it.
func TestGatewayThatHasNotSeenItsWelcomeBeginsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(_ *rig, cfg *Config) { cfg.Known = []string{"b"} })
		for _, h := range []link.Hello{hello("a", nil), hello("b", earlier)} {
			g, _ := r.welcomed(h)
			g.conn.Close()
			again, _ := r.welcomed(h)
			again.send(attach(1))
			r.want(h.Gateway+" absent", h.Gateway+" present", h.Gateway+" attach 1 HLS")
		}
	})
}

func TestAnotherHelloOfTheSameGatewayEndsTheLinkBeforeIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.send(attach(1))
		r.want("a attach 1 HLS")
		r.of("a").Send(say(1, "x"), nil)
		again, w := r.welcomed(hello("a", resumes(0)))
		if w.Received != 1 {
			t.Errorf("%d frames were received", w.Received)
		}
		again.wantSay(1, "x")
		r.want("a absent", "a present")
		g.next()
		g.wantEnd()
		if !again.isOpen() {
			t.Error("the second link is closed")
		}
	})
}

// All at once: one of the links stays, and the gateway is neither lost nor there twice.
func TestManyHellosOfTheSameGatewayAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig, _ *Config) { r.durable = make(chan struct{}) })
		var links []*gw
		for range 20 {
			links = append(links, r.connect())
		}
		var saying sync.WaitGroup
		for _, g := range links {
			h := hello("a", nil)
			saying.Go(func() { g.write(link.With(link.KindHello, 0, &h)) })
		}
		saying.Wait()
		synctest.Wait()
		close(r.durable)
		synctest.Wait()
		open := 0
		for _, g := range links {
			if g.isOpen() {
				open++
				if f := g.next(); f.Kind != link.KindWelcome {
					t.Errorf("the answer is %v", f.Kind)
				}
				g.send(attach(1))
			}
		}
		if open != 1 || len(r.added) != 1 {
			t.Errorf("%d links are open, %d gateways were added", open, len(r.added))
		}
		r.want("a attach 1 HLS")
	})
}

// The old link's reader has frames that came before the new HELLO: they count, and are not sent again.
func TestHandlerThatIsSlowSeesFramesOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var numbers []uint64
		r := newRig(t, func(r *rig, _ *Config) {
			r.onMessage = func(_ *Gateway, _ uint64, m link.Message) {
				time.Sleep(time.Second)
				numbers = append(numbers, m.Number)
			}
		})
		g, _ := r.welcomed(hello("a", nil))
		g.send(message(1, 1, "x"), message(1, 2, "x"))
		g.send(message(1, 3, "x"))
		again, w := r.welcomed(hello("a", resumes(0)))
		for n := w.Received + 1; n <= 5; n++ {
			f := message(1, n, "x")
			f.Number = n
			again.write(f)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if fmt.Sprint(numbers) != "[1 2 3 4 5]" {
			t.Errorf("messages %v were handled", numbers)
		}
	})
}

func TestUpgradedConnectionsAreNotKeptByStrangers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for range 50 {
			r.connect()
		}
		time.Sleep(helloLimit)
		synctest.Wait()
		r.Server.mu.Lock()
		defer r.Server.mu.Unlock()
		if len(r.greeted) > 0 {
			t.Errorf("%d are still greeted", len(r.greeted))
		}
	})
}
