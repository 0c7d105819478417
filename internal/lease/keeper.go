package lease

// Runs the rules over a table: looks, takes over, renews, resigns.

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	askLimit    = 2 * time.Second // of a statement
	resignLimit = 2 * time.Second

	leaveToOthers = 3 * time.Second // that one that can't lead waits before it takes over again
)

// Config is what a Keeper is made of. All of it is needed.
type Config struct {
	Table  Table
	Holder string               // random, of this process
	Clock  func() time.Duration // Clock, but for tests
	Log    *slog.Logger

	// Lead is called when this process has begun to lead. When the term's context has ended, and not before, it ends all that the term
	// has, and returns; until then nothing else begins. If it returns before, it can't lead: another one gets the lead, if there is one.
	Lead func(*Term)
}

// Keeper takes part in the election.
type Keeper struct {
	Config // set once

	mu sync.Mutex
	// guarded by mu
	machine  machine
	term     *Term  // nil: it does not lead, and all that the last term had has ended
	leader   string // holder, as the row said last
	renewals [2]int64
	health   health
}

func New(cfg Config) *Keeper {
	return &Keeper{Config: cfg, machine: machine{holder: cfg.Holder}, health: health{log: cfg.Log, answered: cfg.Clock()}}
}

// Status is what there is to say about the election.
type Status struct {
	Leads, Valid        bool
	Epoch               uint64        // of the term, or the highest heard of
	Holder              string        // who leads, as far as is known; "" is nobody
	Answered            bool          // the table has ever answered
	AnswerAge           time.Duration // of its last answer; since New if there was none
	Renewed, Unanswered int64         // renewals that succeeded, and those without an answer
}

func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.Clock()
	return Status{
		Leads: k.machine.leads, Valid: k.term != nil && k.term.Valid(), Epoch: k.machine.highest, Holder: k.leader,
		Answered: k.health.ever, AnswerAge: now - k.health.answered,
		Renewed: k.renewals[0], Unanswered: k.renewals[1],
	}
}

// Run takes part until ctx ends. If this process leads then, it resigns when its term has ended.
func (k *Keeper) Run(ctx context.Context) {
	for {
		term := k.standBy(ctx)
		if term == nil {
			return
		}
		k.keepLead(ctx, term)
		if k.leave() {
			k.resign(term)
			select {
			case <-time.After(leaveToOthers):
			case <-ctx.Done():
			}
		}
	}
}

// standBy looks at the row until this process has taken over. It returns nil when ctx has ended.
func (k *Keeper) standBy(ctx context.Context) *Term {
	var said Row
	for ctx.Err() == nil {
		row, err := k.look(ctx)
		if err == nil {
			if row.Holder != "" && row.Holder != k.Holder && (row.Epoch != said.Epoch || row.Holder != said.Holder) {
				k.Log.Info("standing by: another coordinator leads", "epoch", row.Epoch, "holder", row.Holder)
			}
			said = row
			if term := k.tryTakeOver(ctx); term != nil {
				return term
			}
		}
		select {
		case <-time.After(lookEach):
		case <-ctx.Done():
		}
	}
	return nil
}

func (k *Keeper) look(ctx context.Context) (Row, error) {
	asking, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	row, err := k.Table.Look(asking)
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.Clock()
	if err != nil {
		if ctx.Err() == nil {
			k.health.failed(err, now)
		}
		return Row{}, err
	}
	k.health.succeeded(now)
	k.machine.see(row, now)
	k.leader = row.Holder
	return row, nil
}

// tryTakeOver takes over if it may. It returns nil if it does not lead after that. It does not stop when ctx ends: whoever has taken over
// has to know, so that it can resign.
func (k *Keeper) tryTakeOver(ctx context.Context) *Term {
	k.mu.Lock()
	sent := k.Clock()
	may, seen, above := k.machine.mayTakeOver(sent), k.machine.seen, k.machine.highest
	k.mu.Unlock()
	if !may {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askLimit)
	defer cancel()
	epoch, won, err := k.Table.TakeOver(ctx, seen, above, k.Holder)
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.Clock()
	if err != nil {
		k.health.failed(err, now)
		return nil
	}
	k.health.succeeded(now)
	if !won || !k.machine.tookOver(epoch, sent) {
		return nil
	}
	k.term = newTerm(epoch, k.machine.validUntil, k.Clock, k.hear)
	k.leader = k.Holder
	k.logLeads(seen)
	return k.term
}

// hear is Heard of a term.
func (k *Keeper) hear(epoch uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	led := k.machine.leads
	if k.machine.hear(epoch); led && !k.machine.leads {
		k.loseLocked("somebody knows of a higher epoch")
	}
}

// loseLocked is for a lead that was lost.
func (k *Keeper) loseLocked(because string) {
	k.Log.Warn("this coordinator has lost the lead and stands by", "epoch", k.term.epoch, "because", because, "highest_epoch", k.machine.highest)
	k.term.end(ErrDeposed)
}

// keepLead has the term's parts run, and renews until they have ended.
func (k *Keeper) keepLead(ctx context.Context, term *Term) {
	defer context.AfterFunc(ctx, func() { term.end(ErrStopping) })()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.Lead(term)
	}()
	var renewals sync.WaitGroup
	defer renewals.Wait()
	renewing, cancel := context.WithCancel(context.Background())
	defer cancel()
	renewals.Go(func() { k.keepRenewing(renewing, term) })
	for {
		k.update(term)
		changed := term.Changed()
		var due <-chan time.Time
		if wait := term.recheck(); wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-changed: // by a renewal
		case <-ended:
			return
		}
	}
}

// keepRenewing gives signs of life. While the parts of a term end, too: nobody is to take over before that.
func (k *Keeper) keepRenewing(ctx context.Context, term *Term) {
	next := time.NewTicker(renewEach)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			k.renew(ctx, term)
			k.update(term)
		case <-ctx.Done():
			return
		}
	}
}

// renew is one sign of life. A term that was lost has none.
func (k *Keeper) renew(ctx context.Context, term *Term) {
	k.mu.Lock()
	leads, sent := k.machine.leads, k.Clock()
	k.mu.Unlock()
	if !leads {
		return
	}
	asking, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	held, err := k.Table.Renew(asking, term.epoch, k.Holder)
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.Clock()
	if err != nil {
		if ctx.Err() == nil {
			k.renewals[1]++
			k.health.failed(err, now)
		}
		return
	}
	k.health.succeeded(now)
	if !k.machine.leads {
		return // lost meanwhile
	}
	if held {
		k.renewals[0]++
	}
	if k.machine.renewed(held, sent); !held {
		k.loseLocked("the database does not name it any more")
	}
}

// update tells the term until when it is valid.
func (k *Keeper) update(term *Term) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if term.ctx.Err() != nil {
		return
	}
	if valid, changed := term.update(k.machine.validUntil); changed {
		k.logSure(valid)
	}
}

// leave ends what is left of a term. It reports whether the lead was held until now.
func (k *Keeper) leave() (held bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	held = k.machine.leads
	k.machine.end()
	k.term.end(ErrGivenUp) // unless it has ended before
	k.term = nil
	return held
}

func (k *Keeper) resign(term *Term) {
	ctx, cancel := context.WithTimeout(context.Background(), resignLimit)
	defer cancel()
	if err := k.Table.Resign(ctx, term.epoch, k.Holder); err != nil {
		k.Log.Warn("could not resign: another coordinator takes over within 7 s", "epoch", term.epoch, "error", err)
		return
	}
	k.Log.Info("this coordinator has resigned: another one may lead", "epoch", term.epoch)
}
