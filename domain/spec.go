package domain

import (
	"net"
	"net/netip"
)

// ID is a domain's libvirt UUID, in the canonical lower-case text form.
type ID string

// Spec is everything about a domain that its owner decides. Two equal specs give byte-equal XML.
type Spec struct {
	ID           ID
	Name         string            // libvirt's name; also the tap's, so at most 15 bytes (IFNAMSIZ-1)
	Record       string            // the owner's record id, kept in the metadata
	Labels       map[string]string // bounded facts for dashboards (user, project, flavor), kept in the metadata
	VCPUs        int               // 1..
	MemoryBytes  int64             // a multiple of 1 MiB
	Disks        []Disk            // in guest order: vda, vdb, ...; the first one boots
	NIC          NIC
	VNC          VNC
	SerialLog    string // host path; written by virtlogd, which caps its size
	GenerationID string // vmgenid UUID: changes when the guest's history forks
}

// Disk is one virtio disk. Its format is stated, never probed: a guest can write any header into a raw disk.
type Disk struct {
	Path    string
	Format  string       // "raw" or "qcow2"
	Backing *BackingFile // non-nil for an overlay
	Serial  string       // stable name in the guest (/dev/disk/by-id/virtio-SERIAL), at most 20 bytes
}

// BackingFile is what an overlay is over: read-only, never probed. One without a Backing of its own is a base that
// others may share: libvirt does not relabel it. A chain has at most two of these.
type BackingFile struct {
	Path    string
	Format  string
	Backing *BackingFile `json:",omitempty"` // left out of the hash where there is none, as before there could be one
}

// NIC is the domain's only interface: virtio, on an isolated port of the network's bridge.
type NIC struct {
	Network string
	Tap     string // fixed name of the host side, at most 15 bytes
	MAC     net.HardwareAddr
}

// VNC is the domain's console.
type VNC struct {
	Listen   netip.Addr
	Port     int    // TCP port, 5900..65535
	Password string // 1..8 bytes (RFC 6143, section 7.2.2: DES key)
}

// Network is the one network of a host: an isolated-port bridge with DHCP from static leases, and no rule of
// libvirt's own (forward mode "open").
type Network struct {
	Name   string
	Bridge string
	Subnet netip.Prefix // the first address is the gateway's
}

// Lease is one static DHCP lease.
type Lease struct {
	MAC  net.HardwareAddr
	IP   netip.Addr
	Name string // host name handed to the guest
}
