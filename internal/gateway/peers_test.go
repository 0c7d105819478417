package gateway

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/control"
	"coordinator/internal/link"

	"github.com/gorilla/websocket"
)

func TestGatewayChecksTokensOfPeers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		wrong, err := clustertest.Token(controlSecret.Reveal(), "rtmp-control")
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range []string{"", "x", wrong} {
			dialer := &websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return r.pipes.Connect() }}
			_, answer, err := dialer.Dial("ws://gateway/ws/control/hls", http.Header{"X-Control-Auth-Token": {token}})
			if err == nil || answer == nil || answer.StatusCode != http.StatusForbidden {
				t.Errorf("%q: %v", token, err)
			}
		}
	})
}

// Heartbeats and silence are between the peer and the gateway.
func TestHeartbeatsAndSilenceDoNotCrossTheLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _, l := linked(t)
		l.keepAlive()
		p, silent := r.connect("hls"), r.connect("hls")
		l.attach()
		second, _ := l.attach()
		for range 5 {
			r.wait(20 * time.Second)
			p.Send("HEARTBEAT")
		}
		if n := p.Heartbeats.Load(); n != 5 {
			t.Errorf("%d heartbeats in 100 s", n)
		}
		silent.AwaitGone()
		if s, g := l.gone(); s != second || g.Reason != "silent for 60 s" || g.Number != 1 {
			t.Errorf("%d %+v", s, g)
		}
		l.quiet()
	})
}

func TestPublishRequestIsDeniedAfter18SecondsAndTheAnswerThatComesLateIsNotPassedOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, c, l := linked(t)
		l.keepAlive()
		p := r.connect("rtmp")
		session, _ := l.attach()
		asked := time.Now()
		sendText(t, p, request("7", "c"))
		l.wantMessage(1, request("7", "c"))
		p.Expect("PUBLISH-DENY", "Request-ID", "7", "Stream-Channel", "c")
		if took := time.Since(asked); took < answerWithin || took > answerWithin+denyEvery {
			t.Errorf("it is denied after %v", took)
		}
		r.wantState("it is counted", func(s State) bool { return s.Denied == 1 && s.Kept == 0 })
		l.say(session, 1, "PUBLISH-ACCEPT\nRequest-ID:7\n", link.Memo{Name: "p1", Value: []byte("memo")}, link.Memo{Name: "s", Value: []byte("late")})
		late := l.next(link.KindLate)
		var n link.Late
		l.read1(late, &n)
		if late.Session != session || n.Number != 1 {
			t.Errorf("%d %+v", late.Session, n)
		}
		l.say(session, 0, "STREAM-KILL\n", link.Memo{Name: "p1", Value: []byte("memo")}, link.Memo{Name: "s", Value: []byte("memo")})
		p.Expect("STREAM-KILL")
		l.cut()
		l = c.await()
		l.welcome("t2")
		if _, a := l.attach(); len(a.Memos) != 1 || a.Memos[0].Name != "s" || string(a.Memos[0].Value) != "memo" {
			t.Errorf("%+v", a.Memos)
		}
		l.next(link.KindSynced)
	})
}

func TestProbedPeerIsAliveOrGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _, l := linked(t)
		l.keepAlive()
		p := r.connect("rtmp")
		session, _ := l.attach()
		l.send(link.KindProbe, session, nil)
		if f := l.next(link.KindAlive); f.Session != session {
			t.Errorf("session %d", f.Session)
		}
		// One that reads nothing answers no ping.
		proxy := r.faultProxy()
		r.connectOver(proxy.Wrap(r.pipes.Connect), "hls")
		dead, _ := l.attach()
		proxy.Set(clustertest.Flow{Blackhole: true}, clustertest.Flow{})
		began := time.Now()
		l.send(link.KindProbe, dead, nil)
		l.send(link.KindProbe, 99, nil)
		if s, g := l.gone(); s != dead || !strings.Contains(g.Reason, "no answer to a ping") || time.Since(began) != control.ProbeLimit {
			t.Errorf("%d %+v after %v", s, g, time.Since(began))
		}
		p.Send("ERROR", "Error-Code", "X")
		l.wantMessage(1, "ERROR\nError-Code:X\n")
	})
}

func TestCoordinatorClosesOrRefusesASession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _, l := linked(t)
		l.keepAlive()
		closed, refused := r.connect("hls"), r.connect("hls")
		first, _ := l.attach()
		second, _ := l.attach()
		l.send(link.KindClose, first, nil)
		l.send(link.KindRefused, second, &link.Reason{Text: "its memo is damaged"})
		closed.AwaitGone()
		refused.AwaitGone()
		if s, g := l.gone(); s != first || g.Reason != errOrdered.Error() {
			t.Errorf("%d %+v", s, g)
		}
		l.quiet()
		r.wantState("one is left", func(s State) bool { return s.Sessions == 1 })
	})
}

