package main

// Makes the registry's state again after a start, from what gateways have kept and what is in the store. A session that no
// gateway has counts as gone: its peer was connected to the earlier process directly, or to a gateway that has not come back.
//
// An order and the memos that go with it travel to one gateway at a time, so a process that dies between two of them leaves
// memos that do not agree. What each of them says is put side by side here, and what was left undone is done:
//
//	publication and its current stream at its encoder       as it was
//	publication names no stream                             waits for an encoder, as it did
//	its stream is not there and was never announced, and    started anew under a new ID: the start was never passed on
//	  the encoder's gateway is here
//	its stream is not there                                 lost: goes on at another encoder, or is killed
//	a later stream is there, the named one is missing or    the later one is current: the publication's memo was lost
//	  closing
//	stream whose publication is not there, or does not      ENCODE-STOP, closing
//	  name it
//	successor that has announced an HLS-LIVE                takes over
//	current stream closing, no successor                    the kills start anew; but if it was retired, lost
//	killed                                                  the kills start anew
//	two publications of one channel                         one keeps it, the later one if it took over or the other is killed; the
//	                                                        other is killed and ousted
//	announced in the store, at no encoder                   stream-closed
//
// The caller restores, then replays what peers have said since (see restored), and only then is anything started or killed.
// Time limits start anew. Part of the registry, under its rules.

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"
	"unique"

	"coordinator/internal/memo"
)

var (
	errChannelTaken = errors.New("another publisher is live on the channel")
	errRestoring    = errors.New("coordinator has just started and waits for its gateways")
	errEncoderAsked = errors.New("encoder was told to stop the stream")
)

// restoration is all that is there after a start. Nothing in it is changed.
type restoration struct {
	servers  []keptServer
	encoders []keptEncoder
	gateways map[string]bool // those that are back, with sessions or without

	tails     map[uint64]uint32 // of queues in the store: the next position
	announced []announcedStream // in the store: the application knows them and was not told that they are closed
	lossy     bool              // the store may have lost commits: what a memo says counts, where the store says less
}

type announcedStream struct {
	queue                 uint64
	channel, id, previous string
	passthrough           string
	lastSeq               uint32 // 0: it is a publisher that was accepted; no stream of it was announced, and it was not told to have failed
	fulfills              string // of a stream that the store has lost: such a publisher, whose accept needs no end of its own any more
}

// restorer is a restore under way.
type restorer struct {
	*registry
	in  restoration
	now time.Time

	publications map[uint64]*publication // by number; strangers are those whose server is not here
	strangers    map[uint64]*publication
	memos        map[*publication]memo.Publication
	announced    map[string]announcedStream // streams in the store that no encoder here has
	accepted     map[uint64]announcedStream // by publication: publishers in the store that are to have an end
	announcing   map[uint64]bool            // publications with streams that are announced, in the store or by memos that know more
	unstored     []*stream                  // that the application has heard more of, by their memos, than the store knows
}

// replay is there until all that peers have said is taken in. Only then is it decided which stream serves which publication,
// and which publication has which channel.
type replay struct {
	streams map[string]*stream // by ID; those that are not closing
	lost    map[*publication]lostStream
}

// lostStream is the last stream that a publication has lost meanwhile.
type lostStream struct {
	stream *stream
	loss
}

func (y *replay) lose(st *stream, l loss) {
	if last, found := y.lost[st.pub]; !found || last.stream.ordinal < st.ordinal {
		y.lost[st.pub] = lostStream{st, l}
	}
}

func newReplay() *replay {
	return &replay{streams: map[string]*stream{}, lost: map[*publication]lostStream{}}
}

// restore makes the state in a registry that nothing has happened to yet, but that peers have joined (await). Until restored is
// called, what peers have said is taken in by the methods for it, in the order of each session, servers first; nobody is let in,
// and nothing is decided.
func (r *registry) restore(in restoration, now time.Time) *restorer {
	r.mu.Lock()
	defer r.mu.Unlock()
	rs := &restorer{
		registry:     r,
		in:           in,
		now:          now,
		publications: map[uint64]*publication{},
		strangers:    map[uint64]*publication{},
		memos:        map[*publication]memo.Publication{},
		announced:    make(map[string]announcedStream, len(in.announced)),
		accepted:     map[uint64]announcedStream{},
		announcing:   map[uint64]bool{},
	}
	for _, a := range in.announced {
		if a.lastSeq > 0 {
			rs.announced[a.id], rs.announcing[a.queue] = a, true
		} else {
			rs.accepted[a.queue] = a
		}
	}
	r.replay = newReplay()
	r.postponed = map[*publication]loss{}
	rs.addServers()
	rs.addEncoders()
	rs.owe()
	rs.closeForgotten()
	r.notices = r.endTransitionLocked(now) // nothing else is over yet
	return rs
}

