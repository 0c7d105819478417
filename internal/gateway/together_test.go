package gateway

// A gateway and the coordinator's side of its links, as they are: what each of them is tested with alone could be wrong in the
// same way.

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/link"
	"coordinator/internal/linkserver"
	"coordinator/internal/logs"
	"coordinator/internal/wire"
)

// decider is a coordinator that accepts every publisher and is done with each message at once.
type decider struct {
	r     *rig
	links *linkserver.Server
	http  *http.Server
	pipes clustertest.Pipes

	mu       sync.Mutex
	gateways map[string]bool
	told     []string
	conns    []net.Conn
	standsBy bool // as it says of itself; its links go on
}

// decider starts one for a term, which knows the gateways.
func (r *rig) decider(term string, known ...string) *decider {
	return r.deciderAt("c1", 0, term, known...)
}

func (r *rig) deciderAt(host string, epoch uint64, term string, known ...string) *decider {
	d := &decider{r: r, pipes: clustertest.NewPipes(), gateways: map[string]bool{}}
	log := logs.New(clustertest.NewLog(), false, true)
	d.links = linkserver.New(linkserver.Config{
		Store: "store", Term: term, Epoch: epoch, Known: known, Secret: testSecret, ControlSecret: controlSecret, Version: "test", Handler: d,
		AddGateway: func(string) <-chan struct{} {
			durable := make(chan struct{})
			close(durable)
			return durable
		},
		HigherEpoch: func(epoch uint64) { d.note("heard of epoch %d", epoch) },
		Log:         log, Refusals: logs.NewRefusals(log),
	})
	mux := http.NewServeMux()
	mux.Handle(link.Path, d.links)
	mux.HandleFunc(link.LeaderPath, d.sayWhoLeads)
	d.http = &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		d.http.Serve(d.pipes)
	}()
	r.at(host, func() (net.Conn, error) {
		conn, err := d.pipes.Connect()
		if err == nil {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.conns = append(d.conns, conn)
		}
		return conn, err
	})
	r.t.Cleanup(func() {
		r.stop()
		d.http.Close()
		<-served
		d.links.Close("the test is over")
	})
	return d
}

func (d *decider) sayWhoLeads(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.standsBy {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	said := link.Leader{Leader: true, Epoch: d.links.Epoch, Store: "store"}
	w.Header().Set(link.LeaderProofHeader, link.LeaderProof(testSecret, r.Header.Get(link.LeaderNonceHeader), said))
	json.NewEncoder(w).Encode(said)
}

func (d *decider) standBy(really bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.standsBy = really
}

func (d *decider) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = append(d.told, fmt.Sprintf(format, args...))
}

// take returns what was told since the last call.
func (d *decider) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	told := d.told
	d.told = nil
	return told
}

func (d *decider) want(told ...string) {
	d.r.t.Helper()
	synctest.Wait()
	if got := d.take(); !slices.Equal(got, told) {
		d.r.t.Fatalf("told %q, want %q", got, told)
	}
}

func (d *decider) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, conn := range d.conns {
		conn.Close()
	}
	d.conns = nil
}

func (d *decider) Attach(g *linkserver.Gateway, session uint64, a link.Attach) {
	d.note("attach %d %s id %d memos %d", session, a.Kind, a.ID, len(a.Memos))
	d.mu.Lock()
	d.gateways[g.ID()] = true
	d.mu.Unlock()
	g.Send(link.With(link.KindAttached, session, &link.Attached{ID: 100 + session}), nil)
}

func (d *decider) Message(g *linkserver.Gateway, session uint64, m link.Message) {
	parsed, err := wire.Parse(m.Text)
	if err != nil {
		d.r.t.Error(err)
		return
	}
	d.note("%d: %s %s", session, parsed.Method, parsed.Get("Stream-Channel"))
	if parsed.Method == "PUBLISH-REQUEST" {
		text := wire.Append(nil, "PUBLISH-ACCEPT", "Request-ID", parsed.Get("Request-ID"), "Stream-Channel", parsed.Get("Stream-Channel"), "Stream-ID", "id")
		memo := link.Memo{Name: link.PublicationMemo + "7", Value: []byte("live")}
		g.Send(link.With(link.KindSay, session, &link.Say{Items: []link.Item{{Text: text, Answers: m.Number, Memos: []link.Memo{memo}}}}), nil)
		return
	}
	g.Send(link.With(link.KindDone, session, &link.Done{Number: m.Number}), nil)
}

