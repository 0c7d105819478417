package e2e

// The command line.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"coordinator/internal/clustertest"

	"github.com/golang-jwt/jwt/v5"
)

// hidden is a secret, which is shown nowhere.
const hidden = "hunter2"

// execute runs a command line with variables given as NAME=value.
func execute(t *testing.T, flags string, environ ...string) (status int, stdout, stderr string) {
	t.Helper()
	return executeIn(t, t.TempDir(), flags, environ...)
}

// executeIn runs a command line in a directory, whose .env file it reads.
func executeIn(t *testing.T, dir, flags string, environ ...string) (status int, stdout, stderr string) {
	t.Helper()
	clustertest.DependOnProgram(t)
	ctx, cancel := context.WithTimeout(t.Context(), clustertest.Patience)
	defer cancel()
	var out, diagnostics bytes.Buffer
	cmd := exec.CommandContext(ctx, coordinatorBinary, strings.Fields(flags)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append([]string{}, environ...), &out, &diagnostics
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), diagnostics.String()
}

func TestVersionIsPrinted(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^coordinator 0\.0\.0-dev\ncommit unknown\ndate unknown\ngo1\S+ \w+/\w+\n$`) // of a build without a checkout
	if status, out, _ := execute(t, "-version", "HTTP_PORT=nonsense"); status != 0 || !form.MatchString(out) {
		t.Errorf("%d %q", status, out)
	}
}

// version is what a program built without a tag calls itself.
const version = "0.0.0-dev"

func TestReleasesSayWhatTheyWereBuiltFrom(t *testing.T) {
	t.Parallel()
	const variable = " -X coordinator/internal/buildinfo."
	binary, err := clustertest.Build(t.TempDir(), "-ldflags="+variable+"version=1.2.3-rc.1"+variable+"commit=c0ffee"+variable+"date=2026-01-02T03:04:05Z")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(binary, "-version").Output(); err != nil || !strings.HasPrefix(string(out), "coordinator 1.2.3-rc.1\ncommit c0ffee\ndate 2026-01-02T03:04:05Z\ngo1") {
		t.Errorf("%v %q", err, out)
	}
	for role, environ := range map[string][]string{
		"coordinator": nil,
		"gateway":     {"GATEWAY_SECRET=" + gatewaySecret, "COORDINATOR_URL=http://127.0.0.1:1"},
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			p := clustertest.Serve(t, binary, environ...)
			p.Logs.Await(t, "msg=starting version=1.2.3-rc.1 commit=c0ffee date=2026-01-02T03:04:05Z go=go1")
			want := fmt.Sprintf(`%s_build_info{commit="c0ffee",date="2026-01-02T03:04:05Z",go_version=%q,version="1.2.3-rc.1"}`, role, runtime.Version())
			if _, exposed := p.Scrape()[want]; !exposed {
				t.Errorf("no %s", want)
			}
		})
	}
}

func TestFlagsFitAScreen(t *testing.T) {
	t.Parallel()
	status, out, diagnostics := execute(t, "-h")
	if status != 0 || diagnostics != "" {
		t.Errorf("%d %q", status, diagnostics)
	}
	for line := range strings.Lines(out) {
		if len(line) > 90 {
			t.Errorf("too wide: %s", line)
		}
	}
	for _, flag := range []string{"-check ", "-healthcheck ", "-schema ", "-token peer ", "-version ", "-h "} {
		if strings.Count(out, "\n  "+flag) != 1 {
			t.Errorf("%s is missing in:\n%s", flag, out)
		}
	}
}

func TestCommandLineThatCannotBeUnderstood(t *testing.T) {
	t.Parallel()
	for _, flags := range []string{"-x", "--port=80", "-token", "-token ftp", "-version -check", "-check more", "run", "-check=maybe"} {
		status, out, diagnostics := execute(t, flags)
		if status != 2 || out != "" || !strings.Contains(diagnostics, "Usage: coordinator") {
			t.Errorf("%s: %d %q %q", flags, status, out, diagnostics)
		}
	}
}

func TestCheckPrintsTheConfigurationWithoutSecrets(t *testing.T) {
	t.Parallel()
	status, out, diagnostics := execute(t, "-check",
		"HTTP_PORT=8080", "CONTROL_SECRET="+hidden, "LOG_FORMAT=json", "SSL_CHECK_RELOAD_SECONDS=5", "ENCODER_FAILOVER=no",
		"KEY_VERIFICATION_URL=http://u:"+hidden+"@app", "EVENT_CALLBACK_URL=http://app", "EVENT_CALLBACK_AUTH=Custom", "EVENT_CALLBACK_AUTH_CUSTOM="+hidden,
		"COMMANDS_API_AUTH=basic", "COMMANDS_API_AUTH_USER=u", "COMMANDS_API_AUTH_PASSWORD="+hidden)
	if status != 0 || diagnostics != "" {
		t.Errorf("%d %q", status, diagnostics)
	}
	if strings.Contains(out, hidden) {
		t.Errorf("a secret is shown: %s", out)
	}
	for _, line := range []string{
		"HTTP_PORT=8080", "CONTROL_SECRET=***", "LOG_FORMAT=json", "SSL_CHECK_RELOAD_SECONDS=5", "ENCODER_FAILOVER=NO", "LOG_REQUESTS=YES",
		"KEY_VERIFICATION_URL=***", "KEY_VERIFICATION_AUTH=", "EVENT_CALLBACK_AUTH=***", "COMMANDS_API_AUTH=Basic", "DATA_DIR=data",
	} {
		if !strings.Contains("\n"+out, "\n"+line+"\n") {
			t.Errorf("%s is missing in:\n%s", line, out)
		}
	}
}

func TestCheckSaysWhatBecomesOfGateways(t *testing.T) {
	t.Parallel()
	for want, environ := range map[string][]string{
		"# a coordinator\n# no gateway may link: GATEWAY_SECRET is not set\nHTTP_PORT":                                            nil,
		"# a coordinator\n# gateways may link; which ones do is kept in DATA_DIR, and after a start it waits for them\nHTTP_PORT": {"GATEWAY_SECRET=" + gatewaySecret},
		"# a gateway\n# it holds the connections of peers and links to https://c\nHTTP_PORT":                                      {"GATEWAY_SECRET=" + gatewaySecret, "COORDINATOR_URL=https://c"},
		"links to http://c:1\n# whoever can listen on the way to c:1 sees stream keys: use https://\nHTTP_PORT":                   {"GATEWAY_SECRET=" + gatewaySecret, "COORDINATOR_URL=http://c:1"},
	} {
		if status, out, diagnostics := execute(t, "-check", environ...); status != 0 || diagnostics != "" || !strings.Contains(out, want) {
			t.Errorf("%q: %d %s\n%s", environ, status, diagnostics, out)
		}
	}
}

func TestCheckReportsAllFaults(t *testing.T) {
	t.Parallel()
	status, out, diagnostics := execute(t, "-check", "HTTP_PORT=x", "LOG_DEBUG=maybe", "CONTROL_SECERT=y")
	if status != 1 || out != "" {
		t.Errorf("%d %q", status, out)
	}
	for _, part := range []string{"HTTP_PORT: ", "LOG_DEBUG: ", "name=CONTROL_SECERT meant=CONTROL_SECRET"} {
		if !strings.Contains(diagnostics, part) {
			t.Errorf("%s is missing in %q", part, diagnostics)
		}
	}
	if status, _, diagnostics := execute(t, "-check", "SSL_CERT=/nowhere/c", "SSL_KEY=/nowhere/k"); status != 1 || !strings.Contains(diagnostics, "/nowhere/c") {
		t.Errorf("unreadable certificate: %d %q", status, diagnostics)
	}
}

func TestTokenOpensItsControlEndpoint(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "CONTROL_SECRET="+hidden)
	for _, peer := range []string{"rtmp", "wss", "hls"} {
		status, out, diagnostics := execute(t, "-token "+peer, "CONTROL_SECRET="+hidden)
		if status != 0 || diagnostics != "" {
			t.Fatalf("%d %q", status, diagnostics)
		}
		token := strings.TrimSpace(out)
		d.DialPeer(peer, "x-control-auth-token", token)
		claims := jwt.MapClaims{}
		if _, _, err := jwt.NewParser().ParseUnverified(token, claims); err != nil || len(claims) != 1 {
			t.Errorf("claims are %v, error %v", claims, err)
		}
	}
	if status, out, diagnostics := execute(t, "-token hls"); status != 1 || out != "" || !strings.Contains(diagnostics, "CONTROL_SECRET is not set") {
		t.Errorf("without a secret: %d %q %q", status, out, diagnostics)
	}
}

func TestHealthcheckAsksTheRunningDaemon(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	_, port, err := net.SplitHostPort(d.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1", "", "0.0.0.0", "::", "[::]", "localhost"} {
		status, _, diagnostics := execute(t, "-healthcheck", "HTTP_PORT="+port, "BIND_ADDRESS="+address, "http_proxy=http://127.0.0.1:1")
		if status != 0 {
			t.Errorf("BIND_ADDRESS=%s: %d %q", address, status, diagnostics)
		}
	}
	for _, environ := range [][]string{
		{"HTTP_PORT=1", "BIND_ADDRESS=127.0.0.1"},
		{"HTTP_PORT=1", "BIND_ADDRESS=fe80::1%lo"},
		{"HTTP_PORT=0"},
		{"HTTP_PORT=x"},
	} {
		if status, _, diagnostics := execute(t, "-healthcheck", environ...); status != 1 || diagnostics == "" {
			t.Errorf("%v: %d %q", environ, status, diagnostics)
		}
	}
}

func TestHealthcheckGivesUpOnADaemonThatHangs(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	status, _, diagnostics := execute(t, "-healthcheck", "HTTP_PORT="+port)
	if status != 1 || !strings.Contains(diagnostics, "deadline exceeded") {
		t.Errorf("%d %q", status, diagnostics)
	}
}

func TestDaemonThatCannotStartSaysWhyAndWhatMayBeMisspelled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clustertest.WriteFile(t, filepath.Join(dir, ".env"), []byte("EVENT_CALBACK_URL=http://app\nLOG_FORMAT=JSON\n"))
	status, _, diagnostics := executeIn(t, dir, "", "HTTP_PORT=x")
	if status != 1 {
		t.Errorf("status %d", status)
	}
	for _, part := range []string{"HTTP_PORT: ", `"name":"EVENT_CALBACK_URL","meant":"EVENT_CALLBACK_URL"`} {
		if !strings.Contains(diagnostics, part) {
			t.Errorf("%s is missing in %s", part, diagnostics)
		}
	}
}

func TestFailedStartIsToldInTheFormOfTheLog(t *testing.T) {
	t.Parallel()
	port := clustertest.TakenPort(t)
	for name, test := range map[string]struct {
		flags   string
		environ []string
		faults  []string
	}{
		"faulty configuration": {"", []string{"HTTP_PORT=x", "SSL_KEY=k"}, []string{"HTTP_PORT: ", "SSL_CERT: "}},
		"taken port":           {"", []string{"HTTP_PORT=" + port, "BIND_ADDRESS=127.0.0.1"}, []string{"HTTP_PORT: "}},
		"missing certificate":  {"", []string{"SSL_CERT=/nowhere/c", "SSL_KEY=/nowhere/k"}, []string{"certificate file: "}},
		"check":                {"-check", []string{"HTTP_PORT=x"}, []string{"HTTP_PORT: "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			environ := append(test.environ, "DATA_DIR="+t.TempDir(), "HTTP_PROT=1")
			status, _, diagnostics := execute(t, test.flags, append(environ, "LOG_FORMAT= Json")...)
			if status != 1 {
				t.Errorf("status %d", status)
			}
			var faults []string
			for line := range strings.Lines(diagnostics) {
				var record struct{ Time, Level, Msg, Error string }
				if err := json.Unmarshal([]byte(line), &record); err != nil || record.Time == "" {
					t.Errorf("not a JSON line: %q %v", line, err)
				}
				if record.Level == "ERROR" && record.Msg == "exiting with status 1" {
					faults = append(faults, record.Error)
				}
			}
			if len(faults) != len(test.faults) {
				t.Fatalf("got %q", faults)
			}
			for n, fault := range faults {
				if !strings.HasPrefix(fault, test.faults[n]) {
					t.Errorf("got %q, want %s...", fault, test.faults[n])
				}
			}
			if status, _, diagnostics := execute(t, test.flags, environ...); status != 1 || !strings.Contains(diagnostics, "coordinator: "+test.faults[0]) {
				t.Errorf("as text: %d %q", status, diagnostics)
			}
		})
	}
}

func TestFailedStartIsJSONIfOnlyTheDotEnvFileSaysSoOrCannotBeRead(t *testing.T) {
	t.Parallel()
	saysSo, unreadable := t.TempDir(), t.TempDir()
	clustertest.WriteFile(t, filepath.Join(saysSo, ".env"), []byte("LOG_FORMAT=json\nHTTP_PORT=x\n"))
	if err := os.Mkdir(filepath.Join(unreadable, ".env"), 0o700); err != nil {
		t.Fatal(err)
	}
	for dir, environ := range map[string][]string{saysSo: nil, unreadable: {"LOG_FORMAT=json"}} {
		if status, _, diagnostics := executeIn(t, dir, "", environ...); status != 1 || !json.Valid([]byte(diagnostics)) {
			t.Errorf("%d %s", status, diagnostics)
		}
	}
}

func TestAddressThatCannotBeBoundIsAFaultOfBindAddress(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"203.0.113.9", "2001:db8::9", "fe80::1%nowhere"} { // for documentation (RFC 5737, RFC 3849)
		status, _, text := execute(t, "", "BIND_ADDRESS="+address, "HTTP_PORT=0")
		if status != 1 || !strings.Contains(text, "coordinator: BIND_ADDRESS: ") || strings.Contains(text, "HTTP_PORT") {
			t.Errorf("%s: %d %q", address, status, text)
		}
	}
}
