// Package firewall fences tap interfaces on one bridge with two independent layers.
//
// The IP layer is iptables: chains of our own behind one jump each at the head of the built-in chains. The
// bridge layer is an nftables table of family bridge that pins each tap to its MAC and address and lets no
// other ethertype through. What enters or leaves the bridge and belongs to no binding is dropped by both.
//
// The caller gives [Chains] the whole set of bindings or changes one of them; every change is one transaction
// per layer, applied tighter before looser, and applying the same set twice changes nothing. Rules of others
// are never touched. The package has never heard of libvirt, and reads no capsule state.
package firewall
