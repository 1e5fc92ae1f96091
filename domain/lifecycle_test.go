package domain_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/google/uuid"
)

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func noErr(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func TestLifecycle(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-life", idle)
	noErr(t, "network", h.EnsureNetwork(ctx, capsNet))

	_, err := h.ObserveOne(ctx, s.ID)
	wantErr(t, "observe before define", err, domain.ErrNotFound)
	wantErr(t, "start before define", h.Start(ctx, s.ID), domain.ErrNotFound)
	wantErr(t, "shutdown before define", h.Shutdown(ctx, s.ID, time.Second), domain.ErrNotFound)
	wantErr(t, "start of no UUID", h.Start(ctx, "../x"), domain.ErrInvalid)

	noErr(t, "define", h.Define(ctx, s))
	noErr(t, "define again", h.Define(ctx, s))
	want := domain.Observed{ID: s.ID, Name: s.Name, Record: s.Record, SpecHash: domain.SpecHash(s), State: domain.Off}
	if o, err := h.ObserveOne(ctx, s.ID); err != nil || o != want {
		t.Errorf("defined: %+v, %v", o, err)
	}
	noErr(t, "shutdown of one that is off", h.Shutdown(ctx, s.ID, 0))
	noErr(t, "destroy of one that is off", h.Destroy(ctx, s.ID))

	noErr(t, "start", h.Start(ctx, s.ID))
	noErr(t, "start again", h.Start(ctx, s.ID))
	wantErr(t, "undefine of a running one", h.Undefine(ctx, s.ID), domain.ErrConflict)
	s.MemoryBytes *= 2
	noErr(t, "define of a running one", h.Define(ctx, s))
	want.State, want.SpecHash = domain.Running, domain.SpecHash(s)
	if o, err := h.ObserveOne(ctx, s.ID); err != nil || o != want {
		t.Errorf("running: %+v, %v", o, err)
	}
	if isolated, err := os.ReadFile("/sys/class/net/" + s.NIC.Tap + "/brport/isolated"); strings.TrimSpace(string(isolated)) != "1" {
		t.Errorf("port of %s isolated: %q, %v", s.NIC.Tap, isolated, err)
	}

	pid := qemuPid(t, s.Name)
	noErr(t, "destroy", h.Destroy(ctx, s.ID))
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
	noErr(t, "destroy again", h.Destroy(ctx, s.ID))
	noErr(t, "undefine", h.Undefine(ctx, s.ID))
	noErr(t, "undefine again", h.Undefine(ctx, s.ID))
	noErr(t, "destroy of an absent one", h.Destroy(ctx, s.ID))
	if list := virsh(t, "list", "--all", "--name"); strings.Contains(list, s.Name) {
		t.Errorf("still there: %s", list)
	}
}

func TestStrangers(t *testing.T) {
	h, ctx := open(t), t.Context()
	noErr(t, "network", h.EnsureNetwork(ctx, capsNet))
	id := domain.ID(uuid.NewString())
	file := filepath.Join(t.TempDir(), "stranger.xml")
	noErr(t, "write", os.WriteFile(file, []byte(`<domain type='qemu'><name>stranger</name><uuid>`+string(id)+
		`</uuid><memory>65536</memory><os><type arch='x86_64' machine='q35'>hvm</type></os></domain>`), 0o600))
	virsh(t, "define", file)
	t.Cleanup(func() { sh(t, "virsh", "-c", "qemu:///system", "destroy", "stranger") })
	virsh(t, "start", "stranger")
	virsh(t, "undefine", "stranger") // transient from here on: destroy is all that is left to do

	sameID := newSpec(t, h, "cap-one", idle)
	sameID.ID = id
	wantErr(t, "define over its UUID", h.Define(ctx, sameID), domain.ErrConflict)
	sameName := newSpec(t, h, "stranger", idle)
	wantErr(t, "define over its name", h.Define(ctx, sameName), domain.ErrConflict)
	wantErr(t, "start", h.Start(ctx, id), domain.ErrNotFound)
	noErr(t, "destroy", h.Destroy(ctx, id))
	noErr(t, "undefine", h.Undefine(ctx, id))
	if state := strings.TrimSpace(virsh(t, "domstate", "stranger")); state != "running" {
		t.Errorf("the stranger is %s", state)
	}
	_, err := h.ObserveOne(ctx, id)
	wantErr(t, "observe", err, domain.ErrNotFound)

	ours := newSpec(t, h, "cap-ours", idle)
	noErr(t, "define ours", h.Define(ctx, ours))
	other := ours
	other.Record = "another record"
	wantErr(t, "define for another record", h.Define(ctx, other), domain.ErrConflict)
	all, err := h.Observe(ctx)
	noErr(t, "observe", err)
	if _, there := all[ours.ID]; !there || len(all) != 1 {
		t.Errorf("observed %+v", all)
	}
}

// TestReasons: why a domain is off or paused, each on the real thing.
func TestReasons(t *testing.T) {
	h := open(t)
	killed := func(t *testing.T, s domain.Spec) {
		noErr(t, "kill", syscall.Kill(qemuPid(t, s.Name), syscall.SIGKILL))
	}
	destroyed := func(t *testing.T, s domain.Spec) { virsh(t, "destroy", s.Name) }
	for _, row := range []struct {
		name   string
		sector []byte
		act    func(*testing.T, domain.Spec)
		want   domain.Reason
	}{
		{"poweroff", powersOff, nil, domain.ReasonShutdown},
		{"panic", panics, nil, domain.ReasonCrashed},
		{"destroyed", idle, destroyed, domain.ReasonDestroyed},
		{"killed", idle, killed, domain.ReasonCrashed},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newSpec(t, h, "cap-"+row.name, row.sector)
			running(t, h, s)
			if row.act != nil {
				row.act(t, s)
			}
			if o := await(t, h, s.ID, isOff); o.Reason != row.want {
				t.Errorf("reason %q, want %q", o.Reason, row.want)
			}
		})
	}
}

