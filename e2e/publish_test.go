package e2e

// Publish requests: who is let in, where the stream goes, and that nobody waits for another.

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

func TestPublishIsDeniedWithoutAskingTheApplication(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables("ID_MAX_LENGTH=8")...)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(-1)
	clustertest.Publish(server, encoder, "busy")
	clustertest.Publish(server, encoder, "longest8")
	asked := len(app.AwaitKeys(2))

	for _, test := range []struct{ name, channel, key string }{
		{"empty channel", "", "key"},
		{"empty key", "chan", ""},
		{"channel too long", "longest-9", "key"},
		{"key too long", "chan", "123456789"},
		{"channel with a slash", "a/b", "key"},
		{"key with a space", "chan", "k y"},
		{"key with a slash", "chan", "../k"},
		{"channel with a percent sign", "a%2f", "key"},
		{"channel of other letters", "añb", "key"},
		{"channel with a NUL", "a\x00b", "key"},
		{"star", "*", "key"},
		{"channel is live", "busy", "key"},
	} {
		server.Request(test.channel, test.key)
		got := server.Expect("PUBLISH-DENY")
		wantChannel := strings.ReplaceAll(test.channel, "\x00", "")
		if got.Get("Request-ID") != "r-"+wantChannel || got.Get("Stream-Channel") != wantChannel {
			t.Errorf("%s: denied with %q", test.name, got.Args)
		}
	}
	endless := strings.Repeat("r", 257)
	server.Send("PUBLISH-REQUEST", "Request-ID", endless, "Stream-Channel", "chan", "Stream-Key", "key")
	server.Expect("PUBLISH-DENY", "Request-ID", endless)
	server.Send("PUBLISH-REQUEST") // no arguments at all
	server.Expect("PUBLISH-DENY", "Request-ID", "", "Stream-Channel", "")

	if keys, _, _ := app.Snapshot(); len(keys) != asked {
		t.Errorf("the application was asked %d times more", len(keys)-asked)
	}
	d.AwaitLoad(2)
}

func TestPublishIsDeniedUnlessTheApplicationAnswers200(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	d := startDaemon(t, app.Variables()...)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(-1)
	for i, status := range []int{201, 204, 301, 302, 307, 400, 401, 403, 404, 429, 500, 503} {
		app.AnswerKeys(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/verify")
			w.WriteHeader(status)
		})
		channel := fmt.Sprint("status-", status)
		server.Request(channel, "key")
		server.ExpectDenied(channel)
		if keys, _, _ := app.Snapshot(); len(keys) != i+1 {
			t.Fatalf("after status %d the application was asked %d times, want %d", status, len(keys), i+1)
		}
	}
	app.AnswerKeys(nil)
	clustertest.Publish(server, encoder, "status-200")
	d.AwaitLoad(1)
}

func TestPublishIsDeniedWhileNoEncoderHasASlot(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	denied := func(channel string) {
		t.Helper()
		server.Request(channel, "key")
		server.ExpectDenied(channel)
	}
	denied("no-encoder")

	encoder := d.DialPeer("hls")
	encoder.Send("HEARTBEAT")
	denied("before-register")
	encoder.Send("REGISTER", "Capacity", "0")
	d.AwaitReport("the encoder", func(r clustertest.Report) bool { return len(r.Encoders) == 1 })
	denied("capacity-zero")

	encoder.Send("REGISTER", "Capacity", "1")
	d.AwaitReport("the new capacity", func(r clustertest.Report) bool { return r.Encoders[0].Capacity == 1 })
	id := clustertest.Publish(server, encoder, "fits")
	denied("encoder-full")
	server.End("fits", id)
	encoder.Expect("ENCODE-STOP", "Stream-ID", id)
	denied("slot-busy-until-closed")
	encoder.Closed("fits", id)
	d.AwaitLoad(0)
	clustertest.Publish(server, encoder, "free-again")
}

