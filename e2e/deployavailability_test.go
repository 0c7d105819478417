package e2e

// Holds what is shipped for two coordinators against the program, and against what is shipped for one.

import (
	"bytes"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"
)

func TestComposeFilesStartTwoCoordinatorsAndTwoGateways(t *testing.T) {
	t.Parallel()
	type service struct {
		Build       string
		Image       string
		Ports       []string
		Environment map[string]string
	}
	services := map[string]service{} // as compose merges the files
	for _, name := range []string{"../compose.yaml", "../deploy/compose-gateways.yaml", "../deploy/compose-high-availability.yaml"} {
		var file struct{ Services map[string]service }
		readYAML(t, name, &file)
		for name, s := range file.Services {
			merged := services[name]
			if merged.Environment == nil {
				merged.Environment = map[string]string{}
			}
			merged.Build, merged.Image = merged.Build+s.Build, merged.Image+s.Image
			merged.Ports = append(merged.Ports, s.Ports...)
			maps.Copy(merged.Environment, s.Environment)
			services[name] = merged
		}
	}
	for _, of := range []string{"coordinator", "gateway"} {
		if diff := cmp.Diff(services[of], services[of+"-2"], cmpopts.IgnoreFields(service{}, "Ports")); diff != "" {
			t.Errorf("the two %ss differ (-first +second):\n%s", of, diff)
		}
	}
	if got := services["gateway"].Environment["COORDINATOR_URL"]; got != "http://coordinator,http://coordinator-2" {
		t.Errorf("gateways ask %s", got)
	}
	checkGateway(t, services["gateway"].Environment)
	users := map[string]string{} // of ports of the machine
	for name, s := range services {
		for _, port := range s.Ports {
			outside, _, _ := strings.Cut(port, ":")
			if users[outside] != "" {
				t.Errorf("%s and %s want port %s", users[outside], name, outside)
			}
			users[outside] = name
		}
	}
	if name := users["8084"]; name != "gateway" { // the file names it
		t.Errorf("at port 8084 is %q, no gateway for operators", name)
	}
	database := services["database"].Environment
	u, err := url.Parse(strings.Replace(services["coordinator"].Environment["DATABASE_URL"], database["POSTGRES_PASSWORD"], "secret", 1))
	if err != nil {
		t.Fatal(err)
	}
	if password, _ := u.User.Password(); u.Host != "database" || u.Path != "/"+database["POSTGRES_DB"] || u.User.Username() != database["POSTGRES_USER"] || password != "secret" {
		t.Errorf("DATABASE_URL=%s is not the database's %v", u, database)
	}
	for name := range services["coordinator"].Environment {
		if !slices.Contains(documentedVariables(t), name) {
			t.Errorf("%s is none of our variables", name)
		}
	}
	for name := range peerKinds() {
		if _, host, _ := strings.Cut(services[name].Environment["CONTROL_BASE_URL"], "//"); services[strings.Trim(host, "/")].Build == "" || !strings.HasPrefix(host, "gateway") {
			t.Errorf("%s connects to %q, which is no gateway", name, host)
		}
	}
}

