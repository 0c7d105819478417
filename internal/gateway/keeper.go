package gateway

// What a gateway keeps, and what follows from each thing that happens: pure, without sockets, clocks and goroutines. The
// gateway calls it under its lock, does what comes back, and tells it what happens next.

import (
	"cmp"
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

	keptOverhead = 64 // bytes of a kept message beside its text
)

// order is what the gateway has to do with the socket of a session.
type order struct {
	session uint64
	text    []byte // to be said; nil: nothing
	probe   bool
	close   bool
	pause   bool // its socket is not to be read for a while
	resume  bool
}

// kept is a message that the coordinator may have to be told again.
type kept struct {
	number   uint64
	came     time.Time
	text     []byte
	gone     bool   // not a message: the socket has closed
	reason   string // why
	request  bool   // it is a publish request, to be kept until it is answered
	answered bool
}

func (k *kept) size() int { return len(k.text) + keptOverhead }

// session is a peer's session, as the gateway counts them.
type session struct {
	attach     link.Attach // without memos
	memos      map[string][]byte
	dropped    map[string]bool // names of memos that are not to be kept in this term: of publications that were denied here
	kept       []kept
	lastNumber uint64
	size       int // bytes kept
	paused     bool
	gone       bool // its socket has closed
}

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
	sent     uint64       // link number of the last frame
	unacked  []link.Frame // that were sent
	unackedN int          // bytes
	received uint64       // link number of the last frame that came
	toAck    bool         // something came since the last ACK
}

func newKeeper(id string) *keeper { return &keeper{id: id, sessions: map[uint64]*session{}} }

// frame gives a frame its link number and keeps it until it is acknowledged. Without a link it is only kept: it goes with the
// next one, if that is of the same term.
func (k *keeper) frame(f link.Frame) []link.Frame {
	if k.term == "" {
		return nil // the next link is of a new term, and begins with all there is
	}
	k.sent++
	f.Number = k.sent
	k.unacked = append(k.unacked, f)
	k.unackedN += len(f.Payload)
	if !k.linked {
		return nil
	}
	return []link.Frame{f}
}

// open takes in a session whose socket was opened.
func (k *keeper) open(attach link.Attach) (number uint64, frames []link.Frame) {
	k.lastSession++
	attach.FirstKept = 1
	k.sessions[k.lastSession] = &session{attach: attach, memos: map[string][]byte{}, dropped: map[string]bool{}}
	return k.lastSession, k.frame(link.With(link.KindAttach, k.lastSession, &attach))
}

// said takes in a message of a peer. text is the keeper's from then on.
func (k *keeper) said(number uint64, text []byte, now time.Time) (frames []link.Frame, orders []order) {
	s := k.sessions[number]
	if s == nil || s.gone {
		return nil, nil
	}
	m, err := wire.Parse(text)
	frames = k.keep(number, s, kept{came: now, text: text, request: err == nil && m.Method == "PUBLISH-REQUEST"}, now)
	if s.size > maxKept && !s.paused {
		s.paused = true
		orders = append(orders, order{session: number, pause: true})
	}
	if k.size > maxKeptInAll {
		orders = append(orders, order{session: k.mostKept(), close: true})
	}
	return frames, orders
}

// closed takes in the end of a session's socket. The session stays until the coordinator is done with it.
func (k *keeper) closed(number uint64, reason string, now time.Time) []link.Frame {
	s := k.sessions[number]
	if s == nil || s.gone {
		return nil
	}
	s.gone = true
	for i := range s.kept { // nobody waits for an answer any more
		s.kept[i].answered = s.kept[i].request
	}
	k.dropAnswered(s)
	return k.keep(number, s, kept{came: now, gone: true, reason: reason}, now)
}

func (k *keeper) keep(number uint64, s *session, m kept, now time.Time) []link.Frame {
	s.lastNumber++
	m.number = s.lastNumber
	s.kept = append(s.kept, m)
	s.size += m.size()
	k.size += m.size()
	return k.frame(m.frame(number, now))
}

func (m *kept) frame(session uint64, now time.Time) link.Frame {
	if m.gone {
		return link.With(link.KindGone, session, &link.Gone{Number: m.number, Reason: m.reason})
	}
	return link.With(link.KindMessage, session, &link.Message{Number: m.number, Age: uint64(max(now.Sub(m.came), 0) / time.Millisecond), Text: m.text})
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
// one, all sessions are attached with all that is kept of them.
func (k *keeper) welcome(w link.Welcome, now time.Time) (frames []link.Frame) {
	k.linked = true
	k.epoch = max(k.epoch, w.Epoch)
	if w.Store == k.store && w.Term == k.term {
		k.acknowledge(w.Received)
		return slices.Clone(k.unacked)
	}
	k.store, k.term = w.Store, w.Term
	k.sent, k.unacked, k.unackedN, k.received, k.toAck = 0, nil, 0, 0, false
	numbers := slices.Sorted(maps.Keys(k.sessions))
	for _, number := range numbers {
		s := k.sessions[number]
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
			frames = append(frames, k.frame(m.frame(number, now))...)
		}
	}
	return append(frames, k.frame(link.Frame{Kind: link.KindSynced})...)
}

