package main

// What keeps a cluster well: draining, the guard against encoders that fail at once, the limit on starts.

import (
	"errors"
	"testing"
	"time"
)

func TestDrainedMembersKeepWhatTheyHave(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 2)
	other := rig.server("other", "RTMP")
	rig.publish(s, "ch")
	rig.drain(s.id, false)
	rig.drain(e.id, false)
	rig.forget()
	if err := rig.claim(other, "ch2"); err != errNoEncoder {
		t.Errorf("claim with the encoder drained: %v", err)
	}
	rig.available(e, "ch", "id1", "HLS-LIVE")
	rig.expect("event id1 1 HLS-LIVE")
	report := wholeReport(rig.r, rig.now)
	if !report.Encoders[0].Draining || report.Encoders[0].Moving || report.Encoders[0].Load != 1 {
		t.Errorf("report: %+v", report.Encoders)
	}
	rig.undrain(e.id)
	if err := rig.claim(s, "ch2"); err != errDraining {
		t.Errorf("claim with the server drained: %v", err)
	}
	rig.expect()
	rig.undrain(s.id)
	rig.publish(s, "ch2")

	rig.drain(e.id, true)
	rig.loseEncoder(e) // simply gone
	rig.loseServer(s)
	rig.loseServer(other)
	checkEmpty(t, rig.r)
	for _, id := range []uint64{0, e.id, s.id, 99} {
		if _, _, err := rig.r.drain(id, true, rig.now); !errors.Is(err, errUnknownSession) {
			t.Errorf("drain of %d: %v", id, err)
		}
		if _, _, err := rig.r.undrain(id, rig.now); !errors.Is(err, errUnknownSession) {
			t.Errorf("undrain of %d: %v", id, err)
		}
	}
}

// failAtOnce lets the encoder end the newest stream of the channel after a while, nothing announced.
func (rig *registryRig) failAtOnce(s *server, e *encoder, channel string, after time.Duration) {
	rig.t.Helper()
	id := rig.publish(s, channel)
	rig.now = rig.now.Add(after)
	if !rig.closed(e, channel, id) {
		rig.t.Fatalf("%s is not on the encoder that is to fail it", channel)
	}
	if !rig.end(s, channel, id) { // in answer to STREAM-KILL
		rig.t.Fatalf("%s was forgotten before its publisher ended", channel)
	}
}

func isSetAside(rig *registryRig, e *encoder) bool {
	for _, row := range wholeReport(rig.r, rig.now).Encoders {
		if row.ID == e.id {
			return row.SetAside
		}
	}
	return false
}

func TestFlapGuardSetsAsideForAGrowingTime(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("bad", -1)
	rig.failAtOnce(s, e, "ch", 10*time.Second)
	rig.failAtOnce(s, e, "ch", time.Second)
	if isSetAside(rig, e) {
		t.Error("set aside after two failures")
	}
	for i, seconds := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		rig.failAtOnce(s, e, "ch", 0) // it is chosen all the same, there being no other
		rig.now = rig.now.Add(seconds*time.Second - time.Millisecond)
		if !isSetAside(rig, e) {
			t.Errorf("failure %d: back before %d s", i+failuresInARow, seconds)
		}
		rig.now = rig.now.Add(time.Millisecond)
		if isSetAside(rig, e) {
			t.Errorf("failure %d: not back after %d s", i+failuresInARow, seconds)
		}
	}
	if !rig.reasonNoted(noteSetAside, errFailsInARow) {
		t.Error("nothing is noted")
	}
}

func TestFlapGuardSparesThoseWhoWork(t *testing.T) {
	t.Parallel()
	tests := map[string]func(rig *registryRig, s *server, e *encoder){
		"it announced something": func(rig *registryRig, s *server, e *encoder) {
			rig.available(e, "ch", rig.publish(s, "ch"), "IMG-PREVIEW")
			rig.end(s, "ch", rig.live("ch"))
		},
		"another stream announced something in between": func(rig *registryRig, s *server, e *encoder) {
			rig.available(e, "steady", "id1", "HLS-LIVE")
			rig.failAtOnce(s, e, "ch", 0)
		},
		"it took long": func(rig *registryRig, s *server, e *encoder) {
			rig.failAtOnce(s, e, "ch", earlyFailure+time.Millisecond)
		},
		"the publisher ended it": func(rig *registryRig, s *server, e *encoder) {
			id := rig.publish(s, "ch")
			rig.end(s, "ch", id)
			rig.closed(e, "ch", id)
		},
		"the application closed it": func(rig *registryRig, s *server, e *encoder) {
			id := rig.publish(s, "ch")
			rig.kill("ch", id)
			rig.closed(e, "ch", id) // the source ended before its server said so
			rig.end(s, "ch", id)
		},
	}
	for name, once := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newRegistryRig(t, limits{})
			s, e := rig.server("s", "RTMP"), rig.encoder("e", -1)
			rig.publish(s, "steady")
			for range 2 * failuresInARow {
				once(rig, s, e)
				if isSetAside(rig, e) {
					t.Fatal("set aside")
				}
			}
		})
	}
}

func TestSetAsideEncoderIsChosenOnlyIfThereIsNoOther(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, bad := rig.server("s", "RTMP"), rig.encoder("bad", -1)
	for range failuresInARow {
		rig.failAtOnce(s, bad, "ch", 0)
	}
	rig.encoder("good", 2)
	rig.forget()
	rig.publish(s, "a")
	rig.publish(s, "b")
	rig.publish(s, "c")
	rig.expect("s accept r-a a id4", "good start a id4", "s accept r-b b id5", "good start b id5", "s accept r-c c id6", "bad start c id6")
	rig.available(bad, "c", "id6", "HLS-LIVE")
	if isSetAside(rig, bad) {
		t.Error("still set aside though it works again")
	}
}

func TestStartThatNeverHappensIsEnded(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{failover: true, startTimeout: 30 * time.Second})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", -1)
	rig.publish(s, "mute")
	rig.publish(s, "loud")
	rig.publish(s, "short")
	rig.pass(10 * time.Second)
	rig.publish(s, "later")
	rig.available(e, "loud", "id2", "IMG-PREVIEW")
	rig.end(s, "short", "id3")
	rig.pass(20*time.Second - time.Millisecond)
	rig.forget()
	rig.pass(time.Millisecond)
	rig.expect("s kill mute id1", "e stop mute id1")
	if !rig.reasonNoted(noteKilled, errNeverStarted) {
		t.Error("no warning says why")
	}
	rig.closed(e, "mute", "id1") // its slot was busy until now
	rig.end(s, "mute", "id1")
	rig.expect()
	rig.pass(10 * time.Second)
	rig.expect("s kill later id4", "e stop later id4")
}

func TestNoStartTimeoutByDefault(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s := rig.server("s", "RTMP")
	rig.encoder("e", -1)
	rig.publish(s, "mute")
	rig.forget()
	rig.pass(24 * time.Hour)
	rig.expect()
}
