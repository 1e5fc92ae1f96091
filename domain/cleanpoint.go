package domain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// CleanPoint is where a domain's first disk and its RAM can be taken back to.
type CleanPoint struct {
	Disk    string // path of the first disk, as the Spec has it
	Overlay string // an empty qcow2 image over Disk, made by the caller: the first disk from the clean point on
	RAM     string // path of the file that the RAM is saved to; .new- stands before its name until it is whole
}

func (cp CleanPoint) validate() error {
	var f faults
	checkPath(&f, "disk", cp.Disk)
	checkPath(&f, "overlay", cp.Overlay)
	checkPath(&f, "ram file", cp.RAM)
	f.check(cp.Disk != cp.Overlay && cp.Disk != cp.RAM && cp.Overlay != cp.RAM, "disk, overlay and ram file are not three files")
	return f.err("clean point")
}

// unfinished is the RAM file's name until the clean point is made. Only a libvirtd that dies leaves one.
func (cp CleanPoint) unfinished() string {
	return filepath.Join(filepath.Dir(cp.RAM), ".new-"+filepath.Base(cp.RAM))
}

// jobPoll is how often libvirt is asked whether a job has ended: it has no event for a snapshot's.
const jobPoll = 50 * time.Millisecond

// snapshotFlags: no record of libvirt's, which could not revert to it before 9.9 anyway; the overlay is there already.
const snapshotFlags = libvirt.DOMAIN_SNAPSHOT_CREATE_NO_METADATA | libvirt.DOMAIN_SNAPSHOT_CREATE_REUSE_EXT |
	libvirt.DOMAIN_SNAPSHOT_CREATE_ATOMIC

// Checkpoint saves a domain's RAM to a file and freezes its first disk at the same instant: from then on the guest
// writes to the overlay. The guest stands still meanwhile and is then as it was, running or paused. It is idempotent:
// a domain whose first disk is the overlay and whose RAM file is whole has its clean point. A job of a caller that is
// gone is waited for first. A large RAM takes long: ctx should have a deadline that allows for it.
//
// libvirt also rewrites the persistent definition to the overlay: Define it again.
//
// After an error but ErrUnavailable, ErrBusy, ErrAdrift and ErrUnusable the domain runs on its own disk, or is gone, and
// there is no RAM file. ErrUnavailable: not known; call again. ErrConflict: it is off, or has another disk. ErrBusy: an
// earlier job or change has not ended. ErrExhausted: no room for the RAM. ErrUnusable: the disk is frozen but the RAM
// file is not whole. ErrAdrift: libvirtd died in between; destroy the
// domain, and restore it from the RAM file if there is one.
func (h *Host) Checkpoint(ctx context.Context, id ID, cp CleanPoint) error {
	what := "checkpoint " + string(id)
	if err := cp.validate(); err != nil {
		return err
	}
	if err := h.AwaitJob(ctx, id); err != nil {
		return wrap(what, err)
	}
	return h.change(ctx, "checkpoint", what, id, func(c *libvirt.Connect) error {
		d, _, err := lookup(c, id)
		if err != nil {
			return err
		}
		defer d.Free()
		return checkpoint(c, d, cp)
	})
}

// AwaitJob waits until the domain has no job, such as a checkpoint: libvirtd carries on with the one of a client that died, and
// what is seen of the domain meanwhile may be otherwise in the next moment. ErrBusy if it has not ended by ctx's deadline or,
// without one, after Options.CallTimeout; ErrConflict if the domain is off.
func (h *Host) AwaitJob(ctx context.Context, id ID) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.opt.CallTimeout)
		defer cancel()
	}
	for {
		busy, err := call(ctx, h, "job", h.lanes.quick, func(c *libvirt.Connect) (bool, error) {
			d, _, err := lookup(c, id)
			if err != nil {
				return false, err
			}
			defer d.Free()
			return hasJob(d)
		})
		if err != nil || !busy {
			return wrap("job of "+string(id), err)
		}
		if !pause(ctx, jobPoll) {
			return fmt.Errorf("%w: an earlier job has not ended", ErrBusy)
		}
	}
}

// hasJob reports whether a job is under way. One that is called completed is so too: its RAM is saved, and its disks
// are not switched yet.
func hasJob(d *libvirt.Domain) (bool, error) {
	job, err := d.GetJobInfo()
	return err == nil && job.Type != libvirt.DOMAIN_JOB_NONE, err
}

