package main

// Who may use the commands API: the middleware in front of its handlers.

import (
	"net/http"

	"coordinator/internal/httpjson"
)

// authorize lets a request through that carries the configured credentials (RFC 7617, RFC 6750).
func authorize(auth commandsAuth, next http.HandlerFunc) http.HandlerFunc {
	if auth.scheme == "" {
		return next
	}
	challenge := auth.scheme + ` realm="` + programName + `"`
	if auth.scheme == "Basic" {
		challenge += `, charset="UTF-8"`
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if !auth.allows(r) {
			w.Header().Set("WWW-Authenticate", challenge)
			httpjson.Error(w, http.StatusUnauthorized, "authorization required")
			return
		}
		next(w, r)
	}
}
