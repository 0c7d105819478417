package house

// Proof that the tests can fail: each mutation breaks one rule of the program, and the named test has to see it. The
// files on disk stay as they are: the go command is given a changed copy of one of them (go help build, -overlay).
//
//	MUTATIONS=1 go test -run '^TestMutations$' -v ./internal/house

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

type mutation struct {
	rule     string // that it breaks
	file     string
	old, new string // old stands in the file exactly once
	seenBy   string // the test that has to fail
	effect   string
}

func mutations() []mutation {
	return []mutation{
		{
			"order", "internal/outbox/delivery.go",
			"		if q.end-q.head > 1 {\n			continue\n		}\n", "",
			"TestEventsOfAStreamStayInOrderWhateverFails", "several events of a stream are in flight at once",
		},
		{
			"order", "internal/outbox/outbox.go",
			"o.appended = append(o.appended, ev)", "o.appended = append([]Event{ev}, o.appended...)",
			"TestEventsOfAStreamStayInOrderWhateverFails", "the last event comes first",
		},
		{
			"order", "registry_lives.go",
			"p.server.peer.accept(w.request.requestRef, p.channel, p.publisherID, p.number)", "go p.server.peer.accept(w.request.requestRef, p.channel, p.publisherID, p.number)",
			"TestStreamEndsOnlyAfterItsPublisherIsAccepted", "a STREAM-KILL overtakes the PUBLISH-ACCEPT before it",
		},
		{
			"durability", "internal/outbox/outbox.go",
			"	left, err := o.store.Commit(o.unwritten)\n	o.unwritten = left\n	o.committed(appended[:len(appended)-len(left.Appended)])\n",
			"	o.committed(appended)\n	left, err := o.store.Commit(o.unwritten)\n	left.Appended = nil\n	o.unwritten = left\n",
			"TestAnEventIsSentOnlyAfterItsCommit", "an event is sent before it is durable",
		},
		{
			"durability", "internal/outbox/outbox.go",
			"	o.unwritten = left\n", "	o.unwritten = Group{}\n",
			"TestADiskThatFillsUpLosesNothing", "what could not be written is forgotten",
		},
		{
			"durability", "internal/outbox/outbox.go",
			"	for _, ev := range lost {\n		o.Append(ev)\n	}\n", "",
			"TestNoCrashLosesOrReordersEvents/in_memory", "streams of a process that died stay open",
		},
		{
			"durability", "internal/outbox/outbox.go",
			"	ev.more = true\n", "",
			"TestEventsOfATransitionAreCommittedTogether", "events of a transition are committed apart",
		},
		{
			"durability", "internal/outbox/undelivered.go",
			"	q.held = true\n", "	q.held = true\n	if q.head < q.end {\n		d.fresh.push(q)\n		d.launchLocked(d.clock.at(d.now()))\n	}\n",
			"TestDiscardIsDurableBeforeItIsAnsweredAndTheNextEventIsSent", "an event behind a discarded one is sent before the discard is durable",
		},
		{
			"durability", "internal/outbox/undelivered.go",
			"	case q.flying:\n		return ErrInFlight\n", "",
			"TestEventInFlightIsNotDiscarded", "an event that is being sent is discarded",
		},
		{
			"durability", "internal/outbox/retry.go",
			"err == nil && status == http.StatusOK", "err == nil && status < 300",
			"TestOnlyAnAnswer200Delivers", "an answer other than 200 counts as taken",
		},
		{
			"slots", "registry_lives.go",
			"	r.slots.used--\n", "",
			"TestLifeOfAStream", "a slot is never freed",
		},
		{
			"slots", "registry_lives.go",
			"	st.closing = true\n", "	st.closing = true\n	st.encoder.streams.Remove(st)\n",
			"TestLifeOfAStream", "a slot is free before the encoder is done",
		},
		{
			"slots", "registry_placement.go",
			"if e.draining || e.away || !e.hasFreeSlot() || e == w.avoid {", "if e.draining || e.away || e == w.avoid {",
			"TestClaimIsRefusedAndLeavesNothing", "an encoder gets more than it can hold",
		},
		{
			"identity", "registry_lives.go",
			"if p == nil || p.channel != channel || p.publisherID != streamID || p.server != s && ", "if p == nil || p.server != s && ",
			"TestForeignMessagesChangeNothing", "the end of an old stream ends its successor",
		},
		{
			"identity", "registry_lives.go",
			"p.server != s && !s.isNewerTwinOf(&p.server.twin) {", "false {",
			"TestForeignMessagesChangeNothing", "a server ends another one's stream",
		},
		{
			"identity", "registry_lives.go",
			"	st := r.ownStreamLocked(e, channel, streamID)\n",
			"	st := r.ownStreamLocked(e, channel, streamID)\n	for _, other := range r.encoders {\n		if st == nil {\n			st = r.ownStreamLocked(other, channel, streamID)\n		}\n	}\n",
			"TestForeignMessagesChangeNothing", "an encoder announces another one's stream",
		},
		{
			"identity", "registry_lives.go",
			"if st == nil || st.encoder != e && !e.isNewerTwinOf(&st.encoder.twin) {", "if st == nil {",
			"TestForeignMessagesChangeNothing", "an encoder closes another one's stream",
		},
		{
			"identity", "internal/outbox/delivery.go",
			"	began := d.now()\n", "	began := d.now()\n	ev.Seq += uint64(t.attempt - 1)\n",
			"TestEventsOfAStreamStayInOrderWhateverFails", "a repeat has another event ID",
		},
		{
			"identity", "registry_twins.go",
			"t.group == older.group && t.session > older.session", "t.group == older.group",
			"TestOnlyTheLaterTwinIsBelieved", "an older session ends its twin's publisher",
		},
		{
			"durability", "internal/outbox/record.go",
			"f.broken || f.rest != \"\"", "false",
			"TestEventsAndRecordsComeBackAsTheyWere", "a damaged record is taken for an event",
		},
		{
			"durability", "internal/outbox/store.go",
			"	if record.Head == record.Tail || record.Tail == 0 {\n", "	if record.Tail == 0 {\n",
			"TestAgeOfTheOldestEventIsKeptOnDisk", "the age of the oldest event is not kept on disk",
		},
		{
			"wire", "internal/wire/wire.go",
			"		out = append(out, ':')\n", "		out = append(out, ':', ' ')\n",
			"TestStreamLifeEndToEnd", "a value begins with a space",
		},
		{
			"kills", "registry_kills.go",
			"if due > k.again && ", "if due < k.again && ",
			"TestKillIsSaidAgainUntilThePublisherHasEnded", "a kill is said once",
		},
		{
			"kills", "registry_kills.go",
			"	r.letGoLocked(p)\n", "	r.letGoLocked(p)\n	r.endLocked(p, nil, now)\n",
			"TestOnlyTheChannelWaitsForTheEndOfAKilledPublisher", "a channel is free before its killed publisher has ended",
		},
		{
			"sessions", "internal/control/probe.go",
			"s.endLocked(errPeerDead, time.Now())", "s.endProbeLocked()",
			"TestHalfOpenServerIsCutOffAfter5SecondsWhenItIsBack", "a session that does not answer its probe stays",
		},
		{
			"sessions", "internal/control/probe.go",
			"c.heard.Store(true)", "c.heard.Store(false)",
			"TestAnyByteIsASignOfLife", "half a message is no sign of life",
		},
		{
			"sessions", "registry_takeover.go",
			"	case p.server.suspect():", "	case false:",
			"TestRequestForAChannelOfASuspectSessionIsHeld", "a request for the channel of a session that may be dead is denied",
		},
		{
			"restore", "registry_restore.go",
			"	p.current = named\n", "	p.current = nil\n",
			"TestWhatGatewaysKeptMakesTheSameStateAgain", "a stream that is there is lost in a start",
		},
		{
			"restore", "registry_restore.go",
			"avoid: r.encoders[rs.memos[p].Avoid]", "avoid: r.encoders[rs.memos[p].Number]",
			"TestWhatGatewaysKeptMakesTheSameStateAgain", "a publication goes back to the encoder that failed it",
		},
		{
			"restore", "registry_restore.go",
			"p.current == nil && !p.killed && !lost {", "p.current == nil && p.killed && !lost {",
			"TestRowsOfARestore", "a publication that waited for an encoder is forgotten",
		},
		{
			"restore", "registry_restore.go",
			"if !announced && rs.in.gateways[m.Current.Gateway] {", "if false {",
			"TestRowsOfARestore", "a start that was not passed on counts as lost",
		},
		{
			"restore", "registry_restore.go",
			"if !announced && rs.in.", "if rs.in.",
			"TestRowsOfARestore", "an announced stream that is not there counts as never started",
		},
		{
			"restore", "registry_restore.go",
			"		p.current = lastLive(streams, m.Current)\n", "		p.current = nil\n",
			"TestRowsOfARestore", "a stream is lost with the memo that names it",
		},
		{
			"restore", "registry_restore.go",
			"				r.stopLocked(st)\n", "",
			"TestRowsOfARestore", "a stream without a publication goes on",
		},
		{
			"restore", "registry_restore.go",
			"			rs.retireLocked(st, moved)\n", "",
			"TestRowsOfARestore", "a stream that its publication does not name goes on",
		},
		{
			"told", "registry_told.go",
			"	case st.pub.why != notEnded:\n		return st.pub.why\n", "",
			"TestApplicationHearsWhyThingsEnded", "what follows from a close command is blamed on the encoder",
		},
		{
			"told", "registry_told.go",
			"p.owesEnd && p.atEncoders == 0 && ", "p.owesEnd && ",
			"TestApplicationHearsWhyThingsEnded", "a publisher fails whose encoder still announces something",
		},
		{
			"told", "registry_restore.go",
			"		p.owesEnd = !rs.announcing[queue] // a database that has lost commits may have the accept without what has fulfilled it, or both\n", "",
			"TestClusterSurvivesCrashesAtAnyFrame", "a publisher that was accepted has no end after a restart",
		},
		{
			"told", "registry_restore.go",
			"!p.proven && p.server.publications.Has(p) {\n			rs.tellUntold", "false {\n			rs.tellUntold",
			"TestClusterSurvivesCrashesAtAnyFrame", "a publisher whose accept was not durable is never told",
		},
		{
			"told", "internal/outbox/record.go",
			"	case PublishAccepted:\n		r.announce(ev)\n", "",
			"TestRecordKnowsWhatIsOwed", "a crash leaves a publisher that was accepted without an end",
		},
		{
			"restore", "registry_restore.go",
			"p.successor.hasTold(\"HLS-LIVE\")", "p.successor.hasTold(\"HLS-VOD\")",
			"TestRowsOfARestore", "a successor that is live does not take over",
		},
		{
			"restore", "registry_restore.go",
			"		rs.postponed[p] = loss{reason: errEncoderAsked}\n", "",
			"TestRowsOfARestore", "a publication whose stream is closing is started again",
		},
		{
			"restore", "registry_restore.go",
			"			r.killLocked(p, errEncoderAsked, now) // memos of an earlier version have no reason\n", "			p.killed = true\n",
			"TestRowsOfARestore", "a kill is not said again after a start",
		},
		{
			"restore", "registry_restore.go",
			"		case holder.killed, p.tookOver:", "		case !holder.killed, p.tookOver:",
			"TestRowsOfARestore", "of two publications of a channel the wrong one is killed",
		},
		{
			"restore", "registry_restore.go",
			"		if p.ousted {\n			r.letGoLocked(p)\n		}\n", "",
			"TestRowsOfARestore", "an ousted publication keeps its encoder",
		},
		{
			"restore", "registry_restore.go",
			"	rs.closeForgotten()\n", "",
			"TestRowsOfARestore", "a stream that is gone gets no stream-closed",
		},
		{
			"restore", "registry_restore.go",
			"		rs.joinStreams(p, streams[p], lost[p])\n", "		rs.joinStreams(p, streams[p], lost[nil])\n",
			"TestMessagesKeptAreTakenInBeforeAnythingIsOrdered", "what was lost meanwhile is forgotten",
		},
		{
			"restore", "gateways.go",
			"return a.said.Compare(b.said)", "return 0",
			"TestWhatEncodersHaveSaidIsReplayedInItsOrder", "a stream is announced before the one in whose place it is was closed",
		},
		{
			"gateways", "passing.go",
			"	if t == nil || t.cause != nil && t.cause.gateway == s.gateway {\n", "	if true {\n",
			"TestDoneWaitsForAllThatFollows", "a message is forgotten before other gateways have what follows from it",
		},
		{
			"gateways", "passing.go",
			"	t.open++\n	m.Durable = x.committed(t)\n", "",
			"TestDoneWaitsForAllThatFollows", "a message is forgotten before its events are in the store",
		},
		{
			"gateways", "passing.go",
			"x.makeSure(time.Now().Add(-x.mandate.Unconfirmed()))", "x.makeSure(time.Now())",
			"TestCommitsAreUnsureWhileTheDatabaseDoesNotAnswer", "a message is forgotten while the database fails over",
		},
		{
			"gateways", "gatewaysession.go",
			"return s.message > 0 && s.message <= s.applied", "return false",
			"TestClusterSurvivesDeathsAtEachMessageOfItsLinks", "what a message has told is told again after a start",
		},
		{
			"gateways", "registry_gateways.go",
			"			r.endLocked(p, errAcceptedLate, now)\n", "",
			"TestAcceptThatComesAfterTheGatewaysOwnDenialLeavesNoGhost", "a publisher who was denied stays live",
		},
		{
			"gateways", "registry_waiting.go",
			"		case r.mayComeBackLocked(w):\n", "",
			"TestSlotsOfAnAbsentGatewayAreWaitedFor", "publishers are turned away because a link breaks for a moment",
		},
		{
			"gateways", "gatewaysession.go",
			"			s.keep(name, nil)\n", "",
			"TestClusterSurvivesDeathsAtEachMessageOfItsLinks", "gateways keep what is over",
		},
		{
			"memory", "internal/host/gc.go",
			"			c.free()\n", "",
			"TestBusyDaemonCollectsRarelyAndAQuietOneGivesMemoryBack", "a quiet daemon keeps its memory",
		},
		{
			"requests", "coordinator.go",
			"		defer c.pending.Add(-1)\n", "",
			"TestRequestsThatAreAnsweredMakeRoomForOthers", "a request that was answered stays counted",
		},
		{
			"requests", "coordinator.go",
			"		c.pending.Add(-1)\n		c.deny(s, req, errTooMany)\n", "		c.deny(s, req, errTooMany)\n",
			"TestRequestsThatAreAnsweredMakeRoomForOthers", "a request above the limit stays counted",
		},
		{
			"requests", "coordinator.go",
			"	c.logAndCount(c.registry.stop())\n", "",
			"TestPublishersThatWaitAreDeniedAtTheStop", "publishers that wait get no answer at the stop",
		},
		{
			"moves", "registry_moves.go",
			"	st.encoder.retired++\n", "",
			"TestDrainedEncoderMayBeStoppedWhenServingIs0", "an encoding that was moved away counts as served",
		},
		{
			"takeover", "registry_takeover.go",
			"	r.reserveSlotLocked(t, e)\n	if !p.killed {\n", "	if !p.killed {\n",
			"TestTakeoverEndsWithOnePublisher", "a publisher is killed for one who has no slot",
		},
		{
			"takeover", "registry_takeover.go",
			"		r.oustLocked(t.from)\n", "",
			"TestTakeoverEndsWithOnePublisher", "a channel has two publishers",
		},
		{
			"takeover", "registry_takeover.go",
			"now.Sub(last) < takeoversApart:", "now.Sub(last) < 0:",
			"TestTakeoverEndsWithOnePublisher", "two publishers take a channel from each other all the time",
		},
		{
			"takeover", "registry_kills.go",
			"		r.refuseTakeoverLocked(t, errClosedUnderWay, now)\n", "",
			"TestTakeoverEndsWithOnePublisher", "a close command lets a new publisher in",
		},
		{
			"takeover", "registry_restore.go",
			"		case holder.killed, p.tookOver:", "		case holder.killed:",
			"TestRowsOfARestore", "a restart gives a channel back to the publisher before",
		},
		{
			"leaders", "internal/lease/machine.go",
			"	quietFor  = 6 * time.Second", "	quietFor  = 4 * time.Second",
			"TestNoTwoAreSureToLead", "a leader is followed before it is in doubt",
		},
		{
			"leaders", "internal/lease/machine.go",
			" || received-m.latest >= blindFor", "",
			"TestQuietTimeBeginsAnewAfterTheDatabaseWasAway", "a time without a database deposes the leader",
		},
		{
			"leaders", "internal/lease/keeper.go",
			"	leads, sent := k.machine.leads, k.Clock()\n", "	leads, sent := k.machine.leads, k.Clock()+validFor\n",
			"TestLeaderThatDiesIsFollowedAfter6Seconds", "a lead is valid for longer than it was renewed",
		},
		{
			"leaders", "internal/gateway/leaders.go",
			"	if !link.ProvesLead(", "	if answer.Epoch == 0 && !link.ProvesLead(",
			"TestUnprovenLeadersCountForNothing", "whoever says so leads",
		},
		{
			"leaders", "internal/gateway/lookout.go",
			"ctx.Err() == nil && g.isAbove(a, epoch)", "ctx.Err() == nil && g.isAbove(a, epoch+1e12)",
			"TestGatewayLeavesForAHigherEpoch", "gateways stay with a leader that was deposed",
		},
		{
			"leaders", "internal/gateway/linking.go",
			"		case w.Epoch < g.highestEpoch():\n			return w, errEpoch\n", "",
			"TestLowerEpochIsNeverObeyed", "a leader with a lower epoch is obeyed again",
		},
		{
			"leaders", "internal/gateway/active.go",
			"	if g.link != l {\n		return nil // it is ending\n	}\n", "",
			"TestWhatALeaderSaysAfterItWasLeftIsNotObeyed", "a leader that was left is still obeyed",
		},
		{
			"leaders", "internal/gateway/leaders.go",
			" && a.epoch >= expected.epoch && enough == nil", " && enough == nil",
			"TestHigherEpochIsFollowedHoweverLongItsAnswerTakes", "whoever answers first leads",
		},
		{
			"leaders", "internal/gateway/lookout.go",
			" && g.expected().isOfStore(a)", "",
			"TestLeaderOfAnotherStoreIsNotFollowedForItsEpoch", "a wrong COORDINATOR_URL deposes the leader",
		},
		{
			"leaders", "internal/gateway/linking.go",
			"	if len(g.URLs) > 1 {\n		g.lookOut(ctx, l, c.epoch)\n	}\n	w, rest, err := g.greet(ws)\n", "	w, rest, err := g.greet(ws)\n	if len(g.URLs) > 1 {\n		g.lookOut(ctx, l, c.epoch)\n	}\n",
			"TestCoordinatorThatDoesNotWelcomeIsLeftForTheLeader", "a coordinator that does not answer keeps gateways from the leader",
		},
		{
			"leaders", "internal/gateway/active.go",
			"		l.unsure.Store(ack.Unsure)\n", "		l.unsure.Store(false)\n",
			"TestDoubtOfALeaderHasTheNextOneFollowedSooner", "a leader's doubt is not heard",
		},
		{
			"leaders", "internal/gateway/forward.go",
			"	if g.link == nil && len(g.URLs) > 1 {\n		return nil, g.linked\n	}\n", "",
			"TestRequestsWaitForTheNextLeader", "commands go to a leader that was deposed",
		},
		{
			"leaders", "internal/linkserver/attend.go",
			"		if g.server.heard(p.Epoch) {", "		if false {",
			"TestGatewayThatLeavesForAHigherEpochIsNotLost", "a gateway that goes to the next leader counts as gone",
		},
		{
			"leaders", "internal/link/auth.go",
			"	h.Write(binary.BigEndian.AppendUint64(nil, said.Epoch))\n", "	_ = binary.BigEndian\n",
			"TestProofOfALead", "a proof is good for any epoch",
		},
		{
			"leaders", "internal/linkserver/hello.go",
			"	case s.heard(h.Epoch):\n		return errHigherEpoch\n", "",
			"TestHigherEpochIsHeardAndNotWelcomed", "a deposed leader goes on",
		},
		{
			"leaders", "internal/pgstore/store.go",
			"		s.deposed(max(leading, s.epoch+1))\n", "		_ = leading\n",
			"TestOldEpochWritesNothing", "a leader does not hear that it is fenced",
		},
		{
			"leaders", "internal/lease/machine.go",
			"row != m.seen || ", "row.Epoch != m.seen.Epoch || ",
			"TestLeaderThatDiesIsFollowedAfter6Seconds", "a leader that gives signs of life is followed",
		},
		{
			"leaders", "internal/lease/report.go",
			"	k.Log.Warn(\"no longer sure", "	k.term.end(ErrDeposed)\n	k.Log.Warn(\"no longer sure",
			"TestLeadOutlivesADatabaseThatIsAwayForAll", "a term ends because the database is away",
		},
		{
			"leaders", "internal/lease/machine.go",
			"	if m.highest > m.epoch {\n		m.leads = false\n	}\n", "",
			"TestHigherEpochEndsTheTerm", "a leader that hears of a later one goes on",
		},
		{
			"leaders", "internal/lease/machine.go",
			"	if epoch <= m.highest {\n		return false\n	}\n", "	m.highest = max(m.highest, epoch)\n",
			"TestEpochHeardDuringATakeOverIsNotLed", "an epoch is led below one that was heard of",
		},
		{
			"leaders", "internal/lease/machine.go",
			" || m.seen.Holder == m.holder", "",
			"TestTakeOverWithoutAnAnswerIsDoneAgain", "nobody leads after a take-over without an answer",
		},
		{
			"leaders", "internal/lease/term.go",
			"	defer t.mu.Unlock()\n	return t.isValidLocked()", "	defer t.mu.Unlock()\n	return t.saidValid && t.ctx.Err() == nil",
			"TestFrozenLeaderIsInDoubtAtOnce", "a leader that was frozen is sure to lead until it is told otherwise",
		},
		{
			"leaders", "internal/lease/term.go",
			"changed || !was && valid", "changed || was && !valid",
			"TestWhoHasSeenADoubtHearsThatItIsOver", "publishers wait on after a short sleep of the machine",
		},
		{
			"leaders", "internal/lease/keeper.go",
			"	if !leads {\n		return\n	}\n", "	_ = leads\n",
			"TestTermThatWasLostIsNotRenewed", "a term that was lost is renewed",
		},
		{
			"leaders", "internal/lease/keeper.go",
			"	leads, sent := k.machine.leads, k.Clock()", "	leads, sent := k.machine.leads && term.ctx.Err() == nil, k.Clock()",
			"TestTermIsRenewedUntilItsPartsHaveEnded", "another one leads while a term still ends",
		},
	}
}

