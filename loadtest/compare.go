package main

// Two programs under the same load in turn. They take turns in short rounds, so that what else the machine does meets
// both, and neither rests long enough to give its memory back; the ratios count, since absolute times differ from machine
// to machine.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	leastRounds  = 6
	longestRound = 2500 * time.Millisecond
)

// roundsOf are as many as it takes for rounds to be short.
func roundsOf(duration time.Duration) int {
	return max(leastRounds, int((duration+longestRound-1)/longestRound))
}

// contender is one side of a comparison.
type contender struct {
	*rig
	total  sample
	rounds []sample
	seen   result
}

// compare sets the coordinator against the bare program, or with -gateways against itself without them.
func compare(ctx context.Context, o *options) (*report, error) {
	if o.gateways > 0 {
		return compareGateways(ctx, o)
	}
	ours, bare, err := o.takeTurns(ctx,
		contenderPlan{"coordinator", coordinatorPackage, o.held, 0},
		contenderPlan{"floor", floorPackage, o.held, 0})
	if err != nil {
		return nil, err
	}
	return newReport(o.profile, []result{ours.seen, bare.seen},
		ratio("CPU time per life, coordinator / floor", "at most 1.7", ours, bare, sample.cpuPerLife),
		ratio("lives per second, coordinator / floor", "at least 0.6", ours, bare, sample.livesPerSecond)), nil
}

// compareGateways sets the coordinator with gateways against one that peers dial: in a closed loop, then at half the highest
// rate that both reach.
func compareGateways(ctx context.Context, o *options) (_ *report, err error) {
	const roomForLives = 20000 // a second
	places := int(roomForLives * o.roundTime().Seconds())
	sides, err := o.contend(ctx, places,
		contenderPlan{fmt.Sprintf("%d gateways", o.gateways), coordinatorPackage, o.held, o.gateways},
		contenderPlan{"direct", coordinatorPackage, o.held, 0})
	defer func() { err = errors.Join(err, closeAll(sides)) }()
	if err != nil {
		return nil, err
	}
	if err := o.closedRounds(ctx, sides); err != nil {
		return nil, err
	}
	with, direct := sides[0], sides[1]
	figures := []figure{
		ratio("CPU time of the coordinator per life, with gateways / direct", "at most 1.15", with, direct, sample.cpuPerLife),
		ratio("lives per second, with gateways / direct", "", with, direct, sample.livesPerSecond),
		{Name: "CPU time per life, gateways / their coordinator", Value: over(with.total.frontPerLife(), with.total.cpuPerLife()), Reach: "under 0.5",
			Note: fmt.Sprintf("all %d gateways together", o.gateways)},
	}
	rate := min(with.total.livesPerSecond(), direct.total.livesPerSecond(), roomForLives) / 2
	figures = append(figures, figure{Name: "half the highest rate of both", Value: rate, Unit: "lives/s"})
	closedAccept, closedEvent := map[*contender]percentiles{}, map[*contender]percentiles{}
	for _, c := range sides {
		closedAccept[c], closedEvent[c] = c.accept.percentiles(), c.event.percentiles()
		c.forgetTimings()
	}
	err = o.inTurns(ctx, sides, "open loop", func(c *contender) {
		places := c.lives[len(c.lives)-places:]
		c.openLoop(ctx, places[:min(len(places), int(rate*o.roundTime().Seconds()))], rate, patience)
	})
	if err != nil {
		return nil, err
	}
	for _, c := range sides {
		p := c.accept.percentiles()
		figures = append(figures, figure{Name: "  accept latency p99, " + c.name, Value: p.P99, Unit: "ms", Note: "p50/p99/p99.9/max: " + p.String()})
	}
	figures = append(figures, figure{Name: "  accept latency p99, with gateways - direct", Value: with.accept.percentiles().P99 - direct.accept.percentiles().P99, Unit: "ms", Reach: "at most 3 ms"})
	var results []result
	for _, c := range sides {
		seen := c.result(c.total) // faults are those of both loops
		seen.Accept, seen.Event = closedAccept[c], closedEvent[c]
		results = append(results, seen)
	}
	return newReport(o.profile, results, figures...), nil
}

