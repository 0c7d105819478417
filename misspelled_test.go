package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"

	"coordinator/internal/clustertest"
	"coordinator/internal/logs"
)

func TestMisspelledVariableIsMatchedWithTheRightName(t *testing.T) {
	t.Parallel()
	known := configNames()
	for name, want := range map[string]string{
		"HTTP_PROT":                    "HTTP_PORT",
		"HTTPPORT":                     "HTTP_PORT",
		"HTTPS_PORT":                   "HTTP_PORT",
		"http_port":                    "HTTP_PORT",
		"SSL_KEYS":                     "SSL_KEY",
		"SSL_CERTS":                    "SSL_CERT",
		"DATADIR":                      "DATA_DIR",
		"LOG_FORMATS":                  "LOG_FORMAT",
		"CONTROL_SECERT":               "CONTROL_SECRET",
		"CONTROL_SECRET_FLE":           "CONTROL_SECRET_FILE",
		"CONTROL_SECRETS":              "CONTROL_SECRET",
		"STREAM_START_TIMOUT":          "STREAM_START_TIMEOUT",
		"ENCODER_WAIT_SECOND":          "ENCODER_WAIT_SECONDS",
		"KEY_VERIFICATON_URL":          "KEY_VERIFICATION_URL",
		"KEY_VERIFICATION_URI":         "KEY_VERIFICATION_URL",
		"KEY_VERIFICATION_AUTH_PASS":   "KEY_VERIFICATION_AUTH_PASSWORD",
		"EVENT_CALLBACKS_URL":          "EVENT_CALLBACK_URL",
		"EVENT_CALLBACK_AUTH_TOK":      "EVENT_CALLBACK_AUTH_TOKEN",
		"COMMANDS_API_PASSWORD":        "COMMANDS_API_AUTH_PASSWORD",
		"COMMAND_API_AUTH":             "COMMANDS_API_AUTH",
		"EVENT_CALLBACK_AUTH_PASSWRD":  "EVENT_CALLBACK_AUTH_PASSWORD",
		"SSL_CHECK_RELOAD":             "",
		"CONTROL_USE":                  "", // of the peers, which may share a .env file with the coordinator
		"CONTROL_BASE_URL":             "",
		"RTMP_PORT":                    "",
		"SSL_CERT_FILE":                "",
		"SSL_KEY_FILE":                 "",
		"HTTP_PORT_FILE":               "HTTP_PORT", // only secrets can stand in files
		"COMMANDS_API_AUTH_FILE":       "COMMANDS_API_AUTH",
		"COMMANDS_API_AUTH_USER_FILE":  "COMMANDS_API_AUTH_USER",
		"SSL_CERT_DIR":                 "",
		"HTTP_PROXY":                   "",
		"http_proxy":                   "",
		"HTTP_HOST":                    "",
		"SMTP_PORT":                    "",
		"REDIS_PORT":                   "",
		"PORT":                         "",
		"PATH":                         "",
		"":                             "",
		strings.Repeat("CONTROL_", 64): "",
	} {
		if got := misspelled(name, known); got != want {
			t.Errorf("%s is taken for %q, want %q", name, got, want)
		}
	}
	for _, name := range known {
		if got := misspelled(name, known); got != "" {
			t.Errorf("%s is our own, and is taken for %q", name, got)
		}
	}
}

func TestEditDistance(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "acb", 1},
		{"abc", "ab", 1}, {"abc", "xabc", 1}, {"kitten", "sitting", 3}, {"abcdef", "badcfe", 3},
	} {
		if got := editDistance(tt.a, tt.b); got != tt.want {
			t.Errorf("from %q to %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestSettingsWithoutEffectAreNamed(t *testing.T) {
	t.Parallel()
	const httpsOff = `level=ERROR msg="HTTPS is off: set SSL_CERT and SSL_KEY"`
	for _, tt := range []struct {
		env  settings
		want string // "" is no line
	}{
		{settings{}, ""},
		{settings{"SSL_PORT": "443"}, httpsOff},
		{settings{"SSL_PORT": "0", "SSL_CERT_FILE": "/etc/ssl/ca.crt"}, httpsOff},
		{settings{"SSL_PORT": " "}, ""},
		{settings{"SSL_PORT": "443", "SSL_CERT": "c", "SSL_KEY": "k"}, ""},
		{settings{"SSL_CERT_FILE": "/etc/ssl/ca.crt"}, ""},
		{settings{"COMMANDS_API_AUTH_TOKEN": hidden}, "level=ERROR names=[COMMANDS_API_AUTH_TOKEN] not_set=COMMANDS_API_AUTH"},
		{settings{"COMMANDS_API_AUTH_USER": "u", "COMMANDS_API_AUTH_PASSWORD_FILE": hidden},
			`level=ERROR names="[COMMANDS_API_AUTH_USER COMMANDS_API_AUTH_PASSWORD]" not_set=COMMANDS_API_AUTH`},
		{settings{"COMMANDS_API_AUTH_TOKEN": hidden, "COMMANDS_API_AUTH_FILE": "not read"}, "level=ERROR names=[COMMANDS_API_AUTH_TOKEN] not_set=COMMANDS_API_AUTH"},
		{settings{"COMMANDS_API_AUTH_TOKEN": hidden, "COMMANDS_API_AUTH": "Bearer", "COMMANDS_API_AUTH_USER": "left over"}, ""},
		{settings{"KEY_VERIFICATION_AUTH": "Bearer", "KEY_VERIFICATION_AUTH_TOKEN": hidden}, "level=ERROR names=[KEY_VERIFICATION_AUTH] not_set=KEY_VERIFICATION_URL"},
		{settings{"KEY_VERIFICATION_URL_FILE": hidden, "KEY_VERIFICATION_AUTH": "Bearer", "KEY_VERIFICATION_AUTH_TOKEN": hidden}, ""},
		{settings{"KEY_VERIFICATION_PASSWORD": hidden}, "level=WARN names=[KEY_VERIFICATION_PASSWORD] not_set=KEY_VERIFICATION_AUTH"},
		{settings{"EVENT_CALLBACK_AUTH_CUSTOM_FILE": hidden}, "level=WARN names=[EVENT_CALLBACK_AUTH_CUSTOM] not_set=EVENT_CALLBACK_AUTH"},
	} {
		var out bytes.Buffer
		warnWithoutEffect(tt.env.get, logs.New(&out, false, false))
		got := strings.Replace(out.String(), `msg="settings are ignored because another one is not set" `, "", 1)
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) || strings.Count(got, "\n") > 1 || strings.Contains(got, hidden) {
			t.Errorf("%v: got %q, want %q", tt.env, got, tt.want)
		}
	}
}

func TestHTTPSThatIsOffByMistakeIsAnErrorAndTheStartGoesOn(t *testing.T) {
	t.Parallel()
	for _, flags := range []string{"-check", ""} {
		ctx, stop := context.WithCancel(context.Background())
		logs := clustertest.NewLog()
		i := invocation{args: strings.Fields(flags), stdout: io.Discard, stderr: logs, dotEnv: "none",
			environ: []string{"SSL_PORT=8443", "HTTP_PORT=0", "BIND_ADDRESS=127.0.0.1", "DATA_DIR=" + t.TempDir()}}
		var running sync.WaitGroup
		running.Go(func() {
			if status := i.execute(ctx); status != 0 {
				t.Errorf("%q: status %d", flags, status)
			}
		})
		logs.Await(t, "level=ERROR", "HTTPS is off: set SSL_CERT and SSL_KEY")
		if flags == "" {
			logs.Await(t, "listening", "scheme=http")
		}
		stop()
		running.Wait()
	}
}
