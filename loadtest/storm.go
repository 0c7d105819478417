package main

// All peers gone and back at once: thousands of streaming servers, each with a live stream, lose their connections in
// the same moment, dial again at once (then every 10 s, as peers do) and publish again. Other peers, whose heartbeats
// come one after the other all the time, tell whether the coordinator had time for them. The encoders stay.

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	bystanders = 100
	redial     = 10 * time.Second
	stormLimit = 60 * time.Second
)

func storm(ctx context.Context, o *options) (_ *report, err error) {
	n := o.connections
	if n == 0 {
		n = 5000
	}
	r, err := o.theCoordinator(ctx, rigPlan{lives: 2 * n, announcements: 1})
	if err != nil {
		return nil, err
	}
	defer o.finish(r, &err)

	o.progress.now("connecting others, whose heartbeats are watched", r.status)
	var others []*peer
	for i := range bystanders {
		p, err := r.attach(ctx, serverKind(i))
		if err != nil {
			return nil, err
		}
		others = append(others, p)
		if err := rest(ctx, heartbeatEvery/bystanders); err != nil {
			return nil, err
		}
	}
	o.progress.now(fmt.Sprintf("connecting %d peers", n), r.status)
	peers, err := r.attachMany(ctx, n, 64)
	if err != nil {
		return nil, err
	}
	if err := r.hold(ctx, r.lives[:n], 256, func(i int) *peer { return peers[i] }, patience); err != nil {
		return nil, err
	}

	o.progress.now("storm", r.status)
	r.lateness.reset()
	r.forgetTimings()
	var figures []figure
	s := r.measure(func() { figures, err = r.comeBack(ctx, peers, r.lives[:n], r.lives[n:]) })
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for _, p := range others {
		r.lateness.record(p.overdue(now))
	}
	late := r.lateness.percentiles()
	figures = append(figures, figure{Name: "heartbeats of others late by at most", Value: late.Max / 1000, Unit: "s", Reach: "at most 1 s"})
	return newReport(o.profile, []result{r.result(s, figures...)}), ctx.Err()
}

// comeBack cuts the peers and lets others take their places, each with a new stream in the places of after. It returns
// when all are registered, all new streams live, and all streams of before closed.
func (r *rig) comeBack(ctx context.Context, peers []*peer, before, after []life) ([]figure, error) {
	ctx, cancel := context.WithTimeout(ctx, stormLimit)
	defer cancel()
	old, err := r.serverIDs(ctx)
	if err != nil {
		return nil, err
	}
	for i := range before {
		r.release(&before[i])
	}
	start := time.Now()
	for _, p := range peers {
		p.cut()
	}
	var back sync.WaitGroup
	var failed, refused atomic.Int64
	for i := range peers {
		r.inFlight.Add(1)
		back.Go(func() {
			for {
				p, err := r.attach(ctx, serverKind(i))
				if err == nil {
					r.begin(&after[i], p, time.Now(), true)
					return
				}
				refused.Add(1)
				if rest(ctx, redial) != nil {
					failed.Add(1)
					return
				}
			}
		})
	}
	registered, err := r.awaitServers(ctx, len(peers), old, start)
	back.Wait()
	if err != nil {
		return nil, fmt.Errorf("%d peers did not come back: %w", failed.Load(), err)
	}
	r.settle(ctx, patience)
	return []figure{
		{Name: fmt.Sprintf("%d peers registered again after", len(peers)), Value: registered.Seconds(), Unit: "s", Reach: "under 5 s", Note: fmt.Sprintf("%d times refused", refused.Load())},
		{Name: "all streams live again and the old ones closed after", Value: time.Since(start).Seconds(), Unit: "s"},
	}, nil
}

// release lets go of a held stream: it is under way again until it is closed.
func (r *rig) release(l *life) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.ended = false, true // its publisher is gone and can't say so
	r.inFlight.Add(1)
}

// awaitServers asks for the report until it shows so many streaming servers besides the old ones.
func (r *rig) awaitServers(ctx context.Context, n int, old map[uint64]bool, start time.Time) (time.Duration, error) {
	for {
		seen, err := r.serverIDs(ctx)
		if err != nil {
			return 0, err
		}
		at := time.Since(start)
		for id := range old {
			delete(seen, id)
		}
		if len(seen) == n {
			return at, nil
		}
		if err := rest(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// serverIDs asks for the report and returns the identities of the streaming servers in it.
func (r *rig) serverIDs(ctx context.Context) (map[uint64]bool, error) {
	body, err := r.get(ctx, "/commands/report")
	if err != nil {
		return nil, err
	}
	var report struct {
		StreamingServers []struct {
			ID uint64 `json:"id"`
		} `json:"streamingServers"`
	}
	if err := json.Unmarshal(body, &report); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	ids := map[uint64]bool{}
	for _, s := range report.StreamingServers {
		ids[s.ID] = true
	}
	return ids, nil
}
