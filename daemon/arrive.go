package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/imagestore"
)

// How the bytes of an image come in. Until the commit no record names them: the sweep and the deletion of an image with
// the same bytes are kept away.

// arrivalLimit is how long bytes may take: terabytes from one slow disk.
const arrivalLimit = 24 * time.Hour

// arriving is the procedure of a kind whose one step brings the bytes of the image that is its target.
func (d *Daemon) arriving(kind, name string, bring func(*act, context.Context) error) *procedure {
	return &procedure{
		kind: kind, load: loadImage, cancellable: true,
		steps: []step{{name: name, do: bring, undo: (*act).sendBack}},
		done:  func(tx *store.Tx, a *act) error { return fill(tx, a, ImageActive) },
		fail: func(tx *store.Tx, a *act, cause *Error) error {
			return tx.BuryImage(a.op.Target, ImageError, cause.Message, time.Now())
		},
		limit: func(*act, string) time.Duration { return arrivalLimit },
		hold:  (*act).expect,
	}
}

// finishing is like arriving; the upload goes once the record says what came of it, however it ended.
func (d *Daemon) finishing() *procedure {
	p := d.arriving(opImageFinish, "finish", (*act).finishUpload)
	p.after = func(a *act) {
		if a.image.Upload != "" && !a.op.Ended.IsZero() { // else the daemon is stopping, and the next one needs it
			a.d.dropUpload(a.image.Upload)
		}
	}
	return p
}

func loadImage(tx *store.Tx, a *act) (err error) {
	a.image, err = tx.Image(a.op.Target)
	return err
}

// expect keeps the sweep away until the outcome is written.
func (a *act) expect() (release func()) {
	a.d.births.RLock()
	return func() {
		a.d.arrivals.forget(a.op.ID)
		a.d.births.RUnlock()
	}
}

// fill writes what came into the record as it is by now.
func fill(tx *store.Tx, a *act, state ImageState) error {
	i, err := tx.Image(a.image.ID)
	if err != nil {
		return err
	}
	if i.State != ImagePending {
		return store.ErrStale
	}
	i.State, i.Arrived, i.Upload = state, true, ""
	i.Digest, i.Format, i.FileBytes, i.VirtualBytes = string(a.got.Digest), string(a.got.Format), a.got.FileBytes, a.got.VirtualBytes
	return tx.PutImage(i, time.Now())
}

func (a *act) importFile(ctx context.Context) error {
	from, err := argument[bringing](a)
	if err != nil {
		return err
	}
	return a.arrive(ctx, func(p imagestore.Progress) (imagestore.Image, error) {
		return a.d.images.Import(ctx, from.Path, p)
	})
}

func (a *act) fetchURL(ctx context.Context) error {
	from, err := argument[bringing](a)
	if err != nil {
		return err
	}
	return a.arrive(ctx, func(p imagestore.Progress) (imagestore.Image, error) {
		return a.d.images.Fetch(ctx, imagestore.Fetch{URL: from.URL, SHA256: imagestore.Digest(a.image.AskedDigest), Rules: a.d.opt.FetchRules}, p)
	})
}

func (a *act) finishUpload(ctx context.Context) error {
	return a.arrive(ctx, func(p imagestore.Progress) (imagestore.Image, error) {
		got, err := a.d.images.FinishUpload(ctx, imagestore.UploadID(a.image.Upload), p)
		if errors.Is(err, imagestore.ErrNotFound) {
			err = &Error{Code: Conflict, Message: "the bytes that were sent are gone, as after a restart of the host: add the image again", Err: err}
		}
		return got, err
	})
}

func (a *act) flatten(ctx context.Context) error {
	return a.arrive(ctx, func(p imagestore.Progress) (imagestore.Image, error) {
		return a.d.images.Flatten(ctx, a.capsule.ID, a.d.opt.Clean, p)
	})
}

// arrive brings bytes and holds them against what was asked for.
func (a *act) arrive(ctx context.Context, bring func(imagestore.Progress) (imagestore.Image, error)) error {
	told := false
	for {
		got, err := bring(func(_ string, done, total int64) {
			a.progress(done, total)
			if !told && done > 0 {
				told = true
				a.d.complain(ctx, "image "+a.image.ID, a.d.arrived(ctx, a.image.ID))
			}
		})
		if err != nil {
			return err
		}
		a.got = got
		a.d.arrivals.name(a.op.ID, got.Digest)
		// The same bytes may have been there already, and have been removed before they were named just now.
		if _, err := a.d.images.Stat(ctx, got.Digest); errors.Is(err, imagestore.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		if want := a.image.AskedFormat; want != "" && want != string(got.Format) {
			return errorf(Invalid, "its bytes are %s, and %s was announced: say what it is, or convert it", got.Format, want)
		}
		if want := a.image.AskedDigest; want != "" && want != string(got.Digest) {
			return errorf(Invalid, "its bytes are %s, and %s was announced: check the digest, and add the image again", got.Digest, want)
		}
		return nil
	}
}

// sendBack removes what has come, unless somebody else has the same. What a daemon before this one took in, the sweep has
// removed.
func (a *act) sendBack(ctx context.Context) error {
	if a.got.Digest == "" {
		return nil
	}
	a.d.arrivals.forget(a.op.ID)
	return a.d.removeBytes(ctx, a.got.Digest, 0)
}

// removeBytes removes the file of a digest that no more than so many records name, and no arrival.
func (d *Daemon) removeBytes(ctx context.Context, digest imagestore.Digest, named int) error {
	d.arrivals.mu.Lock()
	defer d.arrivals.mu.Unlock()
	if digest == "" || d.arrivals.has(digest) {
		return nil
	}
	used := 0
	if err := d.store.View(ctx, func(tx *store.Tx) (err error) {
		used, err = tx.DigestUsers(string(digest))
		return err
	}); err != nil || used > named {
		return err
	}
	return d.images.Remove(ctx, digest)
}

// arrived notes that some of an image's bytes are there.
func (d *Daemon) arrived(ctx context.Context, id string) error {
	return d.store.Update(ctx, func(tx *store.Tx) error {
		i, err := tx.Image(id)
		if err != nil || i.Arrived || i.State != ImagePending {
			return err
		}
		i.Arrived = true
		return tx.PutImage(i, time.Now())
	})
}

// dropUpload drops an upload that no record names any more. What it cannot drop, the sweep does.
func (d *Daemon) dropUpload(id string) {
	d.mu.Lock()
	base := d.base
	d.mu.Unlock()
	if base == nil {
		return
	}
	err := within(base, stepLimit, func(ctx context.Context) error { return d.images.AbortUpload(ctx, imagestore.UploadID(id)) })
	if err != nil && base.Err() == nil {
		d.log.LogAttrs(base, slog.LevelWarn, "upload not dropped, the sweep will", slog.String("error", err.Error()))
	}
}

// arrivals are the digests of bytes whose commit is near, by operation.
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

// has says whether a digest is named; mu is held.
func (r *arrivals) has(d imagestore.Digest) bool {
	for _, named := range r.named {
		if named == d {
			return true
		}
	}
	return false
}