func TestSlowAnswerDelaysNoOtherRequestOfTheSocket(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	release := app.HoldKeysOf("slow")
	d := startDaemon(t, app.Variables()...)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(-1)

	server.Request("slow", "key")
	const others = 100
	for i := range others {
		server.Request(fmt.Sprint("quick-", i), "key")
	}
	accepted := map[string]bool{}
	for range others {
		accepted[server.Expect("PUBLISH-ACCEPT").Get("Request-ID")] = true
		encoder.Expect("ENCODE-START")
	}
	if len(accepted) != others || accepted["r-slow"] {
		t.Errorf("%d requests accepted, slow among them: %v", len(accepted), accepted["r-slow"])
	}
	release()
	server.Expect("PUBLISH-ACCEPT", "Request-ID", "r-slow")
	encoder.Expect("ENCODE-START", "Stream-Channel", "slow")
}

func TestOneOfManyRequestsForAChannelGetsIt(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	release := app.HoldKeysOf("wanted")
	d := startDaemon(t, app.Variables()...)
	servers := []*clustertest.Peer{d.DialPeer("rtmp"), d.DialPeer("wss")}
	encoder, _ := d.Register(-1)
	const each = 20
	for _, server := range servers {
		for range each {
			server.Request("wanted", "key")
		}
	}
	app.AwaitKeys(2 * each)
	release()
	accepted := 0
	for _, server := range servers {
		for range each {
			select {
			case m := <-server.In:
				if m.Method == "PUBLISH-ACCEPT" {
					accepted++
				} else if m.Method != "PUBLISH-DENY" {
					t.Errorf("got %s", m.Method)
				}
			case <-time.After(clustertest.Patience):
				t.Fatal("a request is not answered")
			}
		}
	}
	if accepted != 1 {
		t.Errorf("%d requests accepted, want 1", accepted)
	}
	encoder.Expect("ENCODE-START", "Stream-Channel", "wanted")
	d.AwaitLoad(1)
}

// A publisher comes back through another streaming server while its old session still counts as live.
func TestPublisherTakesOverItsChannelThroughAnotherServer(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-streaming-key") != "key" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	d := startDaemon(t, app.Variables("PUBLISH_TAKEOVER=YES")...)
	dead, other, rival := d.DialPeer("rtmp"), d.DialPeer("rtmp", "x-custom-port", "2935"), d.DialPeer("wss")
	encoder, _ := d.Register(2)
	first := clustertest.Publish(dead, encoder, "show")
	encoder.Available("show", first, "HLS-LIVE", "640x360", "index.m3u8")
	told := []string{"stream-available show " + first + " HLS-LIVE 640x360 index.m3u8"}
	app.AwaitStream(first, told...)

	other.Request("show", "wrong")
	other.ExpectDenied("show")
	dead.Quiet()

	other.Request("show", "key")
	dead.Expect("STREAM-KILL", "Stream-ID", first)
	d.AwaitLoad(2) // the newcomer's slot is reserved
	rival.Request("show", "key")
	rival.ExpectDenied("show")

	// Nobody answers the kill. It is repeated, and the encoding is stopped meanwhile.
	encoder.Expect("ENCODE-STOP", "Stream-ID", first)
	second := other.Expect("PUBLISH-ACCEPT", "Stream-Channel", "show").Get("Stream-ID")
	encoder.Expect("ENCODE-START", "Stream-ID", second, "Stream-Source-URI", "rtmp://127.0.0.1:2935/show/key")
	encoder.Closed("show", first)
	app.AwaitStream(first, append(told, "stream-closed show "+first)...)
	d.AwaitLive(map[string]string{"show": second})

	// What the old session says now changes nothing.
	dead.End("show", first)
	clustertest.EndPublish(other, encoder, "show", second)
	encoder.Closed("show", second)
	d.AwaitLoad(0)
	if keys, _, _ := app.Snapshot(); len(keys) != 4 {
		t.Errorf("the application was asked %d times, want once for each request", len(keys))
	}
}

func TestPublisherWhoseSocketClosesDuringVerificationLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	given := make(chan context.Context, 1)
	app.AnswerKeys(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-streaming-key") == "slow" {
			given <- r.Context()
			<-r.Context().Done() // the question is withdrawn: nobody waits for its answer
		}
	})
	d := startDaemon(t, app.Variables()...)
	leaving, staying := d.DialPeer("rtmp"), d.DialPeer("rtmp")
	encoder, _ := d.Register(1)

	leaving.Request("show", "slow")
	asked := <-given
	leaving.Conn.Close()
	select {
	case <-asked.Done():
	case <-time.After(5 * time.Second): // far from the deadline of the question itself
		t.Fatal("the question outlives its publisher")
	}
	d.AwaitServers(1)
	d.AwaitLoad(0)
	clustertest.Publish(staying, encoder, "show") // its ENCODE-START is the first the encoder hears of
	d.AwaitLoad(1)
}

