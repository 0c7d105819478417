package gateway

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"coordinator/internal/clustertest"
	"coordinator/internal/link"
	"coordinator/internal/logs"
)

// Links and requests go over TLS to an https:// URL, and nowhere if its certificate is of no known authority.
func TestCoordinatorBehindHTTPS(t *testing.T) {
	t.Parallel()
	c := &coordinator{t: t, secret: testSecret, links: make(chan *testLink, 1000)}
	c.other = func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "it is the coordinator") }
	server := httptest.NewUnstartedServer(c)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.StartTLS()
	t.Cleanup(func() {
		c.cutAll()
		c.wg.Wait()
		server.Close()
	})
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, trusted := range []bool{true, false} {
		var config *tls.Config
		if trusted {
			config = server.Client().Transport.(*http.Transport).TLSClientConfig
		}
		out := clustertest.NewLog()
		g := New(Config{URLs: []*url.URL{base}, Secret: testSecret, Log: logs.New(out, false, false), TLS: config})
		g.Start()
		stop := sync.OnceFunc(g.Stop)
		t.Cleanup(stop)
		if !trusted {
			out.Await(t, "no link to the coordinator", "certificate")
			stop()
			continue
		}
		l := c.await()
		l.welcome("t")
		l.next(link.KindSynced)
		answer := httptest.NewRecorder()
		g.Forward(answer, httptest.NewRequest("GET", "/commands/report", nil))
		if answer.Code != http.StatusOK || answer.Body.String() != "it is the coordinator" {
			t.Errorf("%d %s", answer.Code, answer.Body)
		}
		stop()
	}
}
