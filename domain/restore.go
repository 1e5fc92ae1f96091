package domain

import (
	"context"
	"fmt"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// Restore starts a domain from a RAM file of Checkpoint, paused, on exactly the devices of s, and with its password,
// port and labels. It writes the persistent definition of s first, as Define does, and compares the description in the
// file with it: QEMU had the file open for writing, so that nothing in it is trusted. libvirt gives the domain a new
// generation id, which has the guest's kernel reseed its random numbers.
//
// ErrConflict: it has a process (Destroy it first), or Define's reasons. ErrUnusable: the file is missing, cut short,
// another domain's, or QEMU does not load it. ErrBusy: an
// earlier change has not ended. After these, nothing is left running that was not before. After ErrUnavailable, and when ctx
// ends first, the domain may still come up, paused, and may have loaded only a part: Destroy it before another attempt.
func (h *Host) Restore(ctx context.Context, s Spec, ram string) error {
	var f faults
	checkPath(&f, "ram file", ram)
	if err := f.err("restore " + cut(s.Name)); err != nil {
		return err
	}
	doc, err := DomainXML(s, h.virtType)
	if err != nil {
		return err
	}
	return h.change(ctx, "restore", "restore "+s.Name, s.ID, func(c *libvirt.Connect) error {
		if err := mayDefine(c, s); err != nil {
			return err
		}
		d, err := c.DomainDefineXMLFlags(doc, 0)
		if err != nil {
			return err
		}
		defer d.Free()
		if err := d.SetAutostart(false); err != nil {
			return err
		}
		if err := refuseActive(d); err != nil {
			return err
		}
		return restore(c, d, ram)
	})
}

// Restorable says whether a running domain could be restored as it is defined now, were its RAM saved: nil, or ErrConflict
// with what differs, such as devices that an earlier version of the definition had. ErrNotFound: not defined, or not
// ours. It changes nothing. Ask it before a Checkpoint: afterwards the answer comes too late.
func (h *Host) Restorable(ctx context.Context, id ID) error {
	return h.do(ctx, "restorable", "compare "+string(id), h.lanes.quick, func(c *libvirt.Connect) error {
		d, _, err := lookup(c, id)
		if err != nil {
			return err
		}
		defer d.Free()
		// As libvirt writes it into a RAM file.
		live, err := d.GetXMLDesc(libvirt.DOMAIN_XML_SECURE | libvirt.DOMAIN_XML_MIGRATABLE)
		if err != nil {
			return err
		}
		defined, err := d.GetXMLDesc(libvirt.DOMAIN_XML_SECURE | libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_MIGRATABLE)
		if err != nil {
			return err
		}
		if _, err := restorable(live, defined); err != nil {
			return fmt.Errorf("%w: %w", ErrConflict, err)
		}
		return nil
	})
}

func restore(c *libvirt.Connect, d *libvirt.Domain, ram string) error {
	saved, err := c.DomainSaveImageGetXMLDesc(ram, libvirt.DOMAIN_SAVE_IMAGE_XML_SECURE)
	if err != nil {
		return unusable(err, "its description")
	}
	defined, err := d.GetXMLDesc(libvirt.DOMAIN_XML_SECURE | libvirt.DOMAIN_XML_INACTIVE)
	if err != nil {
		return err
	}
	doc, err := restorable(saved, defined)
	if err != nil {
		return err
	}
	if err = c.DomainRestoreFlags(ram, doc, libvirt.DOMAIN_SAVE_PAUSED); err == nil {
		return nil
	}
	if _, aerr := d.IsActive(); aerr != nil {
		return err // libvirt is away
	}
	if c := class(err); c != nil && c != ErrUnavailable {
		return err
	}
	// A QEMU that dies breaks its monitor's connection, which is not libvirt's.
	return fmt.Errorf("%w: QEMU: %v", ErrUnusable, err)
}

// mayDiffer are the parts of a saved domain that need not be those of its definition: the memory that the balloon
// had left it, the generation that was, and the CPU, which libvirt may have spelled out. libvirt itself compares what
// the guest can see of them.
var mayDiffer = []string{"currentMemory", "genid", "cpu"}

// restorable makes the document to restore a saved domain by: the saved one, with its addresses and machine version,
// and what the definition decides put in. ErrUnusable: it is not the same domain, or not the same devices.
func restorable(saved, defined string) (string, error) {
	x, err := parseDomain(saved)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	want, err := parseDomain(defined)
	if err != nil {
		return "", err
	}
	x.Metadata = want.Metadata
	// Of the running domain, and in the file when libvirtd was restarted meanwhile; libvirt makes them anew.
	x.SecLabel, x.Resource = want.SecLabel, want.Resource
	x.Devices.Graphics = want.Devices.Graphics
	x.Devices.MemBalloon = balloonAs(x.Devices.MemBalloon, want.Devices.MemBalloon)
	doc, err := x.Marshal()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	// Compared is what libvirt will get, after the round trip that the definition makes too.
	sameMachine(x, want)
	link(want, x)
	if names, err := compare(x, want); err != nil {
		return "", err
	} else if len(names) > 0 {
		return "", fmt.Errorf("%w: it is not of this domain: it differs in %s", ErrUnusable, cut(strings.Join(names, ", ")))
	}
	return doc, nil
}

func compare(x, want *libvirtxml.Domain) ([]string, error) {
	var nodes [2]*node
	for i, of := range []*libvirtxml.Domain{x, want} {
		doc, err := of.Marshal()
		if err != nil {
			return nil, err
		}
		if nodes[i], err = parseNode(doc); err != nil {
			return nil, err
		}
	}
	return differences(nodes[0], nodes[1], mayDiffer...), nil
}

// balloonAs keeps the saved balloon's place and takes the definition's period.
func balloonAs(saved, want *libvirtxml.DomainMemBalloon) *libvirtxml.DomainMemBalloon {
	if saved != nil && want != nil {
		saved.Stats = want.Stats
	}
	return saved
}

// sameMachine lets a definition of today take the version of the chipset that the saved one has: "q35" means the
// newest version that QEMU has, and a saved domain needs its own.
func sameMachine(saved, want *libvirtxml.Domain) {
	const versions = "pc-q35-"
	if saved.OS == nil || saved.OS.Type == nil || want.OS == nil || want.OS.Type == nil {
		return
	}
	if strings.HasPrefix(saved.OS.Type.Machine, versions) && strings.HasPrefix(want.OS.Type.Machine, versions) {
		want.OS.Type.Machine = saved.OS.Type.Machine
	}
}

// link lets the state of the link be the saved one: it is part of the saved device.
func link(want, saved *libvirtxml.Domain) {
	for i := range want.Devices.Interfaces {
		if i < len(saved.Devices.Interfaces) {
			want.Devices.Interfaces[i].Link = saved.Devices.Interfaces[i].Link
		}
	}
}
