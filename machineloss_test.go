package main

// One of the machines of the application dies without a word: its connections swallow what is sent and never end, while
// new ones reach another machine.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/appclient"
	"coordinator/internal/clustertest"
	"coordinator/internal/outbox"
)

// twoMachines is an application of two machines, of which new connections reach the first until it dies.
type twoMachines struct {
	listener clustertest.Pipes
	first    *clustertest.FaultProxy
	dead     atomic.Bool
	dialled  atomic.Int64
	asked    atomic.Int64
}

func newTwoMachines(t *testing.T, answer http.HandlerFunc) *twoMachines {
	m := &twoMachines{listener: clustertest.NewPipes(), first: clustertest.NewFaultProxy(t)}
	server := &httptest.Server{Listener: m.listener, Config: &http.Server{
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, requestsKey{}, new(atomic.Int64))
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			m.asked.Add(1)
			r.Context().Value(requestsKey{}).(*atomic.Int64).Add(1)
			answer(w, r)
		}),
	}}
	server.Start()
	t.Cleanup(server.Close)
	return m
}

type requestsKey struct{}

// requestsOn counts the requests that the connection of this one has carried, this one included.
func requestsOn(r *http.Request) int64 {
	return r.Context().Value(requestsKey{}).(*atomic.Int64).Load()
}

func (m *twoMachines) dial(context.Context, string, string) (net.Conn, error) {
	m.dialled.Add(1)
	if m.dead.Load() {
		return m.listener.Connect()
	}
	return m.first.Wrap(m.listener.Connect)()
}

func (m *twoMachines) firstDies() {
	m.dead.Store(true)
	m.first.Set(clustertest.Flow{Blackhole: true}, clustertest.Flow{Blackhole: true})
}

// gate holds so many requests until all of them are there, so that each has a connection of its own.
type gate struct {
	missing atomic.Int64
	open    chan struct{}
}

func newGate(n int) *gate {
	g := &gate{open: make(chan struct{})}
	g.missing.Store(int64(n))
	return g
}

func (g *gate) pass() {
	if g.missing.Add(-1) == 0 {
		close(g.open)
	}
	<-g.open
}

// verifications are asked side by side, and each is held to what was promised.
type verifications struct {
	t       *testing.T
	v       *keyVerifier
	lost    time.Time
	callers sync.WaitGroup
}

func (a *verifications) ask(channel string) {
	a.callers.Go(func() {
		began := time.Now()
		_, err := a.v.verify(a.t.Context(), channel, "key", "")
		took, since := time.Since(began), began.Sub(a.lost)
		if err != nil || took > verifyTimeout || since >= 12*time.Second && took >= time.Second {
			a.t.Errorf("%s, %v after the loss: %v after %v", channel, since, err, took)
		}
	})
}

func (a *verifications) wait(d time.Duration) { <-time.After(d) }

func TestLossOfAMachineOfTheApplicationDeniesNobody(t *testing.T) {
	t.Parallel()
	every := func(pause, from, to time.Duration) func(*verifications) {
		return func(a *verifications) {
			a.wait(from)
			for time.Since(a.lost) < to {
				a.ask("steady")
				a.wait(pause)
			}
		}
	}
	burst := func(n int, at time.Duration) func(*verifications) {
		return func(a *verifications) {
			a.wait(at)
			for range n {
				a.ask("burst")
			}
			every(100*time.Millisecond, 12*time.Second-at, 20*time.Second)(a)
		}
	}
	for name, traffic := range map[string]func(*verifications){
		"many a second":                   every(10*time.Millisecond, 0, 20*time.Second),
		"one a second":                    every(time.Second, 0, 30*time.Second),
		"now and then":                    every(7*time.Second, 5*time.Second, 60*time.Second),
		"nobody before 12 s have passed":  every(100*time.Millisecond, 12*time.Second, 15*time.Second),
		"as many as connections, at once": burst(512, 0),
		"the same just before those go":   burst(512, appclient.IdleTimeout-time.Millisecond),
	} {
		for _, pooled := range []int{60, 512} {
			for _, underWay := range []int{0, 8} {
				t.Run(fmt.Sprintf("%d connections, %d under way, %s", pooled, underWay, name), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { loseMachine(t, pooled, underWay, traffic) })
				})
			}
		}
	}
}

