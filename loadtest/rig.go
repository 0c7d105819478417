package main

// A rig is one coordinator with its application, its gateways and its peers, ready for lives. What a profile does with it is
// bounded; close ends all of it.

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

type rigPlan struct {
	name          string // of the coordinator, in the table
	program       string // "" for the coordinator at options.addr
	lives         int    // places for lives
	announcements int
	endAfter      time.Duration
	gateways      int    // 0: peers dial the coordinator
	database      string // URL; "": one coordinator, with its DATA_DIR
}

type rig struct {
	*fleet
	name    string
	app     *application
	under   *daemon
	standby *daemon   // shares a database with it; nil: there is none
	front   []*daemon // gateways
	http    http.Client

	stopBeat context.CancelFunc
	beating  sync.WaitGroup
}

// newRig starts the application and the coordinator and connects the peers.
func newRig(ctx context.Context, o *options, plan rigPlan) (_ *rig, err error) {
	r := &rig{name: plan.name, fleet: newFleet(plan.announcements, plan.endAfter, plan.lives), stopBeat: func() {}}
	r.http.Timeout, r.http.Transport = time.Minute, &http.Transport{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	keys, events := "127.0.0.1:0", "127.0.0.1:0"
	if plan.program == "" {
		if keys, events, err = applicationAddresses(o.application); err != nil {
			return nil, err
		}
	}
	if r.app, err = newApplication(keys, events, r.take); err != nil {
		return nil, err
	}
	if plan.program == "" {
		r.under = &daemon{addr: o.addr}
	} else if err := r.startPrograms(ctx, o, plan); err != nil {
		return nil, err
	}
	r.dial = []dialler{{r.under.addr, o.secret}}
	if len(r.front) > 0 {
		r.dial = nil
	}
	for _, g := range r.front {
		r.dial = append(r.dial, dialler{g.addr, o.secret})
	}
	others, err := r.encodersRegistered(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.connect(ctx, o.servers, o.encoders); err != nil {
		return nil, err
	}
	if err := r.awaitEncoders(ctx, others+o.encoders); err != nil {
		return nil, err
	}
	beating, stop := context.WithCancel(context.Background())
	r.stopBeat = stop
	r.beating.Go(func() { r.beat(beating) })
	return r, nil
}

// startPrograms starts the coordinator and its gateways, which are the same program.
func (r *rig) startPrograms(ctx context.Context, o *options, plan rigPlan) (err error) {
	common := []string{"CONTROL_SECRET=" + o.secret}
	if plan.gateways > 0 {
		common = append(common, "GATEWAY_SECRET="+rand.Text()+rand.Text())
	}
	store := "DATA_DIR=data"
	if plan.database != "" {
		store = "DATABASE_URL=" + plan.database
	}
	coordinator := append(common[:len(common):len(common)],
		store, "KEY_VERIFICATION_URL="+r.app.keys.URL+"/", "EVENT_CALLBACK_URL="+r.app.events.URL+"/")
	if r.under, err = startChild(ctx, o.dir, plan.program, coordinator...); err != nil {
		return err
	}
	urls := "http://" + r.under.addr
	if plan.database != "" {
		if r.standby, err = startChild(ctx, o.dir, plan.program, coordinator...); err != nil {
			return err
		}
		urls += ",http://" + r.standby.addr
		if err := r.follow(ctx); err != nil {
			return err
		}
	}
	for range plan.gateways {
		g, err := startChild(ctx, o.dir, plan.program, append(common, "COORDINATOR_URL="+urls)...)
		if err != nil {
			return err
		}
		r.front = append(r.front, g)
	}
	return nil
}

// awaitEncoders waits until so many encoders are registered: a publisher that comes before would be denied.
func (r *rig) awaitEncoders(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		registered, err := r.encodersRegistered(ctx)
		if err != nil {
			return err
		}
		if registered >= n {
			return nil
		}
		if err := rest(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d encoders are registered: %w", registered, n, err)
		}
	}
}

func (r *rig) encodersRegistered(ctx context.Context) (int, error) {
	body, err := r.get(ctx, "/commands/capacity")
	if err != nil {
		return 0, err
	}
	var capacity struct {
		EncoderCount int `json:"encoderCount"`
	}
	err = json.Unmarshal(body, &capacity)
	return capacity.EncoderCount, err
}

// applicationAddresses are the address given, for key verification, and the port after it, for events.
func applicationAddresses(addr string) (keys, events string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", "", err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return "", "", fmt.Errorf("port of %s: %w", addr, err)
	}
	return addr, net.JoinHostPort(host, strconv.Itoa(n+1)), nil
}