// growth sets the coordinator with many live streams against one with few.
func growth(ctx context.Context, o *options) (*report, error) {
	const few = 100
	many, alone, err := o.takeTurns(ctx,
		contenderPlan{fmt.Sprintf("%d live streams", o.streams), coordinatorPackage, o.streams, o.gateways},
		contenderPlan{fmt.Sprintf("%d live streams", few), coordinatorPackage, few, o.gateways})
	if err != nil {
		return nil, err
	}
	return newReport(o.profile, []result{many.seen, alone.seen},
		ratio(fmt.Sprintf("CPU time per life, %d / %d live streams", o.streams, few), "at most 1.15", many, alone, sample.cpuPerLife)), nil
}

type contenderPlan struct {
	name, pkg string
	held      int
	gateways  int
}

// takeTurns plays rounds of lives on both in turn, -duration in all for each.
func (o *options) takeTurns(ctx context.Context, plans ...contenderPlan) (a, b *contender, err error) {
	sides, err := o.contend(ctx, 0, plans...)
	defer func() { err = errors.Join(err, closeAll(sides)) }()
	if err != nil {
		return nil, nil, err
	}
	if err := o.closedRounds(ctx, sides); err != nil {
		return nil, nil, err
	}
	for _, c := range sides {
		c.seen = c.result(c.total)
	}
	return sides[0], sides[1], nil
}

// contend starts all sides and warms them up. Behind the places for its closed loop and what is held, each has some for lives
// in an open loop. Whoever calls it closes those that it returns, with an error, too.
func (o *options) contend(ctx context.Context, open int, plans ...contenderPlan) (sides []*contender, err error) {
	for _, plan := range plans {
		o.progress.now("building "+plan.pkg, nil)
		program, err := build(ctx, o.dir, plan.pkg)
		if err != nil {
			return sides, err
		}
		r, err := newRig(ctx, o, rigPlan{name: plan.name, program: program, lives: o.concurrency + plan.held + open, announcements: 1, gateways: plan.gateways})
		if err != nil {
			return sides, err
		}
		sides = append(sides, &contender{rig: r})
		if err := o.holdInBackground(ctx, r, r.lives[o.concurrency:o.concurrency+plan.held]); err != nil {
			return sides, err
		}
		o.warmUp(ctx, r, r.lives[:o.concurrency])
	}
	return sides, nil
}

func closeAll(sides []*contender) (err error) {
	for _, c := range sides {
		err = errors.Join(err, c.close())
	}
	return err
}

func (o *options) roundTime() time.Duration { return o.duration / time.Duration(roundsOf(o.duration)) }

// closedRounds plays lives in a closed loop.
func (o *options) closedRounds(ctx context.Context, sides []*contender) error {
	return o.inTurns(ctx, sides, "closed loop", func(c *contender) {
		s := c.measure(func() { c.closedLoop(ctx, c.lives[:o.concurrency], o.roundTime(), 0, patience) })
		c.total.add(s)
		c.rounds = append(c.rounds, s)
	})
}

// inTurns plays rounds on all sides in turn.
func (o *options) inTurns(ctx context.Context, sides []*contender, what string, play func(*contender)) error {
	rounds := roundsOf(o.duration)
	for round := range rounds {
		for _, c := range sides {
			o.progress.now(fmt.Sprintf("%s, round %d/%d %s", what, round+1, rounds, c.name), c.status)
			play(c)
			if err := rest(ctx, 100*time.Millisecond); err != nil { // what follows from the last life is not the other's
				return err
			}
		}
	}
	return nil
}

// ratio compares the totals, and notes how far single rounds were apart.
func ratio(name, reach string, a, b *contender, of func(sample) float64) figure {
	var each []float64
	for i := range a.rounds {
		each = append(each, over(of(a.rounds[i]), of(b.rounds[i])))
	}
	return figure{
		Name:  name,
		Value: over(of(a.total), of(b.total)),
		Reach: reach,
		Note:  fmt.Sprintf("rounds: %.2f to %.2f", slices.Min(each), slices.Max(each)),
	}
}

func over(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
