package main

// Whatever comes over a control socket, the daemon goes on: it answers, other peers keep what they have, what the
// sender had is gone with its connection, and each line of the log is one that the daemon wrote.

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/wire"

	"github.com/gorilla/websocket"
)

// bystanders are peers with a live stream that are to notice nothing.
type bystanders struct {
	*clustertest.Daemon
	server, encoder *clustertest.Peer
	id              string
}

func newBystanders(f *testing.F) *bystanders {
	d := startDaemon(f)
	b := &bystanders{Daemon: d, server: d.DialPeer("wss")}
	b.encoder, _ = d.Register(-1)
	b.id = clustertest.Publish(b.server, b.encoder, "bystander")
	return b
}

// wantUnharmed waits until the others are gone, and finds everything as it was before them.
func (b *bystanders) wantUnharmed(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(clustertest.Patience)
	for {
		r := b.Report()
		b.finishOrders(t)
		load := 0
		for _, e := range r.Encoders {
			load += e.Load
		}
		if len(r.StreamingServers) == 1 && len(r.Encoders) == 1 && load == 1 && maps.Equal(r.Live(), map[string]string{"bystander": b.id}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster is not as it was: %+v", r)
		}
	}
	if status, body := b.Call("GET", "/commands/capacity"); status != 200 || strings.TrimSpace(body) != `{"load":1,"capacity":-1,"encoderCount":1}` {
		t.Fatalf("capacity: %d %s", status, body)
	}
	clustertest.WantOwnLines(t, b.Logs.String())
	b.Logs.Forget()
}

// finishOrders is the encoder's work for streams of others: it ends what it is told to end. The streaming server has
// been told nothing.
func (b *bystanders) finishOrders(t *testing.T) {
	t.Helper()
	for {
		select {
		case m, open := <-b.encoder.In:
			if !open {
				t.Fatal("the bystanding encoder was cut off:", b.encoder.Gone)
			}
			if m.Method == "ENCODE-STOP" {
				if m.Get("Stream-ID") == b.id {
					t.Fatal("the bystander's stream was stopped")
				}
				b.encoder.Closed(m.Get("Stream-Channel"), m.Get("Stream-ID"))
			}
		case m, open := <-b.server.In:
			t.Fatalf("the bystanding server got %v, open %t", m, open)
		default:
			return
		}
	}
}

// in makes t the test that they fail, and keeps them connected however long the fuzzing takes.
func (b *bystanders) in(t *testing.T) {
	b.T = t
	b.server.For(t)
	b.encoder.For(t)
	b.server.Send("HEARTBEAT")
	b.encoder.Send("HEARTBEAT")
}

// vocabulary is what a structured sequence of messages is made of.
func vocabulary() (methods, names, values []string) {
	methods = []string{"PUBLISH-REQUEST", "PUBLISH-END", "REGISTER", "STREAM-AVAILABLE", "STREAM-CLOSED", "HEARTBEAT", "ERROR", "publish-request",
		"", "\x1b[2J", "PUBLISH-ACCEPT", "STREAM-KILL"}
	names = clustertest.ArgumentNames()
	values = []string{"a", "b", "bystander", "key", "1", "0", "-1", "2147483647", "-2147483648", "99999999999999999999", "*", "", "HLS-LIVE", "HLS-VOD",
		"IMG-PREVIEW", "640x360", "live.m3u8", "10.0.0.1", "\x1b[31m", "a\rtime=" + clustertest.ForgedTime, "\u009b2J", "\u202e", "rtmp://host/a/key", "é\u2028",
		strings.Repeat("x", 129), strings.Repeat("%0A", 3000)}
	return methods, names, values
}

