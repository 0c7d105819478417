package gateway

// What a gateway keeps, and what follows from each thing that happens: pure, without sockets, clocks and goroutines. The
// gateway calls it under its lock, does what comes back, and tells it what happens next.

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"coordinator/internal/link"
	"coordinator/internal/wire"
)

const (
	// answerWithin is how long a publish request waits for its answer. Peers give up at 20 s.
	answerWithin = 18 * time.Second

	// maxKept bounds the bytes of messages that are kept: of a session, whose socket is no longer read then, and of all.
	maxKept      = 4 << 20
	maxKeptInAll = 256 << 20

	// maxUnacknowledged bounds what is sent and not acknowledged, in bytes.
	maxUnacknowledged = 64 << 20

	// What a kept message and a frame that is not acknowledged take beside their bytes.
	keptOverhead  = 64
	frameOverhead = 64
)

var (
	errGap      = errors.New("a frame is missing on the link")
	errReceived = errors.New("WELCOME speaks of frames that were never sent, or were acknowledged before")
)

// order is what the gateway has to do with the socket of a session.
type order struct {
	session uint64
	text    []byte // to be said; nil: nothing
	probe   bool
	close   error // why; nil: it stays
	pause   bool  // its socket is not to be read for a while
	resume  bool
}

// Why a session's socket is closed.
var (
	errRefused  = errors.New("refused by the coordinator")
	errOrdered  = errors.New("closed by the coordinator")
	errKeptMost = errors.New("it keeps most, and the memory for what the coordinator has to be told is full")
)

// kept is a message that the coordinator may have to be told again.
type kept struct {
	number  uint64
	came    time.Time
	text    []byte
	gone    bool   // not a message: the socket has closed
	reason  string // why
	request bool   // it is a publish request, to be kept until it is answered
}

func (k *kept) size() int { return len(k.text) + keptOverhead }

// session is a peer's session, as the gateway counts them.
type session struct {
	attach     link.Attach // without memos
	memos      map[string][]byte
	dropped    map[string]bool // names of memos that are not to be kept in this term: of publications that were denied here
	kept       []kept          // in the order of their numbers
	requests   int             // of kept
	lastNumber uint64
	size       int  // bytes kept
	told       bool // a coordinator may have heard of it
	paused     bool
	gone       bool // its socket has closed
}

// sentFrame is a frame that is not acknowledged.
type sentFrame struct {
	link.Frame
	made time.Time // of a message: its age counts from here
}

func (f *sentFrame) size() int { return len(f.Payload) + frameOverhead }

// keeper is the state of a gateway.
type keeper struct {
	id          string
	store, term string // of the coordinator that was linked last; "": none was
	epoch       uint64
	numbers     uint64 // the highest of a session or publication

	sessions    map[uint64]*session
	lastSession uint64
	size        int // bytes kept of all

	linked bool

	// of the term
	sent     uint64 // link number of the last frame
	unacked  []sentFrame
	unackedN int    // bytes
	atStart  int    // bytes that the term began with: what was kept, which has limits of its own
	received uint64 // link number of the last frame that came
	toAck    bool   // something came since the last ACK

	denied int // requests, since the start
}

func newKeeper(id string) *keeper { return &keeper{id: id, sessions: map[uint64]*session{}} }

// frame gives a frame its link number and keeps it until it is acknowledged. Without a link it is only kept: it goes with the
// next one, if that is of the same term.
func (k *keeper) frame(f link.Frame) []link.Frame { return k.frameMade(f, time.Time{}) }

func (k *keeper) frameMade(f link.Frame, made time.Time) []link.Frame {
	if k.term == "" {
		return nil // the next link is of a new term, and begins with all there is
	}
	k.sent++
	f.Number = k.sent
	k.unacked = append(k.unacked, sentFrame{f, made})
	k.unackedN += k.unacked[len(k.unacked)-1].size()
	if !k.linked {
		return nil
	}
	return []link.Frame{f}
}

// open takes in a session whose socket was opened.
func (k *keeper) open(attach link.Attach) (number uint64, frames []link.Frame) {
	k.lastSession++
	attach.FirstKept = 1
	k.sessions[k.lastSession] = &session{attach: attach, memos: map[string][]byte{}, dropped: map[string]bool{}, told: k.linked}
	return k.lastSession, k.frame(link.With(link.KindAttach, k.lastSession, &attach))
}

