package e2e

// What is wrong with the database is said in words that help, and when it is right again all goes on.

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/pgtest"
)

const whoLeads = "the database does not say who leads"

// guarded is a server that asks for passwords and TLS.
type guarded struct {
	*pgtest.Server
	address string
}

// newGuarded starts a server where "tls" needs TLS, "password" the password "right", and "poor" may do nothing.
func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{pgtest.New(t), fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))}
	g.Stop()
	g.Start(t, append(g.WithTLS(t), "listen_addresses="+g.address)...)
	pgtest.Exec(t, g.URL("postgres"), "CREATE ROLE tls LOGIN; CREATE ROLE password LOGIN PASSWORD 'right'; CREATE ROLE poor LOGIN")
	g.demandTLS(t, true)
	return g
}

func (g *guarded) demandTLS(t *testing.T, demanded bool) {
	t.Helper()
	host := "host"
	if demanded {
		host = "hostssl"
	}
	g.Access(t, host+" all tls all trust", "host all password all scram-sha-256", "host all poor all trust")
}

// newDatabase makes a database where the first two users may make tables.
func (g *guarded) newDatabase(t *testing.T) string {
	t.Helper()
	database := g.NewDatabase(t)
	pgtest.Exec(t, database, "GRANT CREATE ON SCHEMA public TO tls, password")
	return database
}

func (g *guarded) url(user, database, query string) string {
	return g.AtAddress(g.address, user, database) + "?" + query
}

// grantTables is what the owner of a database does for a user who may not make tables.
func grantTables(t *testing.T, database, user string) {
	t.Helper()
	out, err := exec.Command(coordinatorBinary, "-schema").Output()
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, database, string(out)+"; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "+user)
}

func TestDatabaseFaultsAtTheStart(t *testing.T) {
	t.Parallel()
	notWithRaces(t)
	onlyDirect(t, ofTheProcess)
	server := newGuarded(t)
	for name, fault := range map[string]struct {
		user, query, words string
		prepare, mend      func(t *testing.T, database string)
	}{
		"wrong password": {"password:secret-word", "", "the database refuses the password of DATABASE_URL", nil,
			func(t *testing.T, database string) {
				pgtest.Exec(t, database, "ALTER ROLE password PASSWORD 'secret-word'")
			}},
		"no rights": {"poor", "", "have the owner run what coordinator -schema prints", nil,
			func(t *testing.T, database string) { grantTables(t, database, "poor") }},
		"TLS is demanded": {"tls", "sslmode=disable", "the database wants TLS: add sslmode=verify-full to DATABASE_URL", nil,
			func(t *testing.T, _ string) { server.demandTLS(t, false) }},
		"a newer version has made the tables": {"poor", "", "the database has format 9, and this version knows up to 2: update this coordinator",
			func(t *testing.T, database string) {
				grantTables(t, database, "poor")
				pgtest.Exec(t, database, "UPDATE coordinator_format SET version = 9")
			},
			func(t *testing.T, database string) {
				pgtest.Exec(t, database, "UPDATE coordinator_format SET version = 2")
			}},
		"a certificate that nobody knows": {"tls", "sslmode=verify-full", "the certificate of the database is not to be trusted", nil, nil},
		"no such host":                    {"", "", "no such host", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := server.newDatabase(t)
			url := server.url(fault.user, database, fault.query)
			if fault.user == "" {
				url = "postgres://u:secret-word@database.invalid/d"
			}
			if fault.prepare != nil {
				fault.prepare(t, database)
			}
			p := clustertest.Serve(t, coordinatorBinary, "DATABASE_URL="+url, "GATEWAY_SECRET="+gatewaySecret)
			p.Logs.Await(t, "level=ERROR", whoLeads, fault.words)
			for path, want := range map[string]int{"/livez": http.StatusOK, "/readyz": http.StatusServiceUnavailable, "/leader": http.StatusServiceUnavailable} {
				if status, _ := p.Call("GET", path); status != want {
					t.Errorf("%s: %d", path, status)
				}
			}
			if p.Logs.Count("secret-word") > 0 {
				t.Error("the password is in the log")
			}
			if fault.mend != nil {
				fault.mend(t, database)
				p.Logs.Await(t, "the database answers again")
				p.Logs.Await(t, "this coordinator leads now")
				awaitReady(p)
			}
			p.Signal(syscall.SIGTERM)
			p.AwaitExit(0)
		})
	}
}

