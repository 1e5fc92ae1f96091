package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// version is set by the linker.
var version = ""

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole command. It returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal stops waiting in good order; the next one ends the process, whatever it hangs in.
	context.AfterFunc(ctx, stop)

	a := &app{in: stdin, out: stdout, err: stderr}
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !a.began { // cobra's own: unknown command or flag, wrong number of arguments, required flag
		err = usageError{err}
	}
	if _, done := errors.AsType[reported](err); !done {
		a.complain(err)
	}
	if _, usage := errors.AsType[usageError](err); usage {
		fmt.Fprintf(stderr, "try '%s --help'\n", cmd.CommandPath())
	}
	return exitStatus(err)
}

// ownVersion is what the linker or the module says this program is.
func ownVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}
