package main

// The command line: without a flag the daemon runs; each flag does one thing and ends.
//
// Rules: exit status 0 is done, 1 is a failure that is said on stderr, in the form that LOG_FORMAT asks for, 2 is a
// command line that can't be understood. What was asked for goes to stdout. All that is said on stderr goes through one
// logs.Writer: a pipe that nobody reads must not hold up a start that fails, or an end.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"coordinator/internal/buildinfo"
	"coordinator/internal/dotenv"
	"coordinator/internal/logs"
	"coordinator/internal/pgstore"

	"github.com/golang-jwt/jwt/v5"
)

const healthcheckLimit = 3 * time.Second

// invocation is what a process is started with.
type invocation struct {
	args           []string // without the program's name
	environ        []string // NAME=value
	dotEnv         string   // path of the file that fills in what environ leaves out
	stdout, stderr io.Writer
	hangup         <-chan os.Signal // for the daemon
}

// execute carries out the command line and returns the exit status.
func (i invocation) execute(ctx context.Context) int {
	getenv, _, _ := i.variables()
	logJSON := wantsJSON(getenv)
	stderr := logs.NewWriter(i.stderr, logJSON)
	defer stderr.Close()
	i.stderr = stderr

	flags := flag.NewFlagSet(programName, flag.ContinueOnError)
	flags.SetOutput(i.stderr)
	flags.Usage = func() {} // said below, where it is known whether it was asked for
	showVersion := flags.Bool("version", false, "print the version, commit and date of this program")
	check := flags.Bool("check", false, "check the configuration and print what would be used, without secrets")
	schema := flags.Bool("schema", false, "print what the database of DATABASE_URL needs, as SQL")
	healthcheck := flags.Bool("healthcheck", false, "ask the process that runs with this configuration whether it is alive")
	var tokenSubject string
	flags.Func("token", "print a control token of CONTROL_SECRET for a `peer`: rtmp, wss or hls", func(peer string) error {
		if !slices.Contains([]string{"rtmp", "wss", "hls"}, peer) {
			return errors.New("must be rtmp, wss or hls")
		}
		tokenSubject = peer + "-control"
		return nil
	})
	switch err := flags.Parse(i.args); {
	case errors.Is(err, flag.ErrHelp):
		printUsage(i.stdout, flags)
		return 0
	case err != nil:
		printUsage(i.stderr, flags)
		return 2
	case flags.NArg() > 0 || flags.NFlag() > 1:
		fmt.Fprintln(i.stderr, "at most one flag, and nothing else")
		printUsage(i.stderr, flags)
		return 2
	}

	var err error
	switch {
	case *showVersion:
		build := buildinfo.Get()
		fmt.Fprintf(i.stdout, "%s %s\ncommit %s\ndate %s\n%s %s/%s\n", programName, build.Version, build.Commit, build.Date, build.Go, runtime.GOOS, runtime.GOARCH)
	case *schema:
		fmt.Fprint(i.stdout, pgstore.Schema())
	case *check:
		err = i.check()
	case *healthcheck:
		err = i.healthcheck(ctx)
	case tokenSubject != "":
		err = i.printToken(tokenSubject)
	default:
		err = i.serve(ctx, stderr)
	}
	switch {
	case err == nil:
		return 0
	case logJSON:
		log := logs.New(stderr, true, false)
		for fault := range strings.SplitSeq(err.Error(), "\n") {
			log.Error("exiting with status 1", "error", fault)
		}
	default:
		fmt.Fprintf(stderr, "%s: %v\n", programName, err)
	}
	return 1
}

// printUsage prints what -h does. The manual page is made from it, too: see internal/manpage.
func printUsage(w io.Writer, flags *flag.FlagSet) {
	fmt.Fprintf(w, `Usage: %s [flag]

Without a flag it runs: as a gateway if COORDINATOR_URL is set, else as a coordinator.
Environment variables and a .env file in the working directory configure it; they are
described in coordinator(1) and docs/configuration.md.

`, programName)
	flags.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  %-14s%s\n", "-"+strings.TrimSpace(f.Name+" "+value), usage)
	})
	fmt.Fprintf(w, "  %-14s%s\n", "-h", "print this help")
}

