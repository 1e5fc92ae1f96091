package daemon

import (
	"sync"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// ImageState is an image's state, as in the capsule contract (section 7).
type ImageState = store.ImageState

const (
	ImagePending       ImageState = "SHARE_PENDING" // its bytes are awaited, on the way, or not yet on every host
	ImageActive        ImageState = "ACTIVE"
	ImageDeletePending ImageState = "DELETE_PENDING" // nobody may use it any more; its bytes go when nothing needs them
	ImageDeleted       ImageState = "DELETED"        // a tombstone: no bytes, no name
	ImageError         ImageState = "ERROR"          // a tombstone that says why its bytes never came
)

// Visibility says who beside its owner and the administrators may see and use an image.
type Visibility = store.Visibility

const (
	Private   Visibility = "private"   // nobody
	Public    Visibility = "public"    // everybody
	Shared    Visibility = "shared"    // who knows its id; it is in no list of others
	Community Visibility = "community" // who knows its id, or asks for the list of such
)

// NewImage asks for an image. Its bytes come from the file Path of this host (a local caller alone may name one), from
// URL (which the operator's rules must allow), or, when neither is given, by AppendImage and FinishImage.
type NewImage struct {
	ID            string // a UUID of the caller's choice; "" makes one
	Name          string // "" for none; the names of images that live differ
	Description   string
	Visibility    Visibility // "" is Private; Public is for administrators
	Protected     bool
	MinDiskGB     int
	MinRAMMB      int
	Format        string // what the bytes must be, "raw" or "qcow2"; "" takes either
	Digest        string // what the bytes must be, "sha256:" and 64 hex digits; "" takes what comes
	Bytes         int64  // how many will come; -1 when that is not known. For what is appended alone
	Metadata      map[string]string
	LoginUser     string // the image's first login, shown to those who use it
	LoginPassword string

	Path string // absolute path of a regular file
	URL  string
}

// ImageChange is what SetImage changes; nil fields stay as they are.
type ImageChange struct {
	Name          *string
	Description   *string
	Visibility    *Visibility
	Protected     *bool
	MinDiskGB     *int
	MinRAMMB      *int
	LoginUser     *string
	LoginPassword *string

	SetMetadata     map[string]string // added, or written over
	RemoveMetadata  []string
	ReplaceMetadata bool // SetMetadata is all that there is afterwards
	MustRemove      bool // a key of RemoveMetadata that is not there is NotFound; otherwise it is ignored
}

// Bounds of an image's metadata. Lengths are counted in code points but for MaxMetadataValue.
const (
	MaxMetadataItems = 128   // images contract, section 7: more is OverQuota
	MaxMetadataKey   = 255   // code points
	MaxMetadataValue = 65535 // bytes; dialects allow less
	// MaxMetadataBytes is what all keys and values of one image may have together, in bytes: more is OverQuota. Each change
	// of an image writes all of them within the one transaction that writes, and they are in memory, in the text of every
	// dialect that shows them too. What Nova's and Synnefo's own bounds allow fits: 128 items of 255 and 256 characters of
	// four bytes have 261,632.
	MaxMetadataBytes = 256 << 10

	MaxImageMinDisk = 2048    // GiB; the image store makes no bigger disk
	MaxImageMinRAM  = 1 << 30 // MiB
)

// Image is an image as a caller may see it.
type Image struct {
	ID            string
	Name          string // "" when it has none
	Description   string
	State         ImageState
	Cause         string // why its bytes never came: of an ERROR, and of one that was deleted since
	Visibility    Visibility
	Protected     bool
	Owner         string // guid
	Digest        string // "sha256:..."; "" until its bytes are there
	Format        string // "raw" or "qcow2"; until its bytes are there, what was asked for, or ""
	FileBytes     int64  // 0 until its bytes are there
	VirtualBytes  int64
	Arrived       bool // some of its bytes are there: tells "saving" from "queued" while it is SHARE_PENDING
	MinDiskGB     int
	MinRAMMB      int
	Metadata      map[string]string // never nil; not to be written to
	SourceCapsule string            // the capsule that it was shared from; "" for none
	LoginUser     string
	LoginPassword string
	CreatedAt     time.Time // microseconds
	UpdatedAt     time.Time // never goes backwards
	DeletedAt     time.Time // of a tombstone; else zero

	formerName  string // of a tombstone, while it lived
	formerBytes int64

	derived *sync.Map // of an image of the catalog, which never changes: what was made of it; else nil
}

// Derived is what is made of an image, such as its text in some dialect, and kept for as long as the catalog has the image
// as it is. The key is a type of the caller's own.
func (i *Image) Derived(key any, of func(*Image) any) any {
	if i.derived == nil {
		return of(i)
	}
	v, ok := i.derived.Load(key)
	if !ok {
		v, _ = i.derived.LoadOrStore(key, of(i))
	}
	return v
}

// ImageSort names a field that a list of images is sorted by.
type ImageSort string

const (
	ByCreated ImageSort = "created_at" // the zero value means this, descending, then by id, descending
	ByUpdated ImageSort = "updated_at"
	ByName    ImageSort = "name"
	ByID      ImageSort = "id"
	BySize    ImageSort = "size"
	ByState   ImageSort = "status"
)

// ImageQuery narrows a list of images. Zero fields match everything that the caller may list: what is ACTIVE or
// SHARE_PENDING and public, or the caller's own; for an administrator everybody's. Visibility Community lists those of
// others too.
type ImageQuery struct {
	Name          *string
	Owner         string
	Visibility    Visibility
	States        []ImageState // empty means ACTIVE and SHARE_PENDING; naming others lists them too, tombstones for as long as they are kept
	Arrived       *bool        // with SHARE_PENDING
	ChangedSince  time.Time    // updated at or after, with every state if States is empty
	SourceCapsule string
	Metadata      map[string]string // each of them equal
	MinRAMMB      *int              // equal
	MinDiskGB     *int              // equal
	SizeMin       *int64            // bytes of the file
	SizeMax       *int64
	Format        string
	Protected     *bool
	Own           bool // the caller's own alone

	Sort      ImageSort
	Ascending bool
	Marker    string // id of an image that the caller may know: what comes after where it stands, or would stand; Invalid for any other
	Limit     int    // 0 for no limit
	Nothing   bool   // nothing matches; the marker is looked at all the same
}

// ImagePage is a part of a list of images. They are those of the catalog, for everybody who asks: nobody writes to them.
type ImagePage struct {
	Images []*Image
	More   bool // there are more after these
}

// NewShare asks for an image of a capsule's disk.
type NewShare struct {
	Capsule     string
	Name        string
	Description string
	Public      bool
}

// ImageUpload is how far the bytes of an image have come that are appended.
type ImageUpload struct {
	Received int64
	Bytes    int64 // how many were announced; -1 when that is not known
}

// ImageWaste is what a collection of garbage removed, or would remove: an image in DELETE_PENDING, or one whose bytes never came.
type ImageWaste struct {
	ID     string
	Name   string
	Digest string
	Bytes  int64  // that the disk has back; 0 while something else has the same bytes
	Kept   string // why it stays; "" when it goes
}
