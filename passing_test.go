package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"

	"github.com/gorilla/websocket"
)

// passedLinks are links of gateways a and b, with one session each, and what goes down.
type passedLinks struct {
	*fakeNet
	links    map[string]*fuzzedLink
	sessions map[string]*gatewaySession

	mu       sync.Mutex
	down     []string
	received map[string]uint64
}

func newPassedLinks(t *testing.T) *passedLinks {
	p := &passedLinks{
		fakeNet: newFakeNet(t, "GATEWAY_SECRET="+crashSecret, "EVENT_CALLBACK_URL=http://application/event"),
		links:   map[string]*fuzzedLink{}, sessions: map[string]*gatewaySession{}, received: map[string]uint64{},
	}
	p.events.Start()
	for _, name := range []string{"a", "b"} {
		l := p.greet(name, nil)
		if l == nil {
			t.Fatal("not welcome")
		}
		go p.read(name, l.conn)
		p.links[name] = l
		p.send(name, link.With(link.KindAttach, 1, &link.Attach{Kind: "HLS", Remote: "10.0.0.1:1", FirstKept: 1}), link.Frame{Kind: link.KindSynced})
	}
	p.wait(5 * time.Second)
	for name := range p.links {
		p.sessions[name] = p.gateways.at[name][1]
	}
	p.take()
	return p
}

func (p *passedLinks) send(name string, frames ...link.Frame) {
	var b []byte
	for _, f := range frames {
		b = f.Append(b)
	}
	p.links[name].conn.WriteMessage(websocket.BinaryMessage, numbered(b, 0))
}

func (p *passedLinks) read(name string, conn *websocket.Conn) {
	for {
		_, b, err := conn.ReadMessage()
		if err != nil {
			return
		}
		for len(b) > 0 {
			f, rest, err := link.Next(b)
			if err != nil {
				p.t.Error(err)
				return
			}
			b = rest
			p.note(name, f)
		}
	}
}

func (p *passedLinks) note(name string, f link.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.received[name] = max(p.received[name], f.Number)
	switch f.Kind {
	case link.KindSay:
		p.down = append(p.down, name+" says")
	case link.KindDone:
		var d link.Done
		if err := f.Read(&d); err != nil {
			p.t.Error(err)
		}
		p.down = append(p.down, fmt.Sprintf("%s done %d, %d memos", name, d.Number, len(d.Memos)))
	}
}

func (p *passedLinks) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	down := p.down
	p.down = nil
	return down
}

// acknowledge acknowledges all that has come.
func (p *passedLinks) acknowledge(name string) {
	p.mu.Lock()
	upTo := p.received[name]
	p.mu.Unlock()
	p.links[name].conn.WriteMessage(websocket.BinaryMessage, link.With(link.KindAck, 0, &link.Count{Number: upTo}).Append(nil))
}

func (p *passedLinks) want(what string, want ...string) {
	p.t.Helper()
	p.acknowledge("a") // it lives
	p.wait(500 * time.Millisecond)
	if got := p.take(); !slices.Equal(got, want) {
		p.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// transition is one that follows from a message of the session at a gateway.
func (p *passedLinks) transition(name string, message uint64, told bool, do func()) (durable func()) {
	r := p.coordinator.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	s := p.sessions[name]
	s.message = message
	do()
	mark := p.gateways.passing.endTransition(s, told)
	s.message = 0
	if told && (mark.Session != s.at.id || mark.Message != message) {
		p.t.Errorf("%+v", mark)
	}
	if mark.Durable == nil {
		return func() {} // nothing waits for it
	}
	return mark.Durable
}

// A gateway may forget a message only when nothing of what follows from it can be lost any more.
func TestDoneWaitsForAllThatFollows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPassedLinks(t)
		a, b := p.sessions["a"], p.sessions["b"]

		durable := p.transition("a", 1, true, func() { a.keepDurable("tX", []byte("x")) })
		p.transition("a", 2, false, func() { a.keep("s", []byte("s")) })
		p.want("the events are not in the store", "a says")
		durable()
		p.want("they are", "a done 2, 1 memos")

		p.transition("a", 3, false, func() { b.Send("ENCODE-STOP") })
		p.want("the other gateway does not have it", "b says")
		p.acknowledge("b")
		p.want("it has", "a done 3, 0 memos")

		p.transition("a", 4, false, func() { a.Send("ENCODE-STOP") })
		p.want("what goes down the same link comes first", "a says", "a done 4, 0 memos")

		durable = p.transition("a", 5, true, func() { b.keepDurable("oX", nil) })
		p.want("a memo of another session waits for the events, too")
		durable()
		p.want("and then it goes first", "b done 0, 1 memos")
		p.acknowledge("b")
		p.want("the other gateway has it", "a done 5, 0 memos")

		p.transition("a", 6, false, func() { b.Send("ENCODE-STOP") })
		p.want("the other gateway does not have it", "b says")
		p.links["b"].conn.Close()
		p.want("it is absent")
		for range 5 {
			p.acknowledge("a") // it lives
			p.wait(3 * time.Second)
		}
		p.want("it is gone", "a done 6, 0 memos")
	})
}