func (i invocation) serve(ctx context.Context, stderr *logs.Writer) error {
	getenv, err := i.getenv()
	if err != nil {
		return err
	}
	return run(ctx, getenv, stderr, i.hangup)
}

// check prints what the daemon would be and use, as it would be written in a .env file, but for the secrets. It asks
// nobody: that a coordinator or an application answers is not for the start to wait for.
func (i invocation) check() error {
	cfg, err := i.config()
	if err != nil {
		return err
	}
	if _, err := configuredCertificate(cfg); err != nil {
		return err
	}
	fmt.Fprint(i.stdout, describeRole(cfg))
	for _, setting := range []struct {
		name  string
		value any
	}{
		{"HTTP_PORT", cfg.HTTPPort},
		{"BIND_ADDRESS", cfg.BindAddress},
		{"SSL_PORT", cfg.SSLPort},
		{"SSL_CERT", cfg.SSLCert},
		{"SSL_KEY", cfg.SSLKey},
		{"SSL_CHECK_RELOAD_SECONDS", cfg.SSLCheckReload.Seconds()},
		{"CONTROL_SECRET", cfg.ControlSecret},
		{"LOG_REQUESTS", either(cfg.LogRequests, "YES", "NO")},
		{"LOG_DEBUG", either(cfg.LogDebug, "YES", "NO")},
		{"LOG_FORMAT", either(cfg.LogJSON, "json", "text")},
		{"ID_MAX_LENGTH", cfg.IDMaxLength},
		{"DATA_DIR", cfg.DataDir},
		{"DATABASE_URL", cfg.DatabaseURL},
		{"KEY_VERIFICATION_URL", cfg.KeyVerificationURL},
		{"KEY_VERIFICATION_AUTH", cfg.KeyVerificationAuth},
		{"EVENT_CALLBACK_URL", cfg.EventCallbackURL},
		{"EVENT_CALLBACK_AUTH", cfg.EventCallbackAuth},
		{"COMMANDS_API_AUTH", cfg.CommandsAuth},
		{"GATEWAY_SECRET", cfg.GatewaySecret},
		{"COORDINATOR_URL", joinURLs(cfg.CoordinatorURLs)},
		{"ENCODER_WAIT_SECONDS", cfg.EncoderWait.Seconds()},
		{"ENCODER_FAILOVER", either(cfg.EncoderFailover, "YES", "NO")},
		{"STREAM_START_TIMEOUT", cfg.StreamStartTimeout.Seconds()},
		{"PLACEMENT", cfg.Placement},
		{"EVENT_CALLBACK_EXTRA", either(cfg.EventCallbackExtra, "YES", "NO")},
		{"PUBLISH_TAKEOVER", either(cfg.PublishTakeover, "YES", "NO")},
	} {
		if !cfg.isGateway() || usedByGateway(setting.name) {
			fmt.Fprintf(i.stdout, "%s=%v\n", setting.name, setting.value)
		}
	}
	return nil
}

// describeRole says in comments what the process is, and what it has to do with gateways.
func describeRole(cfg *Config) string {
	switch {
	case cfg.DatabaseURL != "" && cfg.GatewaySecret == "":
		return "# a coordinator that leads or stands by, as the database decides\n# no gateway may link: GATEWAY_SECRET is not set; peers lose their connections when another coordinator takes over\n"
	case cfg.DatabaseURL != "" && !cfg.isGateway():
		return "# a coordinator that leads or stands by, as the database decides\n# gateways may link to the one that leads\n"
	case !cfg.isGateway() && cfg.GatewaySecret == "":
		return "# a coordinator\n# no gateway may link: GATEWAY_SECRET is not set\n"
	case !cfg.isGateway():
		return "# a coordinator\n# gateways may link; which ones do is kept in DATA_DIR, and after a start it waits for them\n"
	}
	role := "# a gateway\n# it holds the connections of peers and links to " + cfg.CoordinatorURLs[0].String()
	if len(cfg.CoordinatorURLs) > 1 {
		role += ", or to another of its URLs if that one leads"
	}
	for _, u := range cfg.CoordinatorURLs {
		if isInsecure(u) {
			role += "\n# whoever can listen on the way to " + u.Host + " sees stream keys: use https://"
		}
	}
	return role + "\n"
}

