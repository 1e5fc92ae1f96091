package testhost_test

import (
	"bufio"
	"context"
	"fmt"
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
  <name>spike</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
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
	virsh(t, "net-create", writeFile(t, "net.xml", networkXML))
	t.Cleanup(func() { virsh(t, "net-destroy", "spike") })
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
			mountsVolumes(t, img.KeyPath, dir)
			virsh(t, "shutdown", "spike", "--mode", "acpi")
			awaitLine(t, serial, "CAPSULE-DOWN")
			awaitStopped(t)
		})
	}
}

// mountsVolumes plugs in the two volumes and looks for them in the guest.
func mountsVolumes(t *testing.T, key, dir string) {
	t.Helper()
	for target, label := range map[string]string{"vdb": "secure_volume", "vdc": "release_spool"} {
		file := filepath.Join(dir, label)
		command(t, "truncate", "-s", "16M", file)
		command(t, "mkfs.ext4", "-q", "-F", "-L", label, file)
		virsh(t, "attach-disk", "spike", file, target, "--targetbus", "virtio", "--subdriver", "raw", "--live")
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
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ssh", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", user+"@192.168.77.2", script).CombinedOutput()
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
