package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/capsuled/capsuled/api"
)

// maxSocketPath is the room for a path in sockaddr_un (108 bytes with the closing NUL).
const maxSocketPath = 107

// lowestPort is the first port that VNC displays may have: libvirt refuses a fixed one below 5900.
const lowestPort = 5900

var (
	hostNameForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
	// Names go into libvirt's XML, file names and rules, so they are kept duller than the kernel asks for.
	nameForm  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)
	groupForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	portForm  = regexp.MustCompile(`^([1-9][0-9]{0,4})-([1-9][0-9]{0,4})$`)
)

var hostName = kind[string]{
	show: strconv.Quote,
	read: func(raw any) (string, error) {
		s, ok := raw.(string)
		if !ok {
			return "", wrongType(raw, "a text in quotes")
		}
		if s == "" {
			return machineName(), nil
		}
		if len(s) > 253 || !hostNameForm.MatchString(s) {
			return "", fmt.Errorf("is %q; want a host name: letters, digits, '-' and '.', at most 253 characters", s)
		}
		return s, nil
	},
}

var publicIP = parsed("203.0.113.7", func(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	ip, err := netip.ParseAddr(s)
	if err != nil || !ip.Is4() || ip.IsUnspecified() || ip.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("is %q; want this host's IPv4 address, such as \"203.0.113.7\", or \"\" for that of the default route", s)
	}
	return ip, nil
}, func(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.String()
})

var address = parsed("127.0.0.1", func(s string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.Zone() != "" || ip.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("is %q; want an IP address, such as \"127.0.0.1\"", s)
	}
	return ip, nil
}, netip.Addr.String)

var subnet = parsed("192.168.53.0/24", func(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is4():
		return netip.Prefix{}, fmt.Errorf("is %q; want an IPv4 network, such as \"192.168.53.0/24\"", s)
	case p.Bits() < 16 || p.Bits() > 29:
		return netip.Prefix{}, fmt.Errorf("is %q; want a prefix length from /16 to /29", s)
	case !p.Addr().IsPrivate():
		return netip.Prefix{}, fmt.Errorf("is %q; want a private network, within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16", s)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("is %q, an address and not a network; want %q", s, p.Masked())
	}
	return p, nil
}, netip.Prefix.String)

var portRange = parsed("16000-16100", func(s string) (PortRange, error) {
	want := "want \"LOW-HIGH\", such as \"16000-16100\""
	m := portForm.FindStringSubmatch(s)
	if m == nil {
		return PortRange{}, fmt.Errorf("is %q; %s", s, want)
	}
	low, errLow := strconv.ParseUint(m[1], 10, 16)
	high, errHigh := strconv.ParseUint(m[2], 10, 16)
	switch {
	case errLow != nil || errHigh != nil:
		return PortRange{}, fmt.Errorf("is %q; a port is at most 65535", s)
	case low < lowestPort:
		return PortRange{}, fmt.Errorf("is %q; LOW is at least %d, the first VNC port", s, lowestPort)
	case high <= low:
		return PortRange{}, fmt.Errorf("is %q; HIGH is above LOW, for a capsule needs two ports", s)
	}
	return PortRange{Low: uint16(low), High: uint16(high)}, nil
}, PortRange.String)

func duration(low, high time.Duration) kind[time.Duration] {
	return parsed("30s", func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < low || d > high {
			return 0, fmt.Errorf("is %q; want a duration from %q to %q, such as \"30s\"", s, low, high)
		}
		return d, nil
	}, shortDuration)
}

// shortDuration writes whole minutes and hours without their zero parts: "30s", "5m", "1h".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var logLevel = parsed("info", func(s string) (slog.Level, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	l, ok := levels[s]
	if !ok {
		return 0, fmt.Errorf("is %q; want one of \"debug\", \"info\", \"warn\", \"error\"", s)
	}
	return l, nil
}, func(l slog.Level) string { return strings.ToLower(l.String()) })

// checkPath accepts absolute paths that mean one thing only. The root itself is refused: nobody keeps records there
// on purpose.
func checkPath(s string) error {
	if !filepath.IsAbs(s) || filepath.Clean(s) != s || s == "/" || strings.ContainsFunc(s, isControl) {
		return fmt.Errorf("is %q; want an absolute path without \"..\", \"//\" or a closing \"/\"", s)
	}
	return nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

func checkSocket(s string) error {
	if len(s) > maxSocketPath {
		return fmt.Errorf("has %d bytes; the path of a unix socket has at most %d", len(s), maxSocketPath)
	}
	return checkPath(s)
}

// checkURI accepts local QEMU drivers alone: everything else the daemon does (taps, rules, files) is on this machine.
func checkURI(s string) error {
	want := fmt.Errorf("is %q; want \"qemu:///system\": the daemon manages only the machine it runs on", s)
	u, err := url.Parse(s)
	if err != nil || u.Host != "" || u.User != nil || u.Path != "/system" || u.Fragment != "" {
		return want
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return want
	}
	switch u.Scheme {
	case "qemu":
		if len(query) > 0 {
			return want
		}
	case "qemu+unix": // the same, with a socket in another place
		if len(query) != 1 || len(query["socket"]) != 1 || checkPath(query.Get("socket")) != nil {
			return fmt.Errorf("is %q; want \"qemu+unix:///system?socket=/absolute/path\"", s)
		}
	default:
		return want
	}
	return nil
}

func checkNetworkName(s string) error {
	if len(s) > 50 || !nameForm.MatchString(s) {
		return fmt.Errorf("is %q; want a letter, then letters, digits, '-' or '_', at most 50 characters", s)
	}
	return nil
}

// checkInterface: 15 is IFNAMSIZ-1; "cap-" is what taps of capsules are called.
func checkInterface(s string) error {
	if len(s) > 15 || !nameForm.MatchString(s) {
		return fmt.Errorf("is %q; want a letter, then letters, digits, '-' or '_', at most 15 characters", s)
	}
	if strings.HasPrefix(s, "cap-") {
		return fmt.Errorf("is %q; names that begin with \"cap-\" belong to the taps of capsules", s)
	}
	return nil
}

func checkGroup(s string) error {
	if !groupForm.MatchString(s) {
		return fmt.Errorf("is %q; want the name of a group: lower-case letters, digits, '-' or '_', at most 32 characters", s)
	}
	return nil
}

func checkGUID(s string) error {
	if err := api.CheckGUID(s); err != nil {
		return fmt.Errorf("is %q; a guid %w", s, err)
	}
	return nil
}

func checkPublicURL(s string) error {
	if err := api.CheckPublicURL(s); err != nil {
		return fmt.Errorf("is %q; it %w", s, err)
	}
	return nil
}

// checkListen wants a literal address: a name may come to mean another address than the one that was judged.
func checkListen(s string) error {
	if _, err := parseListen(s); err != nil {
		return fmt.Errorf("is %q; want IP:PORT, such as \"127.0.0.1:8080\", \"0.0.0.0:8443\" or \"[::1]:8080\"", s)
	}
	return nil
}

// parseListen splits IP:PORT.
func parseListen(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, err
	}
	if a.Port() == 0 || a.Addr().IsMulticast() {
		return a, &net.AddrError{Err: "nothing can listen there", Addr: s}
	}
	return a, nil
}
