package release

// The packages, made as goreleaser makes them, and installed into a root directory of their own.

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"coordinator/internal/clustertest"

	"github.com/google/go-cmp/cmp"
)

// pack makes a package of the program with nfpm, which goreleaser uses, too, and from what .goreleaser.yaml says of it.
func pack(t *testing.T, format, version string) (file string) {
	t.Helper()
	nfpm := need(t, "nfpm", "go install github.com/goreleaser/nfpm/v2/cmd/nfpm")
	var config struct {
		NFPMs []map[string]any `yaml:"nfpms"`
	}
	readYAML(t, ".goreleaser.yaml", &config)
	if len(config.NFPMs) != 1 {
		t.Fatalf("%d kinds of packages", len(config.NFPMs))
	}
	settings := config.NFPMs[0]
	settings["name"], settings["version"], settings["arch"], settings["platform"] = settings["package_name"], version, runtime.GOARCH, "linux"
	settings["contents"] = append(settings["contents"].([]any), map[string]any{
		"src": program, "dst": settings["bindir"].(string) + "/coordinator", "file_info": map[string]any{"mode": 0o755},
	})
	for _, name := range []string{"package_name", "ids", "formats", "file_name_template", "bindir"} { // goreleaser's own
		delete(settings, name)
	}
	text, err := json.Marshal(settings) // which is YAML, too
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file = filepath.Join(dir, "coordinator."+format)
	text = []byte(strings.ReplaceAll(string(text), "{{ .CommitDate }}", "2026-01-02T03:04:05Z"))
	if err := os.WriteFile(filepath.Join(dir, "nfpm.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, nfpm, "package", "-f", filepath.Join(dir, "nfpm.json"), "-p", format, "-t", file)
	return file
}

// The image has nothing but the program, certificates and a directory for data, and another user than root.
func TestProgramRunsFromScratch(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("images are for Linux")
	}
	r := emptyRoot(t)
	r.asRoot("cp", program, r.path+"/coordinator")
	r.asRoot("chmod", "755", r.path, r.path+"/coordinator")
	r.asRoot("install", "-d", "-o", "65532", "-g", "65532", r.path+"/data")
	const user = "--userspec=65532:65532"
	if out := r.inside(user, "/coordinator", "-version"); !strings.HasPrefix(out, "coordinator "+packedVersion+"\n") {
		t.Errorf("the program says %s", out)
	}
	if out := r.inside(user, "/coordinator", "-check"); !strings.Contains(out, "\nDATA_DIR=data\n") {
		t.Errorf("the program says %s", out)
	}
}

// packager installs, upgrades and removes in a root.
type packager struct {
	format             string
	install, takesAway func(r *throwAwayRoot, file string)
	purge              func(r *throwAwayRoot) // nil: there is no such thing
	vendorZsh          string
}

func packagers(t *testing.T) map[string]packager {
	return map[string]packager{
		"dpkg": {
			format: "deb",
			install: func(r *throwAwayRoot, file string) {
				r.asRoot("cp", file, r.path+"/tmp/coordinator.deb")
				r.inside("dpkg", "--install", "/tmp/coordinator.deb")
			},
			takesAway: func(r *throwAwayRoot, _ string) { r.inside("dpkg", "--remove", "coordinator") },
			purge:     func(r *throwAwayRoot) { r.inside("dpkg", "--purge", "coordinator") },
			vendorZsh: "/usr/share/zsh/vendor-completions/_coordinator",
		},
		"rpm": {
			format: "rpm",
			install: func(r *throwAwayRoot, file string) {
				r.asRoot(need(t, "rpm", "Debian's package rpm"), "--root", r.path, "--nodeps", "--upgrade", file)
			},
			takesAway: func(r *throwAwayRoot, _ string) { r.asRoot("rpm", "--root", r.path, "--erase", "coordinator") },
			vendorZsh: "/usr/share/zsh/site-functions/_coordinator",
		},
	}
}

func TestPackagesRestartTheCoordinatorAndNeverTheGateway(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("packages are for Linux")
	}
	for name, p := range packagers(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			older, newer := pack(t, p.format, "1.0.0"), pack(t, p.format, packedVersion)
			if again := pack(t, p.format, packedVersion); clustertest.ReadText(t, again) != clustertest.ReadText(t, newer) {
				t.Error("the same package comes out differently")
			}
			r := newRoot(t)
			wantTold := func(step string, want ...string) {
				t.Helper()
				if diff := cmp.Diff(want, r.told()); diff != "" {
					t.Errorf("%s: systemctl is told (-want +got):\n%s", step, diff)
				}
			}

			p.install(r, older)
			wantTold("an installation where systemd does not run")
			r.installedAsItShould(p.vendorZsh)

			r.asRoot("mkdir", "-p", r.path+"/run/systemd/system", r.path+"/var/lib/coordinator/events")
			r.asRoot("sh", "-c", "echo HTTP_PORT=8081 >>"+r.path+"/etc/coordinator/coordinator.env")
			p.install(r, newer)
			wantTold("an upgrade", "daemon-reload", "try-restart coordinator.service", "is-active --quiet gateway.service")
			r.installedAsItShould(p.vendorZsh)
			if settings := r.asRoot("cat", r.path+"/etc/coordinator/coordinator.env"); !strings.HasSuffix(settings, "\nHTTP_PORT=8081\n") {
				t.Errorf("the settings are lost: %s", settings)
			}

			p.takesAway(r, newer)
			wantTold("a removal", "--no-reload disable --now coordinator.service gateway.service", "daemon-reload")
			if r.has("/usr/bin/coordinator") || !r.has("/var/lib/coordinator/events") {
				t.Error("a removal leaves the program, or takes the events")
			}
			if p.purge != nil {
				p.purge(r)
				wantTold("a purge")
				for _, name := range []string{"/etc/coordinator", "/var/lib/coordinator", "/usr/lib/systemd/system/coordinator.service"} {
					if r.has(name) {
						t.Errorf("a purge leaves %s", name)
					}
				}
				if left := r.inside("getent", "passwd") + r.inside("getent", "group"); strings.Contains(left, "coordinator") {
					t.Errorf("a purge leaves the user or its group: %s", left)
				}
			}
			p.install(r, newer)
			wantTold("an installation", "daemon-reload")
		})
	}
}

