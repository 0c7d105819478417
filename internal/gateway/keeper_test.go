package gateway

// A keeper and coordinators that come and go, over links that break at any frame: what each side has sent arrives once and in
// order as long as the term lasts, and a new term is told all that is not done.

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"coordinator/internal/link"
	"coordinator/internal/tagged"
	"coordinator/internal/wire"

	"github.com/google/go-cmp/cmp"
)

// world is a gateway, its peers and the coordinator that is there now.
type world struct {
	t   *testing.T
	rnd *rand.Rand
	now time.Time
	k   *keeper

	up, down []link.Frame // on their way over the link
	linked   bool

	c     *fakeCoordinator
	terms int

	peers    map[uint64]*fakePeer
	requests int

	resumed, restarted, late, denied, answered int
}

type fakePeer struct {
	said     []string        // messages, in order
	waiting  map[string]bool // requests without an answer
	denied   map[string]bool // memos of requests that the gateway has denied
	open     bool
	paused   bool
	closings int
}

// fakeCoordinator is one term.
type fakeCoordinator struct {
	term     string
	received uint64
	sent     uint64
	unacked  []link.Frame
	synced   bool
	sessions map[uint64]*fakeSession
}

type fakeSession struct {
	next    uint64 // number of the message that is expected
	memos   map[string]string
	pending []uint64 // messages that are not done
	gone    uint64   // number of GONE
	asks    map[uint64]string
	first   bool // no message has come yet
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(1_700_000_000, 0), k: newKeeper("g"), peers: map[uint64]*fakePeer{}}
	w.restart()
	return w
}

func (w *world) hold(ok bool, format string, args ...any) {
	if !ok {
		w.t.Helper()
		w.t.Fatalf(format, args...)
	}
}

// restart is the end of a coordinator and the start of the next one.
func (w *world) restart() {
	w.breakLink()
	w.terms++
	w.c = &fakeCoordinator{term: fmt.Sprint("t", w.terms), sessions: map[uint64]*fakeSession{}}
}

func (w *world) breakLink() {
	if w.linked {
		w.k.unlinked()
	}
	w.linked, w.up, w.down = false, nil, nil // what was on its way is lost
}