// said takes in a message of a peer. text is the keeper's from then on.
func (k *keeper) said(number uint64, method string, text []byte, now time.Time) (frames []link.Frame, orders []order) {
	s := k.sessions[number]
	if s == nil || s.gone {
		return nil, nil
	}
	frames = k.keep(number, s, kept{came: now, text: text, request: method == "PUBLISH-REQUEST"}, now)
	if s.size > maxKept && !s.paused {
		s.paused = true
		orders = append(orders, order{session: number, pause: true})
	}
	if k.size > maxKeptInAll {
		most := k.mostKept()
		k.drop(k.sessions[most], func(*kept) bool { return true })
		more := k.closed(most, errKeptMost.Error(), now)
		frames, orders = append(frames, more...), append(orders, order{session: most, close: errKeptMost})
	}
	return frames, orders
}

// closed takes in the end of a session's socket. The session stays until the coordinator is done with it, unless none has
// ever heard of it: peers that come and go while there is no coordinator leave nothing behind.
func (k *keeper) closed(number uint64, reason string, now time.Time) []link.Frame {
	s := k.sessions[number]
	if s == nil || s.gone {
		return nil
	}
	if !s.told {
		k.remove(number)
		k.takeBack(number)
		return nil
	}
	s.gone = true
	k.drop(s, func(m *kept) bool { return m.request }) // nobody waits for an answer any more
	return k.keep(number, s, kept{came: now, gone: true, reason: reason}, now)
}

// takeBack takes the frames of a session out of what the term's next link would begin with. None of them has been sent.
func (k *keeper) takeBack(number uint64) {
	taken := uint64(0)
	k.unacked = slices.DeleteFunc(k.unacked, func(f sentFrame) bool {
		if f.Session != number {
			return false
		}
		taken++
		k.unackedN -= f.size()
		return true
	})
	k.sent -= taken
	for i := range k.unacked {
		k.unacked[i].Number = k.sent - uint64(len(k.unacked)-1-i)
	}
}

func (k *keeper) keep(number uint64, s *session, m kept, now time.Time) []link.Frame {
	s.lastNumber++
	m.number = s.lastNumber
	s.kept = append(s.kept, m)
	s.size += m.size()
	k.size += m.size()
	if m.request {
		s.requests++
	}
	return k.frameMade(m.frame(number, now), now)
}

// drop forgets messages.
func (k *keeper) drop(s *session, which func(*kept) bool) {
	s.kept = slices.DeleteFunc(s.kept, func(m kept) bool {
		if which(&m) {
			k.uncount(s, &m)
			return true
		}
		return false
	})
}

// uncount is for a message that is forgotten.
func (k *keeper) uncount(s *session, m *kept) {
	s.size -= m.size()
	k.size -= m.size()
	if m.request {
		s.requests--
	}
}

// goesOn has a session's socket read again once it keeps little enough.
func (k *keeper) goesOn(number uint64, s *session) []order {
	if !s.paused || s.size > maxKept/2 {
		return nil
	}
	s.paused = false
	return []order{{session: number, resume: true}}
}

func (m *kept) frame(session uint64, now time.Time) link.Frame {
	age := uint64(max(now.Sub(m.came), 0) / time.Millisecond)
	if m.gone {
		return link.With(link.KindGone, session, &link.Gone{Number: m.number, Reason: m.reason, Age: age})
	}
	return link.With(link.KindMessage, session, &link.Message{Number: m.number, Age: age, Text: m.text})
}

// mostKept is the session that keeps most and whose socket is open.
func (k *keeper) mostKept() (number uint64) {
	most := -1
	for n, s := range k.sessions {
		if !s.gone && (s.size > most || s.size == most && n < number) {
			number, most = n, s.size
		}
	}
	return number
}

// hello begins a link.
func (k *keeper) hello() link.Hello {
	return link.Hello{Gateway: k.id, Store: k.store, Term: k.term, Received: k.received, Epoch: k.epoch, Numbers: k.numbers}
}

