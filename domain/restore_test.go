package domain_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/internal/testhost"
	"golang.org/x/sys/unix"
)

// saved makes a domain that has a clean point and is off.
func saved(t *testing.T, h *domain.Host, name string) (domain.Spec, domain.CleanPoint) {
	t.Helper()
	s := newSpec(t, h, name, idle)
	running(t, h, s)
	cp := newCleanPoint(t, s)
	noErr(t, "checkpoint", h.Checkpoint(t.Context(), s.ID, cp))
	noErr(t, "destroy", h.Destroy(t.Context(), s.ID))
	return s, cp
}

func isState(t *testing.T, h *domain.Host, what string, id domain.ID, want domain.RunState) {
	t.Helper()
	if now := state(t, h, id); now != want {
		t.Errorf("%s: it is in state %v, want %v", what, now, want)
	}
}

func TestRestoreRefuses(t *testing.T) {
	h, ctx := open(t), t.Context()
	s, cp := saved(t, h, "cap-one")
	_, foreign := saved(t, h, "cap-two")
	whole, err := os.Stat(cp.RAM)
	noErr(t, "stat", err)
	refused := func(name string, ram string) {
		t.Run(name, func(t *testing.T) {
			err := h.Restore(ctx, s, ram)
			if !errors.Is(err, domain.ErrUnusable) {
				t.Fatalf("restore: %v, want ErrUnusable", err)
			}
			if strings.Contains(err.Error(), s.VNC.Password) {
				t.Errorf("the password is in the text: %v", err)
			}
			t.Log(err)
			isState(t, h, "after it", s.ID, domain.Off)
			if now := virsh(t, "dumpxml", "--inactive", s.Name); !strings.Contains(now, cp.Disk) || strings.Contains(now, cp.Overlay) {
				t.Errorf("the definition is not the spec's: %s", now)
			}
		})
	}
	copied := func(name string) string {
		path := filepath.Join(filepath.Dir(cp.RAM), name)
		sh(t, "cp", cp.RAM, path)
		return path
	}
	refused("missing", cp.RAM+".none")
	refused("another domain's", foreign.RAM)
	// The stream ends with a description of itself in JSON, which nobody needs to load it.
	content, err := os.ReadFile(cp.RAM)
	noErr(t, "read", err)
	devices := int64(bytes.LastIndex(content, []byte(`{"page_size"`))) - 100
	t.Logf("%d bytes, the devices' states end at %d", whole.Size(), devices)
	cut := copied("cut")
	for name, size := range map[string]int64{"empty": 0, "header cut": 10, "description cut": 1000, "no RAM": 8192, "half": whole.Size() / 2, "devices cut": devices} {
		sh(t, "cp", cp.RAM, cut)
		noErr(t, "truncate", os.Truncate(cut, size))
		refused(name, cut)
	}
	partial := copied("partial")
	f, err := os.OpenFile(partial, os.O_WRONLY, 0)
	noErr(t, "open", err)
	_, err = f.WriteAt([]byte("LibvirtQemudPart"), 0)
	noErr(t, "write", errors.Join(err, f.Close()))
	refused("not finished", partial)
	description := virsh(t, "save-image-dumpxml", "--security-info", cp.RAM)
	for name, edit := range map[string][2]string{
		"another disk":     {cp.Disk, cp.Overlay},
		"no port isolated": {"<port isolated='yes'/>", ""},
		"another network":  {"<source network='" + capsNet.Name + "'/>", "<source network='other'/>"},
		"serial elsewhere": {"serial.log", "other.log"},
		"password known":   {"<genid>", "<title>x</title><genid>"},
		"a kernel":         {"hvm</type>", "hvm</type><kernel>/etc/shadow</kernel>"},
	} {
		edited := copied("edited")
		doc := filepath.Join(t.TempDir(), "edited.xml")
		noErr(t, "write", os.WriteFile(doc, []byte(strings.ReplaceAll(description, edit[0], edit[1])), 0o600))
		virsh(t, "save-image-define", edited, doc)
		refused(name, edited)
	}

	noErr(t, "restore", h.Restore(ctx, s, cp.RAM))
	isState(t, h, "restored", s.ID, domain.Paused)
	wantErr(t, "restore of one with a process", h.Restore(ctx, s, cp.RAM), domain.ErrConflict)
	isState(t, h, "after that", s.ID, domain.Paused)
}

// TestRestoreTakesTheSpec: password, port, labels and definition are those of the spec, not the saved ones.
func TestRestoreTakesTheSpec(t *testing.T) {
	h, ctx := open(t), t.Context()
	s, cp := saved(t, h, "cap-spec")
	s.VNC.Password, s.VNC.Port, s.Labels = "changed", freePort(), map[string]string{"user": "bob"}
	noErr(t, "restore", h.Restore(ctx, s, cp.RAM))
	live := virsh(t, "dumpxml", "--security-info", s.Name)
	for _, want := range []string{"passwd='changed'", ">bob<", domain.SpecHash(s)} {
		if !strings.Contains(live, want) {
			t.Errorf("no %s in %s", want, live)
		}
	}
	noErr(t, "password", h.SetPassword(ctx, s.ID, "again"))
	noErr(t, "password again", h.SetPassword(ctx, s.ID, "again"))
	if live := virsh(t, "dumpxml", "--security-info", s.Name); !strings.Contains(live, "passwd='again'") {
		t.Errorf("the password is not set: %s", live)
	}
	err := h.SetPassword(ctx, s.ID, "much too long")
	wantErr(t, "long password", err, domain.ErrInvalid)
	if strings.Contains(err.Error(), "much") {
		t.Error("the password is in the text")
	}
	for _, up := range []bool{false, false, true} {
		noErr(t, "link", h.SetLink(ctx, s.ID, up))
		in, err := h.Inspect(ctx, s.ID)
		if err != nil || in.Live.NICs[0].LinkUp != up {
			t.Errorf("link %v: %+v, %v", up, in.Live, err)
		}
		carrier := virsh(t, "domif-getlink", s.Name, s.NIC.Tap)
		if strings.Contains(carrier, "up") != up {
			t.Errorf("link %v: %s", up, carrier)
		}
	}
}