// At 4 MiB a peer is not read, it is not silent then, and it is alive.
func TestPeerThatSaysTooMuchIsNotReadForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _, l := linked(t)
		l.keepAlive()
		p := r.connect("hls")
		session, _ := l.attach()
		text := "STREAM-AVAILABLE\n" + strings.Repeat("x", 60<<10)
		sent := make(chan int)
		go func() {
			for n := 1; p.SendRaw(websocket.TextMessage, text) == nil; n++ {
				sent <- n
			}
			close(sent)
		}()
		n := 0
		for reading := true; reading; {
			select {
			case n = <-sent:
			case <-time.After(time.Second):
				reading = false
			}
		}
		if size := n * len(text); size < maxKept || size > maxKept+2*len(text) {
			t.Errorf("%d bytes are read", size)
		}
		for range n {
			l.message()
		}
		r.wait(3 * time.Minute)
		l.quiet()
		l.send(link.KindProbe, session, nil)
		l.next(link.KindAlive)
		r.wantState("it is connected", func(s State) bool { return s.Sockets[control.HLS] == 1 })
		r.logs.Await(t, "peer is not read for now")

		l.send(link.KindDone, session, &link.Done{Number: uint64(n - 2)})
		l.message()
		if <-sent <= n {
			t.Error("it is not read again")
		}
		r.logs.Await(t, "peer is read again")
		p.Conn.Close()
		for range sent {
		}
	})
}

// A request that is kept counts, too, and its denial makes room.
func TestPeerIsReadAgainWhenItsRequestsAreDenied(t *testing.T) {
	t.Parallel()
	k := newKeeper("g")
	number, _ := k.open(link.Attach{})
	text := []byte("PUBLISH-REQUEST\n" + strings.Repeat("x", 60<<10))
	var orders []order
	for len(orders) == 0 {
		_, orders = k.said(number, "PUBLISH-REQUEST", text, time.Time{})
	}
	orders = k.deny(time.Time{}.Add(answerWithin))
	if last := orders[len(orders)-1]; !last.resume || k.size != 0 {
		t.Errorf("%d orders, the last %+v; %d bytes are kept", len(orders), last, k.size)
	}
}

// When all keep too much, one is closed, and it makes room for the others.
func TestOnlyOneSessionIsClosedWhenMemoryIsFull(t *testing.T) {
	t.Parallel()
	k := newKeeper("g")
	k.welcome(link.Welcome{Store: "s", Term: "t"}, time.Time{})
	k.unlinked()
	k.forgetTerm()
	text := bytes.Repeat([]byte("x"), 64<<10)
	closed := 0
	for range maxKeptInAll/maxKept + 2 {
		number, _ := k.open(link.Attach{})
		k.sessions[number].told = true
		for range maxKept / len(text) {
			if _, orders := k.said(number, "STREAM-AVAILABLE", text, time.Time{}); len(orders) > 0 && orders[len(orders)-1].close != nil {
				closed++
			}
		}
	}
	if k.size > maxKeptInAll || closed == 0 || closed > 3 {
		t.Errorf("%d bytes are kept, %d sessions are closed", k.size, closed)
	}
	frames, err := k.welcome(link.Welcome{Store: "s", Term: "t2"}, time.Time{})
	if err != nil || k.overflows() {
		t.Errorf("%v; what a term begins with is too much for it: %d bytes", err, k.unackedN)
	}
	gone := 0
	for _, f := range frames {
		if f.Kind == link.KindGone {
			gone++
		}
	}
	if gone != closed {
		t.Errorf("%d of %d", gone, closed)
	}
}

func TestMessagesAreOlderWhenTheyAreSentAgain(t *testing.T) {
	t.Parallel()
	k, start := newKeeper("g"), time.Now()
	k.welcome(link.Welcome{Store: "s", Term: "t"}, start)
	number, _ := k.open(link.Attach{})
	k.said(number, "ERROR", []byte("ERROR\n"), start)
	k.unlinked()
	k.said(number, "ERROR", []byte("ERROR\n"), start.Add(time.Second))
	for range 2 { // it does not age twice
		frames, err := k.welcome(link.Welcome{Store: "s", Term: "t"}, start.Add(9*time.Second))
		if err != nil || len(frames) != 4 {
			t.Fatal(len(frames), err)
		}
		var ages []uint64
		for _, f := range frames[2:] {
			var m link.Message
			if err := f.Read(&m); err != nil {
				t.Fatal(err)
			}
			ages = append(ages, m.Age)
		}
		if ages[0] != 9000 || ages[1] != 8000 {
			t.Errorf("%v", ages)
		}
		k.unlinked()
	}
}

