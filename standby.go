package main

// A coordinator with DATABASE_URL. The database decides which one of several leads: that one has a term, with its outbox, its
// registry and its links; the others stand by, and answer that they do. One that loses the lead stands by again, in the same
// process.

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"coordinator/internal/lease"
	"coordinator/internal/logs"
	"coordinator/internal/outbox"
	"coordinator/internal/pgstore"
	"coordinator/internal/timeline"
)

// answeredLately is how long ago the database may have answered, for a coordinator that stands by to be ready.
const answeredLately = 20 * time.Second

// A leader that could not read what the database holds tries again after takeUpAgain, and says so once in sayTakeUpEach.
const (
	takeUpAgain   = time.Second
	sayTakeUpEach = time.Minute
	giveUpAfter   = 10 * time.Second // then another one may lead: the reason may be here, as a file in DATA_DIR is
)

// replica is such a coordinator, with everything around it but its listeners, the certificate and the signals.
type replica struct {
	// set once
	*shell
	around   surroundings
	database *pgstore.Database
	lease    *lease.Keeper
	standby  http.Handler

	term atomic.Pointer[term] // nil while it does not lead

	leading    sync.WaitGroup
	endLeading context.CancelFunc
}

// newReplica asks the database nothing yet: it may be away at the start.
func newReplica(cfg *Config, log *slog.Logger) (*replica, error) {
	r := &replica{shell: newShell(), endLeading: func() {}}
	r.around = surroundings{cfg: cfg, log: log, metrics: newMetrics(r.state), refusals: logs.NewRefusals(log), timeline: timeline.New(), maxSockets: r.maxSockets}
	commits := r.around.metrics.newCommits()
	database, err := pgstore.New(cfg.DatabaseURL, commits.observe)
	if err != nil {
		r.stopWatching()
		return nil, err
	}
	r.database = database
	r.lease = lease.New(lease.Config{Table: r.database, Holder: holderName(), Clock: lease.Clock, Log: log, Lead: r.lead})
	r.around.metrics.exposeLease(r.lease.Status)
	r.around.metrics.exposeFigures(r.database.Figures)
	r.standby = newTableHandler(cfg, log, http.NewServeMux(), standbyTable(cfg, r.around.metrics, r.notReady), nil)
	r.answer(http.HandlerFunc(r.serveHTTP), r.controlSockets, r.around.refusals, log)
	return r, nil
}

// holderName is what other coordinators call this process in their log: which machine it is on, and a word of its own.
func holderName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "/" + rand.Text()
}

func (r *replica) state() clusterState {
	if t := r.term.Load(); t != nil {
		return t.coordinator.state()
	}
	return clusterState{notReady: r.notReady()}
}

func (r *replica) controlSockets() int {
	if t := r.term.Load(); t != nil {
		return t.control.Count()
	}
	return 0
}

func (r *replica) serveHTTP(w http.ResponseWriter, request *http.Request) {
	if t := r.term.Load(); t != nil {
		t.routes.ServeHTTP(w, request)
		return
	}
	r.standby.ServeHTTP(w, request)
}

// start begins to ask the database who leads.
func (r *replica) start() {
	ctx, cancel := context.WithCancel(context.Background())
	r.endLeading = cancel
	r.leading.Go(func() { r.lease.Run(ctx) })
}

// lead is a term, from what the database holds to its end.
func (r *replica) lead(m *lease.Term) {
	events, err := r.takeUp(m)
	if err != nil {
		return // the term has ended, or is given up
	}
	t := newTerm(r.around, events, leased{m})
	t.start()
	r.term.Store(t)
	t.followCertainty(m)
	r.term.Store(nil)
	t.leaveGateways(context.Cause(m.Context()).Error())
	t.leavePeers()
	if err := t.finish(0); err != nil {
		r.around.log.Warn("events that were not committed are lost, but for those that gateways keep", "epoch", m.Epoch(), "error", err)
	}
}

// takeUp reads what the database holds, again and again until it can, the term ends, or another one had better try.
func (r *replica) takeUp(m *lease.Term) (*callbacks, error) {
	began := time.Now()
	for said := (time.Time{}); ; {
		err := r.takeIn(m)
		var events *callbacks
		if err == nil {
			events, err = newSharedCallbacks(r.around.cfg, r.database.Store(m.Epoch(), m.Heard), leased{m}, r.around.observe, r.around.log)
		}
		if err == nil {
			return events, nil
		}
		if time.Since(said) >= sayTakeUpEach {
			said = time.Now()
			r.around.log.Error("this coordinator leads, but can't begin its work; it tries again", "epoch", m.Epoch(), "error", err)
		}
		if time.Since(began) >= giveUpAfter {
			r.around.log.Error("this coordinator gives up the lead: it can't begin its work", "epoch", m.Epoch(), "error", err)
			return nil, err
		}
		select {
		case <-time.After(takeUpAgain):
		case <-m.Context().Done():
			return nil, context.Cause(m.Context())
		}
	}
}

// takeIn brings into the database what DATA_DIR holds from the time before there was one.
func (r *replica) takeIn(m *lease.Term) error {
	f, err := outbox.OpenFile(r.around.cfg.DataDir)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	events, err := r.database.TakeIn(m.Epoch(), f)
	if err != nil {
		return err
	}
	name, err := f.Moved()
	if err == nil {
		r.around.log.Info("the outbox of DATA_DIR is in the database now", "events", events, "gateways", len(f.Content.Gateways), "renamed_to", name)
	}
	return err
}

// followCertainty tells gateways whether this coordinator is sure to lead, until the term ends.
func (t *term) followCertainty(m *lease.Term) {
	for {
		changed := m.Changed()
		if t.gateways != nil {
			t.gateways.links.SetUnsure(!m.Valid())
		}
		select {
		case <-changed:
		case <-m.Context().Done():
			return
		}
	}
}

// leased is the mandate of whoever leads by the database.
type leased struct{ *lease.Term }

func (leased) IsForGood() bool { return false }

func (r *replica) exposed() exporter { return r.around.metrics.exporter }

// stop ends the coordinator; call it once. Events that the application has not taken are the next leader's, which is why it does not
// wait for them.
func (r *replica) stop(time.Duration) error {
	r.endLeading()
	r.leading.Wait()
	r.finishServing()
	r.background.Wait()
	r.server.Wait()
	r.database.Close()
	r.stopWatching()
	r.watchers.Wait()
	return nil
}

// notReady returns why a coordinator without a term could not take over, or does not take new streams if it is the one that leads.
func (r *replica) notReady() []string {
	switch s := r.lease.Status(); {
	case !s.Answered || s.AnswerAge > answeredLately:
		return []string{"the database has not answered within the last 20 s"}
	case s.Leads:
		return []string{"this coordinator leads, but has not read what the database holds"}
	}
	return nil
}
