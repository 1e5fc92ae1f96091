package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	// commandTime bounds one call, and each command of it: what the kernel does for a thousand bindings takes a small
	// part of it. A program that hangs must not keep those waiting who want to close something.
	commandTime = 5 * time.Second
	// swapTime bounds what the iptables-restore that stays does for one small change: should it hang, another gets the rest.
	swapTime = 2 * time.Second
	// retreatTime bounds what is done beyond that to be no looser than before.
	retreatTime = 2 * time.Second
	// lockSeconds is how long iptables may wait for the xtables lock that others hold.
	lockSeconds = "3"
)

// command runs one program of the host, without a shell, and returns its standard output. The error carries
// what the program said.
func command(ctx context.Context, input string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", &commandError{program: argv[0], stderr: strings.TrimSpace(stderr.String()), err: errors.Join(ctx.Err(), err)}
	}
	return stdout.String(), nil
}

// commandError is a program that ended badly, or never began.
type commandError struct {
	program, stderr string
	err             error
}

func (e *commandError) Error() string {
	return fmt.Sprintf("%s: %v: %.2000s", e.program, e.err, e.stderr)
}

// Unwrap lets callers tell a deadline from a refusal.
func (e *commandError) Unwrap() []error { return []error{ErrUnavailable, e.err} }
