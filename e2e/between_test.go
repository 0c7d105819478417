package e2e

// With E2E_BETWEEN=gateway each story passes through a gateway: peers, application and operators dial it, and it is linked to
// the daemon. Both run the same binary. Their logs are one to a story.

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"coordinator/internal/clustertest"
)

// between is the variable that says what stands between peers and daemon.
const between = "E2E_BETWEEN"

// Why a story is told without a gateway, and not told again with one.
const (
	ofTheProcess     = "it is about the daemon's own process: settings, signals, certificate, log, memory, disk, and the door for its own sockets"
	ofDirectSockets  = "it is about streams that end with the daemon's own sockets; those at a gateway live on"
	countedAtGateway = "it is about what is counted where the socket is, which does not cross the link"
	deniedAtGateway  = "publishers that wait behind a gateway wait for the next coordinator, and are not denied at the stop of this one"
	hasGateways      = "it has gateways of its own"
	ofADouble        = "the page is all that a daemon serves in it"
	ofAnApplication  = "it is about the application, which sees no gateway"
)

// onlyDirect is called by a story that a gateway would take the subject from.
func onlyDirect(t testing.TB, reason string) {
	t.Helper()
	if gatewayBetween(t) {
		t.Skip("told only without a gateway: " + reason)
	}
}

const gatewaySecret = "a secret that gateways share with the coordinator"

// gatewayBetween tells whether a gateway stands between in a story.
func gatewayBetween(t testing.TB) bool {
	t.Helper()
	switch what := os.Getenv(between); what {
	case "":
		return false
	case "gateway":
		return true
	default:
		t.Fatalf("%s=%s: nothing of that name can stand between peers and daemon", between, what)
		return false
	}
}

// startBehindGateway runs a daemon with the settings that a story wants, behind a gateway.
func startBehindGateway(t testing.TB, env map[string]string) *clustertest.Daemon {
	t.Helper()
	g := startGateway(t, env)
	env = maps.Clone(env)
	env["HTTP_PORT"], env["GATEWAY_SECRET"] = g.daemonPort, gatewaySecret
	if env["DATA_DIR"] == "" {
		env["DATA_DIR"] = copyUsedData(t)
	}
	daemon := launch(t, env)
	g.Logs.Await(t, "linked to the coordinator")
	g.Logs.AlsoTo(daemon.Logs)
	stop := daemon.Stop
	daemon.Stop = func() error { return errors.Join(g.Stop(), stop()) }
	g.standBefore(daemon)
	return daemon.Daemon
}

// gateway stays when its daemon is started again, at the same port.
type gateway struct {
	*clustertest.Process
	daemonPort string
}

// startGateway has a gateway use what a story sets about peers: who dials finds the port and the certificate of the story at the
// gateway.
func startGateway(t testing.TB, env map[string]string) *gateway {
	t.Helper()
	g := &gateway{daemonPort: clustertest.ReservePort(t)}
	own := map[string]string{"COORDINATOR_URL": "http://127.0.0.1:" + g.daemonPort, "GATEWAY_SECRET": gatewaySecret}
	for name, value := range env {
		if name == "BIND_ADDRESS" || name == "HTTP_PORT" || name == "CONTROL_SECRET" || strings.HasPrefix(name, "SSL_") || strings.HasPrefix(name, "LOG_") {
			own[name] = value
		}
	}
	g.Process = launch(t, own)
	return g
}

func (g *gateway) standBefore(p *clustertest.Process) { p.Own, p.Addr = p.Addr, g.Addr }

// usedData is a DATA_DIR in which a daemon has run before. With a new one each story would begin with the seconds in which a
// coordinator waits for gateways that it cannot know of.
var usedData struct {
	once sync.Once
	file []byte
}

func copyUsedData(t testing.TB) string {
	t.Helper()
	usedData.once.Do(func() {
		dir := t.TempDir()
		p := launch(t, map[string]string{"HTTP_PORT": "0", "BIND_ADDRESS": "127.0.0.1", "DATA_DIR": dir, "GATEWAY_SECRET": gatewaySecret})
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
		usedData.file = []byte(clustertest.ReadText(t, filepath.Join(dir, outboxFile)))
	})
	dir := t.TempDir()
	clustertest.WriteFile(t, filepath.Join(dir, outboxFile), usedData.file)
	return dir
}

const outboxFile = "outbox.db"
