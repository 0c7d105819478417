package main

// The whole URL table, and the middleware in front of it.

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"coordinator/dashboard"
	"coordinator/internal/buildinfo"
	"coordinator/internal/control"
	"coordinator/internal/credentials"
	"coordinator/internal/httpjson"
	"coordinator/internal/link"
	"coordinator/internal/probes"
)

// methods is what one path answers to. GET serves HEAD, too (RFC 9110, 9.1), and OPTIONS is answered for every path, to
// anybody: the health checks of some proxies ask it.
type methods map[string]http.HandlerFunc

func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	switch h := m[method]; {
	case h != nil:
		h(w, r)
	case method == http.MethodOptions:
		w.Header().Set("Allow", m.allowed())
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", m.allowed())
		httpjson.Error(w, http.StatusMethodNotAllowed, httpjson.MethodNotAllowed, "method not allowed")
	}
}

func (m methods) allowed() string {
	list := []string{http.MethodOptions}
	for method := range m {
		list = append(list, method)
		if method == http.MethodGet {
			list = append(list, http.MethodHead)
		}
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

const (
	dashboardFilePattern      = "/dashboard/{file}"
	dashboardForwardedPattern = "/dashboard/{path...}" // of a gateway
)

// urlTable is the one place where a URL meets its handler. The patterns are those of http.ServeMux.
func urlTable(cfg *Config, api *commands, sockets *control.Sockets, gateways *gateways) map[string]methods {
	protected := func(h http.HandlerFunc) http.HandlerFunc { return cfg.CommandsAuth.Require(programName, h) }
	command := func(h http.HandlerFunc) http.HandlerFunc { return protected(api.whenUp(h)) }
	page := methods{"GET": protectDashboard(cfg.CommandsAuth, dashboard.New())}
	table := map[string]methods{
		"/{$}":                     {"GET": welcome},
		"/livez":                   {"GET": probes.Live},
		"/readyz":                  {"GET": probes.ReadyProtected(api.coordinator.notReady, protected)},
		link.LeaderPath:            {"GET": leader(cfg.GatewaySecret, api.coordinator.mandate, gateways.storeID())},
		"/metrics":                 {"GET": protected(api.coordinator.metrics.handler())},
		"/commands/capacity":       {"GET": command(api.capacity)},
		"/commands/report":         {"GET": command(api.report)},
		"/commands/close":          {"POST": command(api.close)},
		"/commands/overview":       {"GET": command(api.overview)},
		"/commands/streams":        {"GET": command(api.streams)},
		"/commands/encoders":       {"GET": command(api.encoders)},
		"/commands/servers":        {"GET": command(api.servers)},
		"/commands/gateways":       {"GET": command(api.gateways)},
		"/commands/timeline":       {"GET": command(api.timeline)},
		"/commands/events":         {"GET": command(api.events)},
		"/commands/events/retry":   {"POST": command(api.retryEvents)},
		"/commands/events/discard": {"POST": command(api.discardEvent)},
		"/commands/drain":          {"POST": command(api.drain)},
		"/commands/undrain":        {"POST": command(api.undrain)},
		"/dashboard":               page,
		dashboardFilePattern:       page,
		"/ws/control/rtmp":         {"GET": sockets.ServeRTMP},
		"/ws/control/wss":          {"GET": sockets.ServeWSS},
		"/ws/control/hls":          {"GET": sockets.ServeHLS},
	}
	if gateways != nil {
		table[link.Path] = methods{"GET": gateways.links.ServeHTTP}
	}
	return table
}

// standbyTable is urlTable for a coordinator that stands by: it answers for itself, and says so of all that is the leader's.
func standbyTable(cfg *Config, m *metrics, notReady func() []string) map[string]methods {
	protected := func(h http.HandlerFunc) http.HandlerFunc { return cfg.CommandsAuth.Require(programName, h) }
	page := methods{"GET": protectDashboard(cfg.CommandsAuth, dashboard.New())}
	atLeader := methods{"GET": standsBy, "POST": standsBy}
	return map[string]methods{
		"/{$}":                {"GET": welcome},
		"/livez":              {"GET": probes.Live},
		"/readyz":             {"GET": probes.ReadyProtected(notReady, protected)},
		link.LeaderPath:       {"GET": leadsNot},
		"/metrics":            {"GET": protected(m.handler())},
		"/commands/{path...}": {"GET": protected(standsBy), "POST": protected(standsBy)},
		"/dashboard":          page,
		dashboardFilePattern:  page,
		"/ws/{path...}":       atLeader,
	}
}

// leader is the handler of /leader at a coordinator that leads. Gateways ask with a nonce, and believe only a proof.
func leader(key Secret, m mandate, store string) http.HandlerFunc {
	said := link.Leader{Leader: true, Epoch: m.Epoch(), Store: store}
	return func(w http.ResponseWriter, r *http.Request) {
		if proof := link.LeaderProof(key, r.Header.Get(link.LeaderNonceHeader), said); proof != "" {
			w.Header().Set(link.LeaderProofHeader, proof)
		}
		httpjson.Write(w, http.StatusOK, said)
	}
}

// standsBy is the answer to what only the leader can do. Behind a balancer the next connection may lead there.
func standsBy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Connection", "close")
	unavailable(w, httpjson.Standby, errStandby)
}

// leadsNot is /leader of a coordinator that stands by.
func leadsNot(w http.ResponseWriter, _ *http.Request) {
	unavailable(w, httpjson.Standby, errStandby)
}

// newRoutes answers what the table does not name with 404.
func newRoutes(cfg *Config, log *slog.Logger, api *commands, sockets *control.Sockets, gateways *gateways) http.Handler {
	return newTableHandler(cfg, log, http.NewServeMux(), urlTable(cfg, api, sockets, gateways), sockets)
}

// newTableHandler registers a URL table with mux, which may hold patterns of its own already, and returns the handler of all of
// it: what neither names gets 404, and requests are logged if the configuration says so.
func newTableHandler(cfg *Config, log *slog.Logger, mux *http.ServeMux, table map[string]methods, sockets *control.Sockets) http.Handler {
	for pattern, handlers := range table {
		if strings.HasPrefix(pattern, "/ws/control/") {
			mux.Handle(pattern, sockets.SayWrongMethod(handlers))
		} else {
			mux.Handle(pattern, handlers)
		}
	}
	mux.HandleFunc("/", notFound)
	exact := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodOptions && r.RequestURI == "*": // about the server itself (RFC 9110, 9.3.7)
			methods{"GET": nil, "POST": nil}.ServeHTTP(w, r)
		case path.Clean(r.URL.Path) != r.URL.Path: // the mux would redirect it
			notFound(w, r)
		default:
			mux.ServeHTTP(w, r)
		}
	})
	if !cfg.LogRequests {
		return exact
	}
	return logRequests(log, exact)
}

