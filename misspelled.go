package main

// Finds variables that are set and have no effect: those whose names look like misspellings of ours, and those that need another
// one to be set. Otherwise the daemon runs with an open door or without its application, and nobody is told.

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// warnMisspelled logs each of the names that is none of ours but looks like one, with the name it looks like.
func warnMisspelled(names []string, log *slog.Logger) {
	known := configNames()
	for _, name := range names {
		if meant := misspelled(name, known); meant != "" {
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

// misspelled returns the known name that is probably meant by one that is not known, "" if there is none. The longer
// a name, the more slips are allowed: RTMP_PORT and HTTP_HOST, which others use, are two away from HTTP_PORT.
func misspelled(name string, known []string) string {
	upper := strings.ToUpper(name)
	if slices.Contains(known, name) || upper == "SSL_CERT_FILE" || upper == "SSL_CERT_DIR" || upper == "SSL_KEY_FILE" { // of OpenSSL and Go; a fault
		return ""
	}
	if base, ok := strings.CutSuffix(upper, "_FILE"); ok && slices.Contains(known, base) { // only secrets can stand in files
		return base
	}
	best, distance := "", slipsAllowed(upper)+1
	for _, candidate := range known {
		if d := editDistance(upper, candidate); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

func slipsAllowed(name string) int {
	for _, prefix := range []string{"KEY_VERIFICATION_", "EVENT_CALLBACK_", "COMMANDS_API_", "CONTROL_", "SSL_"} {
		if strings.HasPrefix(name, prefix) {
			return min(len(name)/4, 5)
		}
	}
	return min(len(name)/7, 2)
}

// editDistance counts the bytes to insert, delete, replace, or swap with their neighbour that turn a into b.
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
