// Package door serves HTTP to anybody who can reach the port: with limits on everything a stranger controls, so that
// connections that send nothing, read nothing or come in thousands cost little and keep nobody else out. A connection that
// becomes a WebSocket leaves it.
package door

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"coordinator/internal/logs"
)

// MaxHeaderBytes is the limit of a request's headers. net/http reads 4 KiB more before it refuses one.
const MaxHeaderBytes = 32 << 10

// Server is an HTTP server behind a door. Its methods may be called from any goroutine.
type Server struct {
	http *http.Server
	door *door
}

// NewServer makes a server of handler. max is how many connections it may have at the moment, those not counted that have
// become WebSockets; it is asked for each new connection. Its limits hold until a request is answered or its connection has
// become a WebSocket, which sets its own deadlines.
func NewServer(handler http.Handler, max func() int, refusals *logs.Refusals, log *slog.Logger) *Server {
	d := &door{max: max, refusals: refusals}
	server := &http.Server{
		Handler:           d.serving(sayPanics(refusals, handler)),
		ReadHeaderTimeout: RequestWithin,
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       idleInServer,
		MaxHeaderBytes:    MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),

		DisableGeneralOptionsHandler: true,
	}
	d.guard(server)
	return &Server{server, d}
}

// Serve serves what l accepts until Shutdown or Close, and returns http.ErrServerClosed then: HTTPS, or plain HTTP if secure
// is nil. Several listeners may be served at a time.
func (s *Server) Serve(l net.Listener, secure *tls.Config) error {
	return s.http.Serve(s.door.listen(l, secure))
}

// Shutdown closes the listeners and waits until the requests under way are answered, or ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close closes the listeners and all connections.
func (s *Server) Close() error { return s.http.Close() }

// Wait returns when nothing of a server that was shut down or closed runs any more.
func (s *Server) Wait() { s.door.running.Wait() }

// sayPanics logs a handler that panics, and where. The connection is closed then. What the panic says is logged only if the
// runtime says it: other words may hold anything.
func sayPanics(refusals *logs.Refusals, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			fault := recover()
			if fault == nil {
				return
			}
			if fault != http.ErrAbortHandler {
				text := fmt.Sprintf("%T", fault)
				if err, ok := fault.(runtime.Error); ok {
					text = err.Error()
				}
				refusals.Say(slog.LevelError, "", "handler panicked", "bug in the handler of "+r.Pattern+", please report it",
					slog.String("remote", r.RemoteAddr), slog.String("panic", text), slog.String("stack", string(debug.Stack())))
			}
			panic(http.ErrAbortHandler) // closes the connection, without a line of the server's
		}()
		next.ServeHTTP(w, r)
	})
}
