package linkserver

import (
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"
)

// whenClosed waits for Close and returns how long it took.
func (r *rig) whenClosed(reason string) time.Duration {
	begun := time.Now()
	r.Server.Close(reason)
	return time.Since(begun)
}

func TestCloseSaysByeBehindAllElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		g, _ := r.welcomed(hello("a", nil))
		g.send(attach(1))
		r.want("a attach 1 HLS")
		a := r.of("a")
		for range 3 {
			a.Send(say(1, "x"), r.onAck("x"))
		}
		if took := r.whenClosed("stopping"); took > 0 {
			t.Errorf("Close took %v", took)
		}
		for n := range 3 {
			g.wantSay(uint64(n)+1, "x")
		}
		var why link.Reason
		if f := g.next(); f.Kind != link.KindBye || f.Number != 4 || f.Read(&why) != nil || why.Text != "stopping" {
			t.Errorf("%v %d %+v comes, want BYE", f.Kind, f.Number, why)
		}
		g.wantEnd()
		a.Send(say(1, "y"), r.onAck("y"))
		time.Sleep(time.Minute)
		r.want()
		if _, res, err := r.dial(r.header()); err == nil || res.StatusCode != 503 {
			t.Errorf("a link after Close: %v", err)
		}
	})
}

// What comes while the links close is for the next coordinator.
func TestNothingIsHandledOrAcknowledgedAfterClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(_ *rig, cfg *Config) { cfg.Known = []string{"k"} })
		g, _ := r.welcomed(hello("a", nil))
		g.send(attach(1))
		r.want("a attach 1 HLS")
		<-g.held // it does not read
		a := r.of("a")
		a.Send(say(1, "x"), r.onAck("x"))
		synctest.Wait()
		a.Send(say(1, "y"), r.onAck("y"))
		closed := make(chan time.Duration)
		go func() { closed <- r.whenClosed("stopping") }()
		synctest.Wait()
		g.send(message(1, 1, "too late"))
		g.ack(1)
		if took := <-closed; took > goodbyeLimit {
			t.Errorf("Close took %v", took)
		}
		g.held <- struct{}{}
		time.Sleep(time.Minute)
		r.want()
	})
}

func TestCloseEndsWhatIsNotLinkedYet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig, cfg *Config) {
			r.durable = make(chan struct{})
			cfg.StoreIsNew = true
		})
		silent := r.connect()
		waits := r.link(hello("a", nil))
		synctest.Wait()
		if took := r.whenClosed("stopping"); took > goodbyeLimit {
			t.Errorf("Close took %v", took)
		}
		silent.wantEnd()
		waits.wantEnd()
		r.Server.Close("again")
		time.Sleep(time.Minute)
		r.want()
		r.wantGathered(false)
	})
}

// A link that is not read for a while closes as others do.
func TestCloseWhileALinkIsHeldBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _ := counts(t, "a", "b")
		g, _ := r.welcomed(hello("a", earlier))
		for n := range uint64(16) {
			g.send(bulk(1, n*16+1, 16)...)
		}
		g.send(message(1, 257, "x"))
		synctest.Wait()
		if took := r.whenClosed("stopping"); took > goodbyeLimit {
			t.Errorf("Close took %v", took)
		}
		if f := g.next(); f.Kind != link.KindBye {
			t.Errorf("%v comes, want BYE", f.Kind)
		}
		r.want()
	})
}
