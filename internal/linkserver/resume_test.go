package linkserver

// Links that are cut at any byte in both directions, and made again: each frame is handled once and in order, on both sides,
// and each acknowledgement is told once.

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"

	"github.com/gorilla/websocket"
)

// cutConn is a connection that is cut after so many bytes in either direction.
type cutConn struct {
	net.Conn
	up, down int // that only the writer and the reader use
}

func (c *cutConn) Write(b []byte) (int, error) {
	n := min(len(b), c.up)
	c.up -= n
	written, err := c.Conn.Write(b[:n])
	if err == nil && n < len(b) {
		c.Conn.Close()
		err = net.ErrClosed
	}
	return written, err
}

func (c *cutConn) Read(b []byte) (int, error) {
	if c.down <= 0 {
		c.Conn.Close()
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(b[:min(len(b), c.down)])
	c.down -= n
	return n, err
}

// memory is what a gateway knows over its links.
type memory struct {
	t    *testing.T
	r    *rig
	rnd  *rand.Rand
	said map[uint64]uint64 // number of the last message by session

	mu       sync.Mutex
	welcome  bool // WELCOME has come at least once
	sent     uint64
	unacked  []link.Frame
	received uint64
	heard    []string // texts of SAY
	links    int
	hellos   int // the gateway listens to the link of the last one
}

const cutSessions = 3

// queue makes some messages.
func (m *memory) queue(n int) (frames []link.Frame) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range n {
		session := 1 + m.rnd.Uint64N(cutSessions)
		m.said[session]++
		f := message(session, m.said[session], fmt.Sprint(session, ":", m.said[session])+string(make([]byte, m.rnd.IntN(200))))
		m.sent++
		f.Number = m.sent
		m.unacked = append(m.unacked, f)
		frames = append(frames, f)
	}
	return frames
}

// begin makes a link, unless it is cut before. The reader ends with it.
func (m *memory) begin(up, down int) (conn *websocket.Conn, over chan struct{}) {
	header := m.r.header()
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) {
		near, err := m.r.pipes.ConnectFrom("10.0.0.1:40000")
		return &cutConn{near, up, down}, err
	}}
	conn, _, err := dialer.Dial("ws://coordinator"+link.Path, header)
	if err != nil {
		return nil, nil
	}
	var number int
	h := hello("a", func(h *link.Hello) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.hellos++
		number = m.hellos
		if m.welcome {
			h.Store, h.Term, h.Received = "store", "term", m.received
		}
	})
	if conn.WriteMessage(websocket.BinaryMessage, link.With(link.KindHello, 0, &h).Append(nil)) != nil {
		conn.Close()
		return nil, nil
	}
	_, b, err := conn.ReadMessage()
	if err != nil {
		conn.Close()
		return nil, nil
	}
	f, rest, err := link.Next(b)
	var w link.Welcome
	if err != nil || f.Kind != link.KindWelcome || f.Read(&w) != nil {
		m.t.Fatalf("HELLO is answered with %v %q", f.Kind, f.Payload)
	}
	m.welcome = true
	m.links++
	m.acknowledge(w.Received)
	over = make(chan struct{})
	go func() {
		defer close(over)
		m.take(number, rest)
		for {
			_, b, err := conn.ReadMessage()
			if err != nil {
				conn.Close()
				return
			}
			m.take(number, b)
		}
	}()
	return conn, over
}

func (m *memory) acknowledge(upTo uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.unacked) > 0 && m.unacked[0].Number <= upTo {
		m.unacked = m.unacked[1:]
	}
	if upTo > m.sent {
		m.t.Errorf("frame %d of %d is acknowledged", upTo, m.sent)
	}
}

func (m *memory) take(hello int, b []byte) {
	for len(b) > 0 {
		f, rest, err := link.Next(b)
		if err != nil {
			m.t.Error(err)
			return
		}
		b = rest
		if f.Kind == link.KindAck {
			var ack link.Count
			f.Read(&ack)
			m.acknowledge(ack.Number)
			continue
		}
		m.hear(hello, f)
	}
}

