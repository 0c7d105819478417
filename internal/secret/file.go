package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"coordinator/internal/regular"
)

const (
	maxFileBytes = 64 << 10

	byteOrderMark = "\ufeff"
)

// ReadFile reads a secret from a file, without a byte order mark before it and white space around it. Its errors read on
// from the name of the variable that holds the path. They show neither the path, in whose place a secret may have been
// pasted, nor anything of the contents.
func ReadFile(path string) (Secret, error) {
	file, err := regular.Open(path)
	if err != nil {
		return "", withoutPath(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	value := strings.TrimSpace(strings.TrimPrefix(string(content), byteOrderMark))
	switch {
	case err != nil:
		return "", withoutPath(err)
	case len(content) > maxFileBytes:
		return "", errors.New("names a file of more than 64 KiB")
	case value == "":
		return "", errors.New("names an empty file")
	}
	return Secret(value), nil
}

func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fmt.Errorf("names a file that cannot be read: %w", err)
}
