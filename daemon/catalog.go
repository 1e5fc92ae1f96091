package daemon

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// tombstonesKept is how long an image can be looked up that is deleted or never came (images contract, section 3), and
// MaxTombstones how many of one owner: what costs no quota must not fill the memory.
const (
	tombstonesKept = 30 * 24 * time.Hour
	MaxTombstones  = 1000
)

// catalog is what the records say of images, in memory: lists of ten thousand are asked for more often than they change.
// The records stay the truth. Each read asks whether they have been written to since, and if so how far they have gone on;
// nothing has to tell the catalog.
type catalog struct {
	store *store.DB
	now   atomic.Pointer[snapshot]
	mu    sync.Mutex // one at a time brings it up to date
}

// snapshot is the catalog at one version of the records. It never changes.
type snapshot struct {
	version int64
	writes  int64    // of the records, before it was read
	list    []*Image // newest first: by the time of creation and by id, both descending
	byID    map[string]*Image
}

// read is a snapshot that has every change that was on the disk when it was called.
func (k *catalog) read(ctx context.Context) (*snapshot, error) {
	writes := k.store.Writes()
	if s := k.now.Load(); s != nil && s.writes >= writes {
		return s, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.now.Load()
	if s == nil {
		s = &snapshot{}
	} else if s.writes >= writes { // somebody else did it meanwhile
		return s, nil
	}
	version, err := k.store.ImageVersion(ctx)
	if err != nil {
		return nil, classify(err)
	}
	if s.version >= version && version > 0 { // something else was written
		same := *s
		same.writes = writes
		k.now.Store(&same)
		return &same, nil
	}
	oldest := time.Now().Add(-tombstonesKept)
	after := oldest
	if s.version > 0 { // what is in the catalog may have gone long ago, if nobody has asked since
		after = time.Unix(0, 0)
	}
	var changed []store.Image
	if err := k.store.View(ctx, func(tx *store.Tx) (err error) {
		changed, err = tx.ImagesChanged(s.version, after)
		return err
	}); err != nil {
		return nil, classify(err)
	}
	s = s.with(changed, max(version, s.version), oldest)
	s.writes = writes
	k.now.Store(s)
	return s, nil
}

// with is a snapshot with the records that have changed in it, and without the tombstones from before a time and those that
// are more than MaxTombstones of one owner.
func (s *snapshot) with(changed []store.Image, version int64, oldest time.Time) *snapshot {
	next := &snapshot{version: version, byID: make(map[string]*Image, len(s.byID)+len(changed))}
	maps.Copy(next.byID, s.byID)
	var fresh []*Image
	for _, r := range changed {
		next.version = max(next.version, r.Version)
		i, known := publicImage(r), next.byID[r.ID] != nil
		i.derived = &sync.Map{}
		if !known && !r.DeletedAt.IsZero() && r.DeletedAt.Before(oldest) {
			continue
		}
		if !known {
			fresh = append(fresh, &i)
		}
		next.byID[r.ID] = &i
	}
	slices.SortFunc(fresh, newestFirst)
	next.list = make([]*Image, 0, len(s.list)+len(fresh))
	tombstones := map[string]int{}
	add := func(i *Image) {
		if !i.DeletedAt.IsZero() {
			if tombstones[i.Owner]++; tombstones[i.Owner] > MaxTombstones || i.DeletedAt.Before(oldest) {
				delete(next.byID, i.ID)
				return
			}
		}
		next.list = append(next.list, i)
	}
	for _, old := range s.list { // both are sorted, and the time of creation never changes
		for len(fresh) > 0 && newestFirst(fresh[0], old) < 0 {
			add(fresh[0])
			fresh = fresh[1:]
		}
		add(next.byID[old.ID])
	}
	for _, i := range fresh {
		add(i)
	}
	return next
}

// newestFirst is the order of lists for who asks for none (images contract, section 4.2). It is total.
func newestFirst(a, b *Image) int {
	if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
		return c
	}
	return cmp.Compare(b.ID, a.ID)
}

// place is where an image stands in the list.
func (s *snapshot) place(i *Image) int {
	at, _ := slices.BinarySearchFunc(s.list, i, newestFirst)
	return at
}

// gone says that a tombstone is kept no longer.
func gone(i *Image, now time.Time) bool {
	return !i.DeletedAt.IsZero() && now.Sub(i.DeletedAt) > tombstonesKept
}

// publicImage is a record as those see it who may. A tombstone has neither bytes nor a name, though the row still knows
// them for the capsules that were made from it.
func publicImage(r store.Image) Image {
	i := Image{
		ID: r.ID, Name: r.Name, Description: r.Description, State: r.State, Cause: r.Cause, Visibility: r.Visibility, Protected: r.Protected, Owner: r.Owner,
		Digest: r.Digest, Format: cmp.Or(r.Format, r.AskedFormat), FileBytes: r.FileBytes, VirtualBytes: r.VirtualBytes, Arrived: r.Arrived,
		MinDiskGB: r.MinDiskGB, MinRAMMB: r.MinRAMMB, Metadata: r.Metadata, SourceCapsule: r.SourceCapsule,
		LoginUser: r.LoginUser, LoginPassword: r.LoginPassword, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, DeletedAt: r.DeletedAt,
	}
	if i.Metadata == nil {
		i.Metadata = map[string]string{}
	}
	if !r.DeletedAt.IsZero() {
		i.formerName, i.formerBytes = i.Name, i.FileBytes
		i.Name, i.Digest, i.FileBytes, i.VirtualBytes, i.Arrived = "", "", 0, 0, false
	}
	return i
}
