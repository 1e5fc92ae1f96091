package daemon

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/firewall"
	"github.com/capsuled/capsuled/imagestore"
)

// What a mode means for the leaves stands in this file and nowhere else.

// The disks of a capsule, by the name of their file; labels and bytes per inode as in the capsule contract (1.4).
const (
	rootDisk     = "disk"
	secureVolume = "secure_volume"
	releaseSpool = "release_spool"
)

// policies says which policy is in force in a mode.
var policies = map[Mode]firewall.Policy{
	NotDefined:  firewall.Closed,
	Maintenance: firewall.Maintenance,
}

// attached says which disks a domain has in a mode, in guest order. The volumes are in no list but secure mode's.
var attached = map[Mode][]string{
	Maintenance: {rootDisk},
}

// fenced says in which states a capsule has a binding in the firewall. In all others its tap, should there be
// one, belongs to nobody, and what belongs to nobody is dropped.
var fenced = map[State]bool{LaunchPending: true, Running: true, ShutdownPending: true}

// leased says in which states the reconciler gives a capsule the lease that it lacks. In all others an operation is
// under way that gives or takes it.
var leased = map[State]bool{Running: true, Shutdown: true, ShutdownPending: true}

// volumes are the templates that a host needs.
func (d *Daemon) volumes(volumeGB, spoolGB int) []imagestore.Volume {
	return []imagestore.Volume{
		{Name: secureVolume, Bytes: int64(volumeGB) << 30, BytesPerInode: 8192},
		{Name: releaseSpool, Bytes: int64(spoolGB) << 30},
	}
}

// binding is a capsule's place in the firewall while it is in mode.
func binding(c store.Capsule, mode Mode) (firewall.Binding, error) {
	mac, err := net.ParseMAC(c.MAC)
	if err != nil {
		return firewall.Binding{}, fmt.Errorf("daemon: capsule %s: %w", c.ID, err)
	}
	ip, err := netip.ParseAddr(c.Address)
	if err != nil {
		return firewall.Binding{}, fmt.Errorf("daemon: capsule %s: %w", c.ID, err)
	}
	return firewall.Binding{Tap: c.Key, MAC: mac, IP: ip, SSHPort: uint16(c.SSHPort), Policy: policies[mode]}, nil
}

// lease is a capsule's static DHCP lease.
func lease(c store.Capsule) (domain.Lease, error) {
	b, err := binding(c, NotDefined)
	return domain.Lease{MAC: b.MAC, IP: b.IP, Name: c.Key}, err
}

// spec is the domain of a capsule in mode, over the files that it owns.
func (d *Daemon) spec(c store.Capsule, mode Mode, files map[string]imagestore.File) (domain.Spec, error) {
	mac, err := net.ParseMAC(c.MAC)
	if err != nil {
		return domain.Spec{}, fmt.Errorf("daemon: capsule %s: %w", c.ID, err)
	}
	s := domain.Spec{
		ID: domain.ID(c.ID), Name: c.Key, Record: c.ID,
		Labels: map[string]string{
			"user": c.Owner, "flavor": fmt.Sprintf("%dcpu-%dmb", c.VCPUs, c.MemoryMB), "type": string(c.Type),
		},
		VCPUs: c.VCPUs, MemoryBytes: int64(c.MemoryMB) << 20,
		NIC:          domain.NIC{Network: d.opt.Network.Name, Tap: c.Key, MAC: mac},
		VNC:          domain.VNC{Listen: d.opt.VNCListen, Port: c.VNCPort, Password: c.LoginPassword},
		SerialLog:    d.files.SerialLog(c.ID),
		GenerationID: c.Generation,
	}
	for _, name := range attached[mode] {
		f, ok := files[name]
		if !ok {
			return s, fmt.Errorf("daemon: capsule %s has no file %q", c.ID, name)
		}
		disk := domain.Disk{Path: f.Path, Format: string(f.Format), Serial: name}
		if f.Base != "" {
			disk.Backing = &domain.BackingFile{Path: f.Base, Format: string(f.BaseFormat)}
		}
		s.Disks = append(s.Disks, disk)
	}
	return s, nil
}
