package e2e

// Holds what is shipped for operators against the program.

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"coordinator/internal/clustertest"

	"go.yaml.in/yaml/v3"
)

func TestKubernetesManifestSetsOnlyKnownVariables(t *testing.T) {
	t.Parallel()
	checkManifest(t, clustertest.ReadText(t, "../deploy/kubernetes.yaml"), map[string]string{})
}

// checkManifest holds the variables of a coordinator's manifest against the program. secrets are known later, but have to be there.
func checkManifest(t *testing.T, manifest string, secrets map[string]string) {
	t.Helper()
	known, set := documentedVariables(t), map[string]string{}
	for line := range strings.Lines(manifest) {
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimLeft(line, " #"), "- {name: "), ", value: ") // what may be taken in, too
		if !ok {
			continue
		}
		if !slices.Contains(known, name) {
			t.Errorf("%s is none of our variables", name)
		}
		if !strings.HasSuffix(name, "_FILE") {
			set[name] = strings.Trim(strings.TrimSpace(value), `"}`)
		}
	}
	for name, secret := range map[string]string{"KEY_VERIFICATION_AUTH_TOKEN": "t", "EVENT_CALLBACK_AUTH_TOKEN": "t", "COMMANDS_API_AUTH_TOKEN": "t"} {
		set[name] = secret
	}
	maps.Copy(set, secrets)
	dir := t.TempDir()
	clustertest.NewPair(t, 1).Write(t, dir)
	set["SSL_CERT"], set["SSL_KEY"] = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	var environ []string
	for name, value := range set {
		environ = append(environ, name+"="+value)
	}
	status, out, diagnostics := execute(t, "-check", environ...)
	if status != 0 || diagnostics != "" {
		t.Fatalf("%d %s", status, diagnostics)
	}
	for _, line := range []string{"HTTP_PORT=8080", "SSL_PORT=8443", "LOG_FORMAT=json", "COMMANDS_API_AUTH=Bearer"} {
		if !strings.Contains("\n"+out, "\n"+line+"\n") {
			t.Errorf("the manifest is not read as it stands: %s is missing in\n%s", line, out)
		}
	}
}

// documentedVariables are those of docs/configuration.md, which another test holds against the code.
func documentedVariables(t *testing.T) (names []string) {
	t.Helper()
	_, table, _ := strings.Cut(clustertest.ReadText(t, "../docs/configuration.md"), "| name | default | meaning |\n|---|---|---|\n")
	for line := range strings.Lines(table) {
		row, isRow := strings.CutPrefix(line, "| `")
		if !isRow {
			break
		}
		name, _, _ := strings.Cut(row, "`")
		names = append(names, name)
	}
	if len(names) < 20 {
		t.Fatalf("only %d variables are documented: %q", len(names), names)
	}
	return names
}

// peerKind is what the images of the peers need, to work with the coordinator and with each other.
type peerKind struct {
	image, command string
	needs          []string          // variables
	set            map[string]string // to these values
}

func peerKinds() map[string]peerKind {
	server := []string{"CONTROL_BASE_URL", "CONTROL_SECRET", "CONCURRENT_LIMIT_WHITELIST", "EXTERNAL_IP", "EXTERNAL_PORT", "EXTERNAL_SSL"}
	return map[string]peerKind{
		"rtmp": {"asanrom/rtmp-server-rs", "", append(server, "RTMP_PLAY_WHITELIST"), map[string]string{"CONTROL_USE": "YES", "EXTERNAL_PORT": "1935", "EXTERNAL_SSL": "NO"}},
		"wss":  {"asanrom/tcp-video-streaming", "ws-stream-server", append(server, "PLAY_WHITELIST"), map[string]string{"EXTERNAL_PORT": "80", "EXTERNAL_SSL": "NO"}},
		"hls":  {"asanrom/tcp-video-streaming", "hls-encoder", []string{"CONTROL_BASE_URL", "CONTROL_SECRET", "SERVER_CAPACITY"}, map[string]string{"HLS_FILESYSTEM_PATH": "/hls", "HLS_STORAGE_TYPE": "FILESYSTEM"}},
	}
}

