// Loadtest plays streaming servers, encoders and the application against a coordinator and says what it took and
// whether an event was lost, repeated or out of order. Without arguments it compares the coordinator of this module with
// a bare program that moves the same messages and requests (loadtest/floor):
//
//	go run ./loadtest
//
// With -profile failover it is a drill of the standby: it starts PostgreSQL, two coordinators and two gateways, kills the
// coordinator that leads, again and again, and says for how long publishers had to wait and whether anybody else noticed.
//
// It connects to this machine only (but for -database), ends by itself, and exits with 1 when anything was lost or out of order.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// options are the flags, and what is common to a run.
type options struct {
	profile           string
	addr, application string
	duration          time.Duration
	count             int
	concurrency       int
	rate              float64
	held              int
	connections       int
	streams           int
	outage            time.Duration
	gateways          int
	servers, encoders int
	kills             int
	killEvery         time.Duration
	gentle            bool
	database          string
	snapshot          bool
	pending           int
	json              bool

	dir      string // for programs, their data and logs; removed at the end
	secret   string // CONTROL_SECRET
	progress *progress
}

func main() {
	signal.Ignore(syscall.SIGPIPE) // a reader that goes must not leave the coordinator running
	ends := []os.Signal{syscall.SIGTERM, syscall.SIGINT}
	if !signal.Ignored(syscall.SIGHUP) { // a terminal that closes must not leave programs running, nohup may
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, release := signal.NotifyContext(context.Background(), ends...)
	defer release()
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadtest:", err)
		os.Exit(2)
	}
	clean, err := run(ctx, o, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadtest:", err)
	}
	if err != nil || !clean {
		release()
		os.Exit(1)
	}
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{secret: os.Getenv("CONTROL_SECRET")}
	f := flag.NewFlagSet("loadtest", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { usage(f) }
	f.StringVar(&o.profile, "profile", "compare", "what to play")
	f.StringVar(&o.addr, "addr", "", "host:port of a coordinator that runs already, or of one of its gateways, on this machine, with KEY_VERIFICATION_URL and EVENT_CALLBACK_URL as -application says; CONTROL_SECRET is taken from the environment")
	f.StringVar(&o.application, "application", "127.0.0.1:9090", "with -addr: where the application listens, for http://HOST:PORT/ (keys) and http://HOST:PORT+1/ (events)")
	f.DurationVar(&o.duration, "duration", 15*time.Second, "how long lives are begun")
	f.IntVar(&o.count, "count", 0, "life: end after so many lives (0: by -duration)")
	f.IntVar(&o.concurrency, "concurrency", 64, "lives at once in a closed loop")
	f.Float64Var(&o.rate, "rate", 0, "rate, outage, failover, database: lives per second (0: rate takes half of what a closed loop reaches, outage 200, failover 100, database 1000)")
	f.IntVar(&o.held, "held", 0, "life, rate, failover, database: streams that are live in the background (0: failover 100)")
	f.IntVar(&o.connections, "connections", 0, "hold, storm, resume: idle control connections, peers that go and come back, streaming servers that stay (0: 10000, 5000, 10000)")
	f.IntVar(&o.streams, "streams", 100000, "hold, growth, resume: live streams")
	f.DurationVar(&o.outage, "outage", 5*time.Second, "outage: how long events are refused")
	f.IntVar(&o.gateways, "gateways", 0, "gateways that peers are spread over (0: resume and failover take 2; in all others peers dial the coordinator)")
	f.IntVar(&o.kills, "kills", 5, "failover: how often the leader is killed")
	f.DurationVar(&o.killEvery, "kill-every", 0, "failover: time from kill to kill; longer if a takeover is not over by then (0: 12s, with -gentle 4s)")
	f.BoolVar(&o.gentle, "gentle", false, "failover: the leader is stopped (SIGTERM) instead of killed")
	f.IntVar(&o.pending, "pending", 0, "failover: so many events wait in the database, because the application is gone until the drill ends")
	f.BoolVar(&o.snapshot, "snapshot", false, "database: somebody holds a snapshot all the while, so that no dead row can go")
	f.StringVar(&o.database, "database", "", "failover, database: postgres://user:password@host/database of a server where a database is made for the run, and dropped after it (\"\": a server is started)")
	f.IntVar(&o.servers, "servers", 4, "streaming servers that the lives are spread over")
	f.IntVar(&o.encoders, "encoders", 2, "encoders")
	f.BoolVar(&o.json, "json", false, "write JSON instead of the table")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unknown argument %q", f.Arg(0))
	case o.profile != demoProfile && profileOf(o.profile) == nil:
		return nil, fmt.Errorf("there is no profile %q: see -help", o.profile)
	case o.duration <= 0 || o.concurrency < 1 || o.servers < 1 || o.encoders < 1:
		return nil, errors.New("-duration, -concurrency, -servers and -encoders must be positive")
	case o.count < 0 || o.rate < 0 || o.held < 0 || o.connections < 0 || o.streams < 0 || o.outage < 0 || o.gateways < 0 || o.pending < 0:
		return nil, errors.New("no number may be negative")
	case o.kills < 1 || o.killEvery < 0:
		return nil, errors.New("-kills must be positive, and -kill-every not negative")
	case o.gateways > 0 && o.profile == demoProfile:
		return nil, errors.New("-profile demo has no gateways")
	case o.gateways > 0 && o.addr != "":
		return nil, errors.New("gateways are started together with the coordinator: -gateways needs no -addr")
	}
	if o.addr == "" {
		return o, nil
	}
	switch o.profile {
	case "compare", "growth", "resume", "failover", "database", demoProfile:
		return nil, fmt.Errorf("-profile %s starts its own programs: it needs no -addr", o.profile)
	}
	return o, errors.Join(loopbackOnly(o.addr), loopbackOnly(o.application))
}

