package main

// The demo: a small cluster that plays for whoever wants to see what a coordinator does, until it is interrupted. Each
// thing that happens is a line.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/wire"
)

const (
	demoProfile  = "demo"
	demoPort     = "8080"
	demoCapacity = 4 // of each encoder
)

// demoChannels are played by one publisher each, over and over.
var demoChannels = [...]string{"news", "sports", "chess", "cooking", "garden", "concert", "lecture", "gaming", "weather", "travel", "museum", "radio"}

var demoResolutions = [...]string{"1280x720-30", "640x360-30"}

// demo is a cluster that plays itself.
type demo struct {
	// set once
	dial   dialler
	under  *daemon
	speed  float64 // 1: human lives; tests play faster
	client http.Client
	end    context.CancelFunc

	playing sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	out      io.Writer
	servers  []*demoServer
	encoders []*demoEncoder
}

// playDemo starts a coordinator on port 8080 and plays a cluster against it until ctx ends.
func playDemo(ctx context.Context, o *options, stdout io.Writer) error {
	d := &demo{speed: 1, out: stdout}
	return d.play(ctx, o, demoPort)
}

// play fails if the port is taken, or if there is no Go to build the coordinator with.
func (d *demo) play(ctx context.Context, o *options, port string) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.end = cancel
	application, err := d.startApplication()
	if err != nil {
		return err
	}
	defer application.Close()
	d.say("building the coordinator")
	program, err := build(ctx, o.dir, coordinatorPackage)
	if err != nil {
		return err
	}
	d.under, err = startChild(ctx, o.dir, program, "HTTP_PORT="+port, "LOG_DEBUG=NO",
		"KEY_VERIFICATION_URL="+application.URL+"/verify", "EVENT_CALLBACK_URL="+application.URL+"/event")
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		d.playing.Wait()
		if stopErr := d.under.stop(); err == nil {
			err = stopErr
		}
		d.client.CloseIdleConnections()
		d.say("the coordinator is stopped")
	}()
	d.dial = dialler{addr: d.under.addr}
	d.client.Timeout = 10 * time.Second
	if err := d.connectAll(ctx); err != nil {
		return err
	}
	for i, channel := range demoChannels {
		d.playing.Go(func() { d.playChannel(ctx, channel, i) })
	}
	d.say("the dashboard is at http://%s/dashboard; stop with Ctrl-C", strings.Replace(d.under.addr, "127.0.0.1", "localhost", 1))
	d.direct(ctx)
	return nil
}

// direct has something out of the ordinary happen now and then.
func (d *demo) direct(ctx context.Context) {
	scenes := []func(context.Context){d.loseEncoder, d.drainEncoder, d.crowd}
	for n := 0; d.wait(ctx, 30*time.Second); n++ {
		scenes[n%len(scenes)](ctx)
	}
}

// wait reports whether the demo goes on after it.
func (d *demo) wait(ctx context.Context, about time.Duration) bool {
	wanted := about/2 + rand.N(about)
	return rest(ctx, time.Duration(float64(wanted)/d.speed)) == nil
}

func (d *demo) say(format string, values ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := fmt.Fprintf(d.out, time.Now().Format("15:04:05")+"  "+format+"\n", values...); err != nil {
		d.end() // nobody reads any more
	}
}

// startApplication answers that the key of a channel is its name with "-key", and takes all events.
func (d *demo) startApplication() (*clustertest.HTTPServer, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /verify", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-streaming-key") != r.Header.Get("x-streaming-channel")+"-key" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("x-resolutions", strings.Join(demoResolutions[:], ", "))
		w.Header().Set("x-record", "true")
	})
	mux.HandleFunc("POST /event", func(_ http.ResponseWriter, r *http.Request) {
		switch e := clustertest.EventOf(r.Header); {
		case e.Type == "stream-closed":
			d.say("application: %s, stream %s is over", e.Channel, short(e.StreamID))
		case e.Resolution != demoResolutions[0]: // one line is enough
		case e.StreamType == "HLS-LIVE":
			d.say("application: %s can be played", e.Channel)
		case e.StreamType == "HLS-VOD":
			d.say("application: %s has a recording", e.Channel)
		}
	})
	server := &clustertest.HTTPServer{Handler: mux}
	return server, server.Listen("127.0.0.1:0")
}

func short(id string) string { return id[:min(6, len(id))] }

func (d *demo) connectAll(ctx context.Context) error {
	for i := range 4 {
		e := &demoEncoder{demo: d, number: i + 1, tasks: map[string]context.CancelFunc{}}
		if err := e.connect(ctx); err != nil {
			return err
		}
		d.encoders = append(d.encoders, e)
	}
	for i, kind := range []string{"rtmp", "rtmp", "wss"} {
		s := &demoServer{demo: d, name: fmt.Sprintf("%s server %d", map[string]string{"rtmp": "RTMP", "wss": "WebSocket"}[kind], i+1), publishers: map[string]*demoPublisher{}}
		var err error
		if s.peer, err = d.dial.dial(ctx, kind, 1935+i); err != nil {
			return err
		}
		d.run(ctx, s.peer, s.told)
		d.servers = append(d.servers, s)
	}
	d.say("%d encoders with %d slots each and %d streaming servers are connected", len(d.encoders), demoCapacity, len(d.servers))
	return nil
}

