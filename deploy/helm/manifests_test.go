package helm

import (
	"flag"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write deploy/kubernetes*.yaml anew")

// manifests are the files of deploy/ that are rendered from the chart, with the values of the same name.
var manifests = []string{"kubernetes", "kubernetes-gateways", "kubernetes-high-availability"}

// TestManifestsAreRenderedFromTheChart compares each with what the chart makes. Its first lines are those of the file of values.
func TestManifestsAreRenderedFromTheChart(t *testing.T) {
	t.Parallel()
	for _, name := range manifests {
		source := path.Join("values", name+".yaml")
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		head, _, found := strings.Cut(string(text), "\n\n")
		if !found || !strings.HasPrefix(head, "# ") {
			t.Fatalf("%s does not begin with what its manifest says at the top", source)
		}
		objects, _, err := render(readValues(t, source), "coordinator", "kubectl")
		if err != nil {
			t.Fatal(err)
		}
		want := head + "\n# Rendered from deploy/helm/coordinator with deploy/helm/" + source + ".\n\n" + objects
		file := filepath.Join("..", name+".yaml")
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("deploy/%s.yaml is not what the chart makes (-chart +file); doc.go says how it is written anew:\n%s", name, diff)
		}
	}
}

// TestValuesHaveNoManifestLeft: each file of values has its manifest.
func TestValuesHaveNoManifestLeft(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("values/*.yaml")
	if err != nil || len(files) != len(manifests) {
		t.Errorf("%d manifests are rendered, from %q (%v)", len(manifests), files, err)
	}
}
