package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"coordinator/internal/outbox"
)

// callsCommand asks a term's routes, with a header if its name is not "".
func callsCommand(routes http.Handler, method, path, header, value string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	if header != "" {
		r.Header.Set(header, value)
	}
	w := httptest.NewRecorder()
	routes.ServeHTTP(w, r)
	return w
}

func TestCommandsAboutEventsThatCannotBeReadAreAskedAgain(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	d, err := newDaemon(&Config{DataDir: t.TempDir(), EventCallbackURL: "http://127.0.0.1:1", IDMaxLength: 128}, log)
	if err != nil {
		t.Fatal(err)
	}
	if w := callsCommand(d.routes, "GET", "/commands/events", "", ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"events":[],"after":""}` {
		t.Errorf("of an empty outbox: %d %s", w.Code, w.Body)
	}
	if err := d.stop(0); err != nil { // the file is closed
		t.Error(err)
	}
	for path, header := range map[string]string{
		"/commands/events": "", "/commands/events?channel=c": "", "/commands/events/retry": "x-streaming-channel", "/commands/events/discard": "x-event-id",
	} {
		method := "POST"
		if header == "" {
			method = "GET"
		}
		w := callsCommand(d.routes, method, path, header, "s-1")
		if w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), errEventsUnread.Error()) {
			t.Errorf("%s: %d %v %s", path, w.Code, w.Header(), w.Body)
		}
	}
}

func TestWithoutAnApplicationNoEventIsUndelivered(t *testing.T) {
	t.Parallel()
	d, err := newDaemon(&Config{DataDir: "/nonexistent", IDMaxLength: 128}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if w := callsCommand(d.routes, "GET", "/commands/events?channel=c", "", ""); w.Code != 200 {
		t.Errorf("list: %d %s", w.Code, w.Body)
	}
	if w := callsCommand(d.routes, "POST", "/commands/events/retry", "x-streaming-channel", "*"); w.Code != 200 {
		t.Errorf("retry: %d %s", w.Code, w.Body)
	}
	if w := callsCommand(d.routes, "POST", "/commands/events/discard", "x-event-id", "s-1"); w.Code != 404 || !strings.Contains(w.Body.String(), outbox.ErrUnknownEvent.Error()) {
		t.Errorf("discard: %d %s", w.Code, w.Body)
	}
	if err := d.stop(0); err != nil {
		t.Error(err)
	}
}
