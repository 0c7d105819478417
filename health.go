package main

// Probes. /livez: the process answers, whatever becomes of application, peers or disk. /readyz: it would take a new
// stream. Both are open to anybody and reveal nothing else; only callers who may use the commands API
// see the reasons.

import (
	"fmt"
	"net/http"

	"coordinator/internal/credentials"
)

func livez(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok") }

// readyz is the handler of /readyz. With ?verbose it says why the answer is no, one reason a line.
func readyz(c *coordinator, required credentials.Credentials) http.HandlerFunc {
	verbose := required.Require(programName, func(w http.ResponseWriter, _ *http.Request) { writeReadiness(w, c.notReady(), true) })
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("verbose") {
			verbose(w, r)
			return
		}
		writeReadiness(w, c.notReady(), false)
	}
}

func writeReadiness(w http.ResponseWriter, reasons []string, verbose bool) {
	if len(reasons) == 0 {
		writeText(w, http.StatusOK, "ready")
		return
	}
	lines := []string{"not ready"}
	if verbose {
		lines = append(lines, reasons...)
	}
	writeText(w, http.StatusServiceUnavailable, lines...)
}

func writeText(w http.ResponseWriter, status int, lines ...string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	for _, line := range lines {
		fmt.Fprintln(w, line)
	}
}
