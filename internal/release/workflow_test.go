package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

func workflows(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(".github/workflows/*")
	if err != nil || len(files) == 0 {
		t.Fatal("no workflows: ", err)
	}
	return files
}

func TestWorkflowsAreWellFormed(t *testing.T) {
	t.Parallel()
	output(t, append([]string{need(t, "actionlint", "go install github.com/rhysd/actionlint/cmd/actionlint")}, workflows(t)...)...)
}

// What a workflow runs does not change by itself, and gets no right that it does not name.
func TestWorkflowsArePinnedAndHaveFewRights(t *testing.T) {
	t.Parallel()
	pinned := regexp.MustCompile(`^\s+(- )?uses: [\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+\n$`)
	uses := 0
	rights := map[string]map[string]string{}
	for _, file := range workflows(t) {
		for line := range strings.Lines(clustertest.ReadText(t, file)) {
			if strings.Contains(line, "uses:") {
				uses++
				if !pinned.MatchString(line) {
					t.Errorf("%s: not pinned by a commit with its version beside it: %s", file, line)
				}
			}
		}
		var workflow struct {
			Permissions map[string]string
			Jobs        map[string]struct{ Permissions map[string]string }
		}
		readYAML(t, file, &workflow)
		if diff := cmp.Diff(map[string]string{"contents": "read"}, workflow.Permissions); diff != "" {
			t.Errorf("%s: rights (-want +got):\n%s", file, diff)
		}
		for name, job := range workflow.Jobs {
			if job.Permissions != nil {
				rights[filepath.Base(file)+" "+name] = job.Permissions
			}
		}
	}
	if uses == 0 {
		t.Error("nothing is used: this test looks for the wrong word")
	}
	if diff := cmp.Diff(map[string]map[string]string{"release.yml release": {"contents": "write", "packages": "write"}}, rights); diff != "" {
		t.Errorf("rights of jobs (-want +got):\n%s", diff)
	}
}

func TestScriptsOfAReleaseAreSound(t *testing.T) {
	t.Parallel()
	shellcheck := need(t, "shellcheck", "Debian's package shellcheck")
	files, err := filepath.Glob("deploy/package/*")
	if err != nil {
		t.Fatal(err)
	}
	scripts := []string{".ci/run"}
	for _, file := range files {
		if strings.HasPrefix(clustertest.ReadText(t, file), "#!") {
			scripts = append(scripts, file)
		}
	}
	if len(scripts) < 7 {
		t.Errorf("too few: %v", scripts)
	}
	output(t, append([]string{shellcheck, "--severity=warning"}, scripts...)...) // each as its first line says
	output(t, shellcheck, "--shell=bash", "--severity=warning", "deploy/completion/coordinator.bash")
}

// The image of a release and the one that docker build makes hold the same.
func TestBothImagesAreAlike(t *testing.T) {
	t.Parallel()
	image := func(file string) (lines []string) {
		_, last, _ := strings.Cut(clustertest.ReadText(t, file), "\nFROM scratch\n")
		for line := range strings.Lines(last) {
			if !strings.HasPrefix(line, "ARG ") && !strings.Contains(line, " /coordinator\n") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	if diff := cmp.Diff(image("Dockerfile"), image("deploy/package/Dockerfile")); diff != "" {
		t.Errorf("Dockerfile (-) and deploy/package/Dockerfile (+)\n%s", diff)
	}
	if lines := image("Dockerfile"); len(lines) < 8 {
		t.Errorf("too little is compared: %q", lines)
	}
}

// What was tested is what is released.
func TestWorkflowsUseOneVersionOfGo(t *testing.T) {
	t.Parallel()
	versions := map[string]bool{}
	for _, file := range workflows(t) {
		for _, match := range regexp.MustCompile(`go-version: (\S+)`).FindAllStringSubmatch(clustertest.ReadText(t, file), -1) {
			versions[match[1]] = true
		}
	}
	if len(versions) != 1 {
		t.Errorf("versions of Go: %v", versions)
	}
}

// A tag that is ahead of the interface and the chart would make a release whose chart asks for the image before it.
func TestReleaseIsOfTheVersionOfItsTag(t *testing.T) {
	t.Parallel()
	var workflow struct {
		Jobs map[string]struct{ Steps []struct{ Name, Run string } }
	}
	readYAML(t, ".github/workflows/release.yml", &workflow)
	var check string
	for _, step := range workflow.Jobs["release"].Steps {
		if strings.HasPrefix(step.Name, "the tag is the version") {
			check = step.Run
		}
	}
	var document struct{ Info struct{ Version string } }
	readYAML(t, "api/openapi.yaml", &document)
	version := document.Info.Version
	for tag, passes := range map[string]bool{"v" + version: true, "v" + version + "-rc.1": true, "v" + version + "0": false, "v9.9.9": false, version[:1]: false} {
		cmd := exec.CommandContext(t.Context(), need(t, "bash", "Debian's package bash"), "--noprofile", "--norc", "-e", "-c", check)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GITHUB_REF_NAME=" + tag}
		if out, err := cmd.CombinedOutput(); (err == nil) != passes {
			t.Errorf("%s: %v, want it to pass: %v\n%s", tag, err, passes, out)
		}
	}
}