// run plays the profile and writes the report. clean is false when anything was lost or out of order.
func run(ctx context.Context, o *options, stdout io.Writer, stderr *os.File) (clean bool, err error) {
	if o.dir, err = os.MkdirTemp("", "loadtest-"); err != nil {
		return false, err
	}
	defer os.RemoveAll(o.dir)
	if o.profile == demoProfile {
		return true, playDemo(ctx, o, stdout)
	}
	o.progress = newProgress(stderr)
	var writing sync.WaitGroup
	stop := make(chan struct{})
	writing.Go(func() { o.progress.run(stop) })
	r, err := profileOf(o.profile)(ctx, o)
	close(stop)
	writing.Wait()
	if err != nil {
		return false, err
	}
	if o.json {
		err = r.writeJSON(stdout)
	} else {
		err = r.writeTable(stdout)
	}
	return len(r.Faults) == 0, err
}

// profile plays one kind of load. An error is for what kept it from being played to its end; what the coordinator did
// wrong is in the report.
type profile func(context.Context, *options) (*report, error)

type namedProfile struct {
	name string
	play profile
	what string
}

func profiles() []namedProfile {
	return []namedProfile{
		{"compare", compare, "lives in a closed loop, the coordinator and the bare program in turn, and the ratios;\n           with -gateways: the coordinator without and with gateways, and at half the highest rate of both"},
		{"growth", growth, "the same for the coordinator with -streams live streams and with 100"},
		{"life", livesInClosedLoop, "lives in a closed loop, -concurrency at once: the next begins when one is over"},
		{"rate", livesAtRate, "lives in an open loop at -rate, timed from when they should have begun"},
		{"hold", holdMany, "-connections and -streams held: memory of each, time and CPU of capacity and report"},
		{"storm", storm, "-connections peers with a stream each gone and back at once"},
		{"outage", outage, "lives at -rate while the application refuses events for -outage"},
		{"resume", resume, "-connections and -streams held at gateways while the coordinator is killed and started again"},
		{"failover", failover, "lives at -rate while the leader of two coordinators that share PostgreSQL is killed, -kills times, and comes\n           back as the one that stands by: a drill"},
		{"database", livesWithDatabase, "lives at -rate, timed as with rate, while PostgreSQL keeps the events: what that costs"},
		{demoProfile, nil, "a small cluster to look at, with a coordinator on port 8080, until it is interrupted"},
	}
}

func profileOf(name string) profile {
	for _, p := range profiles() {
		if p.name == name {
			return p.play
		}
	}
	return nil
}

func usage(f *flag.FlagSet) {
	fmt.Fprintln(f.Output(), "usage: go run ./loadtest [flags]\n\nprofiles:")
	for _, p := range profiles() {
		fmt.Fprintf(f.Output(), "  %-8s %s\n", p.name, p.what)
	}
	fmt.Fprintln(f.Output(), "\nflags:")
	f.PrintDefaults()
}
