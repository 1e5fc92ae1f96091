package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/capsuled/capsuled/internal/rig"
	"github.com/google/go-cmp/cmp"
)

// What a guest leaves behind when it may, and must not when it was in secure mode. Each is written in pieces here, so
// that the test's own files do not hold it.
var (
	plainWord  = strings.Join([]string{"kept", "in", "maintenance"}, "x")
	secretWord = strings.Join([]string{"told", "in", "secure"}, "x")
)

// looks is what a guest sees of its machine.
type looks map[string][]string

// look lists the guest's ports, disks and devices.
func look(t *testing.T, domain string) looks {
	t.Helper()
	said := inGuest(t, domain)(run{"look", `
ports  list path=/dev/virtio-ports
disks  list path=/sys/block
pci    list path=/sys/bus/pci/devices
usb    list path=/sys/bus/usb/devices
tpm    list path=/sys/class/tpm
sound  list path=/sys/class/sound
vsock  list path=/sys/bus/virtio/drivers/vmw_vsock_virtio_transport
shares list path=/sys/bus/virtio/drivers/virtiofs
nine   list path=/sys/bus/virtio/drivers/9pnet_virtio
`})
	seen := looks{}
	for what, list := range said {
		seen[what] = nil
		if entries, ok := strings.CutPrefix(list, "entries"); ok {
			seen[what] = strings.Fields(entries)
		}
	}
	return seen
}

// maintenance looks around in the first capsule, and leaves marks that must outlive secure mode.
func (s *siege) maintenance() {
	t := s.host.t
	s.looks = look(t, domain(s.a))
	if diff := cmp.Diff([]string{"vda"}, s.looks["disks"]); diff != "" {
		t.Errorf("row 22: disks in maintenance mode: %s", diff)
	}
	leave(t, domain(s.a), plainWord)
}

// leave has a guest write a word to its disk and its console, and keep it in memory.
func leave(t *testing.T, domain, word string, more ...string) {
	t.Helper()
	guestStart(t, domain, "memory hold\n", probePath, "-mark", word)
	var script strings.Builder
	for i, path := range append([]string{"/root/" + word, "/dev/ttyS0"}, more...) {
		fmt.Fprintf(&script, "file%d write path=%s\n", i, path)
	}
	for _, what := range inGuest(t, domain)(run{word, script.String()}) {
		if what != "written 1" {
			t.Fatalf("a word was not written: %s", what)
		}
	}
}

// foreignDevices are words of a domain's definition that stand for ways around the network (rows 14 and 18 to 20).
var foreignDevices = regexp.MustCompile(`<(hostdev|filesystem|shmem|redirdev|smartcard|sound|tpm|vsock|watchdog|hub|iommu|nvram|parallel)\b|spicevmc|qemu-vdagent|spiceport|type='spice'|device='cdrom'|<audio id='1' type='(pa|alsa|spice|oss|file)'|name='(com\.|org\.spice)`)

// machine compares what the guest and libvirt show of the machine in secure mode with maintenance mode.
func (s *siege) machine(t *testing.T) {
	now, xml := look(t, domain(s.a)), virsh(t, "dumpxml", domain(s.a))
	t.Run("row 14, 18: no channel but the agent's", func(t *testing.T) {
		if diff := cmp.Diff([]string{"org.qemu.guest_agent.0"}, now["ports"]); diff != "" {
			t.Errorf("ports (-want +got):\n%s", diff)
		}
		if n := strings.Count(xml, "<channel "); n != 1 {
			t.Errorf("%d channels", n)
		}
	})
	t.Run("row 19, 20: no device but the two volumes", func(t *testing.T) {
		want := looks{}
		for what, list := range s.looks {
			want[what] = slices.Clone(list)
		}
		want["disks"] = []string{"vda", "vdb", "vdc"}
		delete(want, "pci")
		if extra := len(now["pci"]) - len(s.looks["pci"]); extra != 2 {
			t.Errorf("%d more PCI devices, want 2: %v, were %v", extra, now["pci"], s.looks["pci"])
		}
		delete(now, "pci")
		if diff := cmp.Diff(want, now); diff != "" {
			t.Errorf("what the guest sees (-want +got):\n%s", diff)
		}
		if found := foreignDevices.FindString(xml); found != "" {
			t.Errorf("the domain has %s", found)
		}
	})
	t.Run("row 25, 26: memory is the capsule's own", func(t *testing.T) {
		for _, want := range []string{"dumpCore='off'", "<nosharepages/>"} {
			if !strings.Contains(xml, want) {
				t.Errorf("no %s", want)
			}
		}
		if info := virsh(t, "dominfo", domain(s.a)); !regexp.MustCompile(`Managed save: +no`).MatchString(info) {
			t.Error(info)
		}
		if list := virsh(t, "snapshot-list", "--name", domain(s.a)); list != "" {
			t.Errorf("row 24: snapshots: %s", list)
		}
	})
	s.strange(t)
}

