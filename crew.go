package main

// Goroutines that are used again. A new one grows its stack step by step on the way into net/http; one that has just
// done the same work has it already, which saves about a twentieth of the daemon's processor time under load.

import (
	"sync"
	"time"
)

// lingering is how long a goroutine waits for more work: long enough under load, gone when it is quiet.
const lingering = 250 * time.Millisecond

// crew runs tasks side by side, without a bound of its own. Its owner waits for it.
type crew struct {
	tasks chan func()
	quit  chan struct{}
	group sync.WaitGroup
}

func newCrew() *crew { return &crew{tasks: make(chan func()), quit: make(chan struct{})} }

// run starts a task and returns at once; it may be called under a lock. Not to be called once wait has been.
func (c *crew) run(task func()) {
	select {
	case c.tasks <- task:
	default:
		c.group.Go(func() { c.work(task) })
	}
}

func (c *crew) work(task func()) {
	timer := time.NewTimer(lingering)
	defer timer.Stop()
	for {
		task()
		timer.Reset(lingering)
		select {
		case task = <-c.tasks:
		case <-timer.C:
			return
		case <-c.quit:
			return
		}
	}
}

// wait returns when all tasks are done. It is called once.
func (c *crew) wait() {
	close(c.quit)
	c.group.Wait()
}
