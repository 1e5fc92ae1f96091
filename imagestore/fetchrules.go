package imagestore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
)

const maxURL = 2048

// defaultPorts are the schemes that there are.
var defaultPorts = map[string]string{"https": "443", "http": "80"}

// Check says what is wrong with the rules; nil if they can be gone by.
func (r FetchRules) Check() error {
	var errs []error
	for _, scheme := range r.Schemes {
		if defaultPorts[scheme] == "" {
			errs = append(errs, fmt.Errorf("scheme %.20q: want https or http", scheme))
		}
	}
	for _, entry := range r.Allow {
		host, port := splitPort(entry)
		plain := strings.TrimPrefix(host, "*.")
		if plain == "" || plain != canonicalHost(plain) || strings.ContainsAny(plain, "*/@ ") || strings.Trim(port, "0123456789") != "" {
			errs = append(errs, fmt.Errorf("host %.100q: want a lower-case name, \"*.\" and a name, or an address, each with or without a port", entry))
		}
	}
	if r.Timeout < 0 || r.Window < 0 || r.MinRate < 0 {
		errs = append(errs, errors.New("negative limit"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// parse reads a URL and holds it against the rules.
func (r FetchRules) parse(text string) (*url.URL, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	const remedy = "give a URL such as https://images.example.org/disk.qcow2"
	if len(text) > maxURL {
		return nil, refuse(remedy, "the URL is longer than %d bytes", maxURL)
	}
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Hostname() == "" {
		return nil, refuse(remedy, "it is no URL with a host")
	}
	if u.User != nil {
		return nil, refuse("give a URL without a name and a password", "the URL holds a name or a password")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, r.permit(u)
}

// permit holds scheme, host and port against the rules.
func (r FetchRules) permit(u *url.URL) error {
	schemes := r.Schemes
	if len(schemes) == 0 {
		schemes = []string{"https"}
	}
	if !slices.Contains(schemes, u.Scheme) {
		return refuse("give a URL that begins with "+strings.Join(schemes, ":// or ")+"://", "the scheme %.20q is not allowed", u.Scheme)
	}
	if u.User != nil {
		return refuse("give a URL that does not lead to one with a name", "it was redirected to a URL with a name or a password")
	}
	host, port := canonicalHost(u.Hostname()), u.Port()
	if port == "" {
		port = defaultPorts[u.Scheme]
	}
	for _, entry := range r.Allow {
		name, at := splitPort(entry)
		if at == "" {
			at = defaultPorts[u.Scheme]
		}
		below, wild := strings.CutPrefix(name, "*")
		if at == port && (host == name || wild && strings.HasSuffix(host, below) && len(host) > len(below)) {
			return nil
		}
	}
	return refuse("give a URL of a host that is allowed here", "images are not fetched from %.100q", u.Host)
}

// canonicalHost is how hosts are compared: lower case, without the dot at the end. A name of other than ASCII letters
// is nobody's here: net/http would translate it.
func canonicalHost(host string) string {
	for _, c := range []byte(host) {
		if c <= ' ' || c >= 0x7f {
			return ""
		}
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// splitPort takes the port off an entry of the rules, and the brackets off an IPv6 address.
func splitPort(entry string) (host, port string) {
	if host, port, err := net.SplitHostPort(entry); err == nil {
		return host, port
	}
	return strings.Trim(entry, "[]"), ""
}

// control is asked for each connection, with the address that it will be made to, after the name was resolved and
// before a packet is sent.
func (r FetchRules) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	if why := r.closed(to.Addr(), own); why != "" {
		return fmt.Errorf("%s is %s: %w", to.Addr(), why,
			refuse("give a URL of a host that is reachable for everybody", "its host has an address that images are not fetched from"))
	}
	return nil
}

// ownAddresses are those of this machine.
func ownAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().Unmap().WithZone(""))
		}
	}
	return own, nil
}

// specialAddresses are networks that are not the internet, after the registries of IANA (RFC 6890). Those that
// nobody can open lead to this machine or its link, to many at once, or to an IPv4 address in disguise.
var specialAddresses = []struct {
	network  netip.Prefix
	what     string
	openable bool
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network", false},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback", false},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local", false}, // clouds answer there with the host's own secrets
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast", false},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved", false},
	{netip.MustParsePrefix("10.0.0.0/8"), "private", true},
	{netip.MustParsePrefix("172.16.0.0/12"), "private", true},
	{netip.MustParsePrefix("192.168.0.0/16"), "private", true},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared", true},
	{netip.MustParsePrefix("192.0.0.0/24"), "for protocols", true},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks", true},
	{netip.MustParsePrefix("::/96"), "loopback or an IPv4 address", false},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "an IPv4 address", false},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "an IPv4 address", false},
	{netip.MustParsePrefix("2001::/32"), "a tunnel", false}, // Teredo
	{netip.MustParsePrefix("2002::/16"), "a tunnel", false}, // 6to4
	{netip.MustParsePrefix("fe80::/10"), "link-local", false},
	{netip.MustParsePrefix("fec0::/10"), "site-local", false},
	{netip.MustParsePrefix("ff00::/8"), "multicast", false},
	{netip.MustParsePrefix("fc00::/7"), "private", true},
}

// nat64 is where a translator shows IPv4 addresses to machines that have only IPv6 (RFC 6052): in the last four bytes.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// closed says what keeps an address closed; "" if nothing does.
func (r FetchRules) closed(a netip.Addr, own []netip.Addr) string {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		return r.closed(netip.AddrFrom4([4]byte(b[12:])), own)
	}
	in := func(networks []netip.Prefix) bool {
		return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if in(r.Deny) {
		return "denied"
	}
	opened := in(r.Private)
	for _, k := range specialAddresses {
		if k.network.Contains(a) && !(k.openable && opened) {
			return k.what
		}
	}
	if slices.Contains(own, a) && !opened {
		return "this machine's own"
	}
	return ""
}
