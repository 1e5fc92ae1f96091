package domain_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/internal/testhost"
)

func TestCheckpointRefuses(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-point", idle)
	cp := newCleanPoint(t, s)
	wantErr(t, "of no domain", h.Checkpoint(ctx, s.ID, cp), domain.ErrNotFound)
	noErr(t, "network", h.EnsureNetwork(ctx, capsNet))
	noErr(t, "define", h.Define(ctx, s))
	wantErr(t, "of one that is off", h.Checkpoint(ctx, s.ID, cp), domain.ErrConflict)
	wantErr(t, "attach to one that is off", h.Attach(ctx, s.ID, newVolume(t, s, "data")), domain.ErrConflict)
	wantErr(t, "pause of one that is off", h.Pause(ctx, s.ID), domain.ErrConflict)
	wantErr(t, "resume of one that is off", h.Resume(ctx, s.ID), domain.ErrConflict)
	noErr(t, "start", h.Start(ctx, s.ID))
	other := cp
	other.Disk += ".other"
	wantErr(t, "of another disk", h.Checkpoint(ctx, s.ID, other), domain.ErrConflict)
	other = cp
	other.RAM = "clean.ram"
	wantErr(t, "to a relative path", h.Checkpoint(ctx, s.ID, other), domain.ErrInvalid)
	other.RAM = cp.Disk
	wantErr(t, "onto the disk", h.Checkpoint(ctx, s.ID, other), domain.ErrInvalid)
	other = cp
	for name, content := range map[string]string{"no image": "garbage", "no overlay": ""} {
		other.Overlay = cp.Overlay + ".other"
		_ = os.Remove(other.Overlay)
		if content != "" {
			noErr(t, "write", os.WriteFile(other.Overlay, []byte(content), 0o600))
		}
		err := h.Checkpoint(ctx, s.ID, other)
		if err == nil {
			t.Errorf("onto %s: a clean point", name)
		}
		t.Log(err)
		if left, err := filepath.Glob(filepath.Join(filepath.Dir(cp.RAM), "*clean.ram*")); err != nil || len(left) > 0 {
			t.Errorf("onto %s: left %v, %v", name, left, err)
		}
		isState(t, h, "onto "+name, s.ID, domain.Running)
	}
	isState(t, h, "after these", s.ID, domain.Running)

	noErr(t, "pause", h.Pause(ctx, s.ID))
	noErr(t, "pause again", h.Pause(ctx, s.ID))
	noErr(t, "of a paused one", h.Checkpoint(ctx, s.ID, cp))
	isState(t, h, "paused before", s.ID, domain.Paused)
	noErr(t, "again", h.Checkpoint(ctx, s.ID, cp))
	noErr(t, "remove", os.Remove(cp.RAM))
	wantErr(t, "again, without its RAM", h.Checkpoint(ctx, s.ID, cp), domain.ErrUnusable)
}

