package daemon

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/imagestore"
)

// Bounds of an image record's texts, in characters.
const (
	MaxImageName        = 128  // contract section 8, imagename
	MaxImageDescription = 1024 // contract section 8, imagedescription
	MaxImagePassword    = 128
	MaxImagePath        = 4096 // PATH_MAX
)

// importing is the argument of image-add.
type importing struct{ Path string }

// AddImage begins to take an image in from a file of this host. Only a local caller may: whoever can name a file
// here can have it read by root.
func (d *Daemon) AddImage(ctx context.Context, c Caller, n NewImage) (v Image, op Operation, err error) {
	defer d.refused(ctx, c, opImageAdd, n.Name, &err)
	if c.GUID == "" {
		return v, op, errorf(Unauthorized, "who asks is not known")
	}
	if !c.Local {
		return v, op, errorf(Forbidden, "an image can be added from a file of the host by its administrators alone, over the unix socket")
	}
	if err := n.validate(); err != nil {
		return v, op, err
	}
	if err := d.accepting(); err != nil {
		return v, op, err
	}
	now := time.Now()
	image := store.Image{
		ID: uuid.NewString(), Name: n.Name, Description: n.Description, State: ImagePending, Public: n.Visibility == Public, Owner: c.GUID,
		LoginUser: n.LoginUser, LoginPassword: n.LoginPassword, CreatedAt: now, UpdatedAt: now,
	}
	entry := d.newOperation(d.procedures[opImageAdd], c, image.ID, c.GUID, encode(importing{n.Path}))
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.PutUser(c.GUID, c.Email); err != nil {
			return err
		}
		if err := tx.InsertImage(image); errors.Is(err, store.ErrTaken) {
			return errorf(Conflict, "there is an image named %q: choose another name, or delete that one", n.Name)
		} else if err != nil {
			return err
		}
		return errors.Join(tx.InsertOperation(entry),
			tx.Audit(auditRow(c.GUID, c.From, c.Request, opImageAdd, image.ID, "accepted", "operation "+entry.ID+", file "+clip(n.Path))))
	})
	if err != nil {
		return v, op, err
	}
	d.start(entry)
	return publicImage(image), public(entry, c), nil
}

func (n NewImage) validate() error {
	for _, err := range []error{
		text("name", n.Name, 1, MaxImageName, "printable text on one line", lineRune),
		text("description", n.Description, 0, MaxImageDescription, "printable text", textRune),
		text("login_user", n.LoginUser, 0, MaxLoginUser, "a-z, A-Z, 0-9, '.', '_' and '-'", loginRune),
		text("login_password", n.LoginPassword, 0, MaxImagePassword, "printable ASCII", asciiRune),
	} {
		if err != nil {
			return err
		}
	}
	if _, err := uuid.Parse(n.Name); err == nil {
		return errorf(Invalid, "name %q looks like an image id: choose another", n.Name)
	}
	if !filepath.IsAbs(n.Path) || len(n.Path) > MaxImagePath || strings.ContainsRune(n.Path, 0) || !utf8.ValidString(n.Path) {
		return errorf(Invalid, "path %q is not an absolute path on the host", clip(n.Path))
	}
	return nil
}

// Images lists the images that the caller may use, oldest first; an administrator sees all.
func (d *Daemon) Images(ctx context.Context, c Caller) ([]Image, error) {
	if c.GUID == "" {
		return nil, errorf(Unauthorized, "who asks is not known")
	}
	var records []store.Image
	if err := d.view(ctx, func(tx *store.Tx) (err error) { records, err = tx.Images(); return err }); err != nil {
		return nil, err
	}
	records = slices.DeleteFunc(records, func(i store.Image) bool { return !sees(c, i) })
	out := make([]Image, 0, len(records))
	for _, r := range records {
		out = append(out, publicImage(r))
	}
	return out, nil
}

func sees(c Caller, i store.Image) bool {
	return c.admin() || c.GUID != "" && (i.Public || i.Owner == c.GUID)
}

// Image reads one image.
func (d *Daemon) Image(ctx context.Context, c Caller, id string) (Image, error) {
	var record store.Image
	err := d.view(ctx, func(tx *store.Tx) (err error) { record, err = visibleImage(tx, c, id); return err })
	return publicImage(record), err
}

func visibleImage(tx *store.Tx, c Caller, id string) (store.Image, error) {
	i, err := tx.Image(id)
	if err == nil && !sees(c, i) {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Image{}, missing(err, "no image %s", clip(id))
	}
	return i, nil
}

