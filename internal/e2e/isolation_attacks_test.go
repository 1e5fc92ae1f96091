package e2e

// Roles of the places where a packet may turn up. What they are called on a host depends on who attacks.
const (
	left      = "left"      // the attacker's own port: it was sent, and nobody has judged it yet
	bridge    = "bridge"    // what the bridge hands to the host
	service   = "service"   // what programs of the host get
	neighbour = "neighbour" // what another domain gets
	uplink    = "uplink"    // what leaves the host
	world     = "world"     // what arrives outside
	back      = "back"      // what the attacked domain gets
	reply     = "reply"     // what the host puts onto the bridge
)

// asked is where a question turns up that the host answers itself.
var asked = []string{bridge, service, reply, back}

// attack is one way out of a domain, or into it. Its packets hold its name.
type attack struct {
	row  int    // of the isolation contract
	name string // small letters, digits and hyphens
	does string // what the probe is told, with the names of addresses in braces
	at   string // where it turns up when nothing fences the attacker
	more
}

// more is what only some attacks have.
type more struct {
	open    bool     // it turns up there in maintenance mode too
	from    string   // who sends: "" is the domain under attack's own guest; "world", "host" or "next", its neighbour
	allowed []string // where it may turn up under a policy that lets one TCP address out and has static DNS
	stack   bool     // the guest's stack may wait for an answer before it sends the marker
	answer  string   // what the probe is answered when the attack succeeds

	exception bool // it is what that policy lets out
}

