package main

// Asks the application whether a key may publish on a channel, and what the stream may have.
//
// Rules: an answer is final, only silence is retried; the whole of it takes 15 s at most, because the streaming server
// gives up at 20 s; the application gets at most 512 of these requests at once, so a slow one holds up nothing else.
// 429, 5xx and what cannot be read deny like any other answer, but are the application's trouble (or its proxy's), not the
// publisher's.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"coordinator/internal/appclient"
	"coordinator/internal/profile"
)

const (
	verifyTimeout     = 15 * time.Second // of one verification, its retries included
	verifyDelay       = 100 * time.Millisecond
	maxVerifyDelay    = 2 * time.Second
	maxVerifyRequests = 512              // to the application at once
	maxUserIPBytes    = 8 << 10          // an address is far shorter; servers refuse longer headers
	troubleEvery      = 30 * time.Second // at least this long between two reports of the application's trouble
)

var (
	errKeyDenied        = errors.New("the application denied the key")
	errNoAnswer         = errors.New("the application did not answer in time")
	errApplicationError = errors.New("the application answered with an error")
)

// answerError is an answer that denies.
type answerError struct {
	reason error // errKeyDenied or errApplicationError
	status int
}

func (e answerError) Error() string { return fmt.Sprintf("%v: status %d", e.reason, e.status) }

func (e answerError) Unwrap() error { return e.reason }

// verification is how one went.
type verification struct {
	channel string
	status  int // 0: there was no answer
	tries   int
	took    time.Duration // in all
	err     error         // what verify returns
}

// keyVerifier asks the application. Any number of goroutines may use it.
type keyVerifier struct {
	// Set once.
	client       *appclient.Client // nil without a URL: every key is valid
	log          *slog.Logger
	requestTurns chan struct{} // holds one item for each request in flight

	observe func(verification) // told of each

	mu sync.Mutex
	// Guarded by mu.
	trouble     bool // that was reported
	reportedAt  time.Time
	lastTrouble time.Time
}

func newKeyVerifier(cfg *Config, observe func(verification), log *slog.Logger) *keyVerifier {
	v := &keyVerifier{log: log, requestTurns: make(chan struct{}, maxVerifyRequests), observe: observe}
	if cfg.KeyVerificationURL != "" {
		v.client = appclient.New(cfg.KeyVerificationURL, cfg.KeyVerificationAuth, maxVerifyRequests, userAgent())
	}
	return v
}

// verify returns what the application allows a stream of this channel and key. Only status 200 accepts.
//
// Errors: errKeyDenied if the application answered with another status, errApplicationError if that was 429 or 5xx
// or the answer cannot be read, errNoAnswer if it did not answer within 15 s, ctx's own error as soon as ctx ends.
func (v *keyVerifier) verify(ctx context.Context, channel, key, userIP string) (allowed profile.Profile, err error) {
	if v.client == nil {
		return profile.Profile{}, nil
	}
	began, result := time.Now(), verification{channel: channel}
	defer func() {
		result.took, result.err = time.Since(began), err
		v.observe(result)
	}()
	header := http.Header{}
	header.Set("x-streaming-channel", appclient.HeaderValue(channel))
	header.Set("x-streaming-key", appclient.HeaderValue(key))
	header.Set("x-user-ip", appclient.HeaderValue(userIP[:min(len(userIP), maxUserIPBytes)]))

	whole, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		asked := time.Now()
		status, reply, err := v.ask(whole, header)
		result.status, result.tries = status, attempt
		if err == nil {
			return v.judge(channel, status, reply, asked)
		}
		if ctx.Err() != nil {
			return profile.Profile{}, ctx.Err()
		}
		if errors.Is(err, appclient.ErrUnreadableReply) {
			if v.troubled() {
				v.log.Warn("application's answers to key verification cannot be read; denying publishers", "error", err)
			}
			return profile.Profile{}, fmt.Errorf("%w: %v", errApplicationError, err)
		}
		// A single failed request is not an outage: an idle connection that was just closed makes one fail on any day.
		if (attempt > 1 || whole.Err() != nil) && v.troubled() {
			v.log.Warn("key verification gets no answer from the application", "error", err)
		}
		pause := verifyBackoff(attempt, rand.Float64())
		if attempt == 1 && errors.Is(err, appclient.ErrDeadConnection) {
			pause = 0 // somebody has waited long enough
		}
		select {
		case <-time.After(pause):
		case <-whole.Done():
			if ctx.Err() != nil {
				return profile.Profile{}, ctx.Err()
			}
			return profile.Profile{}, fmt.Errorf("%w: %v", errNoAnswer, err)
		}
	}
}

