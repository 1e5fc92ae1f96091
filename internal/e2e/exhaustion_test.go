package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capsuled/capsuled/api/wire"
	"github.com/capsuled/capsuled/internal/testhost"
)

// failsToLaunch launches a capsule for which the host has no room: the operation says so, the capsule says why it is in
// ERROR, nothing runs, and stopvm makes it SHUTDOWN again.
func (h *host) failsToLaunch(t *testing.T, id string, words ...string) {
	t.Helper()
	h.complaint(t, 8, append(words, "exhausted"), "launch", "--wait", id)
	if op := h.operations(t)[0]; op.Kind != "launch" || op.State != "failed" || op.Code != "exhausted" {
		t.Errorf("operation: %+v", op)
	}
	st := h.status(id)
	if st.State != "ERROR" || st.Mode != "NOT_DEFINED" || st.Observed != "off" || st.Cause == nil || qemu(t, id) != 0 || strings.Contains(ruleset(t), "cap-"+id[:8]) {
		t.Fatalf("after a launch without room: %+v", st)
	}
	for _, w := range words {
		if !strings.Contains(*st.Cause, w) {
			t.Errorf("the cause does not say %q: %s", w, *st.Cause)
		}
	}
	h.ctl("stop", "--wait", id)
	if st := h.status(id); st.State != "SHUTDOWN" || st.Cause != nil {
		t.Errorf("after the repair: %+v", st)
	}
}

// TestNoPort has three ports, one of them held by another program: that leaves one pair.
func TestNoPort(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:16001")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	h := startHost(t, `network.ports = "16000-16002"`)
	o := one{h, h.image()}
	id := h.capsule(o.image)
	if st := h.status(id); st.SSHPort != 16000 || st.VNCPort != 16002 {
		t.Errorf("with 16001 taken it got %d and %d", st.SSHPort, st.VNCPort)
	}
	refused(t, o.post(as(t, "alice"), "/createvm", o.form()), 500, "exhausted", "ports left")
	h.complaint(t, 6, []string{"ports left"}, "create", "--image", o.image)
	if list := h.ctl("list", "--json"); !slices.Equal(vmids(list), []string{id}) {
		t.Errorf("left behind: %s", list)
	}
	if err := other.Close(); err != nil { // three ports are still one pair
		t.Fatal(err)
	}
	refused(t, o.post(as(t, "alice"), "/createvm", o.form()), 500, "exhausted", "ports left")

	console, err := net.Listen("tcp", "127.0.0.1:16002")
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	h.failsToLaunch(t, id, "port 16002")
	if err := console.Close(); err != nil {
		t.Fatal(err)
	}
	h.ctl("launch", "--wait", id)
	h.ctl("delete", "--yes", "--wait", id)
	o.wait(o.post(as(t, "alice"), "/createvm", o.form()))
}

// TestNoAddress changes a host without capsules to a network of five addresses, and asks for more.
func TestNoAddress(t *testing.T) {
	before := startHost(t)
	if err := before.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the daemon below has ended
		for _, verb := range []string{"net-destroy", "net-undefine"} {
			if out, err := exec.Command("virsh", "-q", "-c", "qemu:///system", verb, "few").CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", verb, err, out)
			}
		}
	})
	h := newHost(t, before.dir, `network.name = "few"`, `network.bridge = "fewbr0"`, `network.subnet = "192.168.77.0/29"`)
	h.start()
	o := one{h, h.image()}
	got := o.atOnce(t, 8, "/createvm", o.form())
	if len(got[""]) != 5 || len(got["exhausted"]) != 3 {
		t.Fatalf("of 8 createvm with 5 addresses: %d, and %d exhausted", len(got[""]), len(got["exhausted"]))
	}
	for _, a := range got[""] {
		o.wait(a)
	}
	refused(t, got["exhausted"][0], 500, "exhausted", "address left in 192.168.77.0/29")
	leases := virsh(t, "net-dumpxml", "few")
	for last := 2; last <= 6; last++ {
		if strings.Count(leases, fmt.Sprintf("ip='192.168.77.%d'", last)) != 1 {
			t.Errorf("192.168.77.%d is not leased once: %s", last, leases)
		}
	}
	if ids := vmids(h.ctl("list", "--json")); len(ids) != 5 {
		t.Errorf("left behind: %v", ids)
	}
	last := vmid(t, got[""][4])
	h.ctl("launch", "--wait", last)
	h.ctl("delete", "--yes", "--wait", last)
	o.wait(o.post(as(t, "alice"), "/createvm", o.form()))
	refused(t, o.post(as(t, "alice"), "/createvm", o.form()), 500, "exhausted", "address")
}

// meminfo reads one line of the kernel's account, in MB.
func meminfo(t *testing.T, name string) int {
	t.Helper()
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kb int
		if _, err := fmt.Sscanf(s.Text(), name+": %d kB", &kb); err == nil {
			return kb >> 10
		}
	}
	t.Fatal("no ", name)
	return 0
}

