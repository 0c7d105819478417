package main

// What an operator measures of the database that coordinators share.

import (
	"context"
	"time"

	"coordinator/internal/pgstore"

	"github.com/prometheus/client_golang/prometheus"
)

// commits is how commits to the database went.
type commits struct {
	took   prometheus.Histogram
	failed prometheus.Counter
}

func (e exporter) newCommits() commits {
	c := commits{
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    e.role + "_database_commit_duration_seconds",
			Help:    "Time that the database took for each commit that succeeded.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: e.role + "_database_commits_failed_total",
			Help: "Commits to the database that failed or got no answer; they are tried again.",
		}),
	}
	e.registry.MustRegister(c.took, c.failed)
	return c
}

func (c commits) observe(took time.Duration, err error) {
	if err != nil {
		c.failed.Inc()
		return
	}
	c.took.Observe(took.Seconds())
}

// exposeFigures asks the database at each scrape. What it does not answer is left out.
func (e exporter) exposeFigures(ask func(context.Context) (pgstore.Figures, error)) {
	e.registry.MustRegister(figuresCollector{
		ask:      ask,
		deadRows: prometheus.NewDesc(e.role+"_database_dead_rows", "Rows of the coordinator's tables that are dead and not removed yet.", nil, nil),
		snapshot: prometheus.NewDesc(e.role+"_database_oldest_snapshot_seconds", "Age of the oldest snapshot in the database: no row that died since is removed.", nil, nil),
	})
}

type figuresCollector struct {
	ask                func(context.Context) (pgstore.Figures, error)
	deadRows, snapshot *prometheus.Desc
}

func (c figuresCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.deadRows
	out <- c.snapshot
}

func (c figuresCollector) Collect(out chan<- prometheus.Metric) {
	f, err := c.ask(context.Background())
	if err != nil {
		return
	}
	out <- prometheus.MustNewConstMetric(c.deadRows, prometheus.GaugeValue, float64(f.DeadRows))
	out <- prometheus.MustNewConstMetric(c.snapshot, prometheus.GaugeValue, f.OldestSnapshot.Seconds())
}
