package main

// The application: answers key verifications with 200, takes events, and can be gone for a while.
// Each of the two endpoints has a listener of its own, so that one can go while the other stays.

import (
	"fmt"
	"net/http"

	"coordinator/internal/clustertest"
)

type application struct{ keys, events clustertest.HTTPServer }

// newApplication listens on two addresses (port 0: the system chooses). take is called with the headers of each event, by many
// goroutines at once; when it returns the event is answered.
func newApplication(keysAddr, eventsAddr string, take func(http.Header)) (*application, error) {
	a := &application{}
	a.keys.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { accept(w) })
	a.events.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		take(r.Header)
		accept(w)
	})
	if err := a.keys.Listen(keysAddr); err != nil {
		return nil, fmt.Errorf("application: %w", err)
	}
	if err := a.events.Listen(eventsAddr); err != nil {
		a.keys.Close()
		return nil, fmt.Errorf("application: %w", err)
	}
	return a, nil
}

// accept answers 200, with no more than that takes.
func accept(w http.ResponseWriter) {
	w.Header()["Date"] = nil
	w.WriteHeader(http.StatusOK)
}

func (a *application) close() {
	a.keys.Close()
	a.events.Close()
}

// opened counts connections.
func (a *application) opened() int64 { return a.keys.Opened.Load() + a.events.Opened.Load() }