func TestCheckpointNoRoom(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-room", idle)
	running(t, h, s)
	dir := diskDir(t)
	sh(t, "mount", "-t", "tmpfs", "-o", "size=64k,mode=711", "tmpfs", dir)
	t.Cleanup(func() { sh(t, "umount", "--lazy", dir) })
	cp := newCleanPoint(t, s)
	room := cp.RAM
	cp.RAM = filepath.Join(dir, "clean.ram")
	err := h.Checkpoint(ctx, s.ID, cp)
	wantErr(t, "without room", err, domain.ErrExhausted)
	t.Log(err)
	isState(t, h, "after it", s.ID, domain.Running)
	in, err := h.Inspect(ctx, s.ID)
	if err != nil || in.Live.Disks[0].Path != cp.Disk {
		t.Errorf("%+v, %v", in.Live, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	cp.RAM = room
	noErr(t, "with room", h.Checkpoint(ctx, s.ID, cp))
}

// TestCheckpointAdrift: libvirtd dies between what it tells QEMU and its own note of it. QEMU is told by hand what
// libvirt would have told it.
func TestCheckpointAdrift(t *testing.T) {
	h, ctx := open(t), t.Context()
	for _, row := range []struct {
		name        string
		ram, frozen bool
	}{{"overlay open", true, false}, {"disk frozen", true, true}, {"disk frozen and no RAM", false, true}} {
		t.Run(row.name, func(t *testing.T) {
			s := newSpec(t, h, "cap-drift", idle)
			running(t, h, s)
			cp := newCleanPoint(t, s)
			sh(t, "chmod", "666", cp.Overlay)
			if row.ram {
				doc := filepath.Join(t.TempDir(), "ram.xml")
				noErr(t, "write", os.WriteFile(doc, []byte("<domainsnapshot><memory snapshot='external' file='"+unfinished(cp)+"'/><disks><disk name='vda' snapshot='no'/></disks></domainsnapshot>"), 0o600))
				virsh(t, "snapshot-create", s.Name, doc, "--no-metadata")
			}
			monitor := func(doc string) {
				t.Helper()
				if out := virsh(t, "qemu-monitor-command", s.Name, doc); strings.Contains(out, "error") {
					t.Fatal(out)
				}
			}
			monitor(`{"execute":"blockdev-add","arguments":{"node-name":"x-file","driver":"file","filename":"` + cp.Overlay + `"}}`)
			monitor(`{"execute":"blockdev-add","arguments":{"node-name":"x","driver":"qcow2","file":"x-file","backing":null}}`)
			if row.frozen {
				monitor(`{"execute":"blockdev-snapshot","arguments":{"node":"libvirt-1-format","overlay":"x"}}`)
			}
			err := h.Checkpoint(ctx, s.ID, cp)
			if err == nil || errors.Is(err, domain.ErrAdrift) != row.frozen {
				t.Errorf("checkpoint: %v", err)
			}
			t.Log(err)
			if _, err := os.Stat(cp.RAM); (err == nil) != (row.ram && row.frozen) {
				t.Errorf("RAM file: %v", err)
			}
			if _, err := os.Stat(unfinished(cp)); err == nil {
				t.Error("an unfinished RAM file is left")
			}
			isState(t, h, "meanwhile", s.ID, domain.Running)
			if !row.frozen {
				noErr(t, "remove", os.Remove(cp.Overlay))
				noErr(t, "with another file", h.Checkpoint(ctx, s.ID, newCleanPoint(t, s)))
			}
			noErr(t, "destroy", h.Destroy(ctx, s.ID))
			if row.ram {
				noErr(t, "restore", h.Restore(ctx, s, cp.RAM))
			}
		})
	}
	s := newSpec(t, h, "cap-lock", idle)
	running(t, h, s)
	data := newVolume(t, s, "data")
	lockFile(t, data.Path)
	wantErr(t, "attach of what somebody has open", h.Attach(ctx, s.ID, data), domain.ErrAdrift)
}

// TestCheckpointInterrupted: whoever dies in the middle, the next call makes the clean point or says why not.
func TestCheckpointInterrupted(t *testing.T) {
	begin := func(t *testing.T, h *domain.Host, name string) (domain.Spec, domain.CleanPoint, <-chan error, int) {
		s := newSpec(t, h, name, idle)
		running(t, h, s)
		cp := newCleanPoint(t, s)
		done := make(chan error, 1)
		go func() { done <- h.Checkpoint(t.Context(), s.ID, cp) }()
		pid := qemuPid(t, s.Name)
		whenever(t, "RAM is saved", hasBytes(unfinished(cp)), func() { noErr(t, "stop", syscall.Kill(pid, syscall.SIGSTOP)) })
		return s, cp, done, pid
	}
	t.Run("qemu", func(t *testing.T) {
		h := open(t)
		s, cp, done, pid := begin(t, h, "cap-half")
		noErr(t, "kill", syscall.Kill(pid, syscall.SIGKILL))
		wantErr(t, "checkpoint", <-done, domain.ErrConflict)
		wantErr(t, "next", h.Checkpoint(t.Context(), s.ID, cp), domain.ErrConflict)
		isState(t, h, "at last", s.ID, domain.Off)
	})
	t.Run("libvirtd", func(t *testing.T) {
		h, ctx := open(t), t.Context()
		s, cp, done, pid := begin(t, h, "cap-orphan")
		libvirtd := libvirtdPid(t)
		testhost.KillLibvirtd(t)
		reaped(t, libvirtd)
		noErr(t, "continue", syscall.Kill(pid, syscall.SIGCONT))
		testhost.StartLibvirtd(t)
		awaitEverything(t, h)
		wantErr(t, "checkpoint", <-done, domain.ErrUnavailable)
		// How far it had come is chance; what is said of it must be true.
		err := h.Checkpoint(ctx, s.ID, cp)
		t.Log(err)
		isState(t, h, "afterwards", s.ID, domain.Running)
		_, ram := os.Stat(cp.RAM)
		switch in, ierr := h.Inspect(ctx, s.ID); {
		case ierr != nil:
			t.Fatal(ierr)
		case err == nil || errors.Is(err, domain.ErrAdrift):
			if err == nil && in.Live.Disks[0].Path != cp.Overlay {
				t.Errorf("a clean point, and it runs on %+v", in.Live.Disks)
			}
			noErr(t, "destroy", h.Destroy(ctx, s.ID))
			noErr(t, "restore", h.Restore(ctx, s, cp.RAM))
		case in.Live.Disks[0].Path != cp.Disk || ram == nil:
			t.Errorf("no clean point, and it runs on %+v; RAM file %v", in.Live.Disks, ram)
		}
	})
}

// snapshotDoc is what a client asks libvirt for.
func snapshotDoc(t *testing.T, cp domain.CleanPoint) string {
	t.Helper()
	doc := filepath.Join(t.TempDir(), "snapshot.xml")
	noErr(t, "write", os.WriteFile(doc, []byte(`<domainsnapshot><memory snapshot='external' file='`+cp.RAM+`'/><disks>
		<disk name='vda' snapshot='external'><driver type='qcow2'/><source file='`+cp.Overlay+`'/></disk></disks></domainsnapshot>`), 0o600))
	return doc
}

// TestCheckpointOnce: a request that libvirt still had from a client that died comes after the clean point was made.
func TestCheckpointOnce(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-once", idle)
	running(t, h, s)
	cp := newCleanPoint(t, s)
	done := make(chan error, 1)
	go func() { done <- h.Checkpoint(ctx, s.ID, cp) }()
	told := cp // what libvirt was told, as far as the files show
	whenever(t, "RAM is saved", func() bool { return hasBytes(cp.RAM)() || hasBytes(unfinished(cp))() }, func() {
		if hasBytes(unfinished(cp))() {
			told.RAM = unfinished(cp)
		}
	})
	noErr(t, "checkpoint", <-done)
	before := sh(t, "sha256sum", cp.RAM)
	late := exec.Command("virsh", "-c", "qemu:///system", "snapshot-create", s.Name, snapshotDoc(t, told), "--no-metadata", "--reuse-external", "--atomic")
	if out, err := late.CombinedOutput(); err == nil {
		t.Errorf("it was taken twice: %s", out)
	} else {
		t.Logf("refused: %s", out)
	}
	noErr(t, "checkpoint again", h.Checkpoint(ctx, s.ID, cp))
	if after := sh(t, "sha256sum", cp.RAM); after != before {
		t.Error("the RAM file has changed")
	}
	// QEMU cannot let the guest go on after that, so it stands still; but the way back is whole.
	noErr(t, "destroy", h.Destroy(ctx, s.ID))
	noErr(t, "restore", h.Restore(ctx, s, cp.RAM))
	noErr(t, "resume", h.Resume(ctx, s.ID))
	isState(t, h, "at last", s.ID, domain.Running)
}

// TestAbandonedChange: a disk that nobody waits for any more is not plugged into the domain's next life.
func TestAbandonedChange(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-late", idle)
	running(t, h, s)
	cp := newCleanPoint(t, s)
	noErr(t, "checkpoint", h.Checkpoint(ctx, s.ID, cp))
	data := newVolume(t, s, "data")
	noErr(t, "stop", syscall.Kill(qemuPid(t, s.Name), syscall.SIGSTOP))
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	wantErr(t, "attach", h.Attach(short, s.ID, data), context.DeadlineExceeded)
	short, cancel = context.WithTimeout(ctx, time.Second)
	defer cancel()
	wantErr(t, "resume meanwhile", h.Resume(short, s.ID), domain.ErrBusy)
	noErr(t, "destroy", h.Destroy(ctx, s.ID))
	noErr(t, "restore", h.Restore(ctx, s, cp.RAM))
	noErr(t, "resume", h.Resume(ctx, s.ID))
	if in, err := h.Inspect(ctx, s.ID); err != nil || len(in.Live.Disks) != 1 {
		t.Errorf("%+v, %v", in.Live, err)
	}
}

// TestCheckpointOfADeadClient: libvirtd carries on for a client that was killed, and the next one waits for it.
func TestCheckpointOfADeadClient(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-orphan", idle)
	running(t, h, s)
	cp := newCleanPoint(t, s)
	told := cp
	told.RAM = unfinished(cp)
	client := exec.Command("virsh", "-c", "qemu:///system", "snapshot-create", s.Name, snapshotDoc(t, told), "--no-metadata", "--reuse-external", "--atomic")
	noErr(t, "client", client.Start())
	pid := qemuPid(t, s.Name)
	whenever(t, "RAM is saved", hasBytes(unfinished(cp)), func() { noErr(t, "stop", syscall.Kill(pid, syscall.SIGSTOP)) })
	noErr(t, "kill", client.Process.Kill())
	_ = client.Wait()
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := h.Checkpoint(short, s.ID, cp)
	if !errors.Is(err, domain.ErrBusy) && !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("while it is under way: %v", err)
	}
	t.Log(err)
	done := make(chan error, 1)
	go func() { done <- h.Checkpoint(ctx, s.ID, cp) }()
	noErr(t, "continue", syscall.Kill(pid, syscall.SIGCONT))
	noErr(t, "checkpoint", <-done)
	isState(t, h, "at last", s.ID, domain.Running)
	noErr(t, "define", h.Define(ctx, s))
	noErr(t, "destroy", h.Destroy(ctx, s.ID))
	noErr(t, "restore", h.Restore(ctx, s, cp.RAM))
}
