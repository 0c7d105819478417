package helm

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chartutil"
)

const page = "../../docs/kubernetes.md"

// TestPageListsEachValueWithItsDefault holds the table against values.yaml, both ways.
func TestPageListsEachValueWithItsDefault(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| value | default | meaning |\n|---|---|---|\n")
	listed := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.SplitN(strings.TrimSpace(line), "|", 5)
		if len(cells) != 5 {
			break
		}
		listed[strings.Trim(cells[1], " `")] = strings.Trim(cells[2], " `")
	}
	there := map[string]string{}
	flatten(t, "", readValues(t, chartDir+"/values.yaml"), there)
	if diff := cmp.Diff(there, listed); diff != "" {
		t.Errorf("values.yaml (-) and docs/kubernetes.md (+):\n%s", diff)
	}
}

func flatten(t *testing.T, prefix string, given values, into map[string]string) {
	t.Helper()
	for name, value := range given {
		switch v := value.(type) {
		case string:
			into[prefix+name] = v
		case map[string]any:
			if len(v) > 0 {
				flatten(t, prefix+name+".", v, into)
				continue
			}
			into[prefix+name] = "{}"
		default:
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			into[prefix+name] = string(text)
		}
	}
}

// TestPageShowsValuesThatWork renders what the page tells to write: each step adds to those before it.
func TestPageShowsValuesThatWork(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 4 {
		t.Fatalf("%d examples of values, want 4", len(blocks))
	}
	given := values{}
	for i, workloads := range []string{"Deployment coordinator", "Deployment coordinator, StatefulSet coordinator-gateway", "StatefulSet coordinator, StatefulSet coordinator-gateway", ""} {
		shown, err := chartutil.ReadValues([]byte(blocks[i][1]))
		if err != nil {
			t.Fatal(err)
		}
		given = chartutil.CoalesceTables(shown, given)
		o := decode(t, mustRender(t, given))
		checkObjects(t, o)
		for name := range strings.SplitSeq(workloads, ", ") {
			if _, there := o.pods()[name]; !there && name != "" {
				t.Errorf("after step %d there is no %s", i+1, name)
			}
		}
	}
}
