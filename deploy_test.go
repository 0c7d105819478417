package main

// Holds what is shipped for operators against the code.

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestKubernetesManifestSetsOnlyKnownVariables(t *testing.T) {
	t.Parallel()
	manifest, err := os.ReadFile("deploy/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	known, set := configNames(), settings{}
	for line := range strings.Lines(string(manifest)) {
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "- {name: "), ", value: ")
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
	cfg, err := loadConfig(set.get)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.HTTPPort != 8080 || cfg.SSLPort != 8443 || !cfg.LogJSON || cfg.CommandsAuth.scheme != "Bearer" {
		t.Errorf("the manifest is not read as it stands: %+v", cfg)
	}
}
