package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/imagestore"
)

// awaitedFor is how long an image waits for its next bytes. The image store's sweep drops an upload after as long, and
// what a boot of the host has ended has no upload at all: so the record counts from its last change as well.
const awaitedFor = 24 * time.Hour

// collectDue collects what is to be collected by now.
func (d *Daemon) collectDue(ctx context.Context) error {
	_, err := d.collect(ctx, itself, false)
	return err
}

// CollectImages takes what is there to be taken of images: those in DELETE_PENDING for longer than Options.KeepDeleted
// whose bytes nothing needs, and those whose bytes have been awaited for a day. It says what goes, what stays, and why;
// with dryRun nothing goes. It begins operations and waits for none. For administrators.
//
// Files that no record names are the sweep's, which runs with each full pass: once the domains of deleted capsules have been
// ended whose directories it removes. What it puts off, nobody else may do, and what it does not, is done within that pass.
func (d *Daemon) CollectImages(ctx context.Context, c Caller, dryRun bool) (waste []ImageWaste, err error) {
	defer d.refused(ctx, c, "image-collect", "", &err)
	switch {
	case c.GUID == "":
		return nil, errorf(Unauthorized, "who asks is not known")
	case !c.admin():
		return nil, errorf(Forbidden, "images are collected by administrators")
	}
	if err := d.accepting(); err != nil {
		return nil, err
	}
	return d.collect(ctx, c, dryRun)
}

func (d *Daemon) collect(ctx context.Context, c Caller, dryRun bool) ([]ImageWaste, error) {
	uploads, err := d.images.Uploads(ctx) // before the records: what is begun after them is young
	if err != nil {
		return nil, classify(err)
	}
	touched := map[string]imagestore.Upload{}
	for _, u := range uploads {
		touched[string(u.ID)] = u
	}
	var images []store.Image
	if err := d.view(ctx, func(tx *store.Tx) (err error) { images, err = tx.Images(); return err }); err != nil {
		return nil, err
	}
	var waste []ImageWaste
	var errs []error
	for _, i := range images {
		var w ImageWaste
		var err error
		switch {
		case i.State == ImageDeletePending:
			w, err = d.collectDeleted(ctx, c, i.ID, dryRun)
		case i.State == ImagePending && i.Digest == "":
			w, err = d.collectAwaited(ctx, c, i.ID, touched, dryRun)
		}
		if errs = append(errs, err); w.ID != "" {
			waste = append(waste, w)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return waste, classify(err)
	}
	return waste, nil
}

// collectDeleted begins to delete an image, unless something is in the way.
func (d *Daemon) collectDeleted(ctx context.Context, c Caller, id string, dryRun bool) (w ImageWaste, err error) {
	var entry store.Operation
	look := func(tx *store.Tx) error {
		i, err := tx.Image(id)
		if err != nil || i.State != ImageDeletePending {
			return ignore(err)
		}
		w = ImageWaste{ID: id, Name: i.Name, Digest: i.Digest, Bytes: i.FileBytes}
		if n, err := tx.DigestUsers(i.Digest); err != nil {
			return err
		} else if n > 1 { // the file stays for the others
			w.Bytes = 0
		}
		if left := d.opt.KeepDeleted - time.Since(i.UpdatedAt); d.opt.KeepDeleted > 0 && left > 0 {
			w.Kept = fmt.Sprintf("deleted images are kept for %s, and this for another %s", d.opt.KeepDeleted, left.Round(time.Second))
			return nil
		}
		if w.Kept, err = neededBy(tx, i); err != nil || w.Kept != "" {
			return err
		}
		if open, err := tx.OpenOperation(id); err == nil {
			w.Kept = fmt.Sprintf("operation %s (%s) is under way", open.ID, open.Kind)
			return nil
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if dryRun {
			return nil
		}
		entry = d.newOperation(d.procedures[opImageDelete], c, id, i.Owner, "")
		return errors.Join(tx.InsertOperation(entry),
			tx.Audit(auditRow(c.GUID, c.From, c.Request, opImageDelete, id, "accepted", "operation "+entry.ID+", collected")))
	}
	if err := d.collectTx(ctx, dryRun, look); err != nil {
		return w, err
	}
	if entry.ID != "" {
		d.start(entry)
	}
	return w, nil
}

// collectAwaited gives an image up for whose bytes nobody has cared for a day.
func (d *Daemon) collectAwaited(ctx context.Context, c Caller, id string, uploads map[string]imagestore.Upload, dryRun bool) (w ImageWaste, err error) {
	upload := ""
	look := func(tx *store.Tx) error {
		i, err := tx.Image(id)
		if err != nil || i.State != ImagePending || i.Digest != "" {
			return ignore(err)
		}
		if _, err := tx.OpenOperation(id); err == nil || i.SourceCapsule != "" { // its bytes are on their way
			return nil
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		u := uploads[i.Upload]
		last := i.UpdatedAt
		if u.Touched.After(last) {
			last = u.Touched
		}
		if time.Since(last) < awaitedFor {
			return nil
		}
		w, upload = ImageWaste{ID: id, Name: i.Name, Bytes: u.Received}, i.Upload
		if dryRun {
			return nil
		}
		cause := fmt.Sprintf("nothing of its bytes came for %s", awaitedFor)
		return errors.Join(tx.BuryImage(id, ImageError, cause, time.Now()),
			tx.Audit(auditRow(c.GUID, c.From, c.Request, "image-give-up", id, "succeeded", cause)))
	}
	release, err := d.appends.claim(id)
	if err != nil { // somebody sends at this moment
		return w, nil
	}
	defer release()
	if err := d.collectTx(ctx, dryRun, look); err != nil {
		return w, err
	}
	if w.ID != "" && !dryRun {
		d.log.LogAttrs(ctx, slog.LevelInfo, "image given up, nothing of its bytes came", slog.String("image", id))
		if upload != "" {
			d.dropUpload(upload)
		}
	}
	return w, nil
}

// collectTx looks within a transaction that can write only if something may go.
func (d *Daemon) collectTx(ctx context.Context, dryRun bool, look func(*store.Tx) error) error {
	if dryRun {
		return d.store.View(ctx, look)
	}
	return d.store.Update(ctx, look)
}

// ignore is for what is gone meanwhile.
func ignore(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
