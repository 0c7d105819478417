package main

// Which memos a transition has changed: those of sessions that a gateway holds, and of their publications and streams. Most go out
// together with the messages of the transition. Two wait until the transition's events are durable: what the application was
// told of a stream, and that a stream is gone. Part of the registry, under its rules.

import (
	"strconv"

	"coordinator/internal/link"
	"coordinator/internal/outbox"
	"coordinator/internal/tagged"
)

// memoKeeper takes memos to the gateway that holds a session, under the rules of serverPeer. A nil value has the gateway forget
// the memo.
type memoKeeper interface {
	keep(name string, value []byte)        // with what this transition says to the session
	keepDurable(name string, value []byte) // when this transition's events are durable

	// isApplied tells whether all events that follow from the message that is taken in now were in the store at the start.
	isApplied() bool
}

// passer passes on to gateways what transitions say to the sessions that they hold, under the rules of serverPeer.
type passer interface {
	// endTransition is called at the end of each: all has been said that follows from it. cause is the session whose message it
	// follows from, nil if it is none of a gateway's. What it returns goes into the commit of the events, if it has told any.
	endTransition(cause memoKeeper, told bool) outbox.Mark

	// passedOn is called at the end of a transition: the channel is closed when its events are in the store and gateways have what it
	// says. Memos that wait for the store may still be on their way.
	passedOn() <-chan struct{}

	// compare is called at the end of a restore with all that gateways are to keep.
	compare(servers []keptServer, encoders []keptEncoder)
}

// followsLocked begins a transition that follows from a message of a session. keeper is nil if no gateway holds the session.
func (r *registry) followsLocked(keeper memoKeeper) {
	if keeper != nil {
		r.cause, r.silent = keeper, keeper.isApplied()
	}
}

// passedOnLocked is for a transition whose caller has to know when gateways have what it says: see passer. nil: no gateway may
// link.
func (r *registry) passedOnLocked() <-chan struct{} {
	if r.passer == nil {
		return nil
	}
	return r.passer.passedOn()
}

// changes are what a transition has changed so far. Publications and streams are listed once, as their field changed says;
// the others may be listed again, which hands over the same memo twice.
type changes struct {
	servers      []*server
	encoders     []*encoder
	publications []*publication
	streams      []*stream
	told         []*stream // streams that the application was told of
}

func (r *registry) serverChangedLocked(s *server) {
	if s.keeper != nil {
		r.changes.servers = append(r.changes.servers, s)
	}
}

func (r *registry) encoderChangedLocked(e *encoder) {
	if e.keeper != nil {
		r.changes.encoders = append(r.changes.encoders, e)
	}
}

func (r *registry) publicationChangedLocked(p *publication) {
	if p.server.keeper != nil && !p.changed {
		p.changed = true
		r.changes.publications = append(r.changes.publications, p)
	}
}

func (r *registry) streamChangedLocked(st *stream) {
	if st.encoder.keeper != nil && !st.changed {
		st.changed = true
		r.changes.streams = append(r.changes.streams, st)
	}
}

func (r *registry) streamToldLocked(st *stream) {
	if st.encoder != nil && st.encoder.keeper != nil {
		r.changes.told = append(r.changes.told, st)
	}
}

// sendMemosLocked hands over the memos that the transition has changed. Sessions that are gone take theirs with them.
func (r *registry) sendMemosLocked() {
	for _, s := range r.changes.servers {
		if !s.gone {
			m := r.serverMemoLocked(s)
			s.keeper.keep(link.SessionMemo, tagged.Append(nil, &m))
		}
	}
	for _, e := range r.changes.encoders {
		if !e.gone {
			m := r.encoderMemoLocked(e)
			e.keeper.keep(link.SessionMemo, tagged.Append(nil, &m))
		}
	}
	for _, p := range r.changes.publications {
		p.changed = false
		r.sendPublicationMemoLocked(p)
	}
	for _, st := range r.changes.streams {
		st.changed = false
		r.sendStreamMemoLocked(st)
	}
	for _, st := range r.changes.told {
		if st.encoder.streams.Has(st) {
			m := st.toldMemoLocked()
			st.encoder.keeper.keepDurable(link.ToldMemo+st.id, tagged.Append(nil, &m))
		}
	}
	r.changes = changes{}
}

func publicationMemo(number uint64) string {
	return link.PublicationMemo + strconv.FormatUint(number, 10)
}

func (r *registry) sendPublicationMemoLocked(p *publication) {
	name := publicationMemo(p.number)
	switch {
	case p.server.gone:
	case p.server.publications.Has(p):
		m := p.memoLocked()
		p.server.keeper.keep(name, tagged.Append(nil, &m))
	default:
		p.server.keeper.keep(name, nil)
	}
}

func (r *registry) sendStreamMemoLocked(st *stream) {
	switch keeper := st.encoder.keeper; {
	case st.encoder.gone:
	case st.encoder.streams.Has(st):
		m := st.memoLocked()
		keeper.keep(link.StreamMemo+st.id, tagged.Append(nil, &m))
	default:
		keeper.keepDurable(link.StreamMemo+st.id, nil)
		keeper.keepDurable(link.ToldMemo+st.id, nil)
	}
}
