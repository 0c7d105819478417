package main

// The drill of a standby: two coordinators that share PostgreSQL, behind gateways and under load. The one that leads is killed, or
// stopped, again and again, and comes back as the one that stands by. Nothing may be lost or denied, and no peer may notice.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"coordinator/internal/clustertest"
)

const (
	beforeFirstKill = 2 * time.Second
	afterLastKill   = 2 * time.Second
	betweenKills    = time.Second      // from the end of a takeover to the next kill, at least
	takeoverLimit   = 30 * time.Second // publishers who wait are denied after 18 s
)

// failoverDefaults fills in what was left to this profile.
func (o *options) failoverDefaults() {
	if o.gateways == 0 {
		o.gateways = 2
	}
	if o.rate == 0 {
		o.rate = 100
	}
	if o.held == 0 {
		o.held = 100
	}
	if o.killEvery == 0 {
		o.killEvery = 12 * time.Second
		if o.gentle {
			o.killEvery = 4 * time.Second
		}
	}
}

func failover(ctx context.Context, o *options) (_ *report, err error) {
	o.failoverDefaults()
	o.progress.now("starting PostgreSQL", nil)
	database, err := o.openDatabase(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, database.close()) }()
	asking := o.kills * o.servers
	load := int(o.rate*takeoverLimit.Seconds()) + 1 // more than are under way at once
	r, err := o.theCoordinator(ctx, rigPlan{lives: asking + o.held + load, announcements: 2, database: database.url})
	if err != nil {
		return nil, err
	}
	defer o.finish(r, &err)
	r.startsAnew, r.contents = true, newContents()
	held := r.lives[asking : asking+o.held]
	for i := range held {
		held[i].more = (o.pending + len(held) - 1) / len(held)
	}
	if err := o.holdInBackground(ctx, r, held); err != nil {
		return nil, err
	}
	if o.pending > 0 {
		if err := o.keepWaiting(ctx, r, held); err != nil {
			return nil, err
		}
	}
	r.forgetTimings()

	d := &drill{rig: r, options: o, accepted: newTiming(), leads: newTiming(), restored: newTiming()}
	s := r.measure(func() {
		loading, stop := context.WithCancel(ctx)
		defer stop()
		var publishing sync.WaitGroup
		publishing.Go(func() { r.openEnd(loading, r.lives[asking+o.held:], o.rate) })
		err = d.run(ctx, r.lives[:asking])
		stop()
		publishing.Wait()
		if o.pending > 0 {
			o.progress.now("application back", r.status)
			err = errors.Join(err, r.app.events.Listen(r.app.events.Addr))
		}
		o.progress.now("ending all streams", r.status)
		r.endHeld(held)
		r.settle(ctx, maxRetry)
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	s.cpu = 0 // it is that of several processes
	d.lookForTheDead()
	return d.report(r.result(s, d.figures()...)), nil
}

// keepWaiting takes the application's event endpoint away, and has encoders announce more, until all of it waits in the database.
func (o *options) keepWaiting(ctx context.Context, r *rig, held []life) error {
	o.progress.now("application gone", r.status)
	r.app.events.Close()
	for i := range held {
		r.announceMore(&held[i])
	}
	for {
		text, err := r.get(ctx, "/metrics")
		if err != nil {
			return err
		}
		waiting, err := metric(text, "coordinator_events_pending")
		if err != nil {
			return err
		}
		if waiting >= float64(o.pending) {
			return nil
		}
		if err := rest(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// drill is what was seen of the takeovers.
type drill struct {
	*rig
	options *options

	ended    int // how many leaders
	accepted *timing
	leads    *timing
	restored *timing
	last     string   // what the last leader's log says it has restored
	faults   []string // that are in no counter
}

// run ends one leader after the other. asking has the publishers who ask then, as many for each end as there are servers.
func (d *drill) run(ctx context.Context, asking []life) error {
	next := time.Now().Add(beforeFirstKill)
	for n := range d.options.kills {
		d.options.progress.now("under load", d.status)
		if err := rest(ctx, time.Until(next)); err != nil {
			return err
		}
		d.options.progress.now(fmt.Sprintf("end %d of %d of a leader", n+1, d.options.kills), d.status)
		next = time.Now().Add(d.options.killEvery)
		if err := d.endLeader(ctx, asking[n*d.options.servers:(n+1)*d.options.servers]); err != nil {
			return err
		}
		if len(d.faults) > 0 {
			return nil // there is no leader to end
		}
		if soonest := time.Now().Add(betweenKills); next.Before(soonest) {
			next = soonest
		}
	}
	return rest(ctx, afterLastKill)
}

// endLeader ends the coordinator that leads, starts it again, and waits until the other one, or it, has let publishers in who ask when its
// process is no more. Times count from the signal.
func (d *drill) endLeader(ctx context.Context, asking []life) error {
	if err := d.follow(ctx); err != nil {
		d.faults = append(d.faults, err.Error())
		return nil
	}
	leader := d.under
	start := time.Now()
	if d.options.gentle {
		if err := leader.stop(); err != nil {
			d.faults = append(d.faults, err.Error())
		}
	} else {
		leader.kill()
	}
	d.ended++
	for i := range asking {
		d.inFlight.Add(1)
		d.begin(&asking[i], d.serverOf(&asking[i]), time.Now(), false)
	}
	again, err := leader.again(ctx)
	if err != nil {
		return err
	}
	d.under, d.standby = d.standby, again
	return d.awaitTakeover(ctx, start, asking)
}

func (d *drill) awaitTakeover(ctx context.Context, start time.Time, asking []life) error {
	limited, cancel := context.WithDeadline(ctx, start.Add(takeoverLimit))
	defer cancel()
	for i := range asking {
		at, err := asking[i].awaitAnswer(limited)
		if err != nil {
			d.faults = append(d.faults, fmt.Sprintf("a publisher who asked after the end of leader %d had no answer for %v", d.ended, takeoverLimit))
			return ctx.Err()
		}
		if !at.IsZero() { // denials are counted
			d.accepted.record(at.Sub(start))
		}
	}
	if err := d.follow(limited); err != nil {
		d.faults = append(d.faults, err.Error())
		return ctx.Err()
	}
	leads, err := d.under.awaitLine(limited, "this coordinator leads now")
	if err != nil {
		return err
	}
	at, err := time.Parse(time.RFC3339Nano, clustertest.Attribute(" "+leads, "time"))
	if err != nil {
		return err
	}
	if at.Before(start.Truncate(time.Millisecond)) { // as exact as the log
		d.faults = append(d.faults, fmt.Sprintf("the coordinator at %s led before leader %d had ended", d.under.addr, d.ended))
	}
	d.leads.record(at.Sub(start))
	restored, err := d.under.awaitLine(limited, "cluster is there again")
	if err != nil {
		return err
	}
	took, err := time.ParseDuration(clustertest.Attribute(restored, "took"))
	if err != nil {
		return err
	}
	d.restored.record(took)
	_, d.last, _ = strings.Cut(strings.TrimSpace(restored), "gateways\" ")
	return nil
}

// awaitAnswer returns when the publisher was accepted, zero for a denial.
func (l *life) awaitAnswer(ctx context.Context) (time.Time, error) {
	for {
		if at, answered := l.answer(); answered {
			return at, nil
		}
		if err := rest(ctx, 5*time.Millisecond); err != nil {
			return time.Time{}, err
		}
	}
}

func (l *life) answer() (at time.Time, answered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acceptedAt, l.acceptedLocked() || !l.underWay
}

// follow waits until one of the coordinators leads.
func (r *rig) follow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, takeoverLimit)
	defer cancel()
	for {
		for _, d := range []*daemon{r.under, r.standby} {
			if d == nil {
				continue
			}
			if _, err := r.getFrom(ctx, d, "/leader"); err == nil {
				if d != r.under {
					r.under, r.standby = d, r.under
				}
				return nil
			}
		}
		if err := rest(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("no coordinator leads: %w", err)
		}
	}
}

// awaitLine waits for a line of the child's log, and returns the last one with this text.
func (c *daemon) awaitLine(ctx context.Context, part string) (string, error) {
	for {
		text, err := os.ReadFile(c.logs)
		if err != nil {
			return "", err
		}
		last := ""
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, part) && strings.HasSuffix(line, "\n") {
				last = line
			}
		}
		if last != "" {
			return last, nil
		}
		if err := rest(ctx, 5*time.Millisecond); err != nil {
			return "", fmt.Errorf("the log of %s never says %q: %w", c.addr, part, err)
		}
	}
}

