package domain

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// Attach plugs a disk into a domain that has a process, for as long as it has it: the definition stays as it is. The
// disk gets the first free place after the first disk. It is idempotent: a disk of that path, format and serial that is
// there already is fine. ErrConflict: the domain is off, or the file or the serial is there as something else.
// ErrBusy: an earlier change has not ended. ErrAdrift: a QEMU has the file open and libvirt does not know of it.
func (h *Host) Attach(ctx context.Context, id ID, disk Disk) error {
	var f faults
	disk.validate(&f, "disk")
	if err := f.err("attach to " + string(id)); err != nil {
		return err
	}
	return h.change(ctx, "attach", "attach to "+string(id), id, func(c *libvirt.Connect) error {
		d, _, err := lookup(c, id)
		if err != nil {
			return err
		}
		defer d.Free()
		x, err := liveDomain(d, 0)
		if err != nil {
			return err
		}
		there, err := attached(x, disk)
		if err != nil || there {
			return err
		}
		if err := refuseLocked(disk.Path); err != nil {
			return err
		}
		doc, err := diskXML(x, disk)
		if err != nil {
			return err
		}
		return d.AttachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
	})
}

// attached reports whether the disk is there. ErrConflict: something of it is there as something else.
func attached(x *libvirtxml.Domain, want Disk) (bool, error) {
	for _, seen := range disksOf(x) {
		if seen.Path == want.Path && seen.Serial == want.Serial && seen.Format == want.Format {
			return true, nil
		}
		if seen.Path == want.Path {
			return false, fmt.Errorf("%w: %s is %s already, as %s with serial %q", ErrConflict, want.Path, seen.Target, seen.Format, seen.Serial)
		}
		if want.Serial != "" && seen.Serial == want.Serial {
			return false, fmt.Errorf("%w: serial %s is %s already, %s", ErrConflict, want.Serial, seen.Target, seen.Path)
		}
		for _, below := range seen.Chain {
			if below == want.Path {
				return false, fmt.Errorf("%w: %s is a backing file of %s", ErrConflict, want.Path, seen.Target)
			}
		}
	}
	return false, nil
}

// diskXML is the disk on the first free target after vda.
func diskXML(x *libvirtxml.Domain, d Disk) (string, error) {
	taken := map[string]bool{}
	for _, seen := range disksOf(x) {
		taken[seen.Target] = true
	}
	for i := 1; i < maxDisks; i++ {
		if one := disk(i, d); !taken[one.Target.Dev] {
			return one.Marshal()
		}
	}
	return "", fmt.Errorf("%w: it has %d disks already", ErrConflict, maxDisks)
}

// SetLink plugs or unplugs the cable of every interface of a domain that has a process, for as long as it has it.
// It is idempotent. ErrConflict: the domain is off.
func (h *Host) SetLink(ctx context.Context, id ID, up bool) error {
	state := map[bool]string{true: "up", false: "down"}[up]
	return h.update(ctx, "link", "set link of "+string(id), id, 0, func(x *libvirtxml.Domain) (docs []string, err error) {
		for _, nic := range x.Devices.Interfaces {
			nic.Link = &libvirtxml.DomainInterfaceLink{State: state}
			doc, err := nic.Marshal()
			if err != nil {
				return nil, err
			}
			docs = append(docs, doc)
		}
		return docs, nil
	})
}

// SetPassword changes the console's password of a domain that has a process, for as long as it has it: the next
// viewer needs it, those that are connected stay. The definition keeps its own until it is defined again. The
// password is in no error. ErrConflict: the domain is off.
func (h *Host) SetPassword(ctx context.Context, id ID, password string) error {
	var f faults
	checkPassword(&f, password)
	if err := f.err("set password of " + string(id)); err != nil {
		return err
	}
	return h.update(ctx, "password", "set password of "+string(id), id, libvirt.DOMAIN_XML_SECURE, func(x *libvirtxml.Domain) (docs []string, err error) {
		for _, g := range x.Devices.Graphics {
			if g.VNC == nil {
				continue
			}
			g.VNC.Passwd = password
			doc, err := g.Marshal()
			if err != nil {
				return nil, err
			}
			docs = append(docs, doc)
		}
		if len(docs) == 0 {
			return nil, fmt.Errorf("%w: it has no VNC console", ErrConflict)
		}
		return docs, nil
	})
}

// update changes live devices: change makes their new documents of the present ones.
func (h *Host) update(ctx context.Context, name, what string, id ID, flags libvirt.DomainXMLFlags, change func(*libvirtxml.Domain) ([]string, error)) error {
	return h.do(ctx, name, what, h.lanes.slow, func(c *libvirt.Connect) error {
		d, _, err := lookup(c, id)
		if err != nil {
			return err
		}
		defer d.Free()
		x, err := liveDomain(d, flags)
		if err != nil {
			return err
		}
		docs, err := change(x)
		if err != nil {
			return err
		}
		for _, doc := range docs {
			if err := d.UpdateDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
				return err
			}
		}
		return nil
	})
}

// Pause stops a domain's virtual CPUs; its process, memory and connections stay. It is idempotent. ErrConflict: the
// domain is off.
func (h *Host) Pause(ctx context.Context, id ID) error {
	return h.do(ctx, "pause", "pause "+string(id), h.lanes.slow, func(c *libvirt.Connect) error {
		return onLive(c, id, (*libvirt.Domain).Suspend)
	})
}

// Resume lets a paused domain go on; one that runs is fine. ErrConflict: the domain is off. ErrBusy: an earlier change
// has not ended.
func (h *Host) Resume(ctx context.Context, id ID) error {
	return h.change(ctx, "resume", "resume "+string(id), id, func(c *libvirt.Connect) error {
		return onLive(c, id, func(d *libvirt.Domain) error {
			err := d.Resume()
			if isCode(err, libvirt.ERR_OPERATION_INVALID) {
				if state, _, serr := d.GetState(); serr == nil && state == libvirt.DOMAIN_RUNNING {
					return nil
				}
			}
			return err
		})
	})
}

// onLive does one thing to a domain that has a process.
func onLive(c *libvirt.Connect, id ID, act func(*libvirt.Domain) error) error {
	d, _, err := lookup(c, id)
	if err != nil {
		return err
	}
	defer d.Free()
	active, err := d.IsActive()
	if err != nil {
		return err
	}
	if !active {
		return errOff
	}
	return act(d)
}