// A peer that comes and goes while there is no coordinator leaves nothing behind, and no gap in the link's numbers.
func TestSessionOfWhichNobodyHasHeardIsForgotten(t *testing.T) {
	t.Parallel()
	k, now := newKeeper("g"), time.Now()
	k.welcome(link.Welcome{Store: "s", Term: "t"}, now)
	known, _ := k.open(link.Attach{})
	k.unlinked()
	flapping, _ := k.open(link.Attach{})
	k.said(known, "ERROR", []byte("ERROR\nn:1\n"), now)
	k.said(flapping, "ERROR", []byte("ERROR\nn:2\n"), now)
	k.said(known, "ERROR", []byte("ERROR\nn:3\n"), now)
	k.closed(flapping, "lost", now)
	if len(k.sessions) != 1 || len(k.sessions[known].kept) != 2 {
		t.Errorf("%d sessions", len(k.sessions))
	}
	frames, err := k.welcome(link.Welcome{Store: "s", Term: "t", Received: 1}, now)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range frames {
		if f.Number != uint64(i+2) || f.Session != known {
			t.Errorf("frame %d is %v %d of session %d", i, f.Kind, f.Number, f.Session)
		}
	}
	if len(frames) != 3 { // ATTACH and two messages
		t.Errorf("%d frames", len(frames))
	}
	size := 0
	for _, f := range k.unacked {
		size += f.size()
	}
	if size != k.unackedN {
		t.Errorf("%d bytes are counted as %d", size, k.unackedN)
	}
}

func first(session uint64, _ link.Attach) uint64 { return session }

// saysAtOnce is a long message of a peer that spares the way through its socket.
func (r *rig) saysAtOnce(session uint64, size int) {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	r.g.doLocked(r.g.id.said(session, "STREAM-AVAILABLE", make([]byte, size), time.Now()))
}

// A coordinator that acknowledges nothing loses its link, and the next one begins with all there is.
func TestCoordinatorThatAcknowledgesNothingIsLinkedAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, c, l := linked(t)
		l.keepAlive()
		var sessions []uint64
		for range maxUnacknowledged/maxKept + 1 {
			r.connect("hls")
			sessions = append(sessions, first(l.attach()))
		}
		for _, session := range sessions {
			for range maxKept/control.MaxMessageBytes - 1 {
				r.saysAtOnce(session, control.MaxMessageBytes)
			}
		}
		l.ended()
		r.logs.Await(t, "level=ERROR", "acknowledges nothing")
		l = c.await()
		if l.hello.Term != "" || l.hello.Store != "store" {
			t.Errorf("%+v", l.hello)
		}
	})
}

// flap is a peer that comes and goes, and that the test keeps nothing of.
func flap(t *testing.T, r *rig) {
	t.Helper()
	token, err := clustertest.Token(controlSecret.Reveal(), "hls-control")
	if err != nil {
		t.Fatal(err)
	}
	dialer := &websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return r.pipes.Connect() }}
	conn, _, err := dialer.Dial("ws://gateway/ws/control/hls", http.Header{"X-Control-Auth-Token": {token}})
	if err != nil {
		t.Fatal(err)
	}
	conn.WriteMessage(websocket.TextMessage, []byte("REGISTER\nCapacity:1\n"))
	conn.Close()
}

// Peers stay, publishers are denied in time, and memory does not grow.
func TestCoordinatorIsAwayFor10Minutes(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures the memory of the process, so it runs alone")
	}
	synctest.Test(t, func(t *testing.T) {
		r, c, l := linked(t)
		server, encoder := r.connect("rtmp"), r.connect("hls")
		l.attach()
		session, _ := l.attach()
		l.say(session, 0, "ENCODE-START\n", link.Memo{Name: "o1", Value: []byte("live")})
		encoder.Expect("ENCODE-START")
		r.away("c1")
		l.cut()
		synctest.Wait()
		var before, after runtime.MemStats
		minute := func(n int) {
			for second := range 60 {
				if second%20 == 0 {
					server.Send("HEARTBEAT")
					encoder.Send("HEARTBEAT")
				}
				id := fmt.Sprint(n, "-", second)
				sendText(t, server, request(id, "c"))
				flap(t, r)
				r.wait(time.Second)
				if n > 0 || second > 20 {
					server.Expect("PUBLISH-DENY")
				}
			}
		}
		minute(0)
		runtime.GC()
		runtime.ReadMemStats(&before)
		for n := range 9 {
			minute(n + 1)
		}
		r.logs.Forget()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
			t.Errorf("memory has grown by %d KiB", grown>>10)
		}
		r.wantState("all are there", func(s State) bool {
			return s.Sockets[control.RTMP] == 1 && s.Sockets[control.HLS] == 1 && s.Sessions == 2 && s.Denied > 560
		})
		r.at("c1", c.pipes.Connect)
		l = c.await()
		l.welcome("t2")
		l.attach()
		if s, a := l.attach(); s != session || len(a.Memos) != 1 || string(a.Memos[0].Value) != "live" {
			t.Errorf("%d %+v", s, a)
		}
	})
}
