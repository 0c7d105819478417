package release

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

// flags are those that coordinator -h lists.
func flags(t *testing.T) (names []string) {
	t.Helper()
	for _, match := range regexp.MustCompile(`(?m)^  (-[a-z]+) `).FindAllStringSubmatch(output(t, program, "-h"), -1) {
		names = append(names, match[1])
	}
	if len(names) < 6 {
		t.Fatalf("too few flags: %v", names)
	}
	slices.Sort(names)
	return names
}

func TestCompletionsKnowEachFlag(t *testing.T) {
	t.Parallel()
	for file, flag := range map[string]string{
		"coordinator.bash": `-[a-z]+\b`, "_coordinator": `'\(- \*\)(-[a-z]+)\[`, "coordinator.fish": `-o ([a-z]+) `,
	} {
		text := clustertest.ReadText(t, "deploy/completion/"+file)
		if file == "coordinator.bash" {
			_, text, _ = strings.Cut(text, "compgen -W '")
			text, _, _ = strings.Cut(text, "'")
		}
		var got []string
		for _, match := range regexp.MustCompile(flag).FindAllStringSubmatch(text, -1) {
			got = append(got, "-"+strings.TrimPrefix(match[len(match)-1], "-"))
		}
		slices.Sort(got)
		if diff := cmp.Diff(flags(t), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

func TestShellsTakeTheirCompletions(t *testing.T) {
	t.Parallel()
	for shell, script := range map[string]string{
		"bash": `source deploy/completion/coordinator.bash
			complete() { local IFS=' '; COMP_WORDS=(coordinator "$@"); COMP_CWORD=$#; _coordinator; printf '%s\n' "${COMPREPLY[@]}"; }
			complete -; complete -token ''`,
		"fish": `source deploy/completion/coordinator.fish; complete -C 'coordinator -'; complete -C 'coordinator -token '`,
	} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			var got []string
			for line := range strings.Lines(output(t, need(t, shell, "Debian's package "+shell), "-c", script)) {
				word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
				got = append(got, word)
			}
			slices.Sort(got)
			want := append(flags(t), "hls", "rtmp", "wss")
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	t.Run("zsh", func(t *testing.T) {
		t.Parallel()
		output(t, need(t, "zsh", "Debian's package zsh"), "-n", "deploy/completion/_coordinator")
	})
}
