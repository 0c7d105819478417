package main

// The environment, read once into one immutable, checked Config.
//
// Rules: loadConfig is the table of all variables, each name stands there in full
// (NAME_FILE of a secret NAME follows from it) and is looked up whatever the others
// say. Values are trimmed of white space, and a variable set to nothing counts as not
// set. Every fault is found in one go and names its variable; a value that is or may
// hold a secret is never quoted. A variable that is set and has no effect is no fault,
// but a line of the log says so: otherwise the daemon runs with an open door or without
// its application, and nobody is told.

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"coordinator/internal/buildinfo"
	"coordinator/internal/credentials"
	"coordinator/internal/dotenv"
	"coordinator/internal/misspelled"
	"coordinator/internal/secret"
)

const (
	programName = "coordinator"

	maxPort           = 65535
	maxIDLength       = 1024  // bytes; an id travels in headers and in 64 KiB messages
	maxReloadInterval = 86400 // seconds, one day
	maxEncoderWait    = 15    // seconds: with the key verification it has to stay under answerWithin
	maxStartTimeout   = 3600  // seconds
)

// userAgent is what requests to the application say of who asks.
func userAgent() string { return programName + "/" + buildinfo.Version() }

// Secret is a value that must not be seen.
type Secret = secret.Secret

// Config is the whole configuration. It is not changed after loadConfig.
type Config struct {
	HTTPPort    int    // 0: the system chooses
	BindAddress string // IP address without brackets, or host name; "" is every interface

	SSLPort         int    // 0: the system chooses
	SSLCert, SSLKey string // files; both are set, or HTTPS is off
	SSLCheckReload  time.Duration

	ControlSecret Secret // "": any peer may connect
	LogRequests   bool
	LogDebug      bool
	LogJSON       bool
	IDMaxLength   int // bytes
	DataDir       string
	DatabaseURL   Secret // of PostgreSQL; "": events are kept in DataDir

	// The URLs may hold credentials; "" is not set.
	// Auth is the whole value of the Authorization header; "" is no header.
	KeyVerificationURL  Secret
	KeyVerificationAuth Secret
	EventCallbackURL    Secret
	EventCallbackAuth   Secret

	CommandsAuth credentials.Credentials

	// A gateway has CoordinatorURLs, and none of the settings that are not in gatewaySettings.
	CoordinatorURLs []*url.URL // bases, without a slash at the end
	GatewaySecret   Secret     // "": no gateway may link

	EncoderWait        time.Duration // how long a publish request may wait for a free slot
	EncoderFailover    bool          // move the streams of a lost encoder to another
	StreamStartTimeout time.Duration // until a stream announces something; 0: no limit
	Placement          string        // which encoder gets a stream: see placement in registry_placement.go
	EventCallbackExtra bool          // tell the application of publishers and interruptions, too
	PublishTakeover    bool          // let a publisher with a valid key take over a channel that is live on another server
}

