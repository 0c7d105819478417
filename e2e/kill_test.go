package e2e

// kill -9 at any moment: the real binary as a child process, peers that come back after each kill, and an application
// that outlives them all. How often it is killed can be set: go test -run TestProcess/kill_-9_loses_no_event ./e2e -kills 500

import (
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

var kills = flag.Int("kills", 24, "how often the coordinator is killed")

// durableWithin is how long after a message was read its event may still be lost. docs/guarantees.md says 20 ms, for a normal
// disk; the machine of a test may be busy.
const durableWithin = 150 * time.Millisecond

func killedAtRandom(t *testing.T, binary string) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var address atomic.Value
	s := newSimulation(t, seed, 1<<40, func() string { return address.Load().(string) })
	s.think = 30 * time.Millisecond
	app := s.newApplication()
	killOnAnswer := make(chan func(), 1)
	app.answered = func() {
		select {
		case kill := <-killOnAnswer:
			kill()
		default:
		}
	}
	r, data := s.rand(), quickDirectory(t)
	variables := []string{"DATA_DIR=" + data, "LOG_REQUESTS=NO", "KEY_VERIFICATION_URL=" + app.server.URL + "/verify", "EVENT_CALLBACK_URL=" + app.server.URL + "/event"}
	var g *gateway // with it peers stay connected, and streams live
	if gatewayBetween(t) {
		g = startGateway(t, map[string]string{"HTTP_PORT": "0", "BIND_ADDRESS": "127.0.0.1"})
		variables = append(variables, "HTTP_PORT="+g.daemonPort, "GATEWAY_SECRET="+gatewaySecret)
	}
	start := func() *clustertest.Process {
		p := clustertest.Serve(t, binary, variables...)
		if g != nil {
			g.standBefore(p)
		}
		address.Store(p.Addr)
		return p
	}
	p := start()
	for _, endpoint := range []string{"rtmp", "rtmp", "rtmp", "wss"} {
		s.addServer(endpoint, 5)
	}
	for range 4 {
		s.markAtTimes(s.addEncoder(-1))
	}
	var required []simEntry
	for n := range *kills {
		seen := awaitMarks(p, n)
		killed := make(chan struct{})
		kill := sync.OnceFunc(func() {
			syscall.Kill(p.Cmd.Process.Pid, syscall.SIGKILL)
			close(killed)
		})
		killIt := kill
		if n%2 == 0 {
			kill := afterMoment(kill, time.Duration(r.IntN(20))*time.Millisecond)
			killIt = func() { killOnAnswer <- kill }
		}
		longest := 400
		if len(buildArguments) > 0 {
			longest = 1500 // with the race detector all is slower, and a kill has to meet as much load
		}
		time.AfterFunc(time.Duration(r.IntN(longest))*time.Millisecond, killIt)
		seen.poll(p, killed)
		awaitKilled(p)
		required = append(required, seen.durable(s.history.snapshot())...)
		p = start()
	}
	app.well.Store(true)
	s.calmDown()
	s.leave()
	p.AwaitOverview("that all is over", func(o clustertest.Overview) bool {
		return o.Events.Pending == 0 && o.Slots.Used == 0 && o.Streams == clustertest.StreamTotals{}
	})
	s.end()

	entries := s.history.snapshot()
	checkEvents(entries, false).report(t)
	if g != nil {
		checkPublishers(entries).report(t)
		checkEncodings(entries).report(t)
		checkNothingLost(entries).report(t)
		f, failovers, _ := checkSuccession(entries)
		f.report(t)
		t.Logf("%d failovers", failovers)
	}
	arrived := map[string]int{}
	repeats := 0
	for _, e := range entries {
		if e.what == simArrived {
			if arrived[e.event]++; arrived[e.event] > 1 {
				repeats++
			}
		}
	}
	var f faults
	for _, e := range required {
		if arrived[e.stream+"-"+e.index] == 0 {
			f.add("%v: was read %v before a kill and never arrived%s", e, durableWithin, storyOf(entries, e.stream))
		}
	}
	f.report(t)
	t.Logf("%d kills; %d events arrived, %d of them more than once; %d had to", *kills, len(arrived), repeats, len(required))
	if len(required) < 2**kills || repeats == 0 {
		t.Error("the kills met no load")
	}
}

// quickDirectory is in memory where the system has such files: a kill leaves them alone as it does those on disk, and how
// long the disk of a busy machine takes is not the question.
func quickDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "coordinator")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// afterMoment kills a moment later than asked, without holding up who asks.
func afterMoment(kill func(), moment time.Duration) func() {
	if moment < time.Millisecond {
		return kill
	}
	return func() { time.AfterFunc(moment, kill) }
}

// awaitKilled waits for the end of the process by SIGKILL.
func awaitKilled(p *clustertest.Process) {
	p.T.Helper()
	select {
	case <-p.Ended:
	case <-time.After(clustertest.Patience):
		p.T.Fatal("outlives SIGKILL")
	}
	if s := p.Cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGKILL {
		p.T.Fatalf("ended by %v:\n%s", p.Cmd.ProcessState, p.Logs)
	}
}

// markAtTimes makes an encoder register anew at times, each time with another capacity, all different and without
// meaning for its load: what the encoder said before was read when the report shows the capacity.
func (s *simulation) markAtTimes(e *simEncoder) {
	r := s.rand()
	s.workers.Go(func() {
		for s.pause(r, s.busy) {
			if w := e.connection(); w != nil {
				capacity := strconv.FormatUint(1_000_000+s.marks.Add(1), 10)
				s.say(w, simEntry{what: simMark, index: capacity}, "REGISTER", "Capacity", capacity)
			}
		}
	})
}