// Somebody may have run the program as a user of that name before there were packages.
func TestPurgeLeavesAUserThatThePackageHasNotMade(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("packages are for Linux")
	}
	p := packagers(t)["dpkg"]
	file, r := pack(t, p.format, packedVersion), newRoot(t)
	r.inside("useradd", "--user-group", "--home-dir", "/home/coordinator", "--shell", "/bin/sh", "coordinator")
	before := r.inside("getent", "passwd", "coordinator") + r.inside("getent", "group", "coordinator")
	p.install(r, file)
	p.purge(r)
	if after := r.inside("getent", "passwd") + r.inside("getent", "group"); !strings.Contains(after, strings.Split(before, "\n")[0]) {
		t.Errorf("a purge takes %sand leaves\n%s", before, after)
	}
	if r.has("/etc/coordinator") || r.has("/usr/bin/coordinator") {
		t.Error("a purge leaves more than the user")
	}
}

// The program verifies certificates with what the machine has; a small one may have none.
func TestPackagesBringAuthorities(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("packages are for Linux")
	}
	if got := strings.TrimSpace(output(t, need(t, "dpkg-deb", "Debian's package dpkg"), "--field", pack(t, "deb", packedVersion), "Recommends")); got != "ca-certificates" {
		t.Errorf("the deb recommends %q", got)
	}
	if got := strings.TrimSpace(output(t, need(t, "rpm", "Debian's package rpm"), "--query", "--recommends", "--package", pack(t, "rpm", packedVersion))); got != "ca-certificates" {
		t.Errorf("the rpm recommends %q", got)
	}
}

