package main

// The whole URL table, the middleware in front of it and the limits of the HTTP servers.

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
)

// methods is what one path answers to. GET serves HEAD, too (RFC 9110, 9.1).
type methods map[string]http.HandlerFunc

func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if h := m[method]; h != nil {
		h(w, r)
		return
	}
	w.Header().Set("Allow", m.allowed())
	writeError(w, http.StatusMethodNotAllowed, "method not allowed")
}

func (m methods) allowed() string {
	var list []string
	for method := range m {
		list = append(list, method)
		if method == http.MethodGet {
			list = append(list, http.MethodHead)
		}
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// urlTable is the one place where an URL meets its handler. The patterns are those of http.ServeMux.
func urlTable(cfg *Config, api *commands, control *controlSockets) map[string]methods {
	protected := func(h http.HandlerFunc) http.HandlerFunc { return authorize(cfg.CommandsAuth, h) }
	dashboard := methods{"GET": protectDashboard(cfg.CommandsAuth, newDashboard())}
	return map[string]methods{
		"/{$}":               {"GET": welcome},
		"/livez":             {"GET": livez},
		"/readyz":            {"GET": readyz(api.coordinator, cfg.CommandsAuth)},
		"/metrics":           {"GET": protected(api.coordinator.metrics.handler())},
		"/commands/capacity": {"GET": protected(api.capacity)},
		"/commands/report":   {"GET": protected(api.report)},
		"/commands/close":    {"POST": protected(api.close)},
		"/commands/overview": {"GET": protected(api.overview)},
		"/commands/streams":  {"GET": protected(api.streams)},
		"/commands/encoders": {"GET": protected(api.encoders)},
		"/commands/servers":  {"GET": protected(api.servers)},
		"/commands/drain":    {"POST": protected(api.drain)},
		"/commands/undrain":  {"POST": protected(api.undrain)},
		"/dashboard":         dashboard,
		"/dashboard/{file}":  dashboard,
		"/ws/control/rtmp":   {"GET": control.rtmp},
		"/ws/control/wss":    {"GET": control.wss},
		"/ws/control/hls":    {"GET": control.hls},
	}
}

// newRoutes answers what the table does not name with 404.
func newRoutes(cfg *Config, log *slog.Logger, api *commands, control *controlSockets) http.Handler {
	mux := http.NewServeMux()
	for pattern, handlers := range urlTable(cfg, api, control) {
		if strings.HasPrefix(pattern, "/ws/control/") {
			mux.Handle(pattern, control.sayWrongMethod(handlers))
		} else {
			mux.Handle(pattern, handlers)
		}
	}
	mux.HandleFunc("/", notFound)
	exact := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path.Clean(r.URL.Path) != r.URL.Path { // the mux would redirect it
			notFound(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
	if !cfg.LogRequests {
		return exact
	}
	return logRequests(log, exact)
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	writeError(w, http.StatusNotFound, "not found")
}

func welcome(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, programName, version)
}

// newHTTPServer sets the limits that hold until a request is answered or its connection became a control socket,
// which sets its own deadlines.
func newHTTPServer(handler http.Handler, door *door, log *slog.Logger) *http.Server {
	server := &http.Server{
		Handler:           door.serving(handler),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	door.guard(server)
	return server
}

// logRequests writes a line for each request that is answered. Queries are left out: they may hold what is private.
func logRequests(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		log.LogAttrs(context.Background(), slog.LevelInfo, "request",
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", rec.status),
			slog.String("remote", r.RemoteAddr), slog.Duration("took", time.Since(start)))
	})
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