// The outbox of another cluster is not taken over. Whoever leads and refuses it says so, and gives up the lead.
func TestOutboxOfAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	notWithRaces(t)
	onlyDirect(t, ofTheProcess)
	database := "DATABASE_URL=" + pgtest.New(t).NewDatabase(t)
	secret, data := "GATEWAY_SECRET="+gatewaySecret, "DATA_DIR="+filepath.Join(t.TempDir(), "data")
	for _, store := range []string{data, database} {
		p := clustertest.Serve(t, coordinatorBinary, store, secret)
		if store == database {
			p.Logs.Await(t, "this coordinator leads now")
		}
		awaitReady(p)
		p.Signal(syscall.SIGTERM)
		p.AwaitExit(0)
	}
	p := clustertest.Serve(t, coordinatorBinary, data, database, secret)
	p.Logs.Await(t, "level=ERROR", "can't begin its work", "that of DATA_DIR is another one")
	p.Logs.Await(t, "level=ERROR", "gives up the lead", "that of DATA_DIR is another one")
}

func awaitReady(p *clustertest.Process) { p.AwaitMetrics(map[string]float64{"coordinator_ready": 1}) }

// The user of coordinators that run loses its password, its rights or its way in. What is live stays, who asks waits, and the same coordinator goes on.
func TestDatabaseFaultsWhileItRuns(t *testing.T) {
	t.Parallel()
	notWithRaces(t)
	for name, fault := range map[string]struct {
		user, query, words string
		begin, end         func(t *testing.T, server *guarded, database string)
		isBig              bool
	}{
		"another password": {"password:right", "", "the database refuses the password of DATABASE_URL",
			func(t *testing.T, _ *guarded, database string) {
				pgtest.Exec(t, database, "ALTER ROLE password PASSWORD 'another'")
			},
			func(t *testing.T, _ *guarded, database string) {
				pgtest.Exec(t, database, "ALTER ROLE password PASSWORD 'right'")
			}, false},
		"no rights": {"poor", "", "lacks rights",
			func(t *testing.T, _ *guarded, database string) {
				pgtest.Exec(t, database, "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM poor")
			},
			func(t *testing.T, _ *guarded, database string) { grantTables(t, database, "poor") }, false},
		"TLS is demanded": {"tls", "sslmode=disable", "the database wants TLS",
			func(t *testing.T, server *guarded, _ string) { server.demandTLS(t, true) },
			func(t *testing.T, server *guarded, _ string) { server.demandTLS(t, false) }, true},
		"a newer version has made the tables": {"poor", "", "update this coordinator",
			func(t *testing.T, _ *guarded, database string) {
				pgtest.Exec(t, database, "UPDATE coordinator_format SET version = 9")
			},
			func(t *testing.T, _ *guarded, database string) {
				pgtest.Exec(t, database, "UPDATE coordinator_format SET version = 2")
			}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if fault.isBig {
				onlyBig(t)
			}
			server := newGuarded(t)
			server.demandTLS(t, false)
			database := server.newDatabase(t)
			if fault.user == "poor" {
				grantTables(t, database, "poor")
			}
			app := clustertest.NewApplication(t)
			c := newClusterOn(t, server.url(fault.user, database, fault.query), app.Variables()...)
			c.addGateway(false)
			c.awaitLinked()
			epoch := c.epoch()
			streamer := c.gateways[0].DialPeer("rtmp")
			encoder, _ := c.gateways[0].Register(4)
			id, told := liveShow(t, app, streamer, encoder, "show")
			c.awaitDone()

			fault.begin(t, server, database)
			for _, p := range []*clustertest.Process{c.p, c.standby} {
				awaitSaid(t, p, func() { server.HangUp(t) }, whoLeads, fault.words)
			}
			c.p.Logs.Await(t, "no longer sure that it leads")
			streamer.Request("meanwhile", "key")
			encoder.Available("show", id, "HLS-LIVE", "1x1", "meanwhile")
			told = append(told, "stream-available show "+id+" HLS-LIVE 1x1 meanwhile")
			streamer.Quiet()
			fault.end(t, server, database)
			ended := time.Now()
			started := encoder.Expect("ENCODE-START", "Stream-Channel", "meanwhile")
			within(t, time.Since(ended), 3*time.Second, "the publisher who waited is let in")
			streamer.Expect("PUBLISH-ACCEPT", "Stream-Channel", "meanwhile")
			app.AwaitStream(id, told...)
			for _, p := range []*clustertest.Process{c.p, c.standby} {
				p.Logs.Await(t, "the database answers again")
			}
			streamer.End("meanwhile", started.Get("Stream-ID"))
			encoder.Expect("ENCODE-STOP", "Stream-ID", started.Get("Stream-ID"))
			encoder.Closed("meanwhile", started.Get("Stream-ID"))
			endShow(app, streamer, encoder, "show", id, told)
			wantOneContentPerID(t, app)
			c.awaitIdle()
			c.wantSameLeader(epoch)
		})
	}
}

// awaitSaid does something again and again until a line of the log holds all parts.
func awaitSaid(t *testing.T, p *clustertest.Process, do func(), parts ...string) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); ; <-tick.C {
		do()
		for line := range strings.Lines(p.Logs.String()) {
			missing := false
			for _, part := range parts {
				missing = missing || !strings.Contains(line, part)
			}
			if !missing {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no log line with %q in:\n%s", parts, p.Logs)
		}
	}
}

