package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/logs"
)

func TestStopThatIsCutOffSaysWhyAndWaitsForNobody(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		again  os.Signal // after 3 s; nil: none
		status int
		after  time.Duration
		line   string
	}{
		"it hangs":        {nil, 1, 9500 * time.Millisecond, "coordinator: ended by force: the stop was not done after 9.5s; "},
		"a second signal": {syscall.SIGTERM, 143, 3 * time.Second, "coordinator: ended by force: there was a second signal (terminated) before the stop was done; "},
	} {
		for _, read := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					log, stderr := io.Pipe()
					lines := make(chan string, 1)
					if read {
						go func() {
							text, _ := io.ReadAll(log)
							lines <- string(text)
						}()
					}
					end := make(chan os.Signal, 1)
					if test.again != nil {
						time.AfterFunc(3*time.Second, func() { end <- test.again })
					}
					start := time.Now()
					if status := awaitForce(end, stderr); status != test.status {
						t.Errorf("status %d, want %d", status, test.status)
					}
					want := test.after
					if !read {
						want += 100 * time.Millisecond
					}
					if took := time.Since(start); took != want {
						t.Errorf("took %v, want %v", took, want)
					}
					stderr.Close()
					if !read {
						return
					}
					if text := <-lines; !strings.HasPrefix(text, test.line) || strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
						t.Errorf("%q", text)
					}
				})
			})
		}
	}
}

// fullPipe takes what it is given after some attempts.
type fullPipe struct {
	attempts int
	text     strings.Builder
}

func (p *fullPipe) Write(b []byte) (int, error) {
	if p.attempts--; p.attempts >= 0 {
		return 0, syscall.EAGAIN
	}
	return p.text.Write(b)
}

func TestLastWordsWaitForAPipeThatDoesNotBlock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for attempts, want := range map[int]string{3: "last\n", 1000: ""} {
			pipe := &fullPipe{attempts: attempts}
			began := time.Now()
			sayLast(pipe, "last\n")
			if got := pipe.text.String(); got != want || time.Since(began) > lastWords {
				t.Errorf("%d attempts fail: %q after %v", attempts, got, time.Since(began))
			}
			time.Sleep(lastWords)
		}
	})
}

func TestStartWarnsOfATakeoverThatIsOpenToAnybody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cfg  Config
		want bool
	}{
		{Config{PublishTakeover: true}, true},
		{Config{PublishTakeover: true, KeyVerificationURL: "http://application.example/"}, false},
		{Config{}, false},
	} {
		var out bytes.Buffer
		warnUnprotected(&tt.cfg, logs.New(&out, false, false))
		if got := strings.Contains(out.String(), "PUBLISH_TAKEOVER is YES"); got != tt.want {
			t.Errorf("%+v: a warning is %v, want %v:\n%s", tt.cfg, got, tt.want, &out)
		}
	}
}
