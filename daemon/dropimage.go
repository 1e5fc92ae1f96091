package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/imagestore"
)

// RequestImageDelete takes an image out of use: nobody may use it from now on, and its quota is free. Its bytes and its
// name go when the collector finds that nothing needs them. A tombstone in ERROR becomes DELETED, and so does an image
// whose bytes are awaited, protected or not: it is given up. Forbidden for another that is protected, Conflict while its
// bytes are on their way, Gone when it is on its way out already.
func (d *Daemon) RequestImageDelete(ctx context.Context, c Caller, id string) (Image, error) {
	return d.requestImageDelete(ctx, c, id, ImageActive, ImagePending)
}

// RequestActiveImageDelete is RequestImageDelete of an image that must have come: Conflict while it is SHARE_PENDING, though
// its bytes may never arrive. It is for APIs whose clients make no images (images contract, section 3).
func (d *Daemon) RequestActiveImageDelete(ctx context.Context, c Caller, id string) (Image, error) {
	return d.requestImageDelete(ctx, c, id, ImageActive)
}

// requestImageDelete takes an image out of use that is in one of the states, or a tombstone in ERROR.
func (d *Daemon) requestImageDelete(ctx context.Context, c Caller, id string, from ...ImageState) (v Image, err error) {
	const kind = "image-delete-request"
	defer d.refused(ctx, c, kind, id, &err)
	upload := ""
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		i, err := ownImage(tx, c, id)
		if err != nil {
			return err
		}
		switch {
		case i.State == ImageError:
			i.State = ImageDeleted
			err = tx.PutImage(i, time.Now())
		case !slices.Contains(from, i.State):
			return settledImage(i, ImageActive)
		case guarded(i):
			return protectedImage(i)
		case i.State == ImagePending && i.Digest == "":
			if err := idleImage(tx, i); err != nil {
				return pendingImage(err, i)
			}
			upload = i.Upload
			err = tx.BuryImage(id, ImageDeleted, "", time.Now())
		default:
			i = leaving(i)
			err = tx.PutImage(i, time.Now())
		}
		if err != nil {
			return err
		}
		if i, err = tx.ImageEver(id); err != nil {
			return err
		}
		v = publicImage(i)
		return tx.Audit(auditRow(c.GUID, c.From, c.Request, kind, id, "succeeded", "it is "+string(i.State)))
	})
	if err != nil {
		return Image{}, err
	}
	if upload != "" {
		d.dropUpload(upload)
	}
	return v, nil
}

// leaving is an image that goes out of use. Its metadata go at once: it counts against no quota any more, and may be kept
// for long.
func leaving(i store.Image) store.Image {
	i.State, i.Metadata = ImageDeletePending, nil
	return i
}

// guarded says that an image is protected and has something to protect. Until its bytes are there it cannot be changed, so
// that nobody could take the protection away from one whose bytes will never come.
func guarded(i store.Image) bool { return i.Protected && i.Digest != "" }

func protectedImage(i store.Image) error {
	return errorf(Forbidden, "image %s is protected: take the protection away first", i.ID)
}

// pendingImage says that an image whose bytes an operation brings, or that is being shared, is not deleted.
func pendingImage(err error, i store.Image) error {
	if e := classify(err); e.Code == Busy {
		return errorf(Conflict, "image %s is %s: %s", i.ID, i.State, e.Message)
	}
	return err
}

// DeleteImage is RequestImageDelete and PurgeImage at once: its name is free when the operation has ended, and capsules
// made from it live on. A tombstone in ERROR is DELETED at once; its operation finds nothing to do.
func (d *Daemon) DeleteImage(ctx context.Context, c Caller, id string) (Operation, error) {
	return d.beginImage(ctx, c, opImageDelete, id, func(tx *store.Tx, i store.Image) error {
		switch {
		case i.State == ImageError:
			i.State = ImageDeleted
			return tx.PutImage(i, time.Now())
		case i.State != ImageActive && i.State != ImagePending:
			return settledImage(i, ImageActive)
		case guarded(i):
			return protectedImage(i)
		}
		i = leaving(i)
		return errors.Join(unneeded(tx, i), tx.PutImage(i, time.Now()))
	})
}

// PurgeImage takes the bytes and the name of an image that is in DELETE_PENDING now, whatever the collector would wait
// for. Busy while a capsule is being made from it.
func (d *Daemon) PurgeImage(ctx context.Context, c Caller, id string) (Operation, error) {
	return d.beginImage(ctx, c, opImageDelete, id, func(tx *store.Tx, i store.Image) error {
		if i.State != ImageDeletePending {
			if !i.DeletedAt.IsZero() {
				return settledImage(i, ImageDeletePending)
			}
			return errorf(Conflict, "image %s is %s: ask for its deletion first", id, i.State)
		}
		return unneeded(tx, i)
	})
}

// unneeded refuses to take an image away whose bytes a capsule still has to be given.
func unneeded(tx *store.Tx, i store.Image) error {
	why, err := neededBy(tx, i)
	if err == nil && why != "" {
		err = errorf(Busy, "%s: try again when that is over", why)
	}
	return err
}

// neededBy says what needs the record of an image and its bytes; "" when nothing does. A capsule that is made holds what
// it was cloned from by a link of its own.
func neededBy(tx *store.Tx, i store.Image) (string, error) {
	for _, use := range []struct {
		state State
		words string
	}{{CreatePending, "being made from"}, {ImageSharePending, "being shared that was made from"}} {
		ids, err := tx.CapsulesFrom(i.ID, use.state)
		if err != nil {
			return "", err
		}
		if len(ids) > 0 {
			return fmt.Sprintf("capsule %s is %s image %s", strings.Join(ids, ", "), use.words, i.ID), nil
		}
	}
	return "", nil
}

// imageDelete removes the bytes of an image that is on its way out, unless another image has the same. A capsule made
// from it keeps them by its own link.
func (d *Daemon) imageDelete() *procedure {
	return &procedure{
		kind: opImageDelete, load: func(tx *store.Tx, a *act) (err error) {
			a.image, err = tx.ImageEver(a.op.Target)
			return err
		},
		steps: []step{{name: "remove", do: (*act).removeFile}},
		done:  deletedImage,
		// Whatever is left of its bytes, no record names them: the sweep tries again.
		fail: func(tx *store.Tx, a *act, _ *Error) error { return deletedImage(tx, a) },
	}
}

// deletedImage leaves a tombstone as it is: that of an image whose bytes never came says why.
func deletedImage(tx *store.Tx, a *act) error {
	return ignore(tx.BuryImage(a.op.Target, ImageDeleted, "", time.Now()))
}

func (a *act) removeFile(ctx context.Context) error {
	if a.image.Upload != "" {
		if err := a.d.images.AbortUpload(ctx, imagestore.UploadID(a.image.Upload)); err != nil {
			return err
		}
	}
	return a.d.removeBytes(ctx, imagestore.Digest(a.image.Digest), 1) // this image is one
}
