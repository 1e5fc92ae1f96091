package domain_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capsuled/capsuled/domain"
	"github.com/google/go-cmp/cmp"
)

func lease(last byte, ip, name string) domain.Lease {
	return domain.Lease{MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, last}, IP: netip.MustParseAddr(ip), Name: name}
}

// cleanNetwork starts a test without the network.
func cleanNetwork(t *testing.T) {
	t.Helper()
	for _, verb := range []string{"net-destroy", "net-undefine"} {
		if strings.Contains(virsh(t, "net-list", "--all", "--name"), capsNet.Name) &&
			(verb == "net-undefine" || strings.Contains(virsh(t, "net-list", "--name"), capsNet.Name)) {
			virsh(t, verb, capsNet.Name)
		}
	}
}

func TestNetwork(t *testing.T) {
	cleanNetwork(t)
	h, ctx := open(t), t.Context()
	rules := sh(t, "iptables-save", "-t", "filter") + sh(t, "iptables-save", "-t", "nat")
	noErr(t, "ensure", h.EnsureNetwork(ctx, capsNet))
	uuid := virsh(t, "net-uuid", capsNet.Name)
	pid, err := os.ReadFile("/run/libvirt/network/" + capsNet.Name + ".pid")
	noErr(t, "dnsmasq", err)
	noErr(t, "ensure again", h.EnsureNetwork(ctx, capsNet))
	if again, _ := os.ReadFile("/run/libvirt/network/" + capsNet.Name + ".pid"); string(again) != string(pid) {
		t.Error("the second time restarted it")
	}
	if after := sh(t, "iptables-save", "-t", "filter") + sh(t, "iptables-save", "-t", "nat"); strip(after) != strip(rules) {
		t.Errorf("libvirt wrote rules of its own:\n%s", after)
	}
	if info := virsh(t, "net-info", capsNet.Name); !strings.Contains(strings.Join(strings.Fields(info), " "), "Autostart: no") {
		t.Errorf("autostart:\n%s", info)
	}
	if v6, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + capsNet.Bridge + "/disable_ipv6"); string(v6) != "1\n" {
		t.Errorf("IPv6 on the bridge: %q, %v", v6, err)
	}

	// Stopped by somebody: it starts again.
	virsh(t, "net-destroy", capsNet.Name)
	noErr(t, "ensure of a stopped one", h.EnsureNetwork(ctx, capsNet))

	// Another subnet and bridge: as long as a domain is attached, no.
	noErr(t, "lease", h.PutLease(ctx, capsNet.Name, lease(1, "192.168.53.11", "one")))
	noErr(t, "lease", h.PutLease(ctx, capsNet.Name, lease(2, "192.168.53.129", "two")))
	other := domain.Network{Name: capsNet.Name, Bridge: "capsbr1", Subnet: netip.MustParsePrefix("192.168.53.0/25")}
	s := newSpec(t, h, "cap-net", idle)
	running(t, h, s)
	wantErr(t, "change under a domain", h.EnsureNetwork(ctx, other), domain.ErrConflict)
	noErr(t, "destroy", h.Destroy(ctx, s.ID))
	noErr(t, "change", h.EnsureNetwork(ctx, other))
	if virsh(t, "net-uuid", capsNet.Name) != uuid {
		t.Error("the UUID changed")
	}
	if out := sh(t, "ip", "-br", "addr", "show", "capsbr1"); !strings.Contains(out, "192.168.53.1/25") {
		t.Errorf("bridge: %s", out)
	}
	left, err := h.Leases(ctx, capsNet.Name)
	if diff := cmp.Diff([]domain.Lease{lease(1, "192.168.53.11", "one")}, left, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("leases after the change: %v\n%s", err, diff)
	}
	noErr(t, "back", h.EnsureNetwork(ctx, capsNet))
}

// strip drops the lines that carry counters and times.
func strip(rules string) string {
	var keep []string
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "-A") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "")
}

func TestNetworkOfAStranger(t *testing.T) {
	cleanNetwork(t)
	t.Cleanup(func() { cleanNetwork(t) })
	h, ctx := open(t), t.Context()
	file := filepath.Join(t.TempDir(), "net.xml")
	noErr(t, "write", os.WriteFile(file, []byte(`<network><name>`+capsNet.Name+`</name><bridge name='strange0'/><ip address='10.77.0.1' prefix='24'/></network>`), 0o600))
	virsh(t, "net-define", file)
	wantErr(t, "ensure", h.EnsureNetwork(ctx, capsNet), domain.ErrConflict)
	if x := virsh(t, "net-dumpxml", capsNet.Name); !strings.Contains(x, "strange0") {
		t.Errorf("it was changed:\n%s", x)
	}
}

