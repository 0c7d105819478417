package timeline

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReasonsAreInWords(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 11, 29, 14, 3, 0, 0, time.UTC)
	for want, e := range map[string]Entry{
		"a publisher at 203.0.113.9 asked to publish on streaming server 10.0.0.7:1935": {Kind: Asked, Code: Done, Text: "203.0.113.9", Address: "10.0.0.7:1935"},
		"a publisher asked to publish":                                                    {Kind: Asked, Code: Done},
		"the application answered 200 after 12ms":                                         {Kind: Verified, Code: Allowed, Status: 200, Tries: 1, Took: 12 * time.Millisecond},
		"the application answered 403 after 1.5s, at try 3":                               {Kind: Verified, Code: DeniedKey, Status: 403, Tries: 3, Took: 1500 * time.Millisecond},
		"the application did not answer: given up after 15s, at try 9":                    {Kind: Verified, Code: NoAnswer, Tries: 9, Took: 15 * time.Second},
		"the application's answer could not be read, after 1s":                            {Kind: Verified, Code: ApplicationError, Tries: 1, Took: time.Second},
		"the streaming server was gone before the application answered, after 1s":         {Kind: Verified, Code: PeerGone, Tries: 1, Took: time.Second},
		"the application answered 403":                                                    {Kind: Denied, Code: DeniedKey, Status: 403},
		"the application answered 204: only 200 counts":                                   {Kind: Denied, Code: DeniedKey, Status: 204},
		"the application answered 302: only 200 counts, and redirects are not followed":   {Kind: Denied, Code: DeniedKey, Status: 302},
		"the application answered 503: an error of its own, not the key's":                {Kind: Denied, Code: ApplicationError, Status: 503},
		"no encoder had a free slot: 8 of 8 slots taken on 2 encoders":                    {Kind: Denied, Code: NoEncoder, Used: 8, Capacity: 8, Encoders: 2},
		"no encoder had a free slot: 1 of 1 slots taken on 1 encoder":                     {Kind: Denied, Code: NoEncoder, Used: 1, Capacity: 1, Encoders: 1},
		"no encoder has a free slot":                                                      {Kind: Denied, Code: NoEncoder, Encoders: -1, Text: "no encoder has a free slot"},
		"no encoder was in service":                                                       {Kind: Denied, Code: NoEncoder, Text: "no encoder has a free slot"},
		"channel is live on streaming server 10.0.0.7:1935 since 2026-11-29 14:03:00 UTC": {Kind: Denied, Code: Busy, Address: "10.0.0.7:1935", Since: since},
		"channel is live already":                                                         {Kind: Denied, Code: Busy, Text: "channel is live already"},
		"encoder 7 at 10.0.0.9 was told to start: of 4 that could take it, PLACEMENT chose this one (the fewest slots taken); 2 of its 8 slots are taken now":                                                       {Kind: Started, Code: "least_load", Encoder: 7, Address: "10.0.0.9", Encoders: 4, Used: 2, Capacity: 8},
		"encoder 7 at 10.0.0.9 was told to start: the only one that could take it; 2 of its slots are taken now":                                                                                                    {Kind: Started, Code: "pack", Encoder: 7, Address: "10.0.0.9", Encoders: 1, Used: 2, Capacity: -1},
		"encoder 7 at 10.0.0.9 was told to start: of 4 that could take it, PLACEMENT chose this one (the fewest slots taken), with another one passed over: encoder 5 is set aside; 2 of its 8 slots are taken now": {Kind: Started, Code: "least_load", Encoder: 7, Address: "10.0.0.9", Encoders: 4, Used: 2, Capacity: 8, Text: "encoder 5 is set aside"},
		"its encoder was lost: the channel goes on under this stream ID; the one before was OLD":                                                                                                                    {Kind: Moved, Code: Failover, Text: "OLD"},
		"its encoder was drained: the channel goes on under this stream ID; the one before was OLD":                                                                                                                 {Kind: Moved, Code: Drained, Text: "OLD"},
		"the application closed it, by POST /commands/close":                                                                                                                                                        {Kind: Killed, Code: ByApplication},
		"an operator closed it in the dashboard":                   {Kind: Killed, Code: ByOperator},
		"the coordinator ended the publisher: encoder is gone":     {Kind: Killed, Code: EncoderGone, Text: "encoder is gone"},
		"the streaming server said that the publisher has ended":   {Kind: Ended, Code: PublisherEnded},
		"the streaming server was gone, and the publisher with it": {Kind: Ended, Code: ServerGone},
		"the encoder closed the stream":                            {Kind: Closed, Code: Done},
		"the encoder closed the stream by itself: 12 no video":     {Kind: Closed, Code: EncoderFailed, Text: "12 no video"},
		"the encoder was gone, and the stream with it":             {Kind: Closed, Code: EncoderGone},
		"the application took stream-closed after 2ms":             {Kind: Event, Code: Taken, Status: 200, Tries: 1, Took: 2 * time.Millisecond},
		"stream-available (HLS-LIVE 640x360) was not taken: the application answered 204: only 200 counts after 2ms, at try 7; it is sent again": {Kind: Event, Code: Refused, Status: 204, Tries: 7, Event: 1, Text: "HLS-LIVE 640x360", Took: 2 * time.Millisecond},
		"no answer from the application to stream-closed, after 10s, at try 2; it is sent again":                                                 {Kind: Event, Code: NoAnswer, Tries: 2, Took: 10 * time.Second},
		"channel is live on streaming server 10.0.0.7:1935 since 2026-11-29 14:03:00 UTC, and was taken over less than 10 s ago":                 {Kind: Denied, Code: Busy, Address: "10.0.0.7:1935", Since: since, Text: "channel is live already, and was taken over less than 10 s ago"},
	} {
		if got := e.Reason(); got != want {
			t.Errorf("%s %s:\n%s, want\n%s", e.Kind, e.Code, got, want)
		}
	}
}

