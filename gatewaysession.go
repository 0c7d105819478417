package main

// A session whose socket a gateway holds. It is for the use cases of its peer what a control socket is for those of a peer that
// is connected to this process.

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"coordinator/internal/control"
	"coordinator/internal/link"
	"coordinator/internal/linkserver"
	"coordinator/internal/logs"
	"coordinator/internal/memo"
	"coordinator/internal/tagged"
	"coordinator/internal/wire"
)

// gatewaySession implements line and memoKeeper.
type gatewaySession struct {
	// set once
	gateways  *gateways
	gateway   *linkserver.Gateway
	number    uint64 // as the gateway counts
	remote    string
	isEncoder bool
	info      serverInfo
	at        attachment
	peer      gatewayPeer
	applied   uint64 // of an encoder: all events that follow from its messages up to this one were in the store at the start

	// while gathering, guarded by gateways.phase; afterwards nil
	memos        map[string][]byte // as they were shown
	memo         memo.Session
	publications []memo.Publication
	streams      []keptStream
	kept         []keptMessage

	// owned by the gateway's goroutine, and by restore
	message  uint64    // that is taken in now; 0: none
	said     time.Time // when
	followed bool      // a transition has followed from it
	isGone   bool      // the session's socket has closed
	probed   atomic.Pointer[func()]

	inTransition // guarded by registry.mu
	inPassing    // guarded by passing.mu
}

// gatewayPeer is the peer of a session at a gateway. Its methods are called one after the other.
type gatewayPeer interface {
	begin(line, attachment)     // first
	join()                      // once the cluster is there
	restored(*server, *encoder) // in place of join, for a session that was there before the start; nil: it had not joined
	Handle(wire.Message)
	Leave(reason error)
	lost(reason error) // in place of Leave, if its gateway is gone
}

// keptMessage is what a peer has said, or that its socket has closed. Its gateway keeps it until DONE.
type keptMessage struct {
	number uint64
	said   time.Time
	text   []byte
	gone   bool
	reason string
}

// readMemos reads what the gateway has kept of a session.
func (s *gatewaySession) readMemos(memos []link.Memo) error {
	told := map[string]memo.Told{}
	s.memos = make(map[string][]byte, len(memos))
	for _, m := range memos {
		s.memos[m.Name] = m.Value
		var err error
		switch kind, name := m.Name[:min(len(m.Name), 1)], m.Name[min(len(m.Name), 1):]; {
		case m.Name == link.SessionMemo:
			err = tagged.Parse(m.Value, &s.memo)
		case kind == link.PublicationMemo && !s.isEncoder:
			var p memo.Publication
			err = tagged.Parse(m.Value, &p)
			if err == nil && (name != strconv.FormatUint(p.Number, 10) || !areNumbers(p.Number, encoderOfPlace(p.Current), encoderOfPlace(p.Successor)) ||
				!areTokens(p.Channel, p.PublisherID, cmp.Or(p.ID, p.PublisherID))) {
				err = errBadMemo
			}
			s.publications = append(s.publications, p)
		case kind == link.StreamMemo && s.isEncoder:
			var st memo.Stream
			if err = tagged.Parse(m.Value, &st); err == nil && (name != st.ID || !areTokens(st.Channel, st.ID) || !areNumbers(st.Publication, st.Server)) {
				err = errBadMemo
			}
			s.streams = append(s.streams, keptStream{Stream: st})
		case kind == link.ToldMemo && s.isEncoder:
			var t memo.Told
			err = tagged.Parse(m.Value, &t)
			told[name] = t
		}
		if err != nil {
			return errBadMemo
		}
	}
	for i := range s.streams {
		s.streams[i].told = told[s.streams[i].ID]
	}
	return nil
}

// areTokens tells whether names can be written anywhere as they are.
func areTokens(names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !wire.IsToken(name, 64<<10) })
}

func areNumbers(numbers ...uint64) bool { return slices.Max(numbers) <= maxNumber }

func encoderOfPlace(place *memo.Place) uint64 {
	if place == nil {
		return 0
	}
	return place.Encoder
}