// TestNoMemory asks for more memory than the host has, than it has left, and than it has left beside what it promised.
func TestNoMemory(t *testing.T) {
	h := startHost(t, "quota.memory_mb = 16777216")
	o := one{h, h.image()}
	total := meminfo(t, "MemTotal")
	for _, mb := range []int{total, total + 1, 4 << 20} {
		refused(t, o.post(as(t, "alice"), "/createvm", o.form("memory", fmt.Sprint(mb))), 500, "exhausted", "memory")
	}
	h.complaint(t, 6, []string{"memory"}, "create", "--image", o.image, "--memory", fmt.Sprint(total))
	if ids := vmids(h.ctl("list", "--json")); len(ids) > 0 {
		t.Errorf("left behind: %v", ids)
	}
	most := h.ctl("create", "--image", o.image, "--wait", "--memory", fmt.Sprint(total-128)) // fits, were there nothing else
	h.failsToLaunch(t, most, "memory")
	h.ctl("delete", "--yes", "--wait", most)

	// QEMU takes memory when the guest first touches it, so that what a running capsule was promised still looks free.
	large := fmt.Sprint(meminfo(t, "MemAvailable") * 3 / 4)
	first := h.ctl("create", "--image", o.image, "--wait", "--memory", large)
	second := h.ctl("create", "--image", o.image, "--wait", "--memory", large)
	h.ctl("launch", "--wait", first)
	h.failsToLaunch(t, second, "memory")
	h.ctl("delete", "--yes", "--wait", first)
	h.ctl("launch", "--wait", second)
}

// smallDisk is a state directory on a disk of its own, which QEMU's user can reach.
func smallDisk(t *testing.T, bytes int64) string {
	t.Helper()
	disk, dir := testhost.LoopFS(t, "ext4", bytes), newStateDir(t)
	if err := errors.Join(os.Mkdir(dir, 0o711), unix.Mount(disk, dir, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill takes all but left bytes of a disk, to the last block if that is 0, until the returned function is called.
func fill(t *testing.T, dir string, left int64) (free func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	at := int64(0)
	for chunk := int64(st.Bfree)*st.Bsize - left; chunk >= st.Bsize; {
		err := unix.Fallocate(int(f.Fd()), 0, at, chunk)
		switch {
		case err == nil && left > 0:
			return func() { dropFiller(t, f) }
		case err == nil:
			at += chunk
		case errors.Is(err, syscall.ENOSPC):
			chunk /= 2
		default:
			t.Fatal(err)
		}
	}
	return func() { dropFiller(t, f) }
}

func dropFiller(t *testing.T, f *os.File) {
	t.Helper()
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		t.Fatal(err)
	}
}

// TestNoDisk fills the disk of the state directory, to below the reserve and to the brim, and makes room again.
func TestNoDisk(t *testing.T) {
	for _, row := range []struct {
		name, reserve string
		left          int64
		exit          int    // of image add: 8 when its operation fails, 6 when not even the request finds room
		code          string // of createvm
	}{
		{"below the reserve", "1", 512 << 20, 8, "exhausted"},
		{"room for a clone alone", "0", 40 << 20, 8, ""}, // ext4 keeps 16 MiB of it to itself
		{"full", "0", 0, 6, "exhausted"},                 // the records themselves cannot be written
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := smallDisk(t, 3<<30)
			h := newHost(t, dir, "capsule.disk_reserve_gb = "+row.reserve, `network.ports = "16000-16003"`, "quota.cpus = 1", "quota.memory_mb = 256", "quota.disk_gb = 1")
			h.start()
			o := one{h, h.image()}
			mine := h.capsule(o.image) // out of root's own quota
			room := fill(t, dir, row.left)
			h.complaint(t, row.exit, []string{"exhausted", "disk"}, "image", "add", "--name", "other", h.guest.Raw)
			a := o.post(as(t, "alice"), "/createvm", o.form())
			if row.code != "" {
				refused(t, a, 500, row.code, "disk")
			} else {
				o.wait(a)
				o.wait(o.post(as(t, "alice"), "/deletevm", url.Values{"vmid": {vmid(t, a)}}))
			}
			if ids := vmids(h.ctl("list", "--json")); !slices.Equal(ids, []string{mine}) || h.status(mine).State != "SHUTDOWN" {
				t.Errorf("without room: %v", ids)
			}
			h.onlyImage(t, o.image)
			room()
			o.wait(o.post(as(t, "alice"), "/createvm", o.form()))
			h.ctl("image", "delete", "--yes", "--wait", h.ctl("image", "add", "--name", "other", h.guest.Raw))
			h.ctl("launch", "--wait", mine)
			for _, id := range vmids(h.ctl("list", "--json")) {
				h.ctl("delete", "--yes", "--wait", id)
			}
			h.onlyImage(t, o.image)
			if slices.ContainsFunc(h.operations(t), func(op wire.Operation) bool { return op.State == "running" }) {
				t.Errorf("still under way: %+v", h.operations(t))
			}
		})
	}
}
