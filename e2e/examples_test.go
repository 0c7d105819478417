package e2e

// The applications of examples/, each against the running daemon: who may publish, what can be played, and events that come twice.
// One whose language is not installed is skipped, but with CI=true it fails.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	gocmp "github.com/google/go-cmp/cmp"
)

const applicationToken = "application-token"

// missing skips a test for which something is not installed, and fails where everything has to be.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// example is an application of examples/.
type example struct {
	t        *testing.T
	command  func(port string) *exec.Cmd
	needPort bool // it does not take port 0
	database string

	// of the one that reads the database
	questions  io.Writer
	reader     *json.Decoder
	readerSays *bytes.Buffer

	mu sync.Mutex
	// guarded by mu
	process *os.Process
	ended   chan struct{}
	url     string
}

func TestExampleApplications(t *testing.T) {
	t.Parallel()
	onlyDirect(t, ofAnApplication)
	notWithRaces(t)
	if _, err := exec.LookPath("python3"); err != nil {
		missing(t, "python3 is not installed, with which their databases are read")
	}
	for name, e := range map[string]func(*testing.T) *example{"Python": inPython, "Node": inNode, "PHP": inPHP, "Go": inGo} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := e(t)
			e.t, e.database = t, filepath.Join(quickDirectory(t), "application.db")
			e.start()
			t.Cleanup(e.kill)
			t.Run("asks for its token", func(*testing.T) { e.checkToken() })
			t.Run("takes events of other versions", func(*testing.T) { e.checkOtherEvents() })
			t.Run("forgets what it could not write", func(*testing.T) { e.checkFailure() })
			t.Run("does not take half an event", func(*testing.T) { e.checkMissing() })
			e.checkLife()
		})
	}
}

func inPython(*testing.T) *example {
	return &example{command: func(port string) *exec.Cmd {
		cmd := exec.Command("python3", "../examples/application.py")
		cmd.Env = []string{"PORT=" + port}
		return cmd
	}}
}

func inNode(t *testing.T) *example {
	version, err := exec.Command("node", "--version").Output()
	if err != nil {
		missing(t, "Node is not installed: %v", err)
	}
	var number [2]int
	for i, part := range regexp.MustCompile(`\d+`).FindAllString(string(version), 2) {
		number[i], _ = strconv.Atoi(part)
	}
	if slices.Compare(number[:], []int{22, 13}) < 0 {
		missing(t, "Node is %s, and the example needs 22.13 or newer", bytes.TrimSpace(version))
	}
	if _, err := os.Stat("../examples/node/node_modules/express"); err != nil {
		missing(t, "Express is not installed: npm ci --prefix examples/node")
	}
	return &example{command: func(port string) *exec.Cmd {
		cmd := exec.Command("node", "../examples/node/application.mjs")
		cmd.Env = []string{"PORT=" + port}
		return cmd
	}}
}

func inPHP(t *testing.T) *example {
	modules, err := exec.Command("php", "-m").Output()
	if err != nil {
		missing(t, "PHP is not installed (php-cli): %v", err)
	}
	if !strings.Contains(string(modules), "pdo_sqlite") {
		missing(t, "PHP has no SQLite (php-sqlite3)")
	}
	return &example{needPort: true, command: func(port string) *exec.Cmd {
		return exec.Command("php", "-S", "127.0.0.1:"+port, "../examples/php/application.php")
	}}
}

func inGo(t *testing.T) *example {
	binary := filepath.Join(t.TempDir(), "application")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir, build.Env = "../examples/go", append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=readonly")
	if out, err := build.CombinedOutput(); err != nil {
		missing(t, "the example in Go is not built (go -C examples/go mod download brings what it needs): %v\n%s", err, out)
	}
	return &example{command: func(port string) *exec.Cmd {
		cmd := exec.Command(binary)
		cmd.Env = []string{"PORT=" + port}
		return cmd
	}}
}

// start starts the application, and waits until it listens.
func (e *example) start() {
	e.t.Helper()
	port := "0"
	if e.needPort {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			e.t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(l.Addr().String())
		l.Close()
	}
	cmd, output := e.command(port), clustertest.NewLog()
	cmd.Env = append(cmd.Env, "DATABASE="+e.database, "TOKEN="+applicationToken, "PATH="+os.Getenv("PATH"))
	cmd.Stdout = output.Lines()
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	e.mu.Lock()
	e.process, e.ended = cmd.Process, ended
	e.mu.Unlock()
	if e.needPort {
		output.Await(e.t, "Development Server", "started")
	} else {
		_, port, _ = strings.Cut(output.Await(e.t, "listening on port"), "port ")
	}
	e.mu.Lock()
	e.url = "http://127.0.0.1:" + strings.TrimSpace(port)
	e.mu.Unlock()
}

