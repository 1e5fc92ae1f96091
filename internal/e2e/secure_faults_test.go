package e2e

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

	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// file is one of the capsule's files.
func (v *vault) file(name string) string { return filepath.Join(v.dir, "capsules", v.id, name) }

// fails wants a switch to be carried out and to fail, for a cause that has some words.
func (v *vault) fails(mode string, words ...string) {
	v.t.Helper()
	out, err := v.Ctl(v.t.Context(), "switch", "--wait", v.id, mode)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 8 {
		v.t.Fatalf("switch to %s: %v, and should fail: %s", mode, err, out)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			v.t.Errorf("the cause does not say %q: %v", w, err)
		}
	}
	if v.status(v.id).Cause == nil {
		v.t.Error("the capsule does not say what failed")
	}
}

// TestSecureFaults breaks what a switch needs, one thing after the other.
func TestSecureFaults(t *testing.T) {
	v := newVault(t, `capsule.stop_grace = "3s"`)
	v.ssh(v.id, "echo kept >/tmp/kept")
	v.beacon()
	for _, row := range []struct {
		name  string
		spoil func(path string) error
		held  bool
	}{
		{"a volume is gone", os.Remove, false},
		{"a volume is a link", func(path string) error { return errors.Join(os.Remove(path), os.Symlink("/etc/shadow", path)) }, true},
		{"a volume is a directory", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) }, true},
		{"a volume is a pipe", func(path string) error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)) }, true},
	} {
		v.run(row.name, func() { v.withoutVolume(row.spoil, row.held) })
	}
	v.run("the guest agent is dead", v.mute)
	v.run("the guest ignores ACPI", v.stubborn)
	v.run("the saved RAM is cut short", v.cutShort)
	v.run("QEMU is another program", v.otherQEMU)
	v.run("the host reboots", v.rebooted)
}

// withoutVolume has nothing that could be attached: the capsule is back in maintenance mode. Where the whole directory
// cannot be trusted it is held there, closed, until somebody has seen to it.
func (v *vault) withoutVolume(spoil func(string) error, held bool) {
	path := v.volumeFile()
	spare := filepath.Join(v.dir, "spare")
	if err := errors.Join(os.Link(path, spare), spoil(path)); err != nil {
		v.t.Fatal(err)
	}
	v.fails("secure")
	if held {
		v.comesToBeHeld()
		v.is("ERROR", "MAINTENANCE")
		if f := v.fences(); f != shut {
			v.t.Errorf("it is held, and not closed: %s", f)
		}
	} else {
		v.is("RUNNING", "MAINTENANCE")
		v.forgotten()
	}
	if err := errors.Join(os.RemoveAll(path), os.Rename(spare, path)); err != nil {
		v.t.Fatal(err)
	}
	if held {
		v.resumed()
		v.is("RUNNING", "MAINTENANCE")
		v.forgotten()
	}
	v.proved()
	v.hears()
	if got := v.ssh(v.id, "cat /tmp/kept"); got != "kept" {
		v.t.Errorf("it did not go on: %q", got)
	}
	v.secure()
	v.proved()
	v.maintenance()
}

// comesToBeHeld waits for the pause of a capsule that ran when it came to be held: that is an operation of its own.
func (v *vault) comesToBeHeld() {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	err := rig.Until(ctx, func() error {
		if st := v.status(v.id); st.State != "ERROR" || st.Observed == "running" {
			return errors.New(st.State + ", " + st.Observed)
		}
		return nil
	})
	if err != nil {
		v.t.Error(err)
	}
}

// resumed brings it back from where it is held. One that ran when it came to be held is being paused for a moment: it
// is busy then.
func (v *vault) resumed() {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	err := rig.Until(ctx, func() error {
		_, err := v.Ctl(ctx, "resume", "--wait", v.id)
		if err != nil && !strings.Contains(err.Error(), "busy") {
			return rig.Final(err)
		}
		return err
	})
	if err != nil {
		v.t.Fatal(err)
	}
}

// volumeFile is the file of the secure volume.
func (v *vault) volumeFile() string {
	v.t.Helper()
	list, err := filepath.Glob(v.file("secure_volume*"))
	if err != nil || len(list) != 1 {
		v.t.Fatalf("files of the secure volume: %v, %v", list, err)
	}
	return list[0]
}

// mute has no agent: secure mode is entered and left, and it says what was not done.
func (v *vault) mute() {
	v.ssh(v.id, "kill $(pidof qemu-ga)")
	v.secure()
	v.proved()
	if st := v.is("RUNNING", "SECURE"); st.Cause == nil || !strings.Contains(*st.Cause, "did not mount") {
		v.t.Errorf("it does not say that nothing is mounted: %s", said(st.Cause))
	}
	v.maintenance()
	v.proved()
	if st := v.is("RUNNING", "MAINTENANCE"); st.Cause == nil || !strings.Contains(*st.Cause, "clock") {
		v.t.Errorf("it does not say that the clock was not set: %s", said(st.Cause))
	}
	v.hears()
	v.ssh(v.id, "ACTION= SUBSYSTEM= /etc/hotplug")
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	if err := rig.Until(ctx, func() error { // it takes a moment to come up
		return exec.CommandContext(ctx, "virsh", "-q", "-c", "qemu:///system", "qemu-agent-command", v.domain, `{"execute":"guest-ping"}`).Run()
	}); err != nil {
		v.t.Fatal(err)
	}
	v.secure()
	if st := v.is("RUNNING", "SECURE"); st.Cause != nil {
		v.t.Errorf("with an agent it still says: %s", *st.Cause)
	}
	v.maintenance()
}

