package nova_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/daemon/daemontest"
)

// The images that every fake has, by what is particular about them.
const (
	active    = "70a599e0-31e7-49b7-b260-868f441e862b" // alice's, with four items
	queued    = "00000000-0000-4000-8000-000000000001"
	copying   = "00000000-0000-4000-8000-000000000002"
	leaving   = "00000000-0000-4000-8000-000000000003" // DELETE_PENDING
	tombstone = "00000000-0000-4000-8000-000000000004"
	failed    = "00000000-0000-4000-8000-000000000005"
	guarded   = "00000000-0000-4000-8000-000000000006" // protected
	public    = "00000000-0000-4000-8000-000000000007" // bob's
	hidden    = "00000000-0000-4000-8000-000000000008" // bob's, private
	full      = "00000000-0000-4000-8000-000000000009" // has 128 items
	unknown   = "00000000-0000-4000-8000-00000000000a" // there is none
	capsule   = "11111111-1111-4111-8111-111111111111"
)

var epoch = time.Date(2011, 1, 1, 1, 2, 3, 500000000, time.UTC)

// fake is a daemon that knows images alone. It keeps to what the verbs promise, and is strict about what it is asked.
type fake struct {
	t      *testing.T
	mu     sync.Mutex // guards what follows
	images map[string]*daemon.Image
	asked  []daemon.ImageQuery
	fail   error // what every verb answers, when set
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, images: map[string]*daemon.Image{}}
	f.add(daemon.Image{ID: active, Name: "fakeimage7", FileBytes: 74185822, Metadata: map[string]string{
		"architecture": "x86_64", "auto_disk_config": "True", "kernel_id": "nokernel", "ramdisk_id": "nokernel"}})
	f.add(daemon.Image{ID: queued, State: daemon.ImagePending})
	f.add(daemon.Image{ID: copying, State: daemon.ImagePending, Arrived: true, Name: "copying"})
	f.add(daemon.Image{ID: leaving, State: daemon.ImageDeletePending, Name: "leaving"})
	f.add(daemon.Image{ID: tombstone, State: daemon.ImageDeleted})
	f.add(daemon.Image{ID: failed, State: daemon.ImageError, Cause: "cut"})
	f.add(daemon.Image{ID: guarded, Name: "guarded", Protected: true, SourceCapsule: capsule, MinRAMMB: 512, MinDiskGB: 10,
		Metadata: map[string]string{"image_type": "snapshot", "auto_disk_config": "no"}})
	f.add(daemon.Image{ID: public, Name: "public", Owner: "bob", Visibility: daemon.Public})
	f.add(daemon.Image{ID: hidden, Name: "hidden", Owner: "bob"})
	items := map[string]string{}
	for i := range daemon.MaxMetadataItems {
		items[fmt.Sprintf("key%03d", i)] = "v"
	}
	f.add(daemon.Image{ID: full, Name: "full", Metadata: items})
	return f
}

func (f *fake) add(img daemon.Image) {
	if img.State == "" {
		img.State = daemon.ImageActive
	}
	if img.Owner == "" {
		img.Owner = "alice"
	}
	if img.Visibility == "" {
		img.Visibility = daemon.Private
	}
	if img.Metadata == nil {
		img.Metadata = map[string]string{}
	}
	if img.CreatedAt.IsZero() {
		img.CreatedAt, img.UpdatedAt = epoch, epoch
	}
	f.images[img.ID] = &img
}

func (f *fake) enter(ctx context.Context, c daemon.Caller) error {
	if c.GUID == "" || ctx == nil {
		f.t.Error("a verb was called without a caller")
	}
	return f.fail
}

func no(code daemon.Code, message string) error { return &daemon.Error{Code: code, Message: message} }

func gone(img *daemon.Image) error {
	if img.State == daemon.ImageDeleted {
		return &daemon.Error{Code: daemon.Gone, Message: "it is deleted", Err: daemon.ErrPurged}
	}
	return no(daemon.Gone, "it is on its way out")
}

func (f *fake) find(c daemon.Caller, id string) (*daemon.Image, error) {
	img := f.images[id]
	if img == nil || img.Owner != c.GUID && img.Visibility == daemon.Private {
		return nil, no(daemon.NotFound, "no such image")
	}
	return img, nil
}

func (f *fake) Image(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter(ctx, c); err != nil {
		return daemon.Image{}, err
	}
	img, err := f.find(c, id)
	if err != nil {
		return daemon.Image{}, err
	}
	return *img, nil
}

