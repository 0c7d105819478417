package main

// The one wiring: newDaemon makes all parts, each with what it needs, start sets them going, stop ends them in order.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"coordinator/internal/control"
	"coordinator/internal/door"
	"coordinator/internal/host"
	"coordinator/internal/logs"
)

const (
	// The parts of a stop, one after the other; with what is between them they stay under 10 s.
	finishRequests = time.Second
	deliverEvents  = 4 * time.Second
)

// shell is what a process of each role has around it.
type shell struct {
	// set once
	server *door.Server

	failed        chan error // why serving ended; has room for one
	background    sync.WaitGroup
	endBackground context.CancelFunc // ends what start has started

	watchers     sync.WaitGroup
	watching     context.Context // of watchers
	stopWatching context.CancelFunc
}

func newShell() *shell {
	s := &shell{failed: make(chan error, 1), endBackground: func() {}}
	s.watching, s.stopWatching = context.WithCancel(context.Background())
	return s
}

// daemon is the coordinator with everything around it but its listeners, the certificate and the signals.
type daemon struct {
	// set once
	*shell
	metrics     *metrics
	events      *callbacks
	verifier    *keyVerifier
	coordinator *coordinator
	control     *control.Sockets
	gateways    *gateways // nil: none may link
}

// newDaemon opens the outbox. Whoever has the daemon stops it, started or not. Errors are those of the outbox.
func newDaemon(cfg *Config, log *slog.Logger) (*daemon, error) {
	d := &daemon{shell: newShell()}
	d.metrics = newMetrics(func() clusterState { return d.coordinator.state() })
	observe := func(status int, err error, took time.Duration) {
		d.metrics.eventAttempted(sendResult(status, err), took)
	}
	events, err := newCallbacks(cfg, observe, log)
	if err != nil {
		d.stopWatching()
		return nil, err
	}
	d.events = events
	d.verifier = newKeyVerifier(cfg, d.metrics.keyVerified, log)
	d.coordinator = newCoordinator(cfg, log, d.metrics, d.verifier, d.events)
	refusals := logs.NewRefusals(log)
	if cfg.GatewaySecret != "" {
		d.gateways = newGateways(d.coordinator, cfg, refusals, log)
	} else {
		d.coordinator.goUp()
	}
	d.control = d.open(cfg, log, refusals, d.coordinator.newPeer, d.metrics, func(sockets *control.Sockets) http.Handler {
		return newRoutes(cfg, log, &commands{d.coordinator}, sockets, d.gateways)
	})
	return d, nil
}

// open makes the control sockets and the server of routes. Together they have no more connections than the process may have.
func (s *shell) open(cfg *Config, log *slog.Logger, refusals *logs.Refusals, newPeer func(control.Handshake) control.Peer, counts control.Metrics,
	routes func(*control.Sockets) http.Handler) *control.Sockets {
	most := door.MaxSockets()
	sockets := control.NewSockets(control.Config{
		Secret:   cfg.ControlSecret,
		Max:      most - door.ReservedVisitors,
		NewPeer:  newPeer,
		Metrics:  counts,
		Log:      log,
		Refusals: refusals,
	})
	visitors := func() int { return min(door.MaxVisitors, most-sockets.Count()) }
	s.server = door.NewServer(routes(sockets), visitors, refusals, log)
	return sockets
}

// start begins to deliver events and to keep time.
func (d *daemon) start() {
	ctx, cancel := context.WithCancel(context.Background())
	d.endBackground = cancel
	d.events.Start()
	d.background.Go(func() { d.coordinator.keepTime(ctx) })
	d.background.Go(func() { d.coordinator.history.Run(ctx) })
}

// follow loads the certificate again when its files change: it watches them, and also looks at them at each tick of every
// and at each hangup.
func (s *shell) follow(cert *certificate, every time.Duration, hangup <-chan os.Signal, log *slog.Logger) {
	s.watchers.Go(func() {
		if err := cert.watch(s.watching, every, hangup, log); err != nil {
			log.Warn("cannot stop watching the certificate files", "error", err)
		}
	})
}

// tuneGC lets the garbage collector be tuned until the stop. That is for the whole process: only one daemon in it may do so.
func (s *shell) tuneGC() { s.watchers.Go(func() { host.TuneGC(s.watching) }) }

// serve serves what l accepts: HTTPS, or plain HTTP if secure is nil. It returns at once; what breaks comes out of failed.
func (s *shell) serve(l net.Listener, secure *tls.Config) {
	s.background.Go(func() {
		if err := s.server.Serve(l, secure); !errors.Is(err, http.ErrServerClosed) {
			select {
			case s.failed <- fmt.Errorf("serving on %s: %w", l.Addr(), err):
			default:
			}
		}
	})
}

func (s *shell) failure() <-chan error { return s.failed }

func (d *daemon) exposed() exporter { return d.metrics.exporter }

// stop ends the daemon; call it once. First it says goodbye to gateways, whose peers stay connected to them. It denies publishers
// that wait, closes the listeners, lets requests under way finish and closes the control connections. Then events are delivered, for as long as deliver says; the outbox keeps what is
// left for the next start. Any error comes from the outbox.
func (d *daemon) stop(deliver time.Duration) error {
	if d.gateways != nil {
		d.gateways.close()
	}
	d.coordinator.stop()
	if d.gateways != nil {
		d.gateways.leaveRequests()
	}
	d.finishServing()
	d.control.Close()
	d.coordinator.wait()
	d.endBackground()
	d.background.Wait()
	d.server.Wait()
	d.verifier.close()
	ctx, cancel := context.WithTimeout(context.Background(), deliver)
	defer cancel()
	err := d.events.Finish(ctx)
	d.stopWatching()
	d.watchers.Wait()
	return err
}

// finishServing closes the listeners and lets requests that are being answered finish; it knows nothing of control sockets.
func (s *shell) finishServing() {
	deadline, cancel := context.WithTimeout(context.Background(), finishRequests)
	defer cancel()
	if s.server.Shutdown(deadline) != nil {
		s.server.Close()
	}
}
