package e2e

// Encoders come and go, publishers stay live: each story with the whole daemon, its peers and its application. The
// registry's part of them is in registry_failover_test.go, registry_waiting_test.go and
// registry_moves_test.go, the coordinator's own death in kill_test.go.

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

// stage is a daemon with an application, and channel "show" live and announced on the first of two encoders.
type stage struct {
	t             *testing.T
	app           *clustertest.Application
	d             *clustertest.Daemon
	server        *clustertest.Peer
	first, second *clustertest.Peer
	firstID       uint64 // of the first encoder
	secondID      uint64
	id            string // stream ID of the publisher
}

func newStage(t *testing.T, endpoint string, variables ...string) *stage {
	t.Helper()
	s := &stage{t: t, app: clustertest.NewApplication(t)}
	s.d = startDaemon(t, s.app.Variables(variables...)...)
	s.server = s.d.DialPeer(endpoint)
	s.first, s.firstID = s.d.Register(4)
	s.id = clustertest.Publish(s.server, s.first, "show")
	s.first.Available("show", s.id, "HLS-LIVE", "1x1", "live.m3u8")
	s.app.AwaitEvents(1)
	s.second, s.secondID = s.d.Register(4)
	return s
}

// takenOver expects the encoder to be given the channel; it announces the stream and the test gets its ID.
func (s *stage) takenOver(encoder *clustertest.Peer) string {
	s.t.Helper()
	id := encoder.Expect("ENCODE-START", "Stream-Channel", "show").Get("Stream-ID")
	if id == s.id {
		s.t.Fatal("the stream ID is used again")
	}
	encoder.Available("show", id, "HLS-LIVE", "1x1", "live.m3u8")
	return id
}

func available(id string) string { return "stream-available show " + id + " HLS-LIVE 1x1 live.m3u8" }
func closed(id string) string    { return "stream-closed show " + id }

// told expects these events and no others up to now.
func (s *stage) told(want ...string) []http.Header {
	s.t.Helper()
	events := s.app.AwaitEvents(len(want))
	if diff := cmp.Diff(want, clustertest.DescribeAll(events)); diff != "" {
		s.t.Fatal("events (-want +got):\n", diff)
	}
	return events
}

func (s *stage) close(id string) {
	s.t.Helper()
	s.d.MustCall("/commands/close", "x-streaming-channel", "show", "x-streaming-id", id)
}

func TestPublisherStaysLiveWhenItsEncoderIsLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(s *stage){
		"its socket is gone":    func(s *stage) { s.first.Conn.Close() },
		"it says STREAM-CLOSED": func(s *stage) { s.first.Closed("show", s.id) },
		"it says so with an error": func(s *stage) {
			s.first.Send("STREAM-CLOSED", "Stream-Channel", "show", "Stream-ID", s.id, "Error-Code", "FFMPEG", "Error-Message", "died")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, "rtmp")
			lose(s)
			id := s.takenOver(s.second)
			events := s.told(available(s.id), closed(s.id), available(id))
			if got := events[2].Get("x-previous-streaming-id"); got != s.id {
				t.Errorf("x-previous-streaming-id is %q", got)
			}
			if got := events[1].Get("x-previous-streaming-id"); got != "" {
				t.Errorf("the first stream took over from %q", got)
			}
			s.d.AwaitLive(map[string]string{"show": id})
			s.server.Quiet()

			s.server.End("show", s.id)
			s.second.Expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", id)
			s.second.Closed("show", id)
			s.told(available(s.id), closed(s.id), available(id), closed(id))
			s.d.AwaitLoad(0)
		})
	}
}

func TestPublisherIsKilledAtOnceWhereThereIsNoFailover(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ endpoint, failover string }{{"wss", "YES"}, {"rtmp", "NO"}, {"wss", "NO"}} {
		t.Run(test.endpoint+" "+test.failover, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, test.endpoint, "ENCODER_FAILOVER="+test.failover, "ENCODER_WAIT_SECONDS=10")
			s.first.Conn.Close()
			s.server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", s.id)
			s.told(available(s.id), closed(s.id))
			s.d.AwaitLive(map[string]string{})
			s.d.AwaitLoad(0)
			s.server.Request("show", "key") // the publisher may still be there
			s.server.ExpectDenied("show")
			s.server.End("show", s.id)
			clustertest.Publish(s.server, s.second, "show")
		})
	}
}

func TestPublisherWaitsForAnEncoderAndIsThenKilled(t *testing.T) {
	t.Parallel()
	s := newStage(t, "rtmp", "ENCODER_WAIT_SECONDS=1")
	s.second.Send("REGISTER", "Capacity", "0")
	s.d.AwaitReport("a full encoder", func(r clustertest.Report) bool { return r.Encoders[0].Capacity+r.Encoders[1].Capacity == 4 })
	s.first.Conn.Close()
	s.told(available(s.id), closed(s.id))
	s.d.AwaitOverview("the publisher that waits", func(o clustertest.Overview) bool { return o.Streams.Waiting == 1 })
	s.server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", s.id)
	s.d.Logs.Await(t, "publisher killed", "no encoder had a free slot in time")
	s.d.AwaitLive(map[string]string{})
	s.told(available(s.id), closed(s.id))
}

