package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/capsuled/capsuled/internal/testhost"
)

// TestSecureStrangers has somebody do to the domain, through libvirt and behind the daemon's back, what nobody may while
// data is attached: the capsule is held, it says why, and an operator brings it back. The guest is not waited for.
func TestSecureStrangers(t *testing.T) {
	v := newVault(t, `secure.mount_wait = "1s"`, `secure.flush_wait = "1s"`)
	device := func(text string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "device.xml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stranger := filepath.Join(v.dir, "stranger.raw") // QEMU can reach it there
	if err := errors.Join(os.WriteFile(stranger, nil, 0o666), os.Truncate(stranger, 1<<20)); err != nil {
		t.Fatal(err)
	}
	disk := device(fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/><target dev='vdz' bus='virtio'/></disk>", stranger))
	nic := device("<interface type='network'><source network='capsules'/><model type='virtio'/></interface>")
	serial := device("<serial type='pty'/>")
	for _, row := range []struct {
		name   string
		does   [][]string
		says   string     // what the proof speaks of
		undone [][]string // what a stranger can take back; then the capsule goes on where it was
		back   string     // the mode that resume brings it to; "" when it does not
	}{
		{"attaches a disk", [][]string{{"attach-device", v.domain, disk, "--live"}}, "disks of the live domain", nil, "MAINTENANCE"},
		{"attaches a network card", [][]string{{"attach-device", v.domain, nic, "--live"}}, "network interfaces of the live domain", nil, ""},
		{"adds a disk to the definition", [][]string{{"attach-device", v.domain, disk, "--config"}}, "disks of the definition",
			[][]string{{"detach-device", v.domain, disk, "--config"}}, "SECURE"},
		{"adds a serial line to the definition", [][]string{{"attach-device", v.domain, serial, "--config"}}, "other devices of the definition",
			[][]string{{"detach-device", v.domain, serial, "--config"}}, "SECURE"},
	} {
		v.run(row.name, func() {
			v.secure()
			v.proved()
			for _, args := range row.does {
				virsh(v.t, args...)
			}
			v.held(row.says)
			v.resumedByStranger()
			for _, args := range row.undone {
				virsh(v.t, args...)
			}
			if row.back == "" { // it stays held for as long as its process is as it is; a switch ends that
				v.refused(8, row.says, "resume", "--wait", v.id)
				v.held(row.says)
				v.maintenance()
			} else {
				v.ctl("resume", "--wait", v.id)
				v.is("RUNNING", row.back)
			}
			v.proved()
			if row.back == "SECURE" {
				v.maintenance()
			}
		})
	}
	v.run("saves it", func() { v.savedByStranger() })
	v.run("loses libvirt's sight of it", func() { v.lostSight() })
}

// held waits until the capsule is closed and paused for a reason, which the proof names too.
func (v *vault) held(why string) {
	v.t.Helper()
	v.until("the capsule to be held", func() error {
		if st := v.status(v.id); st.State != "ERROR" || st.Observed != "paused" {
			return fmt.Errorf("it is %s, %s", st.State, st.Observed)
		}
		return nil
	})
	st := v.is("ERROR", "SECURE")
	if st.Cause == nil || !strings.Contains(*st.Cause, why) {
		v.t.Errorf("it does not speak of %q: %s", why, said(st.Cause))
	}
	if f := v.fences(); f != shut {
		v.t.Errorf("it is held and not closed: %s", f)
	}
	v.refused(11, why, "prove", v.id)
}

// resumedByStranger lets a held domain run: it is paused again.
func (v *vault) resumedByStranger() {
	v.t.Helper()
	before := len(v.operations())
	virsh(v.t, "resume", v.domain)
	v.until("it to be paused again", func() error {
		if st := v.status(v.id); st.State != "ERROR" || st.Observed != "paused" || len(v.operations()) == before {
			return fmt.Errorf("it is %s, %s", st.State, st.Observed)
		}
		return nil
	})
	if f := v.fences(); f != shut {
		v.t.Errorf("it is held and not closed: %s", f)
	}
}

// savedByStranger has libvirt save the RAM of secure mode to a file of its own, and end the domain: nothing of it may be
// there when the capsule is next in maintenance mode, or be started.
func (v *vault) savedByStranger() {
	v.secure()
	if out, err := command(v.t, "virsh", "-q", "-c", "qemu:///system", "managedsave", v.domain); err != nil {
		v.t.Logf("managedsave: %v: %s", err, out)
	}
	v.until("the daemon to see it", func() error {
		if st := v.status(v.id); st.State != "SHUTDOWN" && st.State != "ERROR" {
			return errors.New(st.State)
		}
		return nil
	})
	saved := func() {
		v.t.Helper()
		if list, err := filepath.Glob("/var/lib/libvirt/qemu/save/*"); err != nil || len(list) > 0 {
			v.t.Errorf("RAM of secure mode is on the disk: %v, %v", list, err)
		}
	}
	saved()
	v.recovered() // launches it
	v.is("RUNNING", "MAINTENANCE")
	v.forgotten()
	v.proved()
	saved()
}

// lostSight takes libvirtd's file of the running domain away: it finds a domain that is off, and QEMU runs on with the data.
// The kernel knows. Nothing is forgotten under it, stop names the process, and works once an operator has ended that.
func (v *vault) lostSight() {
	v.secure()
	pid := qemu(v.t, v.id)
	testhost.KillLibvirtd(v.t)
	if err := os.Remove("/run/libvirt/qemu/" + v.domain + ".xml"); err != nil {
		v.t.Fatal(err)
	}
	testhost.StartLibvirtd(v.t)
	process := fmt.Sprintf("process %d", pid)
	v.until("the capsule to be held", func() error {
		if st := v.status(v.id); st.State != "ERROR" {
			return errors.New(st.State)
		}
		return nil
	})
	if st := v.is("ERROR", "SECURE"); !strings.Contains(said(st.Cause), process) {
		v.t.Errorf("it does not speak of %s: %s", process, said(st.Cause))
	}
	if f := v.fences(); f != shut {
		v.t.Errorf("it is held and not closed: %s", f)
	}
	v.refused(8, process, "stop", "--wait", v.id)
	if _, err := os.Stat(v.file("overlay.qcow2")); err != nil || qemu(v.t, v.id) != pid {
		v.t.Errorf("QEMU is %d and was %d; its overlay: %v", qemu(v.t, v.id), pid, err)
	}
	if f := v.fences(); f != shut {
		v.t.Errorf("it was to be stopped, and is not closed: %s", f)
	}
	kill(v.t, pid, syscall.SIGKILL)
	v.until("the end of QEMU", func() error {
		if qemu(v.t, v.id) != 0 {
			return errors.New("it is still there")
		}
		return nil
	})
	v.ctl("stop", "--wait", v.id)
	v.is("SHUTDOWN", "NOT_DEFINED")
	v.forgotten()
	v.recovered() // launches it
}
