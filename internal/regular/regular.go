// Package regular reads files that an operator names. Whoever opens a FIFO that nobody writes to waits for ever, and
// opening a device can do anything, so what is not a regular file, once links are followed, is refused unopened.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ErrNotRegular is inside the error for anything but a regular file.
var ErrNotRegular = errors.New("not a regular file")

// Stat describes the regular file that path leads to. Errors are *fs.PathError: ErrNotRegular, and what the system says.
func Stat(path string) (fs.FileInfo, error) {
	stat, err := os.Stat(path)
	if err == nil && !stat.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w, but %s", ErrNotRegular, kind(stat.Mode()))}
	}
	return stat, err
}

// Open opens a regular file for reading. Errors are *fs.PathError: ErrNotRegular, and what the system says.
func Open(path string) (*os.File, error) {
	if _, err := Stat(path); errors.Is(err, ErrNotRegular) {
		return nil, err
	}
	return os.Open(path)
}

// ReadFile returns the whole content of a regular file. Errors are those of Open, and what the system says.
func ReadFile(path string) ([]byte, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}