func TestNetworkInvalid(t *testing.T) {
	h, ctx := open(t), t.Context()
	for name, change := range map[string]func(*domain.Network){
		"name": func(n *domain.Network) { n.Name = "a b" }, "bridge": func(n *domain.Network) { n.Bridge = "bridge-too-long-0" },
		"libvirt's bridge": func(n *domain.Network) { n.Bridge = "virbr7" }, "no subnet": func(n *domain.Network) { n.Subnet = netip.Prefix{} },
		"IPv6": func(n *domain.Network) { n.Subnet = netip.MustParsePrefix("fd00::/64") }, "host bits": func(n *domain.Network) { n.Subnet = netip.MustParsePrefix("10.0.0.1/24") },
		"too small": func(n *domain.Network) { n.Subnet = netip.MustParsePrefix("10.0.0.0/30") },
	} {
		n := capsNet
		change(&n)
		wantErr(t, name, h.EnsureNetwork(ctx, n), domain.ErrInvalid)
	}
	noErr(t, "ensure", h.EnsureNetwork(ctx, capsNet))
	for name, l := range map[string]domain.Lease{
		"gateway": lease(1, "192.168.53.1", "a"), "network": lease(1, "192.168.53.0", "a"), "broadcast": lease(1, "192.168.53.255", "a"),
		"elsewhere": lease(1, "192.168.54.2", "a"), "no name": lease(1, "192.168.53.2", ""), "name": lease(1, "192.168.53.2", "a.b"),
		"mac": {MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}, IP: netip.MustParseAddr("192.168.53.2"), Name: "a"},
	} {
		wantErr(t, name, h.PutLease(ctx, capsNet.Name, l), domain.ErrInvalid)
	}
	wantErr(t, "no network", h.PutLease(ctx, "nowhere", lease(1, "192.168.53.2", "a")), domain.ErrNotFound)
	noErr(t, "drop from no network", h.DropLease(ctx, "nowhere", lease(1, "192.168.53.2", "a").MAC))
}

func dnsmasqPID(t *testing.T) string {
	t.Helper()
	pid, err := os.ReadFile("/run/libvirt/network/" + capsNet.Name + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	return string(pid)
}

// checkLeases compares the live and the persistent definition with what they should hold.
func checkLeases(t *testing.T, h *domain.Host, want ...domain.Lease) {
	t.Helper()
	for _, flags := range [][]string{{}, {"--inactive"}} {
		// One more than asked for: nobody's, who keeps dnsmasq from being started anew.
		if n := strings.Count(virsh(t, append([]string{"net-dumpxml", capsNet.Name}, flags...)...), "<host mac") - 1; n != len(want) {
			t.Errorf("%d hosts with %v, want %d", n, flags, len(want))
		}
	}
	got, err := h.Leases(t.Context(), capsNet.Name)
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("leases: %v\n%s", err, diff)
	}
}

// awaitHeld waits until libvirt has heard of a lease that was just given.
func awaitHeld(t *testing.T, l domain.Lease) string {
	t.Helper()
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		if out := virsh(t, "net-dhcp-leases", capsNet.Name); strings.Contains(out, l.MAC.String()) {
			return out
		}
	}
	t.Fatalf("%s is not held", l.MAC)
	return ""
}

