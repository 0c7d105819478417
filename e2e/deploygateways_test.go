package e2e

// Holds what is shipped for gateways against the program, and against what is shipped for the coordinator.

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// checkGateway holds the variables of a gateway's container against the program.
func checkGateway(t *testing.T, given map[string]string) {
	t.Helper()
	environ := []string{"GATEWAY_SECRET=" + gatewaySecret}
	for name, value := range given {
		if !slices.Contains(documentedVariables(t), name) {
			t.Errorf("%s is none of our variables", name)
		}
		if name != "GATEWAY_SECRET" && !strings.HasSuffix(name, "_FILE") { // what it holds is known later
			environ = append(environ, name+"="+value)
		}
	}
	for _, name := range []string{"GATEWAY_SECRET", "CONTROL_SECRET"} {
		if given[name] == "" && given[name+"_FILE"] == "" {
			t.Errorf("%s is not set", name)
		}
	}
	status, out, diagnostics := execute(t, "-check", environ...)
	if status != 0 || diagnostics != "" || !strings.HasPrefix(out, "# a gateway\n# it holds the connections of peers and links to http://coordinator") {
		t.Errorf("%d %s\n%s", status, diagnostics, out)
	}
}

func TestComposeFilePutsAGatewayBeforeTheCoordinator(t *testing.T) {
	t.Parallel()
	type services struct {
		Services map[string]struct{ Environment map[string]string }
	}
	var plain, file services
	readYAML(t, "../compose.yaml", &plain)
	readYAML(t, "../deploy/compose-gateways.yaml", &file)
	given := file.Services["gateway"].Environment
	checkGateway(t, given)
	if secret := given["CONTROL_SECRET"]; secret != plain.Services["coordinator"].Environment["CONTROL_SECRET"] {
		t.Errorf("CONTROL_SECRET=%s, and the coordinator has another", secret)
	}
	if secret := given["GATEWAY_SECRET"]; secret != file.Services["coordinator"].Environment["GATEWAY_SECRET"] {
		t.Errorf("GATEWAY_SECRET=%s, and the coordinator has another", secret)
	}
	for name := range peerKinds() {
		if base := file.Services[name].Environment["CONTROL_BASE_URL"]; base != "ws://gateway/" {
			t.Errorf("%s connects to %s", name, base)
		}
	}
	for name := range file.Services {
		if _, known := plain.Services[name]; !known && name != "gateway" {
			t.Errorf("%s is not in compose.yaml", name)
		}
	}
}

type kubernetesObject struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		PublishNotReadyAddresses bool `yaml:"publishNotReadyAddresses"`
		Selector                 map[string]any
		ServiceName              string                `yaml:"serviceName"`
		UpdateStrategy           struct{ Type string } `yaml:"updateStrategy"`
		Template                 struct {
			Metadata struct{ Labels map[string]any }
			Spec     struct {
				Containers []struct {
					Image          string
					Env            []struct{ Name, Value string }
					ReadinessProbe kubernetesProbe `yaml:"readinessProbe"`
					LivenessProbe  kubernetesProbe `yaml:"livenessProbe"`
				}
				Volumes []struct {
					Projected struct {
						Sources []struct {
							Secret struct {
								Name  string
								Items []struct{ Key, Path string }
							}
						}
					}
				}
			}
		}
	}
}

// secretKeys are the keys of Secrets, by the files below /secrets/ that they are mounted as.
func (o kubernetesObject) secretKeys() map[string]string {
	keys := map[string]string{}
	for _, volume := range o.Spec.Template.Spec.Volumes {
		for _, source := range volume.Projected.Sources {
			for _, item := range source.Secret.Items {
				keys[item.Path] = item.Key
			}
		}
	}
	return keys
}

type kubernetesProbe struct {
	HTTPGet struct{ Path string } `yaml:"httpGet"`
}

func readKubernetes(t *testing.T, file string) map[string]kubernetesObject {
	t.Helper()
	objects := map[string]kubernetesObject{}
	for documents := yaml.NewDecoder(bytes.NewReader([]byte(clustertest.ReadText(t, file)))); ; {
		var o kubernetesObject
		if err := documents.Decode(&o); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatal(err)
		}
		objects[o.Kind+" "+o.Metadata.Name] = o
	}
}

func TestKubernetesManifestPutsGatewaysBeforeTheCoordinator(t *testing.T) {
	t.Parallel()
	gateways, coordinator := readKubernetes(t, "../deploy/kubernetes-gateways.yaml"), readKubernetes(t, "../deploy/kubernetes.yaml")
	set := gateways["StatefulSet gateway"]
	container := set.Spec.Template.Spec.Containers[0]
	given := map[string]string{}
	for _, variable := range container.Env {
		given[variable.Name] = variable.Value
	}
	checkGateway(t, given)
	if container.ReadinessProbe.HTTPGet.Path != "/livez" || container.LivenessProbe.HTTPGet.Path != "/livez" {
		t.Error("a gateway without a coordinator must stay where peers find it")
	}
	if set.Spec.UpdateStrategy.Type != "OnDelete" {
		t.Error("gateways are replaced, and what is live on them ended, when nobody has asked for it")
	}
	checkManifest(t, coordinatorPart(t, "../deploy/kubernetes-gateways.yaml"), map[string]string{"GATEWAY_SECRET": gatewaySecret})
	one := gateways["Deployment coordinator"]
	if one.secretKeys()["gateway-secret"] == "" || variables(one.Spec.Template.Spec.Containers[0].Env)["GATEWAY_SECRET_FILE"] != "/secrets/gateway-secret" {
		t.Error("the coordinator lets no gateway link")
	}
	if image := coordinator["Deployment coordinator"].Spec.Template.Spec.Containers[0].Image; container.Image != image {
		t.Errorf("gateways run %s, and the coordinator %s", container.Image, image)
	}
	if !coordinator["Service coordinator"].Spec.PublishNotReadyAddresses {
		t.Error("gateways do not find a coordinator that waits for them")
	}
	if diff := cmp.Diff(set.Spec.Template.Metadata.Labels, gateways["Service gateway"].Spec.Selector); diff != "" {
		t.Error(diff)
	}
	if _, there := gateways["Service "+set.Spec.ServiceName]; !there {
		t.Errorf("there is no Service %s", set.Spec.ServiceName)
	}
}

// coordinatorPart is what stands in a manifest before its gateways.
func coordinatorPart(t *testing.T, file string) string {
	t.Helper()
	part, rest, _ := strings.Cut(clustertest.ReadText(t, file), "name: gateway\n")
	if rest == "" {
		t.Fatalf("%s has no gateways", file)
	}
	return part
}

// The units differ in what the roles differ in, and in no protection.
func TestUnitsOfGatewayAndCoordinatorAreAlike(t *testing.T) {
	t.Parallel()
	settings := func(file string) (lines []string) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			name, _, isSetting := strings.Cut(strings.TrimSpace(line), "=")
			switch name {
			case "Description", "EnvironmentFile", "Environment", "StateDirectory", "StateDirectoryMode", "WorkingDirectory":
			default:
				if isSetting && line[0] != '#' {
					lines = append(lines, line)
				}
			}
		}
		return lines
	}
	if diff := cmp.Diff(settings("../deploy/coordinator.service"), settings("../deploy/gateway.service")); diff != "" {
		t.Errorf("coordinator (-) and gateway (+)\n%s", diff)
	}
}
