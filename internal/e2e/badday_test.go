package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/rig"
	"github.com/capsuled/capsuled/internal/testhost"
)

// TestGuestPowersOff ends a guest from inside: that is no error, and the capsule can be launched again.
func TestGuestPowersOff(t *testing.T) {
	h := startHost(t)
	id := h.capsule(h.image())
	h.ctl("launch", "--wait", id)
	h.ssh(id, "(sleep 1; poweroff) >/dev/null 2>&1 &")
	if st := h.await(id, "SHUTDOWN"); st.Mode != "NOT_DEFINED" || st.Observed != "off" || st.Cause != nil {
		t.Errorf("after the guest powered itself off: %+v", st)
	}
	h.ctl("launch", "--wait", id)
}

// TestQEMUDies kills the process: the capsule says so with the cause, a stop repairs it, and it can be launched again.
func TestQEMUDies(t *testing.T) {
	h := startHost(t)
	id := h.capsule(h.image())
	h.ctl("launch", "--wait", id)
	kill(t, qemu(t, id), syscall.SIGKILL)
	if st := h.await(id, "ERROR"); st.Mode != "NOT_DEFINED" || st.Cause == nil || !strings.Contains(*st.Cause, "QEMU") {
		t.Errorf("after QEMU died: %+v", st)
	}
	h.ctl("stop", "--wait", id)
	if st := h.status(id); st.State != "SHUTDOWN" || st.Cause != nil {
		t.Errorf("after the repair: %+v", st)
	}
	h.ctl("launch", "--wait", id)
}

// TestDestroyedByOthers ends a domain through libvirt behind the daemon's back, and starts one.
func TestDestroyedByOthers(t *testing.T) {
	h := startHost(t)
	id := h.capsule(h.image())
	h.ctl("launch", "--wait", id)
	virsh(t, "destroy", "cap-"+id[:8])
	if st := h.await(id, "SHUTDOWN"); st.Cause == nil {
		t.Error("it does not say why it is off")
	}
	// It may be ended while it starts, and then virsh says so.
	_, _ = command(t, "virsh", "-q", "-c", "qemu:///system", "start", "cap-"+id[:8])
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		_, body, err := h.Get(ctx, "/v1/operations?state=succeeded&target="+id)
		if err == nil && !strings.Contains(body, `"evict"`) {
			err = fmt.Errorf("the domain that nobody launched was not ended: %s", body)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	h.await(id, "SHUTDOWN")
	if pid := qemu(t, id); pid != 0 {
		t.Errorf("QEMU runs as %d", pid)
	}
}

func virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t, "virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...)
	if err != nil {
		t.Fatalf("virsh %v: %v: %s", args, err, out)
	}
	return out
}

