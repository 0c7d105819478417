package helm

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const chartDir = "coordinator"

type values = map[string]any

// modes are the ways to run the chart, by name: those that are shipped as manifests, the default, and the odd ones.
func modes(t *testing.T) map[string]values {
	t.Helper()
	all := map[string]values{}
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		all[strings.TrimSuffix(file.Name(), ".yaml")] = readValues(t, path.Join("testdata", file.Name()))
	}
	for _, name := range manifests {
		all[name] = readValues(t, path.Join("values", name+".yaml"))
	}
	return all
}

func readValues(t *testing.T, file string) values {
	t.Helper()
	given, err := chartutil.ReadValuesFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return given.AsMap()
}

func eachMode(t *testing.T, check func(t *testing.T, given values)) {
	t.Helper()
	all := modes(t)
	if len(all) < 8 {
		t.Fatalf("only %d modes: %v", len(all), slices.Collect(maps.Keys(all)))
	}
	for name, given := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, given)
		})
	}
}

var loadChart = sync.OnceValues(func() (*chart.Chart, error) { return loader.Load(chartDir) })

// render returns the objects of the chart as YAML, those of its files in their order, and the notes.
func render(given values, release, service string) (objects, notes string, err error) {
	loaded, err := loadChart()
	if err != nil {
		return "", "", err
	}
	return renderChart(loaded, given, release, service, 1)
}

func renderChart(loaded *chart.Chart, given values, release, service string, revision int) (objects, notes string, err error) {
	options := chartutil.ReleaseOptions{Name: release, Namespace: "live", Revision: revision, IsInstall: revision == 1, IsUpgrade: revision > 1}
	top, err := chartutil.ToRenderValues(loaded, given, options, nil)
	if err != nil {
		return "", "", err
	}
	top["Release"].(map[string]any)["Service"] = service
	files, err := engine.Render(loaded, top)
	if err != nil {
		return "", "", err
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := strings.TrimPrefix(strings.TrimSpace(files[name]), "---\n")
		switch {
		case path.Base(name) == "NOTES.txt":
			notes = text
		case text != "":
			parts = append(parts, text+"\n")
		}
	}
	return strings.Join(parts, "---\n"), notes, nil
}

