package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon/store"
)

// sharing is the argument of image-share: the image that is made of the capsule.
type sharing struct{ Image string }

// ShareCapsule begins to make an image of the disk of a capsule that is shut down, cleaned by Options.Clean. The capsule
// is IMAGE_SHARE_PENDING meanwhile and SHUTDOWN again afterwards, also when it fails: then the image is an ERROR that
// says why. The image belongs to the caller, who must be an owner of the capsule, and has the first login of the image
// that the capsule was made from.
//
// Conflict for another state, a clean point, or a name that is taken; OverQuota before anything has moved.
func (d *Daemon) ShareCapsule(ctx context.Context, c Caller, n NewShare) (v Image, op Operation, err error) {
	defer d.refused(ctx, c, opImageShare, n.Capsule, &err)
	if c.GUID == "" {
		return v, op, errorf(Unauthorized, "who asks is not known")
	}
	if _, err := uuid.Parse(n.Capsule); err != nil {
		return v, op, errorf(Invalid, "%q is not a capsule id: a UUID such as 6f1c7a52-0b5e-4c64-9a53-0d2f5d1f7a10 is", clip(n.Capsule))
	}
	if err := errorOf(checkImageName(n.Name), checkImageDescription(n.Description)); err != nil {
		return v, op, err
	}
	if n.Public && !c.admin() {
		return v, op, errorf(Forbidden, "only an administrator makes an image public")
	}
	if err := d.accepting(); err != nil {
		return v, op, err
	}
	m := moves[opImageShare]
	var image store.Image
	var entry store.Operation
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		capsule, err := d.may(tx, c, opImageShare, n.Capsule)
		if err != nil {
			return err
		}
		if err := leave(tx, capsule, opImageShare, m); err != nil {
			return err
		}
		if capsule.CleanPoint != "" {
			return errorf(Conflict, "capsule %s has a clean point to go back to: its disk is not shared", n.Capsule)
		}
		image = store.Image{
			ID: uuid.NewString(), Name: n.Name, Description: n.Description, State: ImagePending, Visibility: Private,
			Metadata: map[string]string{"instance_uuid": capsule.ID, "image_type": "snapshot"}, SourceCapsule: capsule.ID, AskedBytes: -1,
			Owner: c.GUID, Charged: !c.admin(), LoginUser: capsule.ImageUser, LoginPassword: capsule.ImagePassword, CreatedAt: now(),
		}
		if n.Public {
			image.Visibility = Public
		}
		image.UpdatedAt = image.CreatedAt
		if err := d.insertImage(tx, c, image); err != nil {
			return err
		}
		if err := tx.MoveCapsule(capsule.ID, m.from, m.pending, capsule.Mode, capsule.Cause); err != nil {
			return err
		}
		entry = d.newOperation(d.procedures[opImageShare], c, capsule.ID, capsule.Owner, encode(sharing{image.ID}))
		return errors.Join(tx.InsertOperation(entry),
			tx.Audit(auditRow(c.GUID, c.From, c.Request, opImageShare, capsule.ID, "accepted", "operation "+entry.ID+", image "+image.ID)))
	})
	if err != nil {
		return v, op, err
	}
	d.start(entry)
	return publicImage(image), public(entry, c), nil
}

// imageShare is about two records: the capsule, which is its target, and the image.
func (d *Daemon) imageShare() *procedure {
	m := moves[opImageShare]
	back := func(tx *store.Tx, a *act, to State) error {
		return tx.MoveCapsule(a.op.Target, []State{m.pending}, to, NotDefined, a.capsule.Cause)
	}
	return &procedure{
		kind: opImageShare, load: loadShare, cancellable: true,
		steps: []step{{name: "flatten", do: (*act).flatten, undo: (*act).sendBack}},
		done: func(tx *store.Tx, a *act) error {
			state := ImageActive
			if len(d.opt.Peers) > 0 { // until each of them has it
				state = ImagePending
			}
			return errors.Join(fill(tx, a, state), back(tx, a, m.done))
		},
		fail: func(tx *store.Tx, a *act, cause *Error) error {
			return errors.Join(tx.BuryImage(a.image.ID, ImageError, cause.Message, time.Now()), back(tx, a, m.failed))
		},
		limit: func(*act, string) time.Duration { return arrivalLimit },
		hold:  (*act).expect,
		after: (*act).lookAgain,
	}
}

func loadShare(tx *store.Tx, a *act) error {
	of, err := argument[sharing](a)
	if err != nil {
		return err
	}
	a.image, err = tx.Image(of.Image)
	return errors.Join(err, loadCapsule(tx, a))
}
