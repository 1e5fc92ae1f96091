package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/imagestore"
)

// knownImage reads an image that a caller may know of, a tombstone too while these are kept.
func knownImage(tx *store.Tx, c Caller, id string) (store.Image, error) {
	if c.GUID == "" {
		return store.Image{}, errorf(Unauthorized, "who asks is not known")
	}
	r, err := tx.ImageEver(id)
	if err != nil {
		return r, missing(err, "no image %s", clip(id))
	}
	if i := publicImage(r); !sees(c, &i) || gone(&i, time.Now()) {
		return store.Image{}, errorf(NotFound, "no image %s", clip(id))
	}
	return r, nil
}

// ownImage reads an image that a caller may change: unknown first, then the permission.
func ownImage(tx *store.Tx, c Caller, id string) (store.Image, error) {
	i, err := knownImage(tx, c, id)
	if err == nil && i.Owner != c.GUID && !c.admin() {
		err = errorf(Forbidden, "image %s is not yours", id)
	}
	return i, err
}

// idleImage refuses while an operation on an image is under way, or on the capsule that it is made of.
func idleImage(tx *store.Tx, i store.Image) error {
	open, err := tx.OpenOperation(i.ID)
	switch {
	case i.State == ImagePending && i.SourceCapsule != "" && i.Digest == "":
		return errorf(Busy, "image %s is being made of capsule %s", i.ID, i.SourceCapsule)
	case err == nil:
		return errorf(Busy, "image %s is busy: %s has been under way since %s (operation %s)", i.ID, open.Kind, open.Started.Format("15:04:05 MST"), open.ID)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	return nil
}

// settledImage is why an image will not do that is not in the state that it must be in, in the codes that the dialects tell
// apart (images contract, section 3).
func settledImage(i store.Image, want ImageState) error {
	switch {
	case i.State == ImageError:
		return errorf(Gone, "image %s never came (%s): delete it, and add another", i.ID, i.Cause)
	case i.State == ImageDeletePending:
		return errorf(Gone, "image %s is deleted", i.ID)
	case !i.DeletedAt.IsZero():
		return &Error{Code: Gone, Message: fmt.Sprintf("image %s is deleted", i.ID), Err: ErrPurged}
	}
	return errorf(Conflict, "image %s is %s, and must be %s for that", i.ID, i.State, want)
}

// activeImage passes what is ACTIVE.
func activeImage(i store.Image) error {
	if i.State == ImageActive {
		return nil
	}
	return settledImage(i, ImageActive)
}

// OpenImage opens the bytes of an ACTIVE image for reading; the caller closes them. They can be read to their end though
// the image is deleted meanwhile. A host in Options.Peers may read those of any image that waits for it, to have it too.
func (d *Daemon) OpenImage(ctx context.Context, c Caller, id string) (*os.File, Image, error) {
	var record store.Image
	if err := d.view(ctx, func(tx *store.Tx) (err error) {
		awaited := false
		if d.peer(c) {
			record, err = knownImage(tx, itself, id)
			awaited = err == nil && record.State == ImagePending && record.Digest != ""
		}
		if awaited {
			return nil
		}
		if record, err = knownImage(tx, c, id); err == nil {
			err = activeImage(record)
		}
		return err
	}); err != nil {
		return nil, Image{}, err
	}
	f, _, err := d.images.Open(ctx, imagestore.Digest(record.Digest))
	if err != nil {
		return nil, Image{}, bytesGone(err, id)
	}
	return f, publicImage(record), nil
}

// VerifyImage begins to read an image once more, and to hold its bytes against its digest. The operation fails with what
// was found; the image stays. For its owner and administrators.
func (d *Daemon) VerifyImage(ctx context.Context, c Caller, id string) (op Operation, err error) {
	return d.beginImage(ctx, c, opImageVerify, id, func(_ *store.Tx, i store.Image) error { return activeImage(i) })
}

// beginImage writes the intent of an operation on an image and starts it. ready looks at the record, and may change it.
func (d *Daemon) beginImage(ctx context.Context, c Caller, kind, id string, ready func(*store.Tx, store.Image) error) (op Operation, err error) {
	defer d.refused(ctx, c, kind, id, &err)
	if c.GUID == "" {
		return op, errorf(Unauthorized, "who asks is not known")
	}
	if err := d.accepting(); err != nil {
		return op, err
	}
	var entry store.Operation
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		i, err := ownImage(tx, c, id)
		if err != nil {
			return err
		}
		if err := idleImage(tx, i); err != nil {
			return err
		}
		if err := ready(tx, i); err != nil {
			return err
		}
		entry = d.newOperation(d.procedures[kind], c, id, i.Owner, "")
		return errors.Join(tx.InsertOperation(entry),
			tx.Audit(auditRow(c.GUID, c.From, c.Request, kind, id, "accepted", "operation "+entry.ID)))
	})
	if err != nil {
		return op, err
	}
	d.start(entry)
	return public(entry, c), nil
}

// imageVerify changes nothing, whatever it finds.
func (d *Daemon) imageVerify() *procedure {
	return &procedure{
		kind: opImageVerify, load: loadImage, cancellable: true,
		steps: []step{{name: "digest", do: (*act).digest}},
		done:  func(*store.Tx, *act) error { return nil },
		fail:  func(*store.Tx, *act, *Error) error { return nil },
		limit: func(*act, string) time.Duration { return arrivalLimit },
	}
}

// digest is an error in the log when it fails, as every operation is that does.
func (a *act) digest(ctx context.Context) error {
	return bytesGone(a.d.images.Verify(ctx, imagestore.Digest(a.image.Digest), func(_ string, done, total int64) { a.progress(done, total) }), a.image.ID)
}

// bytesGone says what it means that the store does not have what a record names.
func bytesGone(err error, id string) error {
	if errors.Is(err, imagestore.ErrNotFound) {
		return &Error{Code: Internal, Message: "the bytes of image " + id + " are gone from the store: add the same file again", Err: err}
	}
	if err == nil {
		return nil
	}
	return classify(err)
}
