package linkserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/link"
	"coordinator/internal/secret"
	"coordinator/internal/token"

	"github.com/gorilla/websocket"
)

func TestRequestNeedsATokenOfAGateway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		sign := func(key secret.Secret, subject string, good time.Duration) string {
			signed, err := token.Sign(key, subject, time.Now(), good)
			if err != nil {
				t.Fatal(err)
			}
			return signed
		}
		for shown, fault := range map[string]string{
			"":  "no token: GATEWAY_SECRET is not set on the peer",
			"x": "token is malformed",
			sign(gatewaySecret, "gateway", -31*time.Second):   "token has expired: is a clock wrong?",
			sign(gatewaySecret, "hls-control", time.Minute):   "token is for another endpoint: its subject is not gateway",
			sign(controlSecret, "gateway", time.Minute):       "token's signature is wrong: the peer has another GATEWAY_SECRET",
			clustertest.ControlToken(t, "rtmp-control"):       "token's signature is wrong: the peer has another GATEWAY_SECRET",
			sign("", "gateway", time.Minute):                  "token's signature is wrong: the peer has another GATEWAY_SECRET",
			strings.Repeat("x", 5000):                         "token is longer than 4 KiB",
			sign(gatewaySecret, "gateway", time.Minute) + "x": "token is malformed",
		} {
			r.log.Forget()
			conn, res, err := r.dial(http.Header{link.TokenHeader: {shown}})
			if err == nil {
				conn.Close()
				t.Errorf("token %q is good", shown)
				continue
			}
			if body, _ := io.ReadAll(res.Body); res.StatusCode != 403 || strings.TrimSpace(string(body)) != `{"error":"gateway token refused","code":"token_refused"}` {
				t.Errorf("token %q: %d %s", shown, res.StatusCode, body)
			}
			if !strings.Contains(r.log.String(), fault) && !(strings.HasSuffix(shown, "x") && strings.Contains(r.log.String(), "reason=\"token")) {
				t.Errorf("token %q: the log says %s, want %s", shown, r.log, fault)
			}
		}
		header := r.header()
		header.Set("Origin", "https://elsewhere.example")
		conn, _, err := r.dial(header)
		if err != nil {
			t.Fatalf("a foreign origin: %v", err)
		}
		conn.Close()
	})
}

func TestRequestHasToBeAWebSocketHandshake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for _, test := range []struct {
			method string
			header http.Header
			status int
		}{
			{"GET", nil, 400},
			{"GET", http.Header{"Connection": {"upgrade"}, "Upgrade": {"h2c"}}, 400},
			{"POST", http.Header{"Connection": {"upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}}, 405},
		} {
			near, err := r.pipes.Connect()
			if err != nil {
				t.Fatal(err)
			}
			req, _ := http.NewRequest(test.method, "http://coordinator"+link.Path, nil)
			for name, values := range r.header() {
				req.Header[name] = values
			}
			for name, values := range test.header {
				req.Header[name] = values
			}
			res := roundTrip(t, near, req)
			if res.StatusCode != test.status || res.Header.Get("Sec-WebSocket-Version") != "13" {
				t.Errorf("%s %v: %d", test.method, test.header, res.StatusCode)
			}
			near.Close()
		}
		if r.log.Count("gateway link refused") == 0 {
			t.Error("the log says nothing")
		}
	})
}

func TestWithoutASecretNobodyGetsIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(_ *rig, cfg *Config) { cfg.Secret = "" })
		signed, _ := token.Sign("", "gateway", time.Now(), time.Minute)
		_, res, err := r.dial(http.Header{link.TokenHeader: {signed}})
		if err == nil || res.StatusCode != 404 {
			t.Errorf("a token without a key: %v", err)
		}
	})
}

func TestHelloThatIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(_ *rig, cfg *Config) { cfg.Known = []string{"known"} })
		for name, test := range map[string]struct {
			change func(h *link.Hello)
			want   error
		}{
			"no identity":         {func(h *link.Hello) { h.Gateway = "" }, errBadID},
			"long identity":       {func(h *link.Hello) { h.Gateway = strings.Repeat("a", 65) }, errBadID},
			"strange identity":    {func(h *link.Hello) { h.Gateway = "a\nb" }, errBadID},
			"only newer":          {func(h *link.Hello) { h.Oldest, h.Newest = 2, 3 }, errProtocol},
			"only older":          {func(h *link.Hello) { h.Oldest, h.Newest = 0, 0 }, errProtocol},
			"no range":            {func(h *link.Hello) { h.Oldest, h.Newest = 2, 1 }, errProtocol},
			"numbers above 2^53":  {func(h *link.Hello) { h.Numbers = 1 << 53 }, errBadNumbers},
			"no control secret":   {func(h *link.Hello) { h.ControlMAC = nil }, errNoControl},
			"no nonce":            {func(h *link.Hello) { h.Nonce = nil }, errBadNonce},
			"nonce for a token":   {func(h *link.Hello) { h.Nonce = make([]byte, 33) }, errBadNonce},
			"another store":       {func(h *link.Hello) { h.Store, h.Term = "another", "term" }, errOtherStore},
			"not in the store":    {earlier, errIsGone},
			"not in this term":    {resumes(0), errIsGone},
			"known, other epochs": {func(h *link.Hello) { h.Gateway = "known"; h.Store = "another" }, errOtherStore},
		} {
			h := hello("stranger", test.change)
			g := r.link(h)
			f := g.next()
			var refuse link.Refuse
			if f.Kind != link.KindRefuse || f.Read(&refuse) != nil {
				t.Errorf("%s: the answer is %v", name, f.Kind)
				continue
			}
			if refuse.Reason != test.want.Error() || refuse.Gone != (test.want == errIsGone) || (refuse.Store == "store") != (test.want == errOtherStore) {
				t.Errorf("%s: REFUSE is %+v", name, refuse)
			}
			if proven := link.Proves(refuse.Proof, gatewaySecret, h.Nonce); proven != (len(h.Nonce) <= maxNonce) {
				t.Errorf("%s: proof of the secret: %t", name, proven)
			}
			g.wantEnd()
			g.conn.Close()
		}
		if len(r.added) > 0 {
			t.Errorf("%q are in the store now", r.added)
		}
		r.want()
		clustertest.WantOwnLines(t, r.log.String())
	})
}

