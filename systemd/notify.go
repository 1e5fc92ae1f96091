package systemd

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// maxStatus is how many bytes of a status are sent: what systemctl status shows is one line.
const maxStatus = 512

// Notifier tells the service manager how the service goes.
type Notifier struct {
	log   *slog.Logger
	ready atomic.Bool // READY=1 was sent: from then on the watchdog is on
}

// New makes a Notifier. The environment is read at each call, so it may be made at any time.
func New(log *slog.Logger) *Notifier { return &Notifier{log: log} }

// Ready ends the start: what waits for the service goes on. Status is the line that systemctl status shows. Calling
// it again changes only the status.
func (n *Notifier) Ready(status string) {
	n.ready.Store(true)
	n.send(daemon.SdNotifyReady + "\n" + statusField(status))
}

// Status replaces the line that systemctl status shows.
func (n *Notifier) Status(status string) { n.send(statusField(status)) }

// Reload tells the service manager that the configuration is read again while do runs, and shows the status that do
// returns, whether it went well or not: the service goes on either way. Before Ready only the status is told, for the
// end of a reload is told in the words of readiness.
//
// The protocol is sd_notify(3)'s: RELOADING=1 with the time of CLOCK_MONOTONIC, by which a service manager that has
// Type=notify-reload (systemd 253) tells this reload from an earlier one, and READY=1 at the end.
func (n *Notifier) Reload(do func() (status string)) {
	if !n.ready.Load() {
		n.Status(do())
		return
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		n.log.LogAttrs(context.Background(), slog.LevelWarn, "no monotonic clock", slog.Any("err", err))
	}
	n.send(daemon.SdNotifyReloading + "\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10))
	n.Ready(do())
}

// Stopping says that the end was asked for and is under way.
func (n *Notifier) Stopping(status string) {
	n.send(daemon.SdNotifyStopping + "\n" + statusField(status))
}

func (n *Notifier) send(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.LogAttrs(context.Background(), slog.LevelWarn, "service manager not notified", slog.Any("err", err))
	}
}

// statusField is one line whatever the text says: a newline would begin a field of its own, and a status may quote
// an error that quotes what somebody else wrote.
func statusField(status string) string {
	line := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, status)
	if len(line) > maxStatus {
		line = strings.ToValidUTF8(line[:maxStatus], "")
	}
	return "STATUS=" + line
}
