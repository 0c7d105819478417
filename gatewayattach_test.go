package main

import (
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"
	"coordinator/internal/memo"
	"coordinator/internal/tagged"

	"github.com/gorilla/websocket"
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
		n.dialLink("g2", &encoders.welcome)
		n.wait(time.Second)
		if e := encoderOf(n.coordinator.registry, "a"); e != 12 {
			t.Errorf("the stream is at encoder %d, want 12", e)
		}
	})
}
