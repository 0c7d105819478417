package main

// Who may be at the door: connections that have not become a control socket. They cost a stranger nothing to open, so
// their number is bounded: with one too many the one that has waited longest without a request being answered has to
// go. Whoever sends a whole request at once is served, however many others only stand there.

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"syscall"
)

const (
	maxVisitors  = 16_384
	keptVisitors = 256  // for whom there is room however many control sockets there are
	otherFiles   = 1024 // for the application's connections, the outbox and the certificate
)

// maxSockets is how many connections fit the file descriptors that the process may have.
func maxSockets() int {
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil {
		files.Cur = 1 << 20
	}
	return max(2*keptVisitors, int(min(files.Cur, 1<<20))-otherFiles)
}

// door keeps the visitors of the HTTP servers in the order of their last sign of life.
type door struct {
	max func() int // how many there may be; set once

	mu sync.Mutex
	// guarded by mu
	order    list.List // of *visitor
	visitors map[net.Conn]*list.Element
}

type visitor struct {
	conn    net.Conn
	serving bool // a handler is at work for it
}

type visitorKey struct{}

func newDoor(max func() int) *door { return &door{max: max, visitors: map[net.Conn]*list.Element{}} }

// guard hooks the door into a server, whose handler has to be wrapped with serving.
func (d *door) guard(server *http.Server) {
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		d.enter(conn)
		return context.WithValue(ctx, visitorKey{}, conn)
	}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			d.leave(conn)
		}
	}
}

// serving marks the request's connection while next is at work.
func (d *door) serving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(visitorKey{}).(net.Conn)
		d.mark(conn, true)
		defer d.mark(conn, false)
		next.ServeHTTP(w, r)
	})
}

func (d *door) enter(conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.visitors[conn] = d.order.PushBack(&visitor{conn: conn})
	if len(d.visitors) > d.max() {
		d.dismissOneLocked()
	}
}

// dismissOneLocked closes the connection that has shown no sign of life for longest. The server then sees it closed.
func (d *door) dismissOneLocked() {
	for el := d.order.Front(); el != nil; el = el.Next() {
		if v := el.Value.(*visitor); !v.serving {
			d.order.Remove(el)
			delete(d.visitors, v.conn)
			closeNow(v.conn)
			return
		}
	}
}

// closeNow closes the socket itself: closing a TLS connection would wait for the peer to take an alert.
func closeNow(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	conn.Close()
}

func (d *door) leave(conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if el := d.visitors[conn]; el != nil {
		d.order.Remove(el)
		delete(d.visitors, conn)
	}
}

func (d *door) mark(conn net.Conn, serving bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if el := d.visitors[conn]; el != nil {
		el.Value.(*visitor).serving = serving
		d.order.MoveToBack(el)
	}
}
