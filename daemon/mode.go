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
	overlayDisk  = "overlay" // takes the writes to the root disk in secure mode
)

// The policies that the daemon needs, by the names of their files.
const (
	policyMaintenance = "maintenance"
	policySecure      = "secure"
	policySecureFull  = "secure-full"
	policySecureAdmin = "secure-admin"
)

// securePolicy is the policy of a capsule in secure mode: its type decides, and what its owner was granted. The type
// RESEARCH-FULL is an administrator's to give, and so is a grant; only an owner who asked for full access and has not got
// it (false) is kept from what the type allows. One that an administrator took there for review has that policy, whatever
// its type.
func securePolicy(c store.Capsule) string {
	switch {
	case c.Review:
		return policySecureAdmin
	case c.Type == ResearchFull && (c.OwnerFullAccess == nil || *c.OwnerFullAccess):
		return policySecureFull
	}
	return policySecure
}

// inForce is the policy that a record asks for. While a capsule is on its way from one mode to the other, held, or not
// known to run, it is closed; a step that opens it earlier says so in Daemon.opened. Of one that is being stopped the record
// does not say whether it was held: it keeps what it has, and nothing opens it by its record alone (refence).
func inForce(c store.Capsule) string {
	settled := c.State == Running || c.State == ShutdownPending
	switch {
	case c.State == LaunchPending, settled && c.Mode == Maintenance:
		return policyMaintenance
	case settled && c.Mode == Secure:
		return securePolicy(c)
	}
	return firewall.Closed
}

// volumeNames are the disks that hold protected data, in guest order.
var volumeNames = []string{secureVolume, releaseSpool}

// attached says which disks a domain has in a mode, in guest order. The volumes are in no list but secure mode's.
var attached = map[Mode][]string{
	Maintenance: {rootDisk},
	Secure:      append([]string{rootDisk}, volumeNames...),
}

// mountPoints are where a guest finds its volumes (capsule contract, section 11).
var mountPoints = map[string]string{
	secureVolume: "/media/secure_volume",
	releaseSpool: "/media/release_spool",
}

// switching are the states of a capsule that is being brought into a mode, or back to safety in it.
var switching = map[Mode]State{Maintenance: SwitchToMaintenancePending, Secure: SwitchToSecurePending}

// held says that a capsule is closed, and paused or off, until somebody resumes, stops or deletes it.
func held(c store.Capsule) bool { return c.State == Failed && c.Mode != NotDefined }

// fenced says in which states a capsule has a binding in the firewall. In all others its tap, should there be
// one, belongs to nobody, and what belongs to nobody is dropped.
var fenced = map[State]bool{
	LaunchPending: true, Running: true, ShutdownPending: true, SwitchToSecurePending: true, SwitchToMaintenancePending: true,
}

// leased says in which states the reconciler gives a capsule the lease that it lacks. In all others an operation is
// under way that gives or takes it.
var leased = map[State]bool{
	Running: true, Shutdown: true, ShutdownPending: true, SwitchToSecurePending: true, SwitchToMaintenancePending: true,
	ImageSharePending: true,
}

// volumes are the templates that a host needs.
func (d *Daemon) volumes(volumeGB, spoolGB int) []imagestore.Volume {
	return []imagestore.Volume{
		{Name: secureVolume, Bytes: int64(volumeGB) << 30, BytesPerInode: 8192},
		{Name: releaseSpool, Bytes: int64(spoolGB) << 30},
	}
}

// binding is a capsule's place in the firewall under a policy.
func binding(c store.Capsule, policy string) (firewall.Binding, error) {
	mac, err := net.ParseMAC(c.MAC)
	if err != nil {
		return firewall.Binding{}, fmt.Errorf("daemon: capsule %s: %w", c.ID, err)
	}
	ip, err := netip.ParseAddr(c.Address)
	if err != nil {
		return firewall.Binding{}, fmt.Errorf("daemon: capsule %s: %w", c.ID, err)
	}
	return firewall.Binding{Tap: c.Key, MAC: mac, IP: ip, SSHPort: uint16(c.SSHPort), Policy: policy}, nil
}

// lease is a capsule's static DHCP lease.
func lease(c store.Capsule) (domain.Lease, error) {
	b, err := binding(c, firewall.Closed)
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
		disk, err := diskOf(c, files, name)
		if err != nil {
			return s, err
		}
		s.Disks = append(s.Disks, disk)
	}
	return s, nil
}

// diskOf is one of a capsule's disks.
func diskOf(c store.Capsule, files map[string]imagestore.File, name string) (domain.Disk, error) {
	f, ok := files[name]
	if !ok {
		return domain.Disk{}, fmt.Errorf("daemon: capsule %s has no file %q", c.ID, name)
	}
	disk := domain.Disk{Path: f.Path, Format: string(f.Format), Serial: name}
	if f.Base != "" {
		disk.Backing = &domain.BackingFile{Path: f.Base, Format: string(f.BaseFormat)}
	}
	return disk, nil
}
