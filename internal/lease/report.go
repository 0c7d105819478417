package lease

// What the log says of roles and of the database, for somebody who is woken at night.

import (
	"log/slog"
	"time"
)

const (
	troubleEach = time.Minute // each cause is logged once in this time
	maxCauses   = 5           // logged in this time: the first may only say that a connection was lost
)

// health is how the database answers.
type health struct {
	log      *slog.Logger
	answered time.Duration // when it last did
	ever     bool          // it has answered

	said   bool // that it does not answer, since it last did
	causes map[string]struct{}
	since  time.Duration // the first of the causes was logged; those are forgotten troubleEach later
}

func (h *health) succeeded(now time.Duration) {
	if h.said {
		h.log.Info("the database answers again", "after", rounded(now-h.answered))
	}
	h.answered, h.ever, h.said = now, true, false
}

func (h *health) failed(err error, now time.Duration) {
	if h.causes == nil || now-h.since >= troubleEach {
		h.causes, h.since = map[string]struct{}{}, now
	}
	cause := err.Error()
	if _, known := h.causes[cause]; known || len(h.causes) >= maxCauses {
		return
	}
	h.causes[cause] = struct{}{}
	h.said = true
	h.log.Error("the database does not say who leads", "no_answer_for", rounded(now-h.answered), "error", err)
}

// logLeads says that a term has begun, after this row.
func (k *Keeper) logLeads(seen Row) {
	because := "the last leader has shown no sign of life for 6 s"
	switch {
	case seen.Holder == "" && seen.Epoch == 0:
		because = "nobody has led before"
	case seen.Holder == "":
		because = "the last leader has resigned"
	case seen.Holder == k.Holder:
		because = "the database names it already: from an earlier term, or from a take-over without an answer"
	}
	k.Log.Info("this coordinator leads now", "epoch", k.term.epoch, "holder", k.Holder, "because", because, "before", seen.Holder, "before_epoch", seen.Epoch)
}

// logSure says whether a term that goes on is beyond doubt.
func (k *Keeper) logSure(sure bool) {
	if sure {
		k.Log.Info("this coordinator is sure again that it leads: the database answers", "epoch", k.term.epoch)
		return
	}
	k.Log.Warn("no longer sure that it leads, as the database has not answered: this coordinator goes on, but lets no publisher in and sends no events until the database answers",
		"epoch", k.term.epoch, "no_answer_for", rounded(k.Clock()-k.health.answered))
}

func rounded(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
