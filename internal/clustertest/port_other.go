//go:build !linux

package clustertest

import (
	"net"
	"strconv"
	"testing"
)

// ReservePort returns a port of 127.0.0.1 for one process after the other. That nobody else gets it is likely only: elsewhere than on
// Linux nobody can listen at an address that another socket has.
func ReservePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return port
}