// marks are the capacities that the report of one process has shown.
type marks struct {
	firstSeen map[string]time.Time // when the answer was read
	lastAsked time.Time            // when the last report was asked for that was answered
}

// awaitMarks waits until the peers are back at work.
func awaitMarks(p *clustertest.Process, kill int) *marks {
	p.T.Helper()
	m := &marks{firstSeen: map[string]time.Time{}}
	for deadline := time.Now().Add(clustertest.Patience); len(m.firstSeen) < 4; {
		if time.Now().After(deadline) {
			p.T.Fatalf("peers don't come back after kill %d:\n%s", kill, p.Logs)
		}
		m.look(p)
	}
	return m
}

// poll looks at the report until the process is killed.
func (m *marks) poll(p *clustertest.Process, killed <-chan struct{}) {
	p.T.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(clustertest.Patience)
	for {
		select {
		case <-killed:
			return
		case <-timeout:
			p.T.Fatal("nothing was answered to kill at")
		case <-tick.C:
			m.look(p)
		}
	}
}

func (m *marks) look(p *clustertest.Process) {
	asked := time.Now()
	client := http.Client{Timeout: clustertest.Patience}
	res, err := client.Get("http://" + p.OwnAddr() + "/commands/report")
	if err != nil {
		return // killed
	}
	defer res.Body.Close()
	var report clustertest.Report
	if json.NewDecoder(res.Body).Decode(&report) != nil {
		return
	}
	now := time.Now()
	m.lastAsked = asked
	for _, e := range report.Encoders {
		if name := strconv.Itoa(e.Capacity); m.firstSeen[name].IsZero() && e.Capacity > 0 {
			m.firstSeen[name] = now
		}
	}
}

// durable are the announcements that were read at least durableWithin before the process was last known to work. That it
// is seen to work and not only known not to be dead yet keeps a machine that stands still out of it.
func (m *marks) durable(entries []simEntry) (list []simEntry) {
	read := map[string]bool{} // by connection: up to a mark that comes later in the history
	for _, e := range slices.Backward(entries) {
		switch e.what {
		case simMark:
			seen, ok := m.firstSeen[e.index]
			read[e.who] = read[e.who] || ok && m.lastAsked.Sub(seen) >= durableWithin
		case simAnnounced:
			if read[e.who] {
				list = append(list, e)
			}
		}
	}
	return list
}

// storyOfKill runs a process in a directory of its own, again and again.
func storyOfKill(t *testing.T, binary string) (app *clustertest.Application, start func(more ...string) *clustertest.Process) {
	app = clustertest.NewApplication(t)
	data := filepath.Join(quickDirectory(t), "data")
	return app, func(more ...string) *clustertest.Process {
		return clustertest.Serve(t, binary, append(app.Variables("DATA_DIR="+data), more...)...)
	}
}

func killedBetweenTwoEncoders(t *testing.T, binary string) {
	app, start := storyOfKill(t, binary)
	p := start("ENCODER_WAIT_SECONDS=10")
	server, first := p.DialPeer("rtmp"), p.DialPeer("hls")
	first.Send("REGISTER", "Capacity", "1")
	p.AwaitReport("the encoder", func(r clustertest.Report) bool { return len(r.Encoders) == 1 })
	id := clustertest.Publish(server, first, "show")
	first.Available("show", id, "HLS-LIVE", "1x1", "live.m3u8")
	app.AwaitEvents(1)
	app.AnswerEvents(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	second, _ := p.Register(0)
	first.Conn.Close()
	p.AwaitOverview("that the publisher waits", func(o clustertest.Overview) bool { return o.Streams.Waiting == 1 })
	second.Send("REGISTER", "Capacity", "1")
	newID := second.Expect("ENCODE-START").Get("Stream-ID")
	second.Available("show", newID, "HLS-LIVE", "1x1", "live.m3u8")
	awaitUndelivered(p.Daemon, 2) // on disk: stream-closed and the new stream-available
	p.Signal(syscall.SIGKILL)
	awaitKilled(p)

	app.AnswerEvents(nil)
	start()
	wantStory(t, app, "stream-available show "+id+" HLS-LIVE 1x1 live.m3u8", "stream-closed show "+id,
		"stream-available show "+newID+" HLS-LIVE 1x1 live.m3u8", "stream-closed show "+newID)
}

func killedDuringAMove(t *testing.T, binary string) {
	app, start := storyOfKill(t, binary)
	p := start()
	server := p.DialPeer("rtmp")
	first, firstID := p.Register(1)
	id := clustertest.Publish(server, first, "show")
	first.Available("show", id, "HLS-LIVE", "1x1", "live.m3u8")
	second, _ := p.Register(1)
	p.Command("drain", firstID, "x-drain-move", "true")
	newID := second.Expect("ENCODE-START").Get("Stream-ID")
	second.Available("show", newID, "IMG-PREVIEW", "1x1", "preview.jpg")
	app.AwaitEvents(2)
	p.Signal(syscall.SIGKILL)
	awaitKilled(p)

	start()
	wantStory(t, app, "stream-available show "+id+" HLS-LIVE 1x1 live.m3u8", "stream-available show "+newID+" IMG-PREVIEW 1x1 preview.jpg",
		"stream-closed show "+id, "stream-closed show "+newID)
}

// wantStory waits until the application was told all of it, leaving out repeats.
func wantStory(t *testing.T, app *clustertest.Application, want ...string) {
	t.Helper()
	deadline := time.After(clustertest.Patience)
	for {
		_, events, changed := app.Snapshot()
		var told []string
		known := map[string]bool{}
		for _, h := range events {
			if id := h.Get("x-event-id"); !known[id] {
				known[id] = true
				told = append(told, clustertest.Describe(h))
			}
		}
		if slices.Equal(told, want) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("told %q, want %q", told, want)
		}
	}
}