// loadConfig reads the configuration through getenv, and the files that hold secrets.
// The error joins all faults, one line each, and can be shown to anybody.
func loadConfig(getenv func(string) string) (*Config, error) {
	env := &environment{getenv: getenv}
	cfg := &Config{
		HTTPPort:    env.number("HTTP_PORT", 80, 0, maxPort),
		BindAddress: env.bindAddress("BIND_ADDRESS"),

		SSLPort:        env.number("SSL_PORT", 443, 0, maxPort),
		SSLCert:        env.path("SSL_CERT", ""),
		SSLKey:         env.path("SSL_KEY", ""),
		SSLCheckReload: env.seconds("SSL_CHECK_RELOAD_SECONDS", 60, 1, maxReloadInterval),

		ControlSecret: Secret(env.secret("CONTROL_SECRET").value),
		LogRequests:   env.yesNo("LOG_REQUESTS", true),
		LogDebug:      env.yesNo("LOG_DEBUG", false),
		LogJSON:       env.choice("LOG_FORMAT", "text", "json") == "json",
		IDMaxLength:   env.number("ID_MAX_LENGTH", 128, 1, maxIDLength),
		DataDir:       env.path("DATA_DIR", "data"),
		DatabaseURL:   env.databaseURL("DATABASE_URL"),

		KeyVerificationURL: env.url("KEY_VERIFICATION_URL"),
		KeyVerificationAuth: env.outgoingAuth(authVariables{
			scheme:   env.read("KEY_VERIFICATION_AUTH"),
			user:     env.read("KEY_VERIFICATION_AUTH_USER"),
			password: env.either("KEY_VERIFICATION_PASSWORD", "KEY_VERIFICATION_AUTH_PASSWORD"),
			token:    env.secret("KEY_VERIFICATION_AUTH_TOKEN"),
			custom:   env.secret("KEY_VERIFICATION_AUTH_CUSTOM"),
		}),

		EventCallbackURL: env.url("EVENT_CALLBACK_URL"),
		EventCallbackAuth: env.outgoingAuth(authVariables{
			scheme:   env.read("EVENT_CALLBACK_AUTH"),
			user:     env.read("EVENT_CALLBACK_AUTH_USER"),
			password: env.either("EVENT_CALLBACK_PASSWORD", "EVENT_CALLBACK_AUTH_PASSWORD"),
			token:    env.secret("EVENT_CALLBACK_AUTH_TOKEN"),
			custom:   env.secret("EVENT_CALLBACK_AUTH_CUSTOM"),
		}),

		CommandsAuth: env.commandsAuth(authVariables{
			scheme:   env.read("COMMANDS_API_AUTH"),
			user:     env.read("COMMANDS_API_AUTH_USER"),
			password: env.secret("COMMANDS_API_AUTH_PASSWORD"),
			token:    env.secret("COMMANDS_API_AUTH_TOKEN"),
		}),

		CoordinatorURLs: env.baseURLs("COORDINATOR_URL"),
		GatewaySecret:   env.longSecret("GATEWAY_SECRET"),

		EncoderWait:        env.seconds("ENCODER_WAIT_SECONDS", 0, 0, maxEncoderWait),
		EncoderFailover:    env.yesNo("ENCODER_FAILOVER", true),
		StreamStartTimeout: env.seconds("STREAM_START_TIMEOUT", 0, 0, maxStartTimeout),
		Placement:          env.choice("PLACEMENT", "least-load", "least-share", "pack"),
		EventCallbackExtra: env.yesNo("EVENT_CALLBACK_EXTRA", false),
		PublishTakeover:    env.yesNo("PUBLISH_TAKEOVER", false),
	}

	switch hasCert, hasKey := env.isSet("SSL_CERT"), env.isSet("SSL_KEY"); {
	case hasKey && !hasCert:
		env.fault("SSL_CERT", "must be set too, because SSL_KEY is: it is the path of the certificate file")
	case hasCert && !hasKey:
		env.fault("SSL_KEY", "must be set too, because SSL_CERT is: it is the path of the key file")
	case !hasKey && env.isSet("SSL_KEY_FILE"): // SSL_CERT_FILE is left alone: Go and OpenSSL read it
		env.fault("SSL_KEY_FILE", "is not read: set SSL_KEY to the path of the key file, and SSL_CERT to that of the certificate file")
	case cfg.SSLCert != "" && cfg.SSLPort != 0 && cfg.SSLPort == cfg.HTTPPort:
		env.fault("SSL_PORT", "must differ from HTTP_PORT, both are %d", cfg.SSLPort)
	}

	if env.isSet("COORDINATOR_URL") {
		if !env.isSet("GATEWAY_SECRET") && !env.isSet("GATEWAY_SECRET_FILE") {
			env.fault("GATEWAY_SECRET", "must be set too, because COORDINATOR_URL is, which makes this a gateway: it is the coordinator's GATEWAY_SECRET")
		}
		// What only a coordinator uses is of no interest: a line at the start says so.
		env.faults = slices.DeleteFunc(env.faults, func(f fault) bool { return !usedByGateway(f.name) })
	}
	if len(env.faults) > 0 {
		return nil, env.allFaults()
	}
	return cfg, nil
}

// gatewaySettings are all that a gateway uses; the secrets among them may come from files.
var gatewaySettings = []string{
	"COORDINATOR_URL", "GATEWAY_SECRET", "HTTP_PORT", "BIND_ADDRESS", "SSL_PORT", "SSL_CERT", "SSL_KEY", "SSL_KEY_FILE", "SSL_CHECK_RELOAD_SECONDS",
	"CONTROL_SECRET", "LOG_REQUESTS", "LOG_DEBUG", "LOG_FORMAT",
}

