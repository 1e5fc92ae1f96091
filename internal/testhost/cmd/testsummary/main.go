// Testsummary runs `go test -json` with its arguments and says in a line per package what came of it, with the
// output of what failed, and in the last line how many tests passed and failed. It fails if anything did.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	// A key press reaches go test as well, which ends in good order; the summary of what ran is still wanted.
	signal.Ignore(os.Interrupt)
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		fmt.Fprintln(stderr, "testsummary:", err)
		return 2
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(stderr, "testsummary:", err)
		return 2
	}
	s := newSummary(stdout)
	err = errors.Join(s.read(pipe), cmd.Wait())
	if err != nil && s.failed == 0 {
		fmt.Fprintln(stderr, "testsummary: go test:", err)
		s.failed++
	}
	s.close()
	if s.failed > 0 {
		return 1
	}
	return 0
}
