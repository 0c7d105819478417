package main

// Streaming servers and encoders: control connections with one reader each. What they do with a message is in lives.go.

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"coordinator/internal/wire"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
)

const (
	heartbeatEvery   = 20 * time.Second
	handshakeTimeout = 30 * time.Second
	encoderCapacity  = "1000000"
)

// peer is one control connection.
type peer struct {
	// set once
	conn *websocket.Conn

	leaving  atomic.Bool  // its end is wanted
	lastBeat atomic.Int64 // when the coordinator's last heartbeat came, before it when it connected; in Unix nanoseconds

	writing sync.Mutex
	line    []byte // guarded by writing
}

// say sends a message. It waits while the coordinator does not read, which is part of the load.
// An error is the reader's to find.
func (p *peer) say(method string, arguments ...string) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.line = wire.Append(p.line[:0], method, arguments...)
	_ = p.conn.WriteMessage(websocket.TextMessage, p.line)
}

// cut ends the connection without a goodbye, as a power failure does.
func (p *peer) cut() {
	p.leaving.Store(true)
	p.conn.NetConn().Close()
}

// read hands on each message until the connection ends. The message is valid until handle returns.
func (p *peer) read(handle func(message []byte)) error {
	buffer := make([]byte, 512)
	for {
		_, reader, err := p.conn.NextReader()
		if err != nil {
			return err
		}
		n := 0
		for {
			if n == len(buffer) {
				buffer = append(buffer, make([]byte, len(buffer))...)
			}
			k, err := reader.Read(buffer[n:])
			n += k
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
		handle(buffer[:n])
	}
}

// beat notes a heartbeat of the coordinator and returns by how much it came later than it should.
func (p *peer) beat(now time.Time) time.Duration {
	last := time.Unix(0, p.lastBeat.Swap(now.UnixNano()))
	return max(0, now.Sub(last)-heartbeatEvery)
}

// overdue is by how much a heartbeat is late that has not come yet.
func (p *peer) overdue(now time.Time) time.Duration {
	return max(0, now.Sub(time.Unix(0, p.lastBeat.Load()))-heartbeatEvery)
}

// dialler connects peers to a coordinator.
type dialler struct {
	addr   string
	secret string // CONTROL_SECRET of a coordinator that has one
}

// dial connects a peer; encoders would reach it at the port, if it is a streaming server.
func (d dialler) dial(ctx context.Context, kind string, port int) (*peer, error) {
	header := http.Header{"X-External-Ip": {"127.0.0.1"}, "X-Custom-Port": {strconv.Itoa(port)}}
	if d.secret != "" {
		claims := jwt.MapClaims{"sub": kind + "-control"}
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(d.secret))
		if err != nil {
			return nil, err
		}
		header.Set("x-control-auth-token", token)
	}
	upgrade := websocket.Dialer{HandshakeTimeout: handshakeTimeout, ReadBufferSize: 512, WriteBufferSize: 512}
	conn, reply, err := upgrade.DialContext(ctx, "ws://"+d.addr+"/ws/control/"+kind, header)
	if err != nil {
		if reply != nil {
			err = fmt.Errorf("%w: %s", err, reply.Status)
		}
		return nil, fmt.Errorf("connecting a peer: %w", err)
	}
	p := &peer{conn: conn}
	p.lastBeat.Store(time.Now().UnixNano())
	return p, nil
}
