// Package probes answers what load balancers and orchestrators ask. /livez: the process answers, whatever becomes of application,
// peers or disk. /readyz: it would take a new stream. Both are open to anybody; only the reasons for which it would not can be kept
// from strangers.
package probes

import (
	"fmt"
	"net/http"
)

// Live is the handler of /livez.
func Live(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, "ok") }

// Ready is the handler of /readyz. reasons are why the answer is no; there are none if it is yes. They follow the answer, one a line.
func Ready(reasons func() []string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writeReadiness(w, reasons(), true) }
}

// ReadyProtected is Ready where the reasons follow only with ?verbose, and only if protect lets the request through.
func ReadyProtected(reasons func() []string, protect func(http.HandlerFunc) http.HandlerFunc) http.HandlerFunc {
	verbose := protect(Ready(reasons))
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("verbose") {
			verbose(w, r)
			return
		}
		writeReadiness(w, reasons(), false)
	}
}

func writeReadiness(w http.ResponseWriter, reasons []string, verbose bool) {
	if len(reasons) == 0 {
		write(w, http.StatusOK, "ready")
		return
	}
	lines := []string{"not ready"}
	if verbose {
		lines = append(lines, reasons...)
	}
	write(w, http.StatusServiceUnavailable, lines...)
}

func write(w http.ResponseWriter, status int, lines ...string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	for _, line := range lines {
		fmt.Fprintln(w, line)
	}
}