func usedByGateway(name string) bool {
	return slices.Contains(gatewaySettings, name) || slices.Contains(gatewaySettings, strings.TrimSuffix(name, "_FILE"))
}

// isGateway tells which role the configuration is for.
func (c *Config) isGateway() bool { return len(c.CoordinatorURLs) > 0 }

// warnMisspelled logs each of the names that is none of ours but looks like one, with the name it looks like.
func warnMisspelled(names []string, log *slog.Logger) {
	known := configNames()
	for _, name := range names {
		if meant := misspelled.Meant(name, known); meant != "" {
			log.Warn("unknown environment variable is ignored", "name", name, "meant", meant)
		}
	}
}

// warnWithoutEffect logs each setting that does nothing because another one is missing. Where that leaves open what was
// to be closed, it is an error, but not a fault: the settings can be left over from before.
func warnWithoutEffect(getenv func(string) string, log *slog.Logger) {
	known := configNames()
	isSet := func(name string) bool {
		env := environment{getenv: getenv}
		return env.isSet(name) || slices.Contains(known, name+"_FILE") && env.isSet(name+"_FILE")
	}
	if isSet("SSL_PORT") && !isSet("SSL_CERT") && !isSet("SSL_KEY") {
		log.Error("HTTPS is off: set SSL_CERT and SSL_KEY")
	}
	if isSet("COORDINATOR_URL") {
		names := slices.DeleteFunc(slices.Clone(known), func(name string) bool { return strings.TrimSpace(getenv(name)) == "" || usedByGateway(name) })
		if len(names) > 0 {
			log.Warn("settings are ignored because this is a gateway: COORDINATOR_URL is set", "names", names)
		}
		return
	}
	for _, rule := range []struct {
		needed string
		level  slog.Level
		names  []string
	}{
		{"COMMANDS_API_AUTH", slog.LevelError, []string{"COMMANDS_API_AUTH_USER", "COMMANDS_API_AUTH_PASSWORD", "COMMANDS_API_AUTH_TOKEN"}},
		{"KEY_VERIFICATION_URL", slog.LevelError, []string{"KEY_VERIFICATION_AUTH"}},
		{"KEY_VERIFICATION_AUTH", slog.LevelWarn, []string{"KEY_VERIFICATION_AUTH_USER", "KEY_VERIFICATION_PASSWORD",
			"KEY_VERIFICATION_AUTH_PASSWORD", "KEY_VERIFICATION_AUTH_TOKEN", "KEY_VERIFICATION_AUTH_CUSTOM"}},
		{"EVENT_CALLBACK_AUTH", slog.LevelWarn, []string{"EVENT_CALLBACK_AUTH_USER", "EVENT_CALLBACK_PASSWORD",
			"EVENT_CALLBACK_AUTH_PASSWORD", "EVENT_CALLBACK_AUTH_TOKEN", "EVENT_CALLBACK_AUTH_CUSTOM"}},
		{"EVENT_CALLBACK_URL", slog.LevelWarn, []string{"EVENT_CALLBACK_AUTH", "EVENT_CALLBACK_EXTRA"}},
	} {
		if names := slices.DeleteFunc(rule.names, func(name string) bool { return !isSet(name) }); len(names) > 0 && !isSet(rule.needed) {
			log.Log(context.Background(), rule.level, "settings are ignored because another one is not set", "names", names, "not_set", rule.needed)
		}
	}
}

// configNames are the names that loadConfig looks up for their values, sorted.
func configNames() []string {
	asked := map[string]bool{}
	_, _ = loadConfig(func(name string) string { asked[name] = true; return "" })
	delete(asked, "SSL_KEY_FILE") // it is only looked for to say that nobody reads it
	return slices.Sorted(maps.Keys(asked))
}

// environment reads variables and collects what is wrong with them.
// After a fault its methods return a value that nobody will use.
type environment struct {
	getenv func(string) string
	faults []fault
}

type fault struct {
	name string
	error
}

type variable struct {
	name, value string
	faulty      bool // why it has no value has been reported
}

type authVariables struct{ scheme, user, password, token, custom variable }

func (e *environment) fault(name, format string, args ...any) {
	e.faults = append(e.faults, fault{name, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...))})
}

func (e *environment) allFaults() error {
	var all []error
	for _, f := range e.faults {
		all = append(all, f.error)
	}
	return errors.Join(all...)
}