func TestStreamSourceIsWhereTheServerSaidItIs(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	encoder, _ := d.Register(-1)
	for i, test := range []struct {
		endpoint         string
		header           []string
		wantType, wantAt string
	}{
		{"rtmp", nil, "RTMP", "rtmp://127.0.0.1:1935"},
		{"wss", nil, "WS", "ws://127.0.0.1:80"},
		{"rtmp", []string{"x-external-ip", "10.1.2.3"}, "RTMP", "rtmp://10.1.2.3:1935"},
		{"rtmp", []string{"x-external-ip", "10.1.2.3", "x-ssl-use", "true"}, "RTMP", "rtmps://10.1.2.3:1935"},
		{"wss", []string{"x-external-ip", "10.1.2.3", "x-ssl-use", "TRUE"}, "WS", "wss://10.1.2.3:80"},
		{"wss", []string{"x-external-ip", "10.1.2.3", "x-ssl-use", "false", "x-custom-port", "8080"}, "WS", "ws://10.1.2.3:8080"},
		{"rtmp", []string{"x-external-ip", "2001:db8::7", "x-custom-port", "1936"}, "RTMP", "rtmp://[2001:db8::7]:1936"},
		{"wss", []string{"x-external-ip", "[2001:db8::7]", "x-ssl-use", "true", "x-custom-port", "65535"}, "WS", "wss://[2001:db8::7]:65535"},
		{"rtmp", []string{"x-external-ip", "ingest-1.example.org"}, "RTMP", "rtmp://ingest-1.example.org:1935"},
	} {
		server := d.DialPeer(test.endpoint, test.header...)
		channel := fmt.Sprint("chan-", i)
		server.Request(channel, "k3y")
		server.Expect("PUBLISH-ACCEPT")
		encoder.Expect("ENCODE-START", "Stream-Channel", channel, "Stream-Source-Type", test.wantType,
			"Stream-Source-URI", test.wantAt+"/"+channel+"/k3y", "Resolutions", "ORIGINAL", "Record", "False", "Previews", "False")
	}
}

func TestStreamGoesToTheLeastLoadedEncoderAndTiesToTheLargerFreeShare(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	_, small := d.Register(2)
	_, large := d.Register(4)
	_, none := d.Register(0)
	var got []uint64
	for i := range 6 {
		channel := fmt.Sprint("chan-", i)
		server.Request(channel, "key")
		server.Expect("PUBLISH-ACCEPT")
		for _, s := range d.Report().ActiveStreams {
			if s.Channel == channel {
				got = append(got, s.Encoder)
			}
		}
	}
	if diff := cmp.Diff([]uint64{small, large, large, small, large, large}, got); diff != "" {
		t.Errorf("encoders of %d (2), %d (4), %d (0) (-want +got):\n%s", small, large, none, diff)
	}
	server.Request("full", "key")
	server.ExpectDenied("full")
}

func TestEncoderWithoutALimitMakesTheCapacityInfinite(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	capacity := func(want string) {
		t.Helper()
		if _, body := d.Call("GET", "/commands/capacity"); strings.TrimSpace(body) != want {
			t.Errorf("capacity %s, want %s", body, want)
		}
	}
	capacity(`{"load":0,"capacity":0,"encoderCount":0}`)
	limited, _ := d.Register(3)
	capacity(`{"load":0,"capacity":3,"encoderCount":1}`)
	unlimited, _ := d.Register(-7)
	capacity(`{"load":0,"capacity":-1,"encoderCount":2}`)
	clustertest.Publish(server, limited, "first")
	for i := range 5 { // one to be level, and from there on ties and the larger free share
		server.Request(fmt.Sprint("next-", i), "key")
		server.Expect("PUBLISH-ACCEPT")
	}
	capacity(`{"load":6,"capacity":-1,"encoderCount":2}`)
	unlimited.Conn.Close()
	d.AwaitReport("one encoder", func(r clustertest.Report) bool { return len(r.Encoders) == 1 })
	if _, body := d.Call("GET", "/commands/capacity"); !strings.Contains(body, `"capacity":3,"encoderCount":1`) {
		t.Errorf("capacity after the unlimited encoder left: %s", body)
	}
}

