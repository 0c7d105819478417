package clustertest

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Flow is what happens to the bytes of one direction.
type Flow struct {
	Latency    time.Duration // before each piece goes on
	Slice      int           // longest piece in bytes; 0: as they come
	PerSecond  int           // bandwidth in bytes; 0: no limit
	Stalled    bool          // nothing is read or goes on, so that the sender's buffers fill
	Blackhole  bool          // what is read goes nowhere, the end of the connection included
	ResetAfter int           // so many bytes of the next piece go on, then the connection is reset; 0: never
}

// FaultProxy is a TCP proxy that injects faults, one for each direction, which a test switches while it runs. It joins any
// two connections, so that it stands in front of real listeners and, in fake time, in front of pipes.
type FaultProxy struct {
	// set once
	ctx   context.Context // ends with the test
	pumps sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	up, down Flow          // from who dials, and to it
	changed  chan struct{} // closed at the next change
	conns    map[net.Conn]struct{}
}

func NewFaultProxy(t testing.TB) *FaultProxy {
	ctx, stop := context.WithCancel(context.Background())
	p := &FaultProxy{ctx: ctx, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	t.Cleanup(func() {
		stop()
		p.Reset()
		p.pumps.Wait()
	})
	return p
}

// InFrontOf is the address of a proxy before a listener: an address, or the path of a socket.
func (p *FaultProxy) InFrontOf(t testing.TB, target string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	network := "tcp"
	if strings.HasPrefix(target, "/") {
		network = "unix"
	}
	p.pumps.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			if far, err := net.Dial(network, target); err == nil {
				p.join(near, far)
			} else {
				near.Close()
			}
		}
	})
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// Wrap puts the proxy behind a function that connects.
func (p *FaultProxy) Wrap(connect func() (net.Conn, error)) func() (net.Conn, error) {
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

func (p *FaultProxy) join(near, far net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[near], p.conns[far] = struct{}{}, struct{}{}
	p.pumps.Go(func() { p.pump(far, near, &p.up) })
	p.pumps.Go(func() { p.pump(near, far, &p.down) })
}

// Set switches the faults of both directions, for all connections.
func (p *FaultProxy) Set(up, down Flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up, p.down = up, down
	close(p.changed)
	p.changed = make(chan struct{})
}

// Reset ends all connections at once, without a goodbye.
func (p *FaultProxy) Reset() {
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

func (p *FaultProxy) now(f *Flow) (Flow, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *f, p.changed
}

// pump carries one direction until either side has gone.
func (p *FaultProxy) pump(to, from net.Conn, f *Flow) {
	buffer := make([]byte, 32<<10)
	for {
		if !p.await(f, func(now Flow) bool { return !now.Stalled }) {
			return
		}
		n, err := from.Read(buffer)
		if !p.carry(to, from, buffer[:n], f) {
			return
		}
		if err != nil {
			if p.await(f, func(now Flow) bool { return !now.Blackhole }) {
				from.Close()
				to.Close()
			}
			return
		}
	}
}

// carry brings bytes on, as the faults of the moment allow. It is false when the connection is over.
func (p *FaultProxy) carry(to, from net.Conn, data []byte, f *Flow) bool {
	for len(data) > 0 {
		if !p.await(f, func(now Flow) bool { return !now.Stalled }) { // it was read before
			return false
		}
		now, _ := p.now(f)
		piece := len(data)
		if now.Slice > 0 {
			piece = min(piece, now.Slice)
		}
		pause := now.Latency
		if now.PerSecond > 0 {
			pause += time.Second * time.Duration(piece) / time.Duration(now.PerSecond)
		}
		if pause > 0 && !p.pause(pause) {
			return false
		}
		switch {
		case now.Blackhole:
		case now.ResetAfter > 0:
			_, _ = to.Write(data[:min(now.ResetAfter, piece)])
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

func (p *FaultProxy) pause(d time.Duration) bool {
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
func (p *FaultProxy) await(f *Flow, wanted func(Flow) bool) bool {
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
