package main

// Who may use the commands API: its credentials, and the middleware in front of its handlers.

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"

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

// commandsAuth is what a caller of the commands API has to present.
type commandsAuth struct {
	scheme string // "" (open), "Basic" or "Bearer"
	user   string // of Basic
	secret Secret // the password of Basic or the token of Bearer
}

// Format shows the scheme alone.
func (a commandsAuth) Format(f fmt.State, _ rune) { fmt.Fprint(f, a.scheme) }

// allows takes the same time whatever part of the credentials is wrong.
func (a commandsAuth) allows(r *http.Request) bool {
	switch a.scheme {
	case "":
		return true
	case "Basic":
		user, password, ok := r.BasicAuth()
		return sameSecret(user, a.user)&sameSecret(password, a.secret.Reveal()) == 1 && ok
	case "Bearer":
		scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
		return sameSecret(strings.TrimLeft(token, " "), a.secret.Reveal()) == 1 && ok && strings.EqualFold(scheme, "Bearer")
	}
	return false
}

// sameSecret compares digests, so that not even the length of the secret shows in the time it takes.
func sameSecret(given, wanted string) int {
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(wanted))
	return subtle.ConstantTimeCompare(a[:], b[:])
}
