package testhost_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capsuled/capsuled/internal/testhost"
	"github.com/capsuled/capsuled/internal/testhost/guest"
)

const networkXML = `<network>
  <name>spike</name><forward mode='open'/><bridge name='spikebr0'/>
  <ip address='192.168.77.1' prefix='24'><dhcp><range start='192.168.77.2' end='192.168.77.9'/>
    <host mac='52:54:00:00:77:02' ip='192.168.77.2'/></dhcp></ip>
</network>`

const domainXML = `<domain type='qemu'>
  <name>spike</name><genid/><memory unit='MiB'>256</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
  <devices>
    <controller type='pci' model='pcie-root'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <disk type='file'><driver name='qemu' type='%s'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
    <interface type='network'><source network='spike'/><mac address='52:54:00:00:77:02'/><model type='virtio'/></interface>
    <serial type='unix'><source mode='bind' path='%s'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>`

func TestGuestBootsFromItsDisk(t *testing.T) {
	img := testhost.Guest(t)
	startNetwork(t)
	dir := testhost.DiskDir(t)
	for _, format := range []string{"qcow2", "raw"} {
		t.Run(format, func(t *testing.T) {
			from := map[string]string{"qcow2": img.Qcow2, "raw": img.Raw}[format]
			disk := filepath.Join(dir, "spike."+format)
			command(t, "cp", "--sparse=always", from, disk)
			serial := bootGuest(t, format, disk)
			for _, user := range []string{"root", "dcuser"} {
				if got := strings.TrimSpace(guestSSH(t, img.KeyPath, user, "whoami; pwd")); !strings.HasPrefix(got, user) {
					t.Errorf("as %s: %q", user, got)
				}
			}
			if got := virsh(t, "qemu-agent-command", "spike", `{"execute":"guest-ping"}`); !strings.Contains(got, "return") {
				t.Errorf("guest-ping: %s", got)
			}
			setsClock(t, img.KeyPath)
			takesFiles(t, img.KeyPath)
			mountsVolumes(t, img.KeyPath, dir)
			virsh(t, "shutdown", "spike", "--mode", "acpi")
			awaitLine(t, serial, "CAPSULE-DOWN")
			awaitStopped(t)
		})
	}
}

func startNetwork(t *testing.T) {
	t.Helper()
	virsh(t, "net-create", writeFile(t, "net.xml", networkXML))
	t.Cleanup(func() { virsh(t, "net-destroy", "spike") })
}

// setsClock sets the guest's clock through its agent, and has the agent take it from the hardware's again.
func setsClock(t *testing.T, key string) {
	t.Helper()
	const then = 2_000_000_000 // seconds, in 2033
	year := func() string { return strings.TrimSpace(guestSSH(t, key, "root", "date -u +%Y")) }
	now := year()
	virsh(t, "qemu-agent-command", "spike", fmt.Sprintf(`{"execute":"guest-set-time","arguments":{"time":%d}}`, then*int64(time.Second)))
	if got := year(); got != "2033" {
		t.Errorf("it is %s in the guest, want 2033", got)
	}
	virsh(t, "qemu-agent-command", "spike", fmt.Sprintf(`{"execute":"guest-set-time","arguments":{"time":%d}}`, time.Now().UnixNano()))
	guestSSH(t, key, "root", "date -u -s @2000000000")
	virsh(t, "qemu-agent-command", "spike", `{"execute":"guest-set-time"}`)
	if got := year(); got != now {
		t.Errorf("it is %s in the guest, want %s", got, now)
	}
}

// takesFiles puts a program of some megabytes into the guest through the login's standard input.
func takesFiles(t *testing.T, key string) {
	t.Helper()
	program := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(program)
	got := guestSSHFrom(t, bytes.NewReader(program), key, "dcuser", "cat >program && chmod 755 program && sha256sum program; rm program")
	if want := fmt.Sprintf("%x", sha256.Sum256(program)); !strings.HasPrefix(got, want) {
		t.Errorf("the guest has %s, want %s", got, want)
	}
}

