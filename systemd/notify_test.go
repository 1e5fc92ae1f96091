package systemd_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/systemd"
)

// manager listens in the place of the service manager.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T) manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "")
	t.Setenv("WATCHDOG_PID", "")
	return manager{t, conn}
}

// next waits for a datagram. A test that waits in vain ends by the deadline of the whole run.
func (m manager) next() string {
	m.t.Helper()
	buf := make([]byte, 4096)
	n, err := m.conn.Read(buf)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(buf[:n])
}

func notifier() *systemd.Notifier { return systemd.New(slog.New(slog.DiscardHandler)) }

func TestNotify(t *testing.T) {
	m := newManager(t)
	n := notifier()
	for _, tt := range []struct {
		name string
		do   func(string)
		text string
		want string
	}{
		{"status", n.Status, "waiting for libvirt", "STATUS=waiting for libvirt"},
		{"ready", n.Ready, "3 capsules", "READY=1\nSTATUS=3 capsules"},
		{"stopping", n.Stopping, "asked to", "STOPPING=1\nSTATUS=asked to"},
		{"no field of its own", n.Status, "a\nMAINPID=1\x00\x1b[2J\u0085b", "STATUS=a MAINPID=1  [2J b"},
		{"not UTF-8", n.Status, "a\xffb", "STATUS=a b"},
		{"long", n.Status, strings.Repeat("é", 400), "STATUS=" + strings.Repeat("é", 256)},
		{"long, cut between runes", n.Status, "x" + strings.Repeat("é", 400), "STATUS=x" + strings.Repeat("é", 255)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.do(tt.text)
			if d := cmp.Diff(tt.want, m.next()); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestReload frames the work by the two notifications of a reload, and keeps a reload before Ready from ending the start.
func TestReload(t *testing.T) {
	m := newManager(t)
	n := notifier()
	n.Reload(func() string { return "read early" })
	if d := cmp.Diff("STATUS=read early", m.next()); d != "" {
		t.Error(d)
	}
	n.Ready("serving")
	m.next()
	n.Reload(func() string {
		first, usec, _ := strings.Cut(m.next(), "\n")
		if d := cmp.Diff("RELOADING=1", first); d != "" {
			t.Error(d)
		}
		uptime, err := os.ReadFile("/proc/uptime") // counts suspended time too, so it is no less
		if err != nil {
			t.Fatal(err)
		}
		most, err := strconv.ParseFloat(strings.Fields(string(uptime))[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		now, err := strconv.ParseInt(strings.TrimPrefix(usec, "MONOTONIC_USEC="), 10, 64)
		if err != nil || now <= 0 || float64(now) > (most+1)*1e6 {
			t.Errorf("%q, %v; the machine is up %.0f s", usec, err, most)
		}
		return "serving again"
	})
	if d := cmp.Diff("READY=1\nSTATUS=serving again", m.next()); d != "" {
		t.Error(d)
	}
}

// TestNobodyListens: without a service manager nothing happens, and a watchdog returns at once.
func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	n := notifier()
	n.Ready("")
	n.Status("")
	n.Stopping("")
	n.Watchdog(t.Context(), func() error { t.Error("asked without a watchdog"); return nil })
}

// TestManagerGone: a lost notification is a line in the log, no more.
func TestManagerGone(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	var b bytes.Buffer
	systemd.New(slog.New(slog.NewTextHandler(&b, nil))).Ready("")
	if !strings.Contains(b.String(), "service manager not notified") {
		t.Errorf("log: %s", b.String())
	}
}

func TestWatchdogOfAnotherProcess(t *testing.T) {
	newManager(t)
	t.Setenv("WATCHDOG_USEC", "1000")
	t.Setenv("WATCHDOG_PID", "1")
	notifier().Watchdog(t.Context(), func() error { t.Error("asked for another's watchdog"); return nil })
}

func TestWatchdog(t *testing.T) {
	m := newManager(t)
	const interval = 20 * time.Millisecond
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(interval.Microseconds(), 10))
	var sick atomic.Bool
	var asked atomic.Int64
	n := notifier()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		n.Watchdog(ctx, func() error {
			asked.Add(1)
			if sick.Load() {
				return errors.New("stuck\nWATCHDOG=1")
			}
			return nil
		})
	})

	for range 2 { // before the start is over its deadline is put off
		if got := m.next(); got != "EXTEND_TIMEOUT_USEC=40000" {
			t.Fatalf("before ready: %q", got)
		}
	}
	n.Ready("up")
	for got := ""; got != "READY=1\nSTATUS=up"; got = m.next() {
		if got == "WATCHDOG=1" {
			t.Fatal("fed before ready")
		}
	}
	for range 3 {
		if got := m.next(); got != "WATCHDOG=1" && !strings.HasPrefix(got, "EXTEND_") {
			t.Fatalf("after ready: %q", got)
		}
	}

	sick.Store(true)
	for got := ""; got != "STATUS=not healthy: stuck WATCHDOG=1"; got = m.next() {
		if got != "" && got != "WATCHDOG=1" {
			t.Fatalf("sick: %q", got)
		}
	}
	for asked.Store(0); asked.Load() < 3; { // asked again and again: nothing may be sent meanwhile
		time.Sleep(interval)
	}
	sick.Store(false)
	if got := m.next(); got != "STATUS=healthy again" {
		t.Fatalf("fed while sick: %q", got)
	}
	if got := m.next(); got != "WATCHDOG=1" {
		t.Fatalf("healthy again: %q", got)
	}
	cancel()
	wg.Wait()
}

func TestJournalHandler(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(systemd.JournalHandler(&b, slog.LevelDebug)).With("capsule", "c1").WithGroup("g")
	log.Debug("d", "k", 1)
	log.Info("i")
	log.Warn("w\n<0>forged")
	log.Error("e", "time", "kept")
	want := "<7>level=DEBUG msg=d capsule=c1 g.k=1\n" +
		"<6>level=INFO msg=i capsule=c1\n" +
		"<4>level=WARN msg=\"w\\n<0>forged\" capsule=c1\n" +
		"<3>level=ERROR msg=e capsule=c1 g.time=kept\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
	b.Reset()
	slog.New(systemd.JournalHandler(&b, slog.LevelWarn)).Info("below the level")
	if b.Len() > 0 {
		t.Errorf("got %s", b.String())
	}
}