// What a mutation changes is there once, in each run of the tests and not only where all of them are made.
func TestMutationsFitTheCode(t *testing.T) {
	t.Parallel()
	for _, m := range mutations() {
		m.overlay(t)
	}
}

func TestMutations(t *testing.T) {
	if os.Getenv("MUTATIONS") == "" {
		t.Skip("MUTATIONS is not set")
	}
	for _, m := range mutations() {
		t.Run(m.rule+": "+m.effect, func(t *testing.T) {
			t.Parallel() // most wait: for what the mutation keeps from happening
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			function, _, _ := strings.Cut(m.seenBy, "/")
			home, found := testFunctions(t)[function]
			if !found {
				t.Fatalf("there is no test %s", m.seenBy)
			}
			test := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout=2m", "-vet=off", "-run", "^"+m.seenBy+"$", "./"+home)
			test.Env = append(os.Environ(), "MUTATIONS=", "GOFLAGS=-overlay="+m.overlay(t)) // for the builds of the test, too
			out, err := test.CombinedOutput()
			switch {
			case err == nil:
				t.Errorf("%s does not see it:\n%s", m.seenBy, out)
			case bytes.Contains(out, []byte("[build failed]")) || !bytes.Contains(out, []byte("--- FAIL: "+m.seenBy)):
				t.Errorf("not a failed test: %v\n%s", err, out)
			}
		})
	}
}

