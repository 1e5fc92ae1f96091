package domain

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// Inspection is everything that libvirt says of one domain's devices, live and as defined.
type Inspection struct {
	State   RunState
	Reason  Reason
	Live    *Devices // nil when it has no process
	Defined *Devices // nil for a transient domain

	// SHA-256 (64 hex digits) of all that the documents of libvirt say, without passwords; "" where there is none. What
	// the guest can change from within by itself is left out: whether its agent has the channel open, and how much memory
	// it gives back by the balloon. Whoever sees the hash could read what it says by them.
	LiveHash    string
	DefinedHash string

	// Ejected names in words the devices of the definition that the live domain has no longer, for its guest put them out:
	// it writes into the hash by that.
	Ejected []string

	GenerationID   string // of the live domain, else of the definition
	HasSnapshots   bool
	HasManagedSave bool
}

// Devices is what one domain document holds.
type Devices struct {
	Disks    []DiskSeen
	NICs     []NICSeen
	Channels []string // names, such as org.qemu.guest_agent.0
	Graphics []string // such as "vnc 127.0.0.1:5900"

	// Foreign names in words everything that a Spec cannot ask for, wherever it stands: host devices, file systems,
	// further ports, QEMU arguments, and whatever is not known.
	Foreign []string
}

// DiskSeen is a disk as libvirt has it.
type DiskSeen struct {
	Path     string
	Format   string
	Serial   string
	Target   string   // vda, vdb, ...
	Chain    []string // the backing files, top to base
	ReadOnly bool
}

// NICSeen is an interface as libvirt has it.
type NICSeen struct {
	Tap      string
	MAC      string
	Network  string
	LinkUp   bool
	Isolated bool
}

// Inspect tells everything that libvirt says of a domain's devices, live and as defined. It changes nothing, asks no
// QEMU and no guest, and costs three small calls. ErrNotFound: not defined, or not ours. Any other error means that
// nothing is known.
func (h *Host) Inspect(ctx context.Context, id ID) (Inspection, error) {
	in, err := call(ctx, h, "inspect", h.lanes.quick, func(c *libvirt.Connect) (Inspection, error) {
		d, _, err := lookup(c, id)
		if err != nil {
			return Inspection{}, err
		}
		defer d.Free()
		return inspect(d)
	})
	return in, wrap("inspect "+string(id), err)
}

func inspect(d *libvirt.Domain) (in Inspection, err error) {
	state, reason, err := d.GetState()
	if err != nil {
		return in, err
	}
	in.State, in.Reason = translate(state, reason)
	var defined, live *node
	if persistent, err := d.IsPersistent(); err != nil {
		return in, err
	} else if persistent {
		if in.Defined, in.DefinedHash, defined, err = describe(d, libvirt.DOMAIN_XML_INACTIVE, &in.GenerationID); err != nil {
			return in, err
		}
	}
	if in.State != Off {
		// One that ended since then gives its definition under this name: look at the state again.
		if in.Live, in.LiveHash, live, err = describe(d, 0, &in.GenerationID); err != nil {
			return in, err
		}
		active, err := d.IsActive()
		if err != nil {
			return in, err
		}
		if !active {
			return in, fmt.Errorf("%w: it ended meanwhile", ErrBusy)
		}
		in.Ejected = ejected(defined, live)
	}
	snapshots, err := d.SnapshotNum(0)
	if err != nil {
		return in, err
	}
	in.HasSnapshots = snapshots > 0
	in.HasManagedSave, err = d.HasManagedSaveImage(0)
	return in, err
}

// describe reads one of a domain's two documents. Without the secure flag there is no password in it.
func describe(d *libvirt.Domain, flags libvirt.DomainXMLFlags, generation *string) (*Devices, string, *node, error) {
	doc, err := d.GetXMLDesc(flags)
	if err != nil {
		return nil, "", nil, err
	}
	x, err := parseDomain(doc)
	if err != nil {
		return nil, "", nil, err
	}
	n, err := parseNode(doc)
	if err != nil {
		return nil, "", nil, err
	}
	if x.GenID != nil {
		*generation = x.GenID.Value
	}
	seen := devicesOf(x, n)
	return seen, n.stillHash(), n, nil
}

// ejected names the devices, disks and interfaces apart, that stand behind a port from which a guest can put them out, and
// that libvirt then takes out of the live document.
func ejected(defined, live *node) []string {
	if defined == nil || live == nil {
		return nil
	}
	there := func(domain *node) map[string]string {
		found := map[string]string{}
		if devices := domain.kid("devices"); devices != nil {
			for _, k := range devices.kids {
				if k.name == "rng" || k.name == "channel" || k.name == "controller" && k.at("@type") == "virtio-serial" {
					found[k.name] = words(k)
				}
			}
		}
		return found
	}
	now := there(live)
	var gone []string
	was := there(defined)
	for _, name := range sortedKeys(was) {
		if _, ok := now[name]; !ok {
			gone = append(gone, was[name])
		}
	}
	return gone
}

func devicesOf(x *libvirtxml.Domain, n *node) *Devices {
	v := &Devices{Disks: disksOf(x), Foreign: foreign(n)}
	for _, nic := range x.Devices.Interfaces {
		v.NICs = append(v.NICs, nicSeen(nic))
	}
	devices := n.kid("devices")
	if devices == nil {
		return v
	}
	for _, k := range devices.kids {
		switch k.name {
		case "channel":
			v.Channels = append(v.Channels, k.at("target/@name"))
		case "graphics":
			v.Graphics = append(v.Graphics, fmt.Sprintf("%s %s:%s", k.at("@type"), k.at("listen/@address"), k.at("@port")))
		}
	}
	return v
}

func disksOf(x *libvirtxml.Domain) []DiskSeen {
	var list []DiskSeen
	for _, d := range x.Devices.Disks {
		seen := DiskSeen{Path: pathOf(d.Source), Serial: d.Serial, ReadOnly: d.ReadOnly != nil}
		if d.Driver != nil {
			seen.Format = d.Driver.Type
		}
		if d.Target != nil {
			seen.Target = d.Target.Dev
		}
		for b := d.BackingStore; b != nil && b.Format != nil; b = b.BackingStore { // the end has no format
			seen.Chain = append(seen.Chain, pathOf(b.Source))
		}
		list = append(list, seen)
	}
	return list
}

func nicSeen(x libvirtxml.DomainInterface) NICSeen {
	f := factsOfInterface(x)
	n := NICSeen{Tap: f.target, MAC: f.mac, LinkUp: x.Link == nil || x.Link.State != "down"}
	if x.Source != nil && x.Source.Network != nil {
		n.Network = x.Source.Network.Network
	}
	n.Isolated = x.PortOptions != nil && x.PortOptions.Isolated == "yes"
	return n
}
