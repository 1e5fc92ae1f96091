package domain_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/internal/testhost"
	"github.com/google/uuid"
)

func TestMain(m *testing.M) { testhost.Main(m, testhost.WithLibvirt()) }

// patience bounds what must happen; nothing is measured by it.
const patience = 2 * time.Minute

// capsNet is the network of all tests.
var capsNet = domain.Network{Name: "capsules", Bridge: "capsbr0", Subnet: netip.MustParsePrefix("192.168.53.0/24")}

// open connects to the host's libvirt and waits for the connection.
func open(t *testing.T, change ...func(*domain.Options)) *domain.Host {
	t.Helper()
	opt := domain.Options{Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&opt)
	}
	h, err := domain.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	awaitEverything(t, h)
	return h
}

// awaitEverything waits for the event that comes after each connect.
func awaitEverything(t *testing.T, h *domain.Host) {
	t.Helper()
	awaitEvent(t, h, func(e domain.Event) bool { return e.ID == "" })
	if err := h.Connected(); err != nil {
		t.Fatal(err)
	}
}

func awaitEvent(t *testing.T, h *domain.Host, is func(domain.Event) bool) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case e := <-h.Events():
			if is(e) {
				return
			}
		case <-limit:
			t.Fatal("the event did not come")
		}
	}
}

// await observes the domain at once and after each of its events until it is as wanted.
func await(t *testing.T, h *domain.Host, id domain.ID, is func(domain.Observed) bool) domain.Observed {
	t.Helper()
	limit := time.After(patience)
	for {
		o, err := h.ObserveOne(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if is(o) {
			return o
		}
		select {
		case <-h.Events():
		case <-limit:
			t.Fatalf("still %+v", o)
		}
	}
}

func isOff(o domain.Observed) bool { return o.State == domain.Off }

// newSpec describes a domain that boots the given sector, and removes the domain when the test ends.
func newSpec(t *testing.T, h *domain.Host, name string, sector []byte) domain.Spec {
	t.Helper()
	dir := diskDir(t)
	disk := filepath.Join(dir, "disk.raw")
	image := make([]byte, 1<<20)
	copy(image, sector)
	image[510], image[511] = 0x55, 0xAA
	if err := os.WriteFile(disk, image, 0o600); err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	s := domain.Spec{
		ID: domain.ID(id.String()), Name: name, Record: "record of " + name,
		Labels:      map[string]string{"user": "alice", "project": "hathi", "flavor": "small"},
		VCPUs:       1,
		MemoryBytes: 64 << 20,
		Disks:       []domain.Disk{{Path: disk, Format: "raw", Serial: "root"}},
		NIC:         domain.NIC{Network: capsNet.Name, Tap: name, MAC: net.HardwareAddr{0x52, 0x54, 0, id[0], id[1], id[2]}},
		VNC:         domain.VNC{Listen: netip.MustParseAddr("127.0.0.1"), Port: freePort(), Password: "pa'<&\"ss"},
		SerialLog:   filepath.Join(dir, "serial.log"), GenerationID: uuid.NewString(),
	}
	remove(t, h, s.ID)
	return s
}

// diskDir is a directory that QEMU's user can reach.
func diskDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib/capsuled", "test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func remove(t *testing.T, h *domain.Host, id domain.ID) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := h.Destroy(ctx, id); err != nil {
			t.Error(err)
		}
		if err := h.Undefine(ctx, id); err != nil {
			t.Error(err)
		}
	})
}

// running defines and starts a domain on the network.
func running(t *testing.T, h *domain.Host, s domain.Spec) {
	t.Helper()
	if err := h.EnsureNetwork(t.Context(), capsNet); err != nil {
		t.Fatal(err)
	}
	if err := h.Define(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
}

// lastPort is the last VNC port that a test got: tests run one after the other, in a network of their own.
var lastPort = 15900

func freePort() int {
	lastPort++
	return lastPort
}

// sh runs a command and gives its output.
func sh(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience) // not t.Context: clean-ups call it too
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func virsh(t *testing.T, args ...string) string {
	t.Helper()
	return sh(t, append([]string{"virsh", "-q", "-c", "qemu:///system"}, args...)...)
}

// qemuPid is the process of a running domain.
func qemuPid(t *testing.T, name string) int {
	t.Helper()
	var pid int
	b, err := os.ReadFile("/run/libvirt/qemu/" + name + ".pid")
	if err == nil {
		_, err = fmt.Sscan(string(b), &pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// Boot sectors: whole guests of a few bytes. The BIOS runs them in 16-bit mode at 0000:7C00.
var (
	// idle hears nothing: cli; hlt; jmp -4
	idle = []byte{0xFA, 0xF4, 0xEB, 0xFC}
	// powersOff writes SLP_EN to PM1a_CNT: mov dx,604h; mov ax,2000h; out dx,ax; hlt; jmp -3
	powersOff = []byte{0xBA, 0x04, 0x06, 0xB8, 0x00, 0x20, 0xEF, 0xF4, 0xEB, 0xFD}
	// obeys waits for the power button, then powers off: cli; mov dx,602h; mov ax,100h; out dx,ax (PM1_EN);
	// mov dx,600h; again: in ax,dx; test ah,1; jz again
	obeys = append([]byte{0xFA, 0xBA, 0x02, 0x06, 0xB8, 0x00, 0x01, 0xEF, 0xBA, 0x00, 0x06, 0xED, 0xF6, 0xC4, 0x01, 0x74, 0xFA}, powersOff...)
	// panics writes "panicked" to pvpanic: mov dx,505h; mov al,1; out dx,al; hlt; jmp -3
	panics = []byte{0xBA, 0x05, 0x05, 0xB0, 0x01, 0xEE, 0xF4, 0xEB, 0xFD}
	// chatters writes to the first serial port without end: mov dx,3F8h; mov al,'A'; out dx,al; jmp -3
	chatters = []byte{0xBA, 0xF8, 0x03, 0xB0, 'A', 0xEE, 0xEB, 0xFD}
	// fills writes 32 KiB of BIOS ROM to ever further sectors: xor ax,ax; mov ds,ax; again: mov si,packet;
	// mov dl,80h; mov ax,4300h; int 13h; add word [packet+8],64; jmp again; packet: size 16, 64 sectors, from F000:0000, to LBA 64
	fills = []byte{0x31, 0xC0, 0x8E, 0xD8, 0xBE, 0x15, 0x7C, 0xB2, 0x80, 0xB8, 0x00, 0x43, 0xCD, 0x13, 0x83, 0x06, 0x1D, 0x7C, 0x40, 0xEB, 0xEF,
		0x10, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0xF0, 64, 0, 0, 0, 0, 0, 0, 0}
)

func libvirtdPid(t *testing.T) int {
	t.Helper()
	var pid int
	b, err := os.ReadFile("/run/libvirtd.pid")
	if err == nil {
		_, err = fmt.Sscan(string(b), &pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pid
}
