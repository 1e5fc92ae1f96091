// Command capsuled runs the data capsules of one host: see README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program: 0 after a stop that was asked for, 1 after a failure, exitUsage or exitConfig when trying
// again would not help.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	opt, err := parseFlags(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	case opt.Version:
		fmt.Fprintln(stdout, "capsuled", version)
		return 0
	case opt.CheckConfig:
		return checkConfig(opt.ConfigPath, stdout, stderr)
	case opt.Fence:
		return fence(ctx, opt.ConfigPath, hostLockFile, stderr)
	}
	c, ok := loadAll(opt.ConfigPath, stderr)
	if !ok {
		return exitConfig
	}
	if err := serve(ctx, c, stderr); err != nil {
		fmt.Fprintln(stderr, "capsuled:", err)
		if errors.Is(err, errConfig) {
			return exitConfig
		}
		return 1
	}
	return 0
}