// checkpoint saves the RAM under another name and renames it at the end: libvirt may hold the request of a daemon that
// was killed, and carry it out after ours. It would write the RAM anew, and only then find the disk frozen already.
func checkpoint(c *libvirt.Connect, d *libvirt.Domain, cp CleanPoint) error {
	x, err := liveDomain(d, 0)
	if err != nil {
		return err
	}
	switch now := firstDisk(x); {
	case now == cp.Overlay:
		return complete(c, d, cp)
	case now != cp.Disk:
		return fmt.Errorf("%w: its first disk is %q", ErrConflict, cut(now))
	}
	if err := refuseLocked(cp.Overlay); err != nil {
		return adrift(c, cp, err)
	}
	for _, old := range []string{cp.RAM, cp.unfinished()} {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	doc, err := snapshotXML(x, cp)
	if err != nil {
		return err
	}
	s, err := d.CreateSnapshotXML(doc, snapshotFlags)
	if err != nil {
		return snapshotError(d, cp, err)
	}
	_ = s.Free()
	return complete(c, d, cp)
}

// adrift finds out how far libvirtd had come when it died: QEMU has the overlay open. Once the disk is frozen, QEMU writes
// to the overlay, and the RAM was saved before: the clean point is whole, though libvirt does not know of it. Until then
// the guest, which libvirt lets go on when it is back, writes to its own disk, and the saved RAM is worth nothing.
func adrift(c *libvirt.Connect, cp CleanPoint, cause error) error {
	if !errors.Is(cause, ErrAdrift) {
		return cause
	}
	written, err := locked(cp.Disk, lockWrite, 1)
	if err != nil {
		return err
	}
	if written {
		_ = os.Remove(cp.unfinished())
		return fmt.Errorf("%s is open in its process since an attempt that was cut short, and not in use: try with another file", cp.Overlay)
	}
	if _, err := c.DomainSaveImageGetXMLDesc(cp.unfinished(), 0); err != nil {
		return cause // no clean point that a RAM file could be for
	}
	return errors.Join(cause, os.Rename(cp.unfinished(), cp.RAM))
}

// complete gives the RAM file its name, once the disk is frozen. libvirt freezes it when it has saved the RAM; but when
// it cannot write down that it did, it takes the RAM file away again and leaves the disk frozen.
func complete(c *libvirt.Connect, d *libvirt.Domain, cp CleanPoint) error {
	switch err := os.Rename(cp.unfinished(), cp.RAM); {
	case err == nil:
		// Whoever begins to write from now on makes a new file; whoever had begun has a job.
		busy, err := hasJob(d)
		if err != nil {
			return err
		}
		if busy {
			_ = os.Remove(cp.RAM)
			return fmt.Errorf("%w: somebody else's job may have written to the RAM file", ErrUnusable)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	_, err := c.DomainSaveImageGetXMLDesc(cp.RAM, 0)
	return unusable(err, "the disk is frozen, and the RAM file")
}

// snapshotError tells why there is no clean point where libvirt does not: that QEMU died, it says as whatever failed
// first, and learns a moment later. What was saved is of no use, unless libvirt may still be at it.
func snapshotError(d *libvirt.Domain, cp CleanPoint, err error) error {
	c := class(err)
	if c == ErrUnavailable {
		return err
	}
	_ = os.Remove(cp.unfinished()) // libvirt has done so, but for one that was there before
	for range deathLooks {
		active, aerr := d.IsActive()
		if aerr != nil || c != nil {
			return err
		}
		if !active {
			return fmt.Errorf("%w: it ended meanwhile: %v", ErrConflict, err)
		}
		time.Sleep(jobPoll)
	}
	return err
}

// deathLooks is how often a domain is looked at, once every jobPoll, before it counts as alive.
const deathLooks = 20

// snapshotXML names every disk: one that is not named would get an overlay of libvirt's making.
func snapshotXML(x *libvirtxml.Domain, cp CleanPoint) (string, error) {
	s := libvirtxml.DomainSnapshot{
		Memory: &libvirtxml.DomainSnapshotMemory{Snapshot: "external", File: cp.unfinished()},
		Disks:  &libvirtxml.DomainSnapshotDisks{},
	}
	for i, d := range x.Devices.Disks {
		if d.Target == nil {
			continue
		}
		one := libvirtxml.DomainSnapshotDisk{Name: d.Target.Dev, Snapshot: "no"}
		if i == 0 {
			one.Snapshot, one.Source = "external", file(cp.Overlay)
			one.Driver = &libvirtxml.DomainDiskDriver{Type: "qcow2"}
		}
		s.Disks.Disks = append(s.Disks.Disks, one)
	}
	return s.Marshal()
}

// liveDomain is the document of a domain that has a process. ErrConflict: it has none.
func liveDomain(d *libvirt.Domain, flags libvirt.DomainXMLFlags) (*libvirtxml.Domain, error) {
	active, err := d.IsActive()
	if err != nil {
		return nil, err
	}
	if !active {
		return nil, errOff
	}
	doc, err := d.GetXMLDesc(flags)
	if err != nil {
		return nil, err
	}
	return parseDomain(doc)
}

var errOff = fmt.Errorf("%w: it has no process", ErrConflict)

// firstDisk is the path of the disk that boots.
func firstDisk(x *libvirtxml.Domain) string {
	if len(x.Devices.Disks) == 0 {
		return ""
	}
	return pathOf(x.Devices.Disks[0].Source)
}

func pathOf(s *libvirtxml.DomainDiskSource) string {
	if s == nil || s.File == nil {
		return ""
	}
	return s.File.File
}

// unusable makes ErrUnusable of whatever libvirt says of a saved state, unless it is libvirt that is away.
func unusable(err error, what string) error {
	if err == nil || class(err) == ErrUnavailable {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrUnusable, what, err)
}

// lockWrite is the byte that QEMU locks of an image while it may write to it: RAW_LOCK_PERM_BASE (100) and the number of
// BLK_PERM_WRITE (1), in QEMU's block/file-posix.c. Processes of different versions agree by it, so it cannot change.
const lockWrite = 101

// refuseLocked gives ErrAdrift when a process has the image open that libvirt says is not in use. A file that is not
// there is left for libvirt to report.
func refuseLocked(path string) error {
	is, err := locked(path, 0, 0)
	if err != nil || !is {
		return err
	}
	return fmt.Errorf("%w: %s is open in a process, and libvirt says that it is not attached", ErrAdrift, path)
}

// locked reports whether a process has locked one of length bytes of an image, of all with 0. QEMU locks every image
// that it opens (open file description locks; docs/system/images.rst, "Disk image file locking").
func locked(path string, start, length int64) (bool, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: length}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("%s: locks: %w", path, err)
	}
	return lock.Type != unix.F_UNLCK, nil
}