// welcome is the coordinator's answer. In the term that was linked before, what it has not received is sent again; in another
// one, all sessions are attached with all that is kept of them. An error means that the two don't fit: the next link is to be
// of a new term.
func (k *keeper) welcome(w link.Welcome, now time.Time) (frames []link.Frame, err error) {
	if w.Store == k.store && w.Term == k.term {
		if w.Received > k.sent || w.Received < k.sent-uint64(len(k.unacked)) {
			return nil, errReceived
		}
		k.linked = true
		k.epoch = max(k.epoch, w.Epoch)
		k.acknowledge(w.Received)
		for _, s := range k.sessions {
			s.told = true
		}
		for _, f := range k.unacked {
			frames = append(frames, f.again(now))
		}
		return frames, nil
	}
	k.linked = true
	k.epoch = max(k.epoch, w.Epoch)
	k.store, k.term = w.Store, w.Term
	k.sent, k.unacked, k.unackedN, k.received, k.toAck = 0, nil, 0, 0, false
	numbers := slices.Sorted(maps.Keys(k.sessions))
	for _, number := range numbers {
		s := k.sessions[number]
		s.told = true
		clear(s.dropped) // no later term knows these publications
		attach := s.attach
		attach.FirstKept = s.lastNumber + 1
		if len(s.kept) > 0 {
			attach.FirstKept = s.kept[0].number
		}
		for _, name := range slices.Sorted(maps.Keys(s.memos)) {
			attach.Memos = append(attach.Memos, link.Memo{Name: name, Value: s.memos[name]})
		}
		frames = append(frames, k.frame(link.With(link.KindAttach, number, &attach))...)
	}
	for _, number := range numbers {
		for _, m := range k.sessions[number].kept {
			frames = append(frames, k.frameMade(m.frame(number, now), now)...)
		}
	}
	frames = append(frames, k.frame(link.Frame{Kind: link.KindSynced})...)
	k.atStart = k.unackedN
	return frames, nil
}

// again is the frame as it is sent on the next link: a message has become older.
func (f *sentFrame) again(now time.Time) link.Frame {
	var m link.Message
	if f.Kind != link.KindMessage || now.Sub(f.made) < time.Millisecond || f.Read(&m) != nil {
		return f.Frame
	}
	m.Age += uint64(now.Sub(f.made) / time.Millisecond)
	again := link.With(link.KindMessage, f.Session, &m)
	again.Number = f.Number
	return again
}

// unlinked says that the link is closed.
func (k *keeper) unlinked() { k.linked = false }

// overflows tells whether so much is not acknowledged that the coordinator counts as gone: the link is to be closed, and the
// next one is of a new term for this gateway.
func (k *keeper) overflows() bool { return k.unackedN > k.atStart+maxUnacknowledged }

// forgetTerm makes the next link one of a new term.
func (k *keeper) forgetTerm() { k.term, k.unacked, k.unackedN, k.atStart = "", nil, 0, 0 }

func (k *keeper) acknowledge(upTo uint64) {
	n := 0
	for n < len(k.unacked) && k.unacked[n].Number <= upTo {
		k.unackedN -= k.unacked[n].size()
		n++
	}
	clear(k.unacked[:n])
	if k.unacked = k.unacked[n:]; len(k.unacked) == 0 {
		k.unacked = nil
	}
}

// acknowledgement is due now and then; none if nothing has come and none is asked for as a sign of life.
func (k *keeper) acknowledgement(alive bool) (f link.Frame, due bool) {
	if !k.linked || !k.toAck && !alive {
		return link.Frame{}, false
	}
	k.toAck = false
	return link.With(link.KindAck, 0, &link.Count{Number: k.received}), true
}

// alive takes in that the peer of a session that is probed lives.
func (k *keeper) alive(number uint64) []link.Frame {
	if s := k.sessions[number]; s == nil || s.gone {
		return nil
	}
	return k.frame(link.Frame{Kind: link.KindAlive, Session: number})
}

// receive takes in a frame of the coordinator. An error means that the link is of no use. What the frame's bytes belong to is
// the caller's again when it returns, but for texts that are to be said.
func (k *keeper) receive(f link.Frame) (frames []link.Frame, orders []order, err error) {
	if f.Kind == link.KindAck {
		var ack link.Count
		if err := f.Read(&ack); err != nil {
			return nil, nil, err
		}
		k.acknowledge(ack.Number)
		return nil, nil, nil
	}
	switch {
	case f.Number != 0 && f.Number <= k.received:
		return nil, nil, nil // sent again
	case f.Number != k.received+1:
		return nil, nil, errGap
	}
	k.received, k.toAck = f.Number, true
	s := k.sessions[f.Session]
	if s == nil {
		return nil, nil, nil // it was done with, or is none that this version knows of
	}
	switch f.Kind {
	case link.KindAttached:
		var attached link.Attached
		if err := f.Read(&attached); err != nil {
			return nil, nil, err
		}
		s.attach.ID = attached.ID
		k.numbers = max(k.numbers, attached.ID)
	case link.KindRefused, link.KindClose:
		reason := errOrdered
		if f.Kind == link.KindRefused {
			reason = errRefused
			k.remove(f.Session)
		}
		if !s.gone {
			orders = append(orders, order{session: f.Session, close: reason})
		}
	case link.KindProbe:
		switch {
		case s.gone:
		case s.paused: // the peer may well have said something that is not read
			frames = k.alive(f.Session)
		default:
			orders = append(orders, order{session: f.Session, probe: true})
		}
	case link.KindSay:
		return k.say(f, s)
	case link.KindDone:
		orders, err = k.done(f, s)
		return nil, orders, err
	}
	return frames, orders, nil
}

