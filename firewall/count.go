package firewall

import "strconv"

// Count is what a counter of the kernel says.
type Count struct{ Packets, Bytes uint64 }

func (c Count) plus(d Count) Count { return Count{c.Packets + d.Packets, c.Bytes + d.Bytes} }

// minus is never below zero: the two were not read in one instant of the packets' time.
func (c Count) minus(d Count) Count {
	return Count{c.Packets - min(d.Packets, c.Packets), c.Bytes - min(d.Bytes, c.Bytes)}
}

// parseCount reads the numbers of a listing. What is no number is none: it stands where the kernel puts one.
func parseCount(packets, bytes string) Count {
	p, _ := strconv.ParseUint(packets, 10, 64)
	b, _ := strconv.ParseUint(bytes, 10, 64)
	return Count{p, b}
}