func mustRender(t *testing.T, given values) string {
	t.Helper()
	text, _, err := render(given, "coordinator", "Helm")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// objects are all that a mode makes, decoded into the types of Kubernetes: an unknown or misspelled field is a fault.
type objects struct {
	deployments  map[string]*appsv1.Deployment
	statefulSets map[string]*appsv1.StatefulSet
	services     map[string]*corev1.Service
	claims       map[string]*corev1.PersistentVolumeClaim
	configMaps   map[string]*corev1.ConfigMap
	budgets      map[string]*policyv1.PodDisruptionBudget
	policies     map[string]*networkingv1.NetworkPolicy
	monitors     map[string]*monitoringv1.ServiceMonitor
	rules        map[string]*monitoringv1.PrometheusRule
}

func decode(t *testing.T, text string) *objects {
	t.Helper()
	o := &objects{
		map[string]*appsv1.Deployment{}, map[string]*appsv1.StatefulSet{}, map[string]*corev1.Service{},
		map[string]*corev1.PersistentVolumeClaim{}, map[string]*corev1.ConfigMap{}, map[string]*policyv1.PodDisruptionBudget{},
		map[string]*networkingv1.NetworkPolicy{}, map[string]*monitoringv1.ServiceMonitor{}, map[string]*monitoringv1.PrometheusRule{},
	}
	for document := range strings.SplitSeq(text, "\n---\n") {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		switch head.APIVersion + " " + head.Kind {
		case "apps/v1 Deployment":
			add(t, document, o.deployments)
		case "apps/v1 StatefulSet":
			add(t, document, o.statefulSets)
		case "v1 Service":
			add(t, document, o.services)
		case "v1 PersistentVolumeClaim":
			add(t, document, o.claims)
		case "v1 ConfigMap":
			add(t, document, o.configMaps)
		case "policy/v1 PodDisruptionBudget":
			add(t, document, o.budgets)
		case "networking.k8s.io/v1 NetworkPolicy":
			add(t, document, o.policies)
		case "monitoring.coreos.com/v1 ServiceMonitor":
			add(t, document, o.monitors)
		case "monitoring.coreos.com/v1 PrometheusRule":
			add(t, document, o.rules)
		default:
			t.Errorf("no test knows a %s %s:\n%s", head.APIVersion, head.Kind, document)
		}
	}
	return o
}

func add[T any, P interface {
	*T
	metav1.Object
}](t *testing.T, document string, to map[string]P) {
	t.Helper()
	object := P(new(T))
	// As the API server does it: yaml.UnmarshalStrict takes a number for a string where a string has to be.
	text, err := yaml.YAMLToJSONStrict([]byte(document))
	if err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(object); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
	if to[object.GetName()] != nil {
		t.Errorf("%s is there twice", object.GetName())
	}
	to[object.GetName()] = object
}

// pods are the templates of all pods, by the name of what makes them.
func (o *objects) pods() map[string]corev1.PodTemplateSpec {
	all := map[string]corev1.PodTemplateSpec{}
	for name, d := range o.deployments {
		all["Deployment "+name] = d.Spec.Template
	}
	for name, s := range o.statefulSets {
		all["StatefulSet "+name] = s.Spec.Template
	}
	return all
}

func TestChartIsFreeOfLint(t *testing.T) {
	t.Parallel()
	all := modes(t)
	for name, given := range all {
		for _, m := range lint.All(chartDir, given, "live", true).Messages {
			if m.Severity != support.InfoSev { // that there is no icon
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

func TestNotesWarnOfOpenDoors(t *testing.T) {
	t.Parallel()
	all := modes(t)
	for _, row := range []struct {
		mode  string
		says  []string
		quiet []string
	}{
		{"default", []string{"One coordinator.", "ws://coordinator.live/", "every key may publish"}, []string{"every peer may connect", "restarts a gateway"}},
		{"open", []string{"every key may publish", "every peer may connect", "everybody may use the commands"}, []string{"networkPolicy"}},
		{"kubernetes-gateways", []string{"ws://gateway.live/", "No upgrade restarts a gateway"}, []string{"WARNING"}},
		{"kubernetes-high-availability", []string{"2 coordinators, of which one leads, with 2 gateways"}, []string{"WARNING", "Nobody stands by"}},
		{"database-takes-over", []string{"Nobody stands by"}, nil},
	} {
		_, notes, err := render(all[row.mode], "coordinator", "Helm")
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range row.says {
			if !strings.Contains(notes, part) {
				t.Errorf("%s: the notes do not say %q:\n%s", row.mode, part, notes)
			}
		}
		for _, part := range row.quiet {
			if strings.Contains(notes, part) {
				t.Errorf("%s: the notes say %q:\n%s", row.mode, part, notes)
			}
		}
	}
}

// TestReleasesDoNotMeet: two releases in one namespace share no name and select nothing of each other.
func TestReleasesDoNotMeet(t *testing.T) {
	t.Parallel()
	given := modes(t)["everything"]
	delete(given, "fullnameOverride")
	seen := map[string]string{}
	for _, release := range []string{"live", "test-coordinator", strings.Repeat("long", 13)} {
		text, _, err := render(given, release, "Helm")
		if err != nil {
			t.Fatal(err)
		}
		o := decode(t, text)
		checkObjects(t, o)
		for name := range o.pods() {
			if seen[name] != "" {
				t.Errorf("%s is of %s and of %s", name, seen[name], release)
			}
			seen[name] = release
		}
		for name, service := range o.services {
			if got := service.Spec.Selector["app.kubernetes.io/instance"]; got != release {
				t.Errorf("Service %s of %s selects pods of %q", name, release, got)
			}
		}
	}
}

// TestNamesThatYAMLTakesForOtherValues: bare, "no" is a boolean, "123" a number and "null" nothing.
func TestNamesThatYAMLTakesForOtherValues(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"no", "on", "y", "yes", "ye", "true", "null", "e1", "123", "1e3", "0x1f", "1-30"} {
		text := strings.ReplaceAll(`
imagePullSecrets: [WORD]
secrets:
  CONTROL_SECRET: {name: WORD, key: WORD}
  COMMANDS_API_AUTH_TOKEN: {name: WORD, key: WORD}
  GATEWAY_SECRET: {name: WORD, key: WORD}
tls: {secretName: WORD}
authoritiesConfigMap: WORD
persistence: {existingClaim: WORD}
topologyKeys: [WORD]
priorityClassName: WORD
nodeSelector: {WORD: WORD}
gateways: {replicas: 2, tls: {secretName: WORD}, authoritiesConfigMap: WORD, priorityClassName: WORD}
serviceMonitor: {enabled: true, labels: {WORD: WORD}}
prometheusRule: {enabled: true}
grafanaDashboard: {enabled: true}
`, "WORD", `"`+word+`"`)
		release := word + "-a"
		if word[0] >= 'a' {
			text += "fullnameOverride: \"" + word + "\"\n"
			release = word
		} else {
			text += "fullnameOverride: a\n"
		}
		for _, more := range []string{
			"", `highAvailability: {databaseSecret: "` + word + `", databaseSecretKey: "` + word + `", keepService: true}` + "\nreplicas: 2\n",
		} {
			given, err := chartutil.ReadValues([]byte(text + more))
			if err != nil {
				t.Fatal(err)
			}
			objects, _, err := render(given, release, "Helm")
			if err != nil {
				t.Fatal(err)
			}
			checkObjects(t, decode(t, objects))
		}
	}
	objects, _, err := render(values{"persistence": values{"storageClass": "123", "size": "1"}}, "no", "Helm")
	if err != nil {
		t.Fatal(err)
	}
	for _, claim := range decode(t, objects).claims {
		if *claim.Spec.StorageClassName != "123" {
			t.Error("class", *claim.Spec.StorageClassName)
		}
	}
}

// TestNamesOfReleases: Helm takes names that Services cannot have.
func TestNamesOfReleases(t *testing.T) {
	t.Parallel()
	for release, want := range map[string]string{
		"a.b": "a-b-coordinator", "coordinator.b": "coordinator-b", "null": "null-coordinator",
		"a" + strings.Repeat("-", 30) + "b": "a-coordinator", "coordinator" + strings.Repeat("-", 30) + "b": "coordinator",
	} {
		text, _, err := render(modes(t)["kubernetes-high-availability"], release, "Helm")
		if err != nil {
			t.Fatal(err)
		}
		o := decode(t, text)
		checkObjects(t, o)
		text, _, err = render(nil, release, "Helm")
		if err != nil {
			t.Fatal(err)
		}
		if o := decode(t, text); o.services[want] == nil {
			t.Errorf("release %s makes no Service %s: %v", release, want, slices.Collect(maps.Keys(o.services)))
		}
	}
	if _, _, err := render(nil, "123", "Helm"); err == nil || !strings.Contains(err.Error(), "fullnameOverride") {
		t.Errorf("a release whose name begins with a digit: %v", err)
	}
}

// TestLabelsOfMonitoringMayReplaceThoseOfTheChart: a Prometheus may select by any label.
func TestLabelsOfMonitoringMayReplaceThoseOfTheChart(t *testing.T) {
	t.Parallel()
	labels := values{"enabled": true, "labels": values{"app.kubernetes.io/instance": "prometheus"}}
	o := decode(t, mustRender(t, values{"serviceMonitor": labels, "prometheusRule": labels, "grafanaDashboard": labels}))
	for _, object := range []metav1.Object{o.monitors["coordinator"], o.rules["coordinator"], o.configMaps["coordinator-dashboard"]} {
		if got := object.GetLabels()["app.kubernetes.io/instance"]; got != "prometheus" {
			t.Errorf("%T is of %s", object, got)
		}
	}
}

// TestNoPodWaitsForASecretThatItDoesNotUse: the token of the commands is there by default.
func TestNoPodWaitsForASecretThatItDoesNotUse(t *testing.T) {
	t.Parallel()
	for how, want := range map[string]bool{
		"settings: {COMMANDS_API_AUTH: Bearer}": true,
		"settings: {COMMANDS_API_AUTH: ''}":     false,
		"settings: {COMMANDS_API_AUTH: null}":   false,
		"settings: {COMMANDS_API_AUTH: Basic, COMMANDS_API_AUTH_USER: u}\nsecrets: {COMMANDS_API_AUTH_PASSWORD: {name: s, key: k}}": false,
	} {
		given, err := chartutil.ReadValues([]byte(how))
		if err != nil {
			t.Fatal(err)
		}
		if text := mustRender(t, given); strings.Contains(text, "commands-api-token") != want {
			t.Errorf("%s: a token is mounted: %v, want %v", how, !want, want)
		}
	}
}

// TestDollarsOfSettingsReachTheProgram: Kubernetes makes $ of $$, and the value of a variable of $(NAME).
func TestDollarsOfSettingsReachTheProgram(t *testing.T) {
	t.Parallel()
	o := decode(t, mustRender(t, values{"settings": values{"KEY_VERIFICATION_URL": "http://a/$(HTTP_PORT)?b=$$c"}}))
	for _, variable := range o.deployments["coordinator"].Spec.Template.Spec.Containers[0].Env {
		if variable.Name == "KEY_VERIFICATION_URL" && variable.Value != "http://a/$$(HTTP_PORT)?b=$$$$c" {
			t.Errorf("Kubernetes makes something else of %s", variable.Value)
		}
	}
}

// The binary has its version from its build: the document of its interface has that of the newest release.
func TestChartHasTheVersionOfTheNewestRelease(t *testing.T) {
	t.Parallel()
	loaded, err := loadChart()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Info struct{ Version string } }
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	if got, want := loaded.Metadata.AppVersion, document.Info.Version; got != want || want == "" {
		t.Errorf("the chart is of %q, and the newest release is %q", got, want)
	}
}

func TestChartIsPackagedWithWhatItReads(t *testing.T) {
	t.Parallel()
	loaded, err := loadChart()
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Schema == nil {
		t.Error("there is no schema")
	}
	var files []string
	for _, file := range loaded.Files {
		if len(file.Data) == 0 {
			t.Errorf("%s is empty", file.Name)
		}
		files = append(files, file.Name)
	}
	if diff := cmp.Diff([]string{".helmignore", "files/grafana-dashboard.json", "files/prometheus-alerts.yml"}, files); diff != "" {
		t.Error(diff)
	}
}
