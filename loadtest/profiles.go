package main

// The profiles of one coordinator under lives: closed loop, open loop, and the application gone for a while.

import (
	"context"
	"math"
	"time"
)

const (
	coordinatorPackage = "coordinator"
	floorPackage       = "coordinator/loadtest/floor"

	warmUp = time.Second

	// How long nothing may go on before what is missing counts as lost: more than the longest pause before an event
	// is sent again.
	patience = 15 * time.Second
	maxRetry = 45 * time.Second
)

// theCoordinator builds and starts this module's coordinator, or takes the one at -addr.
func (o *options) theCoordinator(ctx context.Context, plan rigPlan) (*rig, error) {
	plan.name, plan.gateways = "coordinator", o.gateways
	if o.addr == "" {
		o.progress.now("building the coordinator", nil)
		program, err := build(ctx, o.dir, coordinatorPackage)
		if err != nil {
			return nil, err
		}
		plan.program = program
	}
	o.progress.now("starting", nil)
	return newRig(ctx, o, plan)
}

// holdInBackground brings the streams of -held to life, behind the places of the loop.
func (o *options) holdInBackground(ctx context.Context, r *rig, places []life) error {
	if len(places) == 0 {
		return nil
	}
	o.progress.now("bringing streams to life", r.status)
	return r.hold(ctx, places, o.concurrency, func(i int) *peer { return r.servers[i%len(r.servers)] }, patience)
}

func (o *options) warmUp(ctx context.Context, r *rig, places []life) {
	o.progress.now("warming up", r.status)
	r.closedLoop(ctx, places, warmUp, 0, patience)
	r.forgetTimings()
}

func livesInClosedLoop(ctx context.Context, o *options) (_ *report, err error) {
	r, err := o.theCoordinator(ctx, rigPlan{lives: o.concurrency + o.held, announcements: 1})
	if err != nil {
		return nil, err
	}
	defer o.finish(r, &err)
	places := r.lives[:o.concurrency]
	if err := o.holdInBackground(ctx, r, r.lives[o.concurrency:]); err != nil {
		return nil, err
	}
	if o.count == 0 {
		o.warmUp(ctx, r, places)
	}
	o.progress.now("closed loop", r.status)
	s := r.measure(func() { r.closedLoop(ctx, places, o.duration, o.count, patience) })
	return newReport(o.profile, []result{r.result(s)}), ctx.Err()
}

func livesAtRate(ctx context.Context, o *options) (_ *report, err error) {
	const mostPerSecond = 20000 // room for half of what the closed loop reaches
	rate := o.rate
	room := rate
	if rate == 0 {
		room = mostPerSecond
	}
	places := int(math.Ceil(room * o.duration.Seconds()))
	r, err := o.theCoordinator(ctx, rigPlan{lives: o.concurrency + o.held + places, announcements: 1})
	if err != nil {
		return nil, err
	}
	defer o.finish(r, &err)
	closed := r.lives[:o.concurrency]
	if err := o.holdInBackground(ctx, r, r.lives[o.concurrency:o.concurrency+o.held]); err != nil {
		return nil, err
	}
	o.warmUp(ctx, r, closed)
	var figures []figure
	if rate == 0 {
		o.progress.now("closed loop, for the highest rate", r.status)
		highest := r.measure(func() { r.closedLoop(ctx, closed, o.duration/3, 0, patience) }).livesPerSecond()
		rate = min(highest/2, mostPerSecond)
		figures = append(figures, figure{Name: "highest rate (closed loop)", Value: highest, Unit: "lives/s"})
		r.forgetTimings()
	}
	open := r.lives[o.concurrency+o.held:]
	open = open[:min(len(open), int(rate*o.duration.Seconds()))]
	o.progress.now("open loop", r.status)
	s := r.measure(func() { r.openLoop(ctx, open, rate, patience) })
	res := r.result(s, append(figures, figure{Name: "rate", Value: rate, Unit: "lives/s"})...)
	res.Figures = append(res.Figures, figure{Name: "accept latency p99", Value: res.Accept.P99, Unit: "ms", Reach: "under 10 ms at half the highest rate"})
	return newReport(o.profile, []result{res}), ctx.Err()
}

// outage plays lives at a rate, each with three announcements and an end that does not wait for the application.
// A third of the way in, the application refuses events and cuts their connections; publishers are still let in, so
// that events pile up. Then it is back, and everything must arrive.
func outage(ctx context.Context, o *options) (_ *report, err error) {
	rate := o.rate
	if rate == 0 {
		rate = 200
	}
	r, err := o.theCoordinator(ctx, rigPlan{
		lives:         max(1, int(rate*o.duration.Seconds())),
		announcements: 3,
		endAfter:      200 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	defer o.finish(r, &err)

	var gone []figure
	broken := make(chan error, 1)
	go func() {
		var err error
		gone, err = o.refuseEvents(ctx, r)
		broken <- err
	}()
	o.progress.now("open loop", r.status)
	s := r.measure(func() { r.openLoop(ctx, r.lives, rate, maxRetry+o.outage) })
	if err := <-broken; err != nil {
		return nil, err
	}
	return newReport(o.profile, []result{r.result(s, gone...)}), ctx.Err()
}

// refuseEvents takes the application's event endpoint away for a while, a third of the way into the load, and returns
// when all lives are over that began before it was back, or nothing goes on any more.
func (o *options) refuseEvents(ctx context.Context, r *rig) ([]figure, error) {
	if err := rest(ctx, o.duration/3); err != nil {
		return nil, err
	}
	o.progress.now("application gone", r.status)
	r.app.events.Close()
	stopped := rest(ctx, o.outage)
	waiting, begun, back := r.told.Load()-r.arrived.Load(), r.begun.Load(), time.Now()
	o.progress.now("application back", r.status)
	if err := r.app.events.Listen(r.app.events.Addr); err != nil {
		return nil, err
	}
	for i := range r.lives[:begun] {
		for !r.isFree(&r.lives[i]) && stopped == nil && time.Since(back) < o.outage+o.duration+maxRetry {
			stopped = rest(ctx, 5*time.Millisecond)
		}
	}
	return []figure{
		{Name: "application gone for", Value: o.outage.Seconds(), Unit: "s"},
		{Name: "events waiting when it came back", Value: float64(waiting)},
		{Name: "lives begun before it came back over after", Value: time.Since(back).Seconds(), Unit: "s"},
	}, stopped
}

// rest lets time pass.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish is deferred: what goes wrong at the end is an error of the profile.
func (o *options) finish(r *rig, err *error) {
	o.progress.now("stopping", nil)
	if failed := r.close(); *err == nil {
		*err = failed
	}
}