// restored decides, and does what was left undone. It is called once, when all that peers have said is taken in.
func (rs *restorer) restored(now time.Time) []notice {
	r := rs.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	rs.now = now
	lost := r.replay.lost
	r.replay = nil
	clear(r.ousted)
	rs.tellUntold()
	publications := slices.DeleteFunc(inOrder(rs.publications), func(p *publication) bool { return !p.server.publications.Has(p) })
	rs.giveChannels(publications)
	streams := rs.streamsOf()
	for _, p := range publications {
		rs.joinStreams(p, streams[p], lost[p])
		delete(streams, p)
	}
	for _, p := range slices.SortedFunc(maps.Keys(streams), byNumber) { // their publishers are not here
		for _, st := range streams[p] {
			if !st.closing {
				r.stopLocked(st)
			}
		}
	}
	for _, p := range publications {
		if p.successor != nil && p.current != nil && p.successor.hasTold("HLS-LIVE") {
			r.handOverLocked(p)
		}
		if p.killed {
			p.killed = false
			r.killLocked(p, errEncoderAsked, now) // memos of an earlier version have no reason
		}
		if p.ousted {
			r.letGoLocked(p)
		}
	}
	for _, p := range publications {
		if _, lost := r.postponed[p]; p.current == nil && !p.killed && !lost {
			r.placeLostLocked(&waiter{pub: p, avoid: r.encoders[rs.memos[p].Avoid]}, now)
		}
	}
	r.goOnAllLocked(now)
	rs.startTimeouts()
	if r.passer != nil {
		r.sendMemosLocked()
		r.passer.compare(r.exportLocked())
	}
	return r.endTransitionLocked(now)
}

// lostByStore returns what the store has lost of streams that are not closed. It is called after restored.
func (rs *restorer) lostByStore() (lost []announcedStream) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, st := range rs.unstored {
		if st.encoder.streams.Has(st) {
			lost = append(lost, announcedStream{
				queue: st.pub.number, channel: st.pub.channel, id: st.id, previous: st.previous, passthrough: st.pub.passthrough, lastSeq: st.lastSeq,
				fulfills: rs.accepted[st.pub.number].id,
			})
		}
	}
	return lost
}

// goOnAllLocked does what was postponed, and from now on what follows is done at once.
func (r *registry) goOnAllLocked(now time.Time) {
	lost := slices.SortedFunc(maps.Keys(r.postponed), byNumber)
	losses := r.postponed
	r.postponed = nil
	for _, p := range lost {
		l := losses[p]
		r.goOnLocked(p, l, now)
		if l.why != notEnded {
			r.tellClosedLocked(l.untold, l.why, l.at)
		}
	}
	r.reconcileLocked(now)
}

func byNumber(a, b *publication) int { return cmp.Compare(a.number, b.number) }

func inOrder(publications map[uint64]*publication) []*publication {
	return slices.SortedFunc(maps.Values(publications), byNumber)
}

// streamsOf returns the streams of each publication that are at an encoder, in the order of their starts.
func (rs *restorer) streamsOf() map[*publication][]*stream {
	streams := map[*publication][]*stream{}
	for _, e := range rs.encoders {
		for _, st := range e.streams {
			streams[st.pub] = append(streams[st.pub], st)
		}
	}
	for _, list := range streams {
		slices.SortFunc(list, func(a, b *stream) int { return cmp.Compare(a.ordinal, b.ordinal) })
	}
	return streams
}

func (rs *restorer) addServers() {
	for _, kept := range slices.SortedFunc(slices.Values(rs.in.servers), func(a, b keptServer) int { return cmp.Compare(a.id, b.id) }) {
		at := attachment{kept.id, kept.since, kept.gateway, kept.keeper}
		s := &server{serverInfo: kept.info, attachment: at, peer: kept.peer, draining: kept.memo.Draining}
		s.twin = twin{session: s.id, prober: s.peer}
		rs.servers[s.id] = s
		rs.enterTwinsLocked(&s.twin, twinKey{string(s.kind), s.ip, s.port})
		rs.lastID = max(rs.lastID, s.id)
		for _, m := range kept.publications {
			rs.addPublication(s, m)
		}
	}
}

