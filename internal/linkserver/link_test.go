package linkserver

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"
)

func TestFramesOfALinkInBothDirections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, w := r.welcomed(hello("a", func(h *link.Hello) { h.Numbers = 7 }))
		if !w.ControlSame || w.Protocol != 1 || w.Received != 0 {
			t.Errorf("WELCOME is %+v", w)
		}
		r.want("numbers 7")
		g.send(attach(1), message(1, 1, "hello"), link.With(link.KindGone, 1, &link.Gone{Number: 2}), link.With(link.KindLate, 1, &link.Late{Number: 9, Publication: 7}),
			link.Frame{Kind: link.KindAlive, Session: 1}, link.Frame{Kind: 200, Payload: []byte("of a later version")}, synced, message(2, 1, "x"))
		r.want("a attach 1 HLS", "a message 1 1 hello", "a gone 1 2", "a late 1 9 7", "a alive 1", "a message 2 1 x")
		a := r.of("a")
		a.Send(say(1, "first"), nil)
		a.Send(say(1, "second"), r.onAck("second"))
		a.Send(say(2, "third"), r.onAck("third"))
		g.wantSay(1, "first")
		g.wantSay(2, "second")
		g.wantSay(3, "third")
		g.ack(2)
		r.want("acked second")
		g.ack(3)
		r.want("acked third")
		time.Sleep(ackEvery)
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.acked != 8 {
			t.Errorf("%d frames are acknowledged, want 8", g.acked)
		}
	})
}

func TestLinkGoesOnWhereItBroke(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.send(attach(1))
		r.want("a attach 1 HLS")
		a := r.of("a")
		a.Send(say(1, "first"), r.onAck("first"))
		a.Send(say(1, "second"), r.onAck("second"))
		g.wantSay(1, "first")
		g.wantSay(2, "second")
		g.conn.Close()
		r.want("a absent")
		a.Send(say(1, "third"), r.onAck("third"))
		time.Sleep(9 * time.Second)
		again, w := r.welcomed(hello("a", resumes(1)))
		if w.Received != 1 {
			t.Errorf("%d frames were received", w.Received)
		}
		again.sent = 1
		r.want("a present", "acked first")
		again.wantSay(2, "second")
		again.wantSay(3, "third")
		again.send(message(1, 1, "hello"))
		again.ack(3)
		r.want("a message 1 1 hello", "acked second", "acked third")
		again.conn.Close()
		r.want("a absent")
		a.Send(say(1, "fourth"), r.onAck("fourth"))
		time.Sleep(10*time.Second - time.Nanosecond)
		r.want()
		time.Sleep(time.Nanosecond)
		r.want("a lost: it was not linked again within 10 s", "acked fourth")
		a.Send(say(1, "fifth"), r.onAck("fifth"))
		r.want("acked fifth")
		if refuse := r.refused(hello("a", resumes(3))); !refuse.Gone {
			t.Errorf("REFUSE is %+v", refuse)
		}
		r.want()
	})
}

// They are longer than all buffers, and than what goes into one write.
func TestLongFrames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lengths []int
		r := newRig(t, func(r *rig, _ *Config) {
			r.onMessage = func(g *Gateway, session uint64, m link.Message) {
				lengths = append(lengths, len(m.Text))
				g.Send(say(session, string(m.Text)), nil)
			}
		})
		g, _ := r.welcomed(hello("a", nil))
		long := []int{1, 3 << 20, 2, readBuffer, 64 << 10, 3, 1 << 20, 70 << 10}
		var frames []link.Frame
		for i, n := range long {
			frames = append(frames, message(1, uint64(i)+1, string(make([]byte, n))))
		}
		g.send(frames...)
		for i, n := range long {
			f := g.next()
			var s link.Say
			if err := f.Read(&s); err != nil || f.Number != uint64(i)+1 || len(s.Items) != 1 || len(s.Items[0].Text) != n {
				t.Errorf("frame %d: %v, want a text of %d bytes", f.Number, err, n)
			}
		}
		if !slices.Equal(lengths, long) {
			t.Errorf("texts of %d bytes are handled, want %d", lengths, long)
		}
	})
}

// Gateways behind one address, of a NAT for one, are told apart in the log.
func TestEachGatewayHasLinesOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for _, id := range []string{"a", "b"} {
			g, _ := r.welcomed(hello(id, nil))
			g.conn.Close()
			r.want(id + " absent")
			r.log.Await(t, `msg="gateway linked"`, `reason="first link"`, "gateway="+id)
			r.log.Await(t, `msg="gateway is absent: its link has ended"`, "gateway="+id, "gone_in=10s")
		}
	})
}
