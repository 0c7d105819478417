package buildinfo

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBuildIsThatOfTheLinkerOrOfTheCheckout(t *testing.T) {
	t.Parallel()
	checkout := func(version, modified string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "c0ffee"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: modified},
		}}
	}
	here := Info{Version: "0.0.0-dev", Commit: "c0ffee", Date: "2026-01-02T03:04:05Z"}
	changed, tagged := here, here
	changed.Commit, tagged.Version = "c0ffee-dirty", "1.2.3-rc.1"
	for name, test := range map[string]struct {
		version, commit, date string
		built                 *debug.BuildInfo
		want                  Info
	}{
		"nothing":                     {want: Info{Version: "0.0.0-dev", Commit: "unknown", Date: "unknown"}},
		"no checkout":                 {built: &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, want: Info{Version: "0.0.0-dev", Commit: "unknown", Date: "unknown"}},
		"a checkout without a tag":    {built: checkout("v0.0.0-20260102030405-0123456789ab", "false"), want: here},
		"a checkout after a tag":      {built: checkout("v1.2.4-0.20260102030405-0123456789ab", "false"), want: here},
		"one after a pre-release":     {built: checkout("v1.2.3-rc.1.0.20260102030405-0123456789ab", "false"), want: here},
		"a checkout of a tag":         {built: checkout("v1.2.3-rc.1", "false"), want: tagged},
		"one with changes":            {built: checkout("v1.2.3-rc.1+dirty", "true"), want: changed},
		"a release":                   {"1.2.3", "abc", "2026-03-04T05:06:07Z", checkout("v9.9.9", "true"), Info{Version: "1.2.3", Commit: "abc", Date: "2026-03-04T05:06:07Z"}},
		"a release that gives little": {"1.2.3", "abc", "", checkout("v9.9.9", "true"), Info{Version: "1.2.3", Commit: "abc", Date: "unknown"}},
		"no version of a User-Agent":  {"next one", "abc", "then", nil, Info{Version: "0.0.0-dev", Commit: "abc", Date: "then"}},
	} {
		test.want.Go = runtime.Version()
		if diff := cmp.Diff(test.want, from(test.version, test.commit, test.date, test.built)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
