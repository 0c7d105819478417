package main

// The whole URL table, the middleware in front of it and the limits of the HTTP servers.

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
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

// newRoutes is the one place where an URL meets its handler.
func newRoutes(cfg *Config, log *slog.Logger, api *commands, control *controlSockets) http.Handler {
	protected := func(h http.HandlerFunc) http.HandlerFunc { return authorize(cfg.CommandsAuth, h) }

	mux := http.NewServeMux()
	mux.Handle("/{$}", methods{"GET": welcome})
	mux.Handle("/livez", methods{"GET": livez})
	mux.Handle("/readyz", methods{"GET": readyz(api.coordinator, cfg.CommandsAuth)})
	mux.Handle("/commands/capacity", methods{"GET": protected(api.capacity)})
	mux.Handle("/commands/report", methods{"GET": protected(api.report)})
	mux.Handle("/commands/overview", methods{"GET": protected(api.overview)})
	mux.Handle("/commands/streams", methods{"GET": protected(api.streams)})
	mux.Handle("/commands/encoders", methods{"GET": protected(api.encoders)})
	mux.Handle("/commands/servers", methods{"GET": protected(api.servers)})
	mux.Handle("/commands/drain", methods{"POST": protected(api.drain)})
	mux.Handle("/commands/undrain", methods{"POST": protected(api.undrain)})
	mux.Handle("/metrics", methods{"GET": protected(api.coordinator.metrics.handler())})
	mux.Handle("/commands/close", methods{"POST": protected(api.close)})
	dashboard := methods{"GET": protectDashboard(cfg.CommandsAuth, newDashboard())}
	mux.Handle("/dashboard", dashboard)
	mux.Handle("/dashboard/{file}", dashboard)
	mux.Handle("/ws/control/rtmp", methods{"GET": control.rtmp})
	mux.Handle("/ws/control/wss", methods{"GET": control.wss})
	mux.Handle("/ws/control/hls", methods{"GET": control.hls})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, "not found")
	})
	if !cfg.LogRequests {
		return mux
	}
	return logRequests(log, mux)
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