// DeleteImage begins to delete an image: its name is free when the operation has ended, and capsules made from
// it live on.
func (d *Daemon) DeleteImage(ctx context.Context, c Caller, id string) (op Operation, err error) {
	defer d.refused(ctx, c, opImageDelete, id, &err)
	if c.GUID == "" {
		return op, errorf(Unauthorized, "who asks is not known")
	}
	if err := d.accepting(); err != nil {
		return op, err
	}
	var entry store.Operation
	err = d.store.Update(ctx, func(tx *store.Tx) error {
		image, err := visibleImage(tx, c, id)
		if err != nil {
			return err
		}
		if image.Owner != c.GUID && !c.admin() {
			return errorf(Forbidden, "image %s is not yours", id)
		}
		if image.State != ImageActive {
			return errorf(Busy, "image %s is %s: it can be deleted when it is ACTIVE", id, image.State)
		}
		if used, err := tx.ImageInCreation(id, CreatePending); err != nil {
			return err
		} else if used {
			return errorf(Busy, "a capsule is being made from image %s: try again", id)
		}
		entry = d.newOperation(d.procedures[opImageDelete], c, id, image.Owner, "")
		return errors.Join(tx.MoveImage(id, ImageActive, ImageDeletePending, time.Now()), tx.InsertOperation(entry),
			tx.Audit(auditRow(c.GUID, c.From, c.Request, opImageDelete, id, "accepted", "operation "+entry.ID)))
	})
	if err != nil {
		return op, err
	}
	d.start(entry)
	return public(entry, c), nil
}

func publicImage(i store.Image) Image {
	visibility := Private
	if i.Public {
		visibility = Public
	}
	return Image{
		ID: i.ID, Name: i.Name, Description: i.Description, State: i.State, Visibility: visibility, Owner: i.Owner,
		Digest: i.Digest, Format: i.Format, FileBytes: i.FileBytes, VirtualBytes: i.VirtualBytes,
		LoginUser: i.LoginUser, LoginPassword: i.LoginPassword, CreatedAt: i.CreatedAt, UpdatedAt: i.UpdatedAt,
	}
}

// imageAdd takes a file in. Until its commit no record names the bytes: the sweep and the deletion of an image with
// the same bytes are kept away.
func (d *Daemon) imageAdd() *procedure {
	return &procedure{
		kind: opImageAdd, load: loadImage,
		steps: []step{{name: "import", do: (*act).importFile}},
		done:  func(tx *store.Tx, a *act) error { return tx.FillImage(a.image, ImagePending, time.Now()) },
		fail: func(tx *store.Tx, a *act, _ *Error) error {
			return tx.BuryImage(a.op.Target, ImageError, time.Now())
		},
		limit: func(*act, string) time.Duration { return 24 * time.Hour }, // terabytes from one slow disk
		hold: func(a *act) func() {
			d.births.RLock()
			return func() {
				d.arrivals.forget(a.op.ID)
				d.births.RUnlock()
			}
		},
	}
}

// imageDelete removes the bytes of an image that is on its way out, unless another image has the same. A capsule made
// from it keeps them by its own link.
func (d *Daemon) imageDelete() *procedure {
	return &procedure{
		kind: opImageDelete, load: loadImage,
		steps: []step{{name: "remove", do: (*act).removeFile}},
		done:  func(tx *store.Tx, a *act) error { return tx.BuryImage(a.op.Target, ImageDeleted, time.Now()) },
		// Whatever is left of its bytes, no record names them: the sweep tries again.
		fail: func(tx *store.Tx, a *act, _ *Error) error { return tx.BuryImage(a.op.Target, ImageDeleted, time.Now()) },
	}
}

func loadImage(tx *store.Tx, a *act) (err error) {
	a.image, err = tx.Image(a.op.Target)
	return err
}

func (a *act) importFile(ctx context.Context) error {
	from, err := argument[importing](a)
	if err != nil {
		return err
	}
	for {
		got, err := a.d.images.Import(ctx, from.Path, func(_ string, done, total int64) { a.progress(done, total) })
		if err != nil {
			return err
		}
		a.d.arrivals.name(a.op.ID, got.Digest)
		// The same bytes may have been there already, and have been removed before they were named just now.
		if _, err := a.d.images.Stat(ctx, got.Digest); errors.Is(err, imagestore.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		a.image.State, a.image.Digest, a.image.Format = ImageActive, string(got.Digest), string(got.Format)
		a.image.FileBytes, a.image.VirtualBytes = got.FileBytes, got.VirtualBytes
		return nil
	}
}

func (a *act) removeFile(ctx context.Context) error {
	a.d.arrivals.mu.Lock()
	defer a.d.arrivals.mu.Unlock()
	digest := imagestore.Digest(a.image.Digest)
	used := slices.Contains(slices.Collect(maps.Values(a.d.arrivals.named)), digest)
	if err := a.d.store.View(ctx, func(tx *store.Tx) error {
		n, err := tx.DigestUsers(a.image.Digest)
		used = used || n > 1 // this image is one
		return err
	}); err != nil || used {
		return err
	}
	return a.d.images.Remove(ctx, digest)
}

// arrivals are the digests of imports whose commit is near, by operation.
type arrivals struct {
	mu    sync.Mutex
	named map[string]imagestore.Digest
}

func (r *arrivals) name(op string, d imagestore.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.named[op] = d
}

func (r *arrivals) forget(op string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.named, op)
}
