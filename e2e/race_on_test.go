//go:build race

package e2e

// buildArguments: what the tests are run with, the binary is built with.
var buildArguments = []string{"-race"}
