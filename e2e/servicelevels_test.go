package e2e

import (
	"testing"

	"coordinator/internal/clustertest"
)

// What publishers and viewers have waited for, and why publishers ended, is in the metrics.
func TestServiceLevelsAreMeasured(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server, _ := d.Join("rtmp")
	first, _ := d.Register(1)
	id := clustertest.Publish(server, first, "show")
	d.AwaitMetrics(map[string]float64{
		"coordinator_publish_accept_duration_seconds_count":     1,
		"coordinator_publish_first_live_duration_seconds_count": 0,
	})
	first.Available("show", id, "IMG-PREVIEW", "256x144", "p.json")
	first.Available("show", id, "HLS-LIVE", "1x1", "i")
	first.Available("show", id, "HLS-LIVE", "2x2", "j")
	d.AwaitMetrics(map[string]float64{
		"coordinator_publish_first_live_duration_seconds_count": 1,
		"coordinator_failover_gap_seconds_count":                0,
	})
	second, _ := d.Register(2)
	first.Conn.Close()
	next := second.Expect("ENCODE-START").Get("Stream-ID")
	second.Available("show", next, "HLS-LIVE", "1x1", "i")
	d.AwaitMetrics(map[string]float64{"coordinator_failover_gap_seconds_count": 1})
	server.End("show", id)
	second.Expect("ENCODE-STOP")
	second.Closed("show", next)
	closed := clustertest.Publish(server, second, "closed")
	d.MustCall("/commands/close", "x-streaming-channel", "closed", "x-streaming-id", "*")
	server.Expect("STREAM-KILL")
	server.End("closed", closed)
	d.AwaitMetrics(map[string]float64{
		"coordinator_publish_accept_duration_seconds_count":                    2,
		"coordinator_publish_first_live_duration_seconds_count":                1,
		"coordinator_failover_gap_seconds_count":                               1,
		`coordinator_publications_ended_total{reason="publisher-ended"}`:       1,
		`coordinator_publications_ended_total{reason="closed-by-application"}`: 1,
		`coordinator_publications_ended_total{reason="encoder-lost"}`:          0,
	})
	for _, histogram := range []string{"coordinator_publish_accept_duration_seconds", "coordinator_publish_first_live_duration_seconds", "coordinator_failover_gap_seconds"} {
		if sum := d.Scrape()[histogram+"_sum"]; sum <= 0 || sum > clustertest.Patience.Seconds() {
			t.Errorf("%s sums up to %v s", histogram, sum)
		}
	}
}
