package e2e

// The judge is judged: for each rule a history that breaks it.

import (
	"strings"
	"testing"
)

func TestHistoriesThatBreakARule(t *testing.T) {
	t.Parallel()
	const a, b, x, y = "rtmp0.1", "wss1.1", "hls0.1", "hls1.1"
	deed := func(who string, what simDeed, stream string) simEntry {
		return simEntry{who: who, what: what, channel: "ch", stream: stream}
	}
	said := func(who, stream, index string) simEntry {
		return simEntry{who: who, what: simAnnounced, channel: "ch", stream: stream, kind: "HLS-LIVE", index: index}
	}
	told := func(stream, index string, seq int, previous string) simEntry {
		return simEntry{what: simArrived, channel: "ch", stream: stream, kind: "HLS-LIVE", index: index, event: stream + "-" + index, seq: seq, previous: previous}
	}
	over := func(stream, index string, seq int) simEntry {
		return simEntry{what: simArrived, channel: "ch", stream: stream, event: stream + "-" + index, seq: seq, closed: true}
	}
	publishers := checkPublishers
	encodings := checkEncodings
	events := func(entries []simEntry) faults { return checkEvents(entries, true) }
	succession := func(entries []simEntry) faults { f, _, _ := checkSuccession(entries); return f }
	for name, test := range map[string]struct {
		check   func([]simEntry) faults
		entries []simEntry
		want    string // "" is for a history that breaks nothing
	}{
		"one after the other":               {publishers, []simEntry{deed(a, simAccepted, "s1"), deed(a, simEnded, "s1"), deed(b, simAccepted, "s2"), deed(b, simEnded, "s2")}, ""},
		"two at once":                       {publishers, []simEntry{deed(a, simAccepted, "s1"), deed(b, simAccepted, "s2"), deed(a, simEnded, "s1"), deed(b, simEnded, "s2")}, "is live there"},
		"two at once on one connection":     {publishers, []simEntry{deed(a, simAccepted, "s1"), deed(a, simAccepted, "s2"), deed(a, simEnded, "s1"), deed(a, simEnded, "s2")}, "is live there"},
		"two at once, one killed":           {publishers, []simEntry{deed(a, simAccepted, "s1"), deed(a, simKilled, "s1"), deed(b, simAccepted, "s2"), deed(a, simEnded, "s1"), deed(b, simEnded, "s2")}, "is live there"},
		"a publisher without end":           {publishers, []simEntry{deed(a, simAccepted, "s1")}, "never ends"},
		"an ID accepted twice":              {publishers, []simEntry{deed(a, simAccepted, "s1"), deed(a, simEnded, "s1"), deed(a, simAccepted, "s1"), deed(a, simEnded, "s1")}, "given out before"},
		"an ID started twice":               {encodings, []simEntry{deed(x, simStarted, "s1"), deed(x, simFinished, "s1"), deed(y, simStarted, "s1")}, "given out before"},
		"two encodings":                     {encodings, []simEntry{deed(x, simStarted, "s1"), deed(y, simStarted, "s2"), deed(x, simFinished, "s1")}, "is live"},
		"two encodings at one encoder":      {encodings, []simEntry{deed(x, simStarted, "s1"), deed(x, simStarted, "s2"), deed(x, simStopped, "s1")}, "is live"},
		"two encodings in a move":           {encodings, []simEntry{deed(x, simStarted, "s1"), deed(x, simMoving, ""), deed(y, simStarted, "s2"), deed(x, simStopped, "s1")}, ""},
		"stopped at the wrong encoder":      {encodings, []simEntry{deed(x, simStarted, "s1"), deed(y, simStopped, "s1")}, "not started there"},
		"a whole story":                     {events, []simEntry{said(x, "s1", "1"), told("s1", "1", 1, ""), told("s1", "1", 1, ""), over("s1", "2", 2)}, ""},
		"a gap":                             {events, []simEntry{said(x, "s1", "1"), said(x, "s1", "2"), told("s1", "2", 2, ""), over("s1", "3", 3)}, "comes after number 0"},
		"half a story":                      {events, []simEntry{said(x, "s1", "1"), told("s1", "1", 1, "")}, "no stream-closed"},
		"closed twice":                      {events, []simEntry{said(x, "s1", "1"), told("s1", "1", 1, ""), over("s1", "2", 2), over("s1", "3", 3)}, "closed true"},
		"closed without a story":            {events, []simEntry{over("s1", "1", 1)}, "all that was told"},
		"what nobody said":                  {events, []simEntry{told("s1", "1", 1, ""), over("s1", "2", 2)}, "not what the encoder said"},
		"a repeat with other words":         {events, []simEntry{said(x, "s1", "1"), told("s1", "1", 1, ""), told("s1", "1", 1, "s0"), over("s1", "2", 2)}, "is repeated as"},
		"a repeat out of order":             {events, []simEntry{said(x, "s1", "1"), told("s1", "1", 1, ""), over("s1", "2", 2), told("s1", "1", 1, "")}, "is repeated after"},
		"an announcement lost":              {checkNothingLost, []simEntry{said(x, "s1", "1")}, "never arrived"},
		"an announcement lost with its own": {checkNothingLost, []simEntry{said(x, "s1", "1"), deed(x, simGone, "")}, ""},
		"a failover": {succession, []simEntry{deed(x, simStarted, "s1"), told("s1", "1", 1, ""), deed(x, simFinished, "s1"), deed(y, simStarted, "s2"),
			over("s1", "2", 2), told("s2", "1", 1, "s1")}, ""},
		"a failover told too early": {succession, []simEntry{deed(x, simStarted, "s1"), told("s1", "1", 1, ""), deed(x, simFinished, "s1"), deed(y, simStarted, "s2"),
			told("s2", "1", 1, "s1"), over("s1", "2", 2)}, "arrives before stream-closed"},
		"a failover of what was not lost": {succession, []simEntry{deed(x, simStarted, "s1"), told("s1", "1", 1, ""), deed(y, simStarted, "s2"), deed(x, simFinished, "s1"),
			over("s1", "2", 2), told("s2", "1", 1, "s1")}, "began before"},
		"a move": {succession, []simEntry{deed(x, simStarted, "s1"), told("s1", "1", 1, ""), deed(x, simMoving, ""), deed(y, simStarted, "s2"), deed(x, simStopped, "s1"),
			told("s2", "1", 1, "s1"), over("s1", "2", 2)}, ""},
		"a move told too early": {succession, []simEntry{deed(a, simAccepted, "s1"), deed(x, simStarted, "s1"), told("s1", "1", 1, ""), deed(x, simMoving, ""), deed(y, simStarted, "s2"), deed(x, simStopped, "s1"),
			over("s1", "2", 2), told("s2", "1", 1, "s1")}, "before the first HLS-LIVE"},
		"a move broken off, for a publisher that was never heard of": {succession, []simEntry{deed(x, simStarted, "s1"), told("s1", "1", 1, ""), deed(x, simMoving, ""),
			deed(x, simStopped, "s1"), deed(y, simStarted, "s2"), deed(y, simStopped, "s2"), over("s1", "2", 2), told("s2", "1", 1, "s1")}, ""},
	} {
		f := test.check(test.entries)
		if all := strings.Join(f, "\n"); (test.want == "") != (len(f) == 0) || !strings.Contains(all, test.want) {
			t.Errorf("%s: found %q, want %q", name, all, test.want)
		}
	}
}
