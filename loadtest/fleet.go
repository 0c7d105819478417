package main

// The peers of one coordinator, the lives they play, and how lives follow each other: in a closed loop (the next one
// begins when one is over) or an open one (at a rate, whatever became of those before).

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

type fleet struct {
	// set once
	dial          []dialler     // that peers use in turn
	prefix        string        // of channels, another one in each run
	announcements int           // STREAM-AVAILABLE of each life
	endAfter      time.Duration // a life ends so long after its accept at the latest; 0: when the application knows of it
	lives         []life
	startsAnew    bool      // coordinators end meanwhile: the next one may start anew what the encoder has not heard of
	contents      *contents // nil: not looked at
	readers       sync.WaitGroup

	counters
	accept, event, lateness *timing

	attached  atomic.Int64 // peers, ever
	running   atomic.Bool  // a closed loop
	remaining atomic.Int64 // lives that it may still begin
	inFlight  atomic.Int64
	idle      chan struct{} // told when nothing is in flight

	mu sync.Mutex
	// guarded by mu
	servers, encoders []*peer
	peers             map[*peer]struct{} // all that are connected
}

func newFleet(announcements int, endAfter time.Duration, lives int) *fleet {
	f := &fleet{
		prefix:        "load" + strconv.FormatInt(time.Now().UnixMilli(), 36) + "-",
		announcements: announcements,
		endAfter:      endAfter,
		lives:         make([]life, lives),
		accept:        newTiming(),
		event:         newTiming(),
		lateness:      newTiming(),
		idle:          make(chan struct{}, 1),
		peers:         map[*peer]struct{}{},
	}
	for i := range f.lives {
		f.lives[i].number = i
	}
	return f
}

// connect dials the peers that play the lives.
func (f *fleet) connect(ctx context.Context, servers, encoders int) error {
	for range encoders {
		p, err := f.attach(ctx, "hls")
		if err != nil {
			return err
		}
		f.encoders = append(f.encoders, p)
	}
	for i := range servers {
		p, err := f.attach(ctx, serverKind(i))
		if err != nil {
			return err
		}
		f.servers = append(f.servers, p)
	}
	return nil
}

func serverKind(i int) string { return [...]string{"rtmp", "wss"}[i%2] }

// attach connects one peer and starts its reader.
func (f *fleet) attach(ctx context.Context, kind string) (*peer, error) {
	const ports = 60_000
	n := f.attached.Add(1)
	p, err := f.dial[n%int64(len(f.dial))].dial(ctx, kind, 1024+int(n%ports)) // each is one of many servers of this machine
	if err != nil {
		return nil, err
	}
	handle := f.serverTold
	if kind == "hls" {
		handle = f.encoderTold
		p.Say("REGISTER", "Capacity", encoderCapacity)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers[p] = struct{}{}
	f.readers.Go(func() {
		p.Each(func(message []byte) { handle(p, message) })
		p.Conn.Close()
		f.detach(p)
	})
	return p, nil
}

func (f *fleet) detach(p *peer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.peers, p)
	if !p.leaving.Load() {
		f.disconnected.Add(1)
	}
}

// attachMany connects n peers, so many at a time.
func (f *fleet) attachMany(ctx context.Context, n, atOnce int) ([]*peer, error) {
	peers := make([]*peer, n)
	var next, failed atomic.Int64
	var first error
	var once sync.Once
	var dialling sync.WaitGroup
	for range atOnce {
		dialling.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && failed.Load() == 0; i = int(next.Add(1)) - 1 {
				p, err := f.attach(ctx, serverKind(i))
				if err != nil {
					failed.Add(1)
					once.Do(func() { first = err })
					return
				}
				peers[i] = p
			}
		})
	}
	dialling.Wait()
	return peers, first
}

// beat sends the heartbeats of all peers until ctx ends, spread over the interval.
func (f *fleet) beat(ctx context.Context) {
	const parts = 100
	tick := time.NewTicker(heartbeatEvery / parts)
	defer tick.Stop()
	var waiting []*peer
	for n := 0; ; n++ {
		if n%parts == 0 {
			waiting = f.connected()
		}
		share := min(len(waiting), (len(waiting)+parts-n%parts-1)/(parts-n%parts))
		for _, p := range waiting[:share] {
			p.Say("HEARTBEAT")
		}
		waiting = waiting[share:]
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (f *fleet) connected() []*peer {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]*peer, 0, len(f.peers))
	for p := range f.peers {
		list = append(list, p)
	}
	return list
}

// close cuts all peers and waits for their readers.
func (f *fleet) close() {
	for _, p := range f.connected() {
		p.cut()
	}
	f.readers.Wait()
}

