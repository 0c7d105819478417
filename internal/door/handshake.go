package door

// Why a TLS handshake failed, in words that tell an operator where to look and hold nothing that the client sent.

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

const (
	tlsRecord        = 22 // the first byte of a TLS connection: a handshake record (RFC 8446, 5.1)
	handshakeTooSlow = "not finished within 10 s"
)

// handshakeFault returns "" if we closed the connection ourselves. answer is for a client
// that does not speak TLS.
func handshakeFault(err error) (reason, answer string) {
	var record tls.RecordHeaderError
	var remote *net.OpError
	switch {
	case errors.Is(err, net.ErrClosed):
		return "", ""
	case errors.Is(err, os.ErrDeadlineExceeded):
		return handshakeTooSlow, ""
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "client closed the connection", ""
	case errors.As(err, &record):
		if looksLikeHTTP(record.RecordHeader) {
			return "client spoke plain HTTP on the HTTPS port", "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
		}
		return "client does not speak TLS", ""
	case errors.As(err, &remote) && remote.Op == "remote error":
		return alertFault(remote.Err.Error()), ""
	}
	// The library has no types for these, and its texts go on with what the client offered.
	for prefix, reason := range map[string]string{
		"tls: client offered only unsupported versions": "client offers only versions before TLS 1.2",
		"tls: no cipher suite supported by both":        "no cipher suite in common: does the client support the kind of key in SSL_KEY?",
		"tls: peer doesn't support any of the cert":     "client does not support the kind of key in SSL_KEY",
		// OpenSSL sends its alert unencrypted where TLS 1.3 wants it encrypted.
		"local error: tls: bad record MAC": "client aborted the handshake, probably because it rejects the certificate",
	} {
		if strings.HasPrefix(err.Error(), prefix) {
			return reason, ""
		}
	}
	return "TLS protocol error", ""
}

// alertFault is for the alerts with which clients abort (RFC 8446, 6.2), by the library's names.
func alertFault(alert string) string {
	switch strings.TrimPrefix(alert, "tls: ") {
	case "expired certificate":
		return "client rejects the certificate: it has expired"
	case "unknown certificate authority":
		return "client rejects the certificate: it does not know who signed it"
	case "bad certificate", "unsupported certificate", "revoked certificate", "unknown certificate":
		return "client rejects the certificate"
	case "protocol version not supported":
		return "client does not support TLS 1.2 or 1.3"
	}
	return "client aborted the handshake with a TLS alert"
}

// looksLikeHTTP tells whether the first bytes are those of a request: a method in capital letters.
func looksLikeHTTP(first [5]byte) bool {
	for _, b := range first[:3] {
		if b < 'A' || b > 'Z' {
			return false
		}
	}
	return true
}
