package main

// The program as a gateway, before a coordinator that takes links and notes what it is asked.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"coordinator/internal/buildinfo"
	"coordinator/internal/clustertest"
	"coordinator/internal/control"
	"coordinator/internal/gateway"
	"coordinator/internal/link"
	"coordinator/internal/logs"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

// linkTaker is a coordinator that welcomes each gateway and says nothing more.
type linkTaker struct {
	t      *testing.T
	server *httptest.Server

	mu    sync.Mutex
	asked []string // method and target of what was no link
	links []*websocket.Conn
	kinds []link.Kind // of frames that came, but for ACK
}

func newLinkTaker(t *testing.T) *linkTaker {
	c := &linkTaker{t: t}
	c.server = httptest.NewServer(c)
	t.Cleanup(func() {
		c.mu.Lock()
		for _, ws := range c.links {
			ws.Close()
		}
		c.mu.Unlock()
		c.server.Close()
	})
	return c
}

func (c *linkTaker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/base"+link.Path || r.Header.Get(link.TokenHeader) == "" {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked = append(c.asked, r.Method+" "+r.RequestURI)
		if r.URL.Path == "/base/commands/nothing" {
			http.NotFound(w, r)
		}
		return
	}
	if fault := link.TokenFault(r.Header.Get(link.TokenHeader), long); fault != "" {
		c.t.Error(fault)
	}
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	_, message, err := ws.ReadMessage()
	if err != nil {
		return
	}
	f, _, err := link.Next(message)
	var hello link.Hello
	if err != nil || f.Read(&hello) != nil || hello.Version != buildinfo.Version() {
		c.t.Errorf("%+v %v", hello, err)
	}
	c.mu.Lock()
	c.links = append(c.links, ws)
	c.mu.Unlock()
	welcome := link.Welcome{Store: "s", Term: "t", Protocol: link.Protocol, ControlSame: true, Proof: link.MAC(long, hello.Nonce)}
	ws.WriteMessage(websocket.BinaryMessage, link.With(link.KindWelcome, 0, &welcome).Append(nil))
	for {
		if _, message, err = ws.ReadMessage(); err != nil {
			return
		}
		for len(message) > 0 {
			if f, message, err = link.Next(message); err != nil {
				c.t.Error(err)
				return
			}
			if f.Kind != link.KindAck {
				c.mu.Lock()
				c.kinds = append(c.kinds, f.Kind)
				c.mu.Unlock()
			}
		}
	}
}

func (c *linkTaker) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = nil
	return asked
}

func startGateway(t *testing.T, variables ...string) (*clustertest.Daemon, *linkTaker) {
	t.Helper()
	c := newLinkTaker(t)
	d := startDaemon(t, append(variables, "COORDINATOR_URL="+c.server.URL+"/base", "GATEWAY_SECRET="+long)...)
	d.Logs.Await(t, "linked to the coordinator")
	return d, c
}

// rawStatus asks for a target as it stands.
func rawStatus(t *testing.T, addr, request string) int {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", request)
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(request, err)
	}
	io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	return answer.StatusCode
}

func TestGatewayPassesOnExactlyWhatItMay(t *testing.T) {
	t.Parallel()
	d, c := startGateway(t)
	for request, want := range map[string]string{
		"GET /":                                 "GET /base/",
		"HEAD /":                                "HEAD /base/",
		"GET /commands/report?limit=1":          "GET /base/commands/report?limit=1",
		"POST /commands/close":                  "POST /base/commands/close",
		"OPTIONS /commands/close":               "OPTIONS /base/commands/close",
		"GET /dashboard":                        "GET /base/dashboard",
		"GET /dashboard/app.js":                 "GET /base/dashboard/app.js",
		"GET /%63ommands/report":                "GET /base/commands/report",
		"GET /commands/%252e%252e/ws/gateway":   "GET /base/commands/%252e%252e/ws/gateway", // a name with percent signs
		"GET http://other/commands/report":      "GET /base/commands/report",
		"GET /commands/%2e%2e/ws/gateway":       "",
		"GET /commands/..%2fws/gateway":         "",
		"GET /commands/../ws/gateway":           "",
		"GET /dashboard/%2e%2e/ws/gateway":      "",
		"GET /dashboard/..%2f..%2fws%2fgateway": "",
		"GET /commands/%2fws/gateway":           "",
		"GET //ws/gateway":                      "",
		"GET /commands//report":                 "",
		"GET /commands/":                        "",
		"GET /commands":                         "",
		"GET /dashboardx":                       "",
		"GET /%2e/ws/gateway":                   "",
		"GET /ws/gateway":                       "",
		"GET /ws/gateway/":                      "",
		"GET /other":                            "",
		"OPTIONS *":                             "",
		"POST /livez":                           "",
	} {
		status := rawStatus(t, d.Addr, request)
		asked := c.take()
		switch {
		case want == "" && (len(asked) > 0 || request != "OPTIONS *" && status != http.StatusNotFound && status != http.StatusMethodNotAllowed):
			t.Errorf("%s: %d, and the coordinator is asked %q", request, status, asked)
		case want != "" && (len(asked) != 1 || asked[0] != want || status != http.StatusOK):
			t.Errorf("%s: %d, and the coordinator is asked %q", request, status, asked)
		}
	}
	rawStatus(t, d.Addr, "GET /commands/nothing")
	d.Logs.Await(t, "msg=request", "path=(unknown)", "status=404")
	d.Logs.Await(t, "msg=request", "path=/commands/report", "status=200")
	rawStatus(t, d.Addr, "OPTIONS /dashboard/nothing") // the coordinator answers before it looks whether there is such a file
	d.Logs.Await(t, "msg=request method=OPTIONS", "path=(unknown)", "status=200")
	d.Logs.Await(t, "msg=request", "path=/dashboard/app.js", "status=200")
	if strings.Contains(d.Logs.String(), "nothing") {
		t.Error("a path that nobody knows is logged")
	}
}

