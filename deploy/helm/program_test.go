package helm

// The program itself, which judges the variables that the chart sets.

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "coordinator-helm")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "coordinator")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", binary, ".")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// run returns what the program prints. Anything on standard error is a fault.
func run(t *testing.T, flag string, environ ...string) string {
	t.Helper()
	var out, diagnostics bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, flag)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = t.TempDir(), environ, &out, &diagnostics
	if err := cmd.Run(); err != nil || diagnostics.Len() > 0 {
		t.Errorf("coordinator %s: %v\n%s", flag, err, &diagnostics)
	}
	return out.String()
}

// documentedVariables are those of docs/configuration.md, which a test of the program holds against its Config.
func documentedVariables(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		names = append(names, row[1])
	}
	if len(names) < 30 {
		t.Fatalf("only %d variables are documented", len(names))
	}
	return names
}

// TestEachVariableIsOneOfTheProgramAndTakenAsItStands starts the program with what the chart sets.
func TestEachVariableIsOneOfTheProgramAndTakenAsItStands(t *testing.T) {
	t.Parallel()
	known := append(documentedVariables(t), "SSL_CERT_FILE", "SSL_CERT_DIR") // these two are Go's own
	eachMode(t, func(t *testing.T, given values) {
		for name, pod := range decode(t, mustRender(t, given)).pods() {
			dir := t.TempDir()
			environ := map[string]string{}
			for _, variable := range pod.Spec.Containers[0].Env {
				if !slices.Contains(known, variable.Name) {
					t.Errorf("%s: %s is none of the program's variables", name, variable.Name)
				}
				if _, twice := environ[variable.Name]; twice || variable.ValueFrom != nil {
					t.Errorf("%s: %s is set twice, or from elsewhere", name, variable.Name)
				}
				environ[variable.Name] = variable.Value
			}
			mounted := files(t, pod.Spec, dir)
			for name, value := range environ {
				if strings.HasPrefix(value, "/secrets/") || strings.HasPrefix(value, "/certificate/") {
					if !mounted[value] {
						t.Errorf("%s: %s is mounted nowhere", name, value)
					}
					environ[name] = filepath.Join(dir, value)
				}
			}
			var list []string
			for name, value := range environ {
				list = append(list, name+"="+value)
			}
			printed := "\n" + run(t, "-check", list...)
			if isGateway := strings.HasPrefix(printed, "\n# a gateway\n"); isGateway != strings.HasSuffix(name, "gateway") {
				t.Errorf("%s is another role:\n%s", name, printed)
			}
			for name, value := range environ {
				line := regexp.MustCompile(`\n` + name + `=(.*)\n`).FindStringSubmatch(printed)
				if line != nil && line[1] != "***" && value != "" && line[1] != value && !strings.HasSuffix(name, "_AUTH") {
					t.Errorf("%s=%s, and the program takes %s", name, value, line[1])
				}
			}
		}
	})
}

// files writes what a pod has mounted of Secrets below dir, and names it.
func files(t *testing.T, pod corev1.PodSpec, dir string) map[string]bool {
	t.Helper()
	mounted := map[string]bool{}
	write := func(path, text string) {
		mounted[path] = true
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, volume := range pod.Volumes {
		switch {
		case volume.Projected != nil:
			for _, source := range volume.Projected.Sources {
				for _, item := range source.Secret.Items {
					if mounted["/secrets/"+item.Path] {
						t.Errorf("%s is there twice", item.Path)
					}
					text := strings.Repeat("s", 32)
					switch {
					case item.Path == "database-url":
						text = "postgres://c@database/c"
					case strings.HasSuffix(item.Path, "-url"):
						text = "https://user:password@application/"
					}
					write("/secrets/"+item.Path, text)
				}
			}
		case volume.Secret != nil:
			certificate, key := pair(t)
			write("/certificate/tls.crt", certificate)
			write("/certificate/tls.key", key)
		}
	}
	return mounted
}

func pair(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"coordinator"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
}

// TestModesSetEachVariableOfTheChart: none of the schema is never held against the program.
func TestModesSetEachVariableOfTheChart(t *testing.T) {
	t.Parallel()
	set := map[string]bool{}
	for _, given := range modes(t) {
		for _, pod := range decode(t, mustRender(t, given)).pods() {
			for _, variable := range pod.Spec.Containers[0].Env {
				set[variable.Name] = true
			}
		}
	}
	schema := readSchema(t)
	var names []string
	names = slices.AppendSeq(names, maps.Keys(schema.Properties["settings"].Properties))
	for name := range schema.Properties["secrets"].Properties {
		names = append(names, name+"_FILE")
	}
	for _, name := range names {
		if !set[name] {
			t.Errorf("no mode sets %s", name)
		}
	}
}
