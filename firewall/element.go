package firewall

import (
	"slices"
	"strings"
)

// pin is one element of a set or map of the bridge table that a binding has there.
type pin struct {
	set     string
	text    string // in the words of "nft list"
	verdict string // of a map's element; "" in a set
	of      Binding
}

// pins are the elements of one binding.
func (o Options) pins(b Binding) []pin {
	tap, mac := `"`+b.Tap+`"`, b.MAC.String()
	from, to := strings.TrimSpace(refusedFrom), strings.TrimSpace(refusedTo)
	if b.Policy != Closed {
		from, to = "goto "+bridgeName("p", b.Policy, "from"), "goto "+bridgeName("p", b.Policy, "to")
	}
	list := []pin{
		{"taps", tap, "", b},
		{"denied_from", tap, "", b},
		{"denied_to", tap, "", b},
		{"from", tap + " : " + from, from, b},
		{"to", tap + " : " + to, to, b},
	}
	if b.Policy == Closed {
		return list // no frame gets as far as a lookup
	}
	number := strings.TrimLeft(strings.ReplaceAll(mac, ":", ""), "0")
	return append(list,
		pin{"macs", tap + " . " + mac, "", b},
		pin{"addrs", tap + " . " + mac + " . " + b.IP.String(), "", b},
		pin{"chaddrs", tap + " . 0x" + number, "", b})
}

// key is the element as the kernel keeps it: each part of a concatenation ends on a multiple of four bytes.
func (p pin) key() []byte {
	k := make([]byte, 16, 28) // IFNAMSIZ
	copy(k, p.of.Tap)
	switch p.set {
	case "macs", "chaddrs":
		return append(append(k, p.of.MAC...), 0, 0)
	case "addrs":
		return append(append(append(k, p.of.MAC...), 0, 0), p.of.IP.AsSlice()...)
	}
	return k
}

// without are the pins that are not among others.
func without(pins, others []pin) []pin {
	return slices.DeleteFunc(slices.Clone(pins), func(p pin) bool {
		return slices.ContainsFunc(others, p.same)
	})
}

func (p pin) same(q pin) bool { return p.set == q.set && p.text == q.text }