// attacks are the rows of the isolation contract that packets can tell. Each is sent on a bridge that nobody fences,
// where it must arrive, and then in secure mode, where it must arrive nowhere.
var attacks = []attack{
	// Row 1: IPv4 out, and in.
	{1, "tcp-world", "tcp to={world}:7001", world, more{open: true, stack: true, answer: "connected"}},
	{1, "syn-world", "ip4 to={gwmac} dst={world} proto=6 dport=7001", world, more{open: true}},
	{1, "ack-world", "ip4 to={gwmac} dst={world} proto=6 sport=443 dport=7001 flags=0x18", world, more{}},
	{1, "udp-world", "udp to={world}:7001", world, more{open: true}},
	{1, "udp53-world", "ip4 to={gwmac} dst={world} proto=17 dport=53", world, more{open: true}},
	{1, "https-world", "ip4 to={gwmac} dst={world} proto=6 dport=443", world, more{open: true}},
	{1, "ping-world", "ping to={world}", world, more{open: true, answer: "answered"}},
	{1, "timestamp-world", "ip4 to={gwmac} dst={world} proto=1 kind=13", world, more{}},
	{1, "igmp", "ip4 to=01:00:5e:00:00:fb dst=224.0.0.251 proto=2", bridge, more{}},
	{1, "sctp-world", "ip4 to={gwmac} dst={world} proto=132 dport=99", bridge, more{}},
	{1, "gre-world", "ip4 to={gwmac} dst={world} proto=47", bridge, more{}},
	{1, "esp-world", "ip4 to={gwmac} dst={world} proto=50", world, more{}},
	{1, "proto253-world", "ip4 to={gwmac} dst={world} proto=253", world, more{}},
	{1, "options-world", "ip4 to={gwmac} dst={world} proto=17 dport=7001 options=44050500", bridge, more{}},
	{1, "source-route", "ip4 to={gwmac} dst={gw} proto=17 dport=7001 options=830704c633640200", bridge, more{}},
	{1, "first-piece", "ip4 to={gwmac} dst={world} proto=17 dport=7001 pieces=first", bridge, more{}},
	{1, "later-piece", "ip4 to={gwmac} dst={world} proto=17 dport=7001 pieces=rest", bridge, more{}},
	{1, "two-pieces", "ip4 to={gwmac} dst={world} proto=17 dport=7001 pieces=tiny", bridge, more{}},
	{1, "tiny-pieces", "ip4 to={gwmac} dst={world} proto=6 dport=7001 pieces=tiny", bridge, more{}},
	{1, "overlap", "ip4 to={gwmac} dst={world} proto=17 dport=7001 pieces=overlap", bridge, more{}},
	{1, "false-ip", "ip4 to={gwmac} src=203.0.113.9 dst={world} proto=17 dport=7001", bridge, more{}},
	{1, "false-mac", "ip4 from=02:09:09:09:09:09 to={gwmac} dst={world} proto=17 dport=7001", bridge, more{}},
	{1, "as-neighbour", "ip4 from={nextmac} to={gwmac} src={next} dst={world} proto=17 dport=7001", bridge, more{}},
	{1, "broadcast", "ip4 dst=255.255.255.255 proto=17 dport=7001", neighbour, more{}},
	{1, "inward-world", "ip4 to={upmac} dst={self} proto=17 dport=7", back, more{from: "world"}},
	{1, "inward-syn", "ip4 to={upmac} dst={self} proto=6 dport=22", back, more{from: "world"}},
	{1, "inward-host", "udp to={self}:7", back, more{from: "host"}},
	{1, "inward-ping", "ping to={self}", back, more{from: "host"}},

	// Row 2: IPv6.
	{2, "echo6-all", "ip6", neighbour, more{}},
	{2, "echo6-routers", "ip6 dst=ff02::2", neighbour, more{}},
	{2, "ra", "ip6 kind=ra", neighbour, more{}},
	{2, "rs", "ip6 kind=rs dst=ff02::2", neighbour, more{}},
	{2, "ns", "ip6 kind=ns dst=ff02::1:ff00:1", bridge, more{}},
	{2, "na", "ip6 kind=na", neighbour, more{}},
	{2, "mld", "ip6 kind=mld dst=ff02::16", bridge, more{}},
	{2, "udp6-world", "ip6 kind=udp dst=2001:db8:51::2 to={gwmac}", bridge, more{}},
	{2, "tcp6-host", "ip6 kind=tcp dst=2001:db8:51::1 to={gwmac}", bridge, more{}},
	{2, "vlan-ra", "ip6 kind=ra vlan=7", neighbour, more{}},

	// Row 3: below IP.
	{3, "arp-gateway", "arp tpa={gw}", bridge, more{open: true, allowed: []string{bridge}}},
	{3, "arp-gratuitous", "arp", neighbour, more{}},
	{3, "arp-as-gateway", "arp op=reply spa={gw} tpa={next} tha={nextmac} to={nextmac}", neighbour, more{}},
	{3, "arp-as-neighbour", "arp spa={next} tpa={gw}", bridge, more{}},
	{3, "arp-other-mac", "arp sha=02:09:09:09:09:09 tpa={gw}", bridge, more{}},
	{3, "vlan", "ip4 to={gwmac} dst={world} proto=17 dport=7001 vlan=5", bridge, more{}},
	{3, "vlan-priority", "ip4 to={nextmac} dst={next} proto=17 dport=7001 vlan=0", neighbour, more{}},
	{3, "vlan-in-vlan", "ip4 to={nextmac} dst={next} proto=17 dport=7001 vlan=5 qinq=6", neighbour, more{}},
	{3, "vlan-arp", "arp tpa={gw} vlan=5", neighbour, more{}},
	{3, "lldp", "frame to=01:80:c2:00:00:0e ethertype=0x88cc head=02070402005300000104050765746830060200780000", neighbour, more{}},
	{3, "stp", "frame to=01:80:c2:00:00:00 ethertype=60 head=42420300000000008000020053000001000000008000020053000001800100001400020f00", neighbour, more{}},
	{3, "eapol", "frame to=01:80:c2:00:00:03 ethertype=0x888e head=01010000", neighbour, more{}},
	{3, "unknown-ethertype", "frame ethertype=0x88b5", neighbour, more{}},
	{3, "unknown-to-gateway", "frame to={gwmac} ethertype=0x88b5", bridge, more{}},
	{3, "llc", "frame ethertype=64 head=aaaa03", neighbour, more{}},
	{3, "pppoe", "frame ethertype=0x8863 head=1109000000", neighbour, more{}},

	// Row 4: DHCP as a carrier.
	{4, "dhcp-hostname", "dhcp carry=hostname", bridge, more{open: true}},
	{4, "dhcp-vendor", "dhcp carry=vendor kind=request", bridge, more{open: true}},
	{4, "dhcp-clientid", "dhcp carry=clientid", bridge, more{open: true}},
	{4, "dhcp-private", "dhcp carry=private kind=inform", bridge, more{open: true}},
	{4, "dhcp-as-neighbour", "dhcp chaddr={nextmac}", bridge, more{}},
	{4, "dhcp-server", "ip4 dst=255.255.255.255 proto=17 sport=67 dport=68", neighbour, more{}},

	// Row 5: DNS. Under the policy with static names a question reaches the host, and goes no further.
	{5, "dns-gateway", "dns server={gw}:53", service, more{open: true, allowed: asked}},
	{5, "dns-gateway-tcp", "dns server={gw}:53 over=tcp", service, more{open: true, stack: true, allowed: asked}},
	{5, "dns-gateway-txt", "dns server={gw}:53 type=txt", service, more{open: true, allowed: asked}},
	{5, "dns-host", "dns server={host}:53", service, more{}},
	{5, "dns-world", "dns server={world}:53", world, more{open: true}},
	{5, "dns-multicast", "ip4 to=01:00:5e:00:00:fb dst=224.0.0.251 proto=17 sport=5353 dport=5353", neighbour, more{}},
	{5, "dns-neighbour", "ip4 to={nextmac} dst={next} proto=17 dport=53", neighbour, more{}},

	// Row 7: the ssh forward.
	{7, "ssh-forward", "ip4 to={upmac} dst={host} proto=6 dport={ssh}", back, more{from: "world", open: true}},

	// Row 8: services of the host, at each of its addresses.
	{8, "ssh-gateway", "ip4 to={gwmac} dst={gw} proto=6 dport=22", service, more{}},
	{8, "dns-tcp-syn", "ip4 to={gwmac} dst={gw} proto=6 dport=53", service, more{open: true, allowed: []string{bridge, service}}},
	{8, "http-gateway", "ip4 to={gwmac} dst={gw} proto=6 dport=80", service, more{}},
	{8, "api-gateway", "ip4 to={gwmac} dst={gw} proto=6 dport=8080", service, more{}},
	{8, "libvirt-gateway", "ip4 to={gwmac} dst={gw} proto=6 dport=16509", service, more{}},
	{8, "resolver-gateway", "ip4 to={gwmac} dst={gw} proto=17 dport=10053", service, more{}},
	{8, "ntp-gateway", "ip4 to={gwmac} dst={gw} proto=17 dport=123", service, more{}},
	{8, "snmp-host", "ip4 to={gwmac} dst={host} proto=17 dport=161", service, more{}},
	{8, "ssh-host", "ip4 to={gwmac} dst={host} proto=6 dport=22", service, more{}},
	{8, "vnc-host", "ip4 to={gwmac} dst={host} proto=6 dport=5901", service, more{}},
	{8, "ping-gateway", "ping to={gw}", service, more{answer: "answered"}},
	{8, "ping-host", "ping to={host}", service, more{answer: "answered"}},
	{8, "scan-gateway", "scan to={gw} ports=22,53,80,8022,8080,16509", "", more{stack: true, answer: "8022"}},
	{8, "scan-host", "scan to={host} ports=22,53,80,8022,8080,16509", "", more{stack: true, answer: "8022"}},

	// Row 9: other domains, straight and by way of the host.
	{9, "neighbour", "ip4 to={nextmac} dst={next} proto=17 dport=7", neighbour, more{}},
	{9, "neighbour-routed", "ip4 to={gwmac} dst={next} proto=17 dport=7", neighbour, more{}},
	{9, "neighbour-arp", "arp tpa={next}", neighbour, more{}},
	{9, "neighbour-echo", "ip4 to={nextmac} dst={next} proto=1", neighbour, more{}},
	{9, "from-neighbour", "ip4 to={selfmac} dst={self} proto=17 dport=7", back, more{from: "next"}},
	{9, "from-neighbour-routed", "ip4 to={gwmac} dst={self} proto=17 dport=7", back, more{from: "next"}},
	{9, "from-neighbour-arp", "arp tpa={self}", back, more{from: "next"}},
	{9, "from-neighbour6", "ip6", back, more{from: "next"}},

	// Row 21: a metadata service, which the host has for the occasion.
	{21, "metadata-tcp", "ip4 to={gwmac} dst=169.254.169.254 proto=6 dport=80", service, more{}},
	{21, "metadata-udp", "ip4 to={gwmac} dst=169.254.169.254 proto=17 dport=80", service, more{}},
	{21, "metadata-arp", "arp tpa=169.254.169.254", bridge, more{}},
	{21, "metadata-get", "tcp to=169.254.169.254:8022", service, more{stack: true, answer: "connected"}},
}

