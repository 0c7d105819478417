// Package buildinfo says which program runs: its version, and the commit that it was built from.
package buildinfo

import (
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
)

// A release sets these with -ldflags '-X coordinator/internal/buildinfo.version=1.2.3'. Nothing else does.
var version, commit, date string

const (
	untagged = "0.0.0-dev" // a version of Semantic Versioning, and of a User-Agent (RFC 9110, section 10.1.5)
	unknown  = "unknown"
)

var (
	semantic = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)
	// pseudo is the end of a version that the go command makes up for a commit without a tag (https://go.dev/ref/mod#pseudo-versions).
	pseudo = regexp.MustCompile(`[.-]\d{14}-[0-9a-f]{12}$`)
)

// Info is what is known of the build.
type Info struct {
	Version string // without the v of its tag
	Commit  string // "-dirty" at its end if the checkout had changes
	Date    string // of the commit, RFC 3339
	Go      string
}

// Get returns the same answer each time.
var Get = sync.OnceValue(func() Info {
	built, _ := debug.ReadBuildInfo()
	return from(version, commit, date, built)
})

// Version is that of Get.
func Version() string { return Get().Version }

// from prefers what the linker was given to what the go command has found in the checkout, which may be nil.
func from(version, commit, date string, built *debug.BuildInfo) Info {
	info := Info{Version: version, Commit: commit, Date: date, Go: runtime.Version()}
	if built == nil {
		built = &debug.BuildInfo{}
	}
	settings := map[string]string{}
	for _, s := range built.Settings {
		settings[s.Key] = s.Value
	}
	if info.Version == "" {
		info.Version = strings.TrimPrefix(built.Main.Version, "v") // "(devel)" without a checkout, and "+dirty" at its end with changes
	}
	if !semantic.MatchString(info.Version) || pseudo.MatchString(info.Version) {
		info.Version = untagged
	}
	if info.Commit == "" {
		info.Commit, info.Date = settings["vcs.revision"], settings["vcs.time"]
		if info.Commit != "" && settings["vcs.modified"] == "true" {
			info.Commit += "-dirty"
		}
	}
	if info.Commit == "" {
		info.Commit = unknown
	}
	if info.Date == "" {
		info.Date = unknown
	}
	return info
}
