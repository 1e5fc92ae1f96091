package imagestore

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The kinds of things that a sweep finds, as the metric has them.
const (
	kindImage   = "image"
	kindClone   = "clone"
	kindPartial = "partial"
)

// sweeper collects what one sweep did.
type sweeper struct {
	*Store
	removed []string
	failed  map[string]int // by kind
	errs    []error
}

// note records the fate of one orphan.
func (w *sweeper) note(kind, name string, err error) {
	if err != nil {
		w.failed[kind]++
		w.errs = append(w.errs, err)
		return
	}
	w.removed = append(w.removed, name)
}

// Sweep removes what no record names: images that are not in images, clone directories whose key is not in
// keys, and everything half-made or half-erased that a crash left. It returns what it removed, as sorted paths
// below the state directory. It follows no symbolic link, leaves files alone whose names are not the store's,
// goes on after an error and joins what it met.
//
// Uploads of this boot of the machine wait a day for their next piece; then they go too.
//
// Imports and clones under way are left alone, but one that has just ended without a record is an orphan like
// any other: the caller runs it at start, or when no such work of its own is between the bytes and the record.
func (s *Store) Sweep(ctx context.Context, images map[Digest]bool, keys map[string]bool) ([]string, error) {
	w := &sweeper{Store: s, failed: map[string]int{}}
	w.sweepIncoming(ctx)
	w.sweepTemplates(ctx)
	w.sweepImages(ctx, images)
	w.sweepCapsules(ctx, keys)
	for _, d := range []*directory{s.incoming, s.images, s.templates, s.capsules} {
		w.errs = append(w.errs, d.sync())
	}
	for _, kind := range []string{kindImage, kindClone, kindPartial} {
		s.metrics.orphans.WithLabelValues(kind).Set(float64(w.failed[kind]))
	}
	slices.Sort(w.removed)
	if len(w.removed) > 0 {
		s.opt.Log.LogAttrs(ctx, slog.LevelInfo, "sweep removed orphans", slog.Any("paths", w.removed))
	}
	s.measure()
	if err := errors.Join(append(w.errs, ctx.Err())...); err != nil {
		return w.removed, failed("sweep", s.opt.Dir, err)
	}
	return w.removed, nil
}

// each calls do for every entry of a room, until ctx ends.
func (w *sweeper) each(ctx context.Context, d *directory, do func(name string)) {
	names, err := d.names()
	w.errs = append(w.errs, err)
	for _, name := range names {
		if ctx.Err() != nil {
			return // reported once, by Sweep
		}
		do(name)
	}
}

// sweepIncoming empties the place of imports, but for those of this process, and for uploads that wait for more.
func (w *sweeper) sweepIncoming(ctx context.Context) {
	w.each(ctx, w.incoming, func(name string) {
		w.mu.Lock()
		defer w.mu.Unlock() // so that no import begins under this name between the look and the removal
		if !w.live[name] && !w.waits(name) {
			w.note(kindPartial, "images/incoming/"+name, w.incoming.removeAll(name))
		}
	})
}

// waits says whether a name in incoming is that of an upload of this boot to which something came lately.
func (w *sweeper) waits(name string) bool {
	u, ok := parseUploadName(name, w.boot)
	if !ok {
		return false
	}
	st, err := w.incoming.stat(name)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && time.Since(time.Unix(st.Mtim.Unix())) < uploadAge {
		return true
	}
	delete(w.uploads, u.ID) // the caller holds mu
	return false
}

func (w *sweeper) sweepTemplates(ctx context.Context) {
	w.prepare.Lock()
	defer w.prepare.Unlock()
	w.each(ctx, w.templates, func(name string) {
		if strings.HasPrefix(name, partialPrefix) {
			w.note(kindPartial, "templates/"+name, w.templates.removeAll(name))
		}
	})
}

func (w *sweeper) sweepImages(ctx context.Context, keep map[Digest]bool) {
	w.each(ctx, w.images, func(name string) {
		if d, ok := parseImageName(name); ok && !keep[d] {
			w.note(kindImage, "images/"+name, w.images.removeAll(name))
		}
	})
}

func (w *sweeper) sweepCapsules(ctx context.Context, keep map[string]bool) {
	w.each(ctx, w.capsules, func(name string) {
		erasing, isErasing := strings.CutPrefix(name, erasingPrefix)
		switch {
		case strings.HasPrefix(name, partialPrefix):
			w.note(kindPartial, "capsules/"+name, w.capsules.removeAll(name))
		case isErasing && checkKey(erasing) == nil:
			defer w.keys.lock(erasing)()
			w.note(kindPartial, "capsules/"+name, w.destroy(name))
		case checkKey(name) != nil: // not ours
		case !keep[name]:
			defer w.keys.lock(name)()
			w.note(kindClone, "capsules/"+name, w.erase(name))
		default:
			w.sweepClone(ctx, name)
		}
	})
}

// sweepClone removes what is half-made in a directory that stays.
func (w *sweeper) sweepClone(ctx context.Context, key string) {
	defer w.keys.lock(key)()
	dir, err := w.capsules.at(key)
	if err != nil {
		w.note(kindClone, "", err)
		return
	}
	defer dir.close()
	w.each(ctx, dir, func(name string) {
		if strings.HasPrefix(name, partialPrefix) {
			w.note(kindPartial, "capsules/"+key+"/"+name, dir.removeAll(name))
		}
	})
}