func (r *rig) close() error {
	r.stopBeat()
	r.beating.Wait()
	r.fleet.close()
	var err error
	for _, g := range r.front { // first: they tell the coordinator that they are not to be waited for
		err = errors.Join(err, g.stop())
	}
	for _, c := range []*daemon{r.standby, r.under} { // in this order: nobody takes over any more
		if c != nil {
			err = errors.Join(err, c.stop())
		}
	}
	if r.app != nil {
		r.app.close()
	}
	r.http.CloseIdleConnections()
	return err
}

// get asks the commands API and returns the body.
func (r *rig) get(ctx context.Context, path string) ([]byte, error) {
	return r.getFrom(ctx, r.under, path)
}

func (r *rig) getFrom(ctx context.Context, d *daemon, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.addr+path, nil)
	if err != nil {
		return nil, err
	}
	reply, err := r.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", path, reply.Status)
	}
	return io.ReadAll(reply.Body)
}

// sample is what a stretch of load took.
type sample struct {
	lives           int64
	elapsed         time.Duration
	cpu, front, own time.Duration // of the coordinator, of all gateways and of this process
}

func (s *sample) add(other sample) {
	s.lives += other.lives
	s.elapsed += other.elapsed
	s.cpu += other.cpu
	s.front += other.front
	s.own += other.own
}

// cpuPerLife is in milliseconds, 0 if it is not known.
func (s sample) cpuPerLife() float64 { return perLife(s.cpu, s.lives) }

// frontPerLife is what all gateways took for a life, as cpuPerLife.
func (s sample) frontPerLife() float64 { return perLife(s.front, s.lives) }

func (s sample) livesPerSecond() float64 {
	if s.elapsed <= 0 {
		return 0
	}
	return float64(s.lives) / s.elapsed.Seconds()
}

// perLife is in milliseconds.
func perLife(d time.Duration, lives int64) float64 {
	if lives == 0 {
		return 0
	}
	return float64(d.Microseconds()) / 1000 / float64(lives)
}

// measure takes the sample of what play does.
func (r *rig) measure(play func()) sample {
	lives, cpu, front, own, start := r.completed.Load(), r.under.cpu(), r.frontCPU(), ownCPU(), time.Now()
	play()
	return sample{
		lives:   r.completed.Load() - lives,
		elapsed: time.Since(start),
		cpu:     r.under.cpu() - cpu,
		front:   r.frontCPU() - front,
		own:     ownCPU() - own,
	}
}

// frontCPU is what all gateways have used.
func (r *rig) frontCPU() (used time.Duration) {
	for _, g := range r.front {
		used += g.cpu()
	}
	return used
}

// frontMemory is the resident memory of all gateways in KiB.
func (r *rig) frontMemory() (kib float64) {
	for _, g := range r.front {
		kib += g.memory()
	}
	return kib
}

// forgetTimings drops what was timed so far: the warm-up.
func (r *rig) forgetTimings() {
	r.accept.reset()
	r.event.reset()
}

// result sums up. It is asked for when the load is over.
func (r *rig) result(s sample, figures ...figure) result {
	lost, unfinished := r.lost()
	return result{
		Target:          r.name,
		Gateways:        len(r.front),
		Lives:           s.lives,
		Seconds:         s.elapsed.Seconds(),
		LivesPerSecond:  s.livesPerSecond(),
		Accept:          r.accept.percentiles(),
		Event:           r.event.percentiles(),
		CPUPerLife:      s.cpuPerLife(),
		FrontCPUPerLife: s.frontPerLife(),
		OwnCPUPerLife:   perLife(s.own, s.lives),
		MemoryKiB:       r.under.memory(),
		FrontMemoryKiB:  r.frontMemory(),
		Connections:     r.app.opened(),
		EventsTold:      r.told.Load(),
		EventsArrived:   r.arrived.Load(),
		Lost:            lost,
		Repeated:        r.repeated.Load(),
		OutOfOrder:      r.outOfOrder.Load(),
		Unexpected:      r.unexpected.Load(),
		Denied:          r.denied.Load(),
		Killed:          r.killed.Load(),
		Unfinished:      unfinished,
		Disconnected:    r.disconnected.Load(),
		Figures:         figures,
	}
}

// status is for the progress line, short enough for a terminal of 80 columns.
func (r *rig) status() string {
	faults := r.outOfOrder.Load() + r.unexpected.Load() + r.denied.Load() + r.killed.Load() + r.disconnected.Load()
	return fmt.Sprintf("%d lives, %d open, %d of %d events, %d faults",
		r.completed.Load(), r.inFlight.Load(), r.arrived.Load(), r.told.Load(), faults)
}