// The disk of the tables is full. What is live stays, nobody is let in, and the same coordinator leads. Once there is room all goes on.
func TestDatabaseWithAFullDisk(t *testing.T) {
	t.Parallel()
	notWithRaces(t)
	server := pgtest.New(t)
	volume := server.Volume(t, 32)
	others := filepath.Join(volume, "others")
	database := server.NewDatabaseOn(t, volume)
	app := clustertest.NewApplication(t)
	c := newClusterOn(t, database, app.Variables()...)
	c.addGateway(false)
	c.awaitLinked()
	epoch := c.epoch()
	streamer := c.gateways[0].DialPeer("rtmp")
	encoder, _ := c.gateways[0].Register(4)
	id, told := liveShow(t, app, streamer, encoder, "show")
	fill(t, others)
	full := func() bool { return c.p.Logs.Count("the disk of the database is full") > 0 }
	for n := 0; !full(); n++ {
		if n == 50_000 {
			t.Fatal("the disk is never full")
		}
		index := fmt.Sprint(n, strings.Repeat("i", 800))
		encoder.Available("show", id, "HLS-LIVE", "1x1", index)
		told = append(told, "stream-available show "+id+" HLS-LIVE 1x1 "+index)
		if n%100 == 99 {
			c.awaitAllSaid(full)
		}
	}
	c.p.Logs.Await(t, "level=ERROR", "the disk of the database is full")
	streamer.Request("meanwhile", "key")
	streamer.ExpectDenied("meanwhile")
	if m := c.p.Scrape(); m["coordinator_leader_sure"] != 1 {
		t.Error("a coordinator whose database has no room is not sure to lead")
	}
	if err := os.Remove(others); err != nil {
		t.Fatal(err)
	}
	c.p.Logs.Await(t, "events can be kept again")
	app.AwaitStream(id, told...)
	next, toldNext := liveShow(t, app, streamer, encoder, "next")
	endShow(app, streamer, encoder, "next", next, toldNext)
	endShow(app, streamer, encoder, "show", id, told)
	wantOneContentPerID(t, app)
	c.awaitIdle()
	c.wantSameLeader(epoch)
}

// awaitAllSaid waits until gateways keep no messages, or something else has happened.
func (c *gatewayCluster) awaitAllSaid(happened func() bool) {
	c.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); !happened() && c.gateways[0].Scrape()["gateway_kept_messages"] > 0; <-tick.C {
		if time.Now().After(deadline) {
			c.Fatal("messages are kept for ever")
		}
	}
}

// The disk of the write-ahead log is full: PostgreSQL ends by itself, and can't start before there is room.
func TestDatabaseWhoseLogHasNoRoom(t *testing.T) {
	t.Parallel()
	notWithRaces(t)
	server := pgtest.New(t)
	database := server.NewDatabase(t)
	server.Stop()
	volume := server.Volume(t, 96)
	server.MoveLog(t, volume)
	server.Start(t)
	others := filepath.Join(volume, "others")
	app := clustertest.NewApplication(t)
	c := newClusterOn(t, database, app.Variables()...)
	c.addGateway(false)
	c.awaitLinked()
	epoch := c.epoch()
	streamer := c.gateways[0].DialPeer("rtmp")
	encoder, _ := c.gateways[0].Register(4)
	id, told := liveShow(t, app, streamer, encoder, "show")
	fill(t, others)
	for n := 0; pgtest.TryExec(database, "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 4000000))") == nil; n++ {
		if n == 100 {
			t.Fatal("the disk is never full")
		}
	}
	c.p.Logs.Await(t, "no longer sure that it leads")
	c.p.Logs.Await(t, "level=ERROR", whoLeads)
	encoder.Available("show", id, "HLS-LIVE", "1x1", "meanwhile")
	told = append(told, "stream-available show "+id+" HLS-LIVE 1x1 meanwhile")
	streamer.Request("meanwhile", "key")
	streamer.Quiet()
	if err := os.Remove(others); err != nil {
		t.Fatal(err)
	}
	if server.HasEnded() {
		server.Start(t)
	}
	started := encoder.Expect("ENCODE-START", "Stream-Channel", "meanwhile")
	streamer.Expect("PUBLISH-ACCEPT", "Stream-Channel", "meanwhile")
	streamer.End("meanwhile", started.Get("Stream-ID"))
	encoder.Expect("ENCODE-STOP", "Stream-ID", started.Get("Stream-ID"))
	encoder.Closed("meanwhile", started.Get("Stream-ID"))
	app.AwaitStream(id, told...)
	endShow(app, streamer, encoder, "show", id, told)
	wantOneContentPerID(t, app)
	c.awaitIdle()
	c.wantSameLeader(epoch)
}
