package rig

import (
	"fmt"
	"net/netip"
	"testing"
)

// TestIPTables judges rules of all kinds: where any rule may take a packet of the domain, the fence is not closed.
func TestIPTables(t *testing.T) {
	const closed = `
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:OWN - [0:0]
:NODE - [0:0]
-A INPUT -i capsbr0 -j DROP
-A FORWARD -j OWN
-A OUTPUT -o capsbr0 -j DROP
`
	const ways = "-A OWN -i capsbr0 -g NODE\n-A OWN -o capsbr0 -g NODE\n"
	for _, row := range []struct {
		name, rules string
		want        Fence
	}{
		{"nothing", ":FORWARD ACCEPT [0:0]\n", Gone},
		{"nothing, and closed by the policy", ":INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n", Closed},
		{"dropped", closed + ways + "-A NODE -j DROP\n", Closed},
		{"an empty chain", closed + ways, Gone},
		{"another domain", closed + ways + "-A NODE -s 192.168.53.3/32 -j ACCEPT\n-A NODE -d 192.168.53.3/32 -j ACCEPT\n-A NODE -j DROP\n", Listed},
		{"another's interface", closed + ways + "-A NODE -i eth0 -o eth1 -j ACCEPT\n-A NODE -j DROP\n", Closed},
		{"any tap", closed + ways + "-A NODE -i cap-+ -j ACCEPT\n-A NODE -j DROP\n", Closed},
		{"everything", closed + ways + "-A NODE -j ACCEPT\n", Open},
		{"of the domain", closed + ways + "-A NODE -s 192.168.53.2/32 -j ACCEPT\n-A NODE -j DROP\n", Open},
		{"of its network", closed + ways + "-A NODE -s 192.168.53.0/24 -j ACCEPT\n-A NODE -j DROP\n", Open},
		{"established", closed + ways + "-A NODE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A NODE -j DROP\n", Open},
		{"to all but one", closed + ways + "-A NODE ! -d 192.0.2.1/32 -j ACCEPT\n-A NODE -j DROP\n", Open},
		{"to one", closed + ways + "-A NODE -d 192.0.2.1/32 -p tcp -m tcp --dport 443 -j ACCEPT\n-A NODE -j DROP\n", Listed},
		{"a drop that may not be meant", closed + ways + "-A NODE -p tcp -j DROP\n", Gone},
		{"a drop before an accept", closed + ways + "-A NODE -j DROP\n-A NODE -j ACCEPT\n", Closed},
		{"an accept behind a chain that decides nothing", closed + "-A FORWARD -j ACCEPT\n", Open},
		{"an accept first", ":FORWARD ACCEPT [0:0]\n-A FORWARD -i capsbr0 -j ACCEPT\n" + closed + ways + "-A NODE -j DROP\n", Open},
		{"a return", closed + ways + "-A NODE -m mark --mark 0x1 -j RETURN\n-A NODE -j DROP\n", Gone},
		{"a mark on the way", closed + ways + "-A NODE -j MARK --set-xmark 0x0/0x1\n-A NODE -j DROP\n", Closed},
	} {
		t.Run(row.name, func(t *testing.T) {
			rules, err := readIPTables([]byte(row.rules))
			if err != nil {
				t.Fatal(err)
			}
			got := rules.fence("capsbr0", netip.MustParseAddr("192.168.53.2"))
			if got != row.want {
				t.Errorf("it is %s, and should be %s", got, row.want)
			}
		})
	}
}

// TestBridge judges rules of the bridge layer, of which a map chooses by port.
func TestBridge(t *testing.T) {
	const (
		accept  = `{"accept":null}`
		drop    = `{"drop":null}`
		notIP   = `{"match":{"op":"!=","left":{"payload":{"protocol":"ether","field":"type"}},"right":"ip"}},{"drop":null}`
		arp     = `{"match":{"op":"==","left":{"payload":{"protocol":"ether","field":"type"}},"right":"arp"}},{"accept":null}`
		toOne   = `{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":"192.0.2.1"}},{"accept":null}`
		fromOne = `{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":"192.0.2.1"}},{"accept":null}`
		port    = `{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":443}},{"accept":null}`
	)
	table := func(element string, rules ...string) string {
		text := `{"nftables":[{"metainfo":{}},{"table":{"family":"bridge","name":"capsuled"}}`
		for hook, key := range map[string]string{"prerouting": "iifname", "output": "oifname"} {
			text += fmt.Sprintf(`,{"chain":{"name":%q,"type":"filter","hook":%q,"prio":0,"policy":"accept"}}`, hook, hook)
			text += fmt.Sprintf(`,{"rule":{"chain":%q,"expr":[{"vmap":{"key":{"meta":{"key":%q}},"data":"@m"}}]}}`, hook, key)
			text += fmt.Sprintf(`,{"rule":{"chain":%q,"expr":[{"match":{"op":"==","left":{"meta":{"key":%q}},"right":"cap-*"}},{"drop":null}]}}`, hook, key)
		}
		text += `,{"chain":{"name":"own"}},{"map":{"name":"m","elem":[` + element + `]}}`
		for _, r := range rules {
			text += `,{"rule":{"chain":"own","expr":[` + r + `]}}`
		}
		return text + "]}"
	}
	const mine, others = `["cap-1",{"goto":{"target":"own"}}]`, `["cap-2",{"goto":{"target":"own"}}]`
	for _, row := range []struct {
		name, text string
		want       Fence
	}{
		{"no rules", `{"nftables":[{"table":{"family":"bridge","name":"capsuled"}}]}`, Gone},
		{"not in the map", table(others, accept), Closed},
		{"everything", table(mine, accept), Open},
		{"nothing", table(mine, drop), Closed},
		{"an empty chain", table(mine), Gone},
		{"ARP", table(mine, arp, drop), Closed},
		{"some port anywhere", table(mine, notIP, port, drop), Open},
		{"one address", table(mine, notIP, toOne, drop), Open}, // as a sender's address it is that of anybody who says so
		{"IPv6", table(mine, arp, `{"match":{"op":"==","left":{"payload":{"protocol":"ether","field":"type"}},"right":"ip6"}},{"accept":null}`, drop), Open},
	} {
		t.Run(row.name, func(t *testing.T) {
			rules, err := readBridge([]byte(row.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := rules.fence("cap-1"); got != row.want {
				t.Errorf("it is %s, and should be %s", got, row.want)
			}
		})
	}
	rules, err := readBridge([]byte(table(mine, notIP, toOne, drop)))
	if err != nil {
		t.Fatal(err)
	}
	out := takings{}
	if rules.walk("prerouting", frame{tap: "cap-1", carries: "ip"}, false, &out, 0); out.fence() != Listed {
		t.Errorf("frames to one address: %s, and should be %s", out.fence(), Listed)
	}
	rules, err = readBridge([]byte(table(mine, notIP, fromOne, drop)))
	if err != nil {
		t.Fatal(err)
	}
	in := takings{}
	if rules.walk("output", frame{tap: "cap-1", outgoing: true, carries: "ip"}, false, &in, 0); in.fence() != Listed {
		t.Errorf("frames from one address: %s, and should be %s", in.fence(), Listed)
	}
}
