package firewall

// Policy is the name of a policy, for callers that have not yet turned to plain strings.
type Policy = string

const (
	Closed      Policy = ""            // nothing in, nothing out, both layers
	Maintenance Policy = "maintenance" // DHCP and DNS to the host, the world beyond it by NAT, ssh forwarded in
)

// shown is the name of a policy in logs and metrics.
func shown(policy string) string {
	if policy == Closed {
		return "closed"
	}
	return policy
}

// fence is what a policy means for one binding. The rules are in the words of iptables-save, without "-A
// chain"; a list decides every packet that reaches it, so its last rule takes all that is left.
type fence struct {
	host     []string // from the capsule to the host
	out      []string // from the capsule to anywhere beyond the host
	in       []string // to the capsule, from the host or through it
	from, to string   // verdicts of the bridge layer for frames from and to the tap
}

// fences is the one place that says what each policy allows. A policy of rule lists lands here.
var fences = map[string]func(Options, Binding) fence{
	Closed: func(Options, Binding) fence {
		return fence{host: drop, out: drop, in: drop, from: "drop", to: "drop"}
	},
	Maintenance: maintenanceFence,
}

// forwarding are the policies in which Binding.SSHPort is forwarded.
var forwarding = map[string]bool{Maintenance: true}

func (b Binding) forwarded() bool { return b.SSHPort != 0 && forwarding[b.Policy] }

var drop = []string{"-j DROP"}

// flowLimit is how many connections one binding may have under way at once. The kernel's table of connections is the
// host's, and full it drops everybody's new ones.
const flowLimit = "4096"

// crowded drops the new connections of a binding that has too many (iptables-extensions(8), connlimit).
const crowded = "-m conntrack --ctstate NEW -m connlimit --connlimit-above " + flowLimit +
	" --connlimit-mask 32 --connlimit-saddr -j DROP"

func maintenanceFence(o Options, b Binding) fence {
	gw := o.gateway().String() + "/32"
	f := fence{
		host: []string{
			// Only what answers the host: a packet of the capsule's own connections passes by the rules below.
			"-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j ACCEPT",
			crowded,
			"-d " + gw + " -p udp -m udp --sport 68 --dport 67 -j ACCEPT",
			"-d " + gw + " -p udp -m udp --dport 53 -j ACCEPT",
			"-d " + gw + " -p tcp -m tcp --dport 53 -j ACCEPT",
			"-j DROP",
		},
		out: []string{crowded, "-j ACCEPT"},
		in: []string{
			"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			"-s " + gw + " -p udp -m udp --sport 67 --dport 68 -j ACCEPT",
		},
		from: "goto maintenance_from",
		to:   "goto maintenance_to",
	}
	if b.forwarded() {
		f.in = append(f.in, "-p tcp -m tcp --dport 22 -m conntrack --ctstate DNAT -j ACCEPT")
	}
	f.in = append(f.in, "-j DROP")
	return f
}
