package main

// Holds api/openapi.yaml against the code, where that says more than the running daemon can be asked for.

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"coordinator/internal/apidoc"
	"coordinator/internal/clustertest"
	"coordinator/internal/control"
	"coordinator/internal/history"
	"coordinator/internal/paging"
	"coordinator/internal/profile"

	"github.com/google/go-cmp/cmp"
)

func TestAPIDocumentIsWellFormed(t *testing.T) {
	t.Parallel()
	doc := apidoc.Read(t, "api/openapi.yaml")
	doc.Operations(func(_, _, _ string, op apidoc.Part) { op.WellFormedOperation() })
	hooks, _ := doc.Root().Children("webhooks")
	for _, name := range hooks {
		doc.Operation("webhooks", name, "POST").WellFormedOperation()
	}
	newest := regexp.MustCompile(`(?m)^## \[(\d+\.\d+\.\d+)\]`).FindStringSubmatch(clustertest.ReadText(t, "CHANGELOG.md"))
	if got := doc.At("/info").Text("version"); newest != nil && got != newest[1] {
		t.Errorf("the document is that of version %s, and CHANGELOG.md is of %s", got, newest[1])
	}
}

func TestAPIDocumentHasTheRoutesOfTheTable(t *testing.T) {
	t.Parallel()
	_, cfg, api, control := apiRooms(t)
	var routes, documented []string
	for pattern, handlers := range urlTable(cfg, api, control, nil) {
		for method := range handlers {
			routes = append(routes, method+" "+strings.TrimSuffix(pattern, "{$}"))
		}
	}
	apidoc.Read(t, "api/openapi.yaml").Operations(func(name, _, _ string, _ apidoc.Part) { documented = append(documented, name) })
	slices.Sort(routes)
	slices.Sort(documented)
	if diff := cmp.Diff(routes, documented); diff != "" {
		t.Errorf("routes of the table (-) and of the document (+):\n%s", diff)
	}
}

