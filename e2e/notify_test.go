package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"coordinator/internal/clustertest"
)

func TestSystemdIsToldOfReadinessAndOfTheStop(t *testing.T) {
	t.Parallel()
	addresses := map[string]string{"path": filepath.Join(clustertest.ShortDir(t), "notify")}
	if runtime.GOOS == "linux" { // which alone has such names
		addresses["abstract"] = fmt.Sprintf("@coordinator-test-%d", os.Getpid())
	}
	for name, address := range addresses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			wantState := func(want string) {
				t.Helper()
				buffer := make([]byte, 100)
				socket.SetReadDeadline(time.Now().Add(clustertest.Patience))
				n, err := socket.Read(buffer)
				if got := string(buffer[:n]); err != nil || got != want {
					t.Errorf("got %q, error %v, want %q", got, err, want)
				}
			}
			d := startDaemon(t, "NOTIFY_SOCKET="+address)
			wantState("READY=1")
			if err := d.Stop(); err != nil {
				t.Error(err)
			}
			wantState("STOPPING=1")
		})
	}
}

func TestDaemonRunsOnWhenSystemdCannotBeTold(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "NOTIFY_SOCKET="+filepath.Join(t.TempDir(), "nobody"))
	d.Logs.Await(t, "cannot notify systemd", "READY=1")
	if status, _ := d.Call("GET", "/livez"); status != 200 {
		t.Errorf("livez: %d", status)
	}
}
