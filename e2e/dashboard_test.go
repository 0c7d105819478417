package e2e

// The dashboard's files over HTTP: their headers, who may load them, and that no foreign page can act through them.

import (
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func dashboardFileNames(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("../dashboard/*")
	if err != nil || len(names) < 3 {
		t.Fatal(names, err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, ".go") }) // what serves them
	for i, name := range names {
		names[i] = "/dashboard/" + filepath.Base(name)
	}
	return names
}

func TestDashboardFilesAreServedUnderAStrictPolicy(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	for _, path := range append(dashboardFileNames(t), "/dashboard") {
		res, body := d.Request("GET", path)
		h := res.Header
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options":  "nosniff",
			"Referrer-Policy":         "no-referrer",
			"Cache-Control":           "no-cache",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		wantType := map[string]string{"html": "text/html", "css": "text/css", "js": "text/javascript", "/dashboard": "text/html"}[path[strings.LastIndex(path, ".")+1:]]
		if res.StatusCode != 200 || body == "" || !strings.HasPrefix(h.Get("Content-Type"), wantType+";") || h.Values("Set-Cookie") != nil {
			t.Errorf("%s: %d %v", path, res.StatusCode, h)
		}
		again, body := d.Request("GET", path, "If-None-Match", h.Get("ETag"))
		if again.StatusCode != http.StatusNotModified || body != "" {
			t.Errorf("%s with its ETag: %d, %d bytes", path, again.StatusCode, len(body))
		}
		changed, _ := d.Request("GET", path, "If-None-Match", `"of another version"`)
		if changed.StatusCode != 200 {
			t.Errorf("%s with another ETag: %d", path, changed.StatusCode)
		}
	}
	for _, path := range []string{"/dashboard/none.js", "/dashboard/..", "/dashboard/%2e%2e%2fmain.go", "/dashboard/a/b"} {
		if status, _ := d.Call("GET", path); status == 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if res, _ := d.Request("POST", "/dashboard"); res.StatusCode != 405 || res.Header.Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("POST: %d %v", res.StatusCode, res.Header)
	}
}

func TestDashboardNamesNothingButItsOwnFiles(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	known := map[string]bool{}
	for _, path := range dashboardFileNames(t) {
		known[strings.TrimPrefix(path, "/dashboard/")] = true
	}
	reference := regexp.MustCompile(`(?:src|href)="dashboard/([^"]+)"|from '\./([^']+)'`)
	foreign := regexp.MustCompile(`(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}`)
	for name := range known {
		status, text := d.Call("GET", "/dashboard/"+name)
		if status != 200 {
			t.Fatalf("%s: %d", name, status)
		}
		for _, m := range reference.FindAllStringSubmatch(text, -1) {
			if !known[m[1]+m[2]] {
				t.Errorf("%s refers to %s, which is not there", name, m[1]+m[2])
			}
		}
		for _, host := range foreign.FindAllString(text, -1) {
			if host != "http://www.w3.org" {
				t.Errorf("%s names the host %s", name, host)
			}
		}
		if strings.Contains(text, "innerHTML") || strings.Contains(text, "document.cookie") {
			t.Errorf("%s uses innerHTML or cookies", name)
		}
	}
}

func TestDashboardIsOpenedByTheBrowsersDialogueOnlyForBasic(t *testing.T) {
	t.Parallel()
	basic := startDaemon(t, "COMMANDS_API_AUTH=Basic", "COMMANDS_API_AUTH_USER=op", "COMMANDS_API_AUTH_PASSWORD=pw")
	for _, path := range append(dashboardFileNames(t), "/dashboard", "/commands/overview") {
		res, _ := basic.Request("GET", path)
		if res.StatusCode != 401 || !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "Basic realm=") {
			t.Errorf("Basic, %s: %d %v", path, res.StatusCode, res.Header)
		}
		res, _ = basic.Request("GET", path, "Authorization", "Basic b3A6cHc=")
		if res.StatusCode != 200 || res.Header.Values("Set-Cookie") != nil {
			t.Errorf("Basic with credentials, %s: %d", path, res.StatusCode)
		}
	}
	bearer := startDaemon(t, "COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN=t0ken")
	for _, path := range append(dashboardFileNames(t), "/dashboard") {
		if status, body := bearer.Call("GET", path); status != 200 || strings.Contains(body, "t0ken") {
			t.Errorf("Bearer, %s: %d", path, status)
		}
	}
	if status, _ := bearer.Call("GET", "/commands/overview"); status != 401 {
		t.Errorf("Bearer, data: %d", status)
	}
}

// A browser adds Basic credentials to what a foreign page sends. What such a page can send without being asked for
// leave (a form, no-cors) carries none of the commands' headers, and leave is never given.
func TestForeignPagesCanNotGiveOrders(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "COMMANDS_API_AUTH=Basic", "COMMANDS_API_AUTH_USER=op", "COMMANDS_API_AUTH_PASSWORD=pw")
	const credentials = "Basic b3A6cHc="
	for _, path := range []string{"/commands/close", "/commands/drain", "/commands/undrain", "/commands/events/retry", "/commands/events/discard"} {
		query := "?x-event-id=s-1&x-streaming-channel=chan&x-streaming-id=*&x-session-id=1"
		for _, kind := range []string{"application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"} {
			status, _ := d.Call("POST", path+query, "Authorization", credentials, "Origin", "https://foreign.example", "Content-Type", kind)
			if status != 400 {
				t.Errorf("POST %s as %s: %d", path, kind, status)
			}
		}
		for _, more := range [][]string{{}, {"Authorization", credentials}} {
			res, _ := d.Request("OPTIONS", path, append(more, "Origin", "https://foreign.example",
				"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-streaming-channel,x-streaming-id,x-session-id")...)
			if res.StatusCode != 204 { // says which methods there are, and gives no leave
				t.Errorf("OPTIONS %s: %d", path, res.StatusCode)
			}
			for name := range res.Header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("OPTIONS %s gives leave: %s", path, name)
				}
			}
		}
	}
}
