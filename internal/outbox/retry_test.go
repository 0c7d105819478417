package outbox

import (
	"errors"
	"net/http"
	"testing"
	"time"
)

func TestOnlyAnAnswer200Delivers(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	refused := errors.New("connection refused")
	for name, c := range map[string]struct {
		status     int
		retryAfter string
		err        error
		attempt    int
		rnd        float64
		delivered  bool
		wait       time.Duration
	}{
		"200":                      {status: 200, attempt: 1, delivered: true},
		"200 asking for a retry":   {status: 200, retryAfter: "60", attempt: 1, delivered: true},
		"201":                      {status: 201, attempt: 1, rnd: 0.5, wait: 250 * time.Millisecond},
		"redirect":                 {status: 302, attempt: 1, rnd: 0.5, wait: 250 * time.Millisecond},
		"401":                      {status: 401, attempt: 2, rnd: 0.5, wait: 500 * time.Millisecond},
		"404":                      {status: 404, attempt: 3, rnd: 0.5, wait: time.Second},
		"500":                      {status: 500, attempt: 6, rnd: 0.5, wait: 8 * time.Second},
		"no answer":                {err: refused, attempt: 7, rnd: 0.5, wait: 15 * time.Second},
		"no answer for a year":     {err: refused, attempt: 2_000_000_000, rnd: 0.5, wait: 15 * time.Second},
		"jitter may be nothing":    {status: 500, attempt: 9, rnd: 0, wait: 0},
		"seconds":                  {status: 429, retryAfter: "7", attempt: 1, rnd: 0.5, wait: 7250 * time.Millisecond},
		"seconds on any answer":    {status: 401, retryAfter: " 7 ", attempt: 1, wait: 7 * time.Second},
		"zero seconds":             {status: 503, retryAfter: "0", attempt: 1, rnd: 0.5, wait: 250 * time.Millisecond},
		"too many seconds":         {status: 503, retryAfter: "3600", attempt: 1, wait: 5 * time.Minute},
		"absurdly many seconds":    {status: 503, retryAfter: "99999999999999999999999", attempt: 1, wait: 5 * time.Minute},
		"date":                     {status: 503, retryAfter: now.Add(90 * time.Second).Format(http.TimeFormat), attempt: 1, wait: 90 * time.Second},
		"date, obsolete form":      {status: 503, retryAfter: now.Add(90 * time.Second).Format(time.ANSIC), attempt: 1, wait: 90 * time.Second},
		"date far ahead":           {status: 503, retryAfter: now.AddDate(1, 0, 0).Format(http.TimeFormat), attempt: 1, wait: 5 * time.Minute},
		"date in the past":         {status: 503, retryAfter: now.AddDate(-1, 0, 0).Format(http.TimeFormat), attempt: 1, wait: 0},
		"negative":                 {status: 503, retryAfter: "-5", attempt: 1, wait: 0},
		"fraction":                 {status: 503, retryAfter: "1.5", attempt: 1, wait: 0},
		"nonsense":                 {status: 503, retryAfter: "soon", attempt: 1, wait: 0},
		"200 whose body broke off": {status: 200, err: refused, attempt: 1, rnd: 0.5, wait: 250 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			header := http.Header{}
			if c.retryAfter != "" {
				header.Set("Retry-After", c.retryAfter)
			}
			if c.err != nil {
				header = nil
			}
			delivered, wait := outcome(c.status, header, c.err, c.attempt, now, c.rnd)
			if delivered != c.delivered || wait != c.wait {
				t.Errorf("delivered %v, wait %v; want %v, %v", delivered, wait, c.delivered, c.wait)
			}
		})
	}
}

func TestBackoffDoublesUpToItsLimit(t *testing.T) {
	t.Parallel()
	for attempt, want := range []time.Duration{1: 500, 2: 1000, 3: 2000, 4: 4000, 5: 8000, 6: 16000, 7: 30000, 8: 30000} {
		if got := backoffCeiling(attempt); attempt > 0 && got != want*time.Millisecond {
			t.Errorf("attempt %d: %v, want %v", attempt, got, want*time.Millisecond)
		}
	}
}
