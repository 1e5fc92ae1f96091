package systemd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/capsuled/capsuled/internal/testhost"
)

// byHand is a network on the capsules' bridge, and a domain whose tap has the name of a capsule's, as somebody makes them
// who does not ask the daemon. Unlike the daemon's network it gives an address to everybody who asks.
const (
	byHandNetwork = `<network><name>byhand</name><forward mode='open'/><bridge name='capsbr0' stp='off' delay='0'/>
<ip address='192.168.53.1' netmask='255.255.255.0'><dhcp><range start='192.168.53.100' end='192.168.53.200'/></dhcp></ip></network>`
	byHandDomain = `<domain type='qemu'><name>byhand</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/byhand.qcow2'/><target dev='vda' bus='virtio'/></disk>
<interface type='network'><source network='byhand'/><target dev='cap-00000001'/><model type='virtio'/></interface>
</devices></domain>`
	byHandTap = "/sys/class/net/cap-00000001/statistics/rx_packets"
)

// moment is a timestamp of a unit in microseconds since the machine's clock began; 0 when it has not come yet.
func (m machine) moment(t *testing.T, unit, name string) int64 {
	t.Helper()
	text := m.run(t, "systemctl", "show", "--value", "--property="+name+"TimestampMonotonic", unit)
	usec, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return usec
}

// poll asks again until done says that it is; what is asked for announces itself to nobody.
func poll(t *testing.T, what string, done func() (string, bool)) {
	t.Helper()
	last := ""
	for deadline := time.Now().Add(commandLimit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var ok bool
		if last, ok = done(); ok {
			return
		}
	}
	t.Fatalf("%s: %s", what, last)
}

// TestFenceAtBoot is a host that comes up again without its daemon: the rules are there before libvirtd is, and a domain
// that somebody starts on a tap of a capsule's name reaches nobody. That it would, is seen once the rules are gone.
func TestFenceAtBoot(t *testing.T) {
	wanted, slow := filepath.Join(t.TempDir(), "fence.conf"), filepath.Join(t.TempDir(), "slow.conf")
	for path, text := range map[string]string{
		wanted: "[Unit]\nWants=capsuled-fence.service\n",
		slow:   "[Service]\nExecStartPre=/bin/sleep 1\n", // libvirtd would be first if it did not wait
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := bootInstalled(t, map[string]string{
		wanted:                  "/etc/systemd/system/multi-user.target.d/fence.conf", // as if it were enabled
		slow:                    "/etc/systemd/system/capsuled-fence.service.d/slow.conf",
		testhost.Guest(t).Qcow2: "/home/somebody/guest.qcow2",
	})
	fence, libvirtd := m.moment(t, "capsuled-fence", "ActiveEnter"), m.moment(t, "libvirtd", "InactiveExit")
	if fence == 0 || libvirtd == 0 || fence > libvirtd {
		t.Errorf("the fence stood at %d µs, libvirtd began to start at %d µs", fence, libvirtd)
	}
	if state := m.property(t, "ActiveState"); state != "inactive" {
		t.Fatalf("the daemon is %s", state)
	}
	base := rules(t, m)

	m.run(t, "cp", "/home/somebody/guest.qcow2", "/var/lib/libvirt/images/byhand.qcow2")
	m.write(t, "/run/network.xml", byHandNetwork)
	m.write(t, "/run/domain.xml", byHandDomain)
	m.run(t, "virsh", "net-create", "/run/network.xml")
	m.run(t, "virsh", "create", "/run/domain.xml")
	leased := func() (string, bool) {
		text := m.run(t, "virsh", "net-dhcp-leases", "byhand")
		return text, strings.Contains(text, "192.168.53.1")
	}
	// With an open network one frame asks for an address and another one takes it.
	poll(t, "the guest says nothing", func() (string, bool) {
		n, err := strconv.Atoi(m.run(t, "cat", byHandTap))
		return fmt.Sprintf("%d frames, %v", n, err), n >= 8
	})
	if text, ok := leased(); ok {
		t.Errorf("the guest got an address:\n%s", text)
	}
	if d := cmp.Diff(base, rules(t, m)); d != "" {
		t.Errorf("the rules changed: %s", d)
	}
	m.run(t, "nft", "flush", "ruleset")
	poll(t, "the guest gets no address from an open network", leased)
}

// TestFenceUnit: nothing that is done to the unit takes the fence away.
func TestFenceUnit(t *testing.T) {
	m := bootInstalled(t, nil)
	if stdout, stderr, err := m.try("systemd-analyze", "verify", "capsuled-fence.service"); err != nil || stdout+stderr != "" {
		t.Errorf("systemd-analyze verify: %v\n%s%s", err, stdout, stderr)
	}
	m.run(t, "systemd-analyze", "security", "--no-pager", "--threshold=30", "capsuled-fence.service")
	m.run(t, "systemctl", "start", "capsuled-fence")
	closed := rules(t, m)
	for _, verb := range []string{"restart", "stop"} {
		m.run(t, "systemctl", verb, "capsuled-fence")
		if d := cmp.Diff(closed, rules(t, m)); d != "" {
			t.Errorf("%s: %s", verb, d)
		}
	}
	m.run(t, "systemctl", "start", "capsuled") // adds its policies
	base := rules(t, m)
	m.run(t, "systemctl", "stop", "capsuled-fence") // the daemon does not stop with it
	if d := cmp.Diff(base, rules(t, m)); d != "" {
		t.Errorf("stopped beside the daemon: %s", d)
	}
	if state := m.property(t, "ActiveState"); state != "active" {
		t.Errorf("the daemon is %s", state)
	}
	_, stderr, err := m.try("capsuled", "-fence")
	if code := exitCode(err); code != 75 || !strings.Contains(stderr, "nothing changed: another capsuled (process "+m.property(t, "MainPID")+")") {
		t.Errorf("beside the daemon: code %d: %s", code, stderr)
	}
	m.run(t, "systemctl", "stop", "capsuled")
	if d := cmp.Diff(base, rules(t, m)); d != "" {
		t.Errorf("the daemon took the fence away: %s", d)
	}
	// The daemon's rules stand: there is nothing for the unit to do, and capsules could lose by it.
	m.run(t, "nft", "delete", "table", "bridge", "capsuled")
	m.run(t, "systemctl", "start", "capsuled-fence")
	if _, _, err := m.try("nft", "list", "table", "bridge", "capsuled"); err == nil {
		t.Error("the unit changed rules after a daemon had run")
	}
	m.run(t, "capsuled", "-fence")
	if d := cmp.Diff(closed, rules(t, m)); d != "" {
		t.Errorf("asked by hand: %s", d)
	}
}

// TestFenceOfWrongConfiguration: what could be read of it is closed, and the unit says that it was not all.
func TestFenceOfWrongConfiguration(t *testing.T) {
	m := bootInstalled(t, nil)
	m.write(t, "/etc/capsuled/capsuled.toml", "[network]\nbridge = \"br7\"\n[quota]\ncpus = 0\n")
	if out, _, err := m.try("systemctl", "start", "capsuled-fence"); err == nil {
		t.Errorf("started: %s", out)
	}
	if status := m.run(t, "systemctl", "show", "--value", "--property=ExecMainStatus", "capsuled-fence"); status != "78" {
		t.Errorf("status %s", status)
	}
	if text := strings.Join(rules(t, m), "\n"); !strings.Contains(text, "-i br7 ") || !strings.Contains(text, `iifname "cap-*" drop`) {
		t.Errorf("not closed:\n%s", text)
	}
}
