package main

// A term: what a coordinator has while it leads, from the outbox to the routes. It begins with what the store holds, and nothing of
// it outlives its end.

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"coordinator/internal/control"
	"coordinator/internal/door"
	"coordinator/internal/logs"
	"coordinator/internal/outbox"
	"coordinator/internal/timeline"
)

// surroundings are what terms have in common: what belongs to the process.
type surroundings struct {
	// set once
	cfg        *Config
	log        *slog.Logger
	metrics    *metrics
	refusals   *logs.Refusals
	timeline   *timeline.Timeline // goes on when another term begins
	maxSockets int                // connections that the process may have
}

func (s surroundings) observe(a outbox.Attempt) {
	if isUnwanted(s.cfg, &a.Event) {
		s.log.Info("event is dropped unsent: EVENT_CALLBACK_EXTRA is off", "event", a.Event.ID(), "type", a.Event.Type.String(), "channel", a.Event.Channel)
		return
	}
	s.metrics.eventAttempted(sendResult(a.Status, a.Err), a.Took)
	s.timeline.Add(attemptEntry(a, time.Now()))
}

func (s surroundings) verified(v verification) {
	s.metrics.keyVerified(v.took, errors.Is(v.err, errKeyDenied))
	s.timeline.Add(verificationEntry(v, time.Now()))
}

// newSockets leaves room for visitors.
func (s surroundings) newSockets(newPeer func(control.Handshake) control.Peer, counts control.Metrics) *control.Sockets {
	return control.NewSockets(control.Config{
		Secret:   s.cfg.ControlSecret,
		Max:      s.maxSockets - door.ReservedVisitors,
		NewPeer:  newPeer,
		Metrics:  counts,
		Log:      s.log,
		Refusals: s.refusals,
	})
}

type term struct {
	// set once
	events      *callbacks
	verifier    *keyVerifier
	coordinator *coordinator
	control     *control.Sockets
	gateways    *gateways // nil: none may link
	routes      http.Handler

	keeping    sync.WaitGroup
	endKeeping context.CancelFunc // ends what start has started
}

// newTerm takes over the events. Nothing is delivered before start. It ends with leaveGateways, leavePeers and finish, in this order.
func newTerm(s surroundings, events *callbacks, m mandate) *term {
	t := &term{events: events, endKeeping: func() {}}
	t.verifier = newKeyVerifier(s.cfg, s.verified, s.log)
	t.coordinator = newCoordinator(s.cfg, s.log, s.metrics, s.timeline, t.verifier, t.events, m)
	if s.cfg.GatewaySecret != "" {
		t.gateways = newGateways(t.coordinator, s.cfg, s.refusals, s.log)
	} else {
		t.coordinator.goUp()
	}
	t.control = s.newSockets(t.coordinator.newPeer, s.metrics)
	t.routes = newRoutes(s.cfg, s.log, &commands{t.coordinator}, t.control, t.gateways)
	return t
}

// start begins to deliver events and to keep time.
func (t *term) start() {
	ctx, cancel := context.WithCancel(context.Background())
	t.endKeeping = cancel
	t.events.Start()
	t.keeping.Go(func() { t.coordinator.keepTime(ctx) })
	t.keeping.Go(func() { t.coordinator.history.Run(ctx) })
}

// leaveGateways says goodbye to gateways, and why; their peers stay connected to them. Publishers that wait elsewhere are denied, and
// from now on all others.
func (t *term) leaveGateways(why string) {
	if t.gateways != nil {
		t.gateways.close(why)
	}
	t.coordinator.stop()
	if t.gateways != nil {
		t.gateways.leaveRequests()
	}
}

// leavePeers closes the control connections.
func (t *term) leavePeers() {
	t.control.Close()
	t.coordinator.wait()
	t.endKeeping()
	t.keeping.Wait()
}

// finish delivers events for as long as deliver says, and closes the outbox, which keeps what is left. Any error is the outbox's.
func (t *term) finish(deliver time.Duration) error {
	t.verifier.close()
	ctx, cancel := context.WithTimeout(context.Background(), deliver)
	defer cancel()
	return t.events.Finish(ctx)
}
