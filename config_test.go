package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/credentials"
	"coordinator/internal/dotenv"
	"coordinator/internal/logs"
	"coordinator/internal/misspelled"

	"github.com/google/go-cmp/cmp"
	"github.com/joho/godotenv"
)

// hidden stands in every value that no fault and no log may show.
const hidden = "hunter2"

// long is a key that is long enough for gateways.
const long = "gateways share this key, it is long"

type settings map[string]string

func (s settings) get(name string) string { return s[name] }

func diffConfig(want, got *Config) string {
	return cmp.Diff(want, got, cmp.AllowUnexported(credentials.Credentials{}))
}

func defaultConfig() *Config {
	return &Config{
		HTTPPort:       80,
		SSLPort:        443,
		SSLCheckReload: time.Minute,
		LogRequests:    true,
		IDMaxLength:    128,
		DataDir:        "data",

		EncoderFailover: true, Placement: "least-load",
	}
}

func TestConfigAcceptedValues(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		env  settings
		want func(*Config)
	}{
		{"nothing set", settings{}, func(*Config) {}},
		{"blank counts as not set",
			settings{"HTTP_PORT": "", "BIND_ADDRESS": " ", "LOG_REQUESTS": "\t", "DATA_DIR": " ", "EVENT_CALLBACK_URL": " ", "COMMANDS_API_AUTH": " "},
			func(*Config) {}},
		{"values are trimmed",
			settings{"HTTP_PORT": " 8080\n", "DATA_DIR": " /var/lib/x y ", "CONTROL_SECRET": " s3 cret\r\n"},
			func(c *Config) { c.HTTPPort, c.DataDir, c.ControlSecret = 8080, "/var/lib/x y", "s3 cret" }},
		{"lowest numbers",
			settings{"HTTP_PORT": "0", "SSL_PORT": "0", "SSL_CERT": "c.pem", "SSL_KEY": "k.pem", "SSL_CHECK_RELOAD_SECONDS": "1", "ID_MAX_LENGTH": "1",
				"ENCODER_WAIT_SECONDS": "0", "STREAM_START_TIMEOUT": "0"},
			func(c *Config) {
				c.HTTPPort, c.SSLPort, c.SSLCert, c.SSLKey = 0, 0, "c.pem", "k.pem"
				c.SSLCheckReload, c.IDMaxLength = time.Second, 1
			}},
		{"highest numbers",
			settings{"HTTP_PORT": "65535", "SSL_PORT": "65535", "SSL_CHECK_RELOAD_SECONDS": "86400", "ID_MAX_LENGTH": "1024",
				"ENCODER_WAIT_SECONDS": "15", "STREAM_START_TIMEOUT": "3600", "PLACEMENT": "Pack"},
			func(c *Config) {
				c.HTTPPort, c.SSLPort, c.SSLCheckReload, c.IDMaxLength = 65535, 65535, 24*time.Hour, 1024
				c.EncoderWait, c.StreamStartTimeout = 15*time.Second, time.Hour
				c.Placement = "pack"
			}},
		{"YES and NO in any case", settings{"LOG_REQUESTS": "no", "LOG_DEBUG": "Yes", "ENCODER_FAILOVER": "nO", "PUBLISH_TAKEOVER": "yes"},
			func(c *Config) {
				c.LogRequests, c.LogDebug, c.EncoderFailover, c.PublishTakeover = false, true, false, true
			}},
		{"logs as text", settings{"LOG_FORMAT": "Text"}, func(*Config) {}},
		{"logs as JSON", settings{"LOG_FORMAT": "JSON"}, func(c *Config) { c.LogJSON = true }},
		{"URLs", settings{"KEY_VERIFICATION_URL": "HTTPS://u:p@[::1]:65535/a?b=c", "EVENT_CALLBACK_URL": "http://app"},
			func(c *Config) {
				c.KeyVerificationURL, c.EventCallbackURL = "HTTPS://u:p@[::1]:65535/a?b=c", "http://app"
			}},
		{"the example of RFC 7617", settings{"KEY_VERIFICATION_AUTH": "Basic", "KEY_VERIFICATION_AUTH_USER": "Aladdin", "KEY_VERIFICATION_PASSWORD": "open sesame"},
			func(c *Config) { c.KeyVerificationAuth = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==" }},
		{"a password may hold colons, under its other name too", settings{"EVENT_CALLBACK_AUTH": "BASIC", "EVENT_CALLBACK_AUTH_USER": "a", "EVENT_CALLBACK_AUTH_PASSWORD": "b:c"},
			func(c *Config) { c.EventCallbackAuth = "Basic YTpiOmM=" }},
		{"both names of the password, alike", settings{"EVENT_CALLBACK_AUTH": "basic", "EVENT_CALLBACK_AUTH_USER": "a", "EVENT_CALLBACK_PASSWORD": "b:c", "EVENT_CALLBACK_AUTH_PASSWORD": "b:c "},
			func(c *Config) { c.EventCallbackAuth = "Basic YTpiOmM=" }},
		{"Bearer and Custom",
			settings{"KEY_VERIFICATION_AUTH": "bearer", "KEY_VERIFICATION_AUTH_TOKEN": "t", "EVENT_CALLBACK_AUTH": "CUSTOM", "EVENT_CALLBACK_AUTH_CUSTOM": "ApiKey k=1"},
			func(c *Config) { c.KeyVerificationAuth, c.EventCallbackAuth = "Bearer t", "ApiKey k=1" }},
		{"commands API with Basic", settings{"COMMANDS_API_AUTH": "bAsIc", "COMMANDS_API_AUTH_USER": "u", "COMMANDS_API_AUTH_PASSWORD": "p", "COMMANDS_API_AUTH_TOKEN": "unused"},
			func(c *Config) { c.CommandsAuth = credentials.Basic("u", "p") }},
		{"commands API with Bearer", settings{"COMMANDS_API_AUTH": "bearer", "COMMANDS_API_AUTH_TOKEN": "t"},
			func(c *Config) { c.CommandsAuth = credentials.Bearer("t") }},
		{"files of others", settings{"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", "HTTP_PORT_FILE": "x"}, func(*Config) {}},
		{"files of others beside ours", settings{"SSL_CERT": "c", "SSL_KEY": "k", "SSL_KEY_FILE": "of another program", "SSL_CERT_FILE": "a"},
			func(c *Config) { c.SSLCert, c.SSLKey = "c", "k" }},
		{"a coordinator's key for gateways", settings{"GATEWAY_SECRET": long}, func(c *Config) { c.GatewaySecret = long }},
		{"a gateway, whatever is wrong with what it does not use",
			settings{"GATEWAY_SECRET": long, "COORDINATOR_URL": "http://a:8080/ , HTTPS://[::1]/base/,http://b", "ENCODER_WAIT_SECONDS": "x",
				"COMMANDS_API_AUTH": "Bearer", "KEY_VERIFICATION_URL_FILE": "/nowhere", "EVENT_CALLBACK_URL": "x"},
			func(c *Config) {
				c.GatewaySecret = long
				c.CoordinatorURLs = []*url.URL{{Scheme: "http", Host: "a:8080"}, {Scheme: "https", Host: "[::1]", Path: "/base"}, {Scheme: "http", Host: "b"}}
				c.EncoderWait, c.CommandsAuth, c.EventCallbackURL = 0, credentials.Bearer(""), "x"
			}},
		{"the same port without TLS", settings{"HTTP_PORT": "443"}, func(c *Config) { c.HTTPPort = 443 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			want := defaultConfig()
			tt.want(want)
			got, err := loadConfig(tt.env.get)
			if err != nil {
				t.Fatal(err)
			}
			if diff := diffConfig(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestConfigBindAddress(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"127.0.0.1":        "127.0.0.1",
		"::":               "::",
		"[::1]":            "::1",
		"fe80::1%eth0":     "fe80::1%eth0",
		"localhost":        "localhost",
		"node-1.my_net.io": "node-1.my_net.io",
	} {
		cfg, err := loadConfig(settings{"BIND_ADDRESS": value}.get)
		if err != nil {
			t.Errorf("%q: %v", value, err)
		} else if cfg.BindAddress != want {
			t.Errorf("%q is stored as %q, want %q", value, cfg.BindAddress, want)
		}
	}
	for _, value := range []string{
		"*", "[::1", "::1]", "[127.0.0.1]", "[localhost]", "[]", "256.0.0.1", "1.2.3", "80", ":80", "localhost:80",
		"127.0.0.1:80", "http://localhost", "a b", "a..b", "-a", "a-", "ä", "a\nb", "a\x00b", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a",
	} {
		wantFaults(t, settings{"BIND_ADDRESS": value}, "BIND_ADDRESS")
	}
}

// wantFaults checks that loading fails with one line for each of the names, in this order,
// and that no line shows a hidden value.
func wantFaults(t *testing.T, env settings, names ...string) {
	t.Helper()
	cfg, err := loadConfig(env.get)
	if err == nil {
		t.Errorf("%q is accepted", env)
		return
	}
	if cfg != nil {
		t.Errorf("%q gives a configuration beside its faults", env)
	}
	var got []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		name, _, _ := strings.Cut(line, ": ")
		got = append(got, name)
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Errorf("%q: %v\n%s", env, err, diff)
	}
	if strings.Contains(err.Error(), hidden) {
		t.Errorf("a fault shows a secret: %v", err)
	}
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"HTTP_PORT":                {"-1", "65536", "http", "8080.5", "0x50", "99999999999999999999", "80 81", "8\x000"},
		"SSL_PORT":                 {"-1", "65536", "x"},
		"SSL_CHECK_RELOAD_SECONDS": {"0", "-1", "86401", "1m", "9223372036854775808"},
		"ID_MAX_LENGTH":            {"0", "-1", "1025", "many"},
		"LOG_REQUESTS":             {"true", "1", "Y"},
		"LOG_DEBUG":                {"false", "YES NO"},
		"LOG_FORMAT":               {"xml", "YES", "text json"},
		"ENCODER_WAIT_SECONDS":     {"-1", "16", "1s"},
		"ENCODER_FAILOVER":         {"true", "ALWAYS"},
		"STREAM_START_TIMEOUT":     {"-1", "3601", "off"},
		"PLACEMENT":                {"spread", "least load"},
		"PUBLISH_TAKEOVER":         {"true", "ON"},
		"DATA_DIR":                 {"a\x00b"},
		"KEY_VERIFICATION_URL": {
			hidden, "/" + hidden, "//" + hidden, "http:" + hidden, "http://", "http:///" + hidden, "http://u:" + hidden + "@", "http://:80/?" + hidden,
			"ftp://u:" + hidden + "@app", "app:80/" + hidden, "http://app:port/" + hidden, "http://app:65536/" + hidden, "http://app:0/" + hidden,
			"http://app/%zz" + hidden, "http://app/\n" + hidden, "http://a b/" + hidden, "http://[::1/" + hidden,
		},
		"GATEWAY_SECRET":        {hidden, "thirty-one bytes are not enough"},
		"EVENT_CALLBACK_URL":    {hidden, "ws://app/" + hidden},
		"KEY_VERIFICATION_AUTH": {"Digest", "Bearer " + hidden, "YES"},
		"EVENT_CALLBACK_AUTH":   {"Digest"},
		"COMMANDS_API_AUTH":     {"Custom", "Bearer " + hidden},
	} {
		for _, value := range values {
			wantFaults(t, settings{name: value}, name)
		}
	}
}

func TestConfigFaultsOfTLSVariables(t *testing.T) {
	t.Parallel()
	wantFaults(t, settings{"SSL_CERT": "c", "SSL_KEY": "k", "HTTP_PORT": "x", "SSL_PORT": "y"}, "HTTP_PORT", "SSL_PORT") // and none that they are equal
	wantFaults(t, settings{"SSL_CERT": "c"}, "SSL_KEY")
	wantFaults(t, settings{"SSL_KEY": "k"}, "SSL_CERT")
	wantFaults(t, settings{"SSL_CERT": "c", "SSL_KEY": "k", "HTTP_PORT": "443"}, "SSL_PORT")
	wantFaults(t, settings{"SSL_CERT": "c", "SSL_KEY": "-----BEGIN\n" + hidden}, "SSL_KEY")
	wantFaults(t, settings{"SSL_KEY_FILE": hidden}, "SSL_KEY_FILE")
	wantFaults(t, settings{"SSL_KEY_FILE": hidden, "SSL_CERT_FILE": "c"}, "SSL_KEY_FILE")
	wantFaults(t, settings{"SSL_KEY_FILE": hidden, "SSL_CERT": "c"}, "SSL_KEY")
	wantFaults(t, settings{"SSL_KEY": "k", "SSL_CERT_FILE": "c"}, "SSL_CERT")
}

func TestConfigFaultsOfGateways(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		"coordinator", "ws://a", "http://", "http://a,", ",", "http://a,,http://b", "http://u:" + hidden + "@a", "http://a?" + hidden, "http://a?", "http://a#" + hidden,
		"http://a/b/../c", "http://a//b", "http://a/%2e%2e", "http://a/b%2Fc", "http://a:0", "http://a,ftp://b", "http://a,http://a/",
	} {
		wantFaults(t, settings{"COORDINATOR_URL": value, "GATEWAY_SECRET": long}, "COORDINATOR_URL")
	}
	wantFaults(t, settings{"COORDINATOR_URL": "http://a"}, "GATEWAY_SECRET")
	wantFaults(t, settings{"COORDINATOR_URL": "http://a", "GATEWAY_SECRET": hidden}, "GATEWAY_SECRET")
	wantFaults(t, settings{"COORDINATOR_URL": "http://a", "GATEWAY_SECRET_FILE": "/nowhere"}, "GATEWAY_SECRET_FILE")
	wantFaults(t, settings{"COORDINATOR_URL": "http://a", "GATEWAY_SECRET": long, "HTTP_PORT": "x", "CONTROL_SECRET_FILE": "/nowhere", "ID_MAX_LENGTH": "x", "SSL_KEY_FILE": "x"},
		"HTTP_PORT", "CONTROL_SECRET_FILE", "SSL_KEY_FILE")
}

func TestConfigFaultsOfAuthorization(t *testing.T) {
	t.Parallel()
	for _, purpose := range []struct{ auth, password string }{
		{"KEY_VERIFICATION_AUTH", "KEY_VERIFICATION_PASSWORD"},
		{"EVENT_CALLBACK_AUTH", "EVENT_CALLBACK_PASSWORD"},
		{"COMMANDS_API_AUTH", "COMMANDS_API_AUTH_PASSWORD"},
	} {
		auth, user, token, password := purpose.auth, purpose.auth+"_USER", purpose.auth+"_TOKEN", purpose.password
		wantFaults(t, settings{auth: "Basic"}, user, password)
		wantFaults(t, settings{auth: "Basic", user: "u"}, password)
		wantFaults(t, settings{auth: "Basic", password: hidden}, user)
		wantFaults(t, settings{auth: "Basic", user: "u:v", password: hidden}, user)
		wantFaults(t, settings{auth: "Basic", user: "u\x00v", password: hidden}, user)
		wantFaults(t, settings{auth: "Basic", user: "u", password: hidden + "\n" + hidden}, password)
		wantFaults(t, settings{auth: "Bearer"}, token)
		wantFaults(t, settings{auth: "Bearer", token: hidden + "\r\nX: y"}, token)
	}
	for _, auth := range []string{"KEY_VERIFICATION_AUTH", "EVENT_CALLBACK_AUTH"} {
		wantFaults(t, settings{auth: "Custom"}, auth+"_CUSTOM")
		wantFaults(t, settings{auth: "Custom", auth + "_CUSTOM": hidden + "\x7f" + hidden}, auth+"_CUSTOM")
	}
	wantFaults(t, settings{"KEY_VERIFICATION_PASSWORD": hidden, "KEY_VERIFICATION_AUTH_PASSWORD": hidden + "x"}, "KEY_VERIFICATION_PASSWORD")
	wantFaults(t, settings{"EVENT_CALLBACK_PASSWORD": hidden, "EVENT_CALLBACK_AUTH_PASSWORD": hidden + "x"}, "EVENT_CALLBACK_PASSWORD")
}

func TestConfigReportsAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	wantFaults(t, settings{
		"HTTP_PORT":                      "x",
		"BIND_ADDRESS":                   "*",
		"SSL_PORT":                       "x",
		"SSL_CERT":                       "c",
		"SSL_CHECK_RELOAD_SECONDS":       "0",
		"CONTROL_SECRET":                 hidden,
		"LOG_REQUESTS":                   "x",
		"LOG_DEBUG":                      "x",
		"ID_MAX_LENGTH":                  "0",
		"DATA_DIR":                       "\x00",
		"KEY_VERIFICATION_URL":           hidden,
		"KEY_VERIFICATION_AUTH":          "Basic",
		"KEY_VERIFICATION_PASSWORD":      hidden,
		"KEY_VERIFICATION_AUTH_PASSWORD": "other",
		"EVENT_CALLBACK_URL":             hidden,
		"EVENT_CALLBACK_AUTH":            "Custom",
		"COMMANDS_API_AUTH":              "Bearer",
	},
		"HTTP_PORT", "BIND_ADDRESS", "SSL_PORT", "SSL_CHECK_RELOAD_SECONDS", "LOG_REQUESTS", "LOG_DEBUG", "ID_MAX_LENGTH", "DATA_DIR",
		"KEY_VERIFICATION_URL", "KEY_VERIFICATION_PASSWORD", "KEY_VERIFICATION_AUTH_USER",
		"EVENT_CALLBACK_URL", "EVENT_CALLBACK_AUTH_CUSTOM", "COMMANDS_API_AUTH_TOKEN", "SSL_KEY")
}

func TestEnvExampleListsEveryVariableWithItsDefault(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(".env.example")
	if err != nil {
		t.Fatal(err)
	}
	if active, err := godotenv.UnmarshalBytes(text); err != nil || len(active) > 0 {
		t.Errorf("as it stands the file sets %v, error %v; want nothing", active, err)
	}
	var assignments strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "# ") {
			assignments.WriteString(strings.TrimPrefix(line, "#"))
		}
	}
	example, err := godotenv.Unmarshal(assignments.String())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(configNames(), slices.Sorted(maps.Keys(example))); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{
		"HTTP_PORT": "80", "SSL_PORT": "443", "SSL_CHECK_RELOAD_SECONDS": "60", "LOG_REQUESTS": "YES", "LOG_DEBUG": "NO", "ID_MAX_LENGTH": "128", "DATA_DIR": "data",
		"LOG_FORMAT": "text", "ENCODER_WAIT_SECONDS": "0", "ENCODER_FAILOVER": "YES", "STREAM_START_TIMEOUT": "0", "PLACEMENT": "least-load",
		"PUBLISH_TAKEOVER": "NO",
	} {
		if example[name] != want {
			t.Errorf("%s=%s, want the default %s", name, example[name], want)
		}
	}
	cfg, err := loadConfig(settings(example).get)
	if err != nil {
		t.Fatal(err)
	}
	if diff := diffConfig(defaultConfig(), cfg); diff != "" {
		t.Error(diff)
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	t.Parallel()
	secret := Secret(hidden)
	cfg := defaultConfig()
	cfg.ControlSecret = secret
	cfg.KeyVerificationURL, cfg.KeyVerificationAuth = secret, secret
	cfg.EventCallbackURL, cfg.EventCallbackAuth = secret, secret
	cfg.CommandsAuth = credentials.Basic("u", secret)

	shown := map[string]string{}
	for name, value := range map[string]any{
		"alone": secret, "pointer": &secret, "list": []Secret{secret}, "map": map[string]Secret{"a": secret},
		"credentials": cfg.CommandsAuth, "Config": *cfg, "*Config": cfg,
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%10.3s"} {
			shown[name+" "+verb] = fmt.Sprintf(verb, value)
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		shown[name+" JSON"] = string(encoded)
		var text, object bytes.Buffer
		for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&text, nil)), slog.New(slog.NewJSONHandler(&object, nil))} {
			log.Info("shown", "value", value, slog.Group("group", "value", value))
		}
		shown[name+" slog text"], shown[name+" slog JSON"] = text.String(), object.String()
	}
	for how, text := range shown {
		lower := strings.ToLower(text)
		if strings.Contains(lower, hidden) || strings.Contains(lower, fmt.Sprintf("%x", hidden)) {
			t.Errorf("%s shows the secret: %s", how, text)
		}
		if !strings.HasPrefix(how, "credentials") && !strings.Contains(text, "***") {
			t.Errorf("%s does not say that there is a secret: %s", how, text)
		}
	}
}