func TestEntryInJSON(t *testing.T) {
	t.Parallel()
	e := Entry{Number: 9, At: time.Unix(1_700_000_000, 0).UTC(), Kind: Denied, Code: DeniedKey, Channel: "c", Server: 5, Status: 403}
	got, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":9,"at":"2023-11-14T22:13:20Z","kind":"denied","code":"denied_key","reason":"the application answered 403",` +
		`"channel":"c","streamId":"","streamServer":5,"encoder":0,"status":403,"tries":0,"passthrough":""}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestKindsAreReadByTheirNames(t *testing.T) {
	t.Parallel()
	for k := Asked; int(k) < len(names); k++ {
		if KindOf(k.String()) != k || k.String() == "" {
			t.Errorf("kind %d is %q, and that is read as %d", k, k, KindOf(k.String()))
		}
	}
	for _, name := range []string{"", "x", "ASKED"} {
		if KindOf(name) != 0 {
			t.Errorf("%q is a kind", name)
		}
	}
}

// What programs look for is what docs/operate.md promises.
func TestKindsAndCodesAreInTheDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte("| kind | code |"))
	rows, kind := map[string]string{}, ""
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "|") && kind != "" {
			break
		}
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		if name := strings.Trim(cells[1], " `"); name != "" {
			kind = name
		}
		rows[kind] += cells[2]
	}
	for kind, codes := range map[Kind][]string{
		Asked:     {Done},
		Verified:  {Allowed, DeniedKey, ApplicationError, NoAnswer, PeerGone},
		Denied:    {DeniedKey, ApplicationError, NoAnswer, PeerGone, Busy, NoEncoder, Other},
		Accepted:  {Done},
		Started:   {"least_load", "least_share", "pack"},
		Announced: {Done},
		Moved:     {Failover, Drained},
		Killed:    {ByApplication, ByOperator, EncoderFailed, EncoderGone, EncodersLost, NeverStarted, NoEncoder, ChannelTaken, TakenOver, Other},
		Ended:     {PublisherEnded, ServerGone, KillIgnored, AcceptedLate},
		Closed:    {Done, EncoderFailed, EncoderGone},
		Event:     {Taken, Refused, NoAnswer},
		Discarded: {Done},
	} {
		for _, code := range codes {
			if !strings.Contains(rows[kind.String()], "`"+code+"`") {
				t.Errorf("docs/operate.md does not name the code %s of %s", code, kind)
			}
		}
	}
}

func TestWaitingIsSaidPlainly(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]Entry{
		"waiting for a slot: no encoder has a free one, 8 of 8 slots taken on 2 encoders":                      {Code: NoEncoder, Used: 8, Capacity: 8, Encoders: 2},
		"its encoder was lost; waiting for a slot: no encoder has a free one but the one that it was lost on":  {Code: NoEncoder, Stream: "s", Encoders: -1},
		"waiting for a slot: no encoder is in service":                                                         {Code: NoEncoder},
		"its encoder was lost; waiting for a slot: no encoder has a free one, 1 of 1 slots taken on 1 encoder": {Code: NoEncoder, Stream: "s", Used: 1, Capacity: 1, Encoders: 1},
		"waiting for a slot: the gateway that has its server, or an encoder with a free slot, is absent":       {Code: GatewayAbsent},
	} {
		e.Kind = Waiting
		if got := e.Reason(); got != want {
			t.Errorf("%+v: %q, want %q", e, got, want)
		}
	}
}
