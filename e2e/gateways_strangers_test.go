package e2e

// Who may link as a gateway, and what the clients of one can't do through it.

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
)

// knockAsGateway asks for a link and returns the status.
func knockAsGateway(t *testing.T, addr string, header ...string) int {
	t.Helper()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	dialer := websocket.Dialer{HandshakeTimeout: clustertest.Patience}
	conn, res, err := dialer.Dial("ws://"+addr+"/ws/gateway", h)
	if err == nil {
		conn.Close()
		return http.StatusSwitchingProtocols
	}
	if res == nil {
		t.Fatal(err)
	}
	return res.StatusCode
}

func TestOnlyGatewaysMayLink(t *testing.T) {
	t.Parallel()
	p := clustertest.Serve(t, coordinatorBinary, "DATA_DIR="+filepath.Join(t.TempDir(), "data"), "GATEWAY_SECRET="+gatewaySecret, "CONTROL_SECRET="+clustertest.ControlSecret)
	soon, past := time.Now().Add(time.Minute).Unix(), time.Now().Add(-time.Hour).Unix()
	sign := func(key string, claims jwt.MapClaims) string {
		return clustertest.SignToken(t, jwt.SigningMethodHS256, []byte(key), claims)
	}
	for name, test := range map[string]struct {
		header []string
		logged string
	}{
		"no token":                     {nil, "token"},
		"a peer's token":               {[]string{"x-gateway-auth-token", clustertest.ControlToken(t, "rtmp-control")}, "signature"},
		"a peer's token where peers":   {[]string{"x-control-auth-token", clustertest.ControlToken(t, "rtmp-control")}, "token"},
		"another secret":               {[]string{"x-gateway-auth-token", sign("another-secret-of-more-than-32-bytes", jwt.MapClaims{"sub": "gateway", "exp": soon})}, "signature"},
		"the secret of peers":          {[]string{"x-gateway-auth-token", sign(clustertest.ControlSecret, jwt.MapClaims{"sub": "gateway", "exp": soon})}, "signature"},
		"another subject":              {[]string{"x-gateway-auth-token", sign(gatewaySecret, jwt.MapClaims{"sub": "rtmp-control", "exp": soon})}, "subject"},
		"an old token":                 {[]string{"x-gateway-auth-token", sign(gatewaySecret, jwt.MapClaims{"sub": "gateway", "exp": past})}, "expired"},
		"a token that nobody has made": {[]string{"x-gateway-auth-token", "a.b.c"}, "token"},
	} {
		if status := knockAsGateway(t, p.Addr, test.header...); status != http.StatusForbidden {
			t.Errorf("%s: %d", name, status)
		}
		p.Logs.Await(t, "level=WARN", `msg="gateway link refused"`, test.logged)
	}
	if text := p.Logs.String(); strings.Contains(text, gatewaySecret) || strings.Contains(text, clustertest.ControlSecret) {
		t.Error("the log shows a secret")
	}
	closed := clustertest.Serve(t, coordinatorBinary, "DATA_DIR="+filepath.Join(t.TempDir(), "data"))
	if status := knockAsGateway(t, closed.Addr, "x-gateway-auth-token", sign(gatewaySecret, jwt.MapClaims{"sub": "gateway", "exp": soon})); status != http.StatusNotFound {
		t.Errorf("without GATEWAY_SECRET: %d", status)
	}
}

// A gateway without the right secret says so, and so does the coordinator.
func TestGatewayWithAnotherSecretIsRefused(t *testing.T) {
	t.Parallel()
	p := clustertest.Serve(t, coordinatorBinary, "DATA_DIR="+filepath.Join(t.TempDir(), "data"), "GATEWAY_SECRET="+gatewaySecret)
	g := clustertest.Serve(t, coordinatorBinary, "COORDINATOR_URL=http://"+p.Addr, "GATEWAY_SECRET=another-secret-of-more-than-32-bytes")
	g.Logs.Await(t, "level=WARN", "status 403", "GATEWAY_SECRET the same at both")
	p.Logs.Await(t, "gateway link refused", "signature")
	if status, _ := g.Call("GET", "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("readyz: %d", status)
	}
}

// What strangers send to a gateway reaches neither the coordinator's links nor its idea of who they are.
func TestNobodyGetsThroughAGateway(t *testing.T) {
	t.Parallel()
	c, _ := startBehindGateways(t, 1, "COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN=commands-token", "LOG_REQUESTS=YES")
	g := c.gateways[0]
	for _, path := range []string{
		"/commands/%2e%2e/ws/gateway", "/commands/..%2fws/gateway", "/dashboard/%2e%2e/ws/gateway", "/ws/gateway", "/commands/%2e%2e/ws/control/rtmp", "/commands/../readyz",
	} {
		if status, _ := g.Call("GET", path, "Authorization", "Bearer commands-token"); status != http.StatusNotFound && status != http.StatusForbidden && status != http.StatusBadRequest {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status := knockAsGateway(t, g.Addr); status != http.StatusNotFound {
		t.Errorf("a link to a gateway: %d", status)
	}
	for _, token := range []string{"", "wrong"} {
		res, _ := g.Request("GET", "/commands/report", "Authorization", "Bearer "+token, "X-Forwarded-For", "192.0.2.77", "Forwarded", "for=192.0.2.78")
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("token %q: %d", token, res.StatusCode)
		}
	}
	if status, _ := g.Call("GET", "/commands/report", "Authorization", "Bearer commands-token", "X-Forwarded-For", "192.0.2.77"); status != http.StatusOK {
		t.Errorf("the right token: %d", status)
	}
	c.p.Logs.Await(t, "msg=request", "path=/commands/report", "status=200")
	for who, text := range map[string]string{"coordinator": c.p.Logs.String(), "gateway": g.Logs.String()} {
		if strings.Contains(text, "192.0.2.") {
			t.Errorf("the log of the %s shows an address that a client has made up", who)
		}
		if strings.Contains(text, "commands-token") {
			t.Errorf("the log of the %s shows a token", who)
		}
	}
	if n := strings.Count(c.p.Logs.String(), "path=/ws/gateway"); n > 1 {
		t.Errorf("%d requests for links have come", n)
	}
}
