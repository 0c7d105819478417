package main

// The programs under load: a coordinator and its gateways as children of this process, built from this module, with their
// CPU time and memory from /proc; or a coordinator that runs already at an address, of which neither is known.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 20 * time.Second
	stopTimeout  = 15 * time.Second

	clockTicks = 100 // of /proc/PID/stat in a second: USER_HZ, the same on every Linux platform that Go knows
)

// daemon is a coordinator or a gateway that the load goes to.
type daemon struct {
	addr string
	cmd  *exec.Cmd // nil: not ours
	logs string    // file
	done chan struct{}
}

// build compiles a package of this module into dir and returns the program's path.
func build(ctx context.Context, dir, pkg string) (string, error) {
	program := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, pkg)
	cmd.Env = append(os.Environ(), "GOTMPDIR="+dir) // what a killed one leaves behind is removed with dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with the compilers that it runs
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s (the load tool runs inside its module): %w\n%s", pkg, err, out)
	}
	return program, nil
}

// startChild runs a program in a new directory under dir, with environment variables over a small default, and waits
// until it listens. What it keeps (DATA_DIR) is in that directory, too.
func startChild(ctx context.Context, dir, program string, variables ...string) (*daemon, error) {
	home, err := os.MkdirTemp(dir, filepath.Base(program)+"-")
	if err != nil {
		return nil, err
	}
	return runChild(ctx, home, program, append([]string{
		"HTTP_PORT=0", "BIND_ADDRESS=127.0.0.1", "LOG_REQUESTS=NO", "PATH=" + os.Getenv("PATH"), "HOME=" + home,
	}, variables...))
}

// runChild runs a program in a directory. Its log goes to a file there: a pipe would cost both sides time.
func runChild(ctx context.Context, home, program string, env []string) (*daemon, error) {
	logs, err := os.CreateTemp(home, "log-")
	if err != nil {
		return nil, err
	}
	defer logs.Close()
	cmd := exec.Command(program)
	cmd.Dir = home
	cmd.Stderr = logs
	cmd.Env = env
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &daemon{cmd: cmd, logs: logs.Name(), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		cmd.Wait()
	}()
	if c.addr, err = c.awaitAddress(ctx); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// kill ends a child at once, as a crash would.
func (c *daemon) kill() {
	c.cmd.Process.Kill()
	<-c.done
}

// again runs a child that has ended once more, with the data that it left, at the same address.
func (c *daemon) again(ctx context.Context) (*daemon, error) {
	_, port, err := net.SplitHostPort(c.addr)
	if err != nil {
		return nil, err
	}
	return runChild(ctx, c.cmd.Dir, c.cmd.Path, append(c.cmd.Env, "HTTP_PORT="+port)) // the last one counts
}

func (c *daemon) awaitAddress(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		text, err := os.ReadFile(c.logs)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(text)) {
			if _, addr, found := strings.Cut(line, "msg=listening scheme=http addr="); found && strings.HasSuffix(line, "\n") {
				return strings.TrimSpace(addr), nil
			}
		}
		select {
		case <-poll.C:
		case <-c.done:
			return "", fmt.Errorf("%s ended at its start:\n%s", c.cmd.Path, text)
		case <-ctx.Done():
			return "", fmt.Errorf("%s does not listen: %w\n%s", c.cmd.Path, ctx.Err(), text)
		}
	}
}

// stop ends a child and waits for it; a coordinator that is not ours runs on.
func (c *daemon) stop() error {
	if c.cmd == nil {
		return nil
	}
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(stopTimeout):
		c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("%s did not stop within %v", c.cmd.Path, stopTimeout)
	}
	return nil
}

// cpu is the user and system time the child has used, 0 if it is not ours. It comes in steps of 10 ms.
func (c *daemon) cpu() time.Duration {
	if c.cmd == nil {
		return 0
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(stat, []byte(") ")) // what is before may hold anything
	fields := strings.Fields(string(rest))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / clockTicks
}

// memory is the child's resident memory in KiB, 0 if it is not ours.
func (c *daemon) memory() float64 {
	if c.cmd == nil {
		return 0
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(status, []byte("\nVmRSS:"))
	line, _, _ := strings.Cut(string(rest), "\n")
	n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 64)
	return n
}

// ownCPU is what this process has used.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// loopbackOnly refuses every address that is not this machine's own: the load must not hit others by a slip.
func loopbackOnly(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%s is not a loopback address", addr)
	}
	return nil
}
