package logs

// What the log says of those who are turned away: why, and not more often than somebody can read.

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
)

// refusalLog is a log of refusals, in lines.
type refusalLog struct {
	*Refusals
	logs *clustertest.Log
}

func newRefusalLog() refusalLog {
	logs := clustertest.NewLog()
	return refusalLog{NewRefusals(New(logs, false, false)), logs}
}

// tell says a refusal and returns what is logged of it, without time and level.
func (l refusalLog) tell(remote, reason string) string {
	l.logs.Forget()
	l.Say(slog.LevelWarn, remote, "refused", reason)
	_, line, _ := strings.Cut(strings.TrimSpace(l.logs.String()), "msg=refused ")
	return line
}

func TestRefusalsGetALineAMinuteForEachAddressAndReason(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newRefusalLog()
		for _, step := range []struct {
			wait           time.Duration
			remote, reason string
			want           string
		}{
			{0, "10.0.0.1:1000", "a", "remote=10.0.0.1 reason=a"},
			{0, "10.0.0.1:1001", "a", ""}, // another port of the same address
			{0, "10.0.0.1:1000", "b", "remote=10.0.0.1 reason=b"},
			{0, "10.0.0.2:1000", "a", "remote=10.0.0.2 reason=a"},
			{0, "[2001:db8::1]:1000", "a", "remote=2001:db8::1 reason=a"},
			{0, "", "a", "reason=a"},
			{time.Minute - 1, "10.0.0.1:1002", "a", ""},
			{1, "10.0.0.1:1003", "a", "remote=10.0.0.1 reason=a repeated=2"},
			{time.Minute, "10.0.0.1:1003", "a", "remote=10.0.0.1 reason=a"},
		} {
			time.Sleep(step.wait)
			if got := l.tell(step.remote, step.reason); got != step.want {
				t.Errorf("%s refused for %s: logged %q, want %q", step.remote, step.reason, got, step.want)
			}
		}
	})
}

func TestRefusalsRememberNoMoreThan1024Addresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newRefusalLog()
		lines := 0
		refuse := func(first, last int) {
			for i := first; i < last; i++ {
				if l.tell(fmt.Sprintf("10.0.%d.%d:1", i>>8, i&255), "a") != "" {
					lines++
				}
			}
		}
		refuse(0, 10_000)
		refuse(0, 10) // these are remembered
		if lines != 1024 || len(l.addresses) != 1024 || l.order.Len() != 1024 {
			t.Errorf("%d lines, and %d addresses are remembered", lines, len(l.addresses))
		}
		time.Sleep(time.Minute)
		if got, want := l.tell("10.0.0.0:1", "a"), "remote=10.0.0.0 reason=a repeated=1 suppressed_others=8976"; got != want {
			t.Errorf("the next line of one that is remembered is %q, want %q", got, want)
		}
		// 10.0.0.1, whose last line is the oldest now, makes room; it was refused once more than was logged.
		if got, want := l.tell("192.0.2.1:1", "a"), "remote=192.0.2.1 reason=a suppressed_others=1"; got != want {
			t.Errorf("the first line of a new one is %q, want %q", got, want)
		}
		refuse(20_000, 30_000)
		if len(l.addresses) != 1024 {
			t.Errorf("%d addresses are remembered", len(l.addresses))
		}
	})
}

// What is about the daemon itself is said, however many strangers are turned away.
func TestStrangersDoNotHideWhatIsAboutNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newRefusalLog()
		for i := range 2 * maxRefusedAddresses {
			l.tell(fmt.Sprintf("10.0.%d.%d:1", i>>8, i&255), "a")
		}
		if got, want := l.tell("", "too many open files"), `reason="too many open files" suppressed_others=1024`; got != want {
			t.Errorf("logged %q, want %q", got, want)
		}
	})
}

func TestWhoIsKnownByNameHasLinesOfItsOwn(t *testing.T) {
	t.Parallel()
	l := newRefusalLog()
	for _, name := range []string{"gateway a", "gateway a", "gateway b"} {
		l.SayOf(slog.LevelWarn, name, "10.0.0.1:1000", "absent", "silent", slog.String("name", name))
	}
	l.Say(slog.LevelWarn, "10.0.0.1:1000", "absent", "silent")
	if got := strings.Count(l.logs.String(), "msg=absent remote=10.0.0.1 reason=silent"); got != 3 {
		t.Errorf("%d lines:\n%s", got, l.logs)
	}
}
