package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"coordinator/internal/clustertest"
	"coordinator/internal/timeline"
)

func TestReasonsHaveLabels(t *testing.T) {
	t.Parallel()
	for reason, want := range map[error]string{
		errNoAnswer: "no_answer",
		fmt.Errorf("%w: status 403", errKeyDenied):        "denied_key",
		fmt.Errorf("%w: status 503", errApplicationError): "application_error",
		errWaitedInVain:             "no_encoder",
		errStopping:                 "stopping",
		errNotKept:                  "events_not_kept",
		errTooMany:                  "too_many",
		errPeerGone:                 "peer_gone",
		context.Canceled:            "peer_gone",
		fmt.Errorf("something new"): "other",
	} {
		if got := publishResult(reason); got != want {
			t.Errorf("publish: %v is %s, want %s", reason, got, want)
		}
	}
}

// Two goroutines may hand out the notices of two transitions the other way round: the times are those of the transitions.
func TestNoticesHaveTheTimeOfTheirTransition(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s := rig.server("s", kindRTMP)
	e := rig.encoder("e", 1)
	began := rig.now
	id := rig.publish(s, "ch")
	rig.pass(time.Second)
	rig.end(s, "ch", id)
	rig.pass(time.Second)
	rig.closed(e, "ch", id)
	var got []string
	for i := range rig.noted {
		entry := noticeEntry(&rig.noted[i])
		got = append(got, fmt.Sprint(entry.Kind, " ", entry.At.Sub(began)))
	}
	if diff := cmp.Diff([]string{"accepted 0s", "started 0s", "ended 1s", "closed 2s"}, got); diff != "" {
		t.Error("(-want +got)\n", diff)
	}
}

// What a denial was decided by is found under the lock that it is decided under.
func TestDenialsSayWhatTheyWereDecidedBy(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s := rig.serverAt("10.0.0.7", "s", kindRTMP)
	rig.encoder("e1", 1)
	rig.encoder("e2", 2)
	rig.drain(rig.encoder("draining", 5).id, false)
	since := rig.now.UTC().Format("2006-01-02 15:04:05 MST")
	for _, channel := range []string{"a", "b", "c"} {
		rig.publish(s, channel)
	}
	for channel, want := range map[string]string{
		"a": "busy channel is live on streaming server 10.0.0.7:1935 since " + since,
		"d": "no_encoder no encoder had a free slot: 3 of 3 slots taken on 2 encoders",
	} {
		err := rig.claim(s, channel)
		notices := rig.r.deny(s, requestRef{}, channel, channel, err)
		if e := noticeEntry(&notices[0]); e.Code+" "+e.Reason() != want {
			t.Errorf("%s: %s %s", channel, e.Code, e.Reason())
		}
	}
}

func TestDenialAfterATakeoverSaysSo(t *testing.T) {
	t.Parallel()
	rig := newTakeoverRig(t, limits{}, 2)
	rig.begin()
	rig.end(rig.a, "ch", "id1")
	since := rig.now.UTC().Format("2006-01-02 15:04:05 MST")
	err := rig.claim(rig.a, "ch")
	notices := rig.r.deny(rig.a, requestRef{}, "ch", "ch", err)
	want := "busy channel is live on streaming server " + rig.b.address() + " since " + since + ", and was taken over less than 10 s ago"
	if e := noticeEntry(&notices[0]); e.Code+" "+e.Reason() != want {
		t.Errorf("%s %s, want %s", e.Code, e.Reason(), want)
	}
}

// Each reason to end a publisher or a stream has a code of its own.
func TestReasonsHaveCodes(t *testing.T) {
	t.Parallel()
	seen := map[string]error{}
	for _, reason := range []error{
		errByApplication, errByOperator, errEncoderFailed, errEncoderGone, errEncodersLost, errNeverStarted, errChannelTaken, errTakenOver, errNoEncoder,
		errPeerGone, errKillIgnored, errAcceptedLate,
	} {
		code := reasonCode(reason, timeline.Other)
		if code == timeline.Other || seen[code] != nil {
			t.Errorf("%v: code %s, as %v", reason, code, seen[code])
		}
		seen[code] = reason
	}
	if code := reasonCode(errors.New("new"), timeline.Other); code != timeline.Other {
		t.Error(code)
	}
}

// A zone may be any text: it does not get into the timeline.
func TestAddressOfAPublisherIsNothingElse(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"203.0.113.9":             "203.0.113.9",
		"fe80::1":                 "fe80::1",
		"fe80::1%live_s3cret /k/": "fe80::1",
		"a name":                  "",
	} {
		if e := requestEntry(nil, publishRequest{channel: "ch", userIP: given}, time.Now()); e.Text != want {
			t.Errorf("%s: %q, want %q", given, e.Text, want)
		}
	}
}

// Who is gone while others of the server are asked about was not left without an answer.
func TestRequestThatWaitsForItsTurnEndsWithItsServer(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var c coordinator
	if _, err := c.verify(gone, nil, publishRequest{}); publishResult(err) != "peer_gone" {
		t.Errorf("%v is %s", err, publishResult(err))
	}
}

// Not only the placement decides: an encoder that it prefers may be passed over, and the timeline says which and why.
func TestChoiceSaysWhoWasPassedOver(t *testing.T) {
	t.Parallel()
	for want, rest := range map[string]string{
		"failover": ", with another one passed over: encoder 4 has only just connected; 2 of its 5 slots are taken now",
		"aside":    ", with another one passed over: encoder 4 is set aside; 2 of its 5 slots are taken now",
		"plain":    "; 1 of its 5 slots are taken now",
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			rig := newRegistryRig(t, limits{failover: true})
			s, lost := rig.server("s", kindRTMP), rig.encoder("lost", 1)
			rig.publish(s, "ch")
			rig.available(lost, "ch", "id1", "HLS-LIVE")
			rig.encoder("busy", 5)
			rig.publish(s, "other")
			rig.pass(stableAfter)
			idle := rig.encoder("idle", 5)
			rig.noted = nil
			switch want {
			case "failover":
				rig.loseEncoder(lost)
			case "aside":
				idle.setAsideUntil = rig.now.Add(time.Minute)
				rig.publish(s, "next")
			case "plain":
				rig.publish(s, "next")
			}
			said := ""
			for i := range rig.noted {
				if e := noticeEntry(&rig.noted[i]); e.Kind == timeline.Started {
					said = e.Reason()
				}
			}
			if !strings.HasSuffix(said, "of 2 that could take it, PLACEMENT chose this one (the fewest slots taken)"+rest) {
				t.Error(said)
			}
		})
	}
}

func TestTimelineStaysInOrderWhenTheWallClockIsSet(t *testing.T) {
	t.Parallel()
	line, entries, now := timeline.New(), entryList(), time.Now()
	for n, ahead := range []time.Duration{0, -time.Hour, time.Hour, -time.Minute} {
		line.Add(timeline.Entry{At: clustertest.ClockReading(now.Add(time.Duration(n)*time.Second), ahead), Kind: timeline.Asked, Channel: "ch"})
	}
	q, err := entries.Parse("")
	if err != nil {
		t.Fatal(err)
	}
	pager := entries.Pager(q)
	line.Each(timeline.Query{Channel: "ch"}, pager.Add)
	page, _, _ := pager.Page()
	var got []uint64
	for i := range page {
		got = append(got, page[i].Number)
	}
	if diff := cmp.Diff([]uint64{1, 2, 3, 4}, got); diff != "" {
		t.Error("(-want +got)\n", diff)
	}
}