// say passes messages on and keeps the memos that go with them, unless they answer a request that was denied here.
func (k *keeper) say(f link.Frame, s *session) (frames []link.Frame, orders []order, err error) {
	var say link.Say
	if err := f.Read(&say); err != nil {
		return nil, nil, err
	}
	for _, item := range say.Items {
		if item.Answers > 0 && !k.answer(s, item.Answers) {
			late := link.Late{Number: item.Answers}
			for _, m := range item.Memos {
				if n := publicationOf(m.Name); n > 0 {
					s.dropped[m.Name] = true
					late.Publication = n
				}
			}
			frames = append(frames, k.frame(link.With(link.KindLate, f.Session, &late))...)
			continue
		}
		k.remember(s, item.Memos)
		if len(item.Text) > 0 && !s.gone {
			orders = append(orders, order{session: f.Session, text: item.Text})
		}
	}
	return frames, append(orders, k.goesOn(f.Session, s)...), nil
}

// answer forgets a request that is answered. It reports false if it was answered before, or its publisher is gone.
func (k *keeper) answer(s *session, number uint64) bool {
	i, found := slices.BinarySearchFunc(s.kept, number, func(m kept, number uint64) int { return cmp.Compare(m.number, number) })
	if !found || !s.kept[i].request {
		return false
	}
	k.uncount(s, &s.kept[i])
	s.kept = slices.Delete(s.kept, i, i+1)
	return true
}

// publicationOf is the number of the publication that a memo is of; 0: it is none of a publication.
func publicationOf(memo string) uint64 {
	digits, ok := strings.CutPrefix(memo, link.PublicationMemo)
	if !ok {
		return 0
	}
	n, _ := strconv.ParseUint(digits, 10, 64) // 0 if it is no number
	return n
}

// remember keeps memos.
func (k *keeper) remember(s *session, memos []link.Memo) {
	for _, m := range memos {
		k.numbers = max(k.numbers, publicationOf(m.Name))
		switch {
		case s.dropped[m.Name]:
			if len(m.Value) == 0 {
				delete(s.dropped, m.Name) // it is not spoken of any more
			}
		case len(m.Value) == 0:
			delete(s.memos, m.Name)
		default:
			s.memos[m.Name] = slices.Clone(m.Value)
		}
	}
}

// done forgets messages that are durable; requests stay until they are answered. With its end, the session is forgotten, too.
func (k *keeper) done(f link.Frame, s *session) (orders []order, err error) {
	var done link.Done
	if err := f.Read(&done); err != nil {
		return nil, err
	}
	k.remember(s, done.Memos)
	over := false
	k.drop(s, func(m *kept) bool {
		drop := m.number <= done.Number && !m.request
		over = over || drop && m.gone
		return drop
	})
	if over {
		k.remove(f.Session)
		return nil, nil
	}
	return k.goesOn(f.Session, s), nil
}

func (k *keeper) remove(number uint64) {
	if s := k.sessions[number]; s != nil {
		k.size -= s.size
		delete(k.sessions, number)
	}
}

// deny answers the publish requests that have waited for too long. What comes for them later is not passed on.
func (k *keeper) deny(now time.Time) (orders []order) {
	for number, s := range k.sessions {
		if s.requests == 0 {
			continue
		}
		k.drop(s, func(m *kept) bool {
			if !m.request || now.Sub(m.came) < answerWithin {
				return false
			}
			request, _ := wire.Parse(m.text) // it was one when it came
			text := wire.Append(nil, "PUBLISH-DENY", "Request-ID", request.Get("Request-ID"), "Stream-Channel", request.Get("Stream-Channel"))
			orders = append(orders, order{session: number, text: text})
			k.denied++
			return true
		})
		orders = append(orders, k.goesOn(number, s)...)
	}
	slices.SortStableFunc(orders, func(a, b order) int { return cmp.Compare(a.session, b.session) })
	return orders
}
