package main

// A TCP proxy that injects faults, one for each direction, which a test switches while it runs. It joins any two
// connections, so that it stands in front of real listeners and, in fake time, in front of pipes.

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// flow is what happens to the bytes of one direction.
type flow struct {
	latency    time.Duration // before each piece goes on
	slice      int           // longest piece in bytes; 0: as they come
	perSecond  int           // bandwidth in bytes; 0: no limit
	stalled    bool          // nothing is read, so that the sender's buffers fill
	blackhole  bool          // what is read goes nowhere, the end of the connection included
	resetAfter int           // so many bytes of the next piece go on, then the connection is reset; 0: never
}

type faultProxy struct {
	// set once
	ctx   context.Context // ends with the test
	pumps sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	up, down flow          // from who dials, and to it
	changed  chan struct{} // closed at the next change
	conns    map[net.Conn]struct{}
}

func newFaultProxy(t testing.TB) *faultProxy {
	ctx, stop := context.WithCancel(context.Background())
	p := &faultProxy{ctx: ctx, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	t.Cleanup(func() {
		stop()
		p.reset()
		p.pumps.Wait()
	})
	return p
}

// inFrontOf is the address of a proxy before a listener.
func (p *faultProxy) inFrontOf(t testing.TB, target string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.pumps.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			if far, err := net.Dial("tcp", target); err == nil {
				p.join(near, far)
			} else {
				near.Close()
			}
		}
	})
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// wrap puts the proxy behind a function that connects.
func (p *faultProxy) wrap(connect func() (net.Conn, error)) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		far, err := connect()
		if err != nil {
			return nil, err
		}
		ours, near := net.Pipe()
		p.join(near, far)
		return ours, nil
	}
}

func (p *faultProxy) join(near, far net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[near], p.conns[far] = struct{}{}, struct{}{}
	p.pumps.Go(func() { p.pump(far, near, &p.up) })
	p.pumps.Go(func() { p.pump(near, far, &p.down) })
}

// set switches the faults of both directions, for all connections.
func (p *faultProxy) set(up, down flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up, p.down = up, down
	close(p.changed)
	p.changed = make(chan struct{})
}

// reset ends all connections at once, without a goodbye.
func (p *faultProxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		resetConn(conn)
	}
	clear(p.conns)
}

func resetConn(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

func (p *faultProxy) now(f *flow) (flow, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *f, p.changed
}

// pump carries one direction until either side has gone.
func (p *faultProxy) pump(to, from net.Conn, f *flow) {
	buffer := make([]byte, 32<<10)
	for {
		if !p.await(f, func(now flow) bool { return !now.stalled }) {
			return
		}
		n, err := from.Read(buffer)
		if !p.carry(to, from, buffer[:n], f) {
			return
		}
		if err != nil {
			if p.await(f, func(now flow) bool { return !now.blackhole }) {
				from.Close()
				to.Close()
			}
			return
		}
	}
}

// carry brings bytes on, as the faults of the moment allow. It is false when the connection is over.
func (p *faultProxy) carry(to, from net.Conn, data []byte, f *flow) bool {
	for len(data) > 0 {
		now, _ := p.now(f)
		piece := len(data)
		if now.slice > 0 {
			piece = min(piece, now.slice)
		}
		pause := now.latency
		if now.perSecond > 0 {
			pause += time.Second * time.Duration(piece) / time.Duration(now.perSecond)
		}
		if pause > 0 && !p.pause(pause) {
			return false
		}
		switch {
		case now.blackhole:
		case now.resetAfter > 0:
			_, _ = to.Write(data[:min(now.resetAfter, piece)])
			resetConn(to)
			resetConn(from)
			return false
		default:
			if _, err := to.Write(data[:piece]); err != nil {
				from.Close()
				return false
			}
		}
		data = data[piece:]
	}
	return true
}

func (p *faultProxy) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// await waits for faults that are as wanted. It is false at the end of the test.
func (p *faultProxy) await(f *flow, wanted func(flow) bool) bool {
	for {
		now, changed := p.now(f)
		if wanted(now) {
			return true
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return false
		}
	}
}
