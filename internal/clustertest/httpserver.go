package clustertest

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// HTTPServer is where an application serves, in tests (see Application) and in the load tool. It can go for a while.
type HTTPServer struct {
	Handler http.Handler
	Opened  atomic.Int64 // connections, ever

	open sync.WaitGroup // connections

	// owned by whoever opens and closes
	Addr, URL string // URL has no path
	server    *http.Server
	ended     chan struct{}
}

// Listen serves on addr (port 0: the system chooses). A server that was closed is back at its old address with s.Addr.
func (s *HTTPServer) Listen(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.Serve(l)
	return nil
}

func (s *HTTPServer) Serve(l net.Listener) {
	s.Addr = l.Addr().String()
	s.URL = "http://" + s.Addr
	server, ended := &http.Server{Handler: s.Handler, ConnState: s.follow}, make(chan struct{})
	s.server, s.ended = server, ended
	go func() {
		defer close(ended)
		server.Serve(l)
	}()
}

func (s *HTTPServer) follow(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.Opened.Add(1)
		s.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.open.Done()
	}
}

// Close cuts all connections at once, from now on they are refused, and waits for requests that are being answered.
func (s *HTTPServer) Close() {
	s.server.Close()
	<-s.ended
	s.open.Wait()
}

// Event is an event as the application gets it.
type Event struct {
	ID, Type, Channel, StreamID       string
	StreamType, Resolution, IndexFile string // of stream-available
}

// EventOf reads the headers of a request. Their names are written as net/http keeps them, so that none is copied.
func EventOf(h http.Header) Event {
	return Event{
		ID: h.Get("X-Event-Id"), Type: h.Get("X-Event-Type"), Channel: h.Get("X-Streaming-Channel"), StreamID: h.Get("X-Streaming-Id"),
		StreamType: h.Get("X-Stream-Type"), Resolution: h.Get("X-Resolution"), IndexFile: h.Get("X-Index-File"),
	}
}

// String is an event in short: type channel stream, then what is available.
func (e Event) String() string {
	s := e.Type + " " + e.Channel + " " + e.StreamID
	if e.StreamType != "" {
		s += " " + e.StreamType + " " + e.Resolution + " " + e.IndexFile
	}
	return s
}
