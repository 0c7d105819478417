package e2e

// The linter and the generators of clients that api/openapi.yaml is made for, and the clients against the running daemon. They are
// skipped where api/clients has not got what it needs, but with CI=true they fail.

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

const commandsToken = "commands-token"

// runIn runs a command in a directory, and returns what it says.
func runIn(t *testing.T, dir string, env []string, name string, arguments ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, arguments...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustRunIn(t *testing.T, dir string, env []string, name string, arguments ...string) string {
	t.Helper()
	out, err := runIn(t, dir, env, name, arguments...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, out)
	}
	return out
}

// copyOfAPI is api/ in a directory of its own, where clients are generated.
func copyOfAPI(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "api")
	for _, file := range []string{
		"openapi.yaml", "redocly.yaml",
		"clients/go/go.mod", "clients/go/go.sum", "clients/go/main.go", "clients/go/oapi-codegen.yaml", "clients/go/api/api.go",
		"clients/typescript/package.json", "clients/typescript/tsconfig.json", "clients/typescript/main.ts",
	} {
		content, err := os.ReadFile(filepath.Join("../api", file))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// withNode is the directory of the client in TypeScript, with the packages that it needs, and the environment for its tools.
func withNode(t *testing.T) (dir string, env []string) {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		missing(t, "npm is not installed")
	}
	modules, err := filepath.Abs("../api/clients/typescript/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "openapi-fetch")); err != nil {
		missing(t, "the packages are not installed: npm ci --prefix api/clients/typescript")
	}
	dir = filepath.Join(copyOfAPI(t), "clients", "typescript")
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return dir, []string{"REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true", "NO_UPDATE_NOTIFIER=1"}
}

func TestAPIDocumentPassesTheLinter(t *testing.T) {
	t.Parallel()
	onlyDirect(t, ofAnApplication)
	notWithRaces(t)
	dir, env := withNode(t)
	const linter, document = "node_modules/.bin/redocly", "../../openapi.yaml"
	lint := []string{"lint", "--config", "../../redocly.yaml", "--format", "stylish", document}
	mustRunIn(t, dir, env, linter, lint...)

	// The rules are those of the file.
	text := clustertest.ReadText(t, filepath.Join(dir, document))
	broken := map[string][2]string{ // by rule
		"rule/answer-when-all-is-well": {"        '101': {$ref: '#/components/responses/SwitchingProtocols'}\n", ""},
		"parameter-description":        {"      description: Rows of a page.\n", ""},
		"operation-operationId-unique": {"operationId: undrain\n", "operationId: drain\n"},
	}
	for rule, change := range broken {
		if strings.Count(text, change[0]) != 1 {
			t.Fatalf("%s: openapi.yaml has %q %d times", rule, change[0], strings.Count(text, change[0]))
		}
		text = strings.Replace(text, change[0], change[1], 1)
	}
	if err := os.WriteFile(filepath.Join(dir, document), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runIn(t, dir, env, linter, lint...)
	for rule := range broken {
		if err == nil || !strings.Contains(out, rule) {
			t.Errorf("%s is broken and not found: %v\n%s", rule, err, out)
		}
	}
}

func TestClientInTypeScript(t *testing.T) {
	t.Parallel()
	onlyDirect(t, ofAnApplication)
	notWithRaces(t)
	dir, env := withNode(t)
	mustRunIn(t, dir, env, "npm", "run", "generate")
	mustRunIn(t, dir, env, "npm", "run", "build")
	checkClient(t, func(arguments ...string) (string, error) {
		return runIn(t, dir, []string{"TOKEN=" + commandsToken}, "node", append([]string{"dist/main.js"}, arguments...)...)
	})
}

func TestClientInGo(t *testing.T) {
	t.Parallel()
	onlyDirect(t, ofAnApplication)
	notWithRaces(t)
	dir, env := filepath.Join(copyOfAPI(t), "clients", "go"), []string{"GOPROXY=off", "GOFLAGS=-mod=readonly"}
	if out, err := runIn(t, dir, env, "go", "build", "-o", "oapi-codegen", "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen"); err != nil {
		missing(t, "oapi-codegen is not there (go -C api/clients/go mod download brings it): %v\n%s", err, out)
	}
	mustRunIn(t, dir, env, "go", "generate", "./...")
	mustRunIn(t, dir, env, "go", "build", "-o", "client", ".")
	checkClient(t, func(arguments ...string) (string, error) {
		return runIn(t, dir, []string{"TOKEN=" + commandsToken}, "./client", arguments...)
	})
}

// checkClient has a client ask about a stream whose events are not taken, and end it.
func checkClient(t *testing.T, client func(arguments ...string) (string, error)) {
	t.Helper()
	app := clustertest.NewApplication(t)
	app.AnswerEvents(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "200")
		w.WriteHeader(http.StatusTeapot)
	})
	p := clustertest.Serve(t, coordinatorBinary, app.Variables("DATA_DIR="+quickDirectory(t),
		"COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN="+commandsToken)...)
	encoder, server := p.DialPeer("hls"), p.DialPeer("rtmp")
	encoder.Send("REGISTER", "Capacity", "4")
	authorization := []string{"Authorization", "Bearer " + commandsToken}
	await(t, "the encoder", func() bool {
		_, body := p.Call("GET", "/commands/capacity", authorization...)
		return strings.Contains(body, `"encoderCount":1`)
	})
	id := clustertest.Publish(server, encoder, "show")
	encoder.Available("show", id, "HLS-LIVE", "1280x720-30", "show/live.m3u8")
	await(t, "a try of its event", func() bool {
		_, body := p.Call("GET", "/commands/events", authorization...)
		return strings.Contains(body, "status 418")
	})

	out, err := client("http://"+p.Addr, "show", id)
	want := strings.Join([]string{
		"capacity 1 4 1",
		"stream show " + id + " live", "announced HLS-LIVE 1280x720-30 show/live.m3u8",
		"timeline asked done", "timeline verified allowed", "timeline accepted done", "timeline started least_load",
		"timeline announced done", "timeline event refused",
		"event " + id + "-1 stream-available status 418",
		"closed show", "",
	}, "\n")
	if diff := cmp.Diff(want, out); diff != "" || err != nil {
		t.Errorf("the client says (+), want (-): %v\n%s", err, diff)
	}
	server.Expect("STREAM-KILL", "Stream-Channel", "show", "Stream-ID", id)
	if out, err := client("http://"+p.Addr, "no channel", id); err == nil || !strings.Contains(out, "malformed_query") && !strings.Contains(out, "malformed_channel") {
		t.Errorf("a channel that is none: %v\n%s", err, out)
	}
}

func await(t *testing.T, what string, there func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); !there(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
	}
}
