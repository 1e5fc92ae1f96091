package daemon

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// FindImages lists the images that a query asks for and that the caller may list. The order is total: what is equal in
// the field that is sorted by goes by the time of creation and then by id, in the same direction. It reads no more of
// the catalog than the page needs, but for sorts by other fields than the time of creation.
func (d *Daemon) FindImages(ctx context.Context, c Caller, q ImageQuery) (ImagePage, error) {
	if c.GUID == "" {
		return ImagePage{}, errorf(Unauthorized, "who asks is not known")
	}
	by, known := imageOrders[cmp.Or(q.Sort, ByCreated)]
	if !known {
		return ImagePage{}, errorf(Invalid, "images cannot be sorted by %q: created_at, updated_at, name, id, size and status are possible", clip(string(q.Sort)))
	}
	if q.Limit < 0 {
		return ImagePage{}, errorf(Invalid, "limit is %d: it must not be negative", q.Limit)
	}
	s, err := d.catalog.read(ctx)
	if err != nil {
		return ImagePage{}, err
	}
	f := newFilter(c, q, time.Now())
	marker, err := f.marker(s)
	if err != nil || q.Nothing {
		return ImagePage{}, err
	}
	list, from, step := s.list, -1, 1 // from is where the page goes on: at the marker, or just before what comes after it
	if by == nil && q.Ascending {
		from, step = len(list), -1
	}
	switch {
	case by != nil:
		order := func(a, b *Image) int {
			n := cmp.Or(by(a, b), -newestFirst(a, b))
			if !q.Ascending {
				n = -n
			}
			return n
		}
		list = f.all(s.list)
		slices.SortFunc(list, order)
		if marker != nil {
			at, there := slices.BinarySearchFunc(list, marker, order)
			if from = at; !there {
				from--
			}
		}
	case marker != nil:
		from = s.place(marker)
	}
	page := ImagePage{Images: make([]*Image, 0, min(cmp.Or(q.Limit, len(list)), len(list)))}
	for at := from + step; at >= 0 && at < len(list); at += step {
		i := list[at]
		if by == nil && !f.takes(i) {
			continue
		}
		if q.Limit > 0 && len(page.Images) == q.Limit {
			page.More = true
			break
		}
		page.Images = append(page.Images, i)
	}
	return page, nil
}

// marker is the image that a list goes on after; nil for a list from its beginning. It need not be in the list: whoever pages
// deletes images, or changes what was asked for. A tombstone that is not goes by what it was listed by while it lived.
func (f *filter) marker(s *snapshot) (*Image, error) {
	if f.q.Marker == "" {
		return nil, nil
	}
	m := s.byID[f.q.Marker]
	if m == nil || !sees(f.caller, m) || gone(m, f.now) {
		return nil, errorf(Invalid, "marker %q is no image: it must be the id of the one that the list goes on after", clip(f.q.Marker))
	}
	if !m.DeletedAt.IsZero() && !f.takes(m) {
		alive := *m
		alive.Name, alive.FileBytes = m.formerName, m.formerBytes
		m = &alive
	}
	return m, nil
}

// imageOrders compare by the field of a sort, ascending. The catalog has the order of nil already.
var imageOrders = map[ImageSort]func(a, b *Image) int{
	ByCreated: nil,
	ByUpdated: func(a, b *Image) int { return a.UpdatedAt.Compare(b.UpdatedAt) },
	ByName:    func(a, b *Image) int { return cmp.Compare(a.Name, b.Name) },
	ByID:      func(a, b *Image) int { return cmp.Compare(a.ID, b.ID) },
	BySize:    func(a, b *Image) int { return cmp.Compare(a.FileBytes, b.FileBytes) },
	ByState:   func(a, b *Image) int { return cmp.Compare(a.State, b.State) },
}

// filter is a query of one caller at one moment.
type filter struct {
	caller Caller
	admin  bool
	q      ImageQuery
	now    time.Time
	states []ImageState // none means every state

	metadata [][2]string // keys and values: a map is slow to walk for every image
}

