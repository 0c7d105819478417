package outbox

// Converts the times of events to the monotonic clock. The disk keeps wall times only, and an operator or NTP may set the
// wall clock at any moment, either way: no deadline and no age may follow it. Pure; delivery guards it with its lock.

import (
	"math"
	"slices"
	"time"
)

const (
	longAgo      = time.Duration(math.MinInt64 / 2)
	smallestStep = time.Second // smaller steps of the wall clock are ignored: ages may be off by this much
	stepsKept    = 64
)

// eventClock gives times as durations since it began, which nobody can set.
type eventClock struct {
	began time.Time
	steps []clockStep // oldest first; the first one is the beginning
}

// clockStep is a setting of the wall clock, as the events after it have shown it.
type clockStep struct {
	from  time.Duration // when the first of them happened
	ahead time.Duration // how far the wall clock is ahead of where it stood at the beginning
}

func newEventClock(now time.Time) eventClock {
	return eventClock{began: now, steps: []clockStep{{from: longAgo}}}
}

// at converts a time of this process, which has a monotonic reading.
func (c *eventClock) at(t time.Time) time.Duration { return t.Sub(c.began) }

// byWall converts a time read from disk, which has no monotonic reading. It is wrong once the wall clock was set.
func (c *eventClock) byWall(t time.Time) time.Duration { return t.Round(0).Sub(c.began.Round(0)) }

// observe finds out from an event of this process whether the wall clock was set. Events come in the order in which they
// happened, or nearly so.
func (c *eventClock) observe(t time.Time) {
	at := c.at(t)
	ahead := c.byWall(t) - at
	if step := ahead - c.steps[len(c.steps)-1].ahead; step.Abs() < smallestStep {
		return
	}
	if len(c.steps) == stepsKept {
		c.steps = slices.Delete(c.steps, 1, 2)
	}
	c.steps = append(c.steps, clockStep{from: at, ahead: ahead})
}

// happened converts a wall time read from disk, clamped to [earliest, now]; earliest is the time of the previous event in the
// queue. After a step back the same wall time comes twice: the first one counts, so that no event looks younger than it is.
func (c *eventClock) happened(wall time.Time, earliest, now time.Duration) time.Duration {
	at := earliest
	for i, step := range c.steps {
		t := c.byWall(wall) - step.ahead
		if t+smallestStep >= max(step.from, earliest) && (i+1 == len(c.steps) || t < c.steps[i+1].from) {
			at = max(t, earliest)
			break
		}
	}
	return min(at, now)
}