func TestRepeatedRegisterChangesTheCapacityAndKeepsTheLoad(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	encoder, id := d.Register(2)
	clustertest.Publish(server, encoder, "first")
	clustertest.Publish(server, encoder, "second")
	for _, capacity := range []int{5, 1, -1, 0} {
		encoder.Send("REGISTER", "Capacity", fmt.Sprint(capacity))
		d.AwaitReport("the new capacity", func(r clustertest.Report) bool { return r.Encoders[0].Capacity == capacity })
		wantEncoder(t, d, id, capacity, 2)
	}
	server.Request("third", "key")
	server.ExpectDenied("third")
	for _, nonsense := range []string{"", "abc", "1.5", "99999999999999999999", "-99999999999999999999", "0x10", "１"} {
		encoder.Send("REGISTER", "Capacity", nonsense)
	}
	d.Logs.AwaitLines(t, 7, "encoder sent an invalid capacity")
	wantEncoder(t, d, id, 0, 2)
}

// wantEncoder wants the report to show this one and no other.
func wantEncoder(t *testing.T, d *clustertest.Daemon, id uint64, capacity, load int) {
	t.Helper()
	got := d.Report().Encoders
	if len(got) != 1 || got[0].ID != id || got[0].Capacity != capacity || got[0].Load != load {
		t.Errorf("encoders %+v, want %d with capacity %d and load %d", got, id, capacity, load)
	}
}

func TestStreamKillNeverOvertakesPublishAccept(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	encoder, _ := d.Register(-1)
	const streams = 300
	for i := range streams {
		server.Request(fmt.Sprint("chan-", i), "key")
	}
	for range streams { // an encoder that fails each stream the moment it is told of it
		m := encoder.Expect("ENCODE-START")
		encoder.Closed(m.Get("Stream-Channel"), m.Get("Stream-ID"))
	}
	accepted := map[string]bool{}
	for range 2 * streams {
		select {
		case m := <-server.In:
			id := m.Get("Stream-ID")
			if m.Method == "STREAM-KILL" && !accepted[id] {
				t.Fatalf("STREAM-KILL of %s before its PUBLISH-ACCEPT", id)
			}
			accepted[id] = true
		case <-time.After(clustertest.Patience):
			t.Fatal("not every stream was accepted and killed")
		}
	}
}

// TestPublishersThatWaitAreDeniedAtTheStop instead of being left without an answer.
func TestPublishersThatWaitAreDeniedAtTheStop(t *testing.T) {
	t.Parallel()
	onlyDirect(t, deniedAtGateway)
	d := startDaemon(t, "ENCODER_WAIT_SECONDS=15")
	server := d.DialPeer("rtmp")
	server.Request("waits", "key")
	d.AwaitWaiting(1)
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	server.ExpectDenied("waits")
	if err := server.AwaitGone(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Error(err)
	}
}

// One streaming server whose channels all hang at the application leaves the others their turns.
func TestChannelsOfOneServerThatHangLeaveOthersTheirTurn(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	const askedAtOnce, ofOneServer = 512, 256 // docs/guarantees.md, limits
	app.AnswerKeys(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("x-streaming-channel"), "hangs") {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})
	d := startDaemon(t, app.Variables("LOG_DEBUG=NO")...)
	encoder, _ := d.Register(-1)
	greedy, modest := d.DialPeer("rtmp"), d.DialPeer("rtmp")
	for i := range askedAtOnce + 100 {
		greedy.Send("PUBLISH-REQUEST", "Request-ID", fmt.Sprint(i), "Stream-Channel", fmt.Sprintf("hangs%d", i), "Stream-Key", "k")
	}
	app.AwaitKeys(ofOneServer)
	began := time.Now()
	clustertest.Publish(modest, encoder, "good")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the other server's publisher waited %v", took)
	}
}
