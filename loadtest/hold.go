package main

// Many connections and streams held: what each costs in memory, at gateways too, and what it costs to be asked about them.

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// After many were made, the coordinator rests before its memory is looked at: it gives back what it had taken for the
// load when that has been over for 5 s.
const restBeforeMemory = 10 * time.Second

func holdMany(ctx context.Context, o *options) (_ *report, err error) {
	connections := o.connections
	if connections == 0 {
		connections = 10000
	}
	r, err := o.theCoordinator(ctx, rigPlan{lives: o.concurrency + o.streams, announcements: 1})
	if err != nil {
		return nil, err
	}
	defer o.finish(r, &err)
	o.warmUp(ctx, r, r.lives[:o.concurrency])

	var figures []figure
	o.progress.now("resting", nil)
	if err := rest(ctx, restBeforeMemory); err != nil {
		return nil, err
	}
	per := func(name, reach, frontReach string, n int, make func() error) error { // begins and ends at rest
		before, frontBefore := r.under.memory(), r.frontMemory()
		o.progress.now(fmt.Sprintf("%d x %s", n, name), r.status)
		start := time.Now()
		if err := make(); err != nil {
			return err
		}
		took := time.Since(start)
		o.progress.now("resting", nil)
		if err := rest(ctx, restBeforeMemory); err != nil {
			return err
		}
		each := func(name, reach string, before, after float64) {
			if after > 0 && n > 0 {
				figures = append(figures, figure{
					Name: name, Value: (after - before) / float64(n), Unit: "KiB", Reach: reach,
					Note: fmt.Sprintf("%d in %.1f s, %.1f -> %.1f MiB", n, took.Seconds(), before/1024, after/1024),
				})
			}
		}
		each("memory of each "+name, reach, before, r.under.memory())
		each("  at its gateway", frontReach, frontBefore, r.frontMemory())
		return nil
	}
	err = per("idle connection", "at most 18 KiB", "at most 14 KiB", connections, func() error {
		_, err := r.attachMany(ctx, connections, 64)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = per("live stream", "at most 1 KiB", "", o.streams, func() error {
		return r.hold(ctx, r.lives[o.concurrency:], 256, func(i int) *peer { return r.servers[i%len(r.servers)] }, patience)
	})
	if err != nil {
		return nil, err
	}
	asked, err := o.askAPI(ctx, r)
	if err != nil {
		return nil, err
	}
	return newReport(o.profile, []result{r.result(sample{}, append(figures, asked...)...)}), ctx.Err()
}

// askAPI asks for everything that grows with the cluster, one request after the other, and then for the capacity while
// reports are made, which shows for how long the coordinator keeps others waiting.
func (o *options) askAPI(ctx context.Context, r *rig) ([]figure, error) {
	var figures []figure
	for _, q := range []struct {
		path      string
		requests  int
		time, cpu string // to reach
	}{
		{"/commands/capacity", 1000, "under 1 ms", ""},
		{"/commands/report", 20, "", "under 60 ms"},
		{"/commands/overview", 100, "", ""},
		{"/commands/streams", 100, "", ""},
		{"/metrics", 100, "", ""},
	} {
		o.progress.now("GET "+q.path, nil)
		cpu := r.under.cpu()
		asked, size, err := r.ask(ctx, q.path, q.requests)
		if err != nil {
			return nil, err
		}
		cpu = r.under.cpu() - cpu
		p := asked.percentiles()
		figures = append(figures,
			figure{Name: "GET " + q.path + " p50", Value: p.P50, Unit: "ms", Reach: q.time, Note: fmt.Sprintf("p99 %.2f, max %.2f ms of %d, %.1f KiB", p.P99, p.Max, q.requests, float64(size)/1024)},
			figure{Name: "  CPU time of each", Value: perLife(cpu, int64(q.requests)), Unit: "ms", Reach: q.cpu})
	}
	o.progress.now("GET /commands/capacity while reports are made", nil)
	meanwhile, err := r.askWhileReporting(ctx)
	if err != nil {
		return nil, err
	}
	m := meanwhile.percentiles()
	return append(figures, figure{Name: "GET /commands/capacity while reports are made p50", Value: m.P50, Unit: "ms", Note: fmt.Sprintf("p99 %.2f, max %.2f ms", m.P99, m.Max)}), nil
}

// askWhileReporting times the capacity every 5 ms while a few reports are made.
func (r *rig) askWhileReporting(ctx context.Context) (*timing, error) {
	reports := make(chan error, 1)
	go func() {
		_, _, err := r.ask(ctx, "/commands/report", 20)
		reports <- err
	}()
	meanwhile := newTiming()
	for {
		select {
		case err := <-reports:
			return meanwhile, err
		case <-time.After(5 * time.Millisecond):
		}
		start := time.Now()
		if _, err := r.get(ctx, "/commands/capacity"); err != nil {
			return nil, errors.Join(err, <-reports)
		}
		meanwhile.record(time.Since(start))
	}
}

// ask makes so many requests one after the other, and returns their times and the size of the last answer.
func (r *rig) ask(ctx context.Context, path string, n int) (*timing, int, error) {
	t := newTiming()
	size := 0
	for range n {
		start := time.Now()
		body, err := r.get(ctx, path)
		if err != nil {
			return nil, 0, err
		}
		t.record(time.Since(start))
		size = len(body)
	}
	return t, size, nil
}
