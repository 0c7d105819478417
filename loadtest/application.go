package main

// The application: answers key verifications with 200, takes events, and can be gone for a while.
// Each of the two endpoints has a listener of its own, so that one can go while the other stays.

import (
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
)

// arrival is one event as the application gets it.
type arrival struct {
	channel, streamID, eventID, indexFile string
	closed                                bool
}

type application struct {
	keys, events *endpoint
	opened       atomic.Int64 // connections
}

// newApplication listens on two addresses (port 0: the system chooses). take is called for each event, by many
// goroutines at once; when it returns the event is answered.
func newApplication(keysAddr, eventsAddr string, take func(arrival)) (*application, error) {
	a := &application{}
	a.keys = &endpoint{opened: &a.opened, serve: func(http.Header) {}}
	a.events = &endpoint{opened: &a.opened, serve: func(h http.Header) {
		take(arrival{
			channel:   h.Get("X-Streaming-Channel"),
			streamID:  h.Get("X-Streaming-Id"),
			eventID:   h.Get("X-Event-Id"),
			indexFile: h.Get("X-Index-File"),
			closed:    h.Get("X-Event-Type") == "stream-closed",
		})
	}}
	if err := a.keys.open(keysAddr); err != nil {
		return nil, err
	}
	if err := a.events.open(eventsAddr); err != nil {
		a.keys.close()
		return nil, err
	}
	return a, nil
}

func (a *application) close() {
	a.keys.close()
	a.events.close()
}

// endpoint is one URL of the application.
type endpoint struct {
	// set once
	serve  func(http.Header)
	opened *atomic.Int64

	// owned by whoever opens and closes
	addr   string
	server *http.Server
	ended  chan struct{}
}

func (e *endpoint) url() string { return "http://" + e.addr + "/" }

// open listens. An endpoint that was closed opens at its old address with e.addr.
func (e *endpoint) open(addr string) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("application: %w", err)
	}
	e.addr = listener.Addr().String()
	e.ended = make(chan struct{})
	e.server = &http.Server{
		Handler: e,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				e.opened.Add(1)
			}
		},
	}
	go func(server *http.Server, ended chan struct{}) {
		defer close(ended)
		server.Serve(listener)
	}(e.server, e.ended)
	return nil
}

// close cuts all connections at once: from now on they are refused.
func (e *endpoint) close() {
	e.server.Close()
	<-e.ended
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.serve(r.Header)
	w.Header()["Date"] = nil
	w.WriteHeader(http.StatusOK)
}