func TestGatewayAnswersProbesAndPeersItself(t *testing.T) {
	t.Parallel()
	d, c := startGateway(t, "CONTROL_SECRET="+hidden)
	for request, want := range map[string]int{
		"GET /livez": 200, "GET /readyz": 200, "GET /metrics": 200, "POST /ws/control/rtmp": 405, "GET /ws/control/rtmp": 403, "OPTIONS /ws/control/hls": 204,
	} {
		if status := rawStatus(t, d.Addr, request); status != want {
			t.Errorf("%s: %d, want %d", request, status, want)
		}
	}
	if asked := c.take(); len(asked) > 0 {
		t.Errorf("the coordinator is asked %q", asked)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if diff := cmp.Diff([]link.Kind{link.KindSynced, link.KindBye}, c.kinds); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(d.Logs.String(), hidden) || strings.Contains(d.Logs.String(), long) {
		t.Error("the log shows a secret")
	}
}

func TestGatewayIsNotReadyWithoutACoordinator(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "COORDINATOR_URL=http://127.0.0.1:1", "GATEWAY_SECRET="+long)
	if live, ready := rawStatus(t, d.Addr, "GET /livez"), rawStatus(t, d.Addr, "GET /readyz"); live != 200 || ready != 503 {
		t.Errorf("livez %d, readyz %d", live, ready)
	}
}

func TestCheckOfAGatewayShowsWhatItUses(t *testing.T) {
	t.Parallel()
	var out, diagnostics bytes.Buffer
	i := invocation{args: []string{"-check"}, dotEnv: filepath.Join(t.TempDir(), ".env"), stdout: &out, stderr: &diagnostics,
		environ: []string{"COORDINATOR_URL=http://127.0.0.1:8080,https://b/base/", "GATEWAY_SECRET=" + long, "LOG_FORMAT=text"}}
	if status := i.execute(t.Context()); status != 0 || diagnostics.Len() > 0 {
		t.Fatalf("%d %q", status, &diagnostics)
	}
	var names []string
	for line := range strings.Lines(out.String()) {
		name, _, found := strings.Cut(line, "=")
		if found {
			names = append(names, name)
		}
	}
	want := slices.DeleteFunc(slices.Clone(gatewaySettings), func(name string) bool { return name == "SSL_KEY_FILE" })
	slices.Sort(want)
	slices.Sort(names)
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	for _, line := range []string{
		"# a gateway\n# it holds the connections of peers and links to http://127.0.0.1:8080, or to another of its URLs if that one leads\nHTTP_PORT", "\nCOORDINATOR_URL=http://127.0.0.1:8080,https://b/base\n", "\nGATEWAY_SECRET=***\n",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("%q is missing in\n%s", line, &out)
		}
	}
}

func TestSettingsThatAGatewayDoesNotUseAreNamed(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	env := settings{"COORDINATOR_URL": "http://c", "GATEWAY_SECRET_FILE": "f", "HTTP_PORT": "1", "LOG_DEBUG": "NO", "DATA_DIR": "d", "COMMANDS_API_AUTH_TOKEN_FILE": hidden, "ID_MAX_LENGTH": " "}
	warnWithoutEffect(env.get, logs.New(&out, false, false))
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, `names="[COMMANDS_API_AUTH_TOKEN_FILE DATA_DIR]"`) || strings.Contains(got, hidden) {
		t.Error(got)
	}
}

func TestPlainHTTPToAnotherMachineIsWarnedOf(t *testing.T) {
	t.Parallel()
	for value, warned := range map[string]bool{
		"http://localhost:8080": false, "http://127.0.0.1": false, "http://[::1]:1": false, "https://coordinator": false, "http://coordinator": true, "http://10.0.0.1": true,
	} {
		cfg, err := loadConfig(settings{"COORDINATOR_URL": value, "GATEWAY_SECRET": long, "CONTROL_SECRET": hidden}.get)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		warnUnprotectedGateway(cfg, logs.New(&out, false, false))
		if got := strings.Contains(out.String(), "level=WARN") && strings.Contains(out.String(), value); got != warned {
			t.Errorf("%s: %q", value, &out)
		}
	}
}

func TestOperateListsEveryMetricOfAGatewayWithItsLabels(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	m := newGatewayMetrics(func() gateway.State { return gateway.State{Sockets: map[control.Kind]int{}} })
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "gateway_") || family.GetName() == "gateway_control_messages_total" || family.GetName() == "gateway_peer_disconnects_total" {
			continue // the last two are said to be those of a coordinator
		}
		count++
		_, row, found := strings.Cut(string(text), "| `"+family.GetName()+"` |")
		row, _, _ = strings.Cut(row, "\n")
		if !found {
			t.Errorf("docs/operate.md does not know %s", family.GetName())
		}
		for _, metric := range family.Metric {
			for _, label := range metric.Label {
				if !strings.Contains(row, "`"+label.GetName()+"`") || !strings.Contains(row, "`"+label.GetValue()+"`") {
					t.Errorf("docs/operate.md does not know %s %s of %s", label.GetName(), label.GetValue(), family.GetName())
				}
			}
		}
	}
	if count != 10 {
		t.Errorf("%d metrics", count)
	}
}
