// Package policy reads policy files: what the interface of a capsule may send and get. It is pure: it opens no
// socket and asks no resolver, so that a file means the same today and tomorrow.
//
// Vocabulary. A [Policy] is what one file says. A [Rule] allows or denies new connections between the capsule and its
// peers. "The host" is the hypervisor host at its one address on the bridge; "beyond the host" is every other IPv4
// address. A [Packet] is the first packet of a connection, as a person would name it; a [Verdict] is what becomes of
// it and why. A [Fault] is one thing wrong with a file.
//
// What a policy means, for everything that enforces or explains one:
//
//  1. Closed whatever a policy says: IPv6; every ethertype but IPv4 and the ARP that IPv4 needs; peers in [Closed];
//     other capsules; addresses of the host other than the one on the bridge. No rule opens them.
//  2. The keys come before the rules, and no rule denies what a key allows. DHCP allows UDP from port 68 to port 67 of the
//     host (and the broadcasts that come before an address is known). DNS other than [NoDNS] allows UDP and TCP to port 53 of the
//     host: [Static] is answered from Policy.Hosts and nothing else, [Forward] by the host's resolver. SSH allows TCP
//     to port 22 of the capsule, through the port of the host that is forwarded to it and in no other way.
//  3. Then the rules, in order: the first whose direction, protocol, peer and port match decides.
//  4. What no rule matched is dropped.
//
// A rule matches when all of these do:
//
//   - Direction: [Out] rules match what the capsule begins, [In] rules what the peer begins towards the capsule's own
//     address.
//   - Protocol: [TCP], [UDP] themselves; [ICMP] echo requests alone; [Any] every IPv4 protocol, all of ICMP included.
//   - Peer: with Host the host and nothing else; otherwise an address beyond the host, in one of Peers if there are
//     any. So no rule about peers, "anywhere" included, ever reaches the host, and no rule about the host reaches
//     beyond it.
//   - Port: of the packet's destination, in one of Ports if there are any. In an In rule that is a port of the capsule.
//
// Replies belong to the connection that was allowed; there is no rule for them, and no reply without a connection. The
// ICMP errors about a connection pass too, but only under a policy with an allow rule about anywhere: elsewhere they
// would come from machines on the way that nobody listed. A deny rule denies new connections; those under way are cut
// when a policy changes.
//
// Guarantees. A file is read whole or not at all: the error names every fault, with its line. Whatever is returned
// passes [Policy.Validate], and what is Secure then cannot reach a resolver, a DHCP server other than the host's, or
// addresses that nobody listed. Nothing in a file is looked up.
//
// Concurrency. All functions may be called at once; values are not changed after they were returned.
//
// What it does not do. It knows no addresses of the host or of capsules: who asks about a [Packet] says whether the
// peer is the host. It writes no rules.
package policy
