package lease

// Runs the rules over a table: asks it, renews, and says who leads.

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	askLimit    = 2 * time.Second // of a statement
	resignLimit = 2 * time.Second
	troubleEach = time.Minute // that a line is logged while the database does not answer
)

// Config is what a Keeper is made of. All of it is needed.
type Config struct {
	Table  Table
	Holder string               // random, of this process
	Clock  func() time.Duration // Clock, but for tests
	Log    *slog.Logger

	// Lead is called when this process has begun to lead. When the term's context has ended, and not before, it ends all that the term
	// has, and returns; until then nothing else begins.
	Lead func(*Term)
}

// Keeper takes part in the election.
type Keeper struct {
	Config // set once

	mu sync.Mutex
	// guarded by mu
	machine  machine
	term     *Term // nil: it does not lead
	renewals [2]int64
	answered time.Duration // when the table last did
	trouble  time.Duration // when that was last logged, since it does not answer
	troubled bool
}

func New(cfg Config) *Keeper { return &Keeper{Config: cfg, machine: machine{holder: cfg.Holder}} }

// Status is what there is to say about the election.
type Status struct {
	Leads, Valid     bool
	Epoch            uint64        // of the term, or the highest heard of
	AnswerAge        time.Duration // of the last answer of the table; since the start of the clock if there was none
	Renewed, Unheard int64         // renewals that succeeded, and those without an answer
}

func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.Clock()
	return Status{
		Leads: k.machine.leads, Valid: k.machine.isValid(now), Epoch: k.machine.highest, AnswerAge: now - k.answered,
		Renewed: k.renewals[0], Unheard: k.renewals[1],
	}
}

// Run takes part until ctx ends. If this process leads then, it resigns when its term has ended.
func (k *Keeper) Run(ctx context.Context) {
	for {
		term := k.standBy(ctx)
		if term == nil {
			return
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			k.Lead(term)
		}()
		k.keepLead(ctx, term, ended)
		k.mu.Lock()
		k.machine.end()
		k.term = nil
		k.mu.Unlock()
		if context.Cause(term.ctx) == ErrStopping {
			k.resign(term)
			return
		}
	}
}

// standBy looks at the row until this process has taken over. It returns nil when ctx has ended.
func (k *Keeper) standBy(ctx context.Context) *Term {
	var said Row
	for first := true; ; first = false {
		if ctx.Err() != nil {
			return nil
		}
		row, err := k.look(ctx)
		if err == nil {
			if first || row.Epoch != said.Epoch || row.Holder != said.Holder {
				said = row
				if row.Holder != "" && row.Holder != k.Holder {
					k.Log.Info("standing by: another coordinator leads", "epoch", row.Epoch)
				}
			}
			if term := k.tryTakeOver(ctx); term != nil {
				return term
			}
		}
		k.pause(ctx, lookEach)
	}
}

func (k *Keeper) pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (k *Keeper) look(ctx context.Context) (Row, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	row, err := k.Table.Look(ctx)
	if k.noteAnswer(ctx, err); err != nil {
		return Row{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.machine.see(row, k.Clock())
	return row, nil
}

// tryTakeOver takes over if it may. It returns nil if it does not lead after that.
func (k *Keeper) tryTakeOver(ctx context.Context) *Term {
	k.mu.Lock()
	sent := k.Clock()
	may, seen, above := k.machine.mayTakeOver(sent), k.machine.seen, k.machine.highest
	k.mu.Unlock()
	if !may {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	epoch, won, err := k.Table.TakeOver(ctx, seen, above, k.Holder)
	if k.noteAnswer(ctx, err); err != nil || !won {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.machine.tookOver(epoch, sent)
	k.term = newTerm(epoch, k.machine.validUntil, k.Clock, k.hear)
	why := "the last leader has shown no sign of life for 6 s"
	switch seen.Holder {
	case "":
		why = "nobody led"
	case k.Holder:
		why = "it had begun to before"
	}
	k.Log.Info("this coordinator leads now", "epoch", epoch, "because", why)
	return k.term
}

// hear is Heard of a term.
func (k *Keeper) hear(epoch uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.machine.hear(epoch)
	if k.term != nil && k.machine.isOver() {
		k.endLocked(epoch)
	}
}

func (k *Keeper) endLocked(epoch uint64) {
	if k.term.ctx.Err() == nil {
		k.Log.Warn("this coordinator leads no more: another one has taken over; it stands by", "epoch", k.term.epoch, "heard_of", epoch)
		k.term.end(ErrDeposed)
	}
}

// keepLead renews until the term's parts have ended.
func (k *Keeper) keepLead(ctx context.Context, term *Term, ended <-chan struct{}) {
	defer context.AfterFunc(ctx, func() { term.end(ErrStopping) })()
	next := time.NewTicker(renewEach)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			k.renew(term)
		case <-k.doubt():
		case <-ended:
			return
		}
		k.update(term)
	}
}

// doubt comes when the lead is no longer sure, if nothing happens before; nil: that is so already.
func (k *Keeper) doubt() <-chan time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if left := k.machine.validUntil - k.Clock(); left > 0 {
		return time.After(left)
	}
	return nil
}

// renew is a sign of life. While the parts of a term end, too: nobody is to take over before that. A term that was lost has none.
func (k *Keeper) renew(term *Term) {
	if context.Cause(term.ctx) == ErrDeposed {
		return
	}
	sent := k.Clock()
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	held, err := k.Table.Renew(ctx, term.epoch, k.Holder)
	k.noteAnswer(ctx, err)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.renewals[1]++
		return
	}
	k.renewals[0]++
	if k.machine.renewed(held, sent); !held {
		k.endLocked(k.machine.highest)
	}
}

// update tells the term until when it is valid.
func (k *Keeper) update(term *Term) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.machine.leads || term.ctx.Err() != nil {
		return
	}
	switch valid, changed := term.update(k.machine.validUntil); {
	case !changed:
	case valid:
		k.Log.Info("this coordinator is sure to lead again: the database answers", "epoch", term.epoch)
	default:
		k.Log.Warn("the database does not answer: this coordinator goes on, but lets no publisher in and sends no events until it is sure to lead", "epoch", term.epoch)
	}
}

func (k *Keeper) resign(term *Term) {
	ctx, cancel := context.WithTimeout(context.Background(), resignLimit)
	defer cancel()
	if err := k.Table.Resign(ctx, term.epoch, k.Holder); err != nil {
		k.Log.Warn("could not resign: another coordinator takes over 6 s from now", "epoch", term.epoch, "error", err)
		return
	}
	k.Log.Info("this coordinator has resigned: another one may lead", "epoch", term.epoch)
}

// noteAnswer logs when the database stops answering, now and then while it does not, and when it does again.
func (k *Keeper) noteAnswer(ctx context.Context, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.Clock()
	switch {
	case err == nil:
		if k.troubled {
			k.Log.Info("the database answers again")
		}
		k.answered, k.troubled = now, false
	case context.Cause(ctx) == context.Canceled: // this process stops
	case !k.troubled || now-k.trouble >= troubleEach:
		k.troubled, k.trouble = true, now
		k.Log.Error("the database does not say who leads", "error", err)
	}
}