// run reads what the coordinator says to a peer and keeps the connection alive, until it is cut or ctx ends.
func (d *demo) run(ctx context.Context, p *peer, told func(ctx context.Context, message []byte)) (gone chan struct{}) {
	gone = make(chan struct{})
	d.playing.Go(func() {
		defer close(gone)
		p.Each(func(message []byte) { told(ctx, message) }) // the end is that of the connection
	})
	d.playing.Go(func() {
		tick := time.NewTicker(heartbeatEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.Say("HEARTBEAT")
			case <-gone:
				return
			case <-ctx.Done():
				p.cut()
				return
			}
		}
	})
	return gone
}

// demoServer is a streaming server.
type demoServer struct {
	*demo
	name string
	peer *peer

	// guarded by demo.mu
	publishers map[string]*demoPublisher // by channel
}

// demoPublisher is somebody who publishes, from the request on.
type demoPublisher struct {
	answer chan string   // the stream ID, "" for a denial
	ended  chan struct{} // closed when there is no more to pull from it
	killed chan struct{} // told by STREAM-KILL

	id string // guarded by demo.mu
}

func (s *demoServer) told(_ context.Context, message []byte) {
	channel, id := wire.Value(message, "Stream-Channel"), wire.Value(message, "Stream-ID")
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.publishers[channel]
	if p == nil {
		return
	}
	switch wire.Method(message) {
	case "PUBLISH-ACCEPT":
		p.id = id
		p.answer <- id
	case "PUBLISH-DENY":
		p.answer <- ""
	case "STREAM-KILL":
		if p.id == id {
			select {
			case p.killed <- struct{}{}:
			default: // it was told before
			}
		}
	}
}

// playChannel publishes on a channel again and again: a minute or two each time, and now and then with a wrong key.
func (d *demo) playChannel(ctx context.Context, channel string, index int) {
	for d.wait(ctx, 8*time.Second) {
		key := channel + "-key"
		if rand.IntN(6) == 0 {
			key = "wrong"
		}
		d.publish(ctx, d.servers[index%len(d.servers)], channel, key, time.Minute+rand.N(time.Minute))
	}
}

// publish is one publisher from its request to its end.
func (d *demo) publish(ctx context.Context, s *demoServer, channel, key string, life time.Duration) {
	p := &demoPublisher{answer: make(chan string, 1), ended: make(chan struct{}), killed: make(chan struct{}, 1)}
	d.setPublisher(s, channel, p)
	defer d.setPublisher(s, channel, nil)
	defer close(p.ended)
	s.peer.Say("PUBLISH-REQUEST", "Request-ID", channel, "Stream-Channel", channel, "Stream-Key", key, "User-IP", "192.0.2.1")
	var id string
	select {
	case id = <-p.answer:
	case <-ctx.Done():
		return
	}
	if id == "" {
		why := "no encoder has a free slot"
		if key == "wrong" {
			why = "wrong key"
		}
		d.say("%s: the publisher of %s is denied, %s", s.name, channel, why)
		return
	}
	d.say("%s: %s is live, stream %s", s.name, channel, short(id))
	ending, cancel := context.WithTimeout(ctx, time.Duration(float64(life)/d.speed))
	defer cancel()
	select {
	case <-ending.Done():
		d.say("%s: the publisher of %s ends", s.name, channel)
	case <-p.killed:
		d.say("%s: the publisher of %s is ended by the coordinator", s.name, channel)
	}
	s.peer.Say("PUBLISH-END", "Stream-Channel", channel, "Stream-ID", id)
}

func (d *demo) setPublisher(s *demoServer, channel string, p *demoPublisher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p == nil {
		delete(s.publishers, channel)
	} else {
		s.publishers[channel] = p
	}
}

// sourceOf returns what is closed when the channel's publisher ends.
func (d *demo) sourceOf(channel string) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.servers {
		if p := s.publishers[channel]; p != nil {
			return p.ended
		}
	}
	ended := make(chan struct{})
	close(ended)
	return ended
}

// demoEncoder is an encoder. Like real ones it goes on with a stream that it has announced until the source ends.
type demoEncoder struct {
	*demo
	number int

	// guarded by demo.mu
	peer  *peer
	gone  chan struct{}
	tasks map[string]context.CancelFunc // streams that are not announced yet, by ID
}

func (e *demoEncoder) connect(ctx context.Context) error {
	p, err := e.dial.dial(ctx, "hls", 0)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	gone := e.run(ctx, p, e.told)
	e.playing.Go(func() {
		<-gone
		cancel() // what it encoded goes with it
	})
	e.setPeer(p, gone)
	p.Say("REGISTER", "Capacity", strconv.Itoa(demoCapacity))
	return nil
}

func (e *demoEncoder) setPeer(p *peer, gone chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.peer, e.gone = p, gone
}

func (e *demoEncoder) current() (*peer, chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.peer, e.gone
}

