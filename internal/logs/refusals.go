package logs

// Rate-limited log lines about refusals and other things that strangers can cause: at most one line a minute for each remote
// address and reason, so that neither a peer that dials for ever nor a stranger can fill the log. What gets no line is
// counted, and a later line says how many. Reasons are this program's own words: nothing that the other side sent is in them.

import (
	"container/list"
	"context"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	refusalEvery        = time.Minute
	maxRefusedAddresses = 1024 // that are remembered at a time; more get no line of their own
)

// Refusals is a log of what was refused. Any number of goroutines may use it.
type Refusals struct {
	// set once
	log *slog.Logger

	mu sync.Mutex
	// guarded by mu
	addresses map[string]*list.Element // of order
	order     list.List                // of *refusedAddress: the one whose last line is oldest comes first
	unlogged  int                      // refusals of addresses that are not remembered
}

type refusedAddress struct {
	address string
	logged  time.Time                 // its last line
	reasons map[string]*refusedReason // few: they are constants of this program
}

type refusedReason struct {
	logged   time.Time // its last line
	repeated int       // times since then
}

// NewRefusals logs to log.
func NewRefusals(log *slog.Logger) *Refusals {
	return &Refusals{log: log, addresses: map[string]*list.Element{}}
}

// Say logs that something was refused, unless the same was logged for the same address within the last minute. remote is
// HOST:PORT, or "" if it is not about anybody in particular: that gets its line however many strangers there are. what and
// reason are constants.
func (r *Refusals) Say(level slog.Level, remote, what, reason string, more ...slog.Attr) {
	r.SayOf(level, hostOf(remote), remote, what, reason, more...)
}

func hostOf(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}

// SayOf is Say about somebody who is known by another name than an address, so that others from there have lines of their own.
func (r *Refusals) SayOf(level slog.Level, name, remote, what, reason string, more ...slog.Attr) {
	remote = hostOf(remote)
	repeated, unlogged, due := r.count(name, what+": "+reason, time.Now())
	if !due {
		return
	}
	var line []slog.Attr
	if remote != "" {
		line = append(line, slog.String("remote", remote))
	}
	line = append(append(line, slog.String("reason", reason)), more...)
	if repeated > 0 {
		line = append(line, slog.Int("repeated", repeated))
	}
	if unlogged > 0 {
		line = append(line, slog.Int("suppressed_others", unlogged))
	}
	r.log.LogAttrs(context.Background(), level, what, line...)
}

// count notes a refusal. If a line is due it returns what the line has to say beside it: how often the same has happened
// since its last line, and how many refusals of other addresses got no line.
func (r *Refusals) count(address, reason string, now time.Time) (repeated, unlogged int, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	el := r.addresses[address]
	if el == nil {
		if address != "" && len(r.addresses) >= maxRefusedAddresses && !r.forgetOldestLocked(now) {
			r.unlogged++
			return 0, 0, false
		}
		el = r.order.PushBack(&refusedAddress{address: address, reasons: map[string]*refusedReason{}})
		r.addresses[address] = el
	}
	a := el.Value.(*refusedAddress)
	known := a.reasons[reason]
	switch {
	case known == nil:
		known = &refusedReason{}
		a.reasons[reason] = known
	case now.Sub(known.logged) < refusalEvery:
		known.repeated++
		return 0, 0, false
	}
	repeated, unlogged = known.repeated, r.unlogged
	known.logged, known.repeated, r.unlogged = now, 0, 0
	a.logged = now
	r.order.MoveToBack(el)
	return repeated, unlogged, true
}

// forgetOldestLocked makes room for another address, unless all have had a line within the last minute. Repeats that were
// not reported for it go into the next line of any address.
func (r *Refusals) forgetOldestLocked(now time.Time) bool {
	el := r.order.Front()
	a := el.Value.(*refusedAddress)
	if now.Sub(a.logged) < refusalEvery {
		return false
	}
	for _, reason := range a.reasons {
		r.unlogged += reason.repeated
	}
	r.order.Remove(el)
	delete(r.addresses, a.address)
	return true
}
