package firewall

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// tree finds one of many keys with at most 16 comparisons for every 4 bits of the key, however many keys
// there are. Each inner node is a chain; a packet leaves it by a goto, so it never comes back.
type tree struct {
	letter byte                                 // tells the trees of one table apart
	root   uint32                               // what all keys have in common, lower bits zero
	bits   int                                  // how many lower bits differ
	match  func(prefix uint32, bits int) string // the match for all keys with this prefix over the lower bits
	suffix string                               // ends each key's rule, after what the leaves say
	tail   []string                             // ends each node: what happens to a key that is not there
}

// node is the name of the chain for the keys with this prefix; at most 22 bytes (iptables takes 28).
func (t tree) node(prefix uint32, bits int) string {
	return fmt.Sprintf("%s%c.%08X.%d", chainPrefix, t.letter, prefix, bits)
}

// top is the name of the root's chain.
func (t tree) top() string { return t.node(t.root, t.bits) }

// compile adds the tree's chains to into. Each key's rule ends in its leaf, such as "-g CHAIN",
// and the suffix. With only,
// no more than the nodes on the ways to these keys are compiled, be the keys there or not.
func (t tree) compile(leaves map[uint32]string, only []uint32, into chainSet) {
	on := func(prefix uint32, bits int) bool {
		return only == nil || slices.ContainsFunc(only, func(k uint32) bool { return k>>bits<<bits == prefix })
	}
	if on(t.root, t.bits) {
		t.compileNode(t.root, t.bits, slices.Sorted(maps.Keys(leaves)), leaves, on, into)
	}
}

func (t tree) compileNode(prefix uint32, bits int, keys []uint32, leaves map[uint32]string, on func(uint32, int) bool, into chainSet) {
	lower := (bits - 1) &^ 3 // the first level takes what is left over by 4 bits a level
	name := t.node(prefix, bits)
	rules := make([]string, 0, 17)
	for len(keys) > 0 {
		child := keys[0] >> lower << lower
		n, _ := slices.BinarySearchFunc(keys, child, func(k, child uint32) int {
			if k>>lower<<lower == child {
				return -1
			}
			return 1
		})
		verdict := leaves[child] + t.suffix
		if lower > 0 {
			verdict = "-g " + t.node(child, lower)
			if on(child, lower) {
				t.compileNode(child, lower, keys[:n], leaves, on, into)
			}
		}
		rules = append(rules, t.match(child, lower)+" "+verdict)
		keys = keys[n:]
	}
	into[name] = append(rules, t.tail...)
}

// way is the nodes on the way to a key, be it there or not, each with how the rule begins that leads on.
func (t tree) way(key uint32) map[string]string {
	nodes := map[string]string{}
	for bits := t.bits; bits > 0; {
		lower := (bits - 1) &^ 3
		nodes[t.node(key>>bits<<bits, bits)] = t.match(key>>lower<<lower, lower) + " "
		bits = lower
	}
	return nodes
}

// addressTrees find a binding's chains: for what it sends to the host, sends out, and gets.
func (o Options) addressTrees() [3]tree {
	return [3]tree{o.addressTree('H', "-s", "-h"), o.addressTree('O', "-s", "-o"), o.addressTree('I', "-d", "-i")}
}

// addressTree is a tree over the addresses of the subnet; flag is -s or -d.
func (o Options) addressTree(letter byte, flag, suffix string) tree {
	return tree{
		letter: letter, suffix: suffix, root: addressKey(o.Subnet.Addr()), bits: 32 - o.Subnet.Bits(), tail: drop,
		match: func(prefix uint32, bits int) string {
			return fmt.Sprintf("%s %v/%d", flag, keyAddress(prefix), 32-bits)
		},
	}
}

// portTree is a tree over the forwarded ports; what it does not know returns to the caller.
func (o Options) portTree() tree {
	bits := 1
	for o.PortLow>>bits != o.PortHigh>>bits {
		bits++
	}
	return tree{
		letter: 'P', root: uint32(o.PortLow) >> bits << bits, bits: bits,
		match: func(prefix uint32, bits int) string {
			if bits == 0 {
				return fmt.Sprintf("-p tcp -m tcp --dport %d", prefix)
			}
			return fmt.Sprintf("-p tcp -m tcp --dport %d:%d", prefix, prefix+1<<bits-1)
		},
	}
}

func addressKey(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func keyAddress(k uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, k)))
}