func (e *demoEncoder) told(ctx context.Context, message []byte) {
	channel, id := wire.Value(message, "Stream-Channel"), wire.Value(message, "Stream-ID")
	switch wire.Method(message) {
	case "ENCODE-START":
		e.say("encoder %d: encodes %s, stream %s", e.number, channel, short(id))
		source := e.sourceOf(channel)
		starting, cancel := context.WithCancel(ctx)
		e.setTask(id, cancel)
		e.playing.Go(func() { e.encode(ctx, starting, channel, id, source) })
	case "ENCODE-STOP":
		e.cancelTask(id)
	}
}

func (e *demoEncoder) setTask(id string, cancel context.CancelFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tasks[id] = cancel
}

// cancelTask ends what is starting; what was announced goes on.
func (e *demoEncoder) cancelTask(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if cancel := e.tasks[id]; cancel != nil {
		cancel()
		delete(e.tasks, id)
	}
}

// encode is one stream: live after a moment, with a recording after its end. starting ends with an early ENCODE-STOP.
func (e *demoEncoder) encode(ctx, starting context.Context, channel, id string, source <-chan struct{}) {
	p, _ := e.current()
	began := e.wait(starting, 2*time.Second)
	e.cancelTask(id)
	if began {
		e.announce(p, channel, id, "HLS-LIVE", "live.m3u8")
		select {
		case <-source:
		case <-ctx.Done():
			return
		}
		if !e.wait(ctx, time.Second) {
			return
		}
		e.announce(p, channel, id, "HLS-VOD", "vod.m3u8")
	}
	if ctx.Err() == nil {
		p.Say("STREAM-CLOSED", "Stream-Channel", channel, "Stream-ID", id)
	}
}

func (e *demoEncoder) announce(p *peer, channel, id, kind, file string) {
	for _, resolution := range demoResolutions {
		p.Say("STREAM-AVAILABLE", "Stream-Channel", channel, "Stream-ID", id, "Stream-Type", kind, "Resolution", resolution,
			"Index-file", "hls/"+channel+"/"+id+"/"+resolution+"/"+file)
	}
}

// loseEncoder cuts an encoder's connection. Its streams go on at others, and it is back a little later.
func (d *demo) loseEncoder(ctx context.Context) {
	e := d.encoders[rand.IntN(len(d.encoders))]
	d.say("encoder %d loses its network: its RTMP streams go on at other encoders, as long as there are free slots", e.number)
	p, gone := e.current()
	p.cut()
	<-gone
	if !d.wait(ctx, 10*time.Second) {
		return
	}
	if err := e.connect(ctx); err != nil {
		d.say("encoder %d: %v", e.number, err)
		return
	}
	d.say("encoder %d is back", e.number)
}

// drainEncoder takes the encoder with the most streams out of service, as for an update, and back.
func (d *demo) drainEncoder(ctx context.Context) {
	type encoder struct {
		ID            uint64
		Load, Serving int
	}
	var report struct{ Encoders []encoder }
	if err := d.get(ctx, "/commands/report", &report); err != nil || len(report.Encoders) < 2 {
		return
	}
	busiest := report.Encoders[0]
	for _, e := range report.Encoders {
		if e.Load > busiest.Load {
			busiest = e
		}
	}
	id := strconv.FormatUint(busiest.ID, 10)
	d.say("operator: the encoder with id %s is drained, its %d streams are to move", id, busiest.Load)
	d.order(ctx, "drain", id, "x-drain-move", "true")
	for range 20 {
		if !d.wait(ctx, 2*time.Second) {
			return
		}
		var list struct{ Encoders []encoder }
		if err := d.get(ctx, "/commands/encoders?q="+id, &list); err != nil || len(list.Encoders) == 0 {
			break
		}
		if list.Encoders[0].Serving == 0 {
			d.say("operator: nobody needs the encoder with id %s any more, it could be stopped", id)
			break
		}
	}
	d.order(ctx, "undrain", id)
	d.say("operator: the encoder with id %s is back in service", id)
}

// crowd has more publishers come than there are slots for.
func (d *demo) crowd(ctx context.Context) {
	const size = 10
	d.say("a crowd of %d more publishers comes at once", size)
	for i := range size {
		channel := fmt.Sprintf("crowd-%d", i+1)
		s := d.servers[rand.IntN(len(d.servers))]
		d.playing.Go(func() { d.publish(ctx, s, channel, channel+"-key", 15*time.Second+rand.N(15*time.Second)) })
	}
}

func (d *demo) get(ctx context.Context, path string, answer any) error {
	return d.command(ctx, http.MethodGet, path, answer)
}

// order tells nothing of a failure: the encoder may be gone by then.
func (d *demo) order(ctx context.Context, command, session string, header ...string) {
	_ = d.command(ctx, http.MethodPost, "/commands/"+command, nil, append(header, "x-session-id", session)...)
}

func (d *demo) command(ctx context.Context, method, path string, answer any, header ...string) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+d.under.addr+path, nil)
	if err != nil {
		return err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if answer == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(answer)
}