// unlinked says that the link is closed.
func (k *keeper) unlinked() { k.linked = false }

// overflows tells whether so much is not acknowledged that the coordinator counts as gone: the link is to be closed, and the
// next one is of a new term for this gateway.
func (k *keeper) overflows() bool { return k.unackedN > maxUnacknowledged }

// forgetTerm makes the next link one of a new term.
func (k *keeper) forgetTerm() { k.term, k.unacked, k.unackedN = "", nil, 0 }

func (k *keeper) acknowledge(upTo uint64) {
	n := 0
	for n < len(k.unacked) && k.unacked[n].Number <= upTo {
		k.unackedN -= len(k.unacked[n].Payload)
		n++
	}
	k.unacked = slices.Delete(k.unacked, 0, n)
}

// acknowledgement is due now and then; none if nothing has come.
func (k *keeper) acknowledgement() (f link.Frame, due bool) {
	if !k.toAck || !k.linked {
		return link.Frame{}, false
	}
	k.toAck = false
	return link.With(link.KindAck, 0, &link.Count{Number: k.received}), true
}

// receive takes in a frame of the coordinator. An error means that the link is of no use.
func (k *keeper) receive(f link.Frame) (frames []link.Frame, orders []order, err error) {
	if f.Kind == link.KindAck {
		var ack link.Count
		if err := f.Read(&ack); err != nil {
			return nil, nil, err
		}
		k.acknowledge(ack.Number)
		return nil, nil, nil
	}
	if f.Number != k.received+1 {
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
		if !s.gone {
			orders = append(orders, order{session: f.Session, close: true})
		}
		if f.Kind == link.KindRefused {
			k.remove(f.Session)
		}
	case link.KindProbe:
		orders = append(orders, order{session: f.Session, probe: true})
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
			for _, m := range item.Memos {
				s.dropped[m.Name] = true
			}
			frames = append(frames, k.frame(link.With(link.KindLate, f.Session, &link.Count{Number: item.Answers}))...)
			continue
		}
		k.remember(s, item.Memos)
		if len(item.Text) > 0 && !s.gone {
			orders = append(orders, order{session: f.Session, text: item.Text})
		}
	}
	return frames, orders, nil
}

// answer notes that a request is answered. It reports false if it was answered before, or its publisher is gone.
func (k *keeper) answer(s *session, number uint64) bool {
	for i := range s.kept {
		if s.kept[i].number == number {
			s.kept[i].answered = true
			k.dropAnswered(s)
			return true
		}
	}
	return false
}

// dropAnswered forgets requests that were answered.
func (k *keeper) dropAnswered(s *session) {
	s.kept = slices.DeleteFunc(s.kept, func(m kept) bool {
		if m.answered {
			s.size -= m.size()
			k.size -= m.size()
		}
		return m.answered
	})
}

// remember keeps memos. Those of publications have their number in their name.
func (k *keeper) remember(s *session, memos []link.Memo) {
	for _, m := range memos {
		if digits, ok := strings.CutPrefix(m.Name, link.PublicationMemo); ok {
			if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
				k.numbers = max(k.numbers, n)
			}
		}
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
	s.kept = slices.DeleteFunc(s.kept, func(m kept) bool {
		drop := m.number <= done.Number && !m.request
		if drop {
			s.size -= m.size()
			k.size -= m.size()
			over = over || m.gone
		}
		return drop
	})
	if over {
		k.remove(f.Session)
		return nil, nil
	}
	if s.paused && s.size < maxKept/2 {
		s.paused = false
		orders = append(orders, order{session: f.Session, resume: true})
	}
	return orders, nil
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
		for i := range s.kept {
			m := &s.kept[i]
			if !m.request || now.Sub(m.came) < answerWithin {
				continue
			}
			m.answered = true
			request, err := wire.Parse(m.text)
			if err != nil {
				continue
			}
			text := wire.Append(nil, "PUBLISH-DENY", "Request-ID", request.Get("Request-ID"), "Stream-Channel", request.Get("Stream-Channel"))
			orders = append(orders, order{session: number, text: text})
		}
		k.dropAnswered(s)
	}
	slices.SortStableFunc(orders, func(a, b order) int { return cmp.Compare(a.session, b.session) })
	return orders
}
