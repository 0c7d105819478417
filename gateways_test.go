package main

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"coordinator/internal/clustertest"
	"coordinator/internal/link"
	"coordinator/internal/memo"
	"coordinator/internal/tagged"
	"coordinator/internal/wire"
)

func keptMemo(name string, m tagged.Message) link.Memo {
	return link.Memo{Name: name, Value: tagged.Append(nil, m)}
}

// send sends frames, the first ones of the link's term.
func (l *fuzzedLink) send(frames ...link.Frame) {
	var b []byte
	for _, f := range frames {
		b = f.Append(b)
	}
	if err := l.conn.WriteMessage(websocket.BinaryMessage, numbered(b, l.welcome.Received)); err != nil {
		l.t.Fatal(err)
	}
}

// newGatewaysNet is a coordinator that no application answers.
func newGatewaysNet(t *testing.T) *fakeNet {
	n := newFakeNet(t, "GATEWAY_SECRET="+crashSecret, "EVENT_CALLBACK_URL=http://application/event")
	n.reaches(func() (net.Conn, error) { return nil, syscall.ECONNREFUSED })
	return n
}

// A gateway can have denied the first publish requests of a server by itself before it finds a coordinator.
func TestServerWhoseFirstRequestsItsGatewayHasDeniedIsTakenIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newGatewaysNet(t)
		n.wait(5 * time.Second) // it is up
		l := n.dialLink("g", nil)
		l.send(link.With(link.KindAttach, 1, &link.Attach{Kind: "RTMP", Remote: "10.0.0.1:4", IP: "10.0.0.1", Port: 1935, FirstKept: 3}), link.Frame{Kind: link.KindSynced})
		n.wait(time.Second)
		if servers := n.coordinator.registry.serverReports(); len(servers) != 1 {
			t.Errorf("%d servers, want 1", len(servers))
		}
	})
}

func TestSessionOfAnEarlierCoordinatorIsRefusedOnceTheClusterIsThere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newGatewaysNet(t)
		n.wait(5 * time.Second)
		id := n.coordinator.registry.newID()
		l := n.dialLink("g", nil)
		l.send(link.With(link.KindAttach, 1, &link.Attach{Kind: "RTMP", Remote: "10.0.0.1:4", IP: "10.0.0.1", Port: 1935, FirstKept: 1, ID: id}), link.Frame{Kind: link.KindSynced})
		n.wait(time.Second)
		if servers := n.coordinator.registry.serverReports(); len(servers) != 0 {
			t.Errorf("%d servers, want none", len(servers))
		}
	})
}

// The link of a gateway breaks when all of it is there and another is still awaited.
func TestGatewayThatIsAbsentWhenTheClusterIsThereGetsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newGatewaysNet(t)
		synced := link.Frame{Kind: link.KindSynced}
		encoders := n.dialLink("g2", nil)
		encoders.send(link.With(link.KindAttach, 1, &link.Attach{
			Kind: "HLS", Remote: "10.0.0.2:4", Since: 1, ID: 12, FirstKept: 1, Memos: []link.Memo{keptMemo("s", &memo.Session{Kept: true, Capacity: 3})},
		}), synced)
		n.wait(time.Second)
		encoders.conn.Close()
		servers := n.dialLink("g1", nil)
		publication := memo.Publication{Number: 7, Channel: "a", Key: "k", PublisherID: "p", Since: 1}
		servers.send(link.With(link.KindAttach, 1, &link.Attach{
			Kind: "RTMP", Remote: "10.0.0.1:4", IP: "10.0.0.1", Port: 1935, Since: 1, ID: 11, FirstKept: 1, Memos: []link.Memo{keptMemo("p7", &publication)},
		}), synced)
		n.wait(4 * time.Second)
		if !n.coordinator.isUp() {
			t.Fatal("the cluster is not there")
		}
		if e := encoderOf(n.coordinator.registry, "a"); e != 0 {
			t.Errorf("encoder %d of an absent gateway is given a stream", e)
		}
		for _, s := range n.gateways.all() {
			if s.memos != nil || s.publications != nil || s.streams != nil {
				t.Error("what was shown is kept for ever")
			}
		}
		n.dialLink("g2", &encoders.welcome)
		n.wait(time.Second)
		if e := encoderOf(n.coordinator.registry, "a"); e != 12 {
			t.Errorf("the stream is at encoder %d, want 12", e)
		}
	})
}

