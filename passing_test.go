package main

import "testing"

// The last event of a start can be durable before what the start says has gone down.
func TestMessagesOfAStartAreDoneWithOnlyWhenAllOfItIsPassedOn(t *testing.T) {
	t.Parallel()
	x := newPassing(true)
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
	x := newPassing(true)
	s := &gatewaySession{message: 1}
	mark := x.endTransition(s, true)
	x.nothingFollows(s)
	s.following, s.dirty = nil, false // as when DONE has gone down
	mark.Durable()
}
