package helm

// What an upgrade restarts: a gateway never by itself, and a coordinator only for what it reads at its start.

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chartutil"
	"sigs.k8s.io/yaml"
)

func TestUpgradeRestartsOnlyWhatItMust(t *testing.T) {
	t.Parallel()
	nothing, coordinator, gateway := []string(nil), []string{"coordinator"}, []string{"gateway"}
	both := []string{"coordinator", "gateway"}
	for name, row := range map[string]struct {
		change  string
		changes []string // the templates of whose pods
	}{
		"a setting of the coordinator":       {"settings: {ENCODER_WAIT_SECONDS: 5}", coordinator},
		"the log of the coordinator":         {"settings: {LOG_DEBUG: 'YES'}", coordinator},
		"the application's address":          {"settings: {KEY_VERIFICATION_URL: 'http://other/'}", coordinator},
		"the application's token":            {"secrets: {EVENT_CALLBACK_AUTH_TOKEN: {name: other}}", coordinator},
		"the commands' authorization":        {"settings: {COMMANDS_API_AUTH: null}\nsecrets: {COMMANDS_API_AUTH_TOKEN: null}", coordinator},
		"memory of the coordinator":          {"resources: {limits: {memory: 1Gi}}", coordinator},
		"authorities of the coordinator":     {"authoritiesConfigMap: a", coordinator},
		"the coordinator's certificate":      {"tls: {secretName: other}", coordinator},
		"the coordinator's machines":         {"nodeSelector: {a: b}", coordinator},
		"a setting of gateways":              {"gateways: {settings: {LOG_DEBUG: 'YES'}}", gateway},
		"memory of gateways":                 {"gateways: {resources: {limits: {memory: 2Gi}}}", gateway},
		"the gateways' version":              {"gateways: {image: {tag: 0.2.0}}", gateway},
		"the version of all":                 {"image: {tag: 0.2.0}", both},
		"the version, gateways keep theirs":  {"image: {tag: 0.2.0}\ngateways: {image: {tag: 0.1.0}}", coordinator},
		"the peers' secret":                  {"secrets: {CONTROL_SECRET: {name: other}}", both},
		"more gateways":                      {"gateways: {replicas: 7}", nothing},
		"Services":                           {"service: {type: LoadBalancer}\ngateways: {service: {annotations: {a: b}}}", nothing},
		"network policies":                   {"networkPolicy: {prometheus: [], toApplication: [{ipBlock: {cidr: 0.0.0.0/0}}]}", nothing},
		"no network policies":                {"networkPolicy: {enabled: false}", nothing},
		"what is watched":                    {"serviceMonitor: {enabled: true}\nprometheusRule: {enabled: true}\ngrafanaDashboard: {enabled: true}", nothing},
		"budgets for disruptions":            {"podDisruptionBudget: {enabled: false}\ngateways: {podDisruptionBudget: {enabled: false}}", nothing},
		"the Service for gateways of before": {"highAvailability: {keepService: true}", nothing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			change, err := chartutil.ReadValues([]byte(row.change))
			if err != nil {
				t.Fatal(err)
			}
			for _, mode := range []string{"kubernetes-gateways", "kubernetes-high-availability"} {
				given := modes(t)[mode]
				before := templates(t, given)
				after := templates(t, chartutil.CoalesceTables(change, given))
				var changed []string
				for _, role := range both {
					if before[role] != after[role] {
						changed = append(changed, role)
					}
				}
				if diff := cmp.Diff(row.changes, changed); diff != "" {
					t.Errorf("%s: pods of these are others (-want +got):\n%s", mode, diff)
				}
			}
		})
	}
}

// TestGatewaysLearnOfMoreCoordinatorsWhenTheyAreRestarted: they ask all there are.
func TestGatewaysLearnOfMoreCoordinatorsWhenTheyAreRestarted(t *testing.T) {
	t.Parallel()
	given := modes(t)["kubernetes-high-availability"]
	before := templates(t, given)
	given["replicas"] = 3
	after := templates(t, given)
	if before["coordinator"] != after["coordinator"] {
		t.Error("coordinators are restarted because there is another one")
	}
	if before["gateway"] == after["gateway"] {
		t.Error("gateways never ask the third coordinator")
	}
}

// TestNewChartRestartsNothing: neither the version of the chart nor an upgrade by itself is in a pod.
func TestNewChartRestartsNothing(t *testing.T) {
	t.Parallel()
	given := modes(t)["kubernetes-high-availability"]
	before := templates(t, given)
	loaded, err := loadChart()
	if err != nil {
		t.Fatal(err)
	}
	newer, metadata := *loaded, *loaded.Metadata
	metadata.Version = "9.9.9"
	newer.Metadata = &metadata
	after, _, err := renderChart(&newer, given, "coordinator", "Helm", 7)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, templatesOf(t, after)); diff != "" {
		t.Error(diff)
	}
}

// templates are the pods of each role as YAML.
func templates(t *testing.T, given values) map[string]string {
	t.Helper()
	return templatesOf(t, mustRender(t, given))
}

func templatesOf(t *testing.T, text string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pod := range decode(t, text).pods() {
		out, err := yaml.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		all[pod.Labels["app.kubernetes.io/component"]] = string(out)
	}
	if all["coordinator"] == "" || all["gateway"] == "" {
		t.Fatal("a role is missing")
	}
	return all
}