func (rs *restorer) addPublication(s *server, m memo.Publication) {
	p := &publication{
		number:      m.Number,
		channel:     m.Channel,
		key:         m.Key,
		publisherID: m.PublisherID,
		passthrough: m.Passthrough,
		server:      s,
		settings:    unique.Make(encodeSettings{m.Resolutions, m.Record, m.Previews}),
		since:       m.Since,
		accepted:    rs.byOurClock(m.Since),
		why:         endReasonOf(m.Why),
		wasLive:     m.Proven,
		id:          cmp.Or(m.ID, m.PublisherID),
		proven:      m.Proven,
		killed:      m.Killed,
		ousted:      m.Ousted,
		tookOver:    m.TookOver,
		failedMoves: m.FailedMoves,
		events:      rs.in.tails[m.Number],
		lastOrdinal: m.Last,
	}
	rs.publications[p.number], rs.memos[p] = p, m
	rs.lastNumber = max(rs.lastNumber, p.number)
	for _, place := range []*memo.Place{m.Current, m.Successor} {
		if place != nil {
			rs.lastID = max(rs.lastID, place.Encoder)
		}
	}
	s.publications.Add(p)
	rs.ousted[p.publisherID] = p // until its channel is given, it is found by its ID
}

// giveChannels enters publications into the index. Of two of one channel, the later one has it if it has taken it over, or if
// the earlier one was killed; else the earlier one keeps it.
func (rs *restorer) giveChannels(publications []*publication) {
	holders := map[string]*publication{}
	for _, p := range publications {
		holder := holders[p.channel]
		switch {
		case p.ousted:
			rs.oust(p)
		case holder == nil:
			holders[p.channel] = p
		case holder.killed, p.tookOver: // the gateway of the holder may not have heard of its kill
			rs.oust(holder)
			holders[p.channel] = p
		default:
			rs.oust(p)
		}
	}
	for _, p := range holders {
		rs.channels.Add(p)
		if p.killed {
			rs.killed[p] = &killing{since: rs.now}
		}
	}
}

func (rs *restorer) oust(p *publication) {
	if !p.killed {
		rs.noteLocked(notice{kind: noteKilled, channel: p.channel, stream: p.id, server: p.server.id, reason: errChannelTaken})
	}
	rs.endsLocked(p, errChannelTaken)
	p.killed, p.ousted = true, true
	rs.ousted[p.publisherID] = p
	rs.killed[p] = &killing{since: rs.now}
}

func (rs *restorer) addEncoders() {
	for _, kept := range slices.SortedFunc(slices.Values(rs.in.encoders), func(a, b keptEncoder) int { return cmp.Compare(a.id, b.id) }) {
		at := attachment{kept.id, kept.since, kept.gateway, kept.keeper}
		e := &encoder{attachment: at, address: kept.address, peer: kept.peer, capacity: kept.memo.Capacity, draining: kept.memo.Draining}
		e.twin = twin{session: e.id, prober: e.peer}
		rs.encoders[e.id] = e
		rs.slots.add(e.capacity)
		rs.enterTwinsLocked(&e.twin, twinKey{kind: "HLS", address: e.address})
		if kept.memo.Draining && kept.memo.Moving {
			rs.moving[e] = struct{}{}
		}
		rs.lastID = max(rs.lastID, e.id)
		for _, m := range kept.streams {
			rs.addStream(e, m)
		}
	}
}

// addStream takes in a stream, which holds its slot.
func (rs *restorer) addStream(e *encoder, m keptStream) {
	rs.lastNumber, rs.lastID = max(rs.lastNumber, m.Publication), max(rs.lastID, m.Server)
	p := rs.publications[m.Publication]
	if p == nil {
		p = rs.stranger(m.Publication, m.Channel, m.Passthrough)
		p.server.id, p.server.gateway, p.since, p.accepted = m.Server, m.ServerGateway, m.Since, rs.byOurClock(m.Since)
	}
	if m.Closing && m.Role != memo.Retired && m.Why != 0 && (p.why == notEnded || p.server.gone) {
		p.why = endReasonOf(m.Why)
	}
	st := &stream{
		id:       m.ID,
		pub:      p,
		encoder:  e,
		ordinal:  m.Ordinal,
		previous: m.Previous,
		started:  rs.now.Sub(rs.began),
		closing:  m.Closing,
		lastSeq:  m.told.LastSeq,
		isOver:   m.told.LastSeq > 0 && !rs.in.lossy,
	}
	if m.Role == memo.Retired && m.Closing {
		st.retiredFor = cmp.Or(endReasonOf(m.Why), moved) // memos of an earlier version have no reason
	}
	told, found := rs.announced[m.ID]
	if found {
		st.previous, st.lastSeq, st.isOver = told.previous, max(st.lastSeq, told.lastSeq), false
	}
	if rs.in.lossy && m.told.LastSeq > told.lastSeq {
		rs.unstored = append(rs.unstored, st)
		rs.announcing[p.number] = true
	}
	for _, o := range m.told.Outputs {
		st.addOutputLocked(output{o.StreamType, o.Resolution, o.IndexFile, o.StartTime})
	}
	delete(rs.announced, st.id)
	e.streams.Add(st)
	p.atEncoders++
	rs.slots.used++
	if st.retiredFor != notEnded {
		e.retired++
	}
	p.lastOrdinal = max(p.lastOrdinal, st.ordinal)
	p.proven = p.proven || st.lastSeq > 0
	p.wasLive = p.proven
	if st.closing {
		rs.closing[st.id] = st
	} else {
		rs.replay.streams[st.id] = st
	}
}

