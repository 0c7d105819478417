package release

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"coordinator/internal/clustertest"
)

// throwAwayRoot is a directory that looks like a small machine to whoever is confined to it. It has the programs that packages need, a
// list of users, and a systemctl that writes down what it is told to do.
type throwAwayRoot struct {
	t    *testing.T
	path string
	sudo []string
}

const systemctl = `#!/bin/sh
echo "$*" >>/systemctl.log
`

// emptyRoot has nothing in it. It is removed at the end of the test.
func emptyRoot(t *testing.T) *throwAwayRoot {
	t.Helper()
	root := &throwAwayRoot{t: t}
	if os.Getuid() != 0 {
		if err := exec.Command("sudo", "-n", "true").Run(); err != nil && os.Getenv("CI") == "true" {
			t.Fatal("a root directory of its own is for root only, and there is no sudo: ", err)
		} else if err != nil {
			t.Skip("a root directory of its own is for root only")
		}
		root.sudo = []string{"sudo", "-n"}
	}
	dir, err := os.MkdirTemp("", "coordinator-root")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.asRoot("rm", "-rf", dir) })
	root.path = dir
	return root
}

func newRoot(t *testing.T) *throwAwayRoot {
	t.Helper()
	root := emptyRoot(t)
	for _, dir := range []string{
		"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "dev", "tmp", "run", "var/log", "var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/dpkg/triggers",
	} {
		if err := os.MkdirAll(filepath.Join(root.path, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		clustertest.Link(t, "usr/"+dir, filepath.Join(root.path, dir))
	}
	for name, text := range map[string]string{
		"etc/passwd":          "root:x:0:0:root:/root:/bin/sh\n",
		"etc/group":           "root:x:0:\n",
		"etc/shadow":          "root:*:20000:0:99999:7:::\n",
		"etc/gshadow":         "root:*::\n",
		"etc/login.defs":      "SYS_UID_MIN 100\nSYS_UID_MAX 999\nSYS_GID_MIN 100\nSYS_GID_MAX 999\n",
		"etc/nsswitch.conf":   "passwd: files\ngroup: files\nshadow: files\n",
		"dev/null":            "",
		"var/lib/dpkg/status": "",
	} {
		root.write(name, text)
	}
	for _, name := range []string{"sh", "dpkg", "dpkg-deb", "dpkg-split", "dpkg-query", "diff", "tar", "rm", "rmdir", "cut", "stat", "getent", "useradd", "userdel", "groupadd", "groupdel", "ldconfig", "start-stop-daemon"} {
		root.copyProgram(name)
	}
	root.write("usr/bin/systemctl", systemctl)
	if err := os.Chmod(filepath.Join(root.path, "usr/bin/systemctl"), 0o755); err != nil {
		t.Fatal(err)
	}
	root.asRoot("chown", "-R", "0:0", root.path)
	root.asRoot("chmod", "755", root.path)
	return root
}

func (r *throwAwayRoot) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.path, name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// copyProgram copies a program of this machine, and the libraries that it is linked with.
func (r *throwAwayRoot) copyProgram(name string) {
	r.t.Helper()
	var path string
	for _, dir := range []string{"/usr/bin", "/bin", "/usr/sbin", "/sbin"} { // the PATH of a user may lack the last two
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			path = filepath.Join(dir, name)
			break
		}
	}
	if path == "" {
		need(r.t, name, "packages are installed on Debian and Ubuntu here")
	}
	files := []string{path}
	libraries, err := exec.Command("ldd", path).Output() // fails for a script
	if err == nil {
		for field := range strings.FieldsSeq(string(libraries)) {
			if strings.HasPrefix(field, "/") {
				files = append(files, field)
			}
		}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		target := filepath.Join(r.path, file)
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(target), 0o755)); err == nil {
			err = os.WriteFile(target, text, 0o755)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *throwAwayRoot) asRoot(args ...string) string {
	r.t.Helper()
	out, err := exec.Command(append(r.sudo, args...)[0], append(r.sudo, args...)[1:]...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// inside runs a program of the root; it may come after options of chroot.
func (r *throwAwayRoot) inside(args ...string) string {
	r.t.Helper()
	command := []string{"env", "-i", "PATH=/usr/sbin:/usr/bin", "DEBIAN_FRONTEND=noninteractive", "chroot"}
	if strings.HasPrefix(args[0], "--") {
		command, args = append(command, args[0]), args[1:]
	}
	return r.asRoot(append(append(command, r.path), args...)...)
}

// has tells whether there is such a file.
func (r *throwAwayRoot) has(name string) bool {
	r.t.Helper()
	return r.asRoot("sh", "-c", fmt.Sprintf("if [ -e '%s' ]; then echo yes; fi", filepath.Join(r.path, name))) != ""
}

// told returns what systemctl was told since the last call.
func (r *throwAwayRoot) told() (lines []string) {
	r.t.Helper()
	log := filepath.Join(r.path, "systemctl.log")
	for line := range strings.Lines(r.asRoot("sh", "-c", fmt.Sprintf("if [ -e '%s' ]; then cat '%[1]s'; rm '%[1]s'; fi", log))) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}