// check holds what a file gives a peer against its needs. Values that come from elsewhere are not empty.
func (k peerKind) check(t *testing.T, image string, command []string, given map[string]string) {
	t.Helper()
	if image != k.image || strings.Join(command, " ") != k.command {
		t.Errorf("runs %s %q, want %s %q", image, command, k.image, k.command)
	}
	known := slices.Concat(k.needs, slices.Collect(maps.Keys(k.set)))
	for _, name := range known {
		if given[name] == "" {
			t.Errorf("%s is not set", name)
		}
	}
	for name, value := range given {
		if want := k.set[name]; !slices.Contains(known, name) || want != "" && value != want {
			t.Errorf("%s=%s, want %q", name, value, want)
		}
	}
	if base, err := url.Parse(given["CONTROL_BASE_URL"]); err != nil || base.Scheme != "ws" || base.Host != "coordinator" || base.Path != "/" {
		t.Errorf("CONTROL_BASE_URL=%s", given["CONTROL_BASE_URL"])
	}
}

func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

func TestComposeFileGivesEachPeerWhatItNeeds(t *testing.T) {
	t.Parallel()
	var file struct {
		Services map[string]struct {
			Image       string
			Command     []string
			Volumes     []string
			Ports       []string
			Environment map[string]string
		}
		Volumes map[string]any
	}
	readYAML(t, "../compose.yaml", &file)
	for name, kind := range peerKinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := file.Services[name]
			kind.check(t, peer.Image, peer.Command, peer.Environment)
			if secret := peer.Environment["CONTROL_SECRET"]; secret != file.Services["coordinator"].Environment["CONTROL_SECRET"] {
				t.Errorf("CONTROL_SECRET=%s, and the coordinator has another", secret)
			}
			if address, given := peer.Environment["EXTERNAL_IP"]; given && address != name {
				t.Errorf("EXTERNAL_IP=%s, where encoders do not find it", address)
			}
		})
	}
	if !slices.Contains(file.Services["hls"].Volumes, "hls:/hls") || !slices.Contains(file.Services["files"].Volumes, "hls:/hls:ro") {
		t.Error("what the encoder writes is nowhere to be read")
	}
	if _, shared := file.Volumes["hls"]; !shared {
		t.Error("the volume is not there")
	}
	for name := range file.Services["coordinator"].Environment {
		if !slices.Contains(documentedVariables(t), name) {
			t.Errorf("%s is none of our variables", name)
		}
	}
}

func TestKubernetesManifestGivesEachPeerWhatItNeeds(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../deploy/kubernetes-peers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kinds := peerKinds()
	for documents := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var manifest struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct {
				Template struct {
					Spec struct {
						Containers []struct {
							Image         string
							Command, Args []string
							Env           []struct {
								Name, Value string
								ValueFrom   map[string]map[string]string `yaml:"valueFrom"`
							}
						}
					}
				}
			}
		}
		err := documents.Decode(&manifest)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if manifest.Kind != "Deployment" {
			continue
		}
		t.Run(manifest.Metadata.Name, func(t *testing.T) {
			kind, known := kinds[manifest.Metadata.Name]
			if !known {
				t.Fatal("is no peer, or there twice")
			}
			delete(kinds, manifest.Metadata.Name)
			container := manifest.Spec.Template.Spec.Containers[0]
			given := map[string]string{}
			for _, variable := range container.Env {
				given[variable.Name] = variable.Value
				for from, where := range variable.ValueFrom {
					given[variable.Name] = from + " " + where["name"] + where["key"] + where["fieldPath"]
				}
			}
			// The images begin with a shell: what is run is an argument.
			kind.check(t, container.Image, slices.Concat(container.Command, container.Args), given)
			if len(container.Command) > 0 {
				t.Error("the command takes the place of the image's own")
			}
			if given["CONTROL_SECRET"] != "secretKeyRef coordinator-secretscontrol-secret" {
				t.Errorf("CONTROL_SECRET is from %s", given["CONTROL_SECRET"])
			}
			if address := given["EXTERNAL_IP"]; address != "" && address != "fieldRef status.podIP" {
				t.Errorf("EXTERNAL_IP is from %s", address)
			}
		})
	}
	for name := range kinds {
		t.Errorf("there is no %s", name)
	}
}

func TestDocumentsNameWhatEachPeerNeeds(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/peers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| peer | image, command | endpoint | variables it needs |\n|---|---|---|---|\n")
	for name, kind := range peerKinds() {
		row := ""
		for line := range strings.Lines(table) {
			if strings.Contains(line, "`/ws/control/"+name+"`") {
				row = line
				break
			}
		}
		for _, part := range append([]string{kind.image, kind.command}, slices.Concat(kind.needs, slices.Collect(maps.Keys(kind.set)))...) {
			if part != "" && !strings.Contains(row, "`"+part+"`") && !strings.Contains(row, "`"+part+"=") {
				t.Errorf("%s: docs/peers.md does not name %s", name, part)
			}
		}
	}
}
