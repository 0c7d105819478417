// Package credentials has what callers of an HTTP API must present, and the middleware that asks for it.
package credentials

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"

	"coordinator/internal/httpjson"
	"coordinator/internal/secret"
)

// Credentials are what a caller has to present. The zero value asks for nothing.
type Credentials struct {
	scheme string // "" (open), "Basic" or "Bearer"
	user   string // of Basic
	secret secret.Secret
}

// Basic are a user name and a password (RFC 7617).
func Basic(user string, password secret.Secret) Credentials {
	return Credentials{"Basic", user, password}
}

// Bearer are a token (RFC 6750).
func Bearer(token secret.Secret) Credentials { return Credentials{"Bearer", "", token} }

// Scheme is "Basic" or "Bearer", "" if nothing is asked for.
func (c Credentials) Scheme() string { return c.scheme }

// Format shows the scheme alone.
func (c Credentials) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.scheme) }

// Require lets requests through that carry the credentials, and answers others with 401 and the name of the realm.
func (c Credentials) Require(realm string, next http.HandlerFunc) http.HandlerFunc {
	if c.scheme == "" {
		return next
	}
	challenge := c.scheme + ` realm="` + realm + `"`
	if c.scheme == "Basic" {
		challenge += `, charset="UTF-8"`
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if !c.allow(r) {
			w.Header().Set("WWW-Authenticate", challenge)
			httpjson.Error(w, http.StatusUnauthorized, httpjson.Unauthorized, "authorization required")
			return
		}
		next(w, r)
	}
}

// allow takes the same time whatever part of the credentials is wrong.
func (c Credentials) allow(r *http.Request) bool {
	switch c.scheme {
	case "":
		return true
	case "Basic":
		user, password, ok := r.BasicAuth()
		return sameSecret(user, c.user)&sameSecret(password, c.secret.Reveal()) == 1 && ok
	case "Bearer":
		scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
		return sameSecret(strings.TrimLeft(token, " "), c.secret.Reveal()) == 1 && ok && strings.EqualFold(scheme, "Bearer")
	}
	return false
}

// sameSecret compares digests, so that not even the length of the secret shows in the time it takes.
func sameSecret(given, wanted string) int {
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(wanted))
	return subtle.ConstantTimeCompare(a[:], b[:])
}
