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

// compare sets the coordinator against the bare program.
func compare(ctx context.Context, o *options) (*report, error) {
	ours, bare, err := o.takeTurns(ctx,
		contenderPlan{"coordinator", coordinatorPackage, o.held},
		contenderPlan{"floor", floorPackage, o.held})
	if err != nil {
		return nil, err
	}
	return newReport(o.profile, []result{ours.seen, bare.seen},
		ratio("CPU time per life, coordinator / floor", "at most 1.7", ours, bare, sample.cpuPerLife),
		ratio("lives per second, coordinator / floor", "at least 0.6", ours, bare, sample.livesPerSecond)), nil
}

// growth sets the coordinator with many live streams against one with few.
func growth(ctx context.Context, o *options) (*report, error) {
	const few = 100
	many, alone, err := o.takeTurns(ctx,
		contenderPlan{fmt.Sprintf("%d live streams", o.streams), coordinatorPackage, o.streams},
		contenderPlan{fmt.Sprintf("%d live streams", few), coordinatorPackage, few})
	if err != nil {
		return nil, err
	}
	return newReport(o.profile, []result{many.seen, alone.seen},
		ratio(fmt.Sprintf("CPU time per life, %d / %d live streams", o.streams, few), "at most 1.15", many, alone, sample.cpuPerLife)), nil
}

type contenderPlan struct {
	name, pkg string
	held      int
}

// takeTurns plays rounds of lives on both in turn, -duration in all for each.
func (o *options) takeTurns(ctx context.Context, plans ...contenderPlan) (a, b *contender, err error) {
	var sides []*contender
	defer func() {
		for _, c := range sides {
			err = errors.Join(err, c.close())
		}
	}()
	for _, plan := range plans {
		o.progress.now("building "+plan.pkg, nil)
		program, err := build(ctx, o.dir, plan.pkg)
		if err != nil {
			return nil, nil, err
		}
		r, err := newRig(ctx, o, rigPlan{name: plan.name, program: program, lives: o.concurrency + plan.held, announcements: 1})
		if err != nil {
			return nil, nil, err
		}
		sides = append(sides, &contender{rig: r})
		if err := o.holdInBackground(ctx, r, r.lives[o.concurrency:]); err != nil {
			return nil, nil, err
		}
		o.warmUp(ctx, r, r.lives[:o.concurrency])
	}
	rounds := roundsOf(o.duration)
	for round := range rounds {
		for _, c := range sides {
			o.progress.now(fmt.Sprintf("round %d/%d %s", round+1, rounds, c.name), c.status)
			s := c.measure(func() { c.closedLoop(ctx, c.lives[:o.concurrency], o.duration/time.Duration(rounds), 0, patience) })
			c.total.add(s)
			c.rounds = append(c.rounds, s)
			if err := rest(ctx, 100*time.Millisecond); err != nil { // what follows from the last life is not the other's
				return nil, nil, err
			}
		}
	}
	for _, c := range sides {
		c.seen = c.result(c.total)
	}
	return sides[0], sides[1], nil
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
