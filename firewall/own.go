package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Own says whether packets to an IPv4 address end at this host, by its routes as they are now: it is an address of the
// host, or a broadcast one. Such packets of a capsule pass INPUT and never FORWARD, so that no rule about peers beyond the
// host opens them. ErrUnavailable if the kernel does not say.
func Own(a netip.Addr) (bool, error) {
	routes, err := netlink.RouteGet(a.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return false, nil // no route, or one of type unreachable, prohibit or blackhole (ip-route(8))
	case err != nil:
		return false, fmt.Errorf("firewall: route to %v: %w: %w", a, ErrUnavailable, err)
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool {
		return r.Type == unix.RTN_LOCAL || r.Type == unix.RTN_BROADCAST || r.Type == unix.RTN_ANYCAST
	}), nil
}