// TestLeases: what dnsmasq really answers.
func TestLeases(t *testing.T) {
	cleanNetwork(t)
	h, ctx := open(t), t.Context()
	noErr(t, "ensure", h.EnsureNetwork(ctx, capsNet))
	one, two := lease(1, "192.168.53.11", "one"), lease(2, "192.168.53.12", "two")
	for _, l := range []domain.Lease{two, one, one} {
		noErr(t, "put", h.PutLease(ctx, capsNet.Name, l))
	}
	checkLeases(t, h, one, two)

	c := newDHCPClient(t, capsNet.Bridge)
	nobody := net.HardwareAddr{0x52, 0x54, 0, 9, 9, 9}
	c.send(dhcpDiscover, 0xbad, nobody, netip.Addr{})
	c.send(dhcpRequest, 0xbad, nobody, netip.MustParseAddr("192.168.53.99"))
	offer, others := c.obtain(dhcpDiscover, 1, one.MAC, netip.Addr{})
	if offer.kind != dhcpOffer || offer.ip != one.IP {
		t.Errorf("offered %+v", offer)
	}
	for _, r := range others {
		if r.kind == dhcpOffer || r.kind == dhcpAck { // a refusal may come
			t.Errorf("a stranger got %+v", r)
		}
	}
	if ack, _ := c.obtain(dhcpRequest, 2, one.MAC, one.IP); ack.kind != dhcpAck || ack.ip != one.IP {
		t.Errorf("acknowledged %+v", ack)
	}
	if out := awaitHeld(t, one); strings.Contains(out, "evil") {
		t.Errorf("the guest's own name was taken:\n%s", out)
	}

	// The address goes to another MAC while the first still holds it: the new one gets it at once.
	heir := lease(3, "192.168.53.11", "heir")
	noErr(t, "put", h.PutLease(ctx, capsNet.Name, heir))
	checkLeases(t, h, heir, two)
	if offer, _ := c.obtain(dhcpDiscover, 3, heir.MAC, netip.Addr{}); offer.ip != heir.IP {
		t.Errorf("the heir was offered %+v", offer)
	}
	if ack, _ := c.obtain(dhcpRequest, 4, heir.MAC, heir.IP); ack.kind != dhcpAck {
		t.Errorf("the heir: %+v", ack)
	}
	awaitHeld(t, heir)
	for _, l := range []domain.Lease{two, heir} {
		noErr(t, "drop", h.DropLease(ctx, capsNet.Name, l.MAC))
	}
	checkLeases(t, h)
	if out := virsh(t, "net-dhcp-leases", capsNet.Name); strings.Contains(out, heir.MAC.String()) {
		t.Errorf("still held:\n%s", out)
	}
	noErr(t, "put after all are gone", h.PutLease(ctx, capsNet.Name, one))
	if offer, _ := c.obtain(dhcpDiscover, 5, one.MAC, netip.Addr{}); offer.ip != one.IP {
		t.Errorf("offered %+v", offer)
	}
	noErr(t, "drop", h.DropLease(ctx, capsNet.Name, one.MAC))
}

// TestDNSMasqRevived: a dnsmasq that was killed answers again after the next look, and the network stayed up for its guests.
func TestDNSMasqRevived(t *testing.T) {
	cleanNetwork(t)
	h, ctx := open(t), t.Context()
	noErr(t, "ensure", h.EnsureNetwork(ctx, capsNet))
	one := lease(1, "192.168.53.11", "one")
	noErr(t, "put", h.PutLease(ctx, capsNet.Name, one))
	bridge, err := net.InterfaceByName(capsNet.Bridge)
	noErr(t, "bridge", err)
	file, err := os.ReadFile("/run/libvirt/network/" + capsNet.Name + ".pid")
	noErr(t, "dnsmasq", err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(file)))
	noErr(t, "dnsmasq", err)
	noErr(t, "kill", syscall.Kill(pid, syscall.SIGKILL))
	reaped(t, pid)
	noErr(t, "ensure again", h.EnsureNetwork(ctx, capsNet))
	c := newDHCPClient(t, capsNet.Bridge)
	if offer, _ := c.obtain(dhcpDiscover, 1, one.MAC, netip.Addr{}); offer.ip != one.IP {
		t.Errorf("offered %+v", offer)
	}
	if same, err := net.InterfaceByName(capsNet.Bridge); err != nil || same.Index != bridge.Index {
		t.Errorf("the bridge was made anew: %v, %v", same, err)
	}
	noErr(t, "drop", h.DropLease(ctx, capsNet.Name, one.MAC))
	checkLeases(t, h)
}

// TestLeaseMoves: the same MAC elsewhere, a name that another has, dropped, dropped again.
func TestLeaseMoves(t *testing.T) {
	cleanNetwork(t)
	h, ctx := open(t), t.Context()
	noErr(t, "ensure", h.EnsureNetwork(ctx, capsNet))
	two := lease(2, "192.168.53.12", "two")
	server := dnsmasqPID(t)
	t.Cleanup(func() {
		if now := dnsmasqPID(t); now != server {
			t.Errorf("dnsmasq was started anew: %s, was %s", now, server)
		}
	})
	for _, l := range []domain.Lease{two, lease(3, "192.168.53.11", "heir")} {
		noErr(t, "put", h.PutLease(ctx, capsNet.Name, l))
	}
	moved := lease(3, "192.168.53.13", "heir")
	noErr(t, "move", h.PutLease(ctx, capsNet.Name, moved))
	checkLeases(t, h, two, moved)
	wantErr(t, "put with a name that is taken", h.PutLease(ctx, capsNet.Name, lease(4, "192.168.53.14", "two")), domain.ErrConflict)
	for range 2 {
		noErr(t, "drop", h.DropLease(ctx, capsNet.Name, moved.MAC))
	}
	checkLeases(t, h, two)
	noErr(t, "drop", h.DropLease(ctx, capsNet.Name, two.MAC))
	checkLeases(t, h)
}
