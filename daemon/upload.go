package daemon

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/imagestore"
)

// Images whose bytes come in pieces. The record names the upload of the image store: what comes after a restart of the
// daemon goes on where it was; after one of the host it begins again at 0.

// claims are the images to whose uploads a call is adding, or that are about to be finished: one at a time.
type claims struct {
	mu   sync.Mutex
	held map[string]bool
}

// claim takes an image until release; Busy while somebody else has it.
func (k *claims) claim(id string) (release func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held[id] {
		return nil, errorf(Busy, "another request sends bytes of image %s: wait until it has ended", id)
	}
	k.held[id] = true
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.held, id)
	}, nil
}

// AppendImage adds bytes to an image that awaits them, at offset, which must be how many are there; -1 drops what came
// before and begins anew. What came before an error stays: the ImageUpload says how much is there, and is zero when nobody looked.
//
// Conflict for another offset, or when nothing is awaited; Busy while another request sends; Invalid for more than was
// announced, of which nothing stays; an *Error of r's as it is. Ending ctx ends it at the next megabyte: a read that waits is ended by r's owner.
func (d *Daemon) AppendImage(ctx context.Context, c Caller, id string, offset int64, r io.Reader) (u ImageUpload, err error) {
	defer d.refused(ctx, c, "image-append", id, &err)
	if offset < -1 {
		return u, errorf(Invalid, "offset is %d: it must be how many bytes are there, or -1 to begin anew", offset)
	}
	if err := d.accepting(); err != nil {
		return u, err
	}
	var image store.Image
	if err := d.view(ctx, func(tx *store.Tx) (err error) { image, err = d.awaiting(tx, c, id); return err }); err != nil {
		return u, err
	}
	release, err := d.appends.claim(id)
	if err != nil {
		return u, err
	}
	defer release()
	if image, err = d.uploadTo(ctx, c, id, offset); err != nil {
		return u, err
	}
	u.Bytes = image.AskedBytes
	if image.Upload == "" {
		return u, errorf(Conflict, "nothing of image %s is here: begin at offset 0", id)
	}
	u.Received, err = d.images.AppendUpload(ctx, imagestore.UploadID(image.Upload), max(offset, 0), r)
	if u.Received > 0 && !image.Arrived {
		err = errors.Join(err, d.arrived(context.WithoutCancel(ctx), id))
	}
	switch {
	case errors.Is(err, imagestore.ErrNotFound): // it was given up while the bytes came
		u.Received = 0
		return u, &Error{Code: Gone, Message: "image " + id + " does not await bytes any more", Err: err}
	case err != nil:
		return u, uploadError(err)
	}
	return u, nil
}

// uploadError is a failure that came while a caller's bytes did. What no row names is the caller's own: a transfer that
// was cut.
func uploadError(err error) error {
	e := classify(err)
	if e.Code == Internal {
		return &Error{Code: Unavailable, Message: "the bytes stopped coming: go on where they ended", Err: err}
	}
	return e
}

// awaiting reads an image that bytes may be sent to by a caller.
func (d *Daemon) awaiting(tx *store.Tx, c Caller, id string) (store.Image, error) {
	i, err := ownImage(tx, c, id)
	if err != nil {
		return i, err
	}
	if i.State != ImagePending {
		return i, settledImage(i, ImagePending)
	}
	if err := idleImage(tx, i); err != nil {
		return i, err
	}
	if i.Digest != "" {
		return i, errorf(Conflict, "the bytes of image %s are there: it becomes ACTIVE when every host has it", id)
	}
	return i, nil
}