// apiRooms are what stands behind the routes, without a socket.
func apiRooms(t *testing.T) (*slog.Logger, *Config, *commands, *control.Sockets) {
	t.Helper()
	cfg, err := loadConfig(settings{}.get)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	d, err := newDaemon(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	d.control.Max = 0
	return log, cfg, &commands{d.coordinator}, d.control
}

func TestAPIDocumentNamesTheColumnsAndLimitsOfLists(t *testing.T) {
	t.Parallel()
	doc := apidoc.Read(t, "api/openapi.yaml")
	for path, columns := range map[string][]string{
		"/commands/streams":  slices.Collect(maps.Keys(streamList().Columns)),
		"/commands/encoders": slices.Collect(maps.Keys(encoderList().Columns)),
		"/commands/servers":  slices.Collect(maps.Keys(serverList().Columns)),
		"/commands/gateways": slices.Collect(maps.Keys(gatewayList().Columns)),
		"/commands/timeline": slices.Collect(maps.Keys(entryList().Columns)),
	} {
		want := map[string]bool{}
		for _, column := range columns {
			want[column], want["-"+column] = true, true
		}
		got := map[string]bool{}
		for _, parameter := range doc.Operation("paths", path, "GET").Parameters() {
			schema := parameter.Child("schema")
			switch parameter.Text("name") {
			case "sort":
				for _, column := range schema.Value["enum"].([]any) {
					got[column.(string)] = true
				}
			case "limit":
				if schema.Value["default"] != paging.DefaultLimit || schema.Value["maximum"] != paging.MaxLimit {
					t.Errorf("limit is documented as %v", schema.Value)
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: sort (-code +document)\n%s", path, diff)
		}
	}
}

// A coordinator that is stopping, has no room for a control socket, and has a past.
func TestUnavailableCoordinatorIsAsTheAPIDocumentSays(t *testing.T) {
	t.Parallel()
	doc := apidoc.Read(t, "api/openapi.yaml")
	log, cfg, api, control := apiRooms(t)
	api.coordinator.stop()
	for range history.Step {
		api.coordinator.history.Record(history.Reading{})
	}
	server := httptest.NewServer(newRoutes(cfg, log, api, control, nil))
	defer server.Close()
	a := apidoc.Caller{Daemon: &clustertest.Daemon{T: t, Addr: strings.TrimPrefix(server.URL, "http://")}, Doc: doc}
	a.Ask(503, "GET", "/readyz")
	a.Ask(503, "GET", "/readyz?verbose")
	a.Ask(200, "GET", "/commands/overview")
	for _, path := range []string{"/ws/control/rtmp", "/ws/control/wss", "/ws/control/hls"} {
		a.Upgrade(503, path)
	}
	server.Close()
	api.coordinator.up = make(chan struct{}) // its gateways are awaited
	gone, cancel := context.WithCancel(t.Context())
	cancel() // so that no request waits
	server = httptest.NewUnstartedServer(newRoutes(cfg, log, api, control, nil))
	server.Config.BaseContext = func(net.Listener) context.Context { return gone }
	server.Start()
	defer server.Close()
	a.Addr = strings.TrimPrefix(server.URL, "http://")
	doc.Operations(func(_, method, path string, op apidoc.Part) {
		if strings.HasPrefix(path, "/commands/") {
			a.Ask(-503, method, path)
		}
	})
	server.Close()
	standby := newTableHandler(cfg, log, http.NewServeMux(), standbyTable(cfg, api.coordinator.metrics, func() []string { return nil }), nil)
	server = httptest.NewServer(standby)
	defer server.Close()
	a.Addr = strings.TrimPrefix(server.URL, "http://")
	a.Ask(503, "GET", "/leader")
	doc.Operations(func(_, method, path string, op apidoc.Part) {
		if strings.HasPrefix(path, "/commands/") {
			a.Ask(-503, method, path)
		}
	})
	a.Ask(200, "GET", "/readyz")
	a.Ask(200, "GET", "/livez")
	doc.Unseen(func(status string) bool { return status == "503" })
}

func TestAPIDocumentSaysWhichProfilesAreRead(t *testing.T) {
	t.Parallel()
	answer := apidoc.Read(t, "api/openapi.yaml").Operation("webhooks", "keyVerification", "POST").Child("responses").Child("200").Child("headers")
	for _, test := range []struct {
		header string
		values []string
		reads  func(string) bool
	}{
		{
			"x-resolutions",
			[]string{"ORIGINAL", "original,640x360", "640x360-30", "640x360-30~900 , ORIGINAL", "0x360", "640", "640x360~", "640x360~900-30", "x"},
			func(s string) bool { _, dropped := profile.ParseResolutions(s); return len(dropped) == 0 },
		},
		{
			"x-previews",
			[]string{"False", "FALSE", "256x144, 3", "256x144,3", "256x144", "256x0,3", "true"},
			func(s string) bool { _, ok := profile.ParsePreviews(s); return ok },
		},
		{
			"x-record",
			[]string{"true", "TRUE", "1", "yes"},
			profile.ParseRecord,
		},
	} {
		for _, value := range test.values {
			if err := answer.Child(test.header).Check(value); (err == nil) != test.reads(value) {
				t.Errorf("%s: %s is read: %t, but in the document: %v", test.header, value, test.reads(value), err)
			}
		}
	}
}

// TestAnswersInDocumentsAreOfTheAPI goes through the answers that docs/operate.md shows below a curl command.
func TestAnswersInDocumentsAreOfTheAPI(t *testing.T) {
	t.Parallel()
	doc := apidoc.Read(t, "api/openapi.yaml")
	shown := regexp.MustCompile(`(?m)^\$ curl ([^\n]*)http://localhost:8080(/[a-z/]+)[^\n]*\n(\{.*\})$`).FindAllStringSubmatch(clustertest.ReadText(t, "docs/operate.md"), -1)
	if len(shown) < 9 {
		t.Fatalf("only %d answers were found", len(shown))
	}
	for _, match := range shown {
		method, path, answer := "GET", match[2], match[3]
		if strings.Contains(match[1], "-X POST ") {
			method = "POST"
		}
		var body map[string]any
		if err := json.Unmarshal([]byte(answer), &body); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		status := "200"
		if body["error"] != nil {
			status = "404"
		}
		response := doc.Operation("paths", path, method).Child("responses").Child(status)
		if err := response.Child("content").Child("application/json").Check(body); err != nil {
			t.Errorf("%s %s does not answer %s: %v", method, path, answer, err)
		}
	}
}