// stranger is a publication whose publisher was connected to the earlier process, or to a gateway that is not here.
func (rs *restorer) stranger(number uint64, channel, passthrough string) *publication {
	p := rs.strangers[number]
	if p == nil {
		p = &publication{number: number, channel: channel, passthrough: passthrough, server: &server{gone: true}, events: rs.in.tails[number], why: coordinatorLost}
		rs.strangers[number] = p
	}
	return p
}

// joinStreams gives a publication the streams that serve it, and stops those that do not. lost is the last one that it has
// lost in what was replayed.
func (rs *restorer) joinStreams(p *publication, streams []*stream, lost lostStream) {
	m := rs.memos[p]
	named := atPlace(streams, m.Current)
	p.current = named
	if named == nil || named.closing {
		p.current = lastLive(streams, m.Current)
	}
	p.successor = atPlace(streams, m.Successor)
	switch {
	case p.successor != nil && p.successor == p.current: // it has taken over
		p.successor, p.failedMoves = nil, 0
	case p.successor != nil && p.successor.closing, p.current == nil:
		p.successor = nil
	}
	if m.Successor != nil && p.successor == nil && (p.current == nil || p.current.ordinal != m.Successor.Ordinal) {
		p.failedMoves++
	}
	for _, st := range streams {
		if !st.closing && st != p.current && st != p.successor {
			rs.retireLocked(st, moved)
		}
	}
	switch {
	case p.current != nil:
		p.id = p.current.id
		if next := p.successor; next != nil && next.lastSeq == 0 && p.current.isTold() {
			next.previous = p.current.id
		}
	case lost.stream != nil && (m.Current == nil || lost.stream.ordinal >= m.Current.Ordinal):
		p.id = lost.stream.id
		if !lost.stream.isTold() && lost.stream.previous != "" {
			p.id = lost.stream.previous
		}
		rs.postponed[p] = lost.loss
	case m.Current == nil:
	case named == nil:
		rs.loseCurrent(p, m)
	case named.retiredFor != notEnded: // for one that is lost
		rs.postponed[p] = loss{reason: errEncoderGone, mayFailOver: true}
	default:
		rs.postponed[p] = loss{reason: errEncoderAsked}
	}
}

// isTold tells whether the application knows a stream, or will by an event in the store.
func (st *stream) isTold() bool { return st.lastSeq > 0 || len(st.outputs) > 0 }

func atPlace(streams []*stream, place *memo.Place) *stream {
	for _, st := range streams {
		if place != nil && st.ordinal == place.Ordinal {
			return st
		}
	}
	return nil
}

// lastLive returns the last stream that was started after the named one.
func lastLive(streams []*stream, named *memo.Place) (last *stream) {
	for _, st := range streams {
		if !st.closing && (named == nil || st.ordinal > named.Ordinal) {
			last = st
		}
	}
	return last
}

// loseCurrent is for a publication whose current stream is at no encoder here.
func (rs *restorer) loseCurrent(p *publication, m memo.Publication) {
	told, announced := rs.announced[p.id]
	p.proven = p.proven || announced
	if !announced && rs.in.gateways[m.Current.Gateway] { // its start was never passed on: it is no loss
		if m.Previous != "" {
			p.id = m.Previous // the application has not heard of a later one
		}
		return // it waits for an encoder, as one that names no stream
	}
	e := rs.encoders[m.Current.Encoder]
	if e == nil {
		e = &encoder{attachment: attachment{id: m.Current.Encoder, gateway: m.Current.Gateway}, gone: true}
	}
	// If anything of the publication was announced, the end of the stream may be told already: no interruption may come behind it.
	rs.lostLocked(&stream{id: p.id, pub: p, encoder: e, previous: m.Previous, lastSeq: told.lastSeq, isOver: !p.owesEnd}, true, errEncoderGone, rs.now)
}

