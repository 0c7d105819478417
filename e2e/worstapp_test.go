package e2e

// The application at its worst for one channel, in real time and for a moment; with all its ways and for hours in fake time
// beside the program. Other channels notice nothing, and everything arrives once it is well.

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

// onWire answers with bytes instead of HTTP, and then closes the connection.
func onWire(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, text)
	}
}

func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

func TestApplicationThatIsBadToOneChannelIsGoodToOthers(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, answer := range map[string]http.HandlerFunc{
		"hangs":             hang,
		"resets":            reset,
		"closes":            onWire(""),
		"no HTTP":           onWire("220 mail.example.org ESMTP\r\n"),
		"breaks off":        onWire("HTTP/1.1 20"),
		"64 KiB of headers": onWire("HTTP/1.1 200 OK\r\nx-a: " + strings.Repeat("b", 70<<10) + "\r\n\r\n"),
		"500":               func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"429":               func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "1"); w.WriteHeader(429) },
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/event", http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := clustertest.NewApplication(t)
			var bad atomic.Bool
			toOne := func(w http.ResponseWriter, r *http.Request) {
				if bad.Load() && strings.HasPrefix(r.Header.Get("x-streaming-channel"), "bad") {
					answer(w, r)
				}
			}
			app.AnswerKeys(toOne)
			app.AnswerEvents(toOne)
			d := startDaemon(t, app.Variables()...)
			server := d.DialPeer("rtmp")
			encoder, _ := d.Register(-1)
			id := clustertest.Publish(server, encoder, "bad")
			bad.Store(true)
			encoder.Available("bad", id, "HLS-LIVE", "1x1", "bad.m3u8")
			server.Request("bad-too", "key") // its answer may take 15 s

			for n := range 3 {
				good := fmt.Sprint("good", n)
				began := time.Now()
				server.Request(good, "key")
				var goodID string
				for goodID == "" {
					if m := <-server.In; m.Method == "PUBLISH-ACCEPT" {
						goodID = m.Get("Stream-ID")
					} else if m.Get("Stream-Channel") == good || m.Method == "" {
						t.Fatalf("a good channel is answered with %v: %v", m, server.Gone)
					}
				}
				encoder.Expect("ENCODE-START", "Stream-ID", goodID)
				encoder.Available(good, goodID, "HLS-LIVE", "1x1", "good.m3u8")
				app.AwaitStream(goodID, "stream-available "+good+" "+goodID+" HLS-LIVE 1x1 good.m3u8")
				if took := time.Since(began); took > 8*time.Second {
					t.Errorf("a good channel took %v", took)
				}
			}
			bad.Store(false)
			encoder.Closed("bad", id)
			app.AwaitStream(id, "stream-available bad "+id+" HLS-LIVE 1x1 bad.m3u8", "stream-closed bad "+id)
		})
	}
}
