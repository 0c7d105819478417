package main

// Many connections and streams held: what each costs in memory, and what it costs to be asked about them.

import (
	"context"
	"fmt"
	"time"
)

const (
	// After many were made, the coordinator rests before its memory is looked at.
	restBeforeMemory = 5 * time.Second

	capacityRequests = 1000
	reportRequests   = 20
)

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
	s := r.measure(func() { o.warmUp(ctx, r, r.lives[:o.concurrency]) })

	var figures []figure
	per := func(name, reach string, n int, make func() error) error {
		if err := rest(ctx, restBeforeMemory); err != nil {
			return err
		}
		before := r.under.memory()
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
		if after := r.under.memory(); after > 0 && n > 0 {
			figures = append(figures, figure{
				Name: "memory of each " + name, Value: (after - before) / float64(n), Unit: "KiB", Reach: reach,
				Note: fmt.Sprintf("%d in %.1f s, %.1f -> %.1f MiB", n, took.Seconds(), before/1024, after/1024),
			})
		}
		return nil
	}
	err = per("idle connection", "at most 18 KiB", connections, func() error {
		_, err := r.attachMany(ctx, connections, 64)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = per("live stream", "at most 1 KiB", o.streams, func() error {
		return r.hold(ctx, r.lives[o.concurrency:], 256, func(i int) *peer { return r.servers[i%len(r.servers)] }, patience)
	})
	if err != nil {
		return nil, err
	}
	asked, err := o.askAPI(ctx, r)
	if err != nil {
		return nil, err
	}
	return newReport(o.profile, []result{r.result(s, append(figures, asked...)...)}), ctx.Err()
}

// askAPI asks for the capacity, then for the report, then for the capacity while reports are made.
func (o *options) askAPI(ctx context.Context, r *rig) ([]figure, error) {
	o.progress.now("asking for capacity and reports", nil)
	capacity, _, err := r.ask(ctx, "/commands/capacity", capacityRequests)
	if err != nil {
		return nil, err
	}
	cpu := r.under.cpu()
	report, size, err := r.ask(ctx, "/commands/report", reportRequests)
	if err != nil {
		return nil, err
	}
	cpu = r.under.cpu() - cpu

	reports := make(chan error, 1)
	go func() {
		_, _, err := r.ask(ctx, "/commands/report", reportRequests)
		reports <- err
	}()
	meanwhile := newTiming()
	for done := false; !done; {
		select {
		case err = <-reports:
			done = true
		case <-time.After(5 * time.Millisecond):
			start := time.Now()
			if _, err := r.get(ctx, "/commands/capacity"); err != nil {
				return nil, err
			}
			meanwhile.record(time.Since(start))
		}
	}
	c, p, m := capacity.percentiles(), report.percentiles(), meanwhile.percentiles()
	return []figure{
		{Name: "GET /commands/capacity p50", Value: c.P50, Unit: "ms", Reach: "under 1 ms", Note: fmt.Sprintf("p99 %.2f ms, max %.2f ms of %d", c.P99, c.Max, capacityRequests)},
		{Name: "GET /commands/report p50", Value: p.P50, Unit: "ms", Note: fmt.Sprintf("max %.0f ms of %d, %.1f MiB", p.Max, reportRequests, float64(size)/(1<<20))},
		{Name: "CPU time of a report", Value: float64(cpu.Milliseconds()) / reportRequests, Unit: "ms", Reach: "under 60 ms"},
		{Name: "capacity while reports are made, p99", Value: m.P99, Unit: "ms", Note: fmt.Sprintf("p50 %.2f ms, max %.2f ms", m.P50, m.Max)},
	}, err
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