func (f *fake) FindImages(ctx context.Context, c daemon.Caller, q daemon.ImageQuery) (daemon.ImagePage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, q)
	if err := f.enter(ctx, c); err != nil {
		return daemon.ImagePage{}, err
	}
	states := q.States
	if states == nil && q.ChangedSince.IsZero() {
		states = []daemon.ImageState{daemon.ImageActive, daemon.ImagePending}
	}
	var all []daemon.Image
	for _, img := range f.images {
		if img.Owner == c.GUID || img.Visibility == daemon.Public {
			all = append(all, *img)
		}
	}
	slices.SortFunc(all, func(a, b daemon.Image) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(b.ID, a.ID))
	})
	var page daemon.ImagePage
	passed := q.Marker == ""
	for _, img := range all {
		fits := !q.Nothing && (states == nil || slices.Contains(states, img.State)) && (q.Name == nil || *q.Name == img.Name) &&
			!img.UpdatedAt.Before(q.ChangedSince) && (q.SourceCapsule == "" || q.SourceCapsule == img.SourceCapsule) &&
			(q.MinRAMMB == nil || *q.MinRAMMB == img.MinRAMMB) && (q.MinDiskGB == nil || *q.MinDiskGB == img.MinDiskGB)
		for k, v := range q.Metadata {
			has, ok := img.Metadata[k]
			fits = fits && ok && has == v
		}
		switch {
		case !passed:
			passed = img.ID == q.Marker
		case fits && q.Limit > 0 && len(page.Images) == q.Limit:
			page.More = true
		case fits:
			page.Images = append(page.Images, &img)
		}
	}
	if !passed {
		return daemon.ImagePage{}, no(daemon.Invalid, "the marker is not in the list")
	}
	return page, nil
}

func (f *fake) SetImage(ctx context.Context, c daemon.Caller, id string, ch daemon.ImageChange) (daemon.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter(ctx, c); err != nil {
		return daemon.Image{}, err
	}
	img, err := f.find(c, id)
	switch {
	case err != nil:
		return daemon.Image{}, err
	case img.Owner != c.GUID:
		return daemon.Image{}, no(daemon.Forbidden, "only its owner may")
	case img.State == daemon.ImagePending:
		return daemon.Image{}, no(daemon.Conflict, "its bytes are awaited")
	case img.State != daemon.ImageActive:
		return daemon.Image{}, gone(img)
	}
	items := maps.Clone(img.Metadata)
	if ch.ReplaceMetadata {
		items = map[string]string{}
	}
	maps.Copy(items, ch.SetMetadata)
	for _, key := range ch.RemoveMetadata {
		if _, ok := items[key]; !ok && ch.MustRemove {
			return daemon.Image{}, no(daemon.NotFound, "no such item")
		}
		delete(items, key)
	}
	if len(items) > daemon.MaxMetadataItems {
		return daemon.Image{}, no(daemon.OverQuota, "too many items")
	}
	img.Metadata = items
	img.UpdatedAt = img.UpdatedAt.Add(time.Second)
	return *img, nil
}

func (f *fake) RequestActiveImageDelete(ctx context.Context, c daemon.Caller, id string) (daemon.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter(ctx, c); err != nil {
		return daemon.Image{}, err
	}
	img, err := f.find(c, id)
	switch {
	case err != nil:
		return daemon.Image{}, err
	case img.Owner != c.GUID:
		return daemon.Image{}, no(daemon.Forbidden, "only its owner may")
	case img.State == daemon.ImagePending:
		return daemon.Image{}, no(daemon.Conflict, "its bytes are awaited")
	case img.State == daemon.ImageError:
		img.State = daemon.ImageDeleted
	case img.State != daemon.ImageActive:
		return daemon.Image{}, gone(img)
	case img.Protected:
		return daemon.Image{}, no(daemon.Forbidden, "it is protected")
	default:
		img.State = daemon.ImageDeletePending
	}
	return *img, nil
}

// What the fake says is what a daemon says.
func TestFake(t *testing.T) {
	daemontest.RunChanges(t, func(t *testing.T, state daemon.ImageState, protected bool) (daemontest.Changes, daemon.Caller, string) {
		f := newFake(t)
		f.add(daemon.Image{ID: unknown, State: state, Protected: protected})
		return f, daemon.Caller{GUID: "alice"}, unknown
	})
}
