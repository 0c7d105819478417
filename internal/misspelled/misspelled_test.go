package misspelled

import "testing"

func TestMoreSlipsAreAllowedInLongerNames(t *testing.T) {
	t.Parallel()
	known := []string{"CONTROL_SECRET", "HTTP_PORT", "ID_MAX_LENGTH"}
	for name, want := range map[string]string{
		"HTTP_PORT":       "", // known
		"HTTP_PRT":        "HTTP_PORT",
		"http_prot":       "HTTP_PORT",
		"RTMP_PORT":       "", // two slips in nine letters
		"PORT":            "",
		"MAX_LENGTH":      "", // three
		"ID_MX_LENGHT":    "", // two in twelve
		"ID_MAXX_LENGHT":  "ID_MAX_LENGTH",
		"CONTROL_SCRT":    "CONTROL_SECRET", // two in twelve, with a beginning that is ours
		"HTTP_PORT_FILE":  "HTTP_PORT",
		"SSL_CERT_FILE":   "",
		"CONTROL_USE_TLS": "",
	} {
		if got := Meant(name, known); got != want {
			t.Errorf("%s is taken for %q, want %q", name, got, want)
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