// Should the store have lost what it knew of numbers, and the clock be back, memos still say which were given.
func TestNumbersGoOnAboveAllThatMemosName(t *testing.T) {
	t.Parallel()
	const given = 1 << 52
	for name, attach := range map[string]link.Attach{
		"a session":                {Kind: "RTMP", IP: "10.0.0.1", Port: 1, ID: given},
		"a publication":            {Kind: "RTMP", IP: "10.0.0.1", Port: 1, ID: 1, Memos: []link.Memo{keptMemo("p4503599627370496", &memo.Publication{Number: given, Channel: "a", Key: "k", PublisherID: "p"})}},
		"the encoder of one":       {Kind: "RTMP", IP: "10.0.0.1", Port: 1, ID: 1, Memos: []link.Memo{keptMemo("p1", &memo.Publication{Number: 1, Channel: "a", Key: "k", PublisherID: "p", Current: &memo.Place{Ordinal: 1, Encoder: given}})}},
		"a stream's publication":   {Kind: "HLS", ID: 1, Memos: []link.Memo{keptMemo("s", &memo.Session{Kept: true}), keptMemo("oi", &memo.Stream{ID: "i", Channel: "a", Publication: given, Server: 1})}},
		"the server of a stream's": {Kind: "HLS", ID: 1, Memos: []link.Memo{keptMemo("s", &memo.Session{Kept: true}), keptMemo("oi", &memo.Stream{ID: "i", Channel: "a", Publication: 1, Server: given})}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newGatewaysNet(t)
				l := n.dialLink("g", nil)
				attach.Remote, attach.Since, attach.FirstKept = "10.0.0.1:4", 1, 1
				l.send(link.With(link.KindAttach, 1, &attach), link.Frame{Kind: link.KindSynced})
				n.wait(5 * time.Second)
				r := n.coordinator.registry
				r.mu.Lock()
				defer r.mu.Unlock()
				if highest := max(r.lastID, r.lastNumber); highest < given {
					t.Errorf("numbers go on above %d", highest)
				}
			})
		})
	}
}

func TestSessionWithANumberThatCannotHaveBeenGivenIsRefused(t *testing.T) {
	t.Parallel()
	const tooHigh = 1 << 53
	server, encoder := link.Attach{Kind: "RTMP", IP: "10.0.0.1", Port: 1, ID: 1}, link.Attach{Kind: "HLS", ID: 1}
	for name, test := range map[string]struct {
		attach link.Attach
		memo   link.Memo
		id     uint64
	}{
		"a session":              {server, link.Memo{}, tooHigh},
		"a publication":          {server, keptMemo("p9007199254740992", &memo.Publication{Number: tooHigh, Channel: "a", Key: "k", PublisherID: "p"}), 1},
		"a successor's encoder":  {server, keptMemo("p1", &memo.Publication{Number: 1, Channel: "a", Key: "k", PublisherID: "p", Successor: &memo.Place{Ordinal: 1, Encoder: tooHigh}}), 1},
		"a stream's publication": {encoder, keptMemo("oi", &memo.Stream{ID: "i", Channel: "a", Publication: tooHigh, Server: 1}), 1},
		"a stream's server":      {encoder, keptMemo("oi", &memo.Stream{ID: "i", Channel: "a", Publication: 1, Server: tooHigh}), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newGatewaysNet(t)
				l := n.dialLink("g", nil)
				attach := test.attach
				attach.Remote, attach.Since, attach.FirstKept, attach.ID = "10.0.0.1:4", 1, 1, test.id
				if test.memo.Name != "" {
					attach.Memos = []link.Memo{test.memo}
				}
				l.send(link.With(link.KindAttach, 1, &attach), link.Frame{Kind: link.KindSynced})
				n.wait(5 * time.Second)
				if sessions := n.gateways.all(); len(sessions) > 0 {
					t.Errorf("%d sessions, want none", len(sessions))
				}
			})
		})
	}
}

