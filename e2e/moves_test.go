package e2e

import (
	"fmt"
	"testing"

	"coordinator/internal/clustertest"
)

// TestDrainedEncoderMayBeStoppedWhenServingIs0 is what the operator's script waits for, with an encoder that goes on as real
// ones do.
func TestDrainedEncoderMayBeStoppedWhenServingIs0(t *testing.T) {
	t.Parallel()
	s := newStage(t, "rtmp")
	s.d.MustCall("/commands/drain", "x-session-id", fmt.Sprint(s.firstID), "x-drain-move", "true")
	s.d.Logs.Await(t, "draining: it gets nothing new", fmt.Sprint("encoder=", s.firstID))
	s.d.Logs.Await(t, "draining: its streams are moved to other encoders", fmt.Sprint("encoder=", s.firstID))
	id := s.takenOver(s.second)
	s.first.Expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", s.id)
	s.first.Available("show", s.id, "HLS-VOD", "1x1", "vod.m3u8") // and goes on
	vod := "stream-available show " + s.id + " HLS-VOD 1x1 vod.m3u8"
	s.told(available(s.id), available(id), vod)
	page := clustertest.Get[clustertest.EncoderPage](s.d, fmt.Sprint("/commands/encoders?q=", s.firstID))
	if len(page.Encoders) != 1 || page.Encoders[0].Load != 1 || page.Encoders[0].Serving != 0 || page.Encoders[0].Moving {
		t.Errorf("%+v, want a load of 1 and nothing to serve", page.Encoders)
	}
	s.first.Conn.Close() // the operator stops it
	s.told(available(s.id), available(id), vod, closed(s.id))
	s.d.AwaitLive(map[string]string{"show": id})
	s.server.Quiet()
}

func TestEncodersAreFoundByTheirAddress(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	_, id := d.Register(1)
	if got := d.Report().Encoders; len(got) != 1 || got[0].Address != "127.0.0.1" {
		t.Errorf("report: %+v", got)
	}
	for q, want := range map[string]int{"127.0.0.1": 1, "127.0.0.2": 0} {
		page := clustertest.Get[clustertest.EncoderPage](d, "/commands/encoders?sort=address&q="+q)
		if len(page.Encoders) != want || want == 1 && page.Encoders[0].ID != id {
			t.Errorf("%s: %+v", q, page.Encoders)
		}
	}
}
