package domain

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirt"
)

// undefineFlags take everything with the definition that libvirt keeps beside it.
const undefineFlags = libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.DOMAIN_UNDEFINE_NVRAM |
	libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA

// Define writes the persistent definition of s, or replaces the one that is there, always whole: what somebody
// else changed in it is gone. It is idempotent. A running domain runs on as it is, and takes the new definition
// when it next starts. ErrConflict: a domain of that name or UUID exists and is not this record's. Nothing here
// starts a domain when the host boots.
func (h *Host) Define(ctx context.Context, s Spec) error {
	doc, err := DomainXML(s, h.virtType)
	if err != nil {
		return err
	}
	return h.do(ctx, "define", "define "+s.Name, h.lanes.slow, func(c *libvirt.Connect) error {
		if err := mayDefine(c, s); err != nil {
			return err
		}
		d, err := c.DomainDefineXMLFlags(doc, 0)
		if err != nil {
			return err
		}
		defer d.Free()
		return d.SetAutostart(false)
	})
}

// mayDefine refuses to take over what is not this record's. libvirt itself refuses a name that another UUID has.
func mayDefine(c *libvirt.Connect, s Spec) error {
	d, who, err := lookup(c, s.ID)
	switch {
	case err == nil:
		defer d.Free()
		if who.Record != s.Record {
			return fmt.Errorf("%w: domain %s belongs to record %s", ErrConflict, s.ID, who.Record)
		}
	case isCode(err, libvirt.ERR_NO_DOMAIN_METADATA):
		return fmt.Errorf("%w: domain %s exists and is not ours", ErrConflict, s.ID)
	case !isCode(err, libvirt.ERR_NO_DOMAIN):
		return err
	}
	named, err := c.LookupDomainByName(s.Name)
	if isCode(err, libvirt.ERR_NO_DOMAIN) {
		return nil
	}
	if err != nil {
		return err
	}
	defer named.Free()
	if id, err := named.GetUUIDString(); err != nil || ID(id) != s.ID {
		return fmt.Errorf("%w: the name %s is taken by domain %s", ErrConflict, s.Name, id)
	}
	return nil
}

// Start boots a domain. One that has a process already, running or paused, is left as it is. When it fails,
// nothing is left running. ErrNotFound: not defined, or not ours. ErrBusy: an earlier change has not ended. When
// ctx ends first, the domain may still start: its event tells.
func (h *Host) Start(ctx context.Context, id ID) error {
	return h.change(ctx, "start", "start "+string(id), id, func(c *libvirt.Connect) error {
		d, _, err := lookup(c, id)
		if err != nil {
			return err
		}
		defer d.Free()
		// A memory that somebody saved (virsh managedsave) may be of another disk, or of other devices: it is discarded.
		err = d.CreateWithFlags(libvirt.DOMAIN_START_FORCE_BOOT)
		if isCode(err, libvirt.ERR_OPERATION_INVALID) {
			if active, aerr := d.IsActive(); aerr == nil && active {
				return nil
			}
		}
		return err
	})
}

// Destroy ends a domain's process without asking the guest, and returns when the process is gone. A domain that
// is off or absent is fine. libvirt asks QEMU with SIGTERM first, which flushes what the guest had flushed. A memory that
// somebody saved (virsh managedsave) goes as well: it is the process by other means.
func (h *Host) Destroy(ctx context.Context, id ID) error {
	err := h.do(ctx, "destroy", "destroy "+string(id), h.lanes.slow, func(c *libvirt.Connect) error {
		d, _, err := lookup(c, id)
		if err != nil {
			return err
		}
		defer d.Free()
		err = d.DestroyFlags(libvirt.DOMAIN_DESTROY_DEFAULT)
		if isCode(err, libvirt.ERR_OPERATION_INVALID) {
			if active, aerr := d.IsActive(); aerr == nil && !active {
				err = nil
			}
		}
		if err != nil {
			return err
		}
		saved, err := d.HasManagedSaveImage(0)
		if err != nil || !saved {
			return err
		}
		return d.ManagedSaveRemove(0)
	})
	return ignore(err, ErrNotFound)
}

// Undefine removes a stopped domain's definition with everything that libvirt keeps for it (managed save, NVRAM,
// snapshot and checkpoint metadata); its disks are the owner's, and its log (DropLog). An absent domain is fine.
// ErrConflict: it has a process.
func (h *Host) Undefine(ctx context.Context, id ID) error {
	what := "undefine " + string(id)
	err := h.do(ctx, "undefine", what, h.lanes.slow, func(c *libvirt.Connect) error {
		d, _, err := lookup(c, id)
		if err != nil {
			return err
		}
		defer d.Free()
		if err := refuseActive(d); err != nil {
			return err
		}
		if err := d.UndefineFlags(undefineFlags); err != nil {
			return err
		}
		// libvirt turns a domain that was started in between into a transient one: it would vanish when it
		// stops, but it has not stopped.
		return refuseActive(d)
	})
	return ignore(err, ErrNotFound)
}

func refuseActive(d *libvirt.Domain) error {
	active, err := d.IsActive()
	if err != nil {
		return err
	}
	if active {
		return errRunning
	}
	return nil
}

var errRunning = fmt.Errorf("%w: it has a process", ErrConflict)