// The last event of a start can be durable before what the start says has gone down.
func TestMessagesOfAStartAreDoneWithOnlyWhenAllOfItIsPassedOn(t *testing.T) {
	t.Parallel()
	x := newPassing(true, alwaysLeads{})
	x.begin()
	s := &gatewaySession{message: 1}
	mark := x.endTransition(s, true)
	x.compare(nil, nil)
	mark.Durable()
	if s.following[0].done {
		t.Error("the message is done with before the start is over")
	}
	x.endTransition(nil, false)
	if !s.following[0].done {
		t.Error("the message is not done with when the start is over")
	}
}

// A gateway that numbers two messages alike does no harm to others.
func TestTwoMessagesOfOneNumberAreDoneWith(t *testing.T) {
	t.Parallel()
	x := newPassing(true, alwaysLeads{})
	s := &gatewaySession{message: 1}
	mark := x.endTransition(s, true)
	x.nothingFollows(s)
	s.following, s.dirty = nil, false // as when DONE has gone down
	mark.Durable()
}

// A commit that may still be lost: what it followed from is done with when it stays, in the order of the session's messages. A command
// does not wait for that.
func TestMessagesAreDoneWithOnceTheirCommitsStay(t *testing.T) {
	t.Parallel()
	x := newPassing(true, &elected{})
	s, other := &gatewaySession{message: 1}, &gatewaySession{message: 1}
	s.items, s.durable = nil, []link.Memo{{Name: "t"}}
	x.touch(s)
	first := x.endTransition(s, true)
	s.message = 2
	x.nothingFollows(s)
	passedOn := x.passedOn()
	second := x.endTransition(other, true)
	first.Durable()
	began := time.Now()
	second.Durable()
	select {
	case <-passedOn:
	default:
		t.Error("a command waits for more than the commit")
	}
	if next, more := x.makeSure(began.Add(mayBeLostFor - time.Second)); !more || next.Before(began.Add(mayBeLostFor-time.Second)) || s.following[0].done || s.dirty || other.dirty {
		t.Error("a message is done with while its commit may be lost")
	}
	if _, more := x.makeSure(time.Now().Add(mayBeLostFor)); more || !s.following[0].done || !s.following[1].done || !s.dirty || !other.dirty {
		t.Error("a message is not done with though its commit stays")
	}
	if len(s.following[0].memos) != 1 {
		t.Error("what was told is not kept with it")
	}
}

// elected is the mandate of a leader that a database has made.
type elected struct {
	alwaysLeads
	answered atomic.Pointer[time.Time] // when the database did last; nil: it does all the time
}

func (*elected) IsForGood() bool { return false }

func (e *elected) Unconfirmed() time.Duration {
	if at := e.answered.Load(); at != nil {
		return time.Since(*at)
	}
	return 0
}

// A database that does not answer may be failing over to a standby that does not have the last commits: until it answers again, gateways
// keep what led to them, also if that takes longer than commits may be lost for.
func TestCommitsAreUnsureWhileTheDatabaseDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &elected{}
		x := newPassing(true, m)
		closing, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			x.run(closing)
		}()
		x.passedOn() // somebody waits
		x.endTransition(nil, true).Durable()
		isSure := func() bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			return len(x.unsure) == 0
		}
		time.Sleep(time.Second)
		answered := time.Now()
		m.answered.Store(&answered)
		time.Sleep(time.Minute)
		if isSure() {
			t.Error("a commit counts as one that stays, though the database has not answered since")
		}
		m.answered.Store(nil)
		time.Sleep(time.Second)
		if !isSure() {
			t.Error("a commit does not count as one that stays, though the database answers")
		}
		close(closing)
		<-ended
	})
}