// The guest's kernel starts its random numbers anew when it is restored: two machines from one saved state differ.
func TestGuestReseedsWhenRestored(t *testing.T) {
	img := testhost.GuestWithGenerationID(t)
	startNetwork(t)
	dir := testhost.DiskDir(t)
	disk := filepath.Join(dir, "spike.qcow2")
	command(t, "cp", "--sparse=always", img.Qcow2, disk)
	bootGuest(t, "qcow2", disk)
	const reseeded = "crng reseeded due to virtual machine fork"
	if got := guestSSH(t, img.KeyPath, "root", "dmesg"); strings.Contains(got, reseeded) {
		t.Error("reseeded before anything happened")
	}
	saved := filepath.Join(dir, "saved")
	virsh(t, "save", "spike", saved)
	virsh(t, "restore", saved)
	if got := guestSSH(t, img.KeyPath, "root", "dmesg"); !strings.Contains(got, reseeded) {
		t.Errorf("not reseeded:\n%s", got)
	}
}

// mountsVolumes plugs in the two volumes and looks for them in the guest, which leaves the first one alone until it
// may mount it.
func mountsVolumes(t *testing.T, key, dir string) {
	t.Helper()
	for i, label := range []string{"secure_volume", "release_spool"} {
		file := filepath.Join(dir, label)
		command(t, "truncate", "-s", "16M", file)
		command(t, "mkfs.ext4", "-q", "-F", "-L", label, file)
		if i == 0 {
			guestSSH(t, key, "root", "touch /etc/no-automount")
		}
		virsh(t, "attach-disk", "spike", file, []string{"vdb", "vdc"}[i], "--targetbus", "virtio", "--subdriver", "raw", "--live")
		if i == 0 {
			// What an event would run, so that there is an end to wait for.
			guestSSH(t, key, "root", "until findfs LABEL="+label+"; do usleep 50000; done; ACTION=add SUBSYSTEM=block /etc/hotplug")
			guestSSH(t, key, "root", "! grep /media /proc/mounts && rm /etc/no-automount && /etc/hotplug")
		}
		guestSSH(t, key, "root", "while ! grep -q /media/"+label+" /proc/mounts; do usleep 50000; done")
		guestSSH(t, key, "dcuser", "echo x >/media/"+label+"/file")
	}
}

// bootGuest starts the domain and returns its serial line after the guest has said that it is ready.
func bootGuest(t *testing.T, format, disk string) *bufio.Reader {
	t.Helper()
	const socket = "/var/lib/libvirt/qemu/spike.serial"
	virsh(t, "create", writeFile(t, "domain.xml", fmt.Sprintf(domainXML, format, disk, socket)))
	t.Cleanup(func() { _ = exec.Command("virsh", "-c", "qemu:///system", "destroy", "spike").Run() })
	start := time.Now()
	line, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = line.Close() })
	serial := bufio.NewReader(line)
	awaitLine(t, serial, guest.ReadyLine)
	t.Logf("ready after %v", time.Since(start).Round(time.Millisecond))
	return serial
}

// awaitLine reads until a line has the text; a guest that never says it ends with the test's deadline.
func awaitLine(t *testing.T, r *bufio.Reader, text string) {
	t.Helper()
	var all strings.Builder
	for {
		line, err := r.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			t.Fatalf("no %q on the serial line: %v\n%s", text, err, all.String())
		}
		if strings.Contains(line, text) {
			return
		}
	}
}

// awaitStopped waits by event for the domain to end; it may have ended before.
func awaitStopped(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "virsh", "-c", "qemu:///system", "event", "--event", "lifecycle", "--loop", "--timeout", "60")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	for strings.Contains(virsh(t, "list", "--name"), "spike") {
		if !lines.Scan() {
			t.Fatal("the guest did not power off")
		}
	}
}

func guestSSH(t *testing.T, key, user, script string) string {
	t.Helper()
	return guestSSHFrom(t, nil, key, user, script)
}

func guestSSHFrom(t *testing.T, stdin io.Reader, key, user, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectionAttempts=60", user+"@192.168.77.2", script)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ssh %s %q: %v: %s", user, script, err, out)
	}
	return string(out)
}

func command(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