// stubborn is stopped in secure mode and does not power off: it is ended.
func (v *vault) stubborn() {
	v.ssh(v.id, "kill $(pidof acpid)")
	v.secure()
	v.ctl("stop", "--wait", v.id)
	v.is("SHUTDOWN", "NOT_DEFINED")
	v.forgotten()
	v.proved()
	v.ctl("launch", "--wait", v.id)
	v.beacon()
}

// cutShort has no RAM to go back to: closed and held, until a stop forgets.
func (v *vault) cutShort() {
	v.secure()
	if err := os.Truncate(v.file("clean.ram"), 1<<20); err != nil {
		v.t.Fatal(err)
	}
	v.fails("maintenance", "restore")
	held := func() {
		v.t.Helper()
		v.is("ERROR", "SECURE")
		if pid := qemu(v.t, v.id); pid != 0 {
			v.t.Errorf("QEMU runs as %d", pid)
		}
		if f := v.fences(); f != shut {
			v.t.Errorf("it is not closed: %s", f)
		}
	}
	held()
	if out, err := v.Ctl(v.t.Context(), "resume", "--wait", v.id); err == nil || !strings.Contains(err.Error(), "restore") {
		v.t.Errorf("resume: %v: %s", err, out)
	}
	held()
	v.ctl("stop", "--wait", v.id)
	v.is("SHUTDOWN", "NOT_DEFINED")
	v.forgotten()
	v.ctl("launch", "--wait", v.id)
	v.is("RUNNING", "MAINTENANCE")
	v.proved()
}

// otherQEMU is a host whose QEMU was exchanged while a capsule was in secure mode, for one that cannot take up what the
// other saved: closed and held, until the right one is back.
func (v *vault) otherQEMU() {
	const path = "/usr/bin/qemu-system-x86_64"
	dir := v.t.TempDir()
	real, other := filepath.Join(dir, "real"), filepath.Join(dir, "other")
	script := "#!/bin/sh\nfor a; do\n\tif [ \"$a\" = -incoming ]; then\n\t\techo 'Unknown savevm section or instance' >&2\n\t\texit 1\n\tfi\ndone\nexec " + real + " \"$@\"\n"
	must(command(v.t, "cp", path, real))(v.t)
	if err := errors.Join(os.WriteFile(other, []byte(script), 0o755), reachable(dir)); err != nil {
		v.t.Fatal(err)
	}
	v.secure()
	must(command(v.t, "mount", "--bind", other, path))(v.t)
	v.fails("maintenance") // libvirt looks at a QEMU that is new to it, or QEMU refuses what was saved
	v.is("ERROR", "SECURE")
	if pid := qemu(v.t, v.id); pid != 0 {
		v.t.Errorf("QEMU runs as %d", pid)
	}
	if f := v.fences(); f != shut {
		v.t.Errorf("it is not closed: %s", f)
	}
	must(command(v.t, "umount", path))(v.t)
	v.resumed()
	v.is("RUNNING", "MAINTENANCE")
	v.proved()
	v.forgotten()
}

// reachable lets QEMU's user into a directory and those above it.
func reachable(dir string) (err error) {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		info, statErr := os.Stat(dir)
		if err = errors.Join(err, statErr); statErr == nil {
			err = errors.Join(err, os.Chmod(dir, info.Mode().Perm()|0o011))
		}
	}
	return err
}

// rebooted is a host that goes down in secure mode: nothing of it runs, no rule is there. It comes up as its units say:
// the fence first, then libvirtd, then the daemon.
func (v *vault) rebooted() {
	v.secure()
	v.Kill()
	testhost.KillLibvirtd(v.t)
	kill(v.t, qemu(v.t, v.id), syscall.SIGKILL)
	v.until("the end of QEMU", func() error {
		if qemu(v.t, v.id) != 0 {
			return errors.New("it is still there")
		}
		return nil
	})
	must(command(v.t, "nft", "flush", "ruleset"))(v.t)
	v.killDNSMasq()
	must(command(v.t, "ip", "link", "del", "capsbr0"))(v.t)
	must(command(v.t, "sh", "-c", "rm -rf /run/libvirt/qemu/* /run/libvirt/network/*"))(v.t) // a reboot empties /run
	must(command(v.t, v.Programs.Capsuled, "-config", v.Config, "-fence"))(v.t)
	if f := v.fences(); f != shut {
		v.t.Errorf("after the fence: %s", f)
	}
	testhost.StartLibvirtd(v.t)
	if f := v.fences(); f != shut {
		v.t.Errorf("after libvirtd: %s", f)
	}
	v.start()
	st := v.status(v.id)
	v.until("the capsule to be off", func() error {
		if st = v.status(v.id); st.State != "SHUTDOWN" {
			return errors.New(st.State)
		}
		return nil
	})
	if st.Mode != "NOT_DEFINED" || st.Cause == nil {
		v.t.Errorf("after a reboot: %+v", st)
	}
	v.forgotten()
	v.proved()
	if f := v.fences(); f.IPv4 == rig.Open || f.Bridge == rig.Open {
		v.t.Errorf("after a reboot: %s", f)
	}
	v.ctl("launch", "--wait", v.id)
	v.is("RUNNING", "MAINTENANCE")
	v.beacon()
}
