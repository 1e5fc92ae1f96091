package daemon

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

const opImageActivate = "image-activate"

// ActivateImage makes an image ACTIVE whose bytes are there and that other hosts shall have first: an administrator's
// word does, or that of each host in Options.Peers, in any order and as often as it likes.
func (d *Daemon) ActivateImage(ctx context.Context, c Caller, id string) (v Image, err error) {
	defer d.refused(ctx, c, opImageActivate, id, &err)
	peer := d.peer(c)
	as := c
	if peer {
		as = itself // it is about every image that waits, private ones too
	}
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		i, err := knownImage(tx, as, id)
		switch {
		case err != nil:
			return err
		case !peer && !c.admin():
			return errorf(Forbidden, "an image is activated by administrators, and by the other hosts of this one")
		case i.State != ImagePending:
			return settledImage(i, ImagePending)
		case i.Digest == "":
			return errorf(Conflict, "image %s is %s, and its bytes are not here yet", id, i.State)
		}
		if peer && !slices.Contains(i.Peers, c.GUID) {
			i.Peers = append(slices.Clone(i.Peers), c.GUID)
		}
		if !peer || d.everywhere(i) {
			i.State = ImageActive
		}
		if err := tx.PutImage(i, time.Now()); err != nil {
			return err
		}
		if i, err = tx.Image(id); err != nil {
			return err
		}
		v = publicImage(i)
		return tx.Audit(auditRow(c.GUID, c.From, c.Request, opImageActivate, id, "succeeded", "it is "+string(i.State)))
	})
	if err != nil {
		return Image{}, err
	}
	return v, nil
}

// peer says that a caller is another host of this one, and no more than that.
func (d *Daemon) peer(c Caller) bool {
	return !c.admin() && c.HasRole(RolePeer) && slices.Contains(d.opt.Peers, c.GUID)
}

// everywhere says that no other host is waited for.
func (d *Daemon) everywhere(i store.Image) bool {
	return !slices.ContainsFunc(d.opt.Peers, func(p string) bool { return !slices.Contains(i.Peers, p) })
}

// activateComplete makes those images ACTIVE that wait for nobody any more: hosts were taken out of Options.Peers that had not
// activated them, and never would. It is done at the start, since the options do not change.
func (d *Daemon) activateComplete(ctx context.Context) error {
	return d.store.Update(ctx, func(tx *store.Tx) error {
		images, err := tx.Images()
		if err != nil {
			return err
		}
		for _, i := range images {
			if i.State != ImagePending || i.Digest == "" || !d.everywhere(i) {
				continue
			}
			i.State = ImageActive
			err = errors.Join(err, tx.PutImage(i, time.Now()),
				tx.Audit(auditRow(itself.GUID, itself.From, "", opImageActivate, i.ID, "succeeded", "no other host is waited for any more")))
		}
		return err
	})
}