func TestPublisherThatWaitsGetsTheSlotThatComes(t *testing.T) {
	t.Parallel()
	s := newStage(t, "rtmp", "ENCODER_WAIT_SECONDS=15")
	s.second.Conn.Close()
	s.first.Conn.Close()
	s.d.AwaitOverview("the publisher that waits", func(o clustertest.Overview) bool { return o.Streams.Waiting == 1 })
	third, _ := s.d.Register(1)
	id := s.takenOver(third)
	s.told(available(s.id), closed(s.id), available(id))
	s.server.Quiet()
}

func TestPublisherThatLosesThreeEncodersWithinAMinuteIsKilled(t *testing.T) {
	t.Parallel()
	s := newStage(t, "rtmp", "ENCODER_WAIT_SECONDS=15")
	third, _ := s.d.Register(4)
	peers := map[uint64]*clustertest.Peer{s.firstID: s.first, s.secondID: s.second}
	for _, e := range s.d.Report().Encoders {
		if peers[e.ID] == nil {
			peers[e.ID] = third
		}
	}
	want := []string{available(s.id)}
	for id, encoder := s.id, s.first; ; {
		encoder.Conn.Close()
		want = append(want, closed(id))
		if len(want) == 6 {
			break
		}
		report := s.d.AwaitReport("another encoding", func(r clustertest.Report) bool { return r.Live()["show"] != id && r.ActiveStreams[0].Encoder != 0 })
		encoder = peers[report.ActiveStreams[0].Encoder]
		id = s.takenOver(encoder)
		want = append(want, available(id))
		s.told(want...)
	}
	s.server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", s.id)
	s.d.Logs.Await(t, "level=WARN", "publisher killed", "three encoders lost within a minute")
	s.told(want...)
}

func TestPublisherThatEndsWhileItWaitsIsGone(t *testing.T) {
	t.Parallel()
	s := newStage(t, "rtmp", "ENCODER_WAIT_SECONDS=15")
	s.second.Conn.Close()
	s.first.Conn.Close()
	s.d.AwaitOverview("the publisher that waits", func(o clustertest.Overview) bool { return o.Streams.Waiting == 1 })
	s.server.End("show", s.id)
	s.d.AwaitLive(map[string]string{})
	third, _ := s.d.Register(1)
	clustertest.Publish(s.server, third, "other") // and nothing of the show before it
	s.told(available(s.id), closed(s.id))
}

func TestOldEncoderThatComesBackChangesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, "rtmp")
	s.first.Conn.Close()
	id := s.takenOver(s.second)
	back, _ := s.d.Register(4)
	back.Closed("show", s.id)
	back.Available("show", s.id, "HLS-VOD", "1x1", "late.m3u8")
	back.Available("show", id, "HLS-VOD", "1x1", "forged.m3u8")
	s.d.Logs.AwaitLines(t, 3, "not the sender's own")
	s.d.AwaitLive(map[string]string{"show": id})
	s.d.AwaitLoad(1)
	s.server.Quiet()
	s.told(available(s.id), closed(s.id), available(id))
}

func TestCloseCommandKnowsThePublisherByItsCurrentID(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"current", "*"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, "rtmp")
			s.first.Conn.Close()
			id := s.takenOver(s.second)
			s.close(s.id)
			s.server.Quiet()
			if name == "current" {
				s.close(id)
			} else {
				s.close("*")
			}
			s.server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", s.id)
			s.server.End("show", s.id)
			s.second.Expect("ENCODE-STOP", "Stream-Channel", "show", "Stream-ID", id)
		})
	}
}

func TestPublishRequestWaitsForASlot(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "ENCODER_WAIT_SECONDS=15")
	server, other := d.DialPeer("rtmp"), d.DialPeer("wss")
	for i, name := range []string{"a", "b", "c"} {
		server.Request(name, "key")
		d.AwaitWaiting(i + 1)
	}
	other.Request("vanishing", "key")
	d.AwaitWaiting(4)
	d.AwaitMetrics(map[string]float64{"coordinator_publish_requests_waiting": 4})
	other.Conn.Close()
	d.AwaitWaiting(3)

	encoder, id := d.Register(1) // brings the first slot
	a := server.Expect("PUBLISH-ACCEPT", "Stream-Channel", "a").Get("Stream-ID")
	encoder.Expect("ENCODE-START", "Stream-Channel", "a")
	d.AwaitWaiting(2)

	d.Command("drain", id)
	server.End("a", a)
	encoder.Expect("ENCODE-STOP")
	encoder.Closed("a", a)
	d.AwaitLoad(0)
	d.AwaitWaiting(2)
	d.Command("undrain", id) // brings the second
	b := server.Expect("PUBLISH-ACCEPT", "Stream-Channel", "b").Get("Stream-ID")
	encoder.Expect("ENCODE-START", "Stream-Channel", "b")

	server.End("b", b)
	encoder.Expect("ENCODE-STOP")
	d.AwaitWaiting(1)
	encoder.Closed("b", b) // frees the third
	server.Expect("PUBLISH-ACCEPT", "Stream-Channel", "c")
	encoder.Expect("ENCODE-START", "Stream-Channel", "c")
	d.AwaitMetrics(map[string]float64{"coordinator_publish_requests_waiting": 0})
}