func TestKubernetesManifestStartsTwoCoordinatorsAndTwoGateways(t *testing.T) {
	t.Parallel()
	const file = "../deploy/kubernetes-high-availability.yaml"
	manifest := clustertest.ReadText(t, file)
	checkManifest(t, coordinatorPart(t, file), map[string]string{"DATABASE_URL": "postgres://c@database/c", "GATEWAY_SECRET": gatewaySecret})
	objects := readKubernetes(t, file)
	set := objects["StatefulSet coordinator"]
	of := set.Spec.Template.Spec.Containers[0]
	names := variables(of.Env)
	for _, name := range []string{"DATABASE_URL_FILE", "GATEWAY_SECRET_FILE", "CONTROL_SECRET_FILE"} {
		if names[name] == "" {
			t.Errorf("%s is not set", name)
		}
	}
	service, there := objects["Service "+set.Spec.ServiceName]
	if !there || !service.Spec.PublishNotReadyAddresses {
		t.Errorf("gateways do not find coordinators by their Service %s", set.Spec.ServiceName)
	}
	if diff := cmp.Diff(set.Spec.Template.Metadata.Labels, service.Spec.Selector); diff != "" {
		t.Error(diff)
	}
	var urls []string
	for _, pod := range []string{"coordinator-0", "coordinator-1"} {
		urls = append(urls, "http://"+pod+"."+set.Spec.ServiceName+":"+names["HTTP_PORT"])
	}
	gateways := objects["StatefulSet gateway"].Spec.Template.Spec.Containers[0]
	if got := variables(gateways.Env)["COORDINATOR_URL"]; got != strings.Join(urls, ",") {
		t.Errorf("gateways ask %s, want %v", got, urls)
	}
	checkGateway(t, variables(gateways.Env))
	if gateways.Image != of.Image {
		t.Errorf("gateways run %s, and coordinators %s", gateways.Image, of.Image)
	}
	keys := set.secretKeys()
	for name, path := range names {
		if file, mounted := strings.CutPrefix(path, "/secrets/"); mounted && (keys[file] == "" || !strings.Contains(manifest, "--from-literal="+keys[file]+"=")) {
			t.Errorf("%s: the file does not say how the secret %q of %s is made", name, keys[file], path)
		}
	}
	for _, name := range []string{"coordinator", "gateway"} {
		if _, there := objects["PodDisruptionBudget "+name]; !there {
			t.Errorf("all machines of a %s may be drained at once", name)
		}
	}
	if of.ReadinessProbe.HTTPGet.Path != "/readyz" || of.LivenessProbe.HTTPGet.Path != "/livez" {
		t.Error("an update does not wait until a coordinator can take over")
	}

	// Gateways are those of kubernetes-gateways.yaml, but for whom they ask.
	alone, together := anyObjects(t, "../deploy/kubernetes-gateways.yaml"), anyObjects(t, file)
	if _, there := alone["StatefulSet gateway"]; !there {
		t.Error("there are no gateways before the one coordinator")
	}
	for name, object := range alone {
		if !strings.Contains(name, " gateway") {
			continue // of the coordinator
		}
		want, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		want = bytes.Replace(want, []byte("value: http://coordinator\n"), []byte("value: "+strings.Join(urls, ",")+"\n"), 1)
		got, err := yaml.Marshal(together[name])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-kubernetes-gateways.yaml +kubernetes-high-availability.yaml):\n%s", name, diff)
		}
	}
}

func TestDatabaseForTrialsIsFoundWhereTheManifestsSay(t *testing.T) {
	t.Parallel()
	const file = "../deploy/kubernetes-postgresql.yaml"
	objects := readKubernetes(t, file)
	given := variables(objects["StatefulSet database"].Spec.Template.Spec.Containers[0].Env)
	url := "postgres://" + given["POSTGRES_USER"] + ":PASSWORD@database/" + given["POSTGRES_DB"]
	if _, there := objects["Service database"]; !there || !strings.Contains(clustertest.ReadText(t, file), "database-url="+url+"\n") {
		t.Errorf("the file does not say that it is at %s", url)
	}
	var compose struct {
		Services map[string]struct{ Image string }
	}
	readYAML(t, "../deploy/compose-high-availability.yaml", &compose)
	if image := objects["StatefulSet database"].Spec.Template.Spec.Containers[0].Image; compose.Services["database"].Image != image {
		t.Errorf("Kubernetes runs %s, and compose %s", image, compose.Services["database"].Image)
	}
}

func variables(env []struct{ Name, Value string }) map[string]string {
	given := map[string]string{}
	for _, variable := range env {
		given[variable.Name] = variable.Value
	}
	return given
}

// anyObjects are all objects of a file with all that they say.
func anyObjects(t *testing.T, file string) map[string]any {
	t.Helper()
	objects := map[string]any{}
	for document := range strings.SplitSeq(clustertest.ReadText(t, file), "\n---\n") {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		objects[object["kind"].(string)+" "+object["metadata"].(map[string]any)["name"].(string)] = object
	}
	return objects
}
