// Command notifier is a service without a purpose: it is ready, healthy, and ends when it is asked to.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/capsuled/capsuled/systemd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n := systemd.New(slog.New(systemd.JournalHandler(os.Stderr, slog.LevelInfo)))
	n.Ready("serving")
	n.Watchdog(ctx, func() error { return nil })
	<-ctx.Done()
	n.Stopping("stopping")
}
