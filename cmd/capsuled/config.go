package main

import (
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"time"
)

// DefaultConfigPath is the file that is read when none is named. Its absence is no fault: the daemon then runs on
// DefaultConfig. A file that somebody named must be there.
const DefaultConfigPath = "/etc/capsuled/capsuled.toml"

// Config is everything an operator may decide, already parsed: whatever LoadConfig returns without an error can be
// used as it is. docs/configuration.md describes each key.
type Config struct {
	Host     HostConfig
	Libvirt  LibvirtConfig
	Network  NetworkConfig
	API      APIConfig
	Auth     AuthConfig
	Identity IdentityConfig
	Quota    QuotaConfig
	Capsule  CapsuleConfig
	Images   ImagesConfig
	Policy   PolicyConfig
	Secure   SecureConfig
	Log      LogConfig
}

// HostConfig is [host]: who this machine is, and where the daemon keeps its files.
type HostConfig struct {
	Name     string     // reported to callers; the machine's host name when the file says nothing or ""
	PublicIP netip.Addr // where researchers reach this host; zero when not configured: see ResolvePublicIP
	StateDir string     // records, images, capsules
	RunDir   string     // sockets and what need not outlive a reboot
}

// LibvirtConfig is [libvirt].
type LibvirtConfig struct {
	URI       string // always a local qemu driver
	VirtType  string // "auto", "kvm" or "qemu"
	QEMUGroup string // group that libvirt runs QEMU in; may read images
}

// NetworkConfig is [network]: the one network that capsules are on.
type NetworkConfig struct {
	Name      string
	Bridge    string
	Subnet    netip.Prefix // private IPv4, masked, /16 to /29
	Ports     PortRange    // host ports handed out in pairs, one for ssh and one for VNC
	VNCListen netip.Addr
}

// APIConfig is [api]: where the daemon listens, and where it is reached.
type APIConfig struct {
	Socket    string   // unix socket for the operator's tools
	Group     string   // its members are administrators on the socket
	Listen    []string // IP:PORT each; beyond loopback only with TLS
	PublicURL string   // what links begin with; "" means what the request was sent to
	TLSCert   string   // "" means plain HTTP, and then loopback alone
	TLSKey    string
	ClientCA  string // "" means that no client certificate is asked for
}

// AuthConfig is [auth]: who is who on TCP.
type AuthConfig struct {
	JWTSecretFile string   // "" means that nobody is let in on TCP
	Admins        []string // guids
}

// QuotaConfig is [quota]: what one user may hold. A user's own record may say otherwise.
type QuotaConfig struct {
	CPUs     int
	MemoryMB int
	DiskGB   int
	Images   int
}

// CapsuleConfig is [capsule]: what every capsule gets.
type CapsuleConfig struct {
	VolumeGB      int           // secure volume
	SpoolGB       int           // results spool
	StopGrace     time.Duration // how long a guest may take to shut down before its process is ended
	DiskReserveGB int           // work that would leave less free than this is refused
}

// PolicyConfig is [policy]: what capsules may send and get.
type PolicyConfig struct {
	Dir string // policy files; see loadPolicies for what is not there
}

// SecureConfig is [secure]: how secure mode is entered, watched and left.
type SecureConfig struct {
	VerifyEvery           time.Duration // how often each capsule in secure mode is looked at
	MountWait             time.Duration // how long a guest may take to mount its volumes
	FlushWait             time.Duration // how long a guest may take to write back before it is destroyed
	RotateConsolePassword bool          // a new console password on entering and on leaving
	CutConsoles           bool          // console connections end on entering; on leaving they end anyway, with the process
}

// LogConfig is [log].
type LogConfig struct {
	Level  slog.Level
	Format string // "auto", "text", "json" or "journal"
}

// PortRange is a range of TCP ports, both ends included.
type PortRange struct {
	Low, High uint16
}

// Pairs is how many capsules can hold ports at the same time.
func (r PortRange) Pairs() int { return (int(r.High) - int(r.Low) + 1) / 2 }

// Contains reports whether port is in the range.
func (r PortRange) Contains(port uint16) bool { return r.Low <= port && port <= r.High }

// String is the range as the file has it: "LOW-HIGH".
func (r PortRange) String() string {
	return strconv.Itoa(int(r.Low)) + "-" + strconv.Itoa(int(r.High))
}

// DefaultConfig is the configuration of a machine without a file.
func DefaultConfig() Config {
	return Config{
		Host: HostConfig{
			Name:     machineName(),
			StateDir: "/var/lib/capsuled",
			RunDir:   "/run/capsuled",
		},
		Libvirt: LibvirtConfig{
			URI:       "qemu:///system",
			VirtType:  "auto",
			QEMUGroup: "libvirt-qemu",
		},
		Network: NetworkConfig{
			Name:      "capsules",
			Bridge:    "capsbr0",
			Subnet:    netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 53, 0}), 24),
			Ports:     PortRange{Low: 16000, High: 16100},
			VNCListen: netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		},
		API: APIConfig{
			Socket: "/run/capsuled/capsuled.sock",
			Group:  "capsuled",
			Listen: []string{"127.0.0.1:8080"},
		},
		Auth:     AuthConfig{Admins: []string{}},
		Identity: defaultIdentity(),
		Quota:    QuotaConfig{CPUs: 10, MemoryMB: 20480, DiskGB: 100, Images: 5},
		Capsule: CapsuleConfig{
			VolumeGB:      10,
			SpoolGB:       10,
			StopGrace:     30 * time.Second,
			DiskReserveGB: 1,
		},
		Images: defaultImages(),
		Policy: PolicyConfig{Dir: "/etc/capsuled/policies"},
		Secure: SecureConfig{
			VerifyEvery: 5 * time.Second,
			MountWait:   20 * time.Second,
			FlushWait:   5 * time.Second,
			CutConsoles: true,
		},
		Log: LogConfig{Level: slog.LevelInfo, Format: "auto"},
	}
}

// machineName is the host name, or "localhost" on a machine that has none: a name is only shown, so its lack is no
// reason not to start.
func machineName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	return name
}
