package clustertest

import (
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// Pipes is a net.Listener whose connections are pipes, for fake time.
type Pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   *sync.Once
}

func NewPipes() Pipes {
	return Pipes{conns: make(chan net.Conn), closed: make(chan struct{}), once: new(sync.Once)}
}

func (l Pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l Pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l Pipes) Addr() net.Addr { return &net.TCPAddr{} }

// Connect returns the near end of a new connection. It comes from 10.0.0.1.
func (l Pipes) Connect() (net.Conn, error) { return l.ConnectFrom("10.0.0.1:40000") }

// ConnectFrom is Connect with an address, host:port, that the connection comes from.
func (l Pipes) ConnectFrom(addr string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- pipeFrom{far, addr}:
		return near, nil
	case <-l.closed:
		return nil, syscall.ECONNREFUSED
	}
}

type pipeFrom struct {
	net.Conn
	addr string
}

func (p pipeFrom) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(p.addr))
}
