// Manpage makes deploy/coordinator.1, the manual page, of what coordinator -h prints and of docs/configuration.md. Run it at the root of
// the repository, after a change of either: go generate
package main

import (
	"fmt"
	"os"
	"os/exec"
)

const (
	pageFile          = "deploy/coordinator.1"
	configurationFile = "docs/configuration.md"
)

func main() {
	page, err := current()
	if err == nil {
		err = os.WriteFile(pageFile, []byte(page), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "manpage:", err)
		os.Exit(1)
	}
}

// current makes the page of the program and the document of the working directory.
func current() (page string, err error) {
	usage, err := exec.Command("go", "run", ".", "-h").Output()
	if err != nil {
		return "", fmt.Errorf("coordinator -h: %w", err)
	}
	document, err := os.ReadFile(configurationFile)
	if err != nil {
		return "", err
	}
	return render(string(usage), string(document))
}
