package outbox

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOneFailingStreamAmongOthersIsToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := newEventRecorder()
		app.answer = func(_ context.Context, id string, _ Event) (int, http.Header, error) {
			if id == "bad-1" && app.tries(id) < 30 {
				return 404, nil, nil
			}
			return 200, nil, nil
		}
		var log lockedBuffer
		c, err := resume(newMemoryStore(), app.send, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		c.Start()
		c.Append(availableEvent("bad", 1))
		for seq := 1; app.tries("bad-1") < 30; seq++ {
			c.Append(availableEvent("good", seq))
			time.Sleep(500 * time.Millisecond)
		}
		finished(t, c)
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "did not accept an event") || !strings.Contains(lines[0], "stream=bad") ||
			!strings.Contains(lines[0], "status=404") || !strings.Contains(lines[1], "accepts the events of a stream again") || !strings.Contains(lines[1], "stream=bad") {
			t.Errorf("want a line when it begins and one when it ends:\n%s", log.String())
		}
	})
}

func TestAHundredThousandFailingStreamsDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	var h health
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	told := map[healthNews]int{}
	for hour := now.Add(time.Hour); now.Before(hour); {
		for queue := range uint64(1000) {
			told[h.failed(queue+uint64(now.UnixMilli()), 5, now)]++
			if queue%3 == 0 { // others succeed, so the application as a whole does not fail
				told[h.succeeded(1<<40, now)]++
			}
		}
		now = now.Add(time.Minute / 100)
	}
	if told[streamFails] == 0 || told[streamFails] > streamsReported || told[applicationFails] != 0 {
		t.Errorf("reports in an hour: %v", told)
	}
}

func TestAnApplicationThatFlapsIsToldAtMostTwicePerHalfMinute(t *testing.T) {
	t.Parallel()
	var h health
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	told := map[healthNews]int{}
	for range 100 { // outages of 20 s
		for range 20 {
			told[h.failed(1, 1, now)]++
			now = now.Add(time.Second)
		}
		told[h.succeeded(1, now)]++
	}
	if told[applicationFails] != told[applicationWorks] || told[applicationFails] < 40 || told[applicationFails] > 2000/30 {
		t.Errorf("reports: %v", told)
	}
}

func TestAnApplicationThatAcceptsEventsIsNotSaidToAcceptNone(t *testing.T) {
	t.Parallel()
	var h health
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	told := map[healthNews]int{}
	for range 1000 {
		told[h.succeeded(1, now)]++
		for range 10 * failingAfter { // of many streams, of which some are refused and others meet a dead connection
			told[h.failed(1, 1, now)]++
		}
		if !h.failing() {
			t.Fatal("tries are not paced")
		}
		now = now.Add(acceptingFor - time.Second)
	}
	if told[applicationFails] != 0 {
		t.Errorf("reports: %v", told)
	}
}

func TestFailingBeginsAndEndsWithTheRowOfFailures(t *testing.T) {
	t.Parallel()
	var h health
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var got []healthNews
	for range failingAfter - 1 {
		got = append(got, h.failed(1, 1, now))
	}
	if h.failing() {
		t.Error("failing too early")
	}
	got = append(got, h.failed(2, 1, now), h.failed(2, 2, now))
	if !h.failing() {
		t.Error("not failing")
	}
	got = append(got, h.succeeded(3, now), h.succeeded(2, now))
	want := append(make([]healthNews, failingAfter-1), applicationFails, nothingNew, applicationWorks, nothingNew)
	if diff := cmp.Diff(want, got); diff != "" || h.failing() {
		t.Error(diff, h.failing())
	}
}
