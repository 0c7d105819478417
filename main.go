// Coordinator is the control plane of a live-video cluster: it stands between streaming servers, HLS encoders and the
// application that owns users and keys.
package main

//go:generate go run ./internal/manpage

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
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"coordinator/internal/buildinfo"
	"coordinator/internal/host"
	"coordinator/internal/logs"
)

const (
	// stopWithin is for a stop that hangs all the same, on a disk that does not answer.
	stopWithin = 9500 * time.Millisecond
	lastWords  = 100 * time.Millisecond
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
		os.Exit(awaitForce(end, os.Stderr))
	}()
	stdlog.SetOutput(io.Discard) // net/http quotes there what servers send unasked, which may hold a key
	i := invocation{args: os.Args[1:], environ: os.Environ(), dotEnv: ".env", stdout: os.Stdout, stderr: os.Stderr, hangup: hangup}
	os.Exit(i.execute(ctx))
}

// awaitForce waits until the stop that has begun has to be cut off, says so and returns the exit status.
func awaitForce(end <-chan os.Signal, stderr io.Writer) (status int) {
	reason := fmt.Sprintf("the stop was not done after %v", stopWithin)
	status = 1
	select {
	case again := <-end: // handled here: by default nothing would happen if our parent had SIGINT ignored
		reason = fmt.Sprintf("there was a second signal (%v) before the stop was done", again)
		status = 128 + int(again.(syscall.Signal))
	case <-time.After(stopWithin):
	}
	sayLast(stderr, programName+": ended by force: "+reason+
		"; if it hung, look whether the disks and network file systems of DATA_DIR, SSL_CERT and SSL_KEY answer\n")
	return status
}

// sayLast writes a line past the log, whose reader may be what hangs, and waits lastWords at most until it is taken.
func sayLast(stderr io.Writer, line string) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		for until := time.Now().Add(lastWords); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
			if _, err := io.WriteString(stderr, line); !errors.Is(err, syscall.EAGAIN) { // a full pipe that does not block
				return // there is nobody to tell
			}
		}
	}()
	select {
	case <-written:
	case <-time.After(lastWords): // the write ends with the process
	}
}

// run is the daemon: it serves until ctx ends, then stops in order. Its errors are those of the start, of a listener
// that broke, and of events that could not be brought to disk. Each hangup has the certificate looked at.
func run(ctx context.Context, getenv func(string) string, stderr *logs.Writer, hangup <-chan os.Signal) (err error) {
	cfg, err := loadConfig(getenv)
	if err != nil {
		return err
	}
	log := logs.New(stderr, cfg.LogJSON, cfg.LogDebug)
	cert, err := configuredCertificate(cfg)
	if err != nil {
		return err
	}
	build := buildinfo.Get()
	log.Info("starting", "version", build.Version, "commit", build.Commit, "date", build.Date, "go", build.Go)
	d, err := newProcess(cfg, log)
	if err != nil {
		return err
	}
	d.exposed().exposeBuild(build)
	d.exposed().exposeLog(stderr.Dropped)
	defer func() { err = errors.Join(err, d.stop(deliverEvents)) }()
	listeners, err := listen(cfg, cert)
	if err != nil {
		return err
	}
	if cfg.isGateway() {
		warnUnprotectedGateway(cfg, log)
	} else {
		warnUnprotected(cfg, log)
	}
	if cert != nil {
		d.exposed().exposeCertificate(cert.notAfter)
		d.follow(cert, cfg.SSLCheckReload, hangup, log)
	}
	if getenv("GOGC") == "" {
		d.tuneGC()
	}
	d.start()
	for _, l := range listeners {
		log.Info("listening", "scheme", l.scheme, "addr", l.Addr().String())
		d.serve(l.Listener, l.secure)
	}
	tellSystemd(getenv, "READY=1", log)
	select {
	case <-ctx.Done():
	case err = <-d.failure():
	}
	log.Info("stopping")
	tellSystemd(getenv, "STOPPING=1", log)
	return err
}

// process is what runs, in one role or another.
type process interface {
	exposed() exporter
	start()
	serve(l net.Listener, secure *tls.Config)
	follow(cert *certificate, every time.Duration, hangup <-chan os.Signal, log *slog.Logger)
	tuneGC()
	failure() <-chan error // why serving has ended
	stop(deliver time.Duration) error
}

func newProcess(cfg *Config, log *slog.Logger) (process, error) {
	if cfg.isGateway() {
		return newGatewayDaemon(cfg, log), nil
	}
	if cfg.DatabaseURL != "" {
		r, err := newReplica(cfg, log)
		if err != nil { // a nil *replica is no nil process
			return nil, err
		}
		return r, nil
	}
	d, err := newDaemon(cfg, log)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func tellSystemd(getenv func(string) string, state string, log *slog.Logger) {
	if err := host.NotifySystemd(getenv, state); err != nil {
		log.Warn("cannot notify systemd", "state", state, "error", err)
	}
}

func warnUnprotected(cfg *Config, log *slog.Logger) {
	if cfg.ControlSecret == "" {
		log.Warn("CONTROL_SECRET is not set: any peer may connect")
	}
	if cfg.CommandsAuth.Scheme() == "" {
		log.Warn("COMMANDS_API_AUTH is not set: anybody may use the commands API")
	}
	if cfg.KeyVerificationURL == "" {
		log.Warn("KEY_VERIFICATION_URL is not set: every stream key is valid")
		if cfg.PublishTakeover {
			log.Warn("PUBLISH_TAKEOVER is YES and every stream key is valid: whoever reaches a streaming server can take over any channel")
		}
	}
	if cfg.DatabaseURL != "" && cfg.GatewaySecret == "" {
		log.Warn("GATEWAY_SECRET is not set: peers are connected directly, and what is live on them ends when another coordinator takes over; put gateways in front")
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
