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

	"coordinator/internal/door"
	"coordinator/internal/host"
	"coordinator/internal/logs"
	"coordinator/internal/timeline"
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

	maxSockets int            // connections that the process may have
	failed     chan error     // why serving ended; has room for one
	background sync.WaitGroup // what serves

	watchers     sync.WaitGroup
	watching     context.Context // of watchers
	stopWatching context.CancelFunc
}

func newShell() *shell {
	s := &shell{maxSockets: door.MaxSockets(), failed: make(chan error, 1)}
	s.watching, s.stopWatching = context.WithCancel(context.Background())
	return s
}

// daemon is a coordinator that keeps its events in DATA_DIR: it leads from its start to its end.
type daemon struct {
	// set once
	*shell
	*term
	metrics *metrics
}

// newDaemon opens the outbox. Whoever has the daemon stops it, started or not. Errors are those of the outbox.
func newDaemon(cfg *Config, log *slog.Logger) (*daemon, error) {
	d := &daemon{shell: newShell()}
	d.metrics = newMetrics(func() clusterState { return d.coordinator.state() })
	around := surroundings{cfg: cfg, log: log, metrics: d.metrics, refusals: logs.NewRefusals(log), timeline: timeline.New(), maxSockets: d.maxSockets}
	events, err := newCallbacks(cfg, around.observe, log)
	if err != nil {
		d.stopWatching()
		return nil, err
	}
	d.term = newTerm(around, events, alwaysLeads{})
	d.answer(d.routes, d.control.Count, around.refusals, log)
	return d, nil
}

// answer makes the server of routes. With the control sockets, of which there are so many, it has no more connections than the process
// may have.
func (s *shell) answer(routes http.Handler, controlSockets func() int, refusals *logs.Refusals, log *slog.Logger) {
	visitors := func() int { return min(door.MaxVisitors, s.maxSockets-controlSockets()) }
	s.server = door.NewServer(routes, visitors, refusals, log)
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
	d.leaveGateways("this coordinator is stopping")
	d.finishServing()
	d.leavePeers()
	d.background.Wait()
	d.server.Wait()
	err := d.finish(deliver)
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
