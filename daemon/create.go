package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon/store"
)

// CreateCapsule takes what a capsule needs (quota, ports, address, name) in one transaction with its record, and
// begins to make it from an image. The capsule is CREATE_PENDING when it returns, and SHUTDOWN when it is made.
func (d *Daemon) CreateCapsule(ctx context.Context, c Caller, n NewCapsule) (v Capsule, op Operation, err error) {
	defer d.refused(ctx, c, opCreate, n.ImageID, &err)
	if c.GUID == "" {
		return v, op, errorf(Unauthorized, "who asks is not known")
	}
	if n, err = d.validate(c, n); err != nil {
		return v, op, err
	}
	if err := d.accepting(); err != nil {
		return v, op, err
	}
	if err := d.roomFor(ctx, n); err != nil {
		return v, op, err
	}
	d.births.RLock()
	defer d.births.RUnlock()

	var capsule store.Capsule
	var entry store.Operation
	// A random MAC can be taken: then nothing was written, and another draw is made.
	for range 4 {
		err = d.store.Update(ctx, func(tx *store.Tx) error {
			if capsule, err = d.draft(tx, c, n); err != nil {
				return err
			}
			owner := Member{GUID: c.GUID, Role: OwnerController, TOU: true, FullAccess: n.FullAccess}
			entry = d.newOperation(d.procedures[opCreate], c, capsule.ID, c.GUID, "")
			return errors.Join(tx.InsertCapsule(capsule, owner), tx.InsertOperation(entry),
				tx.Audit(auditRow(c.GUID, c.From, c.Request, opCreate, capsule.ID, "accepted", "operation "+entry.ID+", image "+capsule.ImageID)))
		})
		if !errors.Is(err, store.ErrTaken) {
			break
		}
	}
	if err != nil {
		return v, op, err
	}
	d.start(entry)
	return Capsule{ID: capsule.ID, Key: capsule.Key, State: capsule.State, Mode: capsule.Mode}, public(entry, c), nil
}

// roomFor refuses what this host can never or not now hold, before anything is written.
func (d *Daemon) roomFor(ctx context.Context, n NewCapsule) error {
	total, err := totalMemory()
	if err != nil {
		return err
	}
	if need := footprint(n.MemoryMB); need > total {
		return errorf(Exhausted, "the host has %d MB of memory in all, and the capsule needs %d MB", total>>20, need>>20)
	}
	free, err := d.files.FreeBytes(ctx, d.opt.ReserveBytes) // what a capsule that just left gives back is room
	if err != nil {
		return err
	}
	if free < d.opt.ReserveBytes {
		return errorf(Exhausted, "the host has %d MB of disk left, less than the %d MB that it keeps in reserve", free>>20, d.opt.ReserveBytes>>20)
	}
	d.mu.Lock()
	bare := d.bare
	d.mu.Unlock()
	if bare != nil {
		return &Error{Code: Unavailable, Message: "the host has no templates of volumes yet, and can create no capsule; try again", Err: bare}
	}
	return nil
}

// draft claims everything that a capsule needs, within the transaction that writes its record.
func (d *Daemon) draft(tx *store.Tx, c Caller, n NewCapsule) (store.Capsule, error) {
	image, err := knownImage(tx, c, n.ImageID)
	if err == nil && !image.DeletedAt.IsZero() {
		err = errorf(NotFound, "no image %s", n.ImageID)
	}
	if err != nil {
		return store.Capsule{}, err
	}
	if image.State != ImageActive {
		return store.Capsule{}, errorf(Conflict, "image %s is %s: only an ACTIVE image can be used", image.ID, image.State)
	}
	if n.MemoryMB < image.MinRAMMB {
		return store.Capsule{}, errorf(Invalid, "memory is %d: image %s needs %d (MB)", n.MemoryMB, image.ID, image.MinRAMMB)
	}
	if need := rootGB(image); image.Charged && need > d.opt.Quota.DiskGB {
		return store.Capsule{}, errorf(OverQuota, "your quota of disk is %d GB, and the root disk that image %s asks for has %d GB", d.opt.Quota.DiskGB, image.ID, need)
	}
	if err := tx.PutUser(c.GUID, c.Email); err != nil {
		return store.Capsule{}, err
	}
	used, err := tx.Usage(c.GUID)
	if err != nil {
		return store.Capsule{}, err
	}
	if err := d.withinQuota(used, n); err != nil {
		return store.Capsule{}, err
	}
	capsule := store.Capsule{
		State: CreatePending, Mode: NotDefined, Type: n.Type, Owner: c.GUID, ImageID: image.ID,
		VCPUs: n.VCPUs, MemoryMB: n.MemoryMB, VolumeGB: d.opt.VolumeGB, SpoolGB: d.opt.SpoolGB,
		Generation: uuid.NewString(), LoginUser: n.LoginUser, LoginPassword: n.LoginPassword,
		ImageUser: image.LoginUser, ImagePassword: image.LoginPassword,
		Consent: n.Consent, About: n.About, CreatedAt: time.Now(), MAC: newMAC(),
	}
	for taken := true; taken; {
		capsule.ID = uuid.NewString()
		capsule.Key = "cap-" + capsule.ID[:8]
		if taken, err = tx.KeyTaken(capsule.Key); err != nil {
			return capsule, err
		}
	}
	if capsule.SSHPort, capsule.VNCPort, err = d.claimPorts(tx); err != nil {
		return capsule, err
	}
	capsule.Address, err = d.claimAddress(tx)
	return capsule, err
}

// rootGB is the size of the disk that a capsule gets from an image. It is held against a quota where the image is a user's:
// how big the disks are that administrators offer is theirs to say, and charged to nobody.
func rootGB(i store.Image) int {
	return max(i.MinDiskGB, int((i.VirtualBytes+1<<30-1)>>30))
}

// withinQuota compares what a user has, and wants beyond it, with what a user may have; the exact bound passes.
func (d *Daemon) withinQuota(used store.Usage, n NewCapsule) error {
	for _, q := range []struct {
		what, unit         string
		used, wants, limit int
	}{
		{"vcpus", "", used.CPUs, n.VCPUs, d.opt.Quota.CPUs},
		{"memory", " MB", used.MemoryMB, n.MemoryMB, d.opt.Quota.MemoryMB},
		{"disk", " GB", used.DiskGB, d.opt.VolumeGB, d.opt.Quota.DiskGB},
	} {
		if q.used+q.wants > q.limit {
			return errorf(OverQuota, "your quota of %s is %d%s: %d%s are in use, and this capsule needs %d%s",
				q.what, q.limit, q.unit, q.used, q.unit, q.wants, q.unit)
		}
	}
	return nil
}