func newFilter(c Caller, q ImageQuery, now time.Time) *filter {
	f := &filter{caller: c, admin: c.admin(), q: q, now: now, states: q.States}
	if len(q.States) == 0 && q.ChangedSince.IsZero() {
		f.states = []ImageState{ImageActive, ImagePending}
	}
	for key, value := range q.Metadata {
		f.metadata = append(f.metadata, [2]string{key, value})
	}
	return f
}

func (f *filter) all(list []*Image) []*Image {
	var out []*Image
	for _, i := range list {
		if f.takes(i) {
			out = append(out, i)
		}
	}
	return out
}

// takes says whether an image is in the list. What is cheap and decides most comes first.
func (f *filter) takes(i *Image) bool {
	q := &f.q
	own := i.Owner == f.caller.GUID
	switch {
	case len(f.states) > 0 && !slices.Contains(f.states, i.State),
		!f.admin && !own && !f.open(i),
		q.Own && !own,
		q.Name != nil && i.Name != *q.Name,
		q.Owner != "" && i.Owner != q.Owner,
		q.Visibility != "" && i.Visibility != q.Visibility,
		q.Arrived != nil && i.State == ImagePending && i.Arrived != *q.Arrived,
		!q.ChangedSince.IsZero() && i.UpdatedAt.Before(q.ChangedSince),
		q.SourceCapsule != "" && i.SourceCapsule != q.SourceCapsule,
		q.MinRAMMB != nil && i.MinRAMMB != *q.MinRAMMB,
		q.MinDiskGB != nil && i.MinDiskGB != *q.MinDiskGB,
		q.SizeMin != nil && i.FileBytes < *q.SizeMin,
		q.SizeMax != nil && i.FileBytes > *q.SizeMax,
		q.Format != "" && i.Format != q.Format,
		q.Protected != nil && i.Protected != *q.Protected,
		gone(i, f.now):
		return false
	}
	for _, want := range f.metadata {
		if got, ok := i.Metadata[want[0]]; !ok || got != want[1] {
			return false
		}
	}
	return true
}

// open says that an image is in the list of everybody. A community image is where such are asked for: who asks for nothing
// in particular is not to find what anybody puts there.
func (f *filter) open(i *Image) bool {
	return (i.Visibility == Public || i.Visibility == Community && f.q.Visibility == Community) && !failed(i)
}

// Images lists the images that live and that the caller may list, oldest first.
func (d *Daemon) Images(ctx context.Context, c Caller) ([]Image, error) {
	page, err := d.FindImages(ctx, c, ImageQuery{States: []ImageState{ImagePending, ImageActive, ImageDeletePending}, Ascending: true})
	all := make([]Image, len(page.Images))
	for n, i := range page.Images {
		all[n] = *i
	}
	return all, err
}

// Image reads one image, also one that is on its way out, and a tombstone for as long as these are kept.
func (d *Daemon) Image(ctx context.Context, c Caller, id string) (Image, error) {
	if c.GUID == "" {
		return Image{}, errorf(Unauthorized, "who asks is not known")
	}
	s, err := d.catalog.read(ctx)
	if err != nil {
		return Image{}, err
	}
	i := s.byID[id]
	if i == nil || !sees(c, i) || gone(i, time.Now()) {
		return Image{}, errorf(NotFound, "no image %s", clip(id))
	}
	return *i, nil
}

// sees says who may know an image by its id (images contract, section 7).
func sees(c Caller, i *Image) bool {
	if c.admin() {
		return true
	}
	return c.GUID != "" && (i.Owner == c.GUID || i.Visibility != Private && !failed(i))
}

// failed says that the bytes of an image never came. It is its owner's alone, also once it is deleted: nobody else is to
// know why.
func failed(i *Image) bool { return i.State == ImageError || i.Cause != "" }