func (w *world) link() {
	if w.linked {
		return
	}
	h := w.k.hello()
	same := h.Term == w.c.term
	answer := link.Welcome{Store: "store", Term: w.c.term}
	if same {
		w.resumed++
		answer.Received = w.c.received
		w.c.acknowledge(h.Received)
		w.down = append(w.down, w.c.unacked...)
	} else if w.c.received > 0 {
		w.t.Fatalf("the term %s has begun, and the gateway knows %s", w.c.term, h.Term)
	} else {
		w.restarted++
	}
	w.linked = true
	frames, err := w.k.welcome(answer, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	w.up = append(w.up, frames...)
}

func (c *fakeCoordinator) acknowledge(upTo uint64) {
	c.unacked = slices.DeleteFunc(c.unacked, func(f link.Frame) bool { return f.Number <= upTo })
}

// send is a frame to the gateway.
func (w *world) send(f link.Frame) {
	w.c.sent++
	f.Number = w.c.sent
	w.c.unacked = append(w.c.unacked, f)
	if w.linked {
		w.down = append(w.down, f)
	}
}

// arriveUp has the coordinator take in the next frame.
func (w *world) arriveUp() {
	if len(w.up) == 0 {
		return
	}
	f := w.up[0]
	w.up = w.up[1:]
	if f.Kind == link.KindAck {
		var ack link.Count
		w.read(f, &ack)
		w.c.acknowledge(ack.Number)
		return
	}
	if f.Number <= w.c.received {
		return // sent again
	}
	w.hold(f.Number == w.c.received+1, "frame %d after %d", f.Number, w.c.received)
	w.c.received = f.Number
	s := w.c.sessions[f.Session]
	switch f.Kind {
	case link.KindAttach:
		w.hold(s == nil, "session %d is attached twice", f.Session)
		var a link.Attach
		w.read(f, &a)
		s = &fakeSession{next: a.FirstKept, memos: map[string]string{}, asks: map[uint64]string{}}
		for _, m := range a.Memos {
			s.memos[m.Name] = string(m.Value)
			w.hold(!w.peers[f.Session].denied[m.Name], "memo %s of session %d is of a request that was denied", m.Name, f.Session)
		}
		s.first = true
		w.c.sessions[f.Session] = s
		id := a.ID
		if id == 0 {
			id = f.Session + 1000
		}
		w.hold(id == f.Session+1000, "session %d comes as %d", f.Session, a.ID)
		w.send(link.With(link.KindAttached, f.Session, &link.Attached{ID: id}))
	case link.KindMessage:
		var m link.Message
		w.read(f, &m)
		// Requests that were answered or denied leave gaps.
		w.hold(m.Number >= s.next && (!s.first || m.Number == s.next), "message %d of session %d, want %d", m.Number, f.Session, s.next)
		s.next, s.first = m.Number+1, false
		parsed, _ := wire.Parse(m.Text)
		w.hold(string(m.Text) == w.peers[f.Session].said[m.Number-1], "message %d of session %d is %q", m.Number, f.Session, m.Text)
		if parsed.Method == "PUBLISH-REQUEST" {
			s.asks[m.Number] = parsed.Get("Request-ID")
		} else {
			s.pending = append(s.pending, m.Number)
		}
	case link.KindGone:
		var g link.Gone
		w.read(f, &g)
		s.gone = g.Number
		s.asks = map[uint64]string{}
	case link.KindSynced:
		w.c.synced = true
	case link.KindLate:
		w.late++
		if s == nil {
			return // the session's end was taken in meanwhile
		}
		var n link.Late
		w.read(f, &n)
		delete(s.memos, fmt.Sprint("p", n.Number))
		w.send(link.With(link.KindSay, f.Session, &link.Say{Items: []link.Item{{Memos: []link.Memo{{Name: fmt.Sprint("p", n.Number)}}}}}))
	}
}

func (w *world) read(f link.Frame, payload interface {
	Fields(*tagged.Coder)
}) {
	w.t.Helper()
	if err := f.Read(payload); err != nil {
		w.t.Fatal(err)
	}
}

// arriveDown has the gateway take in the next frame.
func (w *world) arriveDown() {
	if len(w.down) == 0 {
		return
	}
	f := w.down[0]
	w.down = w.down[1:]
	frames, orders, err := w.k.receive(f)
	if err != nil {
		w.t.Fatal(err)
	}
	w.out(frames, orders)
}

// out does what the keeper asks for.
func (w *world) out(frames []link.Frame, orders []order) {
	if w.linked {
		w.up = append(w.up, frames...)
	}
	for _, o := range orders {
		p := w.peers[o.session]
		switch {
		case o.close != nil:
			p.closings++
			w.close(o.session)
		case o.pause:
			p.paused = true
		case o.resume:
			p.paused = false
		case len(o.text) > 0:
			m, err := wire.Parse(o.text)
			w.hold(err == nil, "%q", o.text)
			if m.Method == "PUBLISH-ACCEPT" || m.Method == "PUBLISH-DENY" {
				id := m.Get("Request-ID")
				w.hold(p.waiting[id], "request %s is answered twice, or was never asked", id)
				delete(p.waiting, id)
				w.answered++
				if m.Get("Stream-ID") == "" {
					w.denied++
					asked := slices.IndexFunc(p.said, func(text string) bool { return strings.Contains(text, "Request-ID:"+id+"\n") })
					p.denied[fmt.Sprint("p", asked+1)] = true
				}
			}
		}
	}
}

func (w *world) anyPeer() (uint64, *fakePeer) {
	open := slices.Sorted(maps.Keys(w.peers))
	open = slices.DeleteFunc(open, func(n uint64) bool { return !w.peers[n].open })
	if len(open) == 0 {
		return 0, nil
	}
	n := open[w.rnd.IntN(len(open))]
	return n, w.peers[n]
}

func (w *world) close(number uint64) {
	p := w.peers[number]
	if p.open {
		p.open, p.waiting = false, map[string]bool{}
		w.out(w.k.closed(number, "closed", w.now), nil)
	}
}

func (w *world) say(number uint64, p *fakePeer, text string) {
	p.said = append(p.said, text)
	frames, orders := w.k.said(number, wire.Method([]byte(text)), []byte(text), w.now)
	w.out(frames, orders)
}

// accept answers a request.
func (w *world) accept(number uint64, s *fakeSession) {
	for _, ask := range slices.Sorted(maps.Keys(s.asks)) {
		name := fmt.Sprint("p", ask)
		s.memos[name] = "accepted"
		text := wire.Append(nil, "PUBLISH-ACCEPT", "Request-ID", s.asks[ask], "Stream-ID", "x")
		delete(s.asks, ask)
		w.send(link.With(link.KindSay, number, &link.Say{Items: []link.Item{{Text: text, Answers: ask, Memos: []link.Memo{{Name: name, Value: []byte("accepted")}}}}}))
		return
	}
}

// done is done with some messages, or with the whole session once its socket has closed.
func (w *world) done(number uint64, s *fakeSession) {
	if s.gone > 0 {
		delete(w.c.sessions, number)
		w.send(link.With(link.KindDone, number, &link.Done{Number: s.gone}))
	} else if n := len(s.pending); n > 0 {
		upTo := w.rnd.IntN(n)
		w.send(link.With(link.KindDone, number, &link.Done{Number: s.pending[upTo], Memos: []link.Memo{{Name: "t", Value: fmt.Append(nil, s.pending[upTo])}}}))
		s.memos["t"] = fmt.Sprint(s.pending[upTo])
		s.pending = slices.Delete(s.pending, 0, upTo+1)
	}
}

// coordinate is something that the coordinator does about a session.
func (w *world) coordinate() {
	if !w.c.synced {
		return
	}
	numbers := slices.Sorted(maps.Keys(w.c.sessions))
	if len(numbers) == 0 {
		return
	}
	number := numbers[w.rnd.IntN(len(numbers))]
	s := w.c.sessions[number]
	switch w.rnd.IntN(3) {
	case 0:
		w.accept(number, s)
	case 1:
		w.done(number, s)
	case 2: // changes a memo
		for _, name := range slices.Sorted(maps.Keys(s.memos)) {
			if strings.HasPrefix(name, "p") && w.rnd.IntN(2) == 0 {
				s.memos[name] = "changed"
				w.send(link.With(link.KindSay, number, &link.Say{Items: []link.Item{{Memos: []link.Memo{{Name: name, Value: []byte("changed")}}}}}))
				return
			}
		}
		value := fmt.Sprint("v", w.rnd.IntN(100))
		s.memos["s"] = value
		w.send(link.With(link.KindSay, number, &link.Say{Items: []link.Item{{Text: []byte("ANYTHING\n\n"), Memos: []link.Memo{{Name: "s", Value: []byte(value)}}}}}))
	}
}

func (w *world) step() {
	switch n := w.rnd.IntN(100); {
	case n < 3:
		number, frames := w.k.open(link.Attach{Kind: "RTMP"})
		w.peers[number] = &fakePeer{open: true, waiting: map[string]bool{}, denied: map[string]bool{}}
		w.out(frames, nil)
	case n < 5:
		if number, p := w.anyPeer(); p != nil {
			w.close(number)
		}
	case n < 20:
		if number, p := w.anyPeer(); p != nil {
			w.say(number, p, fmt.Sprintf("STREAM-AVAILABLE\nn:%d\n\n", len(p.said)))
		}
	case n < 26:
		if number, p := w.anyPeer(); p != nil {
			w.requests++
			id := fmt.Sprint("r", w.requests)
			p.waiting[id] = true
			w.say(number, p, string(wire.Append(nil, "PUBLISH-REQUEST", "Request-ID", id, "Stream-Channel", "c")))
		}
	case n < 45:
		w.arriveUp()
	case n < 64:
		w.arriveDown()
	case n < 80:
		w.coordinate()
	case n < 82:
		w.breakLink()
	case n < 83:
		w.restart()
	case n < 90:
		w.link()
	case n < 95:
		if f, due := w.k.acknowledgement(false); due {
			w.up = append(w.up, f)
		}
		if w.linked {
			w.down = append(w.down, link.With(link.KindAck, 0, &link.Count{Number: w.c.received}))
		}
	default:
		w.now = w.now.Add(time.Duration(w.rnd.IntN(3000)) * time.Millisecond)
		w.out(nil, w.k.deny(w.now))
	}
}

// calm lets everything arrive, and the coordinator answer and be done with all.
func (w *world) calm() {
	w.link()
	w.arriveAll()
	for _, number := range slices.Sorted(maps.Keys(w.c.sessions)) {
		for s := w.c.sessions[number]; s != nil && len(s.asks) > 0; {
			w.accept(number, s)
		}
		for s := w.c.sessions[number]; s != nil && (len(s.pending) > 0 || s.gone > 0); s = w.c.sessions[number] {
			w.done(number, s)
		}
	}
	w.arriveAll()
}

func (w *world) arriveAll() {
	for range 100_000 {
		if len(w.up)+len(w.down) == 0 {
			return
		}
		w.arriveUp()
		w.arriveDown()
	}
	w.t.Fatal("the link is never quiet")
}

func TestKeeperAndCoordinatorAgreeWhateverBreaks(t *testing.T) {
	t.Parallel()
	var resumed, restarted, late, denied, answered int
	for range 20 {
		seed := rand.Uint64()
		w := newWorld(t, seed)
		for range 2000 {
			w.step()
			if w.t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		w.calm()
		for number, p := range w.peers {
			if len(p.waiting) > 0 {
				t.Fatalf("seed %d: peer %d waits for %v", seed, number, p.waiting)
			}
			s, kept := w.c.sessions[number], w.k.sessions[number]
			if (kept == nil) != (s == nil) || kept == nil && p.open {
				t.Fatalf("seed %d: session %d is open %v, kept %v, known %v", seed, number, p.open, kept != nil, s != nil)
			}
			if kept == nil {
				continue
			}
			if kept.attach.ID != number+1000 {
				t.Fatalf("seed %d: session %d has the ID %d", seed, number, kept.attach.ID)
			}
			memos := map[string]string{}
			for name, value := range kept.memos {
				memos[name] = string(value)
			}
			if diff := cmp.Diff(s.memos, memos); diff != "" || len(kept.kept) > 0 || kept.size != 0 {
				t.Fatalf("seed %d: session %d: memos (-coordinator +gateway):\n%s\n%d messages are kept", seed, number, diff, len(kept.kept))
			}
		}
		total := 0
		for _, s := range w.k.sessions {
			total += s.size
		}
		if total != w.k.size {
			t.Fatalf("seed %d: %d bytes are kept, counted as %d", seed, total, w.k.size)
		}
		resumed, restarted, late, denied, answered = resumed+w.resumed, restarted+w.restarted, late+w.late, denied+w.denied, answered+w.answered
	}
	t.Logf("%d links resumed, %d begun anew; %d requests answered, %d of them denied, %d answers came late", resumed, restarted, answered, denied, late)
	if resumed == 0 || restarted < 20 || late == 0 || denied == 0 || answered == denied {
		t.Error("not all stories were told")
	}
}

func TestSessionThatKeepsTooMuchIsReadNoMore(t *testing.T) {
	t.Parallel()
	k := newKeeper("g")
	number, _ := k.open(link.Attach{Kind: "HLS"})
	text := bytes.Repeat([]byte("x"), 64<<10)
	var orders []order
	n := 0
	for ; len(orders) == 0; n++ {
		_, orders = k.said(number, "STREAM-AVAILABLE", text, time.Time{})
	}
	if !orders[0].pause || n*len(text) < maxKept-2*len(text) || n*len(text) > maxKept+len(text) {
		t.Errorf("%+v after %d bytes", orders, n*len(text))
	}
	k.welcome(link.Welcome{Store: "s", Term: "t"}, time.Time{})
	done := link.With(link.KindDone, number, &link.Done{Number: uint64(n - 1)})
	done.Number = 1
	_, orders, err := k.receive(done)
	if err != nil || len(orders) != 1 || !orders[0].resume {
		t.Errorf("%+v %v", orders, err)
	}
}

func TestSessionThatKeepsMostIsClosedWhenAllKeepTooMuch(t *testing.T) {
	t.Parallel()
	k := newKeeper("g")
	text := bytes.Repeat([]byte("x"), 64<<10)
	var last []order
	for range maxKeptInAll/maxKept + 10 {
		number, _ := k.open(link.Attach{Kind: "HLS"})
		for range maxKept/len(text) - 1 {
			_, last = k.said(number, "STREAM-AVAILABLE", text, time.Time{})
			if len(last) > 0 && last[len(last)-1].close != nil {
				break
			}
		}
	}
	if len(last) == 0 || last[len(last)-1].close == nil {
		t.Fatalf("%d bytes are kept: %+v", k.size, last)
	}
}

// A coordinator that takes nothing is given up: the next link begins with all there is, whoever is at its other end.
func TestWhatTheCoordinatorDoesNotTakeEndsTheTerm(t *testing.T) {
	t.Parallel()
	k := newKeeper("g")
	k.welcome(link.Welcome{Store: "s", Term: "t"}, time.Time{})
	number, _ := k.open(link.Attach{Kind: "HLS"})
	text := bytes.Repeat([]byte("x"), 64<<10)
	for n := 0; !k.overflows(); n++ {
		if n > 2*maxUnacknowledged/len(text) {
			t.Fatalf("%d bytes are not acknowledged", k.unackedN)
		}
		k.said(number, "STREAM-AVAILABLE", text, time.Time{})
	}
	k.unlinked()
	k.forgetTerm()
	if h := k.hello(); h.Term != "" || h.Store != "s" {
		t.Errorf("%+v", h)
	}
	frames, _ := k.welcome(link.Welcome{Store: "s", Term: "t"}, time.Time{})
	if frames[0].Kind != link.KindAttach || frames[0].Number != 1 || frames[len(frames)-1].Kind != link.KindSynced {
		t.Errorf("the next link begins with %v %d and ends with %v", frames[0].Kind, frames[0].Number, frames[len(frames)-1].Kind)
	}
}