func (st *stream) hasTold(streamType string) bool {
	return slices.ContainsFunc(st.outputs, func(h unique.Handle[output]) bool { return h.Value().streamType == streamType })
}

// closeForgotten tells the application of the end of streams that no encoder here has.
func (rs *restorer) closeForgotten() {
	byStart := func(a, b announcedStream) int {
		return cmp.Or(cmp.Compare(a.queue, b.queue), cmp.Compare(a.id, b.id))
	}
	for _, a := range slices.SortedFunc(maps.Values(rs.announced), byStart) {
		p := rs.publications[a.queue]
		if p == nil {
			p = rs.stranger(a.queue, a.channel, a.passthrough)
		}
		st := &stream{id: a.id, pub: p, previous: a.previous, lastSeq: a.lastSeq}
		if a.id == p.id && p.atEncoders == 0 && rs.memos[p].Current != nil && rs.mayGoOnLocked(p, loss{mayFailOver: true}) {
			rs.interruptedLocked(st, errEncoderGone, rs.now)
		}
		why := coordinatorLost
		if p.why != notEnded {
			why = p.why
		}
		rs.tellClosedLocked(st, why, rs.now)
	}
}

// owe finds the publishers whose publish-accepted is in the store and has no end. If the store has nothing of a publication that is here, its
// publish-accepted was never stored, or all its events are delivered: see tellUntold.
func (rs *restorer) owe() {
	for _, queue := range slices.Sorted(maps.Keys(rs.accepted)) {
		a, p := rs.accepted[queue], rs.publications[queue]
		if p == nil {
			p = rs.stranger(queue, a.channel, a.passthrough)
			p.publisherID = a.id
		}
		p.owesEnd = !rs.announcing[queue] // a database that has lost commits may have the accept without what has fulfilled it, or both
		rs.tellFailedLocked(p, rs.now)
	}
	for _, p := range rs.publications {
		_, stored := rs.in.tails[p.number]
		p.mayBeUntold = !stored && rs.limits.extraEvents
	}
}

// tellUntold tells publish-accepted of publications for which it was never stored. Where it was stored and the store has nothing of it any
// more, a stream was announced: the publication's memo says so, or the announcement was replayed. Of a publisher who has ended meanwhile
// nothing is told: nobody knows whether its publish-accepted was stored, and if not, no end is owed.
func (rs *restorer) tellUntold() {
	for _, p := range inOrder(rs.publications) {
		if !p.proven && p.server.publications.Has(p) {
			rs.tellUntoldAcceptLocked(p)
		}
		p.mayBeUntold = false
	}
}

// byOurClock is a time of an earlier process, in Unix nanoseconds. Only the wall clock tells how long ago it was.
func (rs *restorer) byOurClock(at int64) time.Duration {
	return rs.now.Sub(rs.began) - max(0, rs.now.Sub(time.Unix(0, at)))
}

// startTimeouts has the streams watched that have announced nothing.
func (rs *restorer) startTimeouts() {
	if rs.limits.startTimeout == 0 {
		return
	}
	watched := map[*stream]bool{}
	for _, st := range rs.started {
		watched[st] = true
	}
	var unwatched []*stream
	for _, p := range inOrder(rs.publications) {
		for _, st := range []*stream{p.current, p.successor} {
			if st != nil && st.lastSeq == 0 && !watched[st] {
				unwatched = append(unwatched, st)
			}
		}
	}
	rs.started = append(unwatched, rs.started...)
}

// leaveGateways forgets all sessions of gateways that are gone, as leaveServer and leaveEncoder do.
func (r *registry) leaveGateways(gone func(gateway string) bool, now time.Time) []notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.postponed = map[*publication]loss{}
	for _, id := range slices.Sorted(maps.Keys(r.servers)) {
		if s := r.servers[id]; gone(s.gateway) {
			r.leaveServerLocked(s, now)
		}
	}
	var left []*encoder
	for _, id := range slices.Sorted(maps.Keys(r.encoders)) {
		if e := r.encoders[id]; gone(e.gateway) {
			left = append(left, e)
		}
	}
	for _, e := range left { // successors first: none may take over that is itself about to be lost
		for _, st := range slices.Clone(e.streams) {
			if st == st.pub.successor {
				r.loseLocked(st, true, errEncoderGone, now, now)
			}
		}
	}
	for _, e := range left {
		r.leaveEncoderLocked(e, now)
	}
	r.goOnAllLocked(now)
	return r.endTransitionLocked(now)
}