func (d *decider) Gone(g *linkserver.Gateway, session uint64, n link.Gone) {
	d.note("gone %d", session)
	g.Send(link.With(link.KindDone, session, &link.Done{Number: n.Number}), nil)
}

func (d *decider) Late(_ *linkserver.Gateway, session uint64, _ link.Late) {
	d.note("late %d", session)
}
func (d *decider) Alive(_ *linkserver.Gateway, session uint64) { d.note("alive %d", session) }
func (d *decider) Absent(*linkserver.Gateway)                  { d.note("absent") }
func (d *decider) Present(*linkserver.Gateway)                 { d.note("present") }
func (d *decider) Lost(_ *linkserver.Gateway, reason error)    { d.note("lost: %v", reason) }
func (d *decider) Numbers(uint64)                              {}

func (d *decider) known() (ids []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.gateways {
		ids = append(ids, id)
	}
	return ids
}

func TestPeersOutliveLinksAndCoordinators(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		d := r.decider("t1")
		r.wait(time.Second)
		p := r.connect("rtmp")
		sendText(t, p, request("1", "c"))
		p.ExpectEventually("PUBLISH-ACCEPT")
		d.want("attach 1 RTMP id 0 memos 0", "1: PUBLISH-REQUEST c")

		// The link breaks: both go on by number.
		d.cut()
		synctest.Wait()
		sendText(t, p, "PUBLISH-END\nStream-Channel:c\nStream-ID:id\n")
		r.wait(2 * time.Second)
		d.want("absent", "present", "1: PUBLISH-END c")
		r.wantState("all is done with", func(s State) bool { return s.Kept == 0 && s.Linked && s.UnacknowledgedBytes == 0 })

		// The coordinator stops, the peer says something, and another coordinator comes.
		d.links.Close("update")
		d.http.Close()
		r.away("c1")
		sendText(t, p, request("2", "d"))
		r.wait(3 * time.Second)
		next := r.decider("t2", d.known()...)
		r.wait(3 * time.Second)
		next.want("attach 1 RTMP id 101 memos 1", "1: PUBLISH-REQUEST d")
		select {
		case <-next.links.Gathered():
		default:
			t.Error("the gateway is there, and still awaited")
		}
		p.ExpectEventually("PUBLISH-ACCEPT")

		p.Conn.Close()
		r.wait(time.Second)
		next.want("gone 1")
		r.stop()
		synctest.Wait()
		next.want("lost: it has left: the gateway stops")
	})
}

// Whenever the link is cut, each message comes once and in order, and each answer, too.
func TestNothingIsLostOrDoubledOverLinksThatBreak(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		d := r.decider("t1")
		r.wait(time.Second)
		p := r.connect("rtmp")
		var want []string
		for i := range 300 {
			channel := fmt.Sprint("c", i)
			sendText(t, p, request(fmt.Sprint(i), channel))
			want = append(want, "1: PUBLISH-REQUEST "+channel)
			if rand.IntN(4) == 0 {
				d.cut()
			}
			<-time.After(time.Duration(rand.IntN(40)) * time.Millisecond)
		}
		r.wait(5 * time.Second)
		got := slices.DeleteFunc(d.take(), func(what string) bool { return what == "absent" || what == "present" || what[:6] == "attach" })
		if !slices.Equal(got, want) {
			t.Fatalf("%d messages came, want %d: %q", len(got), len(want), got)
		}
		for i := range want {
			if id := p.ExpectEventually("PUBLISH-ACCEPT").Get("Request-ID"); id != fmt.Sprint(i) {
				t.Fatalf("answer %d is for request %s", i, id)
			}
		}
		if synctest.Wait(); len(p.In) > 0 {
			t.Errorf("%d messages more", len(p.In))
		}
	})
}