func joinURLs(urls []*url.URL) string {
	var list []string
	for _, u := range urls {
		list = append(list, u.String())
	}
	return strings.Join(list, ",")
}

func either(condition bool, yes, no string) string {
	if condition {
		return yes
	}
	return no
}

// healthcheck asks /livez of the daemon on this machine that runs with the same configuration.
func (i invocation) healthcheck(ctx context.Context) error {
	cfg, err := i.config()
	if err != nil {
		return err
	}
	if cfg.HTTPPort == 0 {
		return errors.New("HTTP_PORT is 0: only the daemon knows its port")
	}
	ctx, cancel := context.WithTimeout(ctx, healthcheckLimit)
	defer cancel()
	address := net.JoinHostPort(reachable(cfg.BindAddress), strconv.Itoa(cfg.HTTPPort))
	livez := url.URL{Scheme: "http", Host: address, Path: "/livez"}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, livez.String(), nil)
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	reply, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request) // no proxy, no redirects
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("healthcheck: status %d from %s", reply.StatusCode, address)
	}
	return nil
}

// reachable is where to find a listener on this machine: all interfaces include the loopback of IPv4, as Go listens.
func reachable(bindAddress string) string {
	if addr, err := netip.ParseAddr(bindAddress); bindAddress == "" || err == nil && addr.IsUnspecified() {
		return "127.0.0.1"
	}
	return bindAddress
}

// printToken prints what a peer presents in x-control-auth-token (RFC 7519). It does not expire, as those that peers
// make themselves.
func (i invocation) printToken(subject string) error {
	cfg, err := i.config()
	if err != nil {
		return err
	}
	if cfg.ControlSecret == "" {
		return errors.New("CONTROL_SECRET is not set: peers connect without a token")
	}
	claims := jwt.RegisteredClaims{Subject: subject}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(cfg.ControlSecret.Reveal()))
	if err != nil {
		return fmt.Errorf("sign token: %w", err)
	}
	fmt.Fprintln(i.stdout, token)
	return nil
}

func (i invocation) config() (*Config, error) {
	getenv, err := i.getenv()
	if err != nil {
		return nil, err
	}
	return loadConfig(getenv)
}

// getenv joins the environment and the .env file, and warns of names in either that have no effect.
func (i invocation) getenv() (func(string) string, error) {
	getenv, names, err := i.variables()
	if err != nil {
		return nil, err
	}
	log := logs.New(i.stderr, wantsJSON(getenv), false)
	warnMisspelled(names, log)
	warnWithoutEffect(getenv, log)
	return getenv, nil
}

// variables joins the environment and the .env file; after an error, getenv knows the environment alone.
func (i invocation) variables() (getenv func(string) string, names []string, err error) {
	environ := map[string]string{}
	for _, pair := range i.environ {
		name, value, _ := strings.Cut(pair, "=")
		environ[name] = value
	}
	getenv, inFile, err := dotenv.Fill(i.dotEnv, func(name string) (string, bool) {
		value, ok := environ[name]
		return value, ok
	})
	return getenv, append(slices.Sorted(maps.Keys(environ)), inFile...), err
}

// wantsJSON tells the form of the log before the configuration is known, and when it is faulty.
func wantsJSON(getenv func(string) string) bool {
	return strings.EqualFold(strings.TrimSpace(getenv("LOG_FORMAT")), "json")
}
