package probes

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestReasonsAreSaidToWhomTheyMayBe(t *testing.T) {
	t.Parallel()
	var reasons []string
	ask := func(h http.HandlerFunc, url string) string {
		answer := httptest.NewRecorder()
		h(answer, httptest.NewRequest("GET", url, nil))
		return answer.Result().Status[:4] + answer.Body.String()
	}
	all := Ready(func() []string { return reasons })
	protected := ReadyProtected(func() []string { return reasons }, func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !r.URL.Query().Has("known") {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next(w, r)
		}
	})
	for _, test := range []struct {
		handler http.HandlerFunc
		url     string
		ready   string
		not     string
	}{
		{Live, "/livez", "200 ok\n", "200 ok\n"},
		{all, "/readyz", "200 ready\n", "503 not ready\none\ntwo\n"},
		{protected, "/readyz", "200 ready\n", "503 not ready\n"},
		{protected, "/readyz?verbose", "401 ", "401 "},
		{protected, "/readyz?verbose&known", "200 ready\n", "503 not ready\none\ntwo\n"},
	} {
		reasons = nil
		if got := ask(test.handler, test.url); got != test.ready {
			t.Errorf("%s: %q, want %q", test.url, got, test.ready)
		}
		reasons = []string{"one", "two"}
		if got := ask(test.handler, test.url); got != test.not {
			t.Errorf("%s, not ready: %q, want %q", test.url, got, test.not)
		}
	}
}