// The leader is deposed and does not know it: it is told so, the gateway goes on with the next one, and when the old one has come
// to its senses it is not obeyed.
func TestGatewayTellsADeposedLeaderAndGoesOnWithTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		old := r.deciderAt("c1", 3, "t3")
		r.wait(time.Second)
		p := r.connect("rtmp")
		sendText(t, p, request("1", "c"))
		p.ExpectEventually("PUBLISH-ACCEPT")
		old.want("attach 1 RTMP id 0 memos 0", "1: PUBLISH-REQUEST c")
		next := r.deciderAt("c2", 4, "t4", old.known()...)
		r.wait(lookRound + 500*time.Millisecond)
		old.want("heard of epoch 4", "absent")
		next.want("attach 1 RTMP id 101 memos 1")
		sendText(t, p, request("2", "d"))
		p.ExpectEventually("PUBLISH-ACCEPT")
		next.want("1: PUBLISH-REQUEST d")

		// The next one is away for a moment. The old one says that it leads, and hears at once of the higher epoch.
		next.standBy(true)
		r.away("c2")
		next.cut()
		r.wait(3 * time.Second)
		r.wantState("no link with the old one", func(s State) bool { return !s.Linked && s.Sessions == 1 })
		if told := old.take(); len(told) < 2 || told[0] != "heard of epoch 4" {
			t.Errorf("the old one is told %q", told)
		}
	})
}

// What a linkserver says of its doubt has a gateway look for others at once.
func TestDoubtOfALeaderHasTheNextOneFollowedSooner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1", "c2")
		old := r.deciderAt("c1", 3, "t3")
		next := r.replica("c2", 0)
		r.wait(time.Second)
		old.links.SetUnsure(true)
		r.wait(time.Second)
		before := next.questions()
		r.wait(10 * time.Second) // no frame comes in this time but signs of life
		if n := next.questions() - before; n < 19 || n > 21 {
			t.Errorf("asked %d times in 10 s of doubt", n)
		}
		next.lead(4)
		began := time.Now()
		next.await()
		if took := time.Since(began); took > lookRoundUnsure+leaveWithin+othersAnswer {
			t.Errorf("it follows after %v", took)
		}
		next.lead(0)
		old.links.SetUnsure(false)
	})
}

// A leader that ends for good is followed within a second of the next one's lead, and with requests of publishers that came between.
func TestNextLeaderIsFollowedWithinASecond(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*rig, *decider){
		"stopped": func(r *rig, d *decider) {
			d.standBy(true)
			d.links.Close("this coordinator is stopping")
			r.away("c1")
		},
		"deposed, and knows it": func(_ *rig, d *decider) {
			d.standBy(true)
			d.links.Close("another coordinator leads")
		},
		"dead": func(r *rig, d *decider) {
			r.away("c1")
			d.cut()
		},
		"frozen": func(r *rig, d *decider) { r.at("c1", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "c1", "c2")
				old := r.deciderAt("c1", 3, "t3")
				r.wait(time.Second)
				p := r.connect("rtmp")
				synctest.Wait()
				end(r, old)
				synctest.Wait()
				if name != "frozen" {
					sendText(t, p, request("1", "c"))
				}
				r.wait(6 * time.Second)
				next := r.deciderAt("c2", 4, "t4", old.known()...)
				within := time.Second
				if name == "frozen" { // its link is up
					within = lookRound + lookRoundUnsure
				}
				r.wait(within)
				if name != "frozen" {
					p.ExpectEventually("PUBLISH-ACCEPT")
				}
				r.wantState("it is linked with the next one", func(s State) bool { return s.Linked && s.Links == 2 })
				if told := next.take(); len(told) == 0 {
					t.Error("the next one has heard nothing")
				}
				if r.logs.Count("level=ERROR") > 0 {
					t.Errorf("errors of a change of leaders:\n%s", r.logs)
				}
			})
		})
	}
}
