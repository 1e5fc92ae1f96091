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
	if _, err := os.Stat(cp.RAM); err == nil {
		t.Log("the RAM file is left")
	}
	cp.RAM = room
	noErr(t, "with room", h.Checkpoint(ctx, s.ID, cp))
}

// TestCheckpointAdrift: libvirtd dies between QEMU's change of the disk and its own note of it. QEMU is told by hand
// what libvirt would have told it.
func TestCheckpointAdrift(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-drift", idle)
	running(t, h, s)
	cp := newCleanPoint(t, s)
	noErr(t, "chown", os.Chown(cp.Overlay, 64055, 64055))
	sh(t, "chmod", "666", cp.Overlay)
	monitor := func(doc string) string { return virsh(t, "qemu-monitor-command", s.Name, doc) }
	monitor(`{"execute":"blockdev-add","arguments":{"node-name":"x-file","driver":"file","filename":"` + cp.Overlay + `"}}`)
	monitor(`{"execute":"blockdev-add","arguments":{"node-name":"x","driver":"qcow2","file":"x-file","backing":null}}`)
	if out := monitor(`{"execute":"blockdev-snapshot","arguments":{"node":"libvirt-1-format","overlay":"x"}}`); strings.Contains(out, "error") {
		t.Fatal(out)
	}
	err := h.Checkpoint(ctx, s.ID, cp)
	wantErr(t, "checkpoint", err, domain.ErrAdrift)
	t.Log(err)

	data := newVolume(t, s, "data")
	lockFile(t, data.Path)
	wantErr(t, "attach of what somebody has open", h.Attach(ctx, s.ID, data), domain.ErrAdrift)
}

// TestCheckpointInterrupted: whoever dies in the middle, the next call makes the clean point or says why not.
func TestCheckpointInterrupted(t *testing.T) {
	for _, row := range []struct {
		name string
		end  func(t *testing.T, h *domain.Host, pid int)
		want error // of the call under way
		next error // of the call after it
	}{
		{"qemu", func(t *testing.T, h *domain.Host, pid int) {
			noErr(t, "kill", syscall.Kill(pid, syscall.SIGKILL))
		}, domain.ErrConflict, domain.ErrConflict},
		{"libvirtd", func(t *testing.T, h *domain.Host, pid int) {
			libvirtd := libvirtdPid(t)
			testhost.KillLibvirtd(t)
			reaped(t, libvirtd)
			noErr(t, "continue", syscall.Kill(pid, syscall.SIGCONT))
			testhost.StartLibvirtd(t)
			awaitEverything(t, h)
		}, domain.ErrUnavailable, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			h, ctx := open(t), t.Context()
			s := newSpec(t, h, "cap-half", idle)
			running(t, h, s)
			cp := newCleanPoint(t, s)
			done := make(chan error, 1)
			go func() { done <- h.Checkpoint(ctx, s.ID, cp) }()
			whenever(t, "RAM is saved", hasBytes(cp.RAM), func() {
				pid := qemuPid(t, s.Name)
				noErr(t, "stop", syscall.Kill(pid, syscall.SIGSTOP))
				row.end(t, h, pid)
			})
			err := <-done
			wantErr(t, "checkpoint", err, row.want)
			t.Log(err)
			err = h.Checkpoint(ctx, s.ID, cp)
			if !errors.Is(err, row.next) {
				t.Errorf("next: %v, want %v", err, row.next)
			}
			if row.next == nil {
				isState(t, h, "at last", s.ID, domain.Running)
			} else {
				isState(t, h, "at last", s.ID, domain.Off)
			}
		})
	}
}

// TestCheckpointOfADeadClient: libvirtd carries on for a client that was killed, and the next one waits for it.
func TestCheckpointOfADeadClient(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-orphan", idle)
	running(t, h, s)
	cp := newCleanPoint(t, s)
	doc := filepath.Join(t.TempDir(), "snapshot.xml")
	noErr(t, "write", os.WriteFile(doc, []byte(`<domainsnapshot><memory snapshot='external' file='`+cp.RAM+`'/><disks>
		<disk name='vda' snapshot='external'><driver type='qcow2'/><source file='`+cp.Overlay+`'/></disk></disks></domainsnapshot>`), 0o600))
	client := exec.Command("virsh", "-c", "qemu:///system", "snapshot-create", s.Name, doc, "--no-metadata", "--reuse-external", "--atomic")
	noErr(t, "client", client.Start())
	pid := qemuPid(t, s.Name)
	whenever(t, "RAM is saved", hasBytes(cp.RAM), func() { noErr(t, "stop", syscall.Kill(pid, syscall.SIGSTOP)) })
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