// kill ends the application with SIGKILL.
func (e *example) kill() {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.process.Kill() // it may have ended
	<-e.ended
}

// post sends the application a request. header is name, value, name, value ...
func (e *example) post(path string, header http.Header) (*http.Response, error) {
	e.mu.Lock()
	url := e.url
	e.mu.Unlock()
	req, err := http.NewRequest(http.MethodPost, url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header, req.Close = header, true
	client := http.Client{Timeout: clustertest.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res, err
}

func (e *example) expect(status int, path string, header ...string) {
	e.t.Helper()
	h := http.Header{"Authorization": {"Bearer " + applicationToken}}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	res, err := e.post(path, h)
	if err != nil {
		e.t.Fatal(err)
	}
	if res.StatusCode != status {
		e.t.Errorf("%s with %q: status %d, want %d", path, header, res.StatusCode, status)
	}
}

// rows are what a query finds, each a row of texts; NULL is "-".
func (e *example) rows(query string) (rows [][]string) {
	e.t.Helper()
	if e.reader == nil {
		e.startReader()
	}
	question, err := json.Marshal(query)
	if err == nil {
		_, err = e.questions.Write(append(question, '\n'))
	}
	if err == nil {
		err = e.reader.Decode(&rows)
	}
	if err != nil {
		e.t.Fatalf("%s: %v\n%s", query, err, e.readerSays)
	}
	return rows
}

// startReader starts a Python that answers queries of the application's database: a line of JSON each.
func (e *example) startReader() {
	e.t.Helper()
	const script = `import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=10)
for line in sys.stdin:
    with db:
        rows = [["-" if v is None else str(v) for v in row] for row in db.execute(json.loads(line))]
    print(json.dumps(rows), flush=True)`
	cmd := exec.Command("python3", "-c", script, e.database)
	e.readerSays = &bytes.Buffer{}
	cmd.Stderr = e.readerSays
	questions, inErr := cmd.StdinPipe()
	answers, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		questions.Close()
		if err := cmd.Wait(); err != nil {
			e.t.Errorf("%v\n%s", err, e.readerSays)
		}
	})
	e.questions, e.reader = questions, json.NewDecoder(answers)
}

func (e *example) expectRows(query string, want ...[]string) {
	e.t.Helper()
	if diff := gocmp.Diff(append([][]string{}, want...), e.rows(query)); diff != "" {
		e.t.Errorf("%s: want (-), got (+):\n%s", query, diff)
	}
}

func (e *example) checkToken() {
	e.t.Helper()
	for _, path := range []string{"/verify", "/event"} {
		for _, wrong := range []string{"", "Bearer", "Bearer wrong", "Basic " + applicationToken, applicationToken} {
			e.expect(401, path, "Authorization", wrong, "x-event-id", "nobody-1", "x-streaming-channel", "demo", "x-streaming-key", "demo-key")
		}
	}
	e.expect(404, "/nothing")
	e.expect(400, "/event", "x-event-type", "stream-available")
	e.expect(403, "/verify", "x-streaming-channel", "demo")
	e.expectRows("SELECT * FROM events")
}

// checkOtherEvents sends what comes with EVENT_CALLBACK_EXTRA, what a later version may send, and headers that are not always there.
func (e *example) checkOtherEvents() {
	e.t.Helper()
	at := "2026-11-29T04:00:00.000Z"
	available := []string{"x-event-type", "stream-available", "x-event-id", "o-8", "x-event-time", at, "x-streaming-channel", "other", "x-streaming-id", "o",
		"x-previous-streaming-id", "n", "x-stream-type", "HLS-LIVE", "x-resolution", "ORIGINAL", "x-index-file", "a.m3u8", "x-start-time", "1.5", "x-passthrough", "user 7"}
	for range 2 {
		e.expect(200, "/event", "x-event-type", "publish-failed", "x-event-id", "f-1", "x-event-time", at, "x-streaming-channel", "other",
			"x-reason", "no_encoder", "x-passthrough", "user 7")
		e.expect(200, "/event", "x-event-type", "of-a-later-version", "x-event-id", "o-7", "x-event-time", at, "x-streaming-channel", "other", "x-streaming-id", "o")
		e.expect(200, "/event", available...)
	}
	e.expectRows("SELECT * FROM playable WHERE stream = 'o'", []string{"o", "HLS-LIVE", "ORIGINAL", "a.m3u8", "1.5"})
	for range 2 {
		e.expect(200, "/event", "x-event-type", "stream-closed", "x-event-id", "o-closed", "x-event-time", at, "x-streaming-channel", "other", "x-streaming-id", "o",
			"x-close-reason", "publisher-ended", "x-duration", "12.5")
	}
	e.expect(200, "/event", available...) // as after a crash of the coordinator: the stream stays over
	e.expectRows("SELECT * FROM events WHERE channel = 'other' ORDER BY id",
		[]string{"f-1", "publish-failed", "other", "-", at, "no_encoder", "user 7"},
		[]string{"o-7", "of-a-later-version", "other", "o", at, "-", "-"},
		[]string{"o-8", "stream-available", "other", "o", at, "-", "user 7"},
		[]string{"o-closed", "stream-closed", "other", "o", at, "-", "-"})
	e.expectRows("SELECT * FROM streams WHERE channel = 'other'", []string{"o", "other", "n", "user 7", "0", "publisher-ended", "12.5"})
	e.expectRows("SELECT * FROM playable")
}

