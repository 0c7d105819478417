package house

import (
	"fmt"
	"os"
	"testing"
)

// TestMain has the tests run at the root of the repository, so that they name files as documents do.
func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
