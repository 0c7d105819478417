package main

// The wiring of a gateway, with start and stop.

import (
	"log/slog"
	"net/netip"
	"net/url"
	"time"

	"coordinator/internal/buildinfo"
	"coordinator/internal/control"
	"coordinator/internal/gateway"
	"coordinator/internal/logs"
)

// gatewayDaemon is a gateway with everything around it but its listeners, the certificate and the signals.
type gatewayDaemon struct {
	// set once
	*shell
	metrics *gatewayMetrics
	gateway *gateway.Gateway
	control *control.Sockets
}

func newGatewayDaemon(cfg *Config, log *slog.Logger) *gatewayDaemon {
	d := &gatewayDaemon{shell: newShell()}
	d.gateway = gateway.New(gateway.Config{
		URLs:          cfg.CoordinatorURLs,
		Secret:        cfg.GatewaySecret,
		ControlSecret: cfg.ControlSecret,
		Version:       buildinfo.Version(),
		Log:           log,
	})
	d.metrics = newGatewayMetrics(d.gateway.State)
	around := surroundings{cfg: cfg, log: log, refusals: logs.NewRefusals(log), maxSockets: d.maxSockets}
	d.control = around.newSockets(d.gateway.NewPeer, d.metrics)
	d.answer(newGatewayRoutes(cfg, log, d.gateway, d.metrics, d.control), d.control.Count, around.refusals, log)
	return d
}

// start begins to look for a coordinator.
func (d *gatewayDaemon) start() { d.gateway.Start() }

func (d *gatewayDaemon) exposed() exporter { return d.metrics.exporter }

// stop ends the gateway: listeners close, requests under way finish, and the coordinator is told before the control connections
// are closed. It is called once.
func (d *gatewayDaemon) stop(time.Duration) error {
	d.finishServing()
	d.gateway.Stop()
	d.control.Close()
	d.background.Wait()
	d.server.Wait()
	d.stopWatching()
	d.watchers.Wait()
	return nil
}

func warnUnprotectedGateway(cfg *Config, log *slog.Logger) {
	if cfg.ControlSecret == "" {
		log.Warn("CONTROL_SECRET is not set: any peer may connect")
	}
	for _, u := range cfg.CoordinatorURLs {
		if isInsecure(u) {
			log.Warn("COORDINATOR_URL is http:// to another machine: whoever can listen in between sees stream keys; use https://", "url", u.String())
		}
	}
}

// isInsecure tells whether others can listen to a link.
func isInsecure(coordinator *url.URL) bool {
	host := coordinator.Hostname()
	addr, err := netip.ParseAddr(host)
	isThisMachine := host == "localhost" || err == nil && addr.IsLoopback()
	return coordinator.Scheme == "http" && !isThisMachine
}