func (e *environment) read(name string) variable {
	value := strings.TrimSpace(e.getenv(name))
	if value == dotenv.Dangling {
		e.fault(name, `has a $ in the .env file before what is no name, or one that is set nowhere: put the value into 'single quotes', or write \$`)
		return variable{name: name, faulty: true}
	}
	return variable{name: name, value: value}
}

func (e *environment) isSet(name string) bool { return strings.TrimSpace(e.getenv(name)) != "" }

// secret reads a variable that may come from a file instead: NAME or NAME_FILE, not both. A byte order mark before what
// the file holds is dropped, and white space around it, as it is around every value.
func (e *environment) secret(name string) variable {
	v, file := e.read(name), e.read(name+"_FILE")
	switch {
	case v.faulty || file.faulty:
	case file.value == "":
		return v
	case v.value != "":
		e.fault(file.name, "must not be set together with %s", name)
	default:
		value, err := secret.ReadFile(file.value)
		if err == nil {
			return variable{name: name, value: value.Reveal()}
		}
		e.fault(file.name, "%v", err)
	}
	return variable{name: name, faulty: true}
}

// either reads a secret that has two names, the first being the one to recommend.
func (e *environment) either(name, alias string) variable {
	first, second := e.secret(name), e.secret(alias)
	if first.value == "" {
		first.value = second.value
		first.faulty = first.faulty || second.faulty
	} else if second.value != "" && second.value != first.value {
		e.fault(name, "differs from %s, set one of them", alias)
	}
	return first
}

func (e *environment) number(name string, def, low, high int) int {
	v := e.read(name)
	if v.value == "" {
		return def
	}
	n, err := strconv.Atoi(v.value)
	if err != nil || n < low || n > high {
		e.fault(name, "must be a whole number from %d to %d, not %q", low, high, v.value)
		return 0
	}
	return n
}

func (e *environment) seconds(name string, def, low, high int) time.Duration {
	return time.Duration(e.number(name, def, low, high)) * time.Second
}

// choice reads one of several words, in any case. The first one is the default.
func (e *environment) choice(name string, words ...string) string {
	v := e.read(name)
	word := strings.ToLower(v.value)
	switch {
	case word == "":
		return words[0]
	case !slices.Contains(words, word):
		last := len(words) - 1
		e.fault(name, "must be %s or %s, not %q", strings.Join(words[:last], ", "), words[last], v.value)
	}
	return word
}

func (e *environment) yesNo(name string, def bool) bool {
	switch v := e.read(name); strings.ToUpper(v.value) {
	case "":
		return def
	case "YES":
		return true
	case "NO":
		return false
	default:
		e.fault(name, "must be YES or NO, not %q", v.value)
		return false
	}
}

// path does not quote the value: a key pasted in place of its file's name would be shown,
// here or by whoever opens the file.
func (e *environment) path(name, def string) string {
	v := e.read(name)
	if v.value == "" {
		return def
	}
	if hasControl(v.value) {
		e.fault(name, "must be a path, without line breaks or other control characters")
	}
	return v.value
}

