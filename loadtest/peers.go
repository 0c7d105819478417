package main

// Streaming servers and encoders: control connections of internal/clustertest with one reader each. What they do with a message
// is in lives.go.

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"coordinator/internal/clustertest"

	"github.com/gorilla/websocket"
)

const (
	heartbeatEvery   = 20 * time.Second
	handshakeTimeout = 30 * time.Second
	encoderCapacity  = "1000000"
)

// peer is one control connection.
type peer struct {
	*clustertest.Connection

	connected time.Time
	leaving   atomic.Bool  // its end is wanted
	lastBeat  atomic.Int64 // how long after connected the coordinator's last heartbeat came: a time.Duration, 0 before the first
}

// cut ends the connection, as is wanted.
func (p *peer) cut() {
	p.leaving.Store(true)
	p.Cut()
}

// beat notes a heartbeat of the coordinator and returns by how much it came later than it should.
func (p *peer) beat(now time.Time) time.Duration {
	at := now.Sub(p.connected)
	return max(0, at-time.Duration(p.lastBeat.Swap(int64(at)))-heartbeatEvery)
}

// overdue is by how much a heartbeat is late that has not come yet.
func (p *peer) overdue(now time.Time) time.Duration {
	return max(0, now.Sub(p.connected)-time.Duration(p.lastBeat.Load())-heartbeatEvery)
}

// dialler connects peers to a coordinator or a gateway.
type dialler struct {
	addr   string
	secret string // CONTROL_SECRET if there is one
}

// dial connects a peer; encoders would reach it at the port, if it is a streaming server.
func (d dialler) dial(ctx context.Context, kind string, port int) (*peer, error) {
	header := []string{"X-External-Ip", "127.0.0.1", "X-Custom-Port", strconv.Itoa(port)}
	if d.secret != "" {
		token, err := clustertest.Token(d.secret, kind+"-control")
		if err != nil {
			return nil, err
		}
		header = append(header, "x-control-auth-token", token)
	}
	upgrade := websocket.Dialer{HandshakeTimeout: handshakeTimeout, ReadBufferSize: 512, WriteBufferSize: 512}
	connection, reply, err := clustertest.Connect(ctx, "ws://"+d.addr+"/ws/control/"+kind, &upgrade, header...)
	if err != nil {
		if reply != nil {
			err = fmt.Errorf("%w: %s", err, reply.Status)
		}
		return nil, fmt.Errorf("connecting a peer: %w", err)
	}
	return &peer{Connection: connection, connected: time.Now()}, nil
}
