package credentials

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"coordinator/internal/clustertest"
)

// FuzzAuthorizationHeader: whatever the header is, only the credentials themselves open the door.
func FuzzAuthorizationHeader(f *testing.F) {
	for _, seed := range []string{"", "Basic", "Basic ", clustertest.Basic("user:secret"), clustertest.Basic("user:secret\x00"), "bearer secret", "Bearer  secret", "Bearer secret ", "Bearer\tsecret", "Basic =", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		scheme, rest, _ := strings.Cut(value, " ")
		pair, err := base64.StdEncoding.DecodeString(rest)
		for _, test := range []struct {
			credentials Credentials
			challenge   string
			want        bool
		}{
			{Credentials{}, "", true},
			{Basic("user", "secret"), `Basic realm="here", charset="UTF-8"`, strings.EqualFold(scheme, "basic") && err == nil && string(pair) == "user:secret"},
			{Bearer("secret"), `Bearer realm="here"`, strings.EqualFold(scheme, "bearer") && strings.TrimLeft(rest, " ") == "secret"},
		} {
			through, answer := false, httptest.NewRecorder()
			handler := test.credentials.Require("here", func(http.ResponseWriter, *http.Request) { through = true })
			handler(answer, &http.Request{Header: http.Header{"Authorization": {value}}})
			if through != test.want {
				t.Errorf("%v with %q: %v, want %v", test.credentials, value, through, test.want)
			}
			if got := answer.Header().Get("WWW-Authenticate"); !through && (got != test.challenge || answer.Code != http.StatusUnauthorized) {
				t.Errorf("%v with %q: status %d, challenge %q", test.credentials, value, answer.Code, got)
			}
		}
	})
}

func TestSecretsAreTheSameAsAWholeOnly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		given, wanted string
		same          int
	}{{"", "", 1}, {"a", "a", 1}, {"a", "b", 0}, {"a", "", 0}, {"aa", "a", 0}, {"a", "aa", 0}, {strings.Repeat("a", 1<<16), "a", 0}} {
		if got := sameSecret(test.given, test.wanted); got != test.same {
			t.Errorf("%.5q and %.5q: %d", test.given, test.wanted, got)
		}
	}
}
