package outbox

// When events happened, by the monotonic clock. The disk keeps their wall times only, and an operator or NTP may set the
// wall clock at any moment, either way: no deadline and no age may follow it. Pure; delivery guards it with its lock.

import (
	"math"
	"slices"
	"time"
)

const (
	longAgo      = time.Duration(math.MinInt64 / 2)
	smallestStep = time.Second // of the wall clock that is worth a record; ages are as exact as that
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

// at is for times of this process, which have a monotonic reading.
func (c *eventClock) at(t time.Time) time.Duration { return t.Sub(c.began) }

// byWall is for all others. It is right as long as nobody has set the wall clock.
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

// happened is when an event happened of which the disk has kept the wall time: not before earliest, which is when the one
// before it in its queue did, and not after now. After a step back the same wall time comes twice: the first one counts,
// so that no event looks younger than it is.
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
