// Coordinator is the control plane of a live-video cluster: it stands between streaming servers, HLS encoders and the
// application that owns users and keys.
package main

// main starts what the command line asks for: run, most of the time, which wires, serves and stops in order.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// The parts of a stop, one after the other; with what is between them they stay under 10 s.
	finishRequests = time.Second
	deliverEvents  = 4 * time.Second

	// stopWithin is for a stop that hangs all the same, on a disk that does not answer.
	stopWithin = 9500 * time.Millisecond
)

func main() {
	// Only SIGTERM and SIGINT end the daemon: not a log whose reader has gone (SIGPIPE), not a terminal that closes or a
	// certbot that renews (SIGHUP), not a key pressed by mistake (SIGQUIT).
	signal.Ignore(syscall.SIGPIPE, syscall.SIGQUIT)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)

	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan os.Signal, 2)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-end
		cancel()
		select {
		case again := <-end: // not left to its default action: where the parent ignores SIGINT, that is to ignore it
			os.Exit(128 + int(again.(syscall.Signal)))
		case <-time.After(stopWithin):
			os.Exit(1)
		}
	}()
	stdlog.SetOutput(io.Discard) // net/http quotes there what servers send unasked, which may hold a key
	i := invocation{args: os.Args[1:], environ: os.Environ(), dotEnv: ".env", stdout: os.Stdout, stderr: os.Stderr, hangup: hangup}
	os.Exit(i.execute(ctx))
}

// run is the daemon: it serves until ctx ends, then stops in order. Its errors are those of the start, of a listener
// that broke, and of events that could not be brought to disk. Each hangup has the certificate looked at.
func run(ctx context.Context, getenv func(string) string, stderr *logWriter, hangup <-chan os.Signal) (err error) {
	cfg, err := loadConfig(getenv)
	if err != nil {
		return err
	}
	log := newLogger(cfg, stderr)
	cert, err := configuredCertificate(cfg)
	if err != nil {
		return err
	}
	var coordinator *coordinator
	events, err := newCallbacks(cfg, func(status int, err error, took time.Duration) {
		coordinator.metrics.eventAttempted(sendResult(status, err), took)
	}, log)
	if err != nil {
		return err
	}
	defer func() {
		deadline, cancel := context.WithTimeout(context.Background(), deliverEvents)
		defer cancel()
		err = errors.Join(err, events.Drain(deadline))
	}()
	listeners, err := listen(cfg, cert)
	if err != nil {
		return err
	}

	warnOpenDoors(cfg, log)
	verifier := newKeyVerifier(cfg, log)
	defer verifier.close()
	coordinator = newCoordinator(cfg, log, verifier, events)
	coordinator.metrics.exposeBuild(version)
	coordinator.metrics.exposeLog(stderr.dropped.Load)
	verifier.observe = coordinator.metrics.keyVerified
	sockets := maxSockets()
	refusals := newRefusals(log)
	control := newControlSockets(cfg, coordinator, sockets-keptVisitors, log, refusals)
	door := newDoor(func() int { return min(maxVisitors, sockets-control.count()) }, refusals)
	server := newHTTPServer(newRoutes(cfg, log, &commands{coordinator}, control), door, log)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer door.running.Wait()
	var background sync.WaitGroup
	defer background.Wait()
	watching, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	if cert != nil {
		coordinator.metrics.exposeCertificate(cert.notAfter)
		background.Go(func() {
			if err := cert.watch(watching, cfg.SSLCheckReload, hangup, log); err != nil {
				log.Warn("cannot stop watching the certificate files", "error", err)
			}
		})
	}
	events.Start()
	background.Go(func() { coordinator.keepTime(watching) })
	if getenv("GOGC") == "" {
		background.Go(func() { tuneGC(watching) })
	}
	background.Go(func() { coordinator.history.run(watching) })
	for _, l := range listeners {
		log.Info("listening", "scheme", l.scheme, "addr", l.Addr().String())
		background.Go(func() {
			if err := server.serve(l.Listener, l.secure); !errors.Is(err, http.ErrServerClosed) {
				cancel(fmt.Errorf("serving %s on %s: %w", l.scheme, l.Addr(), err))
			}
		})
	}
	notify := func(state string) {
		if err := notifySystemd(getenv, state); err != nil {
			log.Warn("systemd is not told", "state", state, "error", err)
		}
	}
	notify("READY=1")

	<-ctx.Done()
	log.Info("stopping")
	notify("STOPPING=1")
	coordinator.stop()
	shutDown(server)
	control.close()
	coordinator.wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// shutDown closes the listeners and lets requests that are being answered finish; it knows nothing of control sockets.
func shutDown(server *httpServer) {
	deadline, cancel := context.WithTimeout(context.Background(), finishRequests)
	defer cancel()
	if server.Shutdown(deadline) != nil {
		server.Close()
	}
}

func warnOpenDoors(cfg *Config, log *slog.Logger) {
	if cfg.ControlSecret == "" {
		log.Warn("CONTROL_SECRET is not set: any peer may connect")
	}
	if cfg.CommandsAuth.scheme == "" {
		log.Warn("COMMANDS_API_AUTH is not set: anybody may use the commands API")
	}
	if cfg.KeyVerificationURL == "" {
		log.Warn("KEY_VERIFICATION_URL is not set: every stream key is valid")
	}
}

func configuredCertificate(cfg *Config) (*certificate, error) {
	if cfg.SSLCert == "" {
		return nil, nil
	}
	return loadCertificate(cfg.SSLCert, cfg.SSLKey)
}

type listener struct {
	net.Listener
	scheme string
	secure *tls.Config // nil: plain HTTP
}

// listen binds all ports or none.
func listen(cfg *Config, cert *certificate) ([]listener, error) {
	plain, err := bind(cfg.BindAddress, cfg.HTTPPort, "HTTP_PORT")
	if err != nil {
		return nil, err
	}
	listeners := []listener{{plain, "http", nil}}
	if cert != nil {
		secure, err := bind(cfg.BindAddress, cfg.SSLPort, "SSL_PORT")
		if err != nil {
			plain.Close()
			return nil, err
		}
		listeners = append(listeners, listener{secure, "https", cert.tlsConfig()})
	}
	return listeners, nil
}

func bind(address string, port int, variable string) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err == nil {
		return l, nil
	}
	aboutPort := errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)
	if address != "" && !aboutPort {
		variable = "BIND_ADDRESS"
	}
	return nil, fmt.Errorf("%s: %w", variable, err)
}
