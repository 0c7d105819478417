package helm

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chartutil"
)

type schema struct {
	Properties           map[string]*schema
	AdditionalProperties any
}

func readSchema(t *testing.T) *schema {
	t.Helper()
	text, err := os.ReadFile(chartDir + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// TestChartTakesEachVariableOnce: as a setting, as a secret, or set by the chart itself.
func TestChartTakesEachVariableOnce(t *testing.T) {
	t.Parallel()
	s := readSchema(t)
	byItself := []string{"HTTP_PORT", "SSL_PORT", "SSL_CERT", "SSL_KEY", "DATA_DIR", "DATABASE_URL", "COORDINATOR_URL"}
	never := []string{"BIND_ADDRESS"} // probes and Services reach a pod from outside
	settings := slices.Collect(maps.Keys(s.Properties["settings"].Properties))
	settings = slices.DeleteFunc(settings, func(name string) bool { return name == "SSL_CERT_FILE" || name == "SSL_CERT_DIR" })
	var wantSettings, wantSecrets []string
	documented := documentedVariables(t)
	for _, name := range documented {
		isSecret := slices.Contains(documented, name+"_FILE")
		isURL := strings.HasSuffix(name, "_VERIFICATION_URL") || strings.HasSuffix(name, "_CALLBACK_URL") // may be either
		if strings.HasSuffix(name, "_FILE") || slices.Contains(byItself, name) || slices.Contains(never, name) {
			continue
		}
		if isSecret {
			wantSecrets = append(wantSecrets, name)
		}
		if !isSecret || isURL {
			wantSettings = append(wantSettings, name)
		}
	}
	slices.Sort(wantSettings)
	slices.Sort(wantSecrets)
	if diff := cmp.Diff(wantSettings, slices.Sorted(slices.Values(settings))); diff != "" {
		t.Errorf("settings of the program (-) and of the schema (+):\n%s", diff)
	}
	if diff := cmp.Diff(wantSecrets, slices.Sorted(maps.Keys(s.Properties["secrets"].Properties))); diff != "" {
		t.Errorf("secrets of the program (-) and of the schema (+):\n%s", diff)
	}
}

// TestSchemaRefusesWhatCannotWork: what is said of the fault names the place.
func TestSchemaRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	const secret = "secrets: {GATEWAY_SECRET: {name: s, key: k}}\n"
	type refusal struct{ values, says string }
	rows := map[string]refusal{
		"misspelled value":                         {"replica: 1", "replica"},
		"misspelled value of gateways":             {"gateways: {replica: 2}", "replica"},
		"misspelled value of the network policy":   {"networkPolicy: {peer: []}", "peer"},
		"misspelled variable":                      {"settings: {ENCODER_WAIT_SECOND: 5}", "ENCODER_WAIT_SECOND"},
		"variable that a gateway does not use":     {"gateways: {settings: {PLACEMENT: pack}}", "PLACEMENT"},
		"variable that the chart sets itself":      {"settings: {HTTP_PORT: 80}", "HTTP_PORT"},
		"a word that is none":                      {"settings: {PLACEMENT: most-load}", "PLACEMENT"},
		"a number out of range":                    {"settings: {ENCODER_WAIT_SECONDS: 16}", "ENCODER_WAIT_SECONDS"},
		"a number as a text":                       {`replicas: "1"`, "replicas"},
		"no coordinator":                           {"replicas: 0", "replicas"},
		"two coordinators on one volume":           {secret + "replicas: 2\ngateways: {replicas: 2}", "databaseSecret"},
		"two coordinators without gateways":        {secret + "replicas: 2\nhighAvailability: {databaseSecret: d}", "gateways/replicas"},
		"gateways without their secret":            {"gateways: {replicas: 2}", "GATEWAY_SECRET"},
		"secret in the clear":                      {"secrets: {CONTROL_SECRET: swordfish}", "CONTROL_SECRET"},
		"secret in the clear, beside a key":        {"secrets: {CONTROL_SECRET: {name: s, key: k, value: swordfish}}", "value"},
		"secret in the clear, as a setting":        {"settings: {CONTROL_SECRET: swordfish}", "CONTROL_SECRET"},
		"token in the clear":                       {"settings: {COMMANDS_API_AUTH_TOKEN: swordfish}", "COMMANDS_API_AUTH_TOKEN"},
		"gateways' secret in the clear":            {"gateways: {settings: {GATEWAY_SECRET: swordfish}}", "GATEWAY_SECRET"},
		"URL of the database in the clear":         {"settings: {DATABASE_URL: 'postgres://u:p@h/d'}", "DATABASE_URL"},
		"URL of the database in place of a Secret": {"highAvailability: {databaseSecret: 'postgres://u:p@h/d'}", "databaseSecret"},
		"password in a URL":                        {"settings: {KEY_VERIFICATION_URL: 'https://u:p@application/'}", "KEY_VERIFICATION_URL"},
		"no URL":                                   {"settings: {EVENT_CALLBACK_URL: application}", "EVENT_CALLBACK_URL"},
		"secret without a key":                     {"secrets: {CONTROL_SECRET: {name: s, key: null}}", "key"},
		"Basic without a user":                     {"settings: {COMMANDS_API_AUTH: Basic}\nsecrets: {COMMANDS_API_AUTH_PASSWORD: {name: s, key: k}}", "COMMANDS_API_AUTH_USER"},
		"a user with a colon":                      {"settings: {COMMANDS_API_AUTH: Basic, COMMANDS_API_AUTH_USER: 'a:b'}\nsecrets: {COMMANDS_API_AUTH_PASSWORD: {name: s, key: k}}", "COMMANDS_API_AUTH_USER"},
		"commands without their token":             {"secrets: {COMMANDS_API_AUTH_TOKEN: null}", "COMMANDS_API_AUTH_TOKEN"},
		"https to a coordinator without it":        {"gateways: {linkScheme: https}", "secretName"},
		"Prometheus without a user": {"settings: {COMMANDS_API_AUTH: Basic, COMMANDS_API_AUTH_USER: u}\nsecrets: {COMMANDS_API_AUTH_PASSWORD: {name: s, key: k}}\n" +
			"serviceMonitor: {enabled: true}", "username"},
		"a name that Kubernetes refuses":              {"tls: {secretName: Certificate}", "secretName"},
		"a name that is too long":                     {"fullnameOverride: " + strings.Repeat("a", 41), "fullnameOverride"},
		"somebody who is no peer of a policy":         {"networkPolicy: {peers: [10.0.0.0/8]}", "peers"},
		"a kind of Service that has no pods":          {"service: {type: ExternalName}", "service/type"},
		"nothing in place of a list of peers":         {"networkPolicy: {application: ''}", "application"},
		"peers of a policy that name nobody":          {"networkPolicy: {application: [{}]}", "application"},
		"a volume of no size":                         {"persistence: {size: much}", "size"},
		"an interval that is none":                    {"serviceMonitor: {interval: often}", "interval"},
		"an image without a name":                     {"image: {repository: ''}", "repository"},
		"authorities that are not there":              {"settings: {SSL_CERT_FILE: /authorities/ca.crt}", "authoritiesConfigMap"},
		"authorities that are not there, at gateways": {secret + "gateways: {replicas: 2, settings: {SSL_CERT_FILE: /authorities/ca.crt}}", "authoritiesConfigMap"},
		"an image that is no name":                    {"image: {repository: 'a b'}", "repository"},
		"a key that no machine has":                   {"topologyKeys: ['a: b']", "topologyKeys"},
		"no answer whether there is a policy":         {"networkPolicy: {enabled: null}", "networkPolicy"},
		"no answer how many gateways there are":       {"gateways: {replicas: null}", "replicas"},
		"gateways called as coordinators":             {secret + "fullnameOverride: a\ngateways: {replicas: 2, fullnameOverride: a}", "gateways.fullnameOverride"},
		"gateways called as a coordinators' Service":  {secret + "fullnameOverride: a\ngateways: {replicas: 2, fullnameOverride: as}", "gateways.fullnameOverride"},
		"a coordinator called as a gateways' Service": {secret + "fullnameOverride: as\ngateways: {replicas: 2, fullnameOverride: a}", "gateways.fullnameOverride"},
		"a budget for disruptions with a typo":        {"podDisruptionBudget: {enable: false}", "enable"},
	}
	for _, part := range []string{"tls", "persistence", "highAvailability", "service", "podDisruptionBudget", "networkPolicy", "gateways"} {
		rows["nothing in place of "+part] = refusal{part + ": null", "missing property '" + part}
	}
	for _, part := range []string{"tls", "image", "linkScheme", "service", "podDisruptionBudget"} {
		rows["nothing in place of gateways."+part] = refusal{secret + "gateways: {replicas: 2, " + part + ": null}", "missing property '" + part}
	}
	for _, of := range []string{"KEY_VERIFICATION", "EVENT_CALLBACK"} {
		rows[of+" has its URL twice"] = refusal{"settings: {" + of + "_URL: 'http://a'}\nsecrets: {" + of + "_URL: {name: s, key: k}}", of + "_URL"}
		rows[of+" with Bearer and no token"] = refusal{"settings: {" + of + "_AUTH: Bearer}", of + "_AUTH_TOKEN"}
		rows[of+" with Custom and no header"] = refusal{"settings: {" + of + "_AUTH: Custom}", of + "_AUTH_CUSTOM"}
		rows[of+" with Basic and no password"] = refusal{"settings: {" + of + "_AUTH: Basic, " + of + "_AUTH_USER: u}", of + "_PASSWORD"}
		rows[of+" with Basic and no user"] = refusal{"settings: {" + of + "_AUTH: Basic}\nsecrets: {" + of + "_PASSWORD: {name: s, key: k}}", of + "_AUTH_USER"}
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			given, err := chartutil.ReadValues([]byte(row.values))
			if err != nil {
				t.Fatal(err)
			}
			text, _, err := render(given, "coordinator", "Helm")
			if err == nil {
				t.Fatalf("is taken, and makes\n%s", text)
			}
			if !strings.Contains(err.Error(), row.says) {
				t.Errorf("the fault does not name %s: %v", row.says, err)
			}
			if strings.Contains(err.Error(), "swordfish") {
				t.Errorf("the fault shows the secret: %v", err)
			}
		})
	}
}