// checkFailure has the second half of a transaction fail: nothing is left of the first one, and the event is taken when it comes again.
func (e *example) checkFailure() {
	e.t.Helper()
	event := []string{"x-event-type", "stream-available", "x-event-id", "h-1", "x-event-time", "2026-11-29T04:00:00.000Z", "x-streaming-channel", "half",
		"x-streaming-id", "h", "x-stream-type", "HLS-VOD", "x-resolution", "ORIGINAL", "x-index-file", "h.m3u8"}
	e.rows("ALTER TABLE playable RENAME TO away")
	e.expect(500, "/event", event...)
	e.expectRows("SELECT * FROM events WHERE channel = 'half'")
	e.expectRows("SELECT * FROM streams WHERE channel = 'half'")
	e.rows("ALTER TABLE away RENAME TO playable")
	e.expect(200, "/event", event...)
	e.expectRows("SELECT id FROM events WHERE channel = 'half'", []string{"h-1"})
	e.expectRows("SELECT index_file FROM playable WHERE stream = 'h'", []string{"h.m3u8"})
}

// checkMissing leaves a header out: an event that cannot be written is not taken for one that has come before.
func (e *example) checkMissing() {
	e.t.Helper()
	event := []string{"x-event-type", "stream-closed", "x-event-id", "m-1", "x-event-time", "2026-11-29T04:00:00.000Z", "x-streaming-channel", "missing",
		"x-streaming-id", "m"}
	for i, status := range map[int]int{0: 500, 2: 400, 4: 500, 6: 500} {
		e.expect(status, "/event", slices.Delete(slices.Clone(event), i, i+2)...)
	}
	e.expect(400, "/event", append(slices.Clone(event), "x-event-id", "")...)
	e.expectRows("SELECT id FROM events WHERE id = '' OR id = 'm-1'")
	e.expect(200, "/event", event...)
	e.expectRows("SELECT id FROM events WHERE id = 'm-1'", []string{"m-1"})
}

