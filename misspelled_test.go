package main

import (
	"strings"
	"testing"
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
