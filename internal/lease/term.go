package lease

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Why terms end: the causes of their contexts.
var (
	ErrStopping = errors.New("this coordinator is stopping")
	ErrDeposed  = errors.New("another coordinator leads")
	ErrGivenUp  = errors.New("this coordinator can't lead")
)

// Term is one lead, from a take-over to its end. Its methods may be called from anywhere.
type Term struct {
	// set once
	epoch uint64
	clock func() time.Duration
	heard func(epoch uint64)
	ctx   context.Context
	end   context.CancelCauseFunc

	mu sync.Mutex
	// guarded by mu
	validUntil time.Duration
	saidValid  bool
	changed    chan struct{} // closed at the next change
}

func newTerm(epoch uint64, validUntil time.Duration, clock func() time.Duration, heard func(uint64)) *Term {
	t := &Term{epoch: epoch, clock: clock, heard: heard, validUntil: validUntil, saidValid: true, changed: make(chan struct{})}
	t.ctx, t.end = context.WithCancelCause(context.Background())
	return t
}

// Epoch is above that of every earlier term.
func (t *Term) Epoch() uint64 { return t.epoch }

// Context ends with the term; its cause is one of the three.
func (t *Term) Context() context.Context { return t.ctx }

// Heard takes in that somebody knows of an epoch. A higher one than the term's ends the term.
func (t *Term) Heard(epoch uint64) { t.heard(epoch) }

// Valid tells whether this process leads beyond doubt. A term goes on when it does not: the database may be away for all.
func (t *Term) Valid() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.isValidLocked()
}

// Unconfirmed tells how long ago it was last asked for what the database has confirmed: that this process leads.
func (t *Term) Unconfirmed() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clock() - (t.validUntil - validFor)
}

func (t *Term) isValidLocked() bool { return t.ctx.Err() == nil && t.clock() < t.validUntil }

// Changed is closed when what Valid says has changed since, or about.
func (t *Term) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// AwaitValid waits until Valid. The error is why the term has ended, or that of the context.
func (t *Term) AwaitValid(ctx context.Context) error {
	for {
		t.mu.Lock()
		valid, changed := t.isValidLocked(), t.changed
		t.mu.Unlock()
		if valid {
			return nil
		}
		select {
		case <-changed:
		case <-t.ctx.Done():
			return context.Cause(t.ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// update takes in until when the term is valid. It reports whether it has become valid, or stopped being so. Whoever has found it not
// valid hears that it is again, even if nobody has said so in between.
func (t *Term) update(validUntil time.Duration) (valid, changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.isValidLocked()
	t.validUntil = validUntil
	valid = t.isValidLocked()
	changed = valid != t.saidValid
	if changed || !was && valid {
		close(t.changed)
		t.changed = make(chan struct{})
	}
	t.saidValid = valid
	return valid, changed
}

// recheck returns after how long to look whether the term is still valid: soon, because the clock of timers may stand still while the
// machine is suspended. 0 is never.
func (t *Term) recheck() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.saidValid || t.ctx.Err() != nil {
		return 0
	}
	return min(max(t.validUntil-t.clock(), 1), renewEach)
}
