package link

// What proves to each side who the other one is.

import (
	"crypto/hmac"
	"crypto/sha256"
	"time"

	"coordinator/internal/secret"
	"coordinator/internal/token"
)

const (
	// Path is where a coordinator takes links.
	Path = "/ws/gateway"

	// TokenHeader has the gateway's token in the request for a link.
	TokenHeader = "X-Gateway-Auth-Token"

	subject   = "gateway"
	tokenGood = time.Minute
)

// Token is what a gateway shows.
func Token(key secret.Secret, now time.Time) (string, error) {
	return token.Sign(key, subject, now, tokenGood)
}

// TokenFault says what is wrong with what a gateway has shown, "" for nothing.
func TokenFault(shown string, key secret.Secret) string {
	return token.Fault(shown, key, "GATEWAY_SECRET", subject)
}

// MAC proves that its maker has the key: HMAC-SHA256 (RFC 2104) of the nonce of HELLO. A side without a key has none: nil.
func MAC(key secret.Secret, nonce []byte) []byte {
	if key == "" {
		return nil
	}
	h := hmac.New(sha256.New, []byte(key.Reveal()))
	h.Write(nonce)
	return h.Sum(nil)
}

// Proves tells whether mac is that of the key, in constant time.
func Proves(mac []byte, key secret.Secret, nonce []byte) bool {
	return hmac.Equal(mac, MAC(key, nonce))
}
