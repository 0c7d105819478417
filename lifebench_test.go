package main

// What the whole life of a stream costs the daemon: publish, available, end, closed, both events delivered, over sockets.
// The daemon is in this process; its peers and the application are in another one, so that the CPU time of this process is
// the daemon's alone. What of it the disk costs is BenchmarkStreamLifeEvents of internal/outbox.

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"coordinator/internal/clustertest"
)

const (
	lifePeers      = "COORDINATOR_LIFE_PEERS" // set in the environment of the process of the peers
	livesAtOnce    = 64
	lifeEncoders   = 4
	lifeChannelFmt = "channel-%d"
)

// BenchmarkStreamLife prints the daemon's CPU time for a life.
func BenchmarkStreamLife(b *testing.B) {
	peers := startLifePeers(b)
	addr := startDaemonFor(b, peers.applicationURL)
	peers.tell(addr)
	peers.play(livesAtOnce) // connections are opened, pools are filled
	b.ResetTimer()
	cpu := processCPU(b)
	peers.play(b.N)
	b.StopTimer()
	b.ReportMetric(float64((processCPU(b)-cpu).Microseconds())/float64(b.N), "daemon-cpu-us/life")
}

// startDaemonFor is run without limits and without a log.
func startDaemonFor(b *testing.B, applicationURL string) (addr string) {
	cfg := &Config{IDMaxLength: 128, DataDir: b.TempDir(), EventCallbackURL: Secret(applicationURL)}
	log := slog.New(slog.DiscardHandler)
	d, err := newDaemon(cfg, log)
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	d.start()
	d.serve(l, nil)
	b.Cleanup(func() {
		if err := d.stop(0); err != nil {
			b.Error(err)
		}
	})
	return l.Addr().String()
}

// lifeProcess is the process of the peers. It takes lines and answers each with one.
type lifeProcess struct {
	b              *testing.B
	in             io.WriteCloser
	out            *bufio.Reader
	applicationURL string
}

func startLifePeers(b *testing.B) *lifeProcess {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestPlayLives$")
	cmd.Env = append(os.Environ(), lifePeers+"=1")
	cmd.Stderr = os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if inErr != nil || outErr != nil {
		b.Fatal(inErr, outErr)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	p := &lifeProcess{b: b, in: in, out: bufio.NewReader(out)}
	b.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	p.applicationURL = p.line()
	return p
}

func (p *lifeProcess) line() string {
	p.b.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.b.Fatal("the process of the peers:", err)
	}
	return strings.TrimSpace(line)
}

func (p *lifeProcess) tell(line string) {
	p.b.Helper()
	fmt.Fprintln(p.in, line)
	p.line()
}

func (p *lifeProcess) play(lives int) { p.tell(fmt.Sprint(lives)) }

// TestPlayLives is no test but the other process of BenchmarkStreamLife: peers and an application.
func TestPlayLives(t *testing.T) {
	if os.Getenv(lifePeers) == "" {
		t.Skip("this is a part of BenchmarkStreamLife")
	}
	var taken sync.Map // channel -> chan struct{}
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if told, ok := taken.Load(r.Header.Get("x-streaming-channel")); ok {
			told.(chan struct{}) <- struct{}{}
		}
	}))
	defer app.Close()
	fmt.Println(app.URL)
	orders := bufio.NewScanner(os.Stdin)
	if !orders.Scan() {
		return
	}
	d := &clustertest.Daemon{T: t, Addr: orders.Text(), Logs: clustertest.NewLog()}
	server := d.DialPeer("rtmp")
	accepted := newAnswers()
	for range lifeEncoders {
		encoder, _ := d.Register(-1)
		go func() {
			for m := range encoder.In {
				channel, id := m.Get("Stream-Channel"), m.Get("Stream-ID")
				switch m.Method {
				case "ENCODE-START":
					encoder.Available(channel, id, "HLS-LIVE", "1280x720-30", "hls/"+channel+"/"+id+"/1280x720-30/live.m3u8")
				case "ENCODE-STOP":
					encoder.Closed(channel, id)
				}
			}
		}()
	}
	go func() {
		for m := range server.In {
			accepted.give(m.Get("Stream-Channel"), m.Get("Stream-ID"))
		}
	}()
	fmt.Println("ready")
	played := 0
	for orders.Scan() {
		var lives int
		fmt.Sscan(orders.Text(), &lives)
		playLives(server, accepted, &taken, played, lives)
		played += lives
		fmt.Println("played")
	}
}

func playLives(server *clustertest.Peer, accepted *answers, taken *sync.Map, first, lives int) {
	var players sync.WaitGroup
	next := make(chan int)
	for range livesAtOnce {
		players.Go(func() {
			told := make(chan struct{}, 2)
			for n := range next {
				channel := fmt.Sprintf(lifeChannelFmt, n)
				taken.Store(channel, told)
				id := accepted.expect(channel)
				server.Request(channel, "key")
				streamID := <-id
				<-told // stream-available
				server.End(channel, streamID)
				<-told // stream-closed
				taken.Delete(channel)
			}
		})
	}
	for n := range lives {
		next <- first + n
	}
	close(next)
	players.Wait()
}

// answers brings what the server hears to who waits for it.
type answers struct {
	mu      sync.Mutex
	waiting map[string]chan string // by channel
}

func newAnswers() *answers { return &answers{waiting: map[string]chan string{}} }

func (a *answers) expect(channel string) chan string {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := make(chan string, 1)
	a.waiting[channel] = c
	return c
}

func (a *answers) give(channel, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.waiting[channel]; c != nil {
		c <- id
		delete(a.waiting, channel)
	}
}
