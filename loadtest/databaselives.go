package main

// What it costs to keep events in PostgreSQL: lives in an open loop with a coordinator that leads, and another one that stands by.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

func livesWithDatabase(ctx context.Context, o *options) (_ *report, err error) {
	rate := o.rate
	if rate == 0 {
		rate = 1000
	}
	o.progress.now("starting PostgreSQL", nil)
	database, err := o.openDatabase(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, database.close()) }()
	places := int(math.Ceil(rate * o.duration.Seconds()))
	r, err := o.theCoordinator(ctx, rigPlan{lives: o.concurrency + o.held + places, announcements: 1, database: database.url})
	if err != nil {
		return nil, err
	}
	defer o.finish(r, &err)
	if err := o.holdInBackground(ctx, r, r.lives[o.concurrency:o.concurrency+o.held]); err != nil {
		return nil, err
	}
	o.warmUp(ctx, r, r.lives[:o.concurrency])
	if o.snapshot {
		release, err := holdSnapshot(ctx, database.url)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	before, err := r.commits(ctx)
	if err != nil {
		return nil, err
	}
	used := database.cpu()
	o.progress.now("open loop", r.status)
	s := r.measure(func() { r.openLoop(ctx, r.lives[o.concurrency+o.held:], rate, patience) })
	used = database.cpu() - used
	after, err := r.commits(ctx)
	if err != nil {
		return nil, err
	}
	res := r.result(s, figure{Name: "rate", Value: rate, Unit: "lives/s"})
	commits := after.all - before.all
	if commits == 0 {
		return nil, errors.Join(errors.New("the coordinator has committed nothing"), ctx.Err())
	}
	res.Figures = append(res.Figures,
		figure{Name: "accept latency p99", Value: res.Accept.P99, Unit: "ms", Reach: "under 15 ms at 1,000 lives/s"},
		figure{Name: "event latency p99", Value: res.Event.P99, Unit: "ms", Reach: "under 25 ms: by then it is durable, too"},
		figure{Name: "CPU time of the database per life", Value: perLife(used, s.lives) * 1000, Unit: "µs", Reach: "at most 60 at 2,000 lives/s", Note: "of all its processes"},
		figure{Name: "commits within 50 ms", Value: 100 * (after.quick - before.quick) / commits, Unit: "%", Reach: "99"},
		figure{Name: "lives for each commit", Value: float64(s.lives) / commits})
	return newReport(o.profile, []result{res}), ctx.Err()
}

// commitCounts are those of the coordinator to its database.
type commitCounts struct{ all, quick float64 } // quick: within 50 ms

func (r *rig) commits(ctx context.Context) (c commitCounts, err error) {
	text, err := r.get(ctx, "/metrics")
	if err != nil {
		return c, err
	}
	for name, count := range map[string]*float64{`_count`: &c.all, `_bucket{le="0.05"}`: &c.quick} {
		if *count, err = metric(text, "coordinator_database_commit_duration_seconds"+name); err != nil {
			return c, err
		}
	}
	return c, nil
}

// metric returns the value of a series in what /metrics answers.
func metric(text []byte, series string) (float64, error) {
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, series+" "); found {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("the coordinator does not tell %s", series)
}

// holdSnapshot begins to read and does not end: until release is called, dead rows stay in the database.
func holdSnapshot(ctx context.Context, url string) (release func(), err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	release = func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err == nil {
		_, err = tx.Exec(ctx, "SELECT count(*) FROM coordinator_event")
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}
