package domain

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

const (
	maxName    = 15 // IFNAMSIZ-1: the name is an interface's name too
	maxVCPUs   = 255
	maxDisks   = 6 // leaves at least two of the root ports for hot-plug
	maxBacking = 2
	maxLabels  = 16
	maxText    = 255
	mebibyte   = 1 << 20
	minVNCPort = 5900
	maxVNCPass = 8
)

var (
	namePattern   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,14}$`)
	serialPattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{0,20}$`)
	labelPattern  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
	hostPattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// generatedTaps are the prefixes that libvirt takes for names of its own making: it drops such a target and
// invents another, and whatever was fenced by name would not be fenced.
var generatedTaps = []string{"vnet", "vif", "macvtap", "macvlan"}

// formats are the disk formats that a Spec may state.
var formats = []string{"raw", "qcow2"}

// faults collects everything that is wrong, so that a caller learns it all at once.
type faults struct{ errs []error }

func (f *faults) check(ok bool, format string, args ...any) {
	if !ok {
		f.errs = append(f.errs, fmt.Errorf(format, args...))
	}
}

func (f *faults) err(what string) error {
	if len(f.errs) == 0 {
		return nil
	}
	return fmt.Errorf("domain: %s: %w: %w", what, ErrInvalid, errors.Join(f.errs...))
}

// Validate reports everything that is wrong with the spec, as one error that wraps ErrInvalid. The password
// is never part of the text.
func (s Spec) Validate() error {
	var f faults
	f.check(isUUID(string(s.ID)), "id %q is not a lower-case UUID", s.ID)
	f.check(namePattern.MatchString(s.Name), "name %q is not 1 to %d of [a-z0-9-] after a letter", s.Name, maxName)
	f.check(s.Record != "" && isText(s.Record), "record id %q is empty, too long or not printable", s.Record)
	f.check(len(s.Labels) <= maxLabels, "%d labels, at most %d are kept", len(s.Labels), maxLabels)
	for _, k := range sortedKeys(s.Labels) {
		f.check(labelPattern.MatchString(k), "label name %q is not [a-z][a-z0-9_]*", k)
		f.check(isText(s.Labels[k]), "label %s is too long or not printable", k)
	}
	f.check(s.VCPUs >= 1 && s.VCPUs <= maxVCPUs, "%d vcpus, want 1 to %d", s.VCPUs, maxVCPUs)
	f.check(s.MemoryBytes > 0 && s.MemoryBytes%mebibyte == 0, "memory of %d bytes is not a positive multiple of 1 MiB", s.MemoryBytes)
	f.check(len(s.Disks) >= 1 && len(s.Disks) <= maxDisks, "%d disks, want 1 to %d", len(s.Disks), maxDisks)
	for i, d := range s.Disks {
		d.validate(&f, fmt.Sprintf("disk %d", i))
	}
	s.uniqueDisks(&f)
	s.NIC.validate(&f)
	s.VNC.validate(&f)
	checkPath(&f, "serial log", s.SerialLog)
	f.check(isUUID(s.GenerationID), "generation id %q is not a lower-case UUID", s.GenerationID)
	return f.err("spec of " + cut(s.Name))
}

// uniqueDisks refuses one file or serial twice: two writers on one file destroy it.
func (s Spec) uniqueDisks(f *faults) {
	seen := map[string]bool{}
	for i, d := range s.Disks {
		f.check(!seen["p"+d.Path], "disk %d: %s is there twice", i, d.Path)
		f.check(d.Serial == "" || !seen["s"+d.Serial], "disk %d: serial %s is there twice", i, d.Serial)
		seen["p"+d.Path], seen["s"+d.Serial] = true, true
	}
}

func (d Disk) validate(f *faults, what string) {
	checkPath(f, what, d.Path)
	f.check(slices.Contains(formats, d.Format), "%s: format %q is neither raw nor qcow2", what, d.Format)
	f.check(serialPattern.MatchString(d.Serial), "%s: serial %q is not up to 20 of [A-Za-z0-9_.-]", what, d.Serial)
	f.check(d.Backing == nil || d.Format == "qcow2", "%s: a %s disk has no backing file", what, d.Format)
	seen := []string{d.Path}
	for b := d.Backing; b != nil; b = b.Backing {
		if len(seen) > maxBacking {
			f.check(false, "%s: more than %d backing files", what, maxBacking)
			return
		}
		checkPath(f, what+": backing file", b.Path)
		f.check(slices.Contains(formats, b.Format), "%s: backing format %q is neither raw nor qcow2", what, b.Format)
		f.check(b.Backing == nil || b.Format == "qcow2", "%s: a %s backing file has none of its own", what, b.Format)
		f.check(!slices.Contains(seen, b.Path), "%s: is its own backing file", what)
		seen = append(seen, b.Path)
	}
}