// A request can be older than its time when it comes, because the link was silent: its gateway has denied it.
func TestRequestThatComesTooLateIsNeitherVerifiedNorLetIn(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]int{answerWithin - time.Second: 1, answerWithin: 0} {
		synctest.Test(t, func(t *testing.T) {
			n := newFakeNet(t, "GATEWAY_SECRET="+crashSecret, "EVENT_CALLBACK_URL=http://application/event", "KEY_VERIFICATION_URL=http://application/verify")
			asked := 0
			n.reaches(func() (net.Conn, error) {
				asked++
				return nil, syscall.ECONNREFUSED
			})
			n.wait(5 * time.Second)
			l := n.dialLink("g", nil)
			request := wire.Append(nil, "PUBLISH-REQUEST", "Request-ID", "r", "Stream-Channel", "b", "Stream-Key", "k")
			l.send(
				link.With(link.KindAttach, 1, &link.Attach{Kind: "RTMP", Remote: "10.0.0.1:4", IP: "10.0.0.1", Port: 1935, FirstKept: 1}),
				link.Frame{Kind: link.KindSynced},
				link.With(link.KindMessage, 1, &link.Message{Number: 1, Age: uint64(age / time.Millisecond), Text: request}),
			)
			synctest.Wait()
			if asked != want {
				t.Errorf("the application is asked %d times about a request that is %v old, want %d", asked, age, want)
			}
		})
	}
}

// The application takes so long over an old request that its gateway has denied it meanwhile.
func TestRequestThatIsAllowedTooLateIsNotLetIn(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]bool{14 * time.Second: true, 15 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			pipes := clustertest.NewPipes()
			app := &clustertest.HTTPServer{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(3 * time.Second) })}
			app.Serve(pipes)
			t.Cleanup(app.Close)
			n := newFakeNet(t, "GATEWAY_SECRET="+crashSecret, "EVENT_CALLBACK_URL=http://application/event", "KEY_VERIFICATION_URL=http://application/verify")
			n.reaches(pipes.Connect)
			n.wait(5 * time.Second)
			n.register()
			l := n.dialLink("g", nil)
			request := wire.Append(nil, "PUBLISH-REQUEST", "Request-ID", "r", "Stream-Channel", "b", "Stream-Key", "k")
			l.send(
				link.With(link.KindAttach, 1, &link.Attach{Kind: "RTMP", Remote: "10.0.0.1:4", IP: "10.0.0.1", Port: 1935, FirstKept: 1}),
				link.Frame{Kind: link.KindSynced},
				link.With(link.KindMessage, 1, &link.Message{Number: 1, Age: uint64(age / time.Millisecond), Text: request}),
			)
			n.wait(4 * time.Second)
			if isLive := encoderOf(n.coordinator.registry, "b") != 0; isLive != want {
				t.Errorf("a request that is %v old when it comes is let in 3 s later: %v, want %v", age, isLive, want)
			}
		})
	}
}

