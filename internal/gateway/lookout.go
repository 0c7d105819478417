package gateway

// A gateway that has dialled one of several coordinators goes on asking all of them who leads, as long as that link lasts. One that
// leads with a higher epoch wins. The old one may be alive, and not know yet that it was deposed.

import (
	"context"
	"net/url"
	"time"

	"coordinator/internal/link"
)

const (
	// A coordinator is asked now and then while a link is up, and more often if its coordinator has not answered HELLO yet or is
	// not sure to lead.
	lookRound       = 2 * time.Second
	lookRoundUnsure = 500 * time.Millisecond

	// leaveWithin is how long a coordinator that is left has for ending the link.
	leaveWithin = 200 * time.Millisecond
)

// lookOut asks each coordinator for itself, so that one that does not answer holds up no other. epoch is that of the one that was
// dialled, as it has said; 0: it has said none.
func (g *Gateway) lookOut(ctx context.Context, l *activeLink, epoch uint64) {
	for _, u := range g.URLs {
		g.running.Go(func() { g.watch(ctx, l, u, epoch) })
	}
}

func (g *Gateway) watch(ctx context.Context, l *activeLink, u *url.URL, epoch uint64) {
	for asked := time.Now(); l.awaitRound(ctx, asked); {
		asked = time.Now()
		a := g.askLeader(ctx, u)
		if ctx.Err() == nil && g.isAbove(a, epoch) {
			g.leaveFor(l, a.epoch)
			return
		}
	}
}

// awaitRound reports false when the link has ended.
func (l *activeLink) awaitRound(ctx context.Context, asked time.Time) bool {
	for {
		select {
		case <-time.After(lookRoundUnsure):
			if l.unsure.Load() || time.Since(asked) >= lookRound {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// isAbove tells whether a coordinator leads in the place of the one that was dialled. One with another store has no part in it,
// whatever its epoch.
func (g *Gateway) isAbove(a leaderAnswer, dialled uint64) bool {
	return a.verdict == leads && g.expected().isOfStore(a) && a.epoch > max(dialled, g.highestEpoch())
}

// leaveFor ends the link for a coordinator with a higher epoch. What still comes over it is not obeyed.
func (g *Gateway) leaveFor(l *activeLink, epoch uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.closing {
		return // another one was heard before
	}
	l.closing = true
	g.leftFor = max(g.leftFor, epoch)
	if g.link != l {
		l.end(errEpoch) // it is not welcome yet, or has ended
		return
	}
	g.sendLocked(g.id.frame(link.With(link.KindBye, 0, &link.Reason{Text: errEpoch.Error(), Epoch: epoch})))
	g.unlinkLocked()
	time.AfterFunc(leaveWithin, func() { l.end(errEpoch) })
}