// export adds the session to what is restored. An encoder without a memo had not registered.
func (s *gatewaySession) export(in *restoration) {
	at := s.at
	switch {
	case !s.isEncoder:
		in.servers = append(in.servers, keptServer{at.id, at.gateway, s, s.info, at.since, s.peer.(serverPeer), s.memo, s.publications})
	case s.memo.Kept:
		in.encoders = append(in.encoders, keptEncoder{at.id, at.gateway, s, control.AddressOf(s.remote), at.since, s.peer.(encoderPeer), s.memo, s.streams})
	}
}

// take takes in what the peer has said.
func (s *gatewaySession) take(m keptMessage) {
	s.message, s.said, s.followed = m.number, m.said, false
	if m.gone {
		s.isGone = true
		s.peer.Leave(errors.New(logs.Loggable(m.reason)))
	} else if parsed, err := wire.Parse(m.text); err == nil {
		s.gateways.c.metrics.MessageReceived(parsed.Method)
		s.peer.Handle(parsed)
	}
	if !s.followed {
		s.gateways.passing.nothingFollows(s)
	}
	s.message = 0
}

// isApplied implements memoKeeper.
func (s *gatewaySession) isApplied() bool { return s.message > 0 && s.message <= s.applied }

// The methods of line: the way to the peer.

func (s *gatewaySession) Remote() string { return s.remote }

// KeepsUp: whether a peer at a gateway keeps up is not known. While its gateway is absent the registry repeats nothing anyway.
func (s *gatewaySession) KeepsUp() bool { return true }

func (s *gatewaySession) Said() time.Time { return s.said }

func (s *gatewaySession) Message() uint64 { return s.message }

func (s *gatewaySession) Send(method string, arguments ...string) {
	s.say(link.Item{Text: wire.Append(nil, method, arguments...)}, method)
}

func (s *gatewaySession) Answer(request requestRef, publication uint64, method string, arguments ...string) {
	s.answers = append(s.answers, answer{len(s.items), publication})
	s.say(link.Item{Text: wire.Append(nil, method, arguments...), Answers: request.message}, method)
}

func (s *gatewaySession) say(item link.Item, method string) {
	s.gateways.c.metrics.MessageSent(method)
	s.items = append(s.items, item)
	s.gateways.passing.touch(s)
}

func (s *gatewaySession) Probe(answered func()) {
	s.probed.Store(&answered)
	s.gateway.Send(link.Frame{Kind: link.KindProbe, Session: s.number}, nil)
}

func (s *gatewaySession) answered() {
	if f := s.probed.Swap(nil); f != nil {
		(*f)()
	}
}

// keep implements memoKeeper. A publication's memo goes with the answer that has made it live, because the gateway drops both
// if the answer is late.
func (s *gatewaySession) keep(name string, value []byte) {
	if s.gateways.passing.ignoresMemos() {
		return
	}
	m := link.Memo{Name: name, Value: value}
	for _, a := range s.answers {
		if a.publication != 0 && name == publicationMemo(a.publication) {
			s.items[a.item].Memos = append(s.items[a.item].Memos, m)
			return
		}
	}
	if last := len(s.items) - 1; last < 0 || s.items[last].Answers != 0 {
		s.items = append(s.items, link.Item{})
	}
	last := &s.items[len(s.items)-1]
	last.Memos = append(last.Memos, m)
	s.gateways.passing.touch(s)
}

// keepDurable implements memoKeeper.
func (s *gatewaySession) keepDurable(name string, value []byte) {
	if s.gateways.passing.ignoresMemos() {
		return
	}
	s.durable = append(s.durable, link.Memo{Name: name, Value: value})
	s.gateways.passing.touch(s)
}

// showDifferences has the gateway keep the memos of now that differ from those that it has shown, and forget those of what is
// over. It is called under the registry's lock.
func (s *gatewaySession) showDifferences(now []link.Memo) {
	for _, m := range now {
		if bytes.Equal(s.memos[m.Name], m.Value) {
			delete(s.memos, m.Name)
			continue
		}
		delete(s.memos, m.Name)
		if strings.HasPrefix(m.Name, link.ToldMemo) {
			s.keepDurable(m.Name, m.Value)
		} else {
			s.keep(m.Name, m.Value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.memos)) { // what is over; memos that only a later version knows stay
		switch name[:min(len(name), 1)] {
		case link.PublicationMemo:
			s.keep(name, nil)
		case link.StreamMemo, link.ToldMemo:
			s.keepDurable(name, nil)
		}
	}
	s.memos = nil
}
