package daemontest

import (
	"cmp"
	"context"
	"slices"

	"github.com/capsuled/capsuled/daemon"
)

// FindImages is the verb.
func (d *Images) FindImages(ctx context.Context, c daemon.Caller, q daemon.ImageQuery) (daemon.ImagePage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.enter(ctx, c, "FindImages"); err != nil {
		return daemon.ImagePage{}, err
	}
	if q.Limit < 0 || q.MinDiskGB != nil && *q.MinDiskGB < 0 || q.SizeMin != nil && *q.SizeMin < 0 {
		d.T.Errorf("FindImages of %+v", q)
	}
	var marker *kept
	if q.Marker != "" {
		if marker = d.images[q.Marker]; marker == nil || !sees(c, marker.Image) {
			return daemon.ImagePage{}, no(daemon.Invalid, "marker %q is no image", q.Marker)
		}
	}
	if q.Nothing {
		return daemon.ImagePage{}, nil
	}
	var all []daemon.Image
	for _, k := range d.images {
		if lists(c, q, k.Image) {
			all = append(all, k.Image)
		}
	}
	compare := orders[q.Sort]
	if compare == nil {
		d.T.Errorf("FindImages sorted by %q", q.Sort)
		compare = orders[""]
	}
	order := func(a, b daemon.Image) int {
		n := cmp.Or(compare(a, b), cmp.Compare(a.ID, b.ID))
		if !q.Ascending {
			n = -n
		}
		return n
	}
	slices.SortFunc(all, order)
	if marker != nil {
		all = slices.DeleteFunc(all, func(i daemon.Image) bool { return order(i, marker.Image) <= 0 })
	}
	page := daemon.ImagePage{More: q.Limit > 0 && len(all) > q.Limit}
	for n := range all {
		if n == q.Limit && page.More {
			break
		}
		page.Images = append(page.Images, &all[n])
	}
	return page, nil
}

var orders = map[daemon.ImageSort]func(a, b daemon.Image) int{
	"":               func(a, b daemon.Image) int { return a.CreatedAt.Compare(b.CreatedAt) },
	daemon.ByCreated: func(a, b daemon.Image) int { return a.CreatedAt.Compare(b.CreatedAt) },
	daemon.ByUpdated: func(a, b daemon.Image) int { return a.UpdatedAt.Compare(b.UpdatedAt) },
	daemon.ByName:    func(a, b daemon.Image) int { return cmp.Compare(a.Name, b.Name) },
	daemon.ByID:      func(a, b daemon.Image) int { return 0 },
	daemon.BySize:    func(a, b daemon.Image) int { return cmp.Compare(a.FileBytes, b.FileBytes) },
	daemon.ByState:   func(a, b daemon.Image) int { return cmp.Compare(a.State, b.State) },
}

// open says that an image is in the list of everybody.
func open(q daemon.ImageQuery, i daemon.Image) bool {
	return i.Visibility == daemon.Public || i.Visibility == daemon.Community && q.Visibility == daemon.Community
}

func lists(c daemon.Caller, q daemon.ImageQuery, i daemon.Image) bool {
	if i.Owner != c.GUID && (q.Own || !c.HasRole(daemon.RoleAdmin) && (!open(q, i) || failed(i))) {
		return false
	}
	states := q.States
	if len(states) == 0 && q.ChangedSince.IsZero() {
		states = []daemon.ImageState{daemon.ImageActive, daemon.ImagePending}
	}
	if len(states) > 0 && !slices.Contains(states, i.State) {
		return false
	}
	for key, value := range q.Metadata {
		if got, ok := i.Metadata[key]; !ok || got != value {
			return false
		}
	}
	for _, wrong := range []bool{
		q.Name != nil && i.Name != *q.Name,
		q.Owner != "" && i.Owner != q.Owner,
		q.Visibility != "" && i.Visibility != q.Visibility,
		q.Arrived != nil && i.State == daemon.ImagePending && i.Arrived != *q.Arrived,
		i.UpdatedAt.Before(q.ChangedSince),
		q.SourceCapsule != "" && i.SourceCapsule != q.SourceCapsule,
		q.MinRAMMB != nil && i.MinRAMMB != *q.MinRAMMB,
		q.MinDiskGB != nil && i.MinDiskGB != *q.MinDiskGB,
		q.SizeMin != nil && i.FileBytes < *q.SizeMin,
		q.SizeMax != nil && i.FileBytes > *q.SizeMax,
		q.Format != "" && i.Format != q.Format,
		q.Protected != nil && i.Protected != *q.Protected,
	} {
		if wrong {
			return false
		}
	}
	return true
}