// endHeld has the publishers of held streams end. They are under way again until the application has heard of it.
func (f *fleet) endHeld(places []life) {
	for i := range places {
		if generation, held := places[i].letGo(); held {
			f.inFlight.Add(1)
			f.endUnseen(&places[i], generation)
		}
	}
}

func (l *life) letGo() (generation int, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held = l.held && l.underWay
	l.held = false
	return l.generation, held
}

// lookForTheDead finds processes that have ended by themselves.
func (d *drill) lookForTheDead() {
	for _, c := range append([]*daemon{d.under, d.standby}, d.front...) {
		select {
		case <-c.done:
			d.faults = append(d.faults, fmt.Sprintf("the process at %s has ended by itself", c.addr))
		default:
		}
	}
}

func (d *drill) figures() []figure {
	name, reach := "leaders killed (SIGKILL)", "p99 under 10 s"
	if d.options.gentle {
		name, reach = "leaders stopped (SIGTERM)", "under 2 s"
	}
	accepted, leads, restored := d.accepted.percentiles(), d.leads.percentiles(), d.restored.percentiles()
	note := fmt.Sprintf("under %.4g lives/s, with %d live streams and %d gateways", d.options.rate, d.options.held, len(d.front))
	if d.options.pending > 0 {
		note += fmt.Sprintf("; %d events wait for the application", d.options.pending)
	}
	return []figure{
		{Name: name, Value: float64(d.ended), Note: note},
		{Name: "accepted again after, median", Value: accepted.P50 / 1000, Unit: "s", Note: "publishers who ask when the leader's process has ended"},
		{Name: "  p99", Value: accepted.P99 / 1000, Unit: "s", Reach: reach},
		{Name: "  longest", Value: accepted.Max / 1000, Unit: "s"},
		{Name: "the next coordinator leads after, median", Value: leads.P50 / 1000, Unit: "s", Note: fmt.Sprintf("longest %.3g s", leads.Max/1000)},
		{Name: "  and restores all from gateways within, median", Value: restored.P50, Unit: "ms", Note: fmt.Sprintf("longest %.3g ms; the last one: %s", restored.Max, d.last)},
		{Name: "starts made anew under another stream ID", Value: float64(d.anew.Load())},
		{Name: "event IDs with two contents", Value: float64(d.contents.twofold()), Reach: "0"},
	}
}

// report judges the drill. What it was not able to see counts as a fault.
func (d *drill) report(res result) *report {
	r := newReport(d.options.profile, []result{res})
	r.Faults = append(r.Faults, d.faults...)
	if n := d.contents.twofold(); n > 0 {
		r.Faults = append(r.Faults, fmt.Sprintf("%d event IDs with two contents", n))
	}
	if d.ended < d.options.kills {
		r.Faults = append(r.Faults, fmt.Sprintf("%d of %d leaders have ended", d.ended, d.options.kills))
	}
	if res.Lives == 0 {
		r.Faults = append(r.Faults, "no stream was played to its end")
	}
	r.Verdict = fmt.Sprintf("passed: %d of %d leaders have ended, nothing was lost, denied or out of order, and no peer has noticed", d.ended, d.options.kills)
	if len(r.Faults) > 0 {
		r.Verdict = "failed: see the faults"
	}
	return r
}
