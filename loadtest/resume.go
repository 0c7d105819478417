package main

// The coordinator killed and started again while gateways hold the sockets of its peers: how long it takes until all of them
// and their streams are there again, and what that moves over the links. No socket may close and nothing may be killed.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// resumeLimit is how long the coordinator has for coming back.
const resumeLimit = 2 * time.Minute

func resume(ctx context.Context, o *options) (_ *report, err error) {
	if o.gateways == 0 {
		o.gateways = 2
	}
	n := o.connections
	if n == 0 {
		n = 10000
	}
	r, err := o.theCoordinator(ctx, rigPlan{lives: o.concurrency + o.streams, announcements: 1})
	if err != nil {
		return nil, err
	}
	defer o.finish(r, &err)
	o.progress.now(fmt.Sprintf("connecting %d peers", n), r.status)
	peers, err := r.attachMany(ctx, n, 64)
	if err != nil {
		return nil, err
	}
	o.progress.now("bringing streams to life", r.status)
	publishing := slices.Concat(r.servers, peers)
	if err := r.hold(ctx, r.lives[o.concurrency:], 256, func(i int) *peer { return publishing[i%len(publishing)] }, patience); err != nil {
		return nil, err
	}
	o.warmUp(ctx, r, r.lives[:o.concurrency])
	if err := rest(ctx, time.Second); err != nil { // what follows from the last life is in the store then
		return nil, err
	}
	figures, err := o.killAndResume(ctx, r)
	if err != nil {
		return nil, err
	}
	o.progress.now("closed loop", r.status)
	s := r.measure(func() { r.closedLoop(ctx, r.lives[:o.concurrency], o.duration, o.count, patience) })
	return newReport(o.profile, []result{r.result(s, figures...)}), ctx.Err()
}

// killAndResume fails if anything is missing when the coordinator is ready again.
func (o *options) killAndResume(ctx context.Context, r *rig) ([]figure, error) {
	ctx, cancel := context.WithTimeout(ctx, resumeLimit)
	defer cancel()
	before, err := r.serverIDs(ctx)
	if err != nil {
		return nil, err
	}
	in, out, err := r.linkBytes(ctx)
	if err != nil {
		return nil, err
	}
	cpu := r.frontCPU()
	frontMemory := r.frontMemory()

	o.progress.now("the coordinator is killed and comes back", r.status)
	r.under.kill()
	r.http.CloseIdleConnections()
	start := time.Now()
	if r.under, err = r.under.again(ctx); err != nil {
		return nil, err
	}
	listening := time.Since(start)
	for {
		if _, err := r.get(ctx, "/readyz"); err == nil {
			break
		}
		if err := rest(ctx, 5*time.Millisecond); err != nil {
			return nil, fmt.Errorf("the coordinator is not ready again: %w", err)
		}
	}
	took := time.Since(start)

	after, err := r.serverIDs(ctx)
	if err != nil {
		return nil, err
	}
	streams, err := r.samples(ctx, r.under, "coordinator_streams")
	if err != nil {
		return nil, err
	}
	if live := int(streams[`coordinator_streams{state="live"}`]); live != o.streams || !maps.Equal(before, after) {
		return nil, fmt.Errorf("%d of %d streams and %d of %d streaming servers are there when the coordinator is ready, or other servers than before", live, o.streams, len(after), len(before))
	}
	figures := []figure{
		{Name: "all is restored after", Value: took.Seconds(), Unit: "s", Reach: "under 5 s",
			Note: fmt.Sprintf("%d streaming servers, %d streams, %d gateways; it listens after %.2f s", len(after), o.streams, len(r.front), listening.Seconds())},
		{Name: "  CPU time of the coordinator", Value: r.under.cpu().Seconds(), Unit: "s", Note: r.under.resumed()},
		{Name: "  CPU time of all gateways", Value: (r.frontCPU() - cpu).Seconds(), Unit: "s"},
		{Name: "  memory of all gateways", Value: r.frontMemory() / 1024, Unit: "MiB", Note: fmt.Sprintf("before: %.1f MiB", frontMemory/1024)},
	}
	in2, out2, err := r.linkBytes(ctx)
	if err != nil {
		return nil, err
	}
	return append(figures,
		figure{Name: "  over the links to the coordinator", Value: (out2 - out) / (1 << 20), Unit: "MiB"},
		figure{Name: "  over the links to gateways", Value: (in2 - in) / (1 << 20), Unit: "MiB"}), nil
}

// resumed is what the log says of it.
func (c *daemon) resumed() string {
	text, err := os.ReadFile(c.logs)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if _, after, found := strings.Cut(line, "cluster is there again"); found {
			_, counts, _ := strings.Cut(after, " sessions=")
			return "log: sessions=" + strings.TrimSpace(counts)
		}
	}
	return ""
}

// linkBytes are the bytes of frames to the gateways and from them, so far.
func (r *rig) linkBytes(ctx context.Context) (in, out float64, err error) {
	const name = "gateway_link_bytes_total"
	for _, g := range r.front {
		values, err := r.samples(ctx, g, name)
		if err != nil {
			return 0, 0, err
		}
		in += values[name+`{direction="in"}`]
		out += values[name+`{direction="out"}`]
	}
	if out == 0 {
		return 0, 0, errors.New("gateways count no bytes on their links")
	}
	return in, out, nil
}

// samples are those of a metric, by its name with labels.
func (r *rig) samples(ctx context.Context, d *daemon, name string) (map[string]float64, error) {
	body, err := r.getFrom(ctx, d, "/metrics")
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || !strings.HasPrefix(line, name) {
			continue
		}
		if values[line[:i]], err = strconv.ParseFloat(strings.TrimSpace(line[i+1:]), 64); err != nil {
			return nil, fmt.Errorf("sample %q: %w", line, err)
		}
	}
	return values, nil
}
