package domain_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/internal/testhost"
	"golang.org/x/sys/unix"
)

func TestOpenInvalid(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, opt := range map[string]domain.Options{
		"no logger": {}, "virt type": {Log: log, VirtType: "xen"}, "timeout": {Log: log, CallTimeout: -1}, "interval": {Log: log, StatsInterval: -1},
	} {
		_, err := domain.Open(opt)
		wantErr(t, name, err, domain.ErrInvalid)
	}
}

func TestVirtType(t *testing.T) {
	// The test host has no /dev/kvm.
	for opt, want := range map[string]string{"": "qemu", "auto": "qemu", "qemu": "qemu", "kvm": "kvm"} {
		h := open(t, func(o *domain.Options) { o.VirtType = opt })
		if h.VirtType() != want {
			t.Errorf("%q became %q", opt, h.VirtType())
		}
		if v := h.Version(); !strings.HasPrefix(v, "libvirt ") || !strings.Contains(v, "QEMU ") {
			t.Errorf("version %q", v)
		}
		if want == "kvm" {
			s := newSpec(t, h, "cap-kvm", idle)
			wantErr(t, "define for KVM where there is none", h.Define(t.Context(), s), domain.ErrUnsupported)
		}
	}
}

func TestOpenBeforeLibvirtd(t *testing.T) {
	testhost.StopLibvirtd(t)
	h, err := domain.Open(domain.Options{Log: slog.New(slog.DiscardHandler)})
	noErr(t, "open", err)
	defer h.Close()
	wantErr(t, "connected", h.Connected(), domain.ErrUnavailable)
	_, err = h.Observe(t.Context())
	wantErr(t, "observe", err, domain.ErrUnavailable)
	if h.Version() != "" {
		t.Errorf("version %q of nothing", h.Version())
	}
	testhost.StartLibvirtd(t)
	awaitEverything(t, h)
}

func TestClose(t *testing.T) {
	h := open(t)
	noErr(t, "close", h.Close())
	noErr(t, "close again", h.Close())
	wantErr(t, "connected", h.Connected(), domain.ErrUnavailable)
	wantErr(t, "start", h.Start(t.Context(), domain.ID("6f1c2f7e-3c0a-4c0e-9a6e-0d8f3a1b2c4d")), domain.ErrUnavailable)
	for range h.Events() { // ends: the channel is closed
	}
}

// TestReconnect: libvirtd ends, politely and not; the domain runs on, and everything works again afterwards.
func TestReconnect(t *testing.T) {
	for name, end := range map[string]func(testing.TB){"stopped": testhost.StopLibvirtd, "killed": testhost.KillLibvirtd} {
		t.Run(name, func(t *testing.T) {
			h, ctx := open(t), t.Context()
			s := newSpec(t, h, "cap-on", idle)
			running(t, h, s)
			pid, libvirtd := qemuPid(t, s.Name), libvirtdPid(t)
			end(t)
			wantErr(t, "observe without libvirtd", until(t, func() error {
				_, err := h.ObserveOne(ctx, s.ID)
				return err
			}), domain.ErrUnavailable)
			noErr(t, "the process", syscall.Kill(pid, 0))
			reaped(t, libvirtd)
			since := time.Now()
			testhost.StartLibvirtd(t)
			awaitEverything(t, h)
			t.Logf("connected %v after libvirtd was told to start", time.Since(since))
			if o, err := h.ObserveOne(ctx, s.ID); err != nil || o.State != domain.Running {
				t.Errorf("%+v, %v", o, err)
			}
			virsh(t, "domstats", "--block", s.Name) // waits until libvirtd has taken the domain up: a destroy meanwhile ends it, and fails
			virsh(t, "destroy", s.Name)
			if o := await(t, h, s.ID, isOff); o.Reason != domain.ReasonDestroyed {
				t.Errorf("reason %q", o.Reason)
			}
		})
	}
}

// until repeats f until it fails: a connection's end is noticed soon, but not at once.
func until(t *testing.T, f func() error) error {
	t.Helper()
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		if err := f(); err != nil {
			return err
		}
	}
	t.Fatal("it never failed")
	return nil
}

// reaped waits until a process that has ended is gone from the process table too.
func reaped(t *testing.T, pid int) {
	t.Helper()
	wantErr(t, "ended process", until(t, func() error { return syscall.Kill(pid, 0) }), syscall.ESRCH)
}

// TestDeathUnseen: QEMU dies while libvirtd is away.
func TestDeathUnseen(t *testing.T) {
	h := open(t)
	s := newSpec(t, h, "cap-unseen", idle)
	running(t, h, s)
	pid := qemuPid(t, s.Name)
	fd, err := unix.PidfdOpen(pid, 0)
	noErr(t, "pidfd", err)
	defer unix.Close(fd)
	libvirtd := libvirtdPid(t)
	testhost.KillLibvirtd(t)
	reaped(t, libvirtd)
	noErr(t, "kill", syscall.Kill(pid, syscall.SIGKILL))
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
	noErr(t, "wait for the process", err)
	testhost.StartLibvirtd(t)
	awaitEverything(t, h)
	o := await(t, h, s.ID, isOff)
	t.Logf("reason %q", o.Reason)
	if o.Reason == domain.ReasonShutdown || o.Reason == domain.ReasonDestroyed {
		t.Errorf("nobody asked for it: reason %q", o.Reason)
	}
}

// TestFrozenLibvirtd: one that hangs is found out by keepalive, and no call hangs with it.
func TestFrozenLibvirtd(t *testing.T) {
	h := open(t)
	s := newSpec(t, h, "cap-froze", idle)
	noErr(t, "define", h.Define(t.Context(), s))
	pid := libvirtdPid(t)
	noErr(t, "stop", syscall.Kill(pid, syscall.SIGSTOP))
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := h.ObserveOne(ctx, s.ID)
	wantErr(t, "observe", err, domain.ErrUnavailable)
	wantErr(t, "observe", err, context.DeadlineExceeded)
	// Without a deadline of its own, the call ends when keepalive gives the session up.
	_, err = h.ObserveOne(t.Context(), s.ID)
	wantErr(t, "observe", err, domain.ErrUnavailable)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("keepalive did not end it: %v", err)
	}
	noErr(t, "continue", syscall.Kill(pid, syscall.SIGCONT))
	awaitEverything(t, h)
	_, err = h.ObserveOne(t.Context(), s.ID)
	noErr(t, "observe", err)
}

// TestFrozenQEMU: a process that hangs holds nobody up but itself, and can be destroyed.
func TestFrozenQEMU(t *testing.T) {
	h, ctx := open(t), t.Context()
	good, bad := newSpec(t, h, "cap-good", idle), newSpec(t, h, "cap-bad", idle)
	running(t, h, good)
	running(t, h, bad)
	noErr(t, "stop", syscall.Kill(qemuPid(t, bad.Name), syscall.SIGSTOP))
	// More graceful shutdowns than calls can be under way, all of which hang in QEMU's monitor.
	errs := make(chan error)
	for range 6 {
		go func() { errs <- h.Shutdown(ctx, bad.ID, 100*time.Millisecond) }()
	}
	for range 6 {
		wantErr(t, "shutdown", <-errs, domain.ErrStillRunning)
	}
	all, err := h.Observe(ctx)
	noErr(t, "observe", err)
	if all[good.ID].State != domain.Running {
		t.Errorf("good: %+v", all[good.ID])
	}
	noErr(t, "destroy", h.Destroy(ctx, bad.ID))
	noErr(t, "destroy", h.Destroy(ctx, good.ID))
}
