package firewall

import "github.com/capsuled/capsuled/firewall/policy"

// What follows is for callers that do not give policies yet; it goes when they do.

// Policy is the name of a policy.
type Policy = string

// Maintenance names the policy that is loaded where Options gives none.
const Maintenance = "maintenance"

// maintenance is DHCP and DNS by the host, the world beyond it, ssh forwarded in.
var maintenance = policy.Policy{
	Name: Maintenance, DHCP: true, DNS: policy.Forward, SSH: true,
	Rules: []policy.Rule{{Direction: policy.Out, Protocol: policy.Any}},
}