// strange shows, with the neighbour, that these looks find what they look for.
func (s *siege) strange(t *testing.T) {
	t.Helper()
	device := t.TempDir() + "/device.xml"
	doc := `<channel type='null'><target type='virtio' name='com.example.0'/></channel>`
	if err := os.WriteFile(device, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	virsh(t, "attach-device", domain(s.b), device)
	defer virsh(t, "detach-device", domain(s.b), device)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if ports := look(t, domain(s.b))["ports"]; !slices.Contains(ports, "com.example.0") {
			return fmt.Errorf("a channel that was added is not seen by the guest: %v", ports)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if !foreignDevices.MatchString(virsh(t, "dumpxml", domain(s.b))) {
		t.Error("a channel that was added is not seen in the definition")
	}
}

// secrets has the guest leave a word wherever it can in secure mode, and looks for it outside.
func (s *siege) secrets(t *testing.T) {
	s.machine(t)
	leave(t, domain(s.a), secretWord, "/media/secure_volume/kept", "/media/release_spool/kept")
	must(guestExec(t, domain(s.a), "", "/bin/busybox", "sync"))(t)
	must(guestExec(t, domain(s.a), "", "/bin/busybox", "hostname", secretWord))(t)
	for _, moved := range []string{"", ".0"} { // what QEMU prints of its guest's choice, and what virtlogd has moved aside
		logLine(t, domainLog(s.a)+moved, secretWord)
	}
	found := s.holders(t, secretWord)
	t.Run("row 22, 23: what is written is on the volumes, the overlay, the console's log and libvirt's", func(t *testing.T) {
		for _, want := range []string{"overlay.qcow2", "secure_volume", "release_spool", "serial.log", domainLog(s.a), domainLog(s.a) + ".0"} {
			if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, want) }) {
				t.Errorf("the word is not in %s, but in %v: the look for it proves nothing", want, found)
			}
		}
	})
	t.Run("row 25: the RAM file is that of the clean point", func(t *testing.T) {
		if kept := s.holders(t, plainWord); !slices.ContainsFunc(kept, func(f string) bool { return strings.HasSuffix(f, "clean.ram") }) {
			t.Errorf("the RAM file lacks a word of before: %v", kept)
		}
		for _, f := range found {
			if strings.HasSuffix(f, "clean.ram") {
				t.Errorf("it holds a word of secure mode")
			}
		}
		if !inMemory(t, qemu(t, s.a), secretWord) {
			t.Error("the word is not in the guest's memory: the look for it proves nothing")
		}
	})
	t.Run("row 17: the serial log", func(t *testing.T) {
		info, err := os.Stat(filepath.Join(s.dir, "capsules", s.a, "serial.log"))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may read it: %v, %v", info.Mode(), err)
		}
	})
	t.Run("row 37: names that the guest chooses", func(t *testing.T) {
		var name struct {
			HostName string `json:"host-name"`
		}
		if agent(t, domain(s.a), "guest-get-host-name", map[string]string{}, &name); name.HostName != secretWord {
			t.Fatalf("the guest calls itself %q", name.HostName)
		}
		for _, path := range []string{"/metrics", "/v1/operations", "/v1/capsules", "/v1/capsules/" + s.a, "/v1/capsules/" + s.a + "/proof", "/v1/capsules/" + s.a + "/records"} {
			status, body, err := s.Get(t.Context(), path)
			if err != nil || status != 200 {
				t.Errorf("%s: status %d, %v", path, status, err)
			}
			if strings.Contains(body, secretWord) {
				t.Errorf("%s holds the name", path)
			}
		}
		if strings.Contains(s.log.String(), secretWord) {
			t.Error("the daemon's log holds the name")
		}
	})
}

// domainLog is where libvirt logs what QEMU prints.
func domainLog(id string) string { return "/var/log/libvirt/qemu/" + domain(id) + ".log" }

// logLine adds a line to a log.
func logLine(t *testing.T, path, line string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(f, line); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// holders are the files of the host that hold a word, below the directories that capsuled and libvirt write to.
func (s *siege) holders(t *testing.T, word string) []string {
	t.Helper()
	dirs := []string{s.dir, "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/run/libvirt"}
	out, err := exec.CommandContext(t.Context(), "grep", append([]string{"-r", "-l", "-a", "-F", "-s", "--devices=skip", "-e", word}, dirs...)...).Output()
	if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() > 1 && len(out) == 0) { // 1: none
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// inMemory says whether a process has a word in memory that it may write to.
func inMemory(t *testing.T, pid int, word string) bool {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = memory.Close() }()
	buffer := make([]byte, 1<<20)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		for at := from; at < to; at += int64(len(buffer)) {
			n, err := memory.ReadAt(buffer[:min(int64(len(buffer)), to-at)], at)
			if bytes.Contains(buffer[:n], []byte(word)) {
				return true
			}
			if err != nil && err != io.EOF {
				break // not readable, such as a device's memory
			}
		}
	}
	return false
}

