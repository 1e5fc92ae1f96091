package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/systemd"
)

// signaller is who sent a SIGHUP: the kernel lets root alone send one to the daemon.
var signaller = daemon.Caller{GUID: "root", Local: true, From: "signal:HUP"}

// reloads puts the policy files in force again whenever a signal comes, until ctx ends. When they have a fault, all stays
// as it is; the status line and the log say so. Signals that come meanwhile are one.
func (h *house) reloads(ctx context.Context, signals <-chan os.Signal, notify *systemd.Notifier, d *daemon.Daemon) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			notify.Reload(func() string { return h.reload(ctx, d) })
		}
	}
}

func (h *house) reload(ctx context.Context, d *daemon.Daemon) (status string) {
	if _, err := d.ReloadPolicies(ctx, signaller); err != nil { // the daemon logs only what went well
		h.log.LogAttrs(ctx, slog.LevelError, "policies not reloaded", slog.Any("err", err))
		return "serving; policies not reloaded: " + err.Error()
	}
	return "serving; policies reloaded"
}