func TestControlSecrets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		h := hello("a", func(h *link.Hello) { h.ControlMAC = link.MAC("another", h.Nonce) })
		if _, w := r.welcomed(h); w.ControlSame {
			t.Error("another CONTROL_SECRET counts as the same")
		}
		r.log.Await(t, "level=WARN", "CONTROL_SECRET", "gateway=a")
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(_ *rig, cfg *Config) { cfg.ControlSecret = "" })
		if refuse := r.refused(hello("a", nil)); refuse.Reason != errNoControlHere.Error() {
			t.Errorf("only the gateway has a CONTROL_SECRET: %+v", refuse)
		}
		if _, w := r.welcomed(hello("a", func(h *link.Hello) { h.ControlMAC = nil })); !w.ControlSame {
			t.Error("none counts as different from none")
		}
	})
}

// The gateway dials twice a second.
func TestAnotherStoreIsAnErrorOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for range 100 {
			r.gws = 0 // from the same address
			r.refused(hello("a", func(h *link.Hello) { h.Store = "another" }))
			time.Sleep(time.Second)
		}
		if n := r.log.Count("level=ERROR"); n != 2 {
			t.Errorf("%d error lines in 100 s", n)
		}
	})
}

func TestFirstMessageIsHelloWithin5Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		h := hello("a", nil)
		good := link.With(link.KindHello, 0, &h).Append(nil)
		for name, b := range map[string][]byte{
			"nothing":         {},
			"garbage":         []byte("GET / HTTP/1.1"),
			"a huge frame":    {0xff, 0xff, 0xff, 0xff, 0x0f},
			"cut off":         good[:len(good)-1],
			"more than HELLO": attach(1).Append(good),
			"another kind":    attach(1).Append(nil),
			"a long message":  make([]byte, maxHello+1),
			"unreadable":      link.Frame{Kind: link.KindHello, Payload: []byte{0x0f, 0xff}}.Append(nil),
		} {
			g := r.connect()
			g.conn.WriteMessage(websocket.BinaryMessage, b)
			g.wantEnd()
			if g.end == nil {
				t.Errorf("%s is taken for HELLO", name)
			}
		}
		text := r.connect()
		text.conn.WriteMessage(websocket.TextMessage, good)
		text.wantEnd()

		begun := time.Now()
		idle := r.connect()
		raw := idle.conn.NetConn()
		raw.Write([]byte{0x82, 0x80 | byte(min(len(good), 125)), 0, 0, 0, 0}) // RFC 6455, 5.2
		for i := range 4 {                                                    // byte by byte
			time.Sleep(time.Second)
			raw.Write(good[i : i+1])
		}
		idle.wantEnd()
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("HELLO may take %v", took)
		}
		r.want()
	})
}

func TestNewGatewayIsWelcomeOnceItIsDurable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig, _ *Config) { r.durable = make(chan struct{}) })
		h := hello("a", nil)
		g := r.link(h)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if len(g.in) > 0 || len(r.added) != 1 {
			t.Errorf("%d frames before it is in the store, %q", len(g.in), r.added)
		}
		again := r.link(hello("a", nil)) // it was impatient
		g.wantEnd()
		close(r.durable)
		if f := again.next(); f.Kind != link.KindWelcome {
			t.Errorf("the answer is %v", f.Kind)
		}
		if len(r.added) != 1 {
			t.Errorf("%q were added", r.added)
		}
		again.send(attach(1))
		r.want("a attach 1 HLS")
	})
}

func TestNewGatewayThatIsGoneBeforeItsWelcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig, _ *Config) { r.durable = make(chan struct{}) })
		g := r.link(hello("a", nil))
		synctest.Wait()
		g.conn.Close()
		time.Sleep(5 * time.Second)
		close(r.durable)
		time.Sleep(5*time.Second - time.Nanosecond)
		r.want()
		if list := r.Gateways(); len(list) != 1 || list[0].Linked {
			t.Errorf("gateways: %+v", list)
		}
		time.Sleep(time.Nanosecond)
		r.want("a lost: it was not linked again within 10 s")
		if list := r.Gateways(); len(list) != 0 {
			t.Errorf("gateways: %+v", list)
		}
		if refuse := r.refused(hello("a", nil)); !refuse.Gone {
			t.Errorf("REFUSE of a lost one that knows no store: %+v", refuse)
		}
	})
}

// Whoever has the secret can't fill the store, or the memory.
func TestGatewaysAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(_ *rig, cfg *Config) {
			for i := range maxGateways - 1 {
				cfg.Known = append(cfg.Known, fmt.Sprint("known", i))
			}
		})
		r.welcomed(hello("a", nil))
		if refuse := r.refused(hello("b", nil)); refuse.Reason != errTooMany.Error() {
			t.Errorf("REFUSE is %+v", refuse)
		}
	})
}

func roundTrip(t *testing.T, conn net.Conn, req *http.Request) *http.Response {
	t.Helper()
	go req.Write(conn)
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}
