package main

// The URL table of a gateway. Peers find there what they find at a coordinator; what the application and operators ask is
// passed on.

import (
	"log/slog"
	"net/http"
	"strings"

	"coordinator/internal/control"
	"coordinator/internal/gateway"
	"coordinator/internal/probes"
)

// gatewayTable is for a gateway what urlTable is for a coordinator. forwarded are the patterns of what is passed on, with any
// method: the coordinator knows which it takes. /ws/gateway is not among them.
func gatewayTable(g *gateway.Gateway, m *gatewayMetrics, sockets *control.Sockets) (own map[string]methods, forwarded []string) {
	return map[string]methods{
		"/livez":           {"GET": probes.Live},
		"/readyz":          {"GET": probes.Ready(gatewayNotReady(g))},
		"/metrics":         {"GET": m.handler()},
		"/ws/control/rtmp": {"GET": sockets.ServeRTMP},
		"/ws/control/wss":  {"GET": sockets.ServeWSS},
		"/ws/control/hls":  {"GET": sockets.ServeHLS},
	}, []string{"/{$}", "/commands/{path...}", "/dashboard", dashboardForwardedPattern}
}

// newGatewayRoutes answers what the table does not name with 404.
func newGatewayRoutes(cfg *Config, log *slog.Logger, g *gateway.Gateway, m *gatewayMetrics, sockets *control.Sockets) http.Handler {
	mux := http.NewServeMux()
	own, forwarded := gatewayTable(g, m, sockets)
	for _, pattern := range forwarded {
		mux.HandleFunc(pattern, g.Forward)
	}
	mux.HandleFunc("/commands", notFound) // the mux would redirect it
	return newTableHandler(cfg, log, mux, own, sockets)
}

// gatewayNotReady returns the reason for which the answer of /readyz is no, if a coordinator has not answered lately.
func gatewayNotReady(g *gateway.Gateway) func() []string {
	return func() []string {
		if g.Ready() {
			return nil
		}
		return []string{"no coordinator has answered within the last 20 s"}
	}
}

// isForwarded tells whether a pattern is of what a gateway passes on.
func isForwarded(pattern string) bool { return strings.HasSuffix(pattern, "{path...}") }
