package systemd

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Watchdog reports that the service is alive, twice in each watchdog interval, for as long as healthy returns nil;
// it returns when ctx ends, or at once when the unit has no watchdog. When healthy returns an error or does not
// return, the reports stop, and the service manager ends the service after the interval and starts it again.
//
// Before Ready the watchdog does not run yet, but the start has a deadline; the same heartbeat then puts that off,
// so that a start may wait for libvirt as long as it must, and one that hangs is ended all the same. (systemd 252
// forgets the extension when it is reloaded meanwhile, and starts the service again: harmless, and rare.)
func (n *Notifier) Watchdog(ctx context.Context, healthy func() error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.LogAttrs(ctx, slog.LevelWarn, "watchdog not understood", slog.Any("err", err))
		return
	}
	if interval == 0 {
		return
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	var last string
	for {
		last = n.beat(ctx, interval, healthy, last)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// beat sends one heartbeat if the service is healthy. It returns why it is not, and logs only changes of that.
func (n *Notifier) beat(ctx context.Context, interval time.Duration, healthy func() error, last string) string {
	if err := healthy(); err != nil {
		if err.Error() != last {
			n.log.LogAttrs(ctx, slog.LevelError, "not healthy, watchdog not fed", slog.Any("err", err))
			n.Status("not healthy: " + err.Error())
		}
		return err.Error()
	}
	if last != "" {
		n.log.LogAttrs(ctx, slog.LevelInfo, "healthy again")
		n.Status("healthy again")
	}
	if n.ready.Load() {
		n.send(daemon.SdNotifyWatchdog)
		return ""
	}
	n.send("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(2*interval.Microseconds(), 10))
	return ""
}
