package main

// The progress line: one line rewritten in place on a terminal, a line now and then anywhere else.

import (
	"fmt"
	"os"
	"sync"
	"time"
)

type progress struct {
	// set once
	out      *os.File
	terminal bool
	start    time.Time

	mu sync.Mutex
	// guarded by mu
	doing  string
	status func() string
}

func newProgress(out *os.File) *progress {
	info, err := out.Stat()
	return &progress{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0, start: time.Now()}
}

// now says what is done from here on; status, which may be nil, how it goes.
func (p *progress) now(doing string, status func() string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doing, p.status = doing, status
	p.writeLocked()
}

// run writes until stop is closed, and leaves an empty line on a terminal.
func (p *progress) run(stop <-chan struct{}) {
	every := time.Second
	if p.terminal {
		every = 200 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.write()
		case <-stop:
			if p.terminal {
				fmt.Fprint(p.out, "\r\x1b[K")
			}
			return
		}
	}
}

func (p *progress) write() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writeLocked()
}

func (p *progress) writeLocked() {
	line := fmt.Sprintf("%4.0fs %s", time.Since(p.start).Seconds(), p.doing)
	if p.status != nil {
		line += " | " + p.status()
	}
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K", line)
		return
	}
	fmt.Fprintln(p.out, line)
}