// rebooted resets the machine in secure mode, and attacks again (row 12).
func (s *siege) rebooted(t *testing.T) {
	boots := func() string {
		return must(guestExec(t, domain(s.a), "", "/bin/busybox", "cat", "/proc/sys/kernel/random/boot_id"))(t)
	}
	before := boots()
	virsh(t, "reset", domain(s.a))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Until(ctx, func() error {
		if boots() == before {
			return fmt.Errorf("the guest has not booted again")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	f := s.field()
	for _, args := range []string{"addr add {self}/24 dev eth0", "route add default via {gw}"} { // there is no DHCP
		words := strings.Fields(f.names.Replace(args))
		must(guestExec(t, domain(s.a), "", append([]string{"/bin/busybox", "ip"}, words...)...))(t)
	}
	s.runDown(t, "secure, rebooted", f)
	s.still(t, "secure")
}

// forgotten leaves secure mode and looks for what was left there; and then deletes the capsule.
func (s *siege) forgotten(t *testing.T) {
	t.Helper()
	// A guest that will not let go of a volume is not asked (row 32).
	guestStart(t, domain(s.a), "", "/bin/busybox", "sh", "-c", "cd /media/secure_volume; exec 9>busy; exec sleep 100000")
	first := genid(t, s.a)
	s.switchTo("maintenance")
	t.Run("row 22: no volume in maintenance mode", func(t *testing.T) {
		if now := look(t, domain(s.a)); !cmp.Equal(s.looks, now) {
			t.Errorf("the machine is not as it was: %s", cmp.Diff(s.looks, now))
		}
	})
	t.Run("row 23, 24: nothing is left but on the volumes", func(t *testing.T) {
		for _, f := range s.holders(t, secretWord) {
			if !strings.Contains(f, "secure_volume") && !strings.Contains(f, "release_spool") {
				t.Errorf("%s holds a word of secure mode", f)
			}
		}
		files := must(guestExec(t, domain(s.a), "", "/bin/busybox", "ls", "/root"))(t)
		if strings.Contains(files, secretWord) || !strings.Contains(files, plainWord) {
			t.Errorf("the guest has the files %s", files)
		}
	})
	t.Run("row 25: memory is that of the clean point", func(t *testing.T) {
		pid := qemu(t, s.a)
		if inMemory(t, pid, secretWord) {
			t.Error("it holds a word of secure mode")
		}
		if !inMemory(t, pid, plainWord) {
			t.Error("it lacks a word of before")
		}
	})
	t.Run("row 38: a generation of its own", func(t *testing.T) {
		if now := genid(t, s.a); now == first || now == genid(t, s.b) {
			t.Errorf("generation id %s after the return, %s before, %s the neighbour's", now, first, genid(t, s.b))
		}
		alike := func(id string) string {
			return must(guestExec(t, domain(id), "", "/bin/busybox", "cat", "/etc/machine-id", "/etc/dropbear/host_ed25519"))(t)
		}
		if alike(s.a) == alike(s.b) {
			t.Error("two clones have one identity")
		}
	})
	s.switchTo("secure")
	t.Run("row 22: the volume keeps what is on it", func(t *testing.T) {
		kept := must(guestExec(t, domain(s.a), "", "/bin/busybox", "cat", "/media/secure_volume/kept"))(t)
		if !strings.Contains(kept, secretWord) {
			t.Errorf("it holds %q", kept)
		}
	})
	t.Run("row 28: deleted is destroyed", func(t *testing.T) {
		s.ctl("delete", "--yes", "--wait", s.a)
		if found := s.holders(t, secretWord); len(found) > 0 {
			t.Errorf("files with a word of the capsule: %v", found)
		}
		if left, err := filepath.Glob(domainLog(s.a) + "*"); err != nil || len(left) > 0 {
			t.Errorf("libvirt's logs of the capsule: %v, %v", left, err)
		}
	})
}

func genid(t *testing.T, id string) string {
	t.Helper()
	m := regexp.MustCompile(`<genid>(.*)</genid>`).FindStringSubmatch(virsh(t, "dumpxml", domain(id)))
	if m == nil {
		t.Fatal("no generation id")
	}
	return m[1]
}