// Requests of gateways that are under way at the stop wait for the next coordinator: they are not denied, nor counted so.
func TestStopDeniesNoRequestOfAGateway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n *fakeNet
		asked := false
		t.Cleanup(func() {
			if log := n.logs.String(); !asked || strings.Contains(log, "denied") {
				t.Errorf("the application is asked: %v\n%s", asked, log)
			}
		})
		pipes := clustertest.NewPipes()
		app := &clustertest.HTTPServer{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			asked = true
			<-r.Context().Done()
		})}
		app.Serve(pipes)
		t.Cleanup(app.Close)
		n = newFakeNet(t, "GATEWAY_SECRET="+crashSecret, "EVENT_CALLBACK_URL=http://application/event", "KEY_VERIFICATION_URL=http://application/verify")
		n.reaches(pipes.Connect)
		n.wait(5 * time.Second)
		l := n.dialLink("g", nil)
		l.send(
			link.With(link.KindAttach, 1, &link.Attach{Kind: "RTMP", Remote: "10.0.0.1:4", IP: "10.0.0.1", Port: 1935, FirstKept: 1}),
			link.Frame{Kind: link.KindSynced},
			link.With(link.KindMessage, 1, &link.Message{Number: 1, Text: wire.Append(nil, "PUBLISH-REQUEST", "Request-ID", "r", "Stream-Channel", "b", "Stream-Key", "k")}),
		)
		synctest.Wait()
	})
}

func TestIdentityIsNeverThatOfTwoSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newGatewaysNet(t)
		n.dial("rtmp")
		n.wait(time.Second)
		taken := n.coordinator.registry.serverReports()[0].ID
		const free = 1 << 51
		attach := func(number, id uint64) link.Frame {
			return link.With(link.KindAttach, number, &link.Attach{Kind: "RTMP", Remote: "10.0.0.2:4", IP: "10.0.0.2", Port: uint32(number), Since: 1, FirstKept: 1, ID: id})
		}
		n.dialLink("g", nil).send(attach(1, taken), attach(2, free), attach(3, free), attach(4, 0), link.Frame{Kind: link.KindSynced})
		synctest.Wait()
		n.dial("rtmp")
		n.wait(5 * time.Second)
		var ids []uint64
		for _, s := range n.coordinator.registry.serverReports() {
			ids = append(ids, s.ID)
		}
		slices.Sort(ids)
		if want := []uint64{taken, free, free + 1, free + 2}; !slices.Equal(ids, want) {
			t.Errorf("the sessions are %d, want %d", ids, want)
		}
	})
}

func TestWhatEncodersHaveSaidIsReplayedInItsOrder(t *testing.T) {
	t.Parallel()
	session := func(isEncoder bool, said ...int) *gatewaySession { // milliseconds
		s := &gatewaySession{isEncoder: isEncoder}
		for _, ms := range said {
			s.kept = append(s.kept, keptMessage{number: uint64(len(s.kept) + 1), said: time.UnixMilli(int64(ms))})
		}
		return s
	}
	sessions := []*gatewaySession{session(true, 20, 40, 39, 60), session(false, 50), session(true, 10, 40, 70), session(false, 5)}
	place := map[*gatewaySession]int{}
	for i, s := range sessions {
		place[s] = i
	}
	type said struct{ Session, Number int }
	var got []said
	for _, m := range inOrderSaid(sessions) {
		got = append(got, said{place[m.session], int(m.number)})
	}
	want := []said{{1, 1}, {3, 1}, {2, 1}, {0, 1}, {0, 2}, {0, 3}, {2, 2}, {0, 4}, {2, 3}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEncoderOfAGatewayThatGoesWhileAllIsGatheredIsNotSaidToBeUnregistered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newGatewaysNet(t)
		l := n.dialLink("g", nil)
		l.send(
			link.With(link.KindAttach, 1, &link.Attach{Kind: "HLS", Remote: "10.0.0.2:4", ID: 12, FirstKept: 1, Memos: []link.Memo{keptMemo("s", &memo.Session{Kept: true, Capacity: 3})}}),
			link.With(link.KindBye, 0, &link.Reason{Text: "it stops"}),
		)
		n.wait(5 * time.Second)
		if text := n.logs.String(); !strings.Contains(text, "gateway is gone") || strings.Contains(text, "before it registered") {
			t.Error(text)
		}
	})
}
