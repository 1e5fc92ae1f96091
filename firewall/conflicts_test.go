package firewall

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each conflict is made as its maker would leave it, and told by its name; nothing is told where there is none.
func TestConflicts(t *testing.T) {
	for _, c := range []struct {
		name   string
		make   []string // commands
		undo   []string
		want   string // the name
		detail string
	}{
		{"none", nil, nil, "", ""},
		{"legacy", []string{"iptables-legacy -A FORWARD -s 203.0.113.9 -j DROP"}, []string{"iptables-legacy -F FORWARD"}, "iptables-legacy", "ipv4 filter"},
		{"legacy IPv6", []string{"ip6tables-legacy -A FORWARD -j DROP"}, []string{"ip6tables-legacy -F FORWARD"}, "iptables-legacy", "ipv6 filter"},
		{"firewalld", []string{"nft add table inet firewalld"}, nil, "firewalld", "inet firewalld"},
		{"firewalld on iptables", []string{"iptables -N INPUT_ZONES"}, nil, "firewalld", "INPUT_ZONES"},
		{"Docker", []string{"iptables -N DOCKER-USER", "iptables -N DOCKER", "iptables -A FORWARD -j DOCKER-USER", "iptables -P FORWARD DROP"},
			[]string{"iptables -P FORWARD ACCEPT"}, "docker", "2 chains, such as DOCKER; what is forwarded and meets no rule is dropped"},
		{"ufw", []string{"iptables -N ufw-before-input", "ip6tables -N ufw6-before-input"}, nil, "ufw", "2 chains, such as ufw-before-input"},
		{"kubernetes", []string{"iptables -t nat -N KUBE-SERVICES"}, nil, "kubernetes", "KUBE-SERVICES"},
		{"bridge table", []string{"nft add table bridge theirs"}, nil, "bridge-table", "theirs"},
		{"nftables", []string{"nft add table inet filter"}, nil, "nftables", "inet filter"},
		{"legacy tables without a rule", []string{"iptables-legacy -t mangle -L"}, nil, "", ""},
		{"rule before ours", []string{"iptables -I FORWARD -i eth7 -j ACCEPT"}, nil, "rule-before-ours", "ipv4 filter FORWARD: -i eth7 -j ACCEPT"},
		{"rule before ours, IPv6", []string{"ip6tables -t raw -I PREROUTING -j ACCEPT"}, nil, "rule-before-ours", "ipv6 raw PREROUTING: -j ACCEPT"},
		{"rule behind ours", []string{"iptables -A FORWARD -i eth7 -j ACCEPT"}, nil, "", ""},
		{"a looser host", []string{"sysctl -qw net.ipv4.conf.all.rp_filter=2"}, []string{"sysctl -qw net.ipv4.conf.all.rp_filter=0"},
			"host-setting", "net.ipv4.conf.all.rp_filter = 2"},
		{"a host that answers for others", []string{"sysctl -qw net.ipv4.conf.all.proxy_arp=1", "sysctl -qw net.ipv4.conf.all.route_localnet=1"},
			[]string{"sysctl -qw net.ipv4.conf.all.proxy_arp=0", "sysctl -qw net.ipv4.conf.all.route_localnet=0"},
			"host-setting", "net.ipv4.conf.all.route_localnet = 1, net.ipv4.conf.all.proxy_arp = 1"},
		{"br_netfilter", []string{"sysctl -qw net.bridge.bridge-nf-call-iptables=1"}, []string{"sysctl -qw net.bridge.bridge-nf-call-iptables=0"},
			"br_netfilter", "net.bridge.bridge-nf-call-iptables = 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options("192.168.53.0/24")
			chains := fresh(t, o)
			sysctl(t, "net/ipv4/conf/all/rp_filter", "1")
			for _, name := range []string{"iptables", "ip6tables", "arptables"} {
				sysctl(t, "net/bridge/bridge-nf-call-"+name, "0")
			}
			apply(t, t.Context(), chains, bindings(o, 3))
			for _, line := range c.make {
				run(t, t.Context(), strings.Fields(line)...)
			}
			t.Cleanup(func() {
				for _, line := range c.undo {
					run(t, bare(t), strings.Fields(line)...)
				}
			})
			found, err := chains.Conflicts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				if len(found) > 0 {
					t.Errorf("found %+v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Name != c.want || !strings.Contains(found[0].Detail, c.detail) || found[0].Advice == "" {
				t.Errorf("found %+v, want %s: %s", found, c.want, c.detail)
			}
		})
	}
}

// Where iptables is of the legacy backend, rules of the other one are foreign, whatever their tables are called.
func TestConflictsOfALegacyHost(t *testing.T) {
	dir := t.TempDir()
	for _, program := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		family, rest, _ := strings.Cut(program, "-")
		path, err := exec.LookPath(strings.TrimSuffix(family+"-legacy-"+rest, "-"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, program)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	o := options("192.168.53.0/24")
	chains := fresh(t, o)
	t.Cleanup(func() {
		for _, program := range []string{"iptables", "ip6tables"} {
			for _, table := range []string{"raw", "filter", "nat"} {
				for _, verb := range []string{"-F", "-X"} {
					run(t, bare(t), program, "-t", table, verb)
				}
			}
		}
	})
	if chains.nft {
		t.Fatal("it is taken for nf_tables")
	}
	sysctl(t, "net/ipv4/conf/all/rp_filter", "1")
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		sysctl(t, "net/bridge/bridge-nf-call-"+name, "0")
	}
	apply(t, t.Context(), chains, bindings(o, 2))
	for _, c := range []struct {
		name   string
		make   string
		detail string // "" for no conflict
	}{
		{"nothing", "true", ""},
		{"tables that were looked at", "iptables-nft -t nat -S", ""},
		{"a rule", "iptables-nft -A FORWARD -s 203.0.113.9 -j DROP", "tables ip filter"},
		{"a rule of IPv6", "ip6tables-nft -t raw -A PREROUTING -j DROP", "tables ip filter, ip6 raw"},
		{"the first one gone", "iptables-nft -F FORWARD", "tables ip6 raw"},
		{"a policy", "iptables-nft -P INPUT DROP", "tables ip filter, ip6 raw"},
	} {
		run(t, t.Context(), strings.Fields(c.make)...)
		found, err := chains.Conflicts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c.detail == "" && len(found) > 0 || c.detail != "" && (len(found) != 1 || found[0].Name != "nftables" || found[0].Detail != c.detail) {
			t.Errorf("%s: found %+v, want %q", c.name, found, c.detail)
		}
	}
}
