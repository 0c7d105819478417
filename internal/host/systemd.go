package host

// Tells systemd when the daemon serves and when it stops, as sd_notify(3) does: one datagram to the socket that the
// environment names.

import (
	"fmt"
	"net"
	"time"
)

// NotifySystemd sends a state such as "READY=1" to the socket of NOTIFY_SOCKET: a path, or a name that opens with "@"
// in the abstract namespace. Without the variable it does nothing. It takes a second at most.
func NotifySystemd(getenv func(string) string, state string) error {
	address := getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	return nil
}
