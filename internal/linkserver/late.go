package linkserver

import "sync"

// late calls what waits for the acknowledgement of frames that were sent to a gateway after it was lost: whoever sends holds
// locks, so another goroutine has to.
type late struct {
	wake chan struct{}

	mu sync.Mutex
	// guarded by mu
	due []func()
}

func newLate() *late { return &late{wake: make(chan struct{}, 1)} }

func (l *late) call(acked func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due = append(l.due, acked)
	poke(l.wake)
}

func (l *late) take() []func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	due := l.due
	l.due = nil
	return due
}

func (l *late) run(closing <-chan struct{}) {
	for {
		select {
		case <-l.wake:
			callAll(l.take())
		case <-closing:
			return
		}
	}
}

func callAll(functions []func()) {
	for _, f := range functions {
		f()
	}
}

// poke wakes whoever waits, or will.
func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
