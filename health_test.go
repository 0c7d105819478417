package main

import (
	"io"
	"log/slog"
	"net/http/httptest"
	"testing"
)

func TestProbesAreOpenAndSayNoMoreThanTheyMust(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN=t0ken")
	for _, tt := range []struct {
		path   string
		header []string
		status int
		body   string
	}{
		{"/livez", nil, 200, "ok\n"},
		{"/livez?verbose", nil, 200, "ok\n"},
		{"/readyz", nil, 200, "ready\n"},
		{"/readyz?verbose", []string{"Authorization", "Bearer t0ken"}, 200, "ready\n"},
		{"/readyz?verbose", nil, 401, `{"error":"authorization required"}` + "\n"},
		{"/readyz?verbose", []string{"Authorization", "Bearer other"}, 401, `{"error":"authorization required"}` + "\n"},
	} {
		res, body := d.Request("GET", tt.path, tt.header...)
		if res.StatusCode != tt.status || body != tt.body || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %v: %d %q %v", tt.path, tt.header, res.StatusCode, body, res.Header)
		}
		if kind := res.Header.Get("Content-Type"); tt.status == 200 && kind != "text/plain; charset=utf-8" {
			t.Errorf("%s: Content-Type is %q", tt.path, kind)
		}
	}
	if status, _ := d.Call("POST", "/livez"); status != 405 {
		t.Errorf("POST /livez: %d", status)
	}
}

func TestStoppingCoordinatorIsAliveAndNotReady(t *testing.T) {
	t.Parallel()
	cfg, err := loadConfig(settings{}.get)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	d, err := newDaemon(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	routes := newRoutes(cfg, log, &commands{d.coordinator}, d.control)
	d.coordinator.stop()
	for path, want := range map[string]string{
		"/livez":          "200 ok\n",
		"/readyz":         "503 not ready\n",
		"/readyz?verbose": "503 not ready\ncoordinator is stopping\n",
	} {
		reply := httptest.NewRecorder()
		routes.ServeHTTP(reply, httptest.NewRequest("GET", path, nil))
		if got := reply.Result().Status[:4] + reply.Body.String(); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