func TestCheckShowsEverySetting(t *testing.T) {
	t.Parallel()
	var out, diagnostics bytes.Buffer
	i := invocation{args: []string{"-check"}, dotEnv: filepath.Join(t.TempDir(), ".env"), stdout: &out, stderr: &diagnostics}
	if status := i.execute(t.Context()); status != 0 {
		t.Fatalf("%d %q", status, &diagnostics)
	}
	settings := slices.DeleteFunc(strings.Split(strings.TrimSpace(out.String()), "\n"), func(line string) bool { return strings.HasPrefix(line, "#") })
	if fields := reflect.TypeFor[Config]().NumField(); len(settings) != fields {
		t.Errorf("%d settings are shown; the configuration has %d fields", len(settings), fields)
	}
}

func writeDotEnv(t *testing.T, path, contents string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(contents), 0o600); err != nil {
		t.Fatal(err)
	}
}

// readDotEnvWith reads a .env file of that content beside an environment.
func readDotEnvWith(t *testing.T, content string, environ settings) func(string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), ".env")
	writeDotEnv(t, path, content)
	getenv, _, err := dotenv.Fill(path, func(name string) (string, bool) {
		value, ok := environ[name]
		return value, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	return getenv
}

func TestDotEnvNameThatIsSetNowhereIsAFault(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"$HUNTER2", `"pa$HUNTER2"`, "pa$5ecret", "$Hunter2", "$HOST$HUNTER2", "$INDIRECT", "${HOST:-hunter2}"} {
		content := "CONTROL_SECRET=" + value + "\nINDIRECT=x$HUNTER2\nHOST=h\n"
		_, err := loadConfig(readDotEnvWith(t, content, nil))
		if err == nil {
			t.Errorf("%s is accepted", value)
			continue
		}
		text := err.Error()
		if !strings.HasPrefix(text, "CONTROL_SECRET: ") || strings.Contains(text, "\n") {
			t.Errorf("%s: want one fault of CONTROL_SECRET, got %s", value, text)
		}
		for _, hint := range []string{"'single quotes'", `\$`} {
			if !strings.Contains(text, hint) {
				t.Errorf("%s: the fault has no hint %s: %s", value, hint, text)
			}
		}
		if strings.Contains(strings.ToLower(text), "hunter2") || strings.Contains(text, "5") {
			t.Errorf("the fault shows the value: %s", text)
		}
	}
}

