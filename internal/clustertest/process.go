package clustertest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Build builds the coordinator into dir, with the given arguments of go build, and returns the path of the binary.
func Build(dir string, arguments ...string) (binary string, err error) {
	binary = filepath.Join(dir, "coordinator")
	build := exec.Command("go", append(append([]string{"build", "-buildvcs=false"}, arguments...), "-o", binary, "coordinator")...)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

// DependOnProgram has the go command see a test that runs the binary as one that depends on the program: it keeps results of
// tests until a file changes that they have opened, and knows nothing of what a binary was built from.
func DependOnProgram(t testing.TB) {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for !isFile(filepath.Join(root, "go.mod")) {
		if root == filepath.Dir(root) {
			t.Fatal("there is no go.mod above the test")
		}
		root = filepath.Dir(root)
	}
	packages, err := filepath.Glob(filepath.Join(root, "internal", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(packages, root, filepath.Join(root, "dashboard")) {
		if _, err := os.ReadDir(dir); err != nil { // an open directory stands for all files in it
			t.Fatal(err)
		}
	}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// Process is a running binary in a directory of its own.
type Process struct {
	*Daemon
	Cmd   *exec.Cmd
	Dir   string
	Ended chan struct{} // closed when it has exited
}

// NewProcess is a binary that is to run in dir with nothing but the given variables in its environment.
func NewProcess(t testing.TB, binary, dir string, variables ...string) *Process {
	t.Helper()
	DependOnProgram(t)
	p := &Process{Daemon: &Daemon{T: t, Logs: NewLog()}, Cmd: exec.Command(binary), Dir: dir, Ended: make(chan struct{})}
	p.Cmd.Dir, p.Cmd.Env, p.Cmd.Stderr = dir, variables, p.Logs.Lines()
	p.Stop = func() error {
		_ = p.Cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-p.Ended
		if code := p.Cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("exit status %d", code)
		}
		return nil
	}
	return p
}

// Start starts the process. It is killed at the end of the test.
func (p *Process) Start() {
	p.T.Helper()
	if err := p.Cmd.Start(); err != nil {
		p.T.Fatal(err)
	}
	go func() {
		defer close(p.Ended)
		_ = p.Cmd.Wait() // the status is in Cmd.ProcessState
	}()
	p.T.Cleanup(func() {
		_ = p.Cmd.Process.Kill() // it may have ended
		<-p.Ended
	})
}

// Launch starts the binary in dir with nothing but the given variables in its environment.
func Launch(t testing.TB, binary, dir string, variables ...string) *Process {
	t.Helper()
	p := NewProcess(t, binary, dir, variables...)
	p.Start()
	return p
}

// Serve launches the binary on ports that the system chooses and waits until it listens.
func Serve(t testing.TB, binary string, variables ...string) *Process {
	t.Helper()
	p := Launch(t, binary, t.TempDir(), append([]string{"HTTP_PORT=0", "SSL_PORT=0", "BIND_ADDRESS=127.0.0.1"}, variables...)...)
	p.Addr = p.Listening("http")
	return p
}

// Listening returns the address that the process serves http or https on, once it does.
func (p *Process) Listening(scheme string) string {
	p.T.Helper()
	return Attribute(p.Logs.Await(p.T, "msg=listening", "scheme="+scheme+" "), "addr")
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) {
	p.T.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.T.Fatal(err)
	}
}

// AwaitExit waits for the end of the process, which must have the exit status.
func (p *Process) AwaitExit(status int) {
	p.T.Helper()
	select {
	case <-p.Ended:
	case <-time.After(Patience):
		p.T.Fatalf("does not end:\n%s", p.Logs)
	}
	if got := p.Cmd.ProcessState.ExitCode(); got != status {
		p.T.Fatalf("exit status %d, want %d:\n%s", got, status, p.Logs)
	}
}

// PeakMemory is the most memory the process ever held, in bytes. The test is skipped where the system does not tell.
func (p *Process) PeakMemory() int {
	p.T.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	if errors.Is(err, os.ErrNotExist) {
		p.T.Skip("this system does not tell how much memory a process holds")
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.Atoi(kib)
	if err != nil {
		p.T.Fatal(err)
	}
	return n << 10
}

// ShortDir is a directory for sockets, whose paths may be no longer than 103 bytes on some systems: those of t.TempDir are longer where
// the directory of temporary files has a long name.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TakenPort returns a port of 127.0.0.1 that stays taken until the test ends.
func TakenPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