// TestRestorable: a domain that runs with other devices than it is defined with would not come back from its RAM, and
// that is said before it is saved.
func TestRestorable(t *testing.T) {
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-restorable", nil)
	wantErr(t, "not defined", h.Restorable(ctx, s.ID), domain.ErrNotFound)
	running(t, h, s)
	noErr(t, "as it runs", h.Restorable(ctx, s.ID))
	s.VNC.Password, s.Labels = "changed", map[string]string{"user": "bob"}
	noErr(t, "define", h.Define(ctx, s))
	noErr(t, "with what a restore may change", h.Restorable(ctx, s.ID))
	s.VCPUs++
	noErr(t, "define", h.Define(ctx, s))
	wantErr(t, "with another machine", h.Restorable(ctx, s.ID), domain.ErrConflict)
}

// TestRestoreAfterRestarts: libvirtd is another one when the domain is saved, and again when it is restored.
func TestRestoreAfterRestarts(t *testing.T) {
	h, ctx := open(t), t.Context()
	restart := func() {
		libvirtd := libvirtdPid(t)
		testhost.KillLibvirtd(t)
		reaped(t, libvirtd)
		testhost.StartLibvirtd(t)
		awaitEverything(t, h)
	}
	s := newSpec(t, h, "cap-again", idle)
	running(t, h, s)
	restart()
	cp := newCleanPoint(t, s)
	noErr(t, "checkpoint", h.Checkpoint(ctx, s.ID, cp))
	noErr(t, "attach", h.Attach(ctx, s.ID, newVolume(t, s, "data")))
	restart()
	noErr(t, "checkpoint again", h.Checkpoint(ctx, s.ID, cp))
	if in, err := h.Inspect(ctx, s.ID); err != nil || len(in.Live.Foreign) > 0 || len(in.Live.Disks) != 2 || in.Live.Disks[0].Path != cp.Overlay {
		t.Errorf("%+v, %v", in.Live, err)
	}
	noErr(t, "destroy", h.Destroy(ctx, s.ID))
	noErr(t, "restore", h.Restore(ctx, s, cp.RAM))
	noErr(t, "resume", h.Resume(ctx, s.ID))
	if in, err := h.Inspect(ctx, s.ID); err != nil || len(in.Live.Foreign) > 0 || len(in.Live.Disks) != 1 || in.Live.Disks[0].Path != cp.Disk {
		t.Errorf("%+v, %v", in.Live, err)
	}
}

// whenever runs act as soon as is.
func whenever(t *testing.T, what string, is func() bool, act func()) {
	t.Helper()
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		if is() {
			act()
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func hasBytes(path string) func() bool {
	return func() bool {
		fi, err := os.Stat(path)
		return err == nil && fi.Size() > 0
	}
}

// loads reports whether a domain's process is QEMU that waits for its RAM.
func loads(name string) func() bool {
	return func() bool {
		pid, err := os.ReadFile("/run/libvirt/qemu/" + name + ".pid")
		if err != nil {
			return false
		}
		args, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/cmdline")
		return err == nil && strings.HasPrefix(string(args), "/usr/bin/qemu-system") && strings.Contains(string(args), "\x00-incoming\x00")
	}
}

// TestRestoreInterrupted: QEMU or libvirtd dies while the RAM is loaded; the next attempt, from a domain that is
// destroyed first, works.
func TestRestoreInterrupted(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, pid int) error{
		"qemu": func(t *testing.T, pid int) error {
			noErr(t, "kill", syscall.Kill(pid, syscall.SIGKILL))
			return domain.ErrUnusable
		},
		"libvirtd": func(t *testing.T, pid int) error {
			libvirtd := libvirtdPid(t)
			testhost.KillLibvirtd(t)
			reaped(t, libvirtd)
			noErr(t, "continue", syscall.Kill(pid, syscall.SIGCONT))
			testhost.StartLibvirtd(t)
			return domain.ErrUnavailable
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, ctx := open(t), t.Context()
			s, cp := saved(t, h, "cap-broken")
			done := make(chan error, 1)
			go func() { done <- h.Restore(ctx, s, cp.RAM) }()
			var want error
			whenever(t, "QEMU loads", loads(s.Name), func() {
				pid := qemuPid(t, s.Name)
				noErr(t, "stop", syscall.Kill(pid, syscall.SIGSTOP))
				want = end(t, pid)
			})
			err := <-done
			wantErr(t, "restore", err, want)
			t.Log(err)
			if name == "libvirtd" {
				awaitEverything(t, h)
			}
			if now := state(t, h, s.ID); now == domain.Running {
				t.Error("it runs")
			} else {
				t.Logf("left in state %v", now)
			}
			noErr(t, "destroy", h.Destroy(ctx, s.ID))
			noErr(t, "restore", h.Restore(ctx, s, cp.RAM))
			isState(t, h, "restored", s.ID, domain.Paused)
		})
	}
}

// lockFile locks an image as QEMU locks what it writes to.
func lockFile(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	noErr(t, "open", err)
	t.Cleanup(func() { f.Close() })
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: 201, Len: 1}
	noErr(t, "lock", unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock))
}