func TestDocumentsNameTheTestsThatThereAre(t *testing.T) {
	t.Parallel()
	contributing, security := clustertest.ReadText(t, "CONTRIBUTING.md"), clustertest.ReadText(t, "SECURITY.md")
	for _, m := range mutations() {
		if row := "| " + m.rule + " | " + m.effect + " | `" + m.seenBy + "` |"; !strings.Contains(contributing, row) {
			t.Errorf("CONTRIBUTING.md has no row %s", row)
		}
	}
	if rows := strings.Count(contributing, " | `Test"); rows != len(mutations()) {
		t.Errorf("CONTRIBUTING.md has %d rows for %d mutations", rows, len(mutations()))
	}
	tests := testFunctions(t)
	for i, name := range strings.Split(security, "`") {
		isTest := i%2 == 1 && (strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz"))
		if _, found := tests[name]; isTest && !found {
			t.Errorf("SECURITY.md names %s, which does not exist", name)
		}
	}
}

// testFunctions maps the tests and fuzz targets of all packages to their directories.
func testFunctions(t *testing.T) map[string]string {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	homes := map[string]string{}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, found := range function.FindAllStringSubmatch(clustertest.ReadText(t, path), -1) {
			homes[found[1]] = filepath.Dir(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return homes
}

// overlay writes the changed file, and the file that tells the go command of it.
func (m mutation) overlay(t *testing.T) string {
	t.Helper()
	file, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		t.Fatalf("%s holds the text %d times that is to be changed:\n%s", m.file, n, m.old)
	}
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, filepath.Base(m.file)), filepath.Join(dir, "overlay.json")
	clustertest.WriteFile(t, changed, []byte(strings.Replace(string(source), m.old, m.new, 1)))
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {file: changed}})
	if err != nil {
		t.Fatal(err)
	}
	clustertest.WriteFile(t, overlay, replace)
	return overlay
}