// checkLife puts the application behind the daemon. Between the two, answers get lost.
func (e *example) checkLife() {
	e.t.Helper()
	app := clustertest.NewApplication(e.t)
	lost := make(chan chan struct{}) // an answer that is not passed on before the channel in it is closed
	var mu sync.Mutex
	toLose := map[string]bool{"HLS-LIVE": true, "IMG-PREVIEW": true} // types of streams; the first answer about each
	times := map[string]int{}                                        // the application has answered an event with 200
	pass := func(w http.ResponseWriter, r *http.Request) {
		res, err := e.post(r.URL.Path, r.Header.Clone())
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		mu.Lock()
		if id := r.Header.Get("x-event-id"); id != "" && res.StatusCode == 200 {
			times[id]++
		}
		lose := toLose[r.Header.Get("x-stream-type")]
		delete(toLose, r.Header.Get("x-stream-type"))
		mu.Unlock()
		if lose {
			done := make(chan struct{})
			lost <- done
			<-done
			panic(http.ErrAbortHandler)
		}
		maps.Copy(w.Header(), res.Header)
		w.WriteHeader(res.StatusCode)
	}
	app.AnswerKeys(pass)
	app.AnswerEvents(pass)
	variables := app.Variables("DATA_DIR="+quickDirectory(e.t), "KEY_VERIFICATION_AUTH=Bearer", "KEY_VERIFICATION_AUTH_TOKEN="+applicationToken,
		"EVENT_CALLBACK_AUTH=Bearer", "EVENT_CALLBACK_AUTH_TOKEN="+applicationToken)
	p := clustertest.Serve(e.t, coordinatorBinary, variables...)
	encoder, _ := p.Register(2)
	server := p.DialPeer("rtmp")
	for _, denied := range [][2]string{{"demo", "wrong"}, {"demo", "demo-ke"}, {"nobody", "demo-key"}} {
		server.Request(denied[0], denied[1])
		server.ExpectDenied(denied[0])
	}
	server.Request("demo", "demo-key")
	id := server.Expect("PUBLISH-ACCEPT", "Request-ID", "r-demo").Get("Stream-ID")
	encoder.Expect("ENCODE-START", "Resolutions", "ORIGINAL,1280x720-30~2500", "Record", "True", "Previews", "256x144,3")
	encoder.Available("demo", id, "HLS-LIVE", "1280x720-30", "hls/\u00fc 100%/live.m3u8")

	// It is killed when it has taken the event, and before anybody hears of that.
	answer := e.awaitLost(lost)
	e.kill()
	e.start()
	close(answer)
	app.AwaitEvents(1)
	encoder.Available("demo", id, "HLS-VOD", "1280x720-30", "vod/100%25.m3u8")
	app.AwaitEvents(2)
	e.expectRows("SELECT type, index_file FROM playable WHERE stream = '"+id+"' ORDER BY type",
		[]string{"HLS-LIVE", "hls/\u00fc 100%/live.m3u8"}, []string{"HLS-VOD", "vod/100%25.m3u8"})
	encoder.Available("demo", id, "IMG-PREVIEW", "256x144", "img/index.json")

	// The daemon is killed when it has sent an event, and before it hears the answer.
	answer = e.awaitLost(lost)
	e.expectRows("SELECT live FROM streams WHERE id = '"+id+"'", []string{"1"})
	p.Signal(syscall.SIGKILL)
	awaitKilled(p)
	close(answer)
	p = clustertest.Serve(e.t, coordinatorBinary, variables...)
	app.AwaitEvents(4)
	p.AwaitOverview("that all is told", func(o clustertest.Overview) bool { return o.Events.Pending == 0 })

	mu.Lock()
	defer mu.Unlock()
	// What the daemon has not yet noted as taken when it is killed comes again, too.
	for event, least := range map[string]int{id + "-1": 2, id + "-2": 1, id + "-3": 2, id + "-closed": 1} {
		if times[event] < least {
			e.t.Errorf("the application has taken %s %d times, want %d or more: %v", event, times[event], least, times)
		}
	}
	e.expectRows("SELECT id, type, channel, stream FROM events WHERE channel = 'demo' ORDER BY id",
		[]string{id + "-1", "stream-available", "demo", id}, []string{id + "-2", "stream-available", "demo", id},
		[]string{id + "-3", "stream-available", "demo", id}, []string{id + "-closed", "stream-closed", "demo", id})
	e.expectRows("SELECT id, channel, live FROM streams WHERE channel = 'demo'", []string{id, "demo", "0"})
	e.expectRows("SELECT type, resolution, index_file, start_time FROM playable WHERE stream = '"+id+"' ORDER BY type",
		[]string{"HLS-VOD", "1280x720-30", "vod/100%25.m3u8", "-"}, []string{"IMG-PREVIEW", "256x144", "img/index.json", "-"})
}

func (e *example) awaitLost(lost <-chan chan struct{}) (answer chan struct{}) {
	e.t.Helper()
	select {
	case answer = <-lost:
		return answer
	case <-time.After(clustertest.Patience):
		e.t.Fatal("no event has come")
	}
	return nil
}

// TestExampleApplicationsHaveOneSchema, so that what is said of one holds for all.
func TestExampleApplicationsHaveOneSchema(t *testing.T) {
	t.Parallel()
	schemas := map[string]string{}
	for _, file := range []string{"application.py", "node/application.mjs", "php/application.php", "go/main.go"} {
		text, err := os.ReadFile(filepath.Join("../examples", file))
		if err != nil {
			t.Fatal(err)
		}
		_, schema, _ := strings.Cut(string(text), "CREATE TABLE")
		schema, _, found := strings.Cut(schema, "256x144, 3');")
		if !found {
			t.Errorf("%s has no schema", file)
		}
		schemas[schema] = cmp.Or(schemas[schema], file)
	}
	if len(schemas) != 1 {
		t.Errorf("they differ: %v", slices.Collect(maps.Values(schemas)))
	}
}