func (n NIC) validate(f *faults) {
	f.check(isText(n.Network) && n.Network != "", "network name %q is empty, too long or not printable", n.Network)
	f.check(namePattern.MatchString(n.Tap), "tap %q is not 1 to %d of [a-z0-9-] after a letter", n.Tap, maxName)
	for _, p := range generatedTaps {
		f.check(!strings.HasPrefix(n.Tap, p), "tap %q: libvirt would rename what starts with %s", n.Tap, p)
	}
	f.check(isUnicast(n.MAC), "mac %s is not a unicast Ethernet address", n.MAC)
}

func (v VNC) validate(f *faults) {
	f.check(v.Listen.IsValid() && v.Listen.Zone() == "", "vnc: listen address %s is not an address", v.Listen)
	f.check(v.Port >= minVNCPort && v.Port <= 65535, "vnc: port %d is not within %d to 65535", v.Port, minVNCPort)
	checkPassword(f, v.Password)
}

// checkPassword has a text that never shows the password; its length is no secret.
func checkPassword(f *faults, password string) {
	f.check(len(password) >= 1 && len(password) <= maxVNCPass, "vnc: password of %d bytes, want 1 to %d", len(password), maxVNCPass)
	f.check(!strings.ContainsFunc(password, func(r rune) bool { return r < ' ' || r > '~' }), "vnc: password is not printable ASCII")
}

// Validate reports everything that is wrong with the network, as one error that wraps ErrInvalid.
func (n Network) Validate() error {
	var f faults
	f.check(namePattern.MatchString(n.Name), "name %q is not 1 to %d of [a-z0-9-] after a letter", n.Name, maxName)
	f.check(namePattern.MatchString(n.Bridge), "bridge %q is not 1 to %d of [a-z0-9-] after a letter", n.Bridge, maxName)
	f.check(!strings.HasPrefix(n.Bridge, "virbr"), "bridge %q: libvirt takes virbr* for its own", n.Bridge)
	f.check(n.Subnet.IsValid() && n.Subnet.Addr().Is4() && n.Subnet.Bits() >= 8 && n.Subnet.Bits() <= 29,
		"subnet %s is not IPv4 of /8 to /29", n.Subnet)
	f.check(!n.Subnet.IsValid() || n.Subnet == n.Subnet.Masked(), "subnet %s has host bits set", n.Subnet)
	return f.err("network " + cut(n.Name))
}

// Gateway is the host's own address in the subnet: the first one.
func (n Network) Gateway() netip.Addr { return n.Subnet.Masked().Addr().Next() }

// validate checks a lease against the subnet that it is for.
func (l Lease) validate(subnet netip.Prefix) error {
	var f faults
	f.check(isUnicast(l.MAC), "mac %s is not a unicast Ethernet address", l.MAC)
	// A name is required: with one, dnsmasq ignores the name that the guest asks for.
	f.check(hostPattern.MatchString(l.Name), "name %q is not a DNS label", l.Name)
	f.check(l.IP.Is4() && subnet.Contains(l.IP), "address %s is not in %s", l.IP, subnet)
	f.check(l.IP != subnet.Masked().Addr() && l.IP != subnet.Masked().Addr().Next() && l.IP != broadcast(subnet),
		"address %s is the network's own", l.IP)
	return f.err("lease of " + l.MAC.String())
}

func broadcast(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(a)
}

func checkPath(f *faults, what, path string) {
	f.check(filepath.IsAbs(path) && filepath.Clean(path) == path, "%s: path %q is not absolute and clean", what, cut(path))
	f.check(len(path) < 4096 && utf8.ValidString(path) && !strings.ContainsFunc(path, unicode.IsControl),
		"%s: path is too long, not UTF-8 or holds control characters", what)
}

// isText reports whether s can stand in an XML document and in a metric's label as it is.
func isText(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsPrint(r) || r == unicode.ReplacementChar
	})
}

func isUUID(s string) bool {
	u, err := uuid.Parse(s)
	return err == nil && u != uuid.Nil && u.String() == s
}

func isUnicast(m net.HardwareAddr) bool {
	return len(m) == 6 && m[0]&1 == 0 && !slices.Equal(m, make(net.HardwareAddr, 6))
}

// cut keeps an unchecked string from flooding an error text.
func cut(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "..."
	}
	return s
}
