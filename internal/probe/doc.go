// Command probe attacks from inside a guest: it sends what a hostile guest would send, and what is in a packet says
// which attack it was, so that whoever captures on the outside can tell what got through.
//
//	probe [-i INTERFACE] -mark TEXT <SCRIPT
//
// A script has one attack a line: a name, a verb, and arguments of the form key=value. Every packet of an attack
// carries the marker TEXT-NAME-TEXT in one piece. What came of each attack is one line of the output: its name and what
// happened. That a packet was sent says nothing about where it arrived.
//
//	tcp-out   tcp to=198.51.100.2:7001
//	vlan      ip4 dst=198.51.100.2 proto=17 dport=7001 vlan=5
//	ra        ip6 kind=ra
//
// A line that is not understood is an error, and then nothing of the script runs. Attacks through the guest's own
// network stack, which may wait for an answer, run beside each other, two seconds each at most; frames are sent in the
// order of the script, past the guest's stack, its routes and its filters (packet(7)).
//
// It is a static program for Linux and needs nothing of the guest but a kernel with packet sockets.
package main