// oneAddress is the policy that lets one TCP port of one address out, and knows one name.
const oneAddress = `comment = "one address"
secure  = true
dns     = "static"
[hosts]
"data.example.org" = ["198.51.100.2"]
[[rule]]
protocol = "tcp"
peers    = ["data.example.org"]
ports    = ["7443"]
`

// exceptions are what it allows, and its nearest neighbours.
var exceptions = []attack{
	{1, "allowed-tcp", "tcp to={world}:7443", world, more{exception: true, allowed: []string{bridge, uplink, world}, answer: "connected"}},
	{1, "allowed-syn", "ip4 to={gwmac} dst={world} proto=6 sport=5443 dport=7443", world, more{exception: true, allowed: []string{bridge, uplink, world}}},
	{5, "allowed-name", "dns server={gw}:53 name=data.example.org", "", more{exception: true, answer: "rcode 0 198.51.100.2"}},
	{5, "allowed-name-tcp", "dns server={gw}:53 name=data.example.org over=tcp", "", more{exception: true, answer: "rcode 0 198.51.100.2"}},
	{5, "other-name", "dns server={gw}:53", service, more{exception: true, allowed: asked, answer: "rcode 3"}},
	{1, "wrong-port", "ip4 to={gwmac} dst={world} proto=6 dport=7444", world, more{}},
	{1, "wrong-protocol", "ip4 to={gwmac} dst={world} proto=17 dport=7443", world, more{}},
	{1, "wrong-address", "ip4 to={gwmac} dst=198.51.100.3 proto=6 dport=7443", world, more{}},
	{1, "wrong-source", "ip4 to={gwmac} src=203.0.113.9 dst={world} proto=6 dport=7443", world, more{}},
	{1, "backwards", "ip4 to={gwmac} dst={world} proto=6 sport=7443 dport=7001", world, more{}},
	{8, "allowed-port-of-host", "ip4 to={gwmac} dst={host} proto=6 dport=7443", service, more{}},
}
