package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Fence is what one layer of the firewall lets a domain do, judged from the rules in the kernel and from nothing that
// capsuled says of them.
type Fence string

const (
	Gone   Fence = "gone"   // nothing stops a packet: the built-in chain takes it at its end, or the link is up
	Closed Fence = "closed" // no packet from or to the domain is taken
	Listed Fence = "listed" // packets from or to some addresses are taken, and no others
	Open   Fence = "open"   // packets are taken wherever they come from or go to
)

// Fences are the layers that a domain's packets pass. That of the link is closed while the tap is down, or not there.
type Fences struct{ IPv4, IPv6, Bridge, Link Fence }

func (f Fences) String() string {
	return fmt.Sprintf("IPv4 %s, IPv6 %s, bridge %s, link %s", f.IPv4, f.IPv6, f.Bridge, f.Link)
}

// open says that rules of some layer take what they like, be the link up or down: no policy is to say so. Rules that are
// gone are no fault while another layer is there, which closes alone.
func (f Fences) open() bool { return f.IPv4 == Open || f.IPv6 == Open || f.Bridge == Open }

// bare says that every layer is gone that would stop some packet.
func (f Fences) bare() bool {
	return f.Link == Gone && f.Bridge == Gone && (f.IPv4 == Gone || f.IPv6 == Gone)
}

// readLink looks whether a tap is up: then it stops nothing.
func readLink(tap string) (Fence, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("rig: link of %s: %w", tap, err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq(tap)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr)
	}
	switch {
	case errors.Is(err, unix.ENODEV):
		return Closed, nil
	case err != nil:
		return "", fmt.Errorf("rig: link of %s: %w", tap, err)
	case ifr.Uint16()&unix.IFF_UP != 0:
		return Gone, nil
	}
	return Closed, nil
}

// ReadFences reads the link of a domain, which is called like its tap, and the rules around it with the programs that an
// operator reads them with.
func ReadFences(ctx context.Context, domain string, address netip.Addr) (f Fences, err error) {
	if f.Link, err = readLink(domain); err != nil {
		return f, err
	}
	for _, look := range []struct {
		program string
		address netip.Addr
		fence   *Fence
	}{{"iptables-save", address, &f.IPv4}, {"ip6tables-save", netip.Addr{}, &f.IPv6}} {
		text, err := output(ctx, look.program, "-t", "filter")
		if err != nil {
			return f, err
		}
		rules, err := readIPTables(text)
		if err != nil {
			return f, err
		}
		*look.fence = rules.fence(bridgeName, look.address)
	}
	text, err := output(ctx, "nft", "-j", "list", "table", "bridge", "capsuled")
	if err != nil && strings.Contains(err.Error(), "No such file or directory") {
		f.Bridge = Gone
		return f, nil
	}
	if err != nil {
		return f, err
	}
	table, err := readBridge(text)
	if err != nil {
		return f, err
	}
	f.Bridge = table.fence(domain)
	return f, nil
}

func output(ctx context.Context, program string, args ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("rig: %s: %w: %s", program, err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.Bytes(), nil
}

// takings gathers how packets of one domain are taken on the walks through a layer.
type takings struct{ fell, listed, open bool }

func (t *takings) take(bounded bool) {
	t.listed = t.listed || bounded
	t.open = t.open || !bounded
}

func (t takings) fence() Fence {
	switch {
	case t.open:
		return Open
	case t.fell:
		return Gone
	case t.listed:
		return Listed
	}
	return Closed
}

// match says whether a rule is about a packet of which not everything is known.
type match int

const (
	no match = iota
	maybe
	yes
)
