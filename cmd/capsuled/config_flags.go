package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// Exit codes (sysexits.h) of faults that no restart heals: the unit lists them in RestartPreventExitStatus=. The flag
// package's customary 2 will not do, since a Go program that panics ends with it.
const (
	exitUsage  = 64 // EX_USAGE
	exitRuns   = 75 // EX_TEMPFAIL: -fence, and a daemon runs
	exitConfig = 78 // EX_CONFIG
)

// options is what the command line says.
type options struct {
	ConfigPath  string // "" means DefaultConfigPath, if it is there
	CheckConfig bool
	Fence       bool
	Version     bool
}

// parseFlags reads the command line. It writes usage to stderr: with flag.ErrHelp when it was asked for (exit code
// 0), with another error when the line is wrong (exitUsage).
func parseFlags(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("capsuled", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.ConfigPath, "config", "", "read the configuration from `FILE` (default "+DefaultConfigPath+", if it is there)")
	fs.BoolVar(&o.CheckConfig, "check-config", false, "check the configuration, print it as it would be used, and exit")
	fs.BoolVar(&o.Fence, "fence", false, "close the network of all capsules until the daemon opens it again, and exit;\n"+
		"for the time before it runs: exit code 75 when it does")
	fs.BoolVar(&o.Version, "version", false, "print the version and exit")
	fs.Usage = func() {
		fmt.Fprint(stderr, "usage: capsuled [-config FILE] [-check-config | -fence] [-version]\n\n"+
			"Runs the data capsules of this host. Everything else is in the configuration file.\n\n")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return options{}, err
	}
	named := false
	fs.Visit(func(f *flag.Flag) { named = named || f.Name == "config" })
	switch {
	case fs.NArg() > 0:
		return options{}, badUsage(fs, "unexpected argument %q", fs.Arg(0))
	case named && o.ConfigPath == "":
		return options{}, badUsage(fs, "-config wants the name of a file")
	case o.CheckConfig && o.Fence:
		return options{}, badUsage(fs, "-check-config changes nothing and -fence does; give one of them")
	}
	return o, nil
}

func badUsage(fs *flag.FlagSet, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	fmt.Fprintln(fs.Output(), err)
	fs.Usage()
	return err
}

// checkConfig does what -check-config promises, and returns the exit code: 0 and the configuration on stdout, or 1
// and all faults on stderr, those of the policy files with them. Their warnings are on stderr too, and no faults.
func checkConfig(path string, stdout, stderr io.Writer) int {
	c, ok := loadAll(path, stderr)
	if !ok {
		return 1
	}
	fmt.Fprintln(stdout, "ok")
	if err := c.WriteTOML(stdout); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// loadAll reads the configuration and looks at the policy files, and writes all faults to stderr.
func loadAll(path string, stderr io.Writer) (c Config, ok bool) {
	c, err := LoadConfig(path)
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return c, checkPolicies(c.Policy.Dir, stderr) && err == nil
}

// WriteTOML writes the configuration as a file that LoadConfig reads back to the same. It holds no secret, only the
// names of the files that do.
func (c Config) WriteTOML(w io.Writer) error {
	section := ""
	for _, k := range keys {
		if k.section != section {
			section = k.section
			if _, err := fmt.Fprintf(w, "\n[%s]\n", section); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "%s = %s\n", k.name, k.show(c)); err != nil {
			return err
		}
	}
	return nil
}

// ResolvePublicIP is the address that this host has for the world: host.public_ip, else the IPv4 address of the
// default route's interface, else the zero Addr, which means unknown. No packet is sent: connecting a datagram
// socket only asks the kernel for the route. 192.0.2.1 is documentation space (RFC 5737): nothing but a default
// route leads there.
func (c Config) ResolvePublicIP() netip.Addr {
	if c.Host.PublicIP.IsValid() {
		return c.Host.PublicIP
	}
	conn, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip := local.AddrPort().Addr().Unmap()
	if ip.IsLoopback() || ip.IsUnspecified() {
		return netip.Addr{}
	}
	return ip
}
