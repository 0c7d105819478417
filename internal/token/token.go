// Package token judges the JSON Web Tokens (RFC 7519) that peers and gateways show, and makes those of gateways.
package token

import (
	"errors"
	"time"

	"coordinator/internal/secret"

	"github.com/golang-jwt/jwt/v5"
)

const (
	maxTokenBytes = 4 << 10
	clockLeeway   = 30 * time.Second // the clocks of peers differ from ours
)

// Fault says what is wrong with a token, "" for nothing: it must be HS256 and nothing else, have the subject, and be valid by
// exp and nbf when they are there. variable is the name of the setting that has the key. The library's own words may quote
// what the peer sent.
func Fault(token string, key secret.Secret, variable, subject string) string {
	if token == "" {
		return "no token: " + variable + " is not set on the peer"
	}
	if len(token) > maxTokenBytes {
		return "token is longer than 4 KiB"
	}
	parsed, err := jwt.ParseWithClaims(token, &claims{}, func(*jwt.Token) (any, error) {
		return []byte(key.Reveal()), nil
	}, jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithLeeway(clockLeeway), jwt.WithSubject(subject))
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return "token is malformed"
	case err != nil && parsed.Method != jwt.SigningMethodHS256:
		return "token's algorithm is not HS256"
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return "token's signature is wrong: the peer has another " + variable
	case errors.Is(err, jwt.ErrTokenExpired):
		return "token has expired: is a clock wrong?"
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return "token is not valid yet: is a clock wrong?"
	case errors.Is(err, jwt.ErrTokenInvalidSubject), errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return "token is for another endpoint: its subject is not " + subject
	case err != nil:
		return "token is not valid"
	}
	return ""
}

// Sign makes a token for a subject that is good for so long.
func Sign(key secret.Secret, subject string, now time.Time, good time.Duration) (string, error) {
	return jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{Subject: subject, ExpiresAt: jwt.NewNumericDate(now.Add(good))}).SignedString([]byte(key.Reveal()))
}