// protectDashboard has the browser's own dialogue ask for Basic credentials, which it then sends with the page's
// requests for data, too. For Bearer no browser has such a dialogue: there the page asks.
func protectDashboard(required credentials.Credentials, page http.HandlerFunc) http.HandlerFunc {
	if required.Scheme() == "Basic" {
		return required.Require(programName, page)
	}
	return page
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	httpjson.Error(w, http.StatusNotFound, httpjson.UnknownPath, "not found")
}

func welcome(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, programName, buildinfo.Version())
}

// logRequests writes a line for each request that is answered. What the program has no name for is left out, because it
// can hold a stream key: queries, paths that are not in the URL table, methods that HTTP does not know. The line stays:
// it shows an operator that somebody asks in the wrong place.
func logRequests(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		if r.URL.Path == link.LeaderPath && r.Header.Get(link.LeaderNonceHeader) != "" {
			return // each gateway asks every other second
		}
		log.LogAttrs(context.Background(), slog.LevelInfo, "request",
			slog.String("method", knownMethod(r.Method)), slog.String("path", knownPath(r, rec.status)), slog.Int("status", rec.status),
			slog.String("remote", r.RemoteAddr), slog.Duration("took", time.Since(start)))
	})
}

const unknown = "(unknown)"

// knownPath is asked after the mux has set the pattern. A path that matches one of the table is the pattern itself, but
// for files of the dashboard. A command that a gateway has passed on is known if the coordinator's answer says so.
func knownPath(r *http.Request, status int) string {
	switch {
	case r.Pattern == "" || r.Pattern == "/":
		return unknown
	case r.Pattern == dashboardFilePattern && !dashboard.IsFile(r.PathValue("file")),
		r.Pattern == dashboardForwardedPattern && !dashboard.IsFile(r.PathValue("path")):
		return unknown
	case isForwarded(r.Pattern) && (status == http.StatusNotFound || status >= http.StatusInternalServerError):
		return unknown
	}
	return r.URL.Path
}

func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return method
	}
	return unknown
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (s *statusRecorder) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Hijack is for the WebSocket upgrade, whose status the log shows as 101.
func (s *statusRecorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	s.status = http.StatusSwitchingProtocols
	return http.NewResponseController(s.ResponseWriter).Hijack()
}

// Unwrap is for http.ResponseController.
func (s *statusRecorder) Unwrap() http.ResponseWriter { return s.ResponseWriter }
