package outbox

// Whether an event has been accepted by the application, and if not, when to send it again. Pure: no clock, no randomness
// and no sending of its own.

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	backoffBase   = 500 * time.Millisecond
	backoffMax    = 30 * time.Second
	retryAfterMax = 5 * time.Minute
)

// outcome judges one try. Only an answer with status 200 delivers; everything else is sent again after wait, for ever.
// attempt counts the tries of this event, the first is 1; rnd is in [0, 1). The wait is exponential backoff with full
// jitter, from backoffBase to backoffMax, and comes on top of what the application asks for with Retry-After, whose dates
// are judged once, by the wall clock of now.
func outcome(status int, header http.Header, err error, attempt int, now time.Time, rnd float64) (delivered bool, wait time.Duration) {
	if err == nil && status == http.StatusOK {
		return true, 0
	}
	wait = time.Duration(rnd * float64(backoffCeiling(attempt)))
	if err == nil {
		wait += retryAfter(header.Get("Retry-After"), now)
	}
	return false, wait
}

func backoffCeiling(attempt int) time.Duration {
	ceiling := backoffBase
	for ; attempt > 1 && ceiling < backoffMax; attempt-- {
		ceiling *= 2
	}
	return min(ceiling, backoffMax)
}

// retryAfter reads a Retry-After value, delay-seconds or HTTP-date (RFC 9110, 10.2.3). It gives at most retryAfterMax,
// and 0 for what cannot be read or lies in the past.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		return min(time.Duration(seconds)*time.Second, retryAfterMax)
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, min(date.Sub(now), retryAfterMax))
}