// loseMachine loses the first machine when so many connections are in the pool. Some requests are under way then, for up
// to 9 s, half of them over connections that had been used before.
func loseMachine(t *testing.T, pooled, underWay int, traffic func(*verifications)) {
	warm, slowly := newGate(pooled-underWay), 9500*time.Millisecond
	var m *twoMachines
	m = newTwoMachines(t, func(_ http.ResponseWriter, r *http.Request) {
		switch channel := r.Header.Get("x-streaming-channel"); {
		case channel == "warm":
			warm.pass()
		case channel == "under way" && !m.dead.Load():
			<-time.After(slowly)
		}
	})
	v, logged := newTestVerifier(t, "http://app.example/")
	v.client.Transport.DialContext = m.dial
	asked := &verifications{t: t, v: v, lost: time.Now().Add(9 * time.Second)}
	for range underWay / 2 {
		asked.ask("under way")
		asked.wait(time.Second)
	}
	for range underWay / 2 {
		asked.ask("quick") // leaves a connection behind
		synctest.Wait()
		asked.ask("under way")
		asked.wait(time.Second)
	}
	asked.wait(time.Until(asked.lost))
	for range pooled - underWay {
		asked.ask("warm")
	}
	synctest.Wait()
	m.firstDies()
	traffic(asked)
	asked.callers.Wait()
	if logged.Len() > 0 {
		t.Errorf("logged %s", logged)
	}
}

func TestLossOfAMachineOfTheApplicationHoldsUpNoEvents(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]time.Duration{"steady": 20 * time.Millisecond, "all at once": 0} {
		for _, pooled := range []int{60, outbox.MaxInFlight} {
			t.Run(fmt.Sprintf("%d connections, %s", pooled, name), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					warm := newGate(pooled)
					var mu sync.Mutex
					arrived := map[string]time.Time{}
					m := newTwoMachines(t, func(_ http.ResponseWriter, r *http.Request) {
						if r.Header.Get("x-streaming-channel")[:len("channel-warm")] == "channel-warm" {
							warm.pass()
						}
						mu.Lock()
						defer mu.Unlock()
						arrived[r.Header.Get("x-streaming-id")] = time.Now()
					})
					log := clustertest.NewLog()
					c := callbacksThrough(t, m, log)
					queue := uint64(0)
					tellOf := func(stream string) {
						queue++
						c.Append(outbox.Event{Queue: queue, Channel: "channel-" + stream, StreamID: stream, Seq: 1, StreamType: "HLS-LIVE", At: time.Now()})
					}
					c.Start()
					for i := range pooled {
						tellOf(fmt.Sprint("warm-", i))
					}
					synctest.Wait()
					m.firstDies()
					lost, appended := time.Now(), map[string]time.Time{}
					tell := func(stream string) {
						appended[stream] = time.Now()
						tellOf(stream)
					}
					for i := 0; i < pooled || pause > 0 && time.Since(lost) < 15*time.Second; i++ {
						tell(fmt.Sprint("later-stream-", i))
						time.Sleep(pause)
					}
					for time.Since(lost) < 20*time.Second {
						time.Sleep(100 * time.Millisecond)
						if time.Since(lost) >= 12*time.Second {
							tell(fmt.Sprint("last-stream-", time.Since(lost)))
						}
					}
					if err := c.Finish(t.Context()); err != nil {
						t.Error(err)
					}
					for stream, at := range appended {
						took, since := arrived[stream].Sub(at), at.Sub(lost)
						if took < 0 || took > appclient.AnswerTimeout+time.Second || since >= 12*time.Second && took >= time.Second {
							t.Errorf("the event of %s, %v after the loss, arrived after %v", stream, since, took)
						}
					}
					if log.String() != "" {
						t.Errorf("logged %s", log.String())
					}
				})
			})
		}
	}
}

// callbacksThrough are callbacks to machines. Their file is found in use for a moment when another test starts a process
// just then.
func callbacksThrough(t *testing.T, m *twoMachines, log io.Writer) *callbacks {
	cfg := &Config{DataDir: t.TempDir(), EventCallbackURL: "http://app.example/"}
	for tries := 0; ; tries++ {
		c, err := newCallbacks(cfg, func(outbox.Attempt) {}, slog.New(slog.NewTextHandler(log, nil)))
		if err == nil {
			c.client.Transport.DialContext = m.dial
			return c
		}
		if runtime.Gosched(); tries > 10_000 {
			t.Fatal(err)
		}
	}
}

// A slow application is none that is dead: an answer that takes 9 s is waited for, and the connections that bring such
// answers are used again and again.
func TestSlowApplicationIsAskedOnceOverTheSameConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newTwoMachines(t, func(http.ResponseWriter, *http.Request) { time.Sleep(9 * time.Second) })
		v, _ := newTestVerifier(t, "http://app.example/")
		v.client.Transport.DialContext = m.dial
		var callers sync.WaitGroup
		const each, all = 100 * time.Millisecond, 600
		for range all {
			callers.Go(func() {
				if _, err := v.verify(t.Context(), "channel", "key", ""); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(each)
		}
		callers.Wait()
		if most := int64(9*time.Second/each) + 1; m.asked.Load() != all || m.dialled.Load() > most {
			t.Errorf("%d verifications were asked %d times over %d connections, want at most %d", all, m.asked.Load(), m.dialled.Load(), most)
		}
	})
}

