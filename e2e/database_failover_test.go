package e2e

// PostgreSQL fails over to another server under load.

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/pgtest"
)

// pair is a primary and its standby.
type pair struct{ primary, standby *pgtest.Server }

// onPair is a cluster whose database is at the primary of a pair, and has the standby's address, too.
func (p *pair) onPair(synchronous bool) func(*testing.T, ...string) *gatewayCluster {
	return func(t *testing.T, variables ...string) *gatewayCluster {
		t.Helper()
		p.primary = pgtest.New(t)
		database := p.primary.NewDatabase(t)
		p.standby = p.primary.Standby(t)
		if synchronous {
			p.primary.Set(t, "synchronous_standby_names", "*")
		}
		return newClusterOn(t, pgtest.Either(t, database, p.standby.At(database)), variables...)
	}
}

// A synchronous standby is promoted. It has all that was committed, so that nobody notices, and the same coordinator leads.
func TestDatabaseFailsOverUnderLoad(t *testing.T) {
	t.Parallel()
	notWithRaces(t)
	for name, end := range map[string]func(*testing.T, *pair){
		"from a primary that crashes": func(_ *testing.T, p *pair) { p.primary.Crash() },
		"from one that keeps its connections and can only be read": func(t *testing.T, p *pair) {
			p.primary.Set(t, "default_transaction_read_only", "on")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var p pair
			epoch := 0.0
			c := underLoad{newCluster: p.onPair(true), times: 1, happen: func(c *gatewayCluster, s *simulation, r *rand.Rand, _ int) {
				epoch = c.epoch()
				<-time.After(time.Second)
				awaitMoment(r, s.history)
				end(t, &p)
				p.standby.Promote(t)
				promoted := time.Now()
				s.awaitGoingOn(promoted)
				within(t, time.Since(promoted), 2*time.Second, "goes on after the promotion")
				if p.primary.HasEnded() {
					p.primary.Demote(t)
				}
				for range 3 { // the old one is asked first
					<-time.After(500 * time.Millisecond)
					p.standby.HangUp(t)
				}
				p.primary.AwaitLeft(t)
			}}.tell(t)
			c.wantSameLeader(epoch)
		})
	}
}

// awaitGoingOn waits until a publisher is accepted, and an event arrives that happened after then.
func (s *simulation) awaitGoingOn(then time.Time) {
	s.t.Helper()
	timeout := time.After(clustertest.Patience)
	for _, what := range []simDeed{simAccepted, simAnnounced, simArrived} {
		select {
		case <-s.history.next(what):
		case <-timeout:
			s.t.Fatalf("nothing is %s %v after the promotion", what, time.Since(then))
		}
	}
}

// An asynchronous standby is promoted that has not got the last commits. A leader that lives through it commits them again. To another one
// gateways say again what is less than three seconds old. Of what is older, events that nobody had sent by then are lost, nothing else is.
func TestDatabaseLosesCommitsUnderLoad(t *testing.T) {
	t.Parallel()
	notWithRaces(t)
	for name, meanwhile := range map[string]struct {
		before, during, after func(*gatewayCluster) // the time for which the database is away; nil: nothing; during: it is away for a moment only
		isBig                 bool
	}{
		"and the same coordinator leads":               {},
		"and the leader dies while it is away":         {nil, (*gatewayCluster).kill, (*gatewayCluster).follow, false},
		"and with them that another coordinator leads": {func(c *gatewayCluster) { c.stop(); c.follow(); c.awaitThere() }, func(*gatewayCluster) {}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if meanwhile.isBig {
				onlyBig(t)
			}
			var p pair
			var cut, failed time.Time
			epoch := 0.0
			story := underLoad{newCluster: p.onPair(false), times: 1, happen: func(c *gatewayCluster, s *simulation, r *rand.Rand, _ int) {
				<-time.After(time.Second)
				p.primary.AwaitFollowed(t)
				cut = time.Now()
				p.standby.CutOff(t)
				if meanwhile.before != nil {
					meanwhile.before(c)
				}
				<-time.After(time.Second)
				awaitMoment(r, s.history)
				epoch = c.epoch()
				failed = time.Now()
				p.primary.Crash()
				if meanwhile.during != nil {
					<-time.After(awayFor)
					meanwhile.during(c)
				}
				p.standby.Promote(t)
				if meanwhile.after != nil {
					meanwhile.after(c)
				}
				c.awaitOneLeads()
				c.awaitThere()
				s.awaitGoingOn(time.Now())
				<-time.After(time.Second)
			}}
			if meanwhile.during == nil {
				story.tell(t).wantSameLeader(epoch)
				return
			}
			c, entries := story.play(t)
			for _, f := range []faults{checkPublishers(entries), checkEventsAfterLoss(t, entries, cut, failed.Add(-saidAgain)), checkUndisturbed(entries), checkEncodings(withoutUnaccepted(entries))} {
				f.report(t)
			}
			if now := c.epoch(); now <= epoch {
				t.Errorf("epoch %v leads after epoch %v", now, epoch)
			}
		})
	}
}

