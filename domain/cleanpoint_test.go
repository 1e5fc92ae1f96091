package domain_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/internal/testhost"
)

// guestSpec describes a domain that boots the test guest from an overlay of its own.
func guestSpec(t *testing.T, h *domain.Host, name string, image testhost.GuestImage) domain.Spec {
	t.Helper()
	s := newSpec(t, h, name, nil)
	dir := filepath.Dir(s.Disks[0].Path)
	base, root := filepath.Join(dir, "base-disk.raw"), filepath.Join(dir, "disk.qcow2")
	sh(t, "cp", "--sparse=always", image.Raw, base)
	sh(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", root)
	s.Disks = []domain.Disk{{Path: root, Format: "qcow2", Serial: "root", Backing: &domain.BackingFile{Path: base, Format: "raw"}}}
	s.MemoryBytes = 256 << 20
	return s
}

// newCleanPoint makes an empty overlay over the first disk.
func newCleanPoint(t *testing.T, s domain.Spec) domain.CleanPoint {
	t.Helper()
	dir := filepath.Dir(s.Disks[0].Path)
	cp := domain.CleanPoint{Disk: s.Disks[0].Path, Overlay: filepath.Join(dir, "overlay.qcow2"), RAM: filepath.Join(dir, "clean.ram")}
	_ = os.Remove(cp.RAM)
	sh(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", cp.Disk, "-F", s.Disks[0].Format, cp.Overlay)
	return cp
}

// unfinished is the RAM file's name while it is written.
func unfinished(cp domain.CleanPoint) string {
	return filepath.Join(filepath.Dir(cp.RAM), ".new-"+filepath.Base(cp.RAM))
}

// newVolume makes a formatted qcow2 disk over a base, with a label.
func newVolume(t *testing.T, s domain.Spec, label string) domain.Disk {
	t.Helper()
	dir := filepath.Dir(s.Disks[0].Path)
	base, top := filepath.Join(dir, "base-"+label+".raw"), filepath.Join(dir, label+".qcow2")
	sh(t, "truncate", "-s", "32M", base)
	sh(t, "mkfs.ext4", "-q", "-L", label, base)
	sh(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
	return domain.Disk{Path: top, Format: "qcow2", Serial: label, Backing: &domain.BackingFile{Path: base, Format: "raw"}}
}

// guestExec is a reply of the agent.
type guestExec struct {
	Return struct {
		PID      int    `json:"pid"`
		Exited   bool   `json:"exited"`
		ExitCode int    `json:"exitcode"`
		Out      string `json:"out-data"`
		Err      string `json:"err-data"`
	} `json:"return"`
}

// inGuest runs a script in the guest and gives its output; the test's own way in, past the package.
func inGuest(t *testing.T, name, script string) string {
	t.Helper()
	ask := func(command string, args any) guestExec {
		doc, err := json.Marshal(map[string]any{"execute": command, "arguments": args})
		noErr(t, "marshal", err)
		var e guestExec
		noErr(t, "reply", json.Unmarshal([]byte(virsh(t, "qemu-agent-command", name, "--timeout", "60", string(doc))), &e))
		return e
	}
	pid := ask("guest-exec", map[string]any{"path": "/bin/sh", "arg": []string{"-c", script}, "capture-output": true}).Return.PID
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		e := ask("guest-exec-status", map[string]int{"pid": pid})
		if !e.Return.Exited {
			continue
		}
		out, _ := base64.StdEncoding.DecodeString(e.Return.Out)
		text, _ := base64.StdEncoding.DecodeString(e.Return.Err)
		if e.Return.ExitCode != 0 {
			t.Fatalf("%s: ended with %d: %s%s", script, e.Return.ExitCode, out, text)
		}
		return string(out)
	}
	t.Fatalf("%s: not ended", script)
	return ""
}

// booted starts a domain and waits for its agent.
func booted(t *testing.T, h *domain.Host, s domain.Spec) {
	t.Helper()
	running(t, h, s)
	await(t, h, s.ID, func(domain.Observed) bool { return agentConnected(t, s.Name) })
}

func state(t *testing.T, h *domain.Host, id domain.ID) domain.RunState {
	t.Helper()
	o, err := h.ObserveOne(t.Context(), id)
	noErr(t, "observe", err)
	return o.State
}

// TestCleanPoint goes to a clean point and back, three times, with the real guest.
func TestCleanPoint(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := guestSpec(t, h, "cap-clean", testhost.GuestWithGenerationID(t))
	secret, spool := newVolume(t, s, "data"), newVolume(t, s, "spool")
	booted(t, h, s)
	boot := inGuest(t, s.Name, "cat /proc/sys/kernel/random/boot_id")
	for visit := range 3 {
		inGuest(t, s.Name, "echo kept >>/root/kept; echo kept >>/run/kept; sync; dmesg -c >/dev/null")
		before, err := h.Inspect(ctx, s.ID)
		noErr(t, "inspect", err)
		cp := newCleanPoint(t, s)
		start := time.Now()
		noErr(t, "checkpoint", h.Checkpoint(ctx, s.ID, cp))
		t.Logf("checkpoint %v", time.Since(start))
		noErr(t, "checkpoint again", h.Checkpoint(ctx, s.ID, cp))
		if _, err := os.Stat(unfinished(cp)); err == nil {
			t.Error("an unfinished RAM file is left")
		}
		noErr(t, "define again", h.Define(ctx, s))
		start = time.Now()
		for _, v := range []domain.Disk{secret, spool, secret} {
			noErr(t, "attach", h.Attach(ctx, s.ID, v))
		}
		t.Logf("attach %v", time.Since(start))
		in, err := h.Inspect(ctx, s.ID)
		noErr(t, "inspect", err)
		checkAttached(t, in, cp, s, secret, spool)
		noErr(t, "mount", h.GuestMount(ctx, s.ID, []domain.Mount{
			{Serial: "data", Path: "/media/data", Owner: "dcuser"}, {Serial: "nothing", Label: "spool", Path: "/media/spool", Owner: "nobody-here"}}))
		mounts, err := h.GuestMounts(ctx, s.ID)
		noErr(t, "mounts", err)
		if mounts["/media/data"] != "data" || mounts["/media/spool"] != "spool" || mounts["/"] != "root" {
			t.Errorf("mounts: %v", mounts)
		}
		if owner := inGuest(t, s.Name, "stat -c %U /media/data"); owner != "dcuser\n" {
			t.Errorf("the volume is %q's", owner)
		}
		inGuest(t, s.Name, "echo secret >/root/secret; echo secret >/run/secret; echo result >>/media/spool/results; sync")
		if n, err := h.Freeze(ctx, s.ID); err != nil || n < 3 {
			t.Errorf("froze %d: %v", n, err)
		}

		noErr(t, "destroy", h.Destroy(ctx, s.ID))
		noErr(t, "remove", os.Remove(cp.Overlay))
		start = time.Now()
		noErr(t, "restore", h.Restore(ctx, s, cp.RAM))
		t.Logf("restore %v", time.Since(start))
		if now := state(t, h, s.ID); now != domain.Paused {
			t.Errorf("restored, and %v", now)
		}
		after, err := h.Inspect(ctx, s.ID)
		noErr(t, "inspect", err)
		if len(after.Live.Disks) != 1 || after.Live.Disks[0].Path != cp.Disk || after.GenerationID == before.GenerationID || len(after.Live.Foreign) > 0 {
			t.Errorf("restored: %+v, generation %s before", after, before.GenerationID)
		}
		noErr(t, "resume", h.Resume(ctx, s.ID))
		noErr(t, "resume again", h.Resume(ctx, s.ID))
		await(t, h, s.ID, func(domain.Observed) bool { return agentConnected(t, s.Name) })
		noErr(t, "clock", h.SetClock(ctx, s.ID, time.Now()))
		got := inGuest(t, s.Name, `ls /root/secret /run/secret 2>/dev/null; grep -c kept /root/kept /run/kept; echo >/root/alive && sync
			until dmesg | grep -o 'crng reseeded due to virtual machine fork'; do sleep 1; done; cat /proc/sys/kernel/random/boot_id`)
		n := string(rune('1' + visit))
		if want := "/root/kept:" + n + "\n/run/kept:" + n + "\ncrng reseeded due to virtual machine fork\n" + boot; got != want {
			t.Errorf("back again: %q, want %q", got, want)
		}
	}
	sh(t, "qemu-img", "check", "-q", secret.Path)
}

func checkAttached(t *testing.T, in domain.Inspection, cp domain.CleanPoint, s domain.Spec, volumes ...domain.Disk) {
	t.Helper()
	if in.State != domain.Running || len(in.Live.Disks) != 1+len(volumes) || len(in.Live.Foreign) > 0 {
		t.Fatalf("attached: %+v", in.Live)
	}
	root := in.Live.Disks[0]
	if root.Path != cp.Overlay || strings.Join(root.Chain, " ") != cp.Disk+" "+s.Disks[0].Backing.Path {
		t.Errorf("root: %+v", root)
	}
	for i, v := range volumes {
		if seen := in.Live.Disks[1+i]; seen.Path != v.Path || seen.Serial != v.Serial || len(seen.Chain) != 1 || seen.Target != "vd"+string(rune('b'+i)) {
			t.Errorf("volume: %+v, want %+v", seen, v)
		}
	}
	if d := in.Defined; len(d.Disks) != 1 || d.Disks[0].Path != cp.Disk || len(d.Foreign) > 0 {
		t.Errorf("defined: %+v", d)
	}
}