func TestStartFails(t *testing.T) {
	h, ctx := open(t), t.Context()
	noErr(t, "network", h.EnsureNetwork(ctx, capsNet))
	s := newSpec(t, h, "cap-fails", idle)
	noErr(t, "remove", os.Remove(s.Disks[0].Path))
	noErr(t, "define", h.Define(ctx, s))
	if err := h.Start(ctx, s.ID); err == nil {
		t.Error("started without its disk")
	}
	if o, err := h.ObserveOne(ctx, s.ID); err != nil || o.State != domain.Off {
		t.Errorf("%+v, %v", o, err)
	}

	one, two := newSpec(t, h, "cap-one", idle), newSpec(t, h, "cap-two", idle)
	two.VNC.Port = one.VNC.Port
	running(t, h, one)
	noErr(t, "define", h.Define(ctx, two))
	wantErr(t, "start on a taken VNC port", h.Start(ctx, two.ID), domain.ErrConflict)
	if o, err := h.ObserveOne(ctx, two.ID); err != nil || o.State != domain.Off || o.Reason != domain.ReasonFailed {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestFullDisk: a host disk without room pauses the domain, and says why.
func TestFullDisk(t *testing.T) {
	h := open(t)
	s := newSpec(t, h, "cap-full", fills)
	dir := diskDir(t)
	sh(t, "mount", "-t", "tmpfs", "-o", "size=2m,mode=711", "tmpfs", dir)
	t.Cleanup(func() { sh(t, "umount", "--lazy", dir) })
	sh(t, "cp", s.Disks[0].Path, dir+"/disk.raw")
	noErr(t, "truncate", os.Truncate(dir+"/disk.raw", 1<<30))
	s.Disks[0].Path = dir + "/disk.raw"
	running(t, h, s)
	o := await(t, h, s.ID, func(o domain.Observed) bool { return o.State == domain.Paused })
	if o.Reason != domain.ReasonIOError {
		t.Errorf("paused with reason %q", o.Reason)
	}
	wantErr(t, "shutdown of a paused one", h.Shutdown(t.Context(), s.ID, patience), domain.ErrStillRunning)
}

func TestShutdown(t *testing.T) {
	h, ctx := open(t), t.Context()
	deaf, good := newSpec(t, h, "cap-deaf", idle), newSpec(t, h, "cap-good", obeys)
	running(t, h, good)
	noErr(t, "shutdown", h.Shutdown(ctx, good.ID, patience))
	if o, err := h.ObserveOne(ctx, good.ID); err != nil || o.State != domain.Off || o.Reason != domain.ReasonShutdown {
		t.Errorf("%+v, %v", o, err)
	}

	running(t, h, deaf)
	wantErr(t, "shutdown of a deaf one", h.Shutdown(ctx, deaf.ID, 10*time.Millisecond), domain.ErrStillRunning)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	err := h.Shutdown(gone, deaf.ID, patience)
	wantErr(t, "shutdown for nobody", err, context.Canceled)
	if errors.Is(err, domain.ErrStillRunning) {
		t.Errorf("the caller went away: %v", err)
	}

	// Destroyed by somebody else while we wait: the event ends the wait.
	done := make(chan error, 1)
	go func() { done <- h.Shutdown(ctx, deaf.ID, patience) }()
	virsh(t, "destroy", deaf.Name)
	noErr(t, "shutdown of one destroyed meanwhile", <-done)
}