// TestLibvirtdIsNotThere starts the daemon before libvirtd: it waits, says so, and serves as soon as it can.
func TestLibvirtdIsNotThere(t *testing.T) {
	testhost.StopLibvirtd(t)
	h := newHost(t, "")
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		status, body, err := h.Get(ctx, "/readyz")
		if err != nil {
			return err
		}
		var health wire.Health
		if err := json.Unmarshal([]byte(body), &health); err != nil || status != http.StatusServiceUnavailable || !strings.Contains(strings.Join(health.Reasons, " "), "libvirt") {
			return fmt.Errorf("status %d: %s", status, body)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if status, _, err := h.Get(ctx, "/healthz"); err != nil || status != http.StatusOK {
		t.Errorf("healthz while it waits: %d, %v", status, err)
	}
	if _, err := h.Ctl(ctx, "image", "add", "--name", "guest", h.guest.Qcow2); err == nil {
		t.Error("it takes an image while it waits")
	}
	testhost.StartLibvirtd(t)
	h.ready()
	h.capsule(h.image())
}

// TestLibvirtdGoesAway stops and kills libvirtd under a running capsule: the capsule runs on, what is not known is
// called unknown, the daemon comes back to libvirt by itself, and events flow again.
func TestLibvirtdGoesAway(t *testing.T) {
	for name, end := range map[string]func(testing.TB){"stopped": testhost.StopLibvirtd, "killed": testhost.KillLibvirtd} {
		t.Run(name, func(t *testing.T) {
			h := startHost(t)
			id := h.capsule(h.image())
			h.ctl("launch", "--wait", id)
			h.ssh(id, "true")
			pid := qemu(t, id)
			end(t)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := rig.Until(ctx, func() error {
				if status, body, err := h.Get(ctx, "/readyz"); err != nil || status != http.StatusServiceUnavailable {
					return fmt.Errorf("readyz: %d %s %v", status, body, err)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if st := h.status(id); st.State != "RUNNING" || st.Observed != "unknown" {
				t.Errorf("while libvirtd is away: %s, %s", st.State, st.Observed)
			}
			if a := h.post(as(t, "alice"), "/stopvm", map[string][]string{"vmid": {id}}); a.status == http.StatusOK {
				t.Errorf("a stranger's stop was taken while libvirtd is away: %+v", a)
			}
			if a := h.post(token(t, map[string]any{"roles": []string{"admin"}}), "/stopvm", map[string][]string{"vmid": {id}}); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
				t.Errorf("stop while libvirtd is away: %+v", a)
			}
			h.ssh(id, "true") // the capsule does not care
			testhost.StartLibvirtd(t)
			h.ready()
			if st := h.status(id); st.State != "RUNNING" || st.Observed != "running" || qemu(t, id) != pid {
				t.Errorf("after libvirtd came back: %+v, QEMU %d was %d", st, qemu(t, id), pid)
			}
			h.ssh(id, "(sleep 1; poweroff) >/dev/null 2>&1 &") // events flow again
			h.await(id, "SHUTDOWN")
		})
	}
}

// TestQEMUDiesUnseen lets a capsule die while neither the daemon nor libvirtd can see it.
func TestQEMUDiesUnseen(t *testing.T) {
	h := startHost(t)
	id := h.capsule(h.image())
	h.ctl("launch", "--wait", id)
	h.Kill()
	testhost.KillLibvirtd(t)
	kill(t, qemu(t, id), syscall.SIGKILL)
	testhost.StartLibvirtd(t)
	h.start()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		st := h.status(id)
		if st.State != "ERROR" && st.State != "SHUTDOWN" || st.Cause == nil || st.Mode != "NOT_DEFINED" {
			return fmt.Errorf("it is %s, %s, %v", st.State, st.Mode, st.Cause)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if h.status(id).State == "ERROR" {
		h.ctl("stop", "--wait", id)
	}
	h.ctl("launch", "--wait", id)
}

// TestKilledInTheMiddle kills the daemon with -9 at random instants of every operation, restarts it, and finds the
// operation carried through, and in the end nothing orphaned. Which instants there are is shown exhaustively, call by
// call, in daemon's own tests; here the processes, files and rules are real.
func TestKilledInTheMiddle(t *testing.T) {
	const rounds = 5
	h := startHost(t)
	image := h.image()
	// die begins an operation and kills the daemon a little later.
	die := func(longest time.Duration, args ...string) {
		t.Helper()
		delay := time.Duration(rand.Int64N(int64(longest)))
		began := make(chan error, 1)
		go func() {
			_, err := h.Ctl(t.Context(), args...)
			began <- err
		}()
		time.Sleep(delay) // the instant of death, not a wait for anything
		h.Kill()
		<-began
		t.Logf("%v: killed after %v", args, delay)
		h.start()
		h.settle()
	}
	for range rounds {
		die(60*time.Millisecond, "create", "--image", image, "--memory", "256")
	}
	list := vmids(h.ctl("list", "--json"))
	for _, id := range list {
		h.await(id, "SHUTDOWN")
	}
	id := h.capsule(image)
	for range rounds {
		die(600*time.Millisecond, "launch", id)
		if st := h.status(id); st.State == "SHUTDOWN" { // it was killed before it had taken the request
			h.ctl("launch", "--wait", id)
		}
		h.await(id, "RUNNING")
		if pids := strings.Fields(must(command(t, "pgrep", "-f", "^[^ ]*qemu-system.*guest=cap-"+id[:8]))(t)); len(pids) != 1 {
			t.Fatalf("QEMU processes of one capsule: %v", pids)
		}
		die(600*time.Millisecond, "stop", id)
		if st := h.status(id); st.State == "RUNNING" {
			h.ctl("stop", "--wait", id)
		}
		h.await(id, "SHUTDOWN")
	}
	for _, id := range list {
		die(60*time.Millisecond, "delete", "--yes", id)
	}
	h.ctl("launch", "--wait", id)
	die(400*time.Millisecond, "delete", "--yes", id)
	// leave checks that nothing is left
}

// settle waits until no operation is under way.
func (h *host) settle() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		_, body, err := h.Get(ctx, "/v1/operations?state=running")
		if err != nil {
			return err
		}
		var open wire.OperationList
		if err := json.Unmarshal([]byte(body), &open); err != nil {
			return rig.Final(err)
		}
		if len(open.Operations) > 0 {
			return fmt.Errorf("under way: %s", body)
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
}

// TestInterruptedImport kills the daemon while it takes an image in: the import is taken up again, and nothing of the
// first try is left.
func TestInterruptedImport(t *testing.T) {
	h := startHost(t)
	// The request has its answer before the daemon dies: of one that was cut nobody knows what became.
	body := fmt.Sprintf(`{"name":"guest","public":true,"path":%q}`, h.guest.Raw)
	resp, err := h.Client().Post("http://capsuled/v1/images", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Fatal(resp.Status)
	}
	h.Kill()
	h.start()
	h.ctl("operation", "wait", filepath.Base(resp.Header.Get(wire.OperationHeader)))
	h.settle()
	h.capsule("guest")
}