// Each variable that the coordinator reads, and only where the environment does not set it.
func TestDotEnvNameThatIsSetNowhereIsAFaultOfWhatIsReadAndNotOverridden(t *testing.T) {
	t.Parallel()
	for _, name := range configNames() {
		_, err := loadConfig(readDotEnvWith(t, name+"=$HUNTER2\n", nil))
		if err == nil || strings.Count(err.Error(), name+": ") != 1 || !strings.Contains(err.Error(), name+": has a $") {
			t.Errorf("%s: want one fault of it, got %v", name, err)
		}
		if _, err := loadConfig(readDotEnvWith(t, name+"=$HUNTER2\n", settings{name: ""})); err != nil {
			t.Errorf("%s is set in the environment: %v", name, err)
		}
	}
	if _, err := loadConfig(readDotEnvWith(t, "OF_A_PEER=$HUNTER2\nSSL_CERT_FILE=$HUNTER2\n", nil)); err != nil {
		t.Errorf("a variable of others: %v", err)
	}
}

func TestDotEnvFaultStandsBesideTheOthersAndBringsNoMore(t *testing.T) {
	t.Parallel()
	getenv := readDotEnvWith(t, "HTTP_PORT=$HUNTER2\nSSL_CERT=$HUNTER2\nSSL_KEY=k\nCOMMANDS_API_AUTH=Bearer\nCOMMANDS_API_AUTH_TOKEN_FILE=$HUNTER2\n"+
		"EVENT_CALLBACK_AUTH=Basic\nEVENT_CALLBACK_AUTH_USER=$HUNTER2\nEVENT_CALLBACK_AUTH_PASSWORD=$HUNTER2\n", settings{"LOG_DEBUG": "maybe"})
	_, err := loadConfig(getenv)
	if err == nil {
		t.Fatal("it is accepted")
	}
	var got []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		name, _, _ := strings.Cut(line, ": ")
		got = append(got, name)
	}
	want := []string{"HTTP_PORT", "SSL_CERT", "LOG_DEBUG", "EVENT_CALLBACK_AUTH_USER", "EVENT_CALLBACK_AUTH_PASSWORD", "COMMANDS_API_AUTH_TOKEN_FILE"}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestCheckReportsANameThatIsSetNowhere(t *testing.T) {
	t.Parallel()
	dotEnv := filepath.Join(t.TempDir(), ".env")
	writeDotEnv(t, dotEnv, "CONTROL_SECRET=$UPER5ECRET\n")
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience) // should it run after all
	defer cancel()
	for _, args := range [][]string{{"-check"}, nil} {
		var out, diagnostics strings.Builder
		i := invocation{args: args, environ: []string{"HTTP_PORT=0", "DATA_DIR=" + t.TempDir()}, dotEnv: dotEnv, stdout: &out, stderr: &diagnostics}
		if status := i.execute(ctx); status != 1 || out.String() != "" || strings.Count(diagnostics.String(), "CONTROL_SECRET: ") != 1 ||
			strings.Contains(diagnostics.String(), "UPER") {
			t.Errorf("%q: %d %q %q", args, status, &out, &diagnostics)
		}
	}
}

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
		if got := misspelled.Meant(name, known); got != want {
			t.Errorf("%s is taken for %q, want %q", name, got, want)
		}
	}
	for _, name := range known {
		if got := misspelled.Meant(name, known); got != "" {
			t.Errorf("%s is our own, and is taken for %q", name, got)
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
		{settings{"EVENT_CALLBACK_EXTRA": "YES"}, "level=WARN names=[EVENT_CALLBACK_EXTRA] not_set=EVENT_CALLBACK_URL"},
		{settings{"EVENT_CALLBACK_AUTH": "Bearer", "EVENT_CALLBACK_AUTH_TOKEN": hidden}, "level=WARN names=[EVENT_CALLBACK_AUTH] not_set=EVENT_CALLBACK_URL"},
		{settings{"EVENT_CALLBACK_URL_FILE": hidden, "EVENT_CALLBACK_EXTRA": "YES"}, ""},
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

// secretVariables are those that can come from a file, with what else must be set for them to count.
func secretVariables() map[string]settings {
	all := map[string]settings{"CONTROL_SECRET": {}, "GATEWAY_SECRET": {}, "KEY_VERIFICATION_URL": {}, "EVENT_CALLBACK_URL": {}, "DATABASE_URL": {}}
	for _, prefix := range []string{"KEY_VERIFICATION_", "EVENT_CALLBACK_", "COMMANDS_API_"} {
		auth := prefix + "AUTH"
		all[auth+"_PASSWORD"] = settings{auth: "Basic", auth + "_USER": "u"}
		all[auth+"_TOKEN"] = settings{auth: "Bearer"}
		if prefix != "COMMANDS_API_" {
			all[prefix+"PASSWORD"] = settings{auth: "Basic", auth + "_USER": "u"}
			all[auth+"_CUSTOM"] = settings{auth: "Custom"}
		}
	}
	return all
}

func (s settings) with(name, value string) settings {
	more := maps.Clone(s)
	more[name] = value
	return more
}

func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), hidden)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEverySecretCanComeFromAFile(t *testing.T) {
	t.Parallel()
	for name, rest := range secretVariables() {
		value := "http://u:p@app/secrets-of-32-bytes"
		if name == "DATABASE_URL" {
			value = "postgres://u:p@db/name"
		}
		want, err := loadConfig(rest.with(name, value).get)
		if err != nil {
			t.Fatal(err)
		}
		got, err := loadConfig(rest.with(name+"_FILE", secretFile(t, value+" \r\n")).get)
		if err != nil {
			t.Fatal(err)
		}
		if diff := diffConfig(want, got); diff != "" {
			t.Errorf("%s from a file: %s", name, diff)
		}
		if diffConfig(defaultConfig(), got) == "" {
			t.Errorf("%s from a file changes nothing", name)
		}
	}
}

