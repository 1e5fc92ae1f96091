package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/capsuled/capsuled/daemon/store"
	"github.com/capsuled/capsuled/imagestore"
)

// sweep removes files that no record names. It is put off while an image arrives or an entry to secure mode is under way: the
// bytes of the one and the RAM that the other saves have no record yet.
func (d *Daemon) sweep(ctx context.Context) error {
	if !d.births.TryLock() {
		return nil
	}
	defer d.births.Unlock()
	freezing := false
	err := d.store.View(ctx, func(tx *store.Tx) error {
		open, err := tx.OpenOperations()
		freezing = slices.ContainsFunc(open, func(o store.Operation) bool { return o.Kind == opEnter })
		return err
	})
	if err != nil || freezing { // libvirt goes on with a clean point though the daemon was killed that asked for it
		return err
	}
	digests, keep := map[imagestore.Digest]bool{}, map[string]bool{}
	keys, err := d.files.Keys(ctx)
	if err != nil {
		return err
	}
	uploads, err := d.images.Uploads(ctx) // those that no record names go, however young
	if err != nil {
		return err
	}
	awaited := map[string]bool{}
	unexplained := 0
	err = d.store.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Images()
		if err != nil {
			return err
		}
		for _, i := range all {
			digests[imagestore.Digest(i.Digest)] = true
			awaited[i.Upload] = true
		}
		for _, k := range keys {
			ever, lives, err := tx.CapsuleWas(k)
			if err != nil {
				return err
			}
			if !ever {
				unexplained++
			}
			keep[k] = lives || !ever // what cannot be explained is data that someone may miss
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.metrics.unexplained.WithLabelValues("directory").Set(float64(unexplained))
	for _, u := range uploads {
		if !awaited[string(u.ID)] {
			err = errors.Join(err, d.images.AbortUpload(ctx, u.ID))
		}
	}
	removed, swept := d.images.Sweep(ctx, digests, keep)
	err = errors.Join(err, swept)
	for _, r := range removed {
		d.log.LogAttrs(ctx, slog.LevelInfo, "swept", slog.String("what", r))
	}
	return err
}