// compose turns fuzzed bytes into messages for a streaming server and an encoder. lastID is what each was told last.
func compose(input []byte, lastID func(encoder bool) string) (encoder bool, text string, rest []byte) {
	methods, names, values := vocabulary()
	next := func() int {
		if len(input) == 0 {
			return 0
		}
		b := input[0]
		input = input[1:]
		return int(b)
	}
	head := next()
	encoder = head&1 == 1
	text = methods[head>>1%len(methods)] + "\n"
	for range next() % 8 {
		name, value := names[next()%len(names)], next()
		text += name + ":"
		if value < 64 {
			text += lastID(encoder)
		} else {
			text += values[value%len(values)]
		}
		text += "\n"
	}
	return encoder, text, input
}

// stranger is a fuzzed connection.
type stranger struct {
	conn *websocket.Conn
	read sync.WaitGroup

	mu     sync.Mutex
	lastID string
}

func (b *bystanders) strangerAt(t *testing.T, endpoint string) *stranger {
	t.Helper()
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+b.Addr+"/ws/control/"+endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &stranger{conn: conn}
	s.read.Go(func() {
		for {
			_, data, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if m := wire.ParseStrict(data); m.Get("Stream-ID") != "" {
				s.hears(m.Get("Stream-ID"))
			}
		}
	})
	return s
}

func (s *stranger) hears(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID = id
}

func (s *stranger) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastID
}

// goes leaves the daemon the time to read all that was sent: a closed socket would be reset.
func (s *stranger) goes() {
	raw := s.conn.NetConn().(*net.TCPConn)
	raw.SetReadDeadline(time.Now().Add(clustertest.Patience))
	raw.CloseWrite()
	s.read.Wait()
	s.conn.Close()
}

// FuzzControlMessages lets a streaming server and an encoder say anything in any order.
func FuzzControlMessages(f *testing.F) {
	b := newBystanders(f)
	f.Add([]byte{0, 3, 0, 64, 1, 64, 2, 67, 5, 1, 5, 66, 0, 4, 0, 64, 1, 65, 2, 67})
	f.Add([]byte{6, 2, 1, 66, 4, 0, 14, 1, 10, 82})
	f.Fuzz(func(t *testing.T, input []byte) {
		b.in(t)
		server, encoder := b.strangerAt(t, "rtmp"), b.strangerAt(t, "hls")
		for rest := input; len(rest) > 0; {
			var text string
			var toEncoder bool
			toEncoder, text, rest = compose(rest, func(isEncoder bool) string {
				if isEncoder {
					return encoder.heard()
				}
				return server.heard()
			})
			to := server
			if toEncoder {
				to = encoder
			}
			if to.conn.WriteMessage(websocket.TextMessage, []byte(text)) != nil {
				break
			}
		}
		server.goes()
		encoder.goes()
		b.wantUnharmed(t)
	})
}

// FuzzControlSocket sends raw bytes where frames are expected (RFC 6455, 5.2).
func FuzzControlSocket(f *testing.F) {
	b := newBystanders(f)
	frame := func(first byte, payload string) []byte {
		return append(append([]byte{first, 0x80 | byte(len(payload))}, 0, 0, 0, 0), payload...)
	}
	f.Add(byte(0), frame(0x81, "PUBLISH-REQUEST\nRequest-ID:1\nStream-Channel:a\nStream-Key:b\n"))
	f.Add(byte(1), frame(0x81, "REGISTER\nCapacity:1\n"))
	f.Add(byte(2), bytes.Join([][]byte{frame(0x01, "PUBL"), frame(0x89, "ping"), frame(0x80, "ISH-END\n")}, nil))
	f.Add(byte(0), frame(0x88, "\x03\xe8bye"))
	f.Add(byte(1), frame(0xf1, "reserved bits"))
	f.Add(byte(2), binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, 1<<63))
	f.Fuzz(func(t *testing.T, endpoint byte, input []byte) {
		b.in(t)
		s := b.strangerAt(t, []string{"rtmp", "wss", "hls"}[endpoint%3])
		raw := s.conn.NetConn()
		raw.SetWriteDeadline(time.Now().Add(clustertest.Patience))
		_, _ = io.Copy(raw, bytes.NewReader(input))
		s.goes()
		b.wantUnharmed(t)
	})
}
