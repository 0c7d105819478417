package main

// What gateways keep of the sessions they hold: memos of sessions, publications and streams, from which registry_restore.go
// makes the state again. Gateways are processes that hold peers' sockets while the coordinator restarts. Part of the registry,
// under its rules.

import (
	"slices"
	"time"

	"coordinator/internal/link"
	"coordinator/internal/memo"
	"coordinator/internal/tagged"
)

func (r *registry) serverMemoLocked(s *server) memo.Session {
	return memo.Session{Kept: true, Draining: s.draining}
}

func (r *registry) encoderMemoLocked(e *encoder) memo.Session {
	_, moving := r.moving[e]
	return memo.Session{Kept: true, Draining: e.draining, Moving: moving, Capacity: e.capacity}
}

func (p *publication) memoLocked() memo.Publication {
	settings := p.settings.Value()
	m := memo.Publication{
		Number:      p.number,
		Channel:     p.channel,
		Key:         p.key,
		PublisherID: p.publisherID,
		Resolutions: settings.resolutions,
		Record:      settings.record,
		Previews:    settings.previews,
		Since:       p.since,
		ID:          p.id,
		Last:        p.lastOrdinal,
		Current:     p.current.placeMemo(),
		Successor:   p.successor.placeMemo(),
		Proven:      p.proven,
		Killed:      p.killed,
		Ousted:      p.ousted,
		TookOver:    p.tookOver,
		Why:         uint8(p.why),
		Passthrough: p.passthrough,
		FailedMoves: p.failedMoves,
	}
	if m.ID == m.PublisherID {
		m.ID = ""
	}
	if p.current != nil {
		m.Previous = p.current.previous
	}
	if p.waiting != nil {
		if avoid := p.waiting.Value.(*waiter).avoid; avoid != nil {
			m.Avoid = avoid.id
		}
	}
	return m
}

func (st *stream) placeMemo() *memo.Place {
	if st == nil {
		return nil
	}
	return &memo.Place{Ordinal: st.ordinal, Encoder: st.encoder.id, Gateway: st.encoder.gateway}
}

func (st *stream) memoLocked() memo.Stream {
	role, why := memo.Current, notEnded
	if st.closing {
		why = st.pub.why
	}
	switch {
	case st.retiredFor != notEnded:
		role, why = memo.Retired, st.retiredFor
	case st == st.pub.successor:
		role = memo.Successor
	}
	return memo.Stream{
		ID:            st.id,
		Channel:       st.pub.channel,
		Ordinal:       st.ordinal,
		Publication:   st.pub.number,
		Server:        st.pub.server.id,
		ServerGateway: st.pub.server.gateway,
		Since:         st.pub.since,
		Previous:      st.previous,
		Role:          role,
		Closing:       st.closing,
		Why:           uint8(why),
		Passthrough:   st.pub.passthrough,
	}
}

// roomForOutputs keeps a memo below 1.5 KiB: what does not fit is not known any more after a restart. At most half of it is for types and
// resolutions, the rest for index files.
const roomForOutputs = 1200

func (st *stream) toldMemoLocked() memo.Told {
	told := memo.Told{LastSeq: st.lastSeq}
	room := roomForOutputs
	for _, h := range st.outputs {
		o := h.Value()
		m := memo.Output{StreamType: o.streamType, Resolution: o.resolution}
		if room-m.Size() < roomForOutputs/2 {
			break
		}
		room -= m.Size()
		told.Outputs = append(told.Outputs, m)
	}
	for i := range told.Outputs {
		o := st.outputs[i].Value()
		if size := len(o.indexFile) + len(o.startTime); size <= room {
			room -= size
			told.Outputs[i].IndexFile, told.Outputs[i].StartTime = o.indexFile, o.startTime
		}
	}
	return told
}

// keptServer and keptEncoder are sessions that a gateway holds, with their memos, as it attaches them.

type keptServer struct {
	id           uint64
	gateway      string
	keeper       memoKeeper
	info         serverInfo
	since        time.Time
	peer         serverPeer
	memo         memo.Session
	publications []memo.Publication
}

type keptEncoder struct {
	id      uint64
	gateway string
	keeper  memoKeeper
	address string
	since   time.Time
	peer    encoderPeer
	memo    memo.Session
	streams []keptStream
}

type keptStream struct {
	memo.Stream
	told memo.Told
}

// memos are those that the gateway is to keep of the session. A server that is in service and has no publishers needs none.
func (k *keptServer) memos() (memos []link.Memo) {
	if k.memo.Draining {
		memos = append(memos, link.Memo{Name: link.SessionMemo, Value: tagged.Append(nil, &k.memo)})
	}
	for i := range k.publications {
		memos = append(memos, link.Memo{Name: publicationMemo(k.publications[i].Number), Value: tagged.Append(nil, &k.publications[i])})
	}
	return memos
}

func (k *keptEncoder) memos() []link.Memo {
	memos := make([]link.Memo, 0, 1+2*len(k.streams))
	memos = append(memos, link.Memo{Name: link.SessionMemo, Value: tagged.Append(nil, &k.memo)})
	for i := range k.streams {
		st := &k.streams[i]
		memos = append(memos, link.Memo{Name: link.StreamMemo + st.ID, Value: tagged.Append(nil, &st.Stream)})
		if st.told.LastSeq > 0 {
			memos = append(memos, link.Memo{Name: link.ToldMemo + st.ID, Value: tagged.Append(nil, &st.told)})
		}
	}
	return memos
}

// export returns all sessions that gateways hold.
func (r *registry) export() (servers []keptServer, encoders []keptEncoder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exportLocked()
}

func (r *registry) exportLocked() (servers []keptServer, encoders []keptEncoder) {
	for _, s := range r.servers {
		if s.gateway == "" {
			continue
		}
		kept := keptServer{id: s.id, gateway: s.gateway, keeper: s.keeper, info: s.serverInfo, since: s.since, peer: s.peer, memo: r.serverMemoLocked(s)}
		kept.publications = slices.Grow(kept.publications, len(s.publications))
		for _, p := range s.publications {
			kept.publications = append(kept.publications, p.memoLocked())
		}
		servers = append(servers, kept)
	}
	for _, e := range r.encoders {
		if e.gateway == "" {
			continue
		}
		kept := keptEncoder{id: e.id, gateway: e.gateway, keeper: e.keeper, address: e.address, since: e.since, peer: e.peer, memo: r.encoderMemoLocked(e)}
		kept.streams = slices.Grow(kept.streams, len(e.streams))
		for _, st := range e.streams {
			kept.streams = append(kept.streams, keptStream{st.memoLocked(), st.toldMemoLocked()})
		}
		encoders = append(encoders, kept)
	}
	return servers, encoders
}