// awaitOneLeads waits until one of the two coordinators leads beyond doubt, whichever it is.
func (c *gatewayCluster) awaitOneLeads() {
	c.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * clustertest.Patience); ; <-tick.C {
		for _, p := range []*clustertest.Process{c.p, c.standby} {
			if p.Scrape()["coordinator_leader_sure"] == 1 {
				if p != c.p {
					c.p, c.standby = p, c.p
				}
				return
			}
		}
		if time.Now().After(deadline) {
			c.Fatal("none of the two coordinators leads")
		}
	}
}

// awayFor is longer than gateways keep what is in a database that answers.
const awayFor = 4500 * time.Millisecond

// saidAgain: what happened this long before, or later, gateways still have when a commit is lost.
const saidAgain = 2500 * time.Millisecond

// withoutReason leaves out why a stream was closed.
func withoutReason(content string) string {
	lines := slices.DeleteFunc(strings.Split(content, "\n"), func(line string) bool {
		return strings.HasPrefix(line, "X-Close-Reason[") || strings.HasPrefix(line, "X-Duration[")
	})
	return strings.Join(lines, "\n")
}

// checkEventsAfterLoss: what was committed between cut and kept is lost. Events of a stream come in their order the first time, an ID has
// one content but for the reason of an end, and one time, within what it takes to say it again, and whatever the application was told of has its one end, which may be told
// again with another time. Only a stream whose encoder has told its end in between may have none: nobody else knows of it.
func checkEventsAfterLoss(t *testing.T, entries []simEntry, cut, kept time.Time) (f faults) {
	times := map[string]time.Time{}
	events, last, closed, mayBeLost := map[string]string{}, map[string]int{}, map[string]bool{}, map[string]bool{}
	repeated, lost, endless := 0, 0, 0
	for _, e := range entries {
		if e.what == simFinished && e.at.After(cut) && e.at.Before(kept) {
			mayBeLost[e.stream] = true
		}
		if e.what != simArrived {
			continue
		}
		content, at := splitTime(t, e.content)
		if e.closed { // what comes again may have another reason: the next leader knows what it was told, in the order in which gateways say it
			content = withoutReason(content)
		}
		if before, known := events[e.event]; known {
			apart := at.Sub(times[e.event]).Abs()
			if repeated++; before != content || apart > time.Second && !e.closed {
				f.add("%v is told as\n%s\nand, %v apart, as\n%s", e, before, apart, content)
			}
			continue
		}
		events[e.event], times[e.event] = content, at
		if e.seq <= last[e.stream] && !e.closed || closed[e.stream] {
			f.add("%v: comes for the first time after number %d (closed %v)%s", e, last[e.stream], closed[e.stream], storyOf(entries, e.stream))
		}
		if closed[e.stream] = e.closed; !e.closed {
			last[e.stream] = e.seq
		}
	}
	for stream := range last {
		if !closed[stream] && mayBeLost[stream] {
			endless++
		} else if !closed[stream] {
			f.add("stream %s is live for ever%s", stream, storyOf(entries, stream))
		}
	}
	for _, e := range entries {
		if _, told := events[e.stream+"-"+e.index]; e.what == simAnnounced && !told {
			if lost++; !mayBeLost[e.stream] && (e.at.Before(cut) || e.at.After(kept)) {
				f.add("%v: never arrived%s", e, storyOf(entries, e.stream))
			}
		}
	}
	t.Logf("%d events, %d times one came again; %d were lost, and %d ends, of %v", len(events), repeated, lost, endless, max(0, kept.Sub(cut)))
	return f
}

// splitTime takes x-event-time out of an event's content: what a gateway says again is as old as before, but for the time on the way.
func splitTime(t *testing.T, content string) (rest string, at time.Time) {
	t.Helper()
	lines := strings.Split(content, "\n")
	i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "X-Event-Time[") })
	if i < 0 {
		t.Fatalf("no time: %s", content)
	}
	at, err := time.Parse(time.RFC3339Nano, strings.TrimSuffix(strings.TrimPrefix(lines[i], "X-Event-Time["), "]"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(slices.Delete(lines, i, i+1), "\n"), at
}