func (e *environment) bindAddress(name string) string {
	v := e.read(name)
	if v.value == "" {
		return ""
	}
	inner, opened := strings.CutPrefix(v.value, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	ip, err := netip.ParseAddr(inner)
	bare, bracketed := !opened && !closed, opened && closed
	switch {
	case err == nil && (bare || bracketed && ip.Is6()):
		return inner
	case bare && isHostName(inner):
		return inner
	}
	e.fault(name, "must be an IP address or a host name, without a port, not %q", v.value)
	return ""
}

// isHostName follows RFC 1123, section 2.1, and takes the underscore too, which container
// networks use. A name whose last label is a number is a broken IPv4 address.
func isHostName(name string) bool {
	if len(name) > 253 {
		return false
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

func (e *environment) url(name string) Secret {
	v := e.secret(name)
	if v.value == "" {
		return ""
	}
	e.parseURL(name, v.value)
	return Secret(v.value)
}

// parseURL returns nil after a fault.
func (e *environment) parseURL(name, value string) *url.URL {
	u, err := url.Parse(value)
	switch {
	case err != nil: // the error quotes the value
		e.fault(name, "cannot be read as a URL")
		return nil
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		e.fault(name, "must be an absolute URL: http:// or https:// and a host")
		return nil
	case u.Port() != "":
		if port, err := strconv.Atoi(u.Port()); err != nil || port < 1 || port > maxPort {
			e.fault(name, "must have a port from 1 to %d", maxPort)
			return nil
		}
	}
	return u
}

// databaseURL reads the URL of a PostgreSQL database (libpq documentation, 32.1.1.2). Its password may stand in it.
func (e *environment) databaseURL(name string) Secret {
	v := e.secret(name)
	if v.value == "" {
		return ""
	}
	u, err := url.Parse(v.value) // the error quotes the value
	switch {
	case err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.Opaque != "":
		e.fault(name, "must be a URL: postgres://user:password@host/database")
	case u.Hostname() == "" && u.Query().Get("host") == "":
		e.fault(name, "must name the host of the database: postgres://user:password@host/database")
	case strings.Trim(u.Path, "/") == "" && u.Query().Get("dbname") == "":
		e.fault(name, "must name the database: postgres://user:password@host/database")
	}
	return Secret(v.value)
}

// baseURLs reads URLs that paths are appended to. They are shown, so they may hold no credentials.
func (e *environment) baseURLs(name string) (bases []*url.URL) {
	v := e.read(name)
	if v.value == "" {
		return nil
	}
	for value := range strings.SplitSeq(v.value, ",") {
		u := e.parseURL(name, strings.TrimSpace(value))
		if u == nil {
			return nil
		}
		base := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}
		plainPath := u.RawPath == "" && (base.Path == "" || base.Path == path.Clean(base.Path))
		if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || !plainPath {
			e.fault(name, "must be base URLs, with commas between: scheme, host and perhaps a port and a plain path, no user, query or fragment")
			return nil
		}
		if slices.ContainsFunc(bases, func(other *url.URL) bool { return *other == *base }) {
			e.fault(name, "has a URL twice")
			return nil
		}
		bases = append(bases, base)
	}
	return bases
}

const minLongSecret = 32 // bytes, as many as HMAC-SHA256 makes of it

func (e *environment) longSecret(name string) Secret {
	v := e.secret(name)
	if v.value != "" && len(v.value) < minLongSecret {
		e.fault(name, "must have at least %d bytes: openssl rand -base64 48 makes one", minLongSecret)
	}
	return Secret(v.value)
}

// outgoingAuth returns the whole value of the Authorization header that a request to
// the application carries, "" for none.
func (e *environment) outgoingAuth(a authVariables) Secret {
	switch strings.ToLower(a.scheme.value) {
	case "":
		return ""
	case "basic":
		e.checkBasic(a)
		pair := a.user.value + ":" + a.password.value
		return Secret("Basic " + base64.StdEncoding.EncodeToString([]byte(pair))) // RFC 7617, section 2
	case "bearer":
		e.checkPart("Bearer", a.token)
		return Secret("Bearer " + a.token.value)
	case "custom":
		e.checkPart("Custom", a.custom)
		return Secret(a.custom.value)
	}
	e.fault(a.scheme.name, "must be Basic, Bearer or Custom")
	return ""
}

func (e *environment) commandsAuth(a authVariables) credentials.Credentials {
	switch strings.ToLower(a.scheme.value) {
	case "":
		return credentials.Credentials{}
	case "basic":
		e.checkBasic(a)
		return credentials.Basic(a.user.value, Secret(a.password.value))
	case "bearer":
		e.checkPart("Bearer", a.token)
		return credentials.Bearer(Secret(a.token.value))
	}
	e.fault(a.scheme.name, "must be Basic or Bearer")
	return credentials.Credentials{}
}

// checkBasic holds a user and a password against RFC 7617, section 2: the first colon
// ends the user name, and neither part may hold control characters.
func (e *environment) checkBasic(a authVariables) {
	e.checkPart("Basic", a.user)
	e.checkPart("Basic", a.password)
	if strings.Contains(a.user.value, ":") {
		e.fault(a.user.name, "must not hold a colon")
	}
}

func (e *environment) checkPart(scheme string, part variable) {
	if part.value == "" && !part.faulty {
		e.fault(part.name, "must be set for %s authorization", scheme)
	}
	if hasControl(part.value) {
		e.fault(part.name, "must not hold control characters")
	}
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }
