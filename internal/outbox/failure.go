package outbox

// Why an event was not taken, in few words and few bytes: it is kept for each queue. The words name no address, because that of the
// application may hold a secret.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// answer is how the last try of an event ended; zero: there was none.
type answer struct {
	status  uint16 // of the application's answer; 0: there was none
	failure failure
}

type failure uint8

const (
	noFailure failure = iota
	failureOther
	failureTimeout
	failureRefused
	failureReset
	failureName
	failureTLS
	failureUnread
)

func (a answer) String() string {
	if a.status > 0 {
		return fmt.Sprintf("status %d", a.status)
	}
	return [...]string{
		noFailure:      "",
		failureOther:   "no answer",
		failureTimeout: "no answer in time",
		failureRefused: "connection refused",
		failureReset:   "connection closed without an answer",
		failureName:    "host name not found",
		failureTLS:     "TLS failed",
		failureUnread:  "event could not be read from the disk or the database",
	}[a.failure]
}

// answerOf sums up what Send returns.
func answerOf(status int, err error) answer {
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case err == nil:
		return answer{status: uint16(status)}
	case errors.As(err, &name):
		return answer{failure: failureName}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return answer{failure: failureTimeout}
	case errors.Is(err, syscall.ECONNREFUSED):
		return answer{failure: failureRefused}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return answer{failure: failureReset}
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &record), errors.As(err, &alert):
		return answer{failure: failureTLS}
	}
	return answer{failure: failureOther}
}