// uploadTo finds the upload that bytes at offset go to, and begins one if they are the first. The claim is held, so
// nobody finishes it meanwhile.
func (d *Daemon) uploadTo(ctx context.Context, c Caller, id string, offset int64) (image store.Image, err error) {
	d.births.RLock() // until the record names the upload, for the sweep
	defer d.births.RUnlock()
	if err := d.view(ctx, func(tx *store.Tx) (err error) { image, err = d.awaiting(tx, c, id); return err }); err != nil {
		return image, err
	}
	before := image.Upload
	there, err := d.upload(ctx, before)
	if err != nil {
		return image, err
	}
	if there != nil && offset != -1 {
		return image, nil
	}
	image.Upload = ""
	if offset > 0 {
		return image, nil
	}
	begun, err := d.images.BeginUpload(ctx, image.AskedBytes, imagestore.Digest(image.AskedDigest))
	if err != nil {
		return image, classify(err)
	}
	image.Upload = string(begun)
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		i, err := d.awaiting(tx, c, id)
		if err != nil {
			return err
		}
		i.Upload = image.Upload
		return tx.PutImage(i, time.Now())
	})
	if err != nil {
		d.dropUpload(image.Upload)
		return image, classify(err)
	}
	if there != nil {
		d.dropUpload(before)
	}
	return image, nil
}

// upload looks an upload up; nil when it is not there, or no more.
func (d *Daemon) upload(ctx context.Context, id string) (*imagestore.Upload, error) {
	if id == "" {
		return nil, nil
	}
	all, err := d.images.Uploads(ctx)
	if err != nil {
		return nil, classify(err)
	}
	for _, u := range all {
		if string(u.ID) == id {
			return &u, nil
		}
	}
	return nil, nil
}

// FinishImage begins to make an image of the bytes that were sent: it becomes ACTIVE, or an ERROR with the cause. Conflict
// when fewer came than were announced, or none.
func (d *Daemon) FinishImage(ctx context.Context, c Caller, id string) (op Operation, err error) {
	defer d.refused(ctx, c, opImageFinish, id, &err)
	if err := d.accepting(); err != nil {
		return op, err
	}
	var image store.Image
	if err := d.view(ctx, func(tx *store.Tx) (err error) { image, err = d.awaiting(tx, c, id); return err }); err != nil {
		return op, err
	}
	release, err := d.appends.claim(image.ID)
	if err != nil {
		return op, err
	}
	defer release() // once the operation is in the records, which keeps others out
	if err := d.view(ctx, func(tx *store.Tx) (err error) { image, err = d.awaiting(tx, c, id); return err }); err != nil {
		return op, err // read again under the claim
	}
	u, err := d.upload(ctx, image.Upload)
	switch {
	case err != nil:
		return op, err
	case u == nil || u.Received == 0:
		return op, errorf(Conflict, "nothing of image %s is here: send its bytes from offset 0", id)
	case image.AskedBytes >= 0 && u.Received != image.AskedBytes:
		return op, errorf(Conflict, "%d bytes of image %s are here, and %d were announced: go on there", u.Received, id, image.AskedBytes)
	}
	var entry store.Operation
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		if image, err = d.awaiting(tx, c, id); err != nil {
			return err
		}
		entry = d.newOperation(d.procedures[opImageFinish], c, id, image.Owner, "")
		return errors.Join(tx.InsertOperation(entry),
			tx.Audit(auditRow(c.GUID, c.From, c.Request, opImageFinish, id, "accepted", "operation "+entry.ID)))
	})
	if err != nil {
		return op, err
	}
	d.start(entry)
	return public(entry, c), nil
}

// ImageProgress says how much of an image is here, to its owner and to administrators.
func (d *Daemon) ImageProgress(ctx context.Context, c Caller, id string) (ImageUpload, error) {
	var image store.Image
	if err := d.view(ctx, func(tx *store.Tx) (err error) { image, err = ownImage(tx, c, id); return err }); err != nil {
		return ImageUpload{}, err
	}
	switch {
	case !image.DeletedAt.IsZero() || image.State == ImageDeletePending:
		return ImageUpload{}, settledImage(image, ImagePending)
	case image.Digest != "":
		return ImageUpload{Received: image.FileBytes, Bytes: image.FileBytes}, nil
	}
	there, err := d.upload(ctx, image.Upload)
	if err != nil || there == nil {
		return ImageUpload{Bytes: image.AskedBytes}, err
	}
	return ImageUpload{Received: there.Received, Bytes: image.AskedBytes}, nil
}
