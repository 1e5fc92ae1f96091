package e2e

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// TestSecureFullDisk fills the disk before the clean point, while it is taken, and in secure mode: a capsule that cannot
// enter is as it was, and one that cannot leave is closed and leaves when there is room.
func TestSecureFullDisk(t *testing.T) {
	h := newHost(t, smallDisk(t, 3<<30), "capsule.disk_reserve_gb = 0", `secure.mount_wait = "5s"`, `secure.verify_every = "1s"`)
	h.start()
	v := vaultOn(t, h)
	v.ssh(v.id, "echo kept >/tmp/kept")
	v.beacon()
	v.secure()
	v.maintenance()
	steps := v.steps()["enter"]

	asItWas := func() {
		t.Helper()
		if st := v.is("RUNNING", "MAINTENANCE"); st.Cause == nil {
			t.Error("it does not say why it is not in secure mode")
		}
		v.forgotten()
		v.proved()
		v.hears()
		if got := v.ssh(v.id, "cat /tmp/kept"); got != "kept" {
			t.Errorf("it did not go on: %q", got)
		}
	}
	room := fill(t, h.dir, 64<<20)
	v.fails("secure", "clean-point", "exhausted")
	asItWas()
	room()

	full := blow{strike: func(v *vault) { room = fill(v.t, h.dir, 24<<20) }}
	for !v.suffer("enter", "secure", "clean-point", steps, full) { // it went past that step between two looks
		v.settle()
		v.maintenance()
	}
	v.settle()
	if op := v.newest("enter"); op.State != "failed" {
		t.Errorf("with a disk that is full: %+v", op)
	}
	asItWas()
	room()

	v.secure()
	room = fill(t, h.dir, 0)
	out, err := v.Ctl(t.Context(), "switch", "--wait", v.id, "maintenance")
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 6 || !strings.Contains(err.Error(), "disk")) {
		t.Errorf("a way out without room: %v: %s", err, out)
	}
	room()
	if v.status(v.id).Mode == "SECURE" {
		v.is("RUNNING", "SECURE")
		v.proved()
		v.maintenance()
	}
	v.forgotten()
	v.hears()
}
