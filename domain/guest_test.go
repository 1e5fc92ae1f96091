package domain_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/internal/testhost"
	"golang.org/x/sys/unix"
)

// inode is what libvirt might change on a file.
type inode struct {
	mode     fs.FileMode
	uid, gid uint32
	xattrs   string
}

func inodeOf(t *testing.T, path string) inode {
	t.Helper()
	fi, err := os.Stat(path)
	noErr(t, "stat", err)
	st := fi.Sys().(*syscall.Stat_t)
	buf := make([]byte, 4096)
	n, err := unix.Listxattr(path, buf)
	if err != nil && err != unix.EOPNOTSUPP {
		t.Fatal(err)
	}
	return inode{fi.Mode(), st.Uid, st.Gid, string(buf[:max(n, 0)])}
}

// agentConnected reports what libvirt knows of the guest's agent.
func agentConnected(t *testing.T, name string) bool {
	return strings.Contains(virsh(t, "dumpxml", name), "name='org.qemu.guest_agent.0' state='connected'")
}

// TestGuest boots the real guest from an overlay whose base is read-only and another's, and asks it to shut down.
func TestGuest(t *testing.T) {
	image := testhost.Guest(t)
	h, ctx := open(t), t.Context()
	s := newSpec(t, h, "cap-guest", nil)
	dir := filepath.Dir(s.Disks[0].Path)
	base, overlay := filepath.Join(dir, "base.raw"), filepath.Join(dir, "root.qcow2")
	sh(t, "cp", "--sparse=always", image.Raw, base)
	noErr(t, "chmod", os.Chmod(base, 0o444))
	noErr(t, "link", os.Link(base, filepath.Join(dir, "image.raw"))) // the inode is shared
	sh(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay)
	s.Disks = []domain.Disk{{Path: overlay, Format: "qcow2", Serial: "root", Backing: &domain.BackingFile{Path: base, Format: "raw"}}}
	s.MemoryBytes = 256 << 20
	before := inodeOf(t, base)

	noErr(t, "network", h.EnsureNetwork(ctx, capsNet))
	noErr(t, "lease", h.PutLease(ctx, capsNet.Name, domain.Lease{MAC: s.NIC.MAC, IP: capsNet.Gateway().Next(), Name: "guest"}))
	t.Cleanup(func() {
		virsh(t, "net-update", capsNet.Name, "delete", "ip-dhcp-host", "<host ip='192.168.53.2'/>", "--live", "--config")
	})
	for _, row := range []struct {
		name  string
		ready func(domain.Observed) bool // who can hear a request
	}{
		{"agent", func(domain.Observed) bool { return agentConnected(t, s.Name) }},
		{"power button while booting", func(domain.Observed) bool { return true }},
	} {
		t.Run(row.name, func(t *testing.T) {
			running(t, h, s)
			await(t, h, s.ID, row.ready)
			if after := inodeOf(t, base); after != before {
				t.Errorf("libvirt changed the base: %+v, was %+v", after, before)
			}
			if top := inodeOf(t, overlay); top.uid == before.uid {
				t.Errorf("the overlay belongs to %d: the check of the base proves nothing", top.uid)
			}
			noErr(t, "shutdown", h.Shutdown(ctx, s.ID, patience))
			if o, err := h.ObserveOne(ctx, s.ID); err != nil || o.Reason != domain.ReasonShutdown {
				t.Errorf("%+v, %v", o, err)
			}
			if after := inodeOf(t, base); after != before {
				t.Errorf("libvirt changed the base afterwards: %+v, was %+v", after, before)
			}
		})
	}
	log, err := os.ReadFile(s.SerialLog)
	noErr(t, "serial log", err)
	if !bytes.Contains(log, []byte("CAPSULE-READY")) {
		t.Errorf("the guest's console is not in the log:\n%s", log[max(0, len(log)-2000):])
	}
	if left := sh(t, "ip", "-br", "link"); strings.Contains(left, s.NIC.Tap) {
		t.Errorf("the tap is still there:\n%s", left)
	}
}

// TestSerialLogIsCapped: a guest that prints without end has its log rolled over, and the oldest part dropped.
func TestSerialLogIsCapped(t *testing.T) {
	const maxSize, maxBackups = 2 << 20, 3 // virtlogd's defaults
	h := open(t)
	s := newSpec(t, h, "cap-chatty", chatters)
	running(t, h, s)
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	noErr(t, "inotify", err)
	defer unix.Close(watch)
	dir := filepath.Dir(s.SerialLog)
	_, err = unix.InotifyAddWatch(watch, dir, unix.IN_MOVED_TO)
	noErr(t, "watch", err)
	buf := make([]byte, 64<<10)
	for rolled := 0; rolled <= maxBackups; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(watch), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		if n == 0 || err != nil && err != unix.EINTR {
			t.Fatalf("rolled over %d times, then no more: %v", rolled, err)
		}
		if n, err = unix.Read(watch, buf); err == nil {
			rolled += bytes.Count(buf[:n], []byte("serial.log.0\x00"))
		}
	}
	noErr(t, "destroy", h.Destroy(t.Context(), s.ID))
	logs, err := filepath.Glob(s.SerialLog + "*")
	noErr(t, "glob", err)
	if len(logs) > 1+maxBackups {
		t.Errorf("the logs are %v", logs)
	}
	for _, log := range logs {
		fi, err := os.Stat(log)
		if err != nil || fi.Size() > maxSize || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %d bytes, %v, %v", log, fi.Size(), fi.Mode(), err)
		}
	}
}
