package main

// Secrets: how they are read from a variable, or from the file that a variable names. No error shows a value, or a path, in whose place a value may have been pasted.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"coordinator/internal/regular"
	"coordinator/internal/secret"
)

const (
	maxSecretFileBytes = 64 << 10

	byteOrderMark = "\ufeff"
)

// Secret is a value that must not be seen.
type Secret = secret.Secret

// secret reads a variable that may come from a file instead: NAME or NAME_FILE, not both. A byte order mark before what
// the file holds is dropped, and white space around it, as it is around every value.
func (e *environment) secret(name string) variable {
	v, file := e.read(name), e.read(name+"_FILE")
	switch {
	case v.faulty || file.faulty:
	case file.value == "":
		return v
	case v.value != "":
		e.fault(file.name, "must not be set together with %s", name)
	default:
		value, err := readSecretFile(file.value)
		if err == nil {
			return variable{name: name, value: value}
		}
		e.fault(file.name, "%v", err)
	}
	return variable{name: name, faulty: true}
}

func readSecretFile(path string) (string, error) {
	file, err := regular.Open(path)
	if err != nil {
		return "", withoutPath(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSecretFileBytes+1))
	value := strings.TrimSpace(strings.TrimPrefix(string(content), byteOrderMark))
	switch {
	case err != nil:
		return "", withoutPath(err)
	case len(content) > maxSecretFileBytes:
		return "", errors.New("names a file of more than 64 KiB")
	case value == "":
		return "", errors.New("names an empty file")
	}
	return value, nil
}

func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fmt.Errorf("names a file that cannot be read: %w", err)
}