func TestNoOtherVariableComesFromAFile(t *testing.T) {
	t.Parallel()
	var want []string
	for name := range secretVariables() {
		want = append(want, name+"_FILE")
	}
	got := slices.DeleteFunc(configNames(), func(name string) bool { return !strings.HasSuffix(name, "_FILE") })
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSecretFileThatCannotBeUsedIsAFaultOfItsVariableAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), hidden)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"missing":   filepath.Join(dir, "none"),
		"directory": dir,
		"pasted":    "-----BEGIN\n" + hidden + "\x00",
		"empty":     secretFile(t, ""),
		"blank":     secretFile(t, " \n\t\n"),
		"too large": secretFile(t, strings.Repeat(hidden, 64<<10/len(hidden)+1)),
	}
	for name, rest := range secretVariables() {
		for _, file := range files {
			wantFaults(t, rest.with(name+"_FILE", file), name+"_FILE")
		}
		wantFaults(t, rest.with(name, hidden).with(name+"_FILE", files["missing"]), name+"_FILE")
	}
}

func TestFaultInASecretFromAFileNamesTheVariable(t *testing.T) {
	t.Parallel()
	wantFaults(t, settings{"KEY_VERIFICATION_URL_FILE": secretFile(t, "ftp://"+hidden)}, "KEY_VERIFICATION_URL")
}
