package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/capsuled/capsuled/firewall"
)

// fence closes the host for the time before a daemon runs: it installs the base rules of both layers with no binding at
// all, so that whatever is plugged into the bridge or called like a tap of a capsule reaches nothing, and reads them
// back. The rules stay when it ends; the daemon adds its bindings to them.
//
// It returns the exit code: 0 when all is closed, exitRuns when a daemon has the host, whose fences then stand, and 1
// when something could not be closed. Faults of the configuration are exitConfig, and what could be read of it is
// closed all the same: a wrong file is no reason to start with an open door.
func fence(ctx context.Context, path, lock string, stderr io.Writer) int {
	c, faults := LoadConfig(path)
	if faults != nil {
		fmt.Fprintln(stderr, faults)
		c.Host.PublicIP = netip.Addr{} // may contradict the rest, and says nothing about what is closed
	}
	held, err := claimHost(lock)
	if _, ok := errors.AsType[*heldError](err); ok {
		fmt.Fprintln(stderr, "capsuled: fence: nothing changed:", err)
		return exitRuns
	}
	if err == nil {
		log := newLogger(c.Log, stderr)
		err = errors.Join(closeAll(ctx, c, log), held.Close())
	}
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "capsuled: fence:", err)
		return 1
	case faults != nil:
		return exitConfig
	}
	return 0
}

// closeAll makes the kernel have the base rules and nothing else of ours.
func closeAll(ctx context.Context, c Config, log *slog.Logger) error {
	opt := firewallOptions(c, log, nil) // no policies: nothing can name one
	chains, err := firewall.New(opt)
	if err != nil {
		return err
	}
	defer chains.Close()
	if err := chains.Apply(ctx, nil); err != nil {
		return err
	}
	wrong, err := chains.Verify(ctx)
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the rules are not as they were written: %s", strings.Join(wrong, "; "))
	}
	log.LogAttrs(ctx, slog.LevelInfo, "closed: no capsule has a network until the daemon runs", slog.String("bridge", c.Network.Bridge))
	return nil
}