func (m *memory) hear(hello int, f link.Frame) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if hello != m.hellos {
		return
	}
	if f.Number != m.received+1 {
		m.t.Errorf("frame %d comes after %d", f.Number, m.received)
	}
	m.received = f.Number
	var say link.Say
	if f.Read(&say) != nil || len(say.Items) != 1 {
		m.t.Errorf("%v comes", f.Kind)
		return
	}
	m.heard = append(m.heard, string(say.Items[0].Text))
}

func (m *memory) waiting() (frames []link.Frame, received uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append(frames, m.unacked...), m.received
}

func write(conn *websocket.Conn, frames ...link.Frame) error {
	var b []byte
	for _, f := range frames {
		b = f.Append(b)
	}
	return conn.WriteMessage(websocket.BinaryMessage, b)
}

func TestLinksThatAreCutLoseNothingAndRepeatNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const messages = 600
			rnd := rand.New(rand.NewPCG(seed, 1))
			var r *rig
			got := map[uint64]uint64{}
			echoes, acked := []string{}, map[string]int{}
			var mu sync.Mutex // of what the Handler has
			r = newRig(t, func(r *rig, cfg *Config) {
				r.onMessage = func(g *Gateway, session uint64, m link.Message) {
					mu.Lock()
					defer mu.Unlock()
					if m.Number != got[session]+1 {
						t.Errorf("seed %d: message %d of session %d comes after %d", seed, m.Number, session, got[session])
					}
					got[session] = m.Number
					for i := range 1 + m.Number%2 {
						text := fmt.Sprint(session, "/", m.Number, "/", i)
						echoes = append(echoes, text)
						g.Send(say(session, text), func() {
							mu.Lock()
							defer mu.Unlock()
							acked[text]++
						})
					}
				}
			})
			m := &memory{t: t, r: r, rnd: rnd, said: map[uint64]uint64{}}
			made := 0
			for {
				up, down := 100+rnd.IntN(6000), 100+rnd.IntN(6000)
				last := made == messages
				if last {
					up, down = 1<<30, 1<<30
				}
				conn, over := m.begin(up, down)
				if conn == nil {
					time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond)
					continue
				}
				frames, _ := m.waiting()
				alive := write(conn, frames...) == nil
				for alive && made < messages {
					n := min(1+rnd.IntN(8), messages-made)
					made += n
					if alive = write(conn, m.queue(n)...) == nil; !alive {
						break
					}
					switch rnd.IntN(4) {
					case 0:
						_, received := m.waiting()
						alive = write(conn, ackOf(received)) == nil
					case 1:
						time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
					case 2:
						if rnd.IntN(20) == 0 { // another link, while this one is there
							alive = false
							if second, secondOver := m.begin(1<<20, 1<<20); second != nil {
								<-over // the coordinator has closed it
								second.Close()
								<-secondOver
							}
						}
					}
				}
				if last {
					time.Sleep(time.Second)
					_, received := m.waiting()
					write(conn, ackOf(received))
					synctest.Wait()
					conn.Close()
					<-over
					break
				}
				conn.Close()
				<-over
			}
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			total := uint64(0)
			for _, n := range got {
				total += n
			}
			if total != messages {
				t.Errorf("seed %d: %d messages were handled", seed, total)
			}
			if !slices.Equal(m.heard, echoes) {
				t.Errorf("seed %d: the gateway has got %d frames, and not what was sent in %d", seed, len(m.heard), len(echoes))
			}
			for _, text := range echoes {
				if acked[text] != 1 {
					t.Errorf("seed %d: the acknowledgement of %s is told %d times", seed, text, acked[text])
				}
			}
			if m.links < 10 {
				t.Errorf("seed %d: only %d links", seed, m.links)
			}
		})
	}
}

func ackOf(number uint64) link.Frame {
	return link.With(link.KindAck, 0, &link.Count{Number: number})
}