// A channel whose requests hang costs two requests a verification; of the connections of others it costs hardly any.
func TestChannelThatHangsLeavesOthersTheirConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newTwoMachines(t, func(_ http.ResponseWriter, r *http.Request) {
			if r.Header.Get("x-streaming-channel") == "hangs" {
				<-r.Context().Done()
			}
		})
		v, _ := newTestVerifier(t, "http://app.example/")
		v.client.Transport.DialContext = m.dial
		var callers sync.WaitGroup
		ask := func(channel string, want error) {
			callers.Go(func() {
				if _, err := v.verify(t.Context(), channel, "key", ""); !errors.Is(err, want) {
					t.Errorf("%s: %v", channel, err)
				}
			})
		}
		const seconds = 120
		for tick := range seconds * 20 {
			ask("good", nil)
			if tick%10 == 0 {
				ask("hangs", errNoAnswer)
			}
			time.Sleep(time.Second / 20)
		}
		callers.Wait()
		const hanging, pools = seconds * 2, seconds/int64(appclient.AnswerTimeout/time.Second) + 2
		if dialled := m.dialled.Load(); dialled > 2*hanging+2*pools {
			t.Errorf("%d connections for %d hanging requests and %d pools at most", dialled, 2*hanging, pools)
		}
	})
}

// Connections that have died, and whose next request meets their end.
func TestDeadConnectionCostsOneRequestHoweverManyThereAre(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const pooled = 60
		warm := newGate(pooled)
		var dying atomic.Bool
		m := newTwoMachines(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("x-streaming-channel") == "warm" {
				warm.pass()
			}
			if isOld := requestsOn(r) > 1; isOld && dying.Load() {
				if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
					conn.Close()
				}
			}
		})
		v, logged := newTestVerifier(t, "http://app.example/")
		v.client.Transport.DialContext = m.dial
		asked := &verifications{t: t, v: v, lost: time.Now()}
		for range pooled {
			asked.ask("warm")
		}
		asked.callers.Wait()
		dying.Store(true)
		began := time.Now()
		asked.ask("channel")
		asked.callers.Wait()
		dying.Store(false)
		asked.ask("channel")
		asked.callers.Wait()
		if tries := m.asked.Load() - pooled; tries != 3 || m.dialled.Load() != pooled+1 || !time.Now().Equal(began) || logged.Len() > 0 {
			t.Errorf("two verifications took %d requests, %d new connections and %v; logged %q", tries, m.dialled.Load()-pooled, time.Since(began), logged)
		}
	})
}

// reaches makes the daemon reach an application in the same bubble.
func (n *fakeNet) reaches(connect func() (net.Conn, error)) {
	dial := func(context.Context, string, string) (net.Conn, error) { return connect() }
	if n.verifier.client != nil {
		n.verifier.client.Transport.DialContext = dial
	}
	if n.events.client != nil {
		n.events.client.Transport.DialContext = dial
		n.events.Start()
	}
}

// fakeApplication are the variables of an application that is reached with reaches.
func fakeApplication() []string {
	return []string{"KEY_VERIFICATION_URL=http://application/verify", "EVENT_CALLBACK_URL=http://application/event"}
}

func TestApplicationBehindABlackholeRecoversEventsAndVerifications(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener := clustertest.NewPipes()
		app, proxy := clustertest.NewApplicationOn(t, listener), clustertest.NewFaultProxy(t)
		n := newFakeNet(t, fakeApplication()...)
		n.reaches(proxy.Wrap(listener.Connect))
		server, encoder := n.dialPeer("rtmp"), n.register()
		beat := func() { server.Send("HEARTBEAT"); encoder.Send("HEARTBEAT") }
		id := clustertest.Publish(server, encoder, "show")
		encoder.Available("show", id, "HLS-LIVE", "640x360", "live")
		synctest.Wait()

		proxy.Set(clustertest.Flow{Blackhole: true}, clustertest.Flow{Blackhole: true})
		encoder.Available("show", id, "HLS-VOD", "640x360", "vod")
		for round := range 3 {
			server.Request(fmt.Sprint("other-", round), "key")
			n.wait(16 * time.Second)
			server.ExpectDenied(fmt.Sprint("other-", round))
			beat()
		}
		n.wantConnected(1, 1, 1)
		proxy.Set(clustertest.Flow{}, clustertest.Flow{})
		healed := time.Now()
		encoder.Closed("show", id)
		server.Expect("STREAM-KILL", "Stream-ID", id)
		beat()
		app.AwaitStream(id, "stream-available show "+id+" HLS-LIVE 640x360 live",
			"stream-available show "+id+" HLS-VOD 640x360 vod", "stream-closed show "+id)
		if took := time.Since(healed); took > appclient.AnswerTimeout+30*time.Second {
			t.Errorf("events came %v after the network", took)
		}
		beat()
		clustertest.Publish(server, encoder, "again")
	})
}
