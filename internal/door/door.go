package door

// Limits connections that are not control sockets, or not yet. They cost a stranger nothing to open. Above the limit the
// connection not served for the longest time is closed; one whose answer takes too long counts as not served. So a client
// that sends its whole request at once is served, however many others send nothing, or do not read what they asked for.
// One connection, from its wait for a request to the next, is in visitor.go.

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"coordinator/internal/logs"
)

const (
	MaxVisitors      = 16_384 // connections that are no control sockets, at the most
	ReservedVisitors = 256    // connections that always have room, however many control sockets there are
	OtherFiles       = 1024   // descriptors for the application's connections, the outbox and the certificate

	// promptAnswer is far longer than the work on any request but a few. What takes longer is most often an answer that
	// its client does not read.
	promptAnswer = 2 * time.Second

	// unreadBytes is what the kernel may keep of what the other side does not read. It would keep up to 4 MiB a connection.
	unreadBytes = 64 << 10
)

// MaxSockets returns how many connections fit the file descriptors that the process may have.
func MaxSockets() int {
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil {
		files.Cur = 1 << 20
	}
	return max(2*ReservedVisitors, int(min(files.Cur, 1<<20))-OtherFiles)
}

type door struct {
	// set once
	max      func() int
	refusals *logs.Refusals

	running sync.WaitGroup // whoever accepts, and each wait for a request

	mu sync.Mutex
	// guarded by mu
	unserved list.List // of *visitor, without a request at work: the one that was not served for longest comes first
	served   list.List // of *visitor, with a request at work: the one whose request is oldest comes first
}

// guard hooks the door into a server that serves the door's listeners, and whose handler is wrapped with serving.
func (d *door) guard(server *http.Server) {
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, visitorKey{}, conn)
	}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		v := conn.(*visitor)
		switch state {
		case http.StateIdle:
			v.serverIsIdle()
		case http.StateHijacked:
			v.stage.Store(upgraded)
			d.leave(v)
		}
	}
}

type visitorKey struct{}

// serving marks the request's connection while next is at work.
func (d *door) serving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := r.Context().Value(visitorKey{}).(*visitor)
		v.requestIsWhole()
		d.move(v, &d.served)
		defer d.move(v, &d.unserved)
		next.ServeHTTP(w, r)
	})
}

// doorListener accepts connections, and gives those to the server that have begun to send a request.
type doorListener struct {
	// set once
	net.Listener
	door   *door
	secure *tls.Config   // nil: plain HTTP
	ready  chan *visitor // whose turn it is
	closed chan struct{} // closed by Close
	broken chan error    // holds what ended accepting, if Close did not

	// guarded by door.mu
	over bool // Close was called
}

// listen begins to accept from l, for plain HTTP if secure is nil. Closing what it returns ends that and closes all that
// wait; the door's running is done when they are gone.
func (d *door) listen(l net.Listener, secure *tls.Config) net.Listener {
	dl := &doorListener{Listener: l, door: d, secure: secure, ready: make(chan *visitor), closed: make(chan struct{}), broken: make(chan error, 1)}
	d.running.Go(func() {
		if err := dl.acceptAll(); err != nil {
			dl.broken <- err
		}
	})
	return dl
}

func (l *doorListener) Accept() (net.Conn, error) {
	select {
	case v := <-l.ready:
		return v, nil
	case err := <-l.broken:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *doorListener) Close() error {
	err := l.Listener.Close()
	l.dismissAll()
	return err
}

func (l *doorListener) isOver() bool {
	l.door.mu.Lock()
	defer l.door.mu.Unlock()
	return l.over
}

func (l *doorListener) dismissAll() {
	l.door.mu.Lock()
	defer l.door.mu.Unlock()
	if l.over {
		return
	}
	l.over = true
	close(l.closed)
	for el := l.door.unserved.Front(); el != nil; el = el.Next() {
		if v := el.Value.(*visitor); v.listener == l && v.stage.Load() == waiting {
			CloseNow(v)
		}
	}
}

// acceptAll returns when the listener is closed or broken. Running out of descriptors or memory is temporary: it logs and
// retries.
func (l *doorListener) acceptAll() error {
	const longest = time.Second
	var pause time.Duration
	for {
		conn, err := l.Listener.Accept()
		if err == nil {
			pause = 0
			if limited, ok := conn.(interface{ SetWriteBuffer(int) error }); ok {
				limited.SetWriteBuffer(unreadBytes)
			}
			l.door.enter(newVisitor(l, conn))
			continue
		}
		var errno syscall.Errno
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case !errors.As(err, &errno):
			return err
		case errno == syscall.EMFILE:
			l.logUnaccepted("too many open files: raise the limit of this process (ulimit -n, LimitNOFILE)")
		case errno == syscall.ENFILE:
			l.logUnaccepted("too many open files on this machine: raise fs.file-max")
		case errno == syscall.EBADF, errno == syscall.EINVAL, errno == syscall.ENOTSOCK, errno == syscall.EFAULT:
			return err
		default: // accept(2): errors of the network are passed on here, and are to be taken like EAGAIN
			l.logUnaccepted(errno.Error())
		}
		pause = min(max(2*pause, 5*time.Millisecond), longest)
		select {
		case <-time.After(pause):
		case <-l.closed:
			return nil
		}
	}
}

func (l *doorListener) logUnaccepted(reason string) {
	l.door.refusals.Say(slog.LevelError, "", "connections cannot be accepted", reason)
}

// enter takes in a connection that was accepted.
func (d *door) enter(v *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unserved.Len()+d.served.Len() >= d.max() {
		d.dismissOneLocked()
	}
	d.joinLocked(v, &d.unserved)
	d.waitLocked(v)
}

// waitAgain lets a visitor whose request was answered wait for its next one.
func (d *door) waitAgain(v *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waitLocked(v)
}

func (d *door) waitLocked(v *visitor) {
	if v.listener.over {
		d.leaveLocked(v)
		CloseNow(v)
		return
	}
	d.running.Go(v.awaitRequest)
}

// dismissOneLocked closes the connection not served for the longest time. Its reader gets an error.
func (d *door) dismissOneLocked() {
	first := func(visitors *list.List) *visitor {
		if el := visitors.Front(); el != nil {
			return el.Value.(*visitor)
		}
		return nil
	}
	v, busy := first(&d.unserved), first(&d.served)
	if v == nil || busy != nil && busy.since.Before(v.since) && time.Since(busy.since) > promptAnswer {
		v = busy
	}
	if v != nil {
		d.leaveLocked(v)
		CloseNow(v)
	}
}

// CloseNow closes the socket of a connection itself: closing a TLS connection would wait for the peer to take an alert.
func CloseNow(conn net.Conn) {
	if layer, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = layer.NetConn()
	}
	conn.Close()
}

func (d *door) leave(v *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaveLocked(v)
}

func (d *door) leaveLocked(v *visitor) {
	if v.element != nil {
		v.among.Remove(v.element)
		v.element, v.among = nil, nil
	}
}

func (d *door) joinLocked(v *visitor, visitors *list.List) {
	v.element, v.among, v.since = visitors.PushBack(v), visitors, time.Now()
}

// move puts a visitor that has not left into another list.
func (d *door) move(v *visitor, visitors *list.List) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v.element != nil {
		d.leaveLocked(v)
		d.joinLocked(v, visitors)
	}
}