// The units of the packages are those of deploy/, but for the path of the program, the user and what a gateway needs.
func TestUnitsOfPackagesAreThoseOfDeploy(t *testing.T) {
	t.Parallel()
	for _, unit := range []string{"coordinator", "gateway"} {
		settings := func(file string) (lines []string) {
			_, text, found := strings.Cut(clustertest.ReadText(t, file), "\n[Unit]\n")
			if !found {
				t.Fatal(file, " has no settings")
			}
			for line := range strings.Lines(text) {
				if !strings.HasPrefix(line, "ExecStartPre=") {
					lines = append(lines, line)
				}
			}
			return lines
		}
		want := settings("deploy/" + unit + ".service")
		for i, line := range want {
			switch {
			case strings.HasPrefix(line, "ExecStart="):
				want[i] = "ExecStart=/usr/bin/coordinator\n"
			case line == "DynamicUser=yes\n" && unit == "coordinator":
				want[i] = "User=coordinator\n"
			}
		}
		if diff := cmp.Diff(want, settings("deploy/package/"+unit+".service")); diff != "" {
			t.Errorf("%s.service: deploy/ (-) and deploy/package/ (+)\n%s", unit, diff)
		}
	}
}

// By default systemd gives up a unit that has ended five times within ten seconds.
func TestUnitsAreNeverGivenUp(t *testing.T) {
	t.Parallel()
	for _, unit := range []string{"coordinator", "gateway"} {
		text := clustertest.ReadText(t, "deploy/"+unit+".service")
		section, _, _ := strings.Cut(text[strings.Index(text, "\n[Unit]\n"):], "\n[Service]\n")
		if !strings.Contains(section, "\nStartLimitIntervalSec=0\n") || !strings.Contains(text, "\nRestart=always\nRestartSec=1s\n") {
			t.Errorf("systemd gives up %s.service", unit)
		}
	}
}

// A gateway whose settings nobody has written would be a coordinator, on port 80.
func TestUnitOfAGatewayWithoutSettingsDoesNotStart(t *testing.T) {
	t.Parallel()
	_, command, _ := strings.Cut(clustertest.ReadText(t, "deploy/package/gateway.service"), "\nExecStartPre=/bin/sh -c '")
	command, _, ok := strings.Cut(command, "'\n")
	if !ok {
		t.Fatal("nothing is checked before the start")
	}
	command = strings.ReplaceAll(command, "$$", "$") // as systemd does
	for url, starts := range map[string]bool{"": false, "https://coordinator": true} {
		check := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
		check.Env = []string{"COORDINATOR_URL=" + url}
		if out, err := check.CombinedOutput(); (err == nil) != starts || starts != (len(out) == 0) {
			t.Errorf("COORDINATOR_URL=%s: %v %s", url, err, out)
		}
	}
}

func (r *throwAwayRoot) installedAsItShould(vendorZsh string) {
	r.t.Helper()
	for name, want := range map[string]string{
		"/usr/bin/coordinator":                                  "755 root root",
		"/usr/lib/systemd/system/coordinator.service":           "644 root root",
		"/usr/lib/systemd/system/gateway.service":               "644 root root",
		"/usr/share/man/man1/coordinator.1":                     "644 root root",
		"/usr/share/bash-completion/completions/coordinator":    "644 root root",
		"/usr/share/fish/vendor_completions.d/coordinator.fish": "644 root root",
		"/usr/share/doc/coordinator/env.example":                "644 root root",
		"/usr/share/doc/coordinator/gateways.md":                "644 root root",
		vendorZsh:                                               "644 root root",
		"/etc/coordinator":                                      "750 root coordinator",
		"/etc/coordinator/coordinator.env":                      "640 root coordinator",
		"/etc/coordinator/gateway.env":                          "640 root coordinator",
	} {
		if got := strings.TrimSpace(r.inside("stat", "--format=%a %U %G", name)); got != want {
			r.t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if user := r.inside("getent", "passwd", "coordinator"); !strings.HasSuffix(user, ":/var/lib/coordinator:/usr/sbin/nologin\n") {
		r.t.Errorf("user %s", user)
	}
	if out := r.inside("/usr/bin/coordinator", "-version"); !strings.HasPrefix(out, "coordinator "+packedVersion+"\n") {
		r.t.Errorf("the program says %s", out)
	}
	if out := r.inside("/usr/bin/coordinator", "-check"); !strings.HasPrefix(out, "# a coordinator\n") {
		r.t.Errorf("the program says %s", out)
	}
	// A drop-in would also change a unit of that name in /etc, which takes precedence.
	for _, unit := range []string{"coordinator", "gateway"} {
		if r.has("/usr/lib/systemd/system/" + unit + ".service.d") {
			r.t.Errorf("%s.service has a drop-in", unit)
		}
	}
}