// judge turns an answer into what verify returns.
func (v *keyVerifier) judge(channel string, status int, reply http.Header, asked time.Time) (profile.Profile, error) {
	if status == http.StatusTooManyRequests || status/100 == 5 {
		if v.troubled() {
			v.log.Warn("application answers key verification with errors; denying publishers", "status", status)
		}
		return profile.Profile{}, answerError{errApplicationError, status}
	}
	if v.recovered(asked) {
		v.log.Info("key verification gets answers from the application again")
	}
	if status != http.StatusOK {
		return profile.Profile{}, answerError{errKeyDenied, status}
	}
	return v.readProfile(channel, reply), nil
}

// ask makes one request when its turn comes.
func (v *keyVerifier) ask(ctx context.Context, header http.Header) (status int, reply http.Header, err error) {
	select {
	case v.requestTurns <- struct{}{}:
		defer func() { <-v.requestTurns }()
		return v.client.Post(ctx, header)
	case <-ctx.Done():
		return 0, nil, fmt.Errorf("%d requests are waiting for the application: %w", maxVerifyRequests, ctx.Err())
	}
}

// verifyBackoff is the delay after the given attempt (1 is the first): exponential with full jitter, so anything from
// nothing to a bound that doubles from 100 ms to 2 s. random is from [0, 1).
func verifyBackoff(attempt int, random float64) time.Duration {
	bound := min(verifyDelay<<min(attempt-1, 10), maxVerifyDelay)
	return time.Duration(random * float64(bound))
}

// troubled records that the application kept silent or answered with an error, and reports whether that is worth a line:
// when trouble begins, but not more often than every 30 s, for it may come and go with each request.
func (v *keyVerifier) troubled() (worthALine bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	v.lastTrouble = now
	if v.trouble || now.Sub(v.reportedAt) < troubleEvery {
		return false
	}
	v.trouble, v.reportedAt = true, now
	return true
}

// recovered records an answer to what was asked at the given time, and reports whether it ends trouble that was reported.
// What was asked before the last trouble does not count, or an application that answers one of many requests would seem
// to come and go with each.
func (v *keyVerifier) recovered(asked time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.trouble || !asked.After(v.lastTrouble) {
		return false
	}
	v.trouble = false
	return true
}

// readProfile reads the headers of an accepting reply. What it cannot read is left out with a warning.
func (v *keyVerifier) readProfile(channel string, reply http.Header) profile.Profile {
	// A list may come in several header lines (RFC 9110, 5.3).
	resolutions, dropped := profile.ParseResolutions(strings.Join(reply.Values("x-resolutions"), ","))
	if len(dropped) > 0 {
		v.log.Warn("entries of x-resolutions cannot be used and are dropped", "channel", channel, "entries", dropped)
	}
	images, ok := profile.ParsePreviews(reply.Get("x-previews"))
	if !ok {
		v.log.Warn("x-previews cannot be read, there are no previews", "channel", channel, "value", profile.Shortened(reply.Get("x-previews")))
	}
	record := reply.Get("x-record")
	if !profile.ParseRecord(record) && record != "" && !strings.EqualFold(record, "false") {
		v.log.Warn("x-record is neither true nor false, there is no recording", "channel", channel, "value", profile.Shortened(record))
	}
	passthrough, ok := profile.ParsePassthrough(reply.Get("x-passthrough"))
	if !ok {
		v.log.Warn("x-passthrough cannot be used and is left out: it must be printable ASCII of up to 256 bytes", "channel", channel)
	}
	return profile.Profile{Resolutions: resolutions, Record: profile.ParseRecord(record), Previews: images, Passthrough: passthrough}
}

// close gives up the idle connections to the application.
func (v *keyVerifier) close() {
	if v.client != nil {
		v.client.Close()
	}
}