func TestRollingUpdateOfAllEncodersLosesNoPublisher(t *testing.T) {
	t.Parallel()
	const encoders, streams = 4, 40
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables("LOG_DEBUG=NO")...)
	server := d.DialPeer("rtmp")
	peers := map[uint64]*clustertest.Peer{}
	for range encoders {
		p, id := d.Register(streams)
		peers[id] = p
		go p.Attend()
	}
	for i := range streams {
		server.Request(fmt.Sprint("c", i), "key")
		server.Expect("PUBLISH-ACCEPT")
	}
	app.AwaitEvents(streams)
	loaded := func(id uint64) func(clustertest.Report) bool {
		return func(r clustertest.Report) bool {
			for _, e := range r.Encoders {
				if e.ID == id {
					return e.Load == 0
				}
			}
			return false
		}
	}
	for id, old := range peers {
		d.Command("drain", id, "x-drain-move", "true")
		d.AwaitReport("an empty encoder", loaded(id))
		old.Conn.Close()
		d.AwaitReport("it gone", func(r clustertest.Report) bool { return len(r.Encoders) == encoders-1 })
		updated, _ := d.Register(streams)
		go updated.Attend()
	}
	server.Quiet()
	d.AwaitReport("all publishers", func(r clustertest.Report) bool { return len(r.ActiveStreams) == streams })
	d.AwaitOverview("all delivered", func(o clustertest.Overview) bool { return o.Events.Pending == 0 })

	_, events, _ := app.Snapshot()
	live, position := map[string]int{}, map[string]int{}
	for i, h := range events {
		channel, id := h.Get("x-streaming-channel"), h.Get("x-streaming-id")
		if h.Get("x-event-type") == "stream-closed" {
			live[channel]--
		} else {
			live[channel]++
		}
		position[id+h.Get("x-event-type")] = i
		if previous := h.Get("x-previous-streaming-id"); previous != "" && h.Get("x-event-type") == "stream-available" {
			if _, over := position[previous+"stream-closed"]; over {
				t.Errorf("%s: was gone before %s was there", previous, id)
			}
		}
	}
	for channel, n := range live {
		if n != 1 {
			t.Errorf("the application knows %d streams of %s", n, channel)
		}
	}
}

func TestEncoderThatClosesEverythingAtOnceCostsOthersNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, "rtmp", "ENCODER_WAIT_SECONDS=5")
	bad, badID := s.d.Register(-1)
	go func() {
		for m := range bad.In {
			if m.Method == "ENCODE-START" {
				bad.Tell("STREAM-CLOSED", "Stream-Channel", m.Get("Stream-Channel"), "Stream-ID", m.Get("Stream-ID"), "Error-Code", "E", "Error-Message", "no")
			}
		}
	}()
	lost := 0
	for i := range 6 { // the first three are its price, and then it is set aside
		channel := "c" + strconv.Itoa(i)
		s.server.Request(channel, "key")
		id := s.server.Expect("PUBLISH-ACCEPT").Get("Stream-ID")
		report := s.d.AwaitReport("it served or killed", func(r clustertest.Report) bool {
			for _, e := range r.Encoders {
				if e.ID == badID && e.Load > 0 {
					return false
				}
			}
			return true
		})
		if report.Live()[channel] == "" {
			s.server.Expect("STREAM-KILL", "Stream-Channel", channel, "Stream-ID", id)
			s.server.End(channel, id)
			lost++
		}
	}
	if lost > 3 {
		t.Errorf("%d publishers are lost", lost)
	}
	s.d.Logs.Await(t, "encoder set aside", fmt.Sprint("encoder=", badID), "until=", "three streams or more in a row")
	// One that is live and loses its encoder is not the worse for the bad one, which by now nobody is given to.
	s.first.Conn.Close()
	live := s.d.AwaitReport("all on the second", func(r clustertest.Report) bool {
		for _, st := range r.ActiveStreams {
			if st.Encoder != s.secondID {
				return false
			}
		}
		return true
	}).Live()
	if len(live) != 7-lost || live["show"] == "" {
		t.Errorf("live: %v, lost: %d", live, lost)
	}
}

func TestEncoderThatRegistersAndVanishesInALoopCostsOthersNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, "rtmp")
	for range 20 {
		p := s.d.DialPeer("hls")
		p.Send("REGISTER", "Capacity", "-1")
		p.Conn.Close()
	}
	s.d.AwaitReport("the two that stay", func(r clustertest.Report) bool { return len(r.Encoders) == 2 })
	s.d.AwaitLive(map[string]string{"show": s.id})
	s.server.Quiet()
	clustertest.Publish(s.server, s.second, "other")
	s.told(available(s.id))
}
