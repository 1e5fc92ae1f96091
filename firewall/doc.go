// Package firewall fences tap interfaces on one bridge with two independent layers of rules, and a third that has none.
//
// The bridge layer is an nftables table of family bridge. It pins each tap to its MAC and address, lets no
// other ethertype through, lets no frame pass from tap to tap, and admits what is left by setting one bit of
// the packet's mark. The IP layer is iptables: chains of our own behind one jump each at the head of the
// built-in chains. It drops whatever comes from the bridge without that bit (so a port that is no binding's
// reaches nothing, whatever it is called, and a bridge layer that somebody flushed closes the bridge rather
// than opens it), clears the bit, finds the binding by its address in a tree of 16-way chains, and decides:
// no packet from or to the bridge ever returns to the rules of others. IPv6 is dropped both ways.
//
// The third layer is the link: the tap of a binding whose policy allows nothing (Closed among them), and a tap of
// nobody, is administratively down. The kernel then takes no frame from whoever holds the tap and gives it none, also
// when somebody has flushed every rule of the host. It goes down before rules tighten, and up after those are in force
// that let something through; it needs neither iptables nor nft. A tap that does not exist yet is no error: libvirt makes
// it, and up; what [Chains.Put] or Apply sets, or [Chains.Changes] hears of, is set then. Taps of the bridge are isolated
// from each other; one that is a port of another bridge, or of none, stays down whatever its policy, and its Evidence says so.
//
// Vocabulary. A [Binding] ties a tap to its MAC, address and policy. A policy ([policy.Policy]) is given by the
// caller and becomes chains of its own in both layers, which all its bindings share: a binding's own chains go there
// and drop what comes back. A rule set is the text of all chains, in the words of iptables-save. An answer is a packet
// of a connection that the other side began. [Evidence] is what the kernel has for one tap.
//
// Policies. Package policy says what they mean, and a test compares its Explain with real packets. A rule lets an
// answer in by its own narrow match: in the IP layer by the connection too, in the bridge layer, which knows none, by
// the ports and TCP's flags alone. So with the IP layer flushed an answer's ports are a way for datagrams of the
// peers that a rule names, and the host's other addresses cannot be told from the world under a policy that allows
// the world; with the bridge layer flushed nothing passes. Errors of ICMP about connections pass where a policy
// allows something about the world at large, and ARP is for the gateway alone where it does not.
//
// Static DNS. The bridge layer leads questions at port 53 of the host to port 10053, where only [Resolver] answers,
// and the answers back. The IP layer knows port 10053 alone: no question gets to a resolver of the host that would
// ask others, with either layer flushed.
//
// Guarantees. Every change is one transaction per table, and applying the same set twice changes nothing. A
// change of a binding that is not closed, or of what its policy says, closes the bridge layer first, then changes the
// IP layer, cuts the connections, and opens the bridge layer last; so an error anywhere leaves nothing looser than it
// was. Every call ends within seconds, whatever hangs, and waits for others no longer than its context lasts; a tap that
// is to be closed has its link down before that. Bindings that do not change lose no packet meanwhile. A process that starts anew takes a binding whose chains,
// policy or port in the kernel are not those wanted as changed: it is shut and its connections are cut. Rules of
// others are neither read nor moved, but by [Chains.Conflicts], which tells of them: only chains named CAPSULED-* and
// the table "bridge capsuled" are ours.
//
// Concurrency. [Chains] may be used from several goroutines; changes happen one after the other. It remembers
// the bindings it was given, and asks the kernel what is every time it has to know; the one answer it keeps is
// that of the last full reading, and only while the generation number of nf_tables says that nobody, itself
// included, changed any rule since.
//
// Cost. A packet meets a number of rules that does not grow with the bindings, and those of its own policy. Put and
// Drop compile and change only what one binding touches: its chains, the nodes of the trees on the
// way to it, its elements. They start no program: elements go to the kernel through a socket, rules through an
// iptables-restore that stays (see [Chains.Close]). With iptables of the legacy backend there is neither a
// generation nor a program that stays, and all is as correct, and slower.
//
// What it does not do. LLDP frames (01:80:c2:00:00:0e) pass no hook of a bridge: a host that runs an LLDP
// daemon on its taps hears what capsules say there, and no rule can change that: exclude the taps (cap-*) in
// the daemon's settings, or run none. Somebody who flushes all rules of the kernel at once takes both layers of rules
// away, which opens those taps that something may pass; Verify tells, and [Chains.Changes] tells when to ask. Counters
// begin anew when the rules that count
// are written.
//
// The package has never heard of libvirt, and reads no capsule state.
package firewall