// closedLoop plays lives one after the other in each of the given places, for a time or until count have begun
// (0: no limit), and returns when all are over or nothing has gone on for as long as quiet.
func (f *fleet) closedLoop(ctx context.Context, places []life, d time.Duration, count int, quiet time.Duration) {
	f.remaining.Store(math.MaxInt64)
	if count > 0 {
		f.remaining.Store(int64(count))
	}
	f.running.Store(true)
	f.inFlight.Add(1) // for the loop itself: not idle before all have begun
	for i := range places {
		if f.isFree(&places[i]) && f.remaining.Add(-1) >= 0 {
			f.inFlight.Add(1)
			f.begin(&places[i], f.serverOf(&places[i]), time.Now(), false)
		}
	}
	f.forgetIdle()
	f.leaveFlight()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.idle:
	case <-ctx.Done():
	}
	f.running.Store(false)
	f.settle(ctx, quiet)
}

// openLoop begins one life in each of the given places, at a rate in lives per second, and returns like closedLoop.
func (f *fleet) openLoop(ctx context.Context, places []life, rate float64, quiet time.Duration) {
	i := 0
	pace(ctx, rate, func(due time.Time) (more bool) {
		if i == len(places) {
			return false
		}
		f.inFlight.Add(1)
		f.begin(&places[i], f.serverOf(&places[i]), due, false)
		i++
		return true
	})
	if ctx.Err() == nil {
		f.settle(ctx, quiet)
	}
}

// openEnd begins lives at a rate until ctx ends, in the given places, one after the other, over and over. One where the last life is not
// over is left out. It doesn't wait for those that it has begun.
func (f *fleet) openEnd(ctx context.Context, places []life, rate float64) {
	i := 0
	pace(ctx, rate, func(due time.Time) (more bool) {
		for range places {
			l := &places[i%len(places)]
			i++
			if f.isFree(l) {
				f.inFlight.Add(1)
				f.begin(l, f.serverOf(l), due, false)
				break
			}
		}
		return true
	})
}

// pace has lives begun at a rate per second, until there are no more or ctx ends.
func pace(ctx context.Context, rate float64, begin func(due time.Time) (more bool)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	start := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
		if !begin(due) {
			return
		}
	}
}

// hold brings a stream to life in each of the given places, so many at a time, and leaves them alive.
// serverOf says who publishes in which place.
func (f *fleet) hold(ctx context.Context, places []life, atOnce int, serverOf func(i int) *peer, quiet time.Duration) error {
	before := f.inFlight.Load()
	for i := range places {
		for f.inFlight.Load()-before >= int64(atOnce) {
			select {
			case <-f.idle:
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		f.inFlight.Add(1)
		f.begin(&places[i], serverOf(i), time.Now(), true)
	}
	f.settle(ctx, quiet)
	if left := f.inFlight.Load() - before; left > 0 {
		return fmt.Errorf("%d of %d streams did not come to life", left, len(places))
	}
	return ctx.Err()
}

func (f *fleet) serverOf(l *life) *peer { return f.servers[l.number%len(f.servers)] }

func (f *fleet) isFree(l *life) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.underWay
}

// retire is called when a life is over: the closed loop goes on with the next.
func (f *fleet) retire(l *life) {
	if f.running.Load() && f.remaining.Add(-1) >= 0 {
		f.begin(l, f.serverOf(l), time.Now(), false)
		return
	}
	f.leaveFlight()
}

func (f *fleet) leaveFlight() {
	if f.inFlight.Add(-1) == 0 {
		select {
		case f.idle <- struct{}{}:
		default:
		}
	}
}

func (f *fleet) forgetIdle() {
	select {
	case <-f.idle:
	default:
	}
}

// settle waits until nothing is in flight, or nothing has gone on for as long as quiet.
func (f *fleet) settle(ctx context.Context, quiet time.Duration) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last, since := f.progress.Load(), time.Now()
	for f.inFlight.Load() > 0 && ctx.Err() == nil {
		select {
		case <-f.idle:
		case <-tick.C:
		case <-ctx.Done():
		}
		if now := f.progress.Load(); now != last {
			last, since = now, time.Now()
		} else if time.Since(since) > quiet {
			return
		}
	}
}

// lost counts the events that were told and never arrived, and unfinished the lives that are stuck somewhere.
// Both mean something after settle.
func (f *fleet) lost() (lost, unfinished int64) {
	for i := range f.lives {
		events, stuck := f.lives[i].missing()
		lost += events
		unfinished += stuck
	}
	return lost, unfinished
}

func (l *life) missing() (events, stuck int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.underWay {
		return 0, 0
	}
	if !l.held || !l.live {
		stuck = 1
	}
	for i := range l.encodings {
		events += int64(l.encodings[i].delivery.lost())
	}
	return events, stuck
}
